//! Routes to guests that hold public addresses themselves, and ARP answers for these.

use std::net::IpAddr;

use anyhow::{Context, Result};
use ipnet::IpNet;
use nat_sys::{
    netlink::{AddressScope, Link, Netlink, RequestError, usual_metric},
    sysctl::Key,
};

use super::{
    links::{Held, Routed, named},
    plan::{Network, Plan, Route},
    problem::Problem,
    run::Run,
};
use crate::host::change::Change;

impl Route {
    /// The address from which the host itself talks to the guests. Without it, that would be the
    /// first address of their interface, a private one, to which they may have no route.
    fn source(&self, prefix: IpNet, links: &[Link], addresses: &[Held]) -> Option<IpAddr> {
        let is_ipv6 = prefix.addr().is_ipv6();
        let of_family = |address: &IpAddr| address.is_ipv6() == is_ipv6;
        let is_held = |wanted: &IpAddr| addresses.iter().any(|held| held.net.addr() == *wanted);
        let gateway = self.gateway.map(IpAddr::from);
        let own_names = gateway
            .into_iter()
            .chain(self.uplink_addresses.iter().copied());
        let uplink = named(links, &self.uplink);
        let own = addresses
            .iter()
            .filter(|address| uplink.is_some_and(|uplink| uplink.index == address.ifindex))
            .filter(|address| of_family(&address.net.addr()) && is_source(address))
            .min_by_key(|address| (address.scope != AddressScope::Universe, address.secondary));
        let mut candidates = own_names.chain(own.map(|address| address.net.addr()));
        candidates.find(|address| of_family(address) && is_held(address))
    }
}

/// Whether packets to others may come from it: an IPv6 address of the link alone does not get
/// there, and one that is about to go is no source for long.
fn is_source(held: &Held) -> bool {
    held.net.addr().is_ipv4() || held.is_stable && held.scope == AddressScope::Universe
}

/// The host's routes of the families of which the plan has any.
pub(super) async fn present(netlink: &Netlink, plan: &Plan) -> Result<Vec<Routed>, RequestError> {
    let mut prefixes = plan.routes.iter().flat_map(|route| &route.prefixes);
    match (plan.routes.is_empty(), prefixes.any(is_ipv6)) {
        (true, _) => Ok(Vec::new()),
        (false, true) => netlink.main_routes().await,
        (false, false) => netlink.main_ipv4_routes().await,
    }
}

impl Run<'_> {
    /// Plans addresses that guests of routes use as their gateway.
    pub(super) fn plan_gateways(
        &mut self,
        plan: &Plan,
        links: &[Link],
        addresses: &[Held],
    ) -> Result<()> {
        for route in &plan.routes {
            let (Some(gateway), name) = (route.gateway, &route.interface) else {
                continue;
            };
            let gateway = IpAddr::from(gateway);
            let link = named(links, name).with_context(|| vanished(name))?;
            let holds_it =
                |address: &Held| address.ifindex == link.index && address.net.addr() == gateway;
            let is_network = |network: &Network| {
                let mut own = network.addresses.iter();
                network.interface == *name && own.any(|own| own.addr() == gateway)
            };
            let present = addresses.iter().find(|address| holds_it(address));
            if plan.networks.iter().any(is_network) {
                continue;
            }
            let change = Change::Address {
                interface: name.clone(),
                ifindex: link.index,
                address: present.map_or(gateway.into(), |address| address.net),
            };
            if !self.todo.contains(&change) {
                self.want(change, present.is_some(), links);
            }
        }
        Ok(())
    }

    /// Plans the routes, once interfaces are up and have their addresses.
    pub(super) async fn plan_routes(&mut self, plan: &Plan, links: &[Link]) -> Result<()> {
        if plan.routes.is_empty() {
            return Ok(());
        }
        let addresses = self.netlink.addresses_in().await?;
        let routes = present(self.netlink, plan).await?;
        let proxies = match plan.routes.iter().any(|route| route.arp) {
            true => self.netlink.proxies().await?,
            false => Vec::new(),
        };
        for route in &plan.routes {
            let name = &route.interface;
            let link = named(links, name).with_context(|| vanished(name))?;
            for prefix in &route.prefixes {
                let source = route.source(*prefix, links, &addresses);
                self.plan_route((*prefix, None), link, source, &routes, links);
            }
            if route.proxy_arp {
                self.plan_sysctl(Key::ipv4_conf(name, "proxy_arp")?, "1")?;
                // Otherwise the kernel waits up to 0.8 s for another host to answer.
                let delay = Key::new(&["net", "ipv4", "neigh", name, "proxy_delay"])?;
                self.plan_sysctl(delay, "0")?;
            }
            if route.arp {
                self.plan_arp(route, links, &proxies)?;
            }
        }
        Ok(())
    }

    pub(super) fn plan_route(
        &mut self,
        (prefix, metric): (IpNet, Option<u32>),
        link: &Link,
        source: Option<IpAddr>,
        routes: &[Routed],
        links: &[Link],
    ) {
        let change = Change::Route {
            prefix,
            interface: link.name.clone(),
            ifindex: link.index,
            source,
            metric,
        };
        let present = routes
            .iter()
            .find(|route| counts(route, prefix, metric) && route.device == Some(link.index));
        // A route of other software is good enough, whatever its source.
        let is_ours = (self.journal.find(&change)).is_some_and(
            |known| matches!(known, Change::Route { ifindex, .. } if *ifindex == link.index),
        );
        let is_so = present.is_some_and(|route| !is_ours || route.source == source);
        self.want(change, is_so, links);
    }

    fn plan_arp(&mut self, route: &Route, links: &[Link], proxies: &[(u32, IpAddr)]) -> Result<()> {
        let uplink = named(links, &route.uplink).with_context(|| vanished(&route.uplink))?;
        for address in route.each_address().map(IpAddr::from) {
            let change = Change::Proxy {
                address,
                interface: uplink.name.clone(),
                ifindex: uplink.index,
            };
            self.want(change, proxies.contains(&(uplink.index, address)), links);
        }
        Ok(())
    }
}

