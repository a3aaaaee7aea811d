//! `[[route]]`: addresses that guests hold themselves, routed to them without translation.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{
    diagnostic::{Fault, Report},
    model::{
        ForwardRule, NatRule, Network, Route, SnatRule, SnatSource, SnatTarget, Uplink,
        UplinkAddresses, UplinkId,
    },
    parse::{Field, Key, Section, key, quote},
    tables::{Item, Names},
    values,
};

/// The keys of `[[route]]`.
pub(super) const KEYS: &[Key] = &[
    key("name", "\"web1\""),
    key("network", "\"br112\""),
    key("addresses", "[\"192.0.2.112/29\"]"),
    key("uplink", "\"wan\""),
    key("gateway", "\"192.0.2.10\""),
    key("proxy_arp", "true"),
    key("arp", "true"),
];

/// The kernel has an entry for each address.
const MOST_ARP_ADDRESSES: u32 = 256;

pub(super) fn read_route(
    section: &Section<'_>,
    names: &Names<'_>,
    report: &mut Report<'_>,
) -> Option<Route> {
    report.errors(section.unknown_keys());
    let network = report.keep(section.required("network", |field| names.network(field)));
    let addresses = section.required("addresses", |field| {
        values::distinct(field.required_items()?, prefix)
    });
    let addresses = report.keep(addresses);
    let uplink = report.keep(section.optional("uplink", |field| names.uplink(field)));
    let gateway = report.keep(section.optional("gateway", values::host_address));
    let proxy_arp = report.keep(section.optional("proxy_arp", |field| field.boolean()));
    let arp = report.keep(section.optional("arp", |field| field.boolean()));
    let route = Route {
        name: section.name.to_string(),
        network: network?,
        addresses: addresses?,
        uplink: uplink?.unwrap_or(UplinkId(0)),
        gateway: gateway?,
        proxy_arp: proxy_arp?.unwrap_or(false),
        arp: arp?.unwrap_or(false),
    };
    if let Some(fault) = too_many_for_arp(&route, section) {
        report.error(fault);
    }
    Some(route)
}

/// A prefix of addresses of hosts.
fn prefix(field: Field<'_>) -> Result<Ipv4Net, Fault> {
    let prefix = values::prefix(field)?;
    values::usable(field, prefix.network())?;
    if prefix.prefix_len() < 8 {
        let remedy = "write a length from 8 to 32";
        return Err(field.fault(format!("`{prefix}` is too large for a route"), remedy));
    }
    values::usable(field, prefix.broadcast())?;
    Ok(prefix)
}

fn too_many_for_arp(route: &Route, section: &Section<'_>) -> Option<Fault> {
    let sizes = route.addresses.iter();
    let sizes = sizes.map(|prefix| 1_u32 << (32 - prefix.prefix_len()));
    let count: u32 = sizes.fold(0, u32::saturating_add);
    if !route.arp || count <= MOST_ARP_ADDRESSES {
        return None;
    }
    let problem = format!(
        "answers for at most {MOST_ARP_ADDRESSES} addresses of a route, not \
        {count}"
    );
    let remedy = "have the provider route the prefix to the host, or split it into several \
        [[route]]";
    Some(section.fault("arp", &problem, remedy))
}

/// Everything else in the file that has addresses.
pub(super) struct Others<'c> {
    pub(super) uplinks: &'c [Item<'c, Uplink>],
    pub(super) networks: &'c [Item<'c, Network>],
    pub(super) snat: &'c [Item<'c, SnatRule>],
    pub(super) forwards: &'c [Item<'c, ForwardRule>],
    pub(super) nats: &'c [Item<'c, NatRule>],
}

/// Refuses addresses with two owners: each belongs to exactly one guest.
pub(super) fn check_routes(routes: &ByAddress<'_>, others: &Others<'_>, report: &mut Report<'_>) {
    report.errors(routes.overlaps());
    for network in others.networks {
        let prefix = network.value.address.trunc();
        for (routed, route) in routes.overlapping(prefix) {
            let name = quote(&network.value.name);
            let problem = format!("{routed} overlaps {prefix} of network {name}");
            let remedy = "guests use the network's own addresses without a route; write other \
                addresses";
            let fault = route.section.fault("addresses", &problem, remedy);
            report.error(fault.see(network.section.at));
        }
    }
    for route in routes.items() {
        if let Some(gateway) = route.value.gateway
            && routes.find(gateway).is_some()
        {
            let problem = format!("{gateway} is itself routed to guests");
            let remedy = "write an address of the host, such as the uplink's";
            report.error(route.section.fault("gateway", &problem, remedy));
        }
    }
    for uplink in others.uplinks {
        if let UplinkAddresses::Fixed(addresses) = &uplink.value.addresses {
            let routed = addresses
                .iter()
                .find_map(|address| routes.find(*address).map(|route| (*address, route)));
            report.errors(routed.map(|routed| taken(&uplink.section, "addresses", routed)));
        }
    }
    let nats = others.nats.iter();
    let nats = nats.map(|rule| (&rule.section, Some(rule.value.address)));
    let forwards = others.forwards.iter();
    let forwards = forwards.map(|rule| (&rule.section, rule.value.address));
    for (section, address) in nats.chain(forwards) {
        let routed = address.and_then(|address| Some((address, routes.find(address)?)));
        report.errors(routed.map(|routed| taken(section, "address", routed)));
    }
    for rule in others.snat {
        report.errors(pool_fault(rule, routes));
        if let Some(fault) = shadowed(rule, routes) {
            report.warn(fault);
        }
    }
}

