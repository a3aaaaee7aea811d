//! Routes to guests that hold public addresses themselves, and ARP answers for these.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use ipnet::Ipv4Net;
use nat_sys::{
    netlink::{Address, AddressScope, Link, LinkRoute, Netlink, RequestError},
    sysctl::Key,
};

use super::{
    links::named,
    plan::{Network, Plan, Route},
    problem::Problem,
    run::Run,
};
use crate::host::change::Change;

impl Route {
    /// The address from which the host itself talks to the guests. Without it, that would be the
    /// first address of their interface, a private one, to which they may have no route.
    fn source(&self, links: &[Link], addresses: &[Address]) -> Option<Ipv4Addr> {
        let is_held = |wanted: &Ipv4Addr| addresses.iter().any(|held| held.net.addr() == *wanted);
        let own_names = self.gateway.iter().chain(&self.uplink_addresses).copied();
        let uplink = named(links, &self.uplink);
        let own = addresses
            .iter()
            .filter(|address| uplink.is_some_and(|uplink| uplink.index == address.ifindex))
            .min_by_key(|address| (address.scope != AddressScope::Universe, address.secondary));
        let mut candidates = own_names.chain(own.map(|address| address.net.addr()));
        candidates.find(is_held)
    }
}

/// The host's routes, if the plan has any.
pub(super) async fn present(
    netlink: &Netlink,
    plan: &Plan,
) -> Result<Vec<LinkRoute>, RequestError> {
    match plan.routes.is_empty() {
        true => Ok(Vec::new()),
        false => netlink.main_routes().await,
    }
}

impl Run<'_> {
    /// Plans addresses that guests of routes use as their gateway.
    pub(super) fn plan_gateways(
        &mut self,
        plan: &Plan,
        links: &[Link],
        addresses: &[Address],
    ) -> Result<()> {
        for route in &plan.routes {
            let (Some(gateway), name) = (route.gateway, &route.interface) else {
                continue;
            };
            let link = named(links, name).with_context(|| vanished(name))?;
            let holds_it =
                |address: &Address| address.ifindex == link.index && address.net.addr() == gateway;
            let is_network = |network: &Network| {
                let own = network.address.map(|own| own.addr());
                network.interface == *name && own == Some(gateway)
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
        let addresses = self.netlink.addresses().await?;
        let routes = self.netlink.main_routes().await?;
        let proxies = match plan.routes.iter().any(|route| route.arp) {
            true => self.netlink.arp_proxies().await?,
            false => Vec::new(),
        };
        for route in &plan.routes {
            let name = &route.interface;
            let link = named(links, name).with_context(|| vanished(name))?;
            let source = route.source(links, &addresses);
            for prefix in &route.prefixes {
                self.plan_route(*prefix, link, source, &routes, links);
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

    fn plan_route(
        &mut self,
        prefix: Ipv4Net,
        link: &Link,
        source: Option<Ipv4Addr>,
        routes: &[LinkRoute],
        links: &[Link],
    ) {
        let change = Change::Route {
            prefix,
            interface: link.name.clone(),
            ifindex: link.index,
            source,
        };
        let present = routes
            .iter()
            .find(|route| route.is_plain_to(prefix) && route.device == Some(link.index));
        // A route of other software is good enough, whatever its source.
        let is_ours = (self.journal.find(&change)).is_some_and(
            |known| matches!(known, Change::Route { ifindex, .. } if *ifindex == link.index),
        );
        let is_so = present.is_some_and(|route| !is_ours || route.source == source);
        self.want(change, is_so, links);
    }

    fn plan_arp(
        &mut self,
        route: &Route,
        links: &[Link],
        proxies: &[(u32, Ipv4Addr)],
    ) -> Result<()> {
        let uplink = named(links, &route.uplink).with_context(|| vanished(&route.uplink))?;
        for address in route.each_address() {
            let change = Change::ArpProxy {
                address,
                interface: uplink.name.clone(),
                ifindex: uplink.index,
            };
            self.want(change, proxies.contains(&(uplink.index, address)), links);
        }
        Ok(())
    }
}

fn vanished(name: &str) -> String {
    format!("interface {name} has vanished")
}

/// Why a route is impossible.
pub(super) fn route_problems(
    plan: &Plan,
    links: &[Link],
    addresses: &[Address],
    routes: &[LinkRoute],
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
    addresses: &[Address],
    ours: &[Change],
) -> Option<Problem> {
    let gateway = route.gateway?;
    let own = named(links, &route.interface).map(|link| link.index);
    let uplink = named(links, &route.uplink).map(|link| link.index);
    // (A gateway that natbpf itself has added proves nothing.)
    let is_ours = |held: &Address| {
        ours.iter().any(|change| {
            matches!(change, Change::Address { ifindex, address, .. }
                if *ifindex == held.ifindex && *address == held.net)
        })
    };
    let mut others = addresses.iter().filter(|held| !is_ours(held));
    let network = (plan.networks.iter()).find(|network| network.interface == route.interface);
    let is_right = network
        .is_some_and(|network| network.address.is_some_and(|own| own.contains(&gateway)))
        || route.uplink_addresses.contains(&gateway)
        || others.any(|held| {
            held.net.addr() == gateway || own == Some(held.ifindex) && held.net.contains(&gateway)
        });
    let mut of_uplink = addresses.iter().filter(|held| uplink == Some(held.ifindex));
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
    prefix: Ipv4Net,
    links: &[Link],
    addresses: &[Address],
) -> Option<Problem> {
    let own = named(links, &route.interface).map(|link| link.index);
    let held = addresses.iter().find(|held| {
        let is_alone = Ipv4Net::from(held.net.addr()) == prefix;
        is_alone || prefix.contains(&held.net.addr()) && own != Some(held.ifindex)
    })?;
    let holder = links.iter().find(|link| link.index == held.ifindex)?;
    let (address, holder) = (held.net.addr(), &holder.name);
    if Ipv4Net::from(address) != prefix {
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
    prefix: Ipv4Net,
    links: &[Link],
    routes: &[LinkRoute],
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
    prefix: Ipv4Net,
    links: &[Link],
    routes: &[LinkRoute],
    ours: &[Change],
) -> Option<Problem> {
    let own = named(links, &route.interface).map(|link| link.index);
    let is_ours = |present: &LinkRoute| {
        ours.iter().any(|change| {
            matches!(change, Change::Route { prefix: known, ifindex, .. }
                if *known == present.prefix && present.device == Some(*ifindex))
        })
    };
    let other = routes.iter().find(|present| {
        let is_own = own.is_some() && present.device == own;
        let is_part = prefix.contains(&present.prefix) && present.prefix != prefix;
        (is_part || present.is_plain_to(prefix)) && !is_own && !is_ours(present)
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