fn is_ipv6(prefix: &IpNet) -> bool {
    matches!(prefix, IpNet::V6(_))
}

/// Whether a route is to exactly this prefix, and comes before one of this metric or is that one.
fn counts(route: &Routed, prefix: IpNet, metric: Option<u32>) -> bool {
    let ours = metric.unwrap_or(usual_metric(prefix));
    route.prefix == prefix && route.metric <= ours
}

pub(super) fn vanished(name: &str) -> String {
    format!("interface {name} has vanished")
}

/// Why a route is impossible.
pub(super) fn route_problems(
    plan: &Plan,
    links: &[Link],
    addresses: &[Held],
    routes: &[Routed],
    ours: &[Change],
) -> Vec<Problem> {
    let each = plan.routes.iter().flat_map(|route| {
        let prefixes = route.prefixes.iter();
        prefixes.map(move |prefix| (route, *prefix))
    });
    let prefixes = each.filter_map(|(route, prefix)| {
        held_by_host(route, prefix, links, addresses)
            .or_else(|| routed_elsewhere(route, prefix, links, routes, ours))
            .or_else(|| holds_router(route, prefix, links, routes))
    });
    let gateways = plan.routes.iter();
    let gateways =
        gateways.filter_map(|route| gateway_problem(route, plan, links, addresses, ours));
    prefixes.chain(gateways).collect()
}

/// The host holds a gateway address and answers for it on the guests' link. It must therefore be
/// the host's own, or in a subnet of that link. With the address of another machine, the host could
/// no longer reach that machine.
fn gateway_problem(
    route: &Route,
    plan: &Plan,
    links: &[Link],
    addresses: &[Held],
    ours: &[Change],
) -> Option<Problem> {
    let gateway = IpAddr::from(route.gateway?);
    let own = named(links, &route.interface).map(|link| link.index);
    let uplink = named(links, &route.uplink).map(|link| link.index);
    // (A gateway that natbpf itself has added proves nothing.)
    let is_ours = |held: &Held| {
        ours.iter().any(|change| {
            matches!(change, Change::Address { ifindex, address, .. }
                if *ifindex == held.ifindex && *address == held.net)
        })
    };
    let mut others = addresses.iter().filter(|held| !is_ours(held));
    let network = (plan.networks.iter()).find(|network| network.interface == route.interface);
    let mut of_network = network.iter().flat_map(|network| &network.addresses);
    let is_right = of_network.any(|own| own.contains(&gateway))
        || route.uplink_addresses.contains(&gateway)
        || others.any(|held| {
            held.net.addr() == gateway || own == Some(held.ifindex) && held.net.contains(&gateway)
        });
    let of_uplink = addresses.iter().filter(|held| uplink == Some(held.ifindex));
    let mut of_uplink = of_uplink.filter(|held| held.net.addr().is_ipv4());
    // An uplink without an address may get this one soon.
    let example = of_uplink.next()?.net.addr();
    if is_right {
        return None;
    }
    let problem = format!(
        "{gateway} is neither the host's own nor on the link of {}: the host would claim another \
         machine's address",
        route.interface
    );
    let remedy = format!(
        "write an address of the host, such as {example} of {}",
        route.uplink
    );
    Some(Problem::new(
        ["route", &route.name, "gateway"],
        problem,
        &remedy,
    ))
}

