//! `[[route]]`: the addresses are inside ones of their network, and leave as they are.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use nat_common::rule::{self, Snat4};

use super::{Compiler, wire};
use crate::config::model::{NetworkId, Route};

impl<'a> Compiler<'a> {
    /// All routed prefixes, each with its route.
    pub(super) fn routed(&self) -> impl Iterator<Item = (Ipv4Net, &'a Route)> + use<'a> {
        let routes = self.config.routes.iter();
        routes.flat_map(|route| {
            let prefixes = route.addresses.iter();
            prefixes.map(move |prefix| (*prefix, route))
        })
    }

    /// Number of the network to which all of a prefix is routed, and the host's address in it.
    pub(super) fn routed_place_of(&self, prefix: Ipv4Net) -> Option<(u16, Ipv4Addr)> {
        let (_, route) = self.routed().find(|(routed, _)| routed.contains(&prefix))?;
        Some(self.place_of_network(route.network))
    }

    /// Number and gateway of a network.
    pub(super) fn place_of_network(&self, NetworkId(id): NetworkId) -> (u16, Ipv4Addr) {
        let gateway = self.config.networks[id].address.addr();
        (self.networks[id], gateway)
    }

    /// What takes the routed addresses of a network out of all source translation; with `None`
    /// those of all networks.
    pub(super) fn untranslated(&self, network: Option<NetworkId>) -> Vec<(Ipv4Net, Snat4)> {
        let own = |route: &Route| network.is_none_or(|network| network == route.network);
        self.routed()
            .filter(|(_, route)| own(route))
            .map(|(prefix, _)| (prefix, as_it_is()))
            .collect()
    }
}

fn as_it_is() -> Snat4 {
    Snat4 {
        first: wire(Ipv4Addr::UNSPECIFIED),
        last: wire(Ipv4Addr::UNSPECIFIED),
        rule: 0,
        first_port: 1,
        last_port: u16::MAX,
        mapping: rule::mapping::NONE,
        filtering: rule::filtering::ENDPOINT_INDEPENDENT,
        has_excludes: 0,
        reserved: 0,
    }
}