/// An external address that belongs to a routed guest.
fn taken(
    section: &Section<'_>,
    key: &str,
    (address, route): (Ipv4Addr, &Item<'_, Route>),
) -> Fault {
    let name = quote(&route.value.name);
    let problem = format!("{address} belongs to the guests of route {name}");
    let remedy = "write an address that is not routed to guests, or remove it from that route";
    let fault = section.fault(key, &problem, remedy);
    fault.see(route.section.at)
}

fn pool_fault(rule: &Item<'_, SnatRule>, routes: &ByAddress<'_>) -> Option<Fault> {
    let SnatTarget::Pool { first, last } = rule.value.to else {
        return None;
    };
    let (prefix, route) = routes.first_from(first)?;
    let address = prefix.network().max(first);
    (address <= last).then(|| taken(&rule.section, "to", (address, route)))
}

/// Packets from routed addresses are never translated.
fn shadowed(rule: &Item<'_, SnatRule>, routes: &ByAddress<'_>) -> Option<Fault> {
    let SnatSource::Prefix(prefix) = rule.value.source else {
        return None;
    };
    let (routed, route) = routes.holding(prefix.network())?;
    if !routed.contains(&prefix) {
        return None;
    }
    let name = quote(&route.value.name);
    let problem = format!("can never match: route {name} leaves all its packets untranslated");
    let remedy = "remove the rule, or remove its source from that route";
    let fault = rule.section.fault("source", &problem, remedy);
    Some(fault.see(route.section.at))
}

/// The routed prefixes, for a search by address.
#[derive(Debug)]
pub(super) struct ByAddress<'r> {
    /// Sorted by their beginning, the wider one first. Those that overlap are an error anyway.
    sorted: Vec<(Ipv4Net, &'r Item<'r, Route>)>,
}

impl<'r> ByAddress<'r> {
    pub(super) fn new(routes: &'r [Item<'r, Route>]) -> Self {
        let all = routes.iter().flat_map(|route| {
            let prefixes = route.value.addresses.iter();
            prefixes.map(move |prefix| (*prefix, route))
        });
        let mut sorted: Vec<_> = all.collect();
        sorted.sort_by_key(|(prefix, route)| {
            (prefix.network(), prefix.prefix_len(), route.section.at)
        });
        Self { sorted }
    }

    fn items(&self) -> impl Iterator<Item = &'r Item<'r, Route>> {
        let mut items: Vec<_> = self.sorted.iter().map(|(_, route)| *route).collect();
        items.sort_by_key(|route| route.section.at);
        items.dedup_by_key(|route| route.section.at);
        items.into_iter()
    }

    /// The route of an address.
    pub(super) fn find(&self, address: Ipv4Addr) -> Option<&'r Item<'r, Route>> {
        self.holding(address).map(|(_, route)| route)
    }

    fn holding(&self, address: Ipv4Addr) -> Option<(Ipv4Net, &'r Item<'r, Route>)> {
        let after = (self.sorted).partition_point(|(prefix, _)| prefix.network() <= address);
        let last = self.sorted[..after].last()?;
        last.0.contains(&address).then_some(*last)
    }

    /// The first routed prefix that contains an address, or begins after it.
    fn first_from(&self, address: Ipv4Addr) -> Option<(Ipv4Net, &'r Item<'r, Route>)> {
        let before = (self.sorted).partition_point(|(prefix, _)| prefix.broadcast() < address);
        self.sorted.get(before).copied()
    }

    /// The routed prefixes that have an address in common with another prefix.
    fn overlapping(&self, with: Ipv4Net) -> impl Iterator<Item = (Ipv4Net, &'r Item<'r, Route>)> {
        let first =
            (self.sorted).partition_point(|(prefix, _)| prefix.broadcast() < with.network());
        let rest = self.sorted[first..].iter();
        rest.take_while(move |(prefix, _)| prefix.network() <= with.broadcast())
            .copied()
    }

    fn overlaps(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut widest: Option<(Ipv4Net, &Item<'_, Route>)> = None;
        for (prefix, route) in &self.sorted {
            if let Some((wider, before)) = widest.filter(|(wider, _)| wider.contains(prefix)) {
                let (first, second) = if before.section.at <= route.section.at {
                    ((wider, before), (*prefix, *route))
                } else {
                    ((*prefix, *route), (wider, before))
                };
                faults.push(overlap(first, second));
            } else {
                widest = Some((*prefix, *route));
            }
        }
        faults
    }
}

fn overlap(
    (before, first): (Ipv4Net, &Item<'_, Route>),
    (prefix, second): (Ipv4Net, &Item<'_, Route>),
) -> Fault {
    let name = quote(&first.value.name);
    let problem = format!("{prefix} overlaps {before} of route {name}");
    let remedy = "route each address once, to one network";
    let fault = second.section.fault("addresses", &problem, remedy);
    fault.see(first.section.at)
}
