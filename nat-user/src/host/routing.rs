//! The host's routes: behind which interface an address is, and from which own address a
//! destination is reached.
//!
//! Only the main table counts. Routing policy rules are not followed, with one exception: if only
//! other tables route by an uplink, these count for it.

use std::{
    collections::{BTreeMap, HashMap},
    net::Ipv4Addr,
};

use ipnet::Ipv4Net;
use nat_config::compile::Sources;
use nat_sys::netlink::{Address, AddressScope, LinkRoute};

/// The routes of the main table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Routing {
    /// The longest prefixes first: their length, and the routes by network address.
    lengths: Vec<(u8, HashMap<Ipv4Addr, LinkRoute>)>,
}

impl Routing {
    /// Sorts routes. Of several routes to one prefix, the one with the lowest metric counts.
    #[must_use]
    pub fn new(routes: &[LinkRoute]) -> Self {
        let mut lengths: BTreeMap<u8, HashMap<Ipv4Addr, LinkRoute>> = BTreeMap::new();
        for route in routes.iter().filter(|route| route.is_main) {
            let of_length = lengths.entry(route.prefix.prefix_len()).or_default();
            let known = of_length
                .entry(route.prefix.network())
                .or_insert_with(|| route.clone());
            if route.metric < known.metric {
                *known = route.clone();
            }
        }
        Self {
            lengths: lengths.into_iter().rev().collect(),
        }
    }

    /// The route to an address.
    #[must_use]
    pub fn to(&self, address: Ipv4Addr) -> Option<&LinkRoute> {
        self.lengths.iter().find_map(|(length, routes)| {
            let prefix = Ipv4Net::new(address, *length).ok()?;
            routes.get(&prefix.network())
        })
    }
}

/// From which of the usable addresses the destinations of an uplink are reached.
///
/// The kernel chooses so for what the host itself sends (`inet_select_addr` in
/// `net/ipv4/devinet.c`): the route's preferred source, else the interface's address in whose
/// prefix the next hop is, else its first one.
#[must_use]
pub fn sources(
    device: u32,
    routes: &[LinkRoute],
    addresses: &[Address],
    candidates: &[Ipv4Addr],
) -> Sources {
    let is_candidate = |address: &Ipv4Addr| candidates.contains(address);
    let own = addresses.iter().filter(|own| {
        own.ifindex == device
            && own.scope == AddressScope::Universe
            && is_candidate(&own.net.addr())
    });
    let own: Vec<&Address> = own.collect();
    let beside = |next_hop: Ipv4Addr| {
        let near = own.iter().filter(|own| own.net.contains(&next_hop));
        let nearest = near.max_by_key(|own| (own.net.prefix_len(), !own.secondary));
        nearest.map(|own| own.net.addr())
    };
    let by_route: Vec<(Ipv4Net, Option<Ipv4Addr>)> = best(device, routes)
        .map(|route| {
            let next_hop = route.gateway.unwrap_or(route.prefix.network());
            let preferred = route.source.filter(is_candidate);
            (route.prefix, preferred.or_else(|| beside(next_hop)))
        })
        .collect();
    let default = by_route.iter().find(|(prefix, _)| prefix.prefix_len() == 0);
    let first = default.and_then(|(_, source)| *source);
    let Some(first) = first.or_else(|| candidates.first().copied()) else {
        return Sources::default();
    };
    let mut others: Vec<(Ipv4Net, Ipv4Addr)> = Vec::new();
    for (route, source) in by_route {
        let source = source.unwrap_or(first);
        // The shortest come first, so a covering prefix is already present.
        let covering = others
            .iter()
            .rev()
            .find(|(prefix, _)| prefix.contains(&route));
        if covering.map_or(first, |(_, source)| *source) != source {
            others.push((route, source));
        }
    }
    Sources {
        first: Some(first),
        others,
    }
}