/// Packets to such an address belong to the host. If the host has it on another interface, it would
/// also look for its neighbours there behind the guests' interface. An address on the guests' own
/// interface may be intended.
fn held_by_host(
    route: &Route,
    prefix: IpNet,
    links: &[Link],
    addresses: &[Held],
) -> Option<Problem> {
    let own = named(links, &route.interface).map(|link| link.index);
    let held = addresses.iter().find(|held| {
        let is_alone = IpNet::from(held.net.addr()) == prefix;
        is_alone || prefix.contains(&held.net.addr()) && own != Some(held.ifindex)
    })?;
    let holder = links.iter().find(|link| link.index == held.ifindex)?;
    let (address, holder) = (held.net.addr(), &holder.name);
    if IpNet::from(address) != prefix {
        let problem = format!(
            "{prefix} holds {address}, which is the host's own, on {holder}: it would be cut off \
             from its neighbours there"
        );
        let remedy = format!("route a part of it without {address}, or remove that from {holder}");
        let key = ["route", &route.name, "addresses"];
        return Some(Problem::new(key, problem, &remedy));
    }
    let problem = format!("{address} is the host's own address, on {holder}");
    let remedy = format!("remove it from {holder}, because the guest needs it");
    Some(Problem::new(
        ["route", &route.name, "addresses"],
        problem,
        &remedy,
    ))
}

/// The host would look for the router of another of its routes behind the guests' interface.
fn holds_router(
    route: &Route,
    prefix: IpNet,
    links: &[Link],
    routes: &[Routed],
) -> Option<Problem> {
    let own = named(links, &route.interface).map(|link| link.index);
    let (router, destination, device) = routes.iter().find_map(|other| {
        let router = other.gateway.filter(|router| prefix.contains(router))?;
        let device = links.iter().find(|link| Some(link.index) == other.device)?;
        (Some(device.index) != own).then_some((router, other.prefix, &device.name))
    })?;
    let problem = format!(
        "{prefix} holds {router}, the router of the host's route to {destination} by {device}: it \
         would be cut off from that"
    );
    let remedy = format!("route a part of it without {router}, or another prefix");
    let key = ["route", &route.name, "addresses"];
    Some(Problem::new(key, problem, &remedy))
}

fn routed_elsewhere(
    route: &Route,
    prefix: IpNet,
    links: &[Link],
    routes: &[Routed],
    ours: &[Change],
) -> Option<Problem> {
    let own = named(links, &route.interface).map(|link| link.index);
    let is_ours = |present: &Routed| {
        ours.iter().any(|change| {
            matches!(change, Change::Route { prefix: known, ifindex, .. }
                if *known == present.prefix && present.device == Some(*ifindex))
        })
    };
    let other = routes.iter().find(|present| {
        let is_own = own.is_some() && present.device == own;
        let is_part = prefix.contains(&present.prefix) && present.prefix != prefix;
        (is_part || counts(present, prefix, None)) && !is_own && !is_ours(present)
    })?;
    let prefix = other.prefix;
    let device = links
        .iter()
        .find(|link| Some(link.index) == other.device)
        .map_or("elsewhere".to_owned(), |link| format!("by {}", link.name));
    let problem = format!("the host already has a route to {prefix} {device}");
    let remedy = format!("remove it (ip route del {prefix}), or this one");
    Some(Problem::new(
        ["route", &route.name, "addresses"],
        problem,
        &remedy,
    ))
}
