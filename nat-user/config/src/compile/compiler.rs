//! The compiler's state, and where addresses are.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{
    ranges::ForwardedRange,
    ruleset::{Environment, Numbering, Ruleset},
};
use crate::model::{Config, NetworkId, Route, UplinkAddresses, UplinkId};

pub(super) struct Compiler<'a> {
    pub(super) config: &'a Config,
    pub(super) environment: &'a Environment,
    /// The uplinks' numbers.
    pub(super) uplinks: Vec<u16>,
    /// The networks' numbers.
    pub(super) networks: Vec<u16>,
    /// The forwards, for the reverse direction.
    pub(super) ranges: Vec<ForwardedRange>,
    pub(super) ruleset: Ruleset,
}

impl<'a> Compiler<'a> {
    pub(super) fn new(
        config: &'a Config,
        environment: &'a Environment,
        numbers: &mut impl Numbering,
    ) -> Self {
        Self {
            config,
            environment,
            uplinks: config
                .uplinks
                .iter()
                .map(|uplink| numbers.uplink(&uplink.name))
                .collect(),
            networks: config
                .networks
                .iter()
                .map(|net| numbers.network(&net.name))
                .collect(),
            ranges: Vec::new(),
            ruleset: Ruleset::default(),
        }
    }

    pub(super) fn uplink_addresses(&self, id: UplinkId) -> &'a [Ipv4Addr] {
        match &self.config.uplinks[id.0].addresses {
            UplinkAddresses::Fixed(addresses) => addresses,
            UplinkAddresses::Interface => self
                .environment
                .uplink_addresses
                .get(id.0)
                .map_or(&[], Vec::as_slice),
        }
    }

    /// Number and gateway of the network behind which the host's routes place a prefix. If they say
    /// nothing: of the network that contains it, or to which it is routed. 0 if other software
    /// routes it.
    pub(super) fn place_of(&self, prefix: Ipv4Net) -> (u16, Ipv4Addr) {
        if let Some(place) = self.environment.places.get(&prefix.addr()) {
            let none = (0, Ipv4Addr::UNSPECIFIED);
            return place.map_or(none, |network| self.place_of_network(network));
        }
        let mut networks = self.config.networks.iter().zip(&self.networks);
        networks
            .find(|(network, _)| network.address.contains(&prefix))
            .map(|(network, number)| (*number, network.address.addr()))
            .or_else(|| self.routed_place_of(prefix))
            .unwrap_or((0, Ipv4Addr::UNSPECIFIED))
    }

    /// The number of the network that an address is in, 0 if it is in none.
    pub(super) fn network_of(&self, address: Ipv4Addr) -> u16 {
        self.place_of(address.into()).0
    }

    /// Number and gateway of a network.
    pub(super) fn place_of_network(&self, NetworkId(id): NetworkId) -> (u16, Ipv4Addr) {
        let gateway = self.config.networks[id].address.addr();
        (self.networks[id], gateway)
    }

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
}
