//! Addresses with two owners.

use std::{fmt::Display, net::Ipv4Addr};

use super::index::{RouteIndex, Routed, Surroundings};
use crate::{
    model::{
        Family, Network, Prefix as _, Route, SnatRule, SnatSource, SnatTarget, Uplink,
        UplinkAddresses,
    },
    syntax::{Fault, Report, Section},
    tables::Item,
    text::words::quote,
};

/// Refuses addresses with two owners: each belongs to exactly one guest.
pub(super) fn check_routes<A: Family>(
    around: &Surroundings<'_, A>,
    networks: &[Item<'_, Network>],
    report: &mut Report<'_>,
) {
    let routes = &around.routes;
    check_family(routes, networks, report);
    for uplink in around.uplinks {
        report.errors(taken_by_uplink(uplink, routes));
    }
    let nats = around.nats.iter();
    let nats = nats.map(|rule| (&rule.section, Some(rule.value.address)));
    let forwards = around.forwards.iter();
    let forwards = forwards.map(|rule| (&rule.section, rule.value.address));
    for (section, address) in nats.chain(forwards) {
        let routed = address.and_then(|address| Some((address, routes.find(address)?)));
        report.errors(routed.map(|routed| taken(section, "address", routed)));
    }
    for rule in around.snat {
        report.errors(pool_fault(rule, routes));
        if let Some(fault) = shadowed(rule, routes) {
            report.warn(fault);
        }
    }
}

/// Refuses gateways that are guests' addresses.
pub(super) fn check_gateways(routes: &RouteIndex<'_, Ipv4Addr>, report: &mut Report<'_>) {
    for route in routes.items() {
        if let Some(gateway) = route.value.gateway
            && routes.find(gateway).is_some()
        {
            let problem = format!("{gateway} is itself routed to guests");
            let remedy = "write an address of the host, such as the uplink's";
            report.error(route.section.fault("gateway", &problem, remedy));
        }
    }
}

/// The routes of one family, beside each other and beside the networks' prefixes.
fn check_family<A: Family>(
    routes: &RouteIndex<'_, A>,
    networks: &[Item<'_, Network>],
    report: &mut Report<'_>,
) {
    report.errors(routes.overlaps().into_iter().map(overlap::<A>));
    let prefixes = networks.iter().flat_map(|network| {
        let own = A::of_network(&network.value).iter();
        own.map(move |own| (own.trunc(), network))
    });
    for (prefix, network) in prefixes {
        for (routed, route) in routes.overlapping(prefix) {
            let name = quote(&network.value.name);
            let problem = format!("{routed} overlaps {prefix} of network {name}");
            let remedy = "guests use the network's own addresses without a route; write other \
                addresses";
            let fault = route.section.fault("addresses", &problem, remedy);
            report.error(fault.see(network.section.at));
        }
    }
}

/// The first address of an uplink that belongs to a routed guest.
fn taken_by_uplink<A: Family>(
    uplink: &Item<'_, Uplink>,
    routes: &RouteIndex<'_, A>,
) -> Option<Fault> {
    let UplinkAddresses::Fixed(addresses) = A::of_uplink(&uplink.value) else {
        return None;
    };
    let routed = addresses
        .iter()
        .find_map(|address| routes.find(*address).map(|route| (*address, route)));
    routed.map(|routed| taken(&uplink.section, "addresses", routed))
}

/// An external address that belongs to a routed guest.
fn taken(
    section: &Section<'_>,
    key: &str,
    (address, route): (impl Display, &Item<'_, Route>),
) -> Fault {
    let name = quote(&route.value.name);
    let problem = format!("{address} belongs to the guests of route {name}");
    let remedy = "write an address that is not routed to guests, or remove it from that route";
    let fault = section.fault(key, &problem, remedy);
    fault.see(route.section.at)
}

fn pool_fault<A: Family>(
    rule: &Item<'_, SnatRule<A>>,
    routes: &RouteIndex<'_, A>,
) -> Option<Fault> {
    let SnatTarget::Pool { first, last } = rule.value.to else {
        return None;
    };
    let (prefix, route) = routes.first_from(first)?;
    let address = prefix.network().max(first);
    (address <= last).then(|| taken(&rule.section, "to", (address, route)))
}

/// Packets from routed addresses are never translated.
fn shadowed<A: Family>(rule: &Item<'_, SnatRule<A>>, routes: &RouteIndex<'_, A>) -> Option<Fault> {
    let SnatSource::Prefix(prefix) = rule.value.source else {
        return None;
    };
    let (routed, route) = routes.holding(prefix.network())?;
    if !routed.covers(&prefix) {
        return None;
    }
    let name = quote(&route.value.name);
    let problem = format!("can never match: route {name} leaves all its packets untranslated");
    let remedy = "remove the rule, or remove its source from that route";
    let fault = rule.section.fault("source", &problem, remedy);
    Some(fault.see(route.section.at))
}

fn overlap<A: Family>([(before, first), (prefix, second)]: [Routed<'_, A>; 2]) -> Fault {
    let name = quote(&first.value.name);
    let problem = format!("{prefix} overlaps {before} of route {name}");
    let remedy = "route each address once, to one network";
    let fault = second.section.fault("addresses", &problem, remedy);
    fault.see(first.section.at)
}