/// The routes by a device that count, the shortest prefixes first.
fn best(device: u32, routes: &[LinkRoute]) -> impl Iterator<Item = &LinkRoute> {
    let mut by_prefix: BTreeMap<(u8, Ipv4Addr), &LinkRoute> = BTreeMap::new();
    let rank = |route: &LinkRoute| (!route.is_main, route.metric);
    for route in routes.iter().filter(|route| route.device == Some(device)) {
        let key = (route.prefix.prefix_len(), route.prefix.network());
        let known = by_prefix.entry(key).or_insert(route);
        if rank(route) < rank(known) {
            *known = route;
        }
    }
    by_prefix.into_values()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAN: u32 = 7;

    fn route(prefix: &str, device: u32, gateway: Option<&str>, source: Option<&str>) -> LinkRoute {
        let address = |text: &str| text.parse().unwrap();
        LinkRoute {
            prefix: prefix.parse().unwrap(),
            device: Some(device),
            gateway: gateway.map(address),
            metric: 0,
            source: source.map(address),
            drops: false,
            is_main: true,
            is_advertised: false,
        }
    }

    fn address(net: &str, scope: AddressScope) -> Address {
        Address {
            ifindex: WAN,
            net: net.parse().unwrap(),
            peer: None,
            scope,
            secondary: false,
            is_stable: true,
        }
    }

    fn of_all(routes: &[LinkRoute], addresses: &[Address]) -> Sources {
        let mut own: Vec<&Address> = addresses.iter().collect();
        own.sort_by_key(|own| own.scope != AddressScope::Universe);
        let candidates: Vec<Ipv4Addr> = own.iter().map(|own| own.net.addr()).collect();
        sources(WAN, routes, addresses, &candidates)
    }

    fn by(sources: &Sources, destination: &str) -> String {
        let destination: Ipv4Addr = destination.parse().unwrap();
        let others = sources.others.iter();
        let covering = others.filter(|(prefix, _)| prefix.contains(&destination));
        let longest = covering.max_by_key(|(prefix, _)| prefix.prefix_len());
        let source = longest.map(|(_, source)| *source).or(sources.first);
        source.unwrap().to_string()
    }

    fn modem() -> Vec<Address> {
        vec![
            address("169.254.10.7/16", AddressScope::Link),
            address("192.168.100.2/24", AddressScope::Universe),
            address("198.51.100.1/24", AddressScope::Universe),
        ]
    }

    #[test]
    fn longest_prefix_that_is_routed_counts() {
        let mut blackhole = route("10.200.0.128/25", 0, None, None);
        (blackhole.device, blackhole.drops) = (None, true);
        let mut dearer = route("10.200.0.0/24", 5, None, None);
        dearer.metric = 100;
        let routing = Routing::new(&[
            route("0.0.0.0/0", WAN, Some("198.51.100.2"), None),
            dearer,
            route("10.200.0.0/24", 4, Some("10.10.10.1"), None),
            blackhole,
        ]);
        let device = |text: &str| routing.to(text.parse().unwrap()).unwrap().device;
        assert_eq!(device("10.200.0.5"), Some(4));
        assert_eq!(device("10.200.0.200"), None);
        assert_eq!(device("10.201.0.5"), Some(WAN));
        assert_eq!(Routing::default().to(Ipv4Addr::LOCALHOST), None);
    }

    #[test]
    fn source_is_the_address_beside_the_next_hop_not_the_first() {
        let sources = of_all(
            &[
                route("0.0.0.0/0", WAN, Some("198.51.100.2"), None),
                route("192.168.100.0/24", WAN, None, Some("192.168.100.2")),
                route("198.51.100.0/24", WAN, None, Some("198.51.100.1")),
                route("169.254.0.0/16", WAN, None, Some("169.254.10.7")),
            ],
            &modem(),
        );
        assert_eq!(by(&sources, "203.0.113.9"), "198.51.100.1");
        assert_eq!(by(&sources, "198.51.100.77"), "198.51.100.1");
        assert_eq!(by(&sources, "192.168.100.1"), "192.168.100.2");
        assert_eq!(by(&sources, "169.254.1.1"), "169.254.10.7");
        assert_eq!(
            sources.others.len(),
            2,
            "what the first serves is not listed"
        );
    }

    #[test]
    fn preferred_source_of_a_route_comes_first_if_it_is_a_candidate() {
        let default = |source| route("0.0.0.0/0", WAN, Some("198.51.100.2"), Some(source));
        let preferred = of_all(&[default("192.168.100.2")], &modem());
        assert_eq!(preferred.first, Some(Ipv4Addr::new(192, 168, 100, 2)));
        let of_others = of_all(&[default("10.0.0.1")], &modem());
        assert_eq!(of_others.first, Some(Ipv4Addr::new(198, 51, 100, 1)));
    }

    #[test]
    fn only_candidates_are_used() {
        let routes = [
            route("0.0.0.0/0", WAN, Some("198.51.100.2"), None),
            route("192.168.100.0/24", WAN, None, Some("192.168.100.2")),
        ];
        let only = Ipv4Addr::new(198, 51, 100, 1);
        let sources = super::sources(WAN, &routes, &modem(), &[only]);
        let expected = Sources {
            first: Some(only),
            others: Vec::new(),
        };
        assert_eq!(sources, expected);
    }

    #[test]
    fn more_specific_route_back_to_the_first_address_is_listed() {
        let sources = of_all(
            &[
                route("0.0.0.0/0", WAN, Some("198.51.100.2"), None),
                route("192.168.0.0/16", WAN, Some("192.168.100.1"), None),
                route("192.168.7.0/24", WAN, Some("198.51.100.3"), None),
            ],
            &modem(),
        );
        assert_eq!(by(&sources, "192.168.9.9"), "192.168.100.2");
        assert_eq!(by(&sources, "192.168.7.9"), "198.51.100.1");
    }

    #[test]
    fn route_of_another_table_serves_where_the_main_one_has_none() {
        let elsewhere = |source| LinkRoute {
            is_main: false,
            ..route("0.0.0.0/0", WAN, Some(source), None)
        };
        let modem = modem();
        assert_eq!(
            of_all(&[elsewhere("198.51.100.2")], &modem).first,
            Some(Ipv4Addr::new(198, 51, 100, 1))
        );
        let main = route("0.0.0.0/0", WAN, Some("192.168.100.1"), None);
        assert_eq!(
            of_all(&[elsewhere("198.51.100.2"), main], &modem).first,
            Some(Ipv4Addr::new(192, 168, 100, 2))
        );
    }

    #[test]
    fn without_a_route_the_first_global_address_serves() {
        let sources = of_all(&[], &modem());
        assert_eq!(sources.first, Some(Ipv4Addr::new(192, 168, 100, 2)));
        assert_eq!(super::sources(WAN, &[], &[], &[]), Sources::default());
    }
}
