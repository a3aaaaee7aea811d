//! The compiler's state, and where addresses are.

use std::net::Ipv4Addr;

use super::{
    family::WireFamily,
    ranges::ForwardedRange,
    ruleset::{Environment, Numbering, Ruleset},
};
use crate::model::{Config, NetworkId, Prefix, Route, UplinkAddresses, UplinkId};

/// The state of one family.
pub(super) struct Compiler<'a, A: WireFamily = Ipv4Addr> {
    pub(super) config: &'a Config,
    pub(super) environment: &'a Environment<A>,
    /// The uplinks' numbers.
    pub(super) uplinks: Vec<u16>,
    /// The networks' numbers.
    pub(super) networks: Vec<u16>,
    /// The forwards, for the reverse direction.
    pub(super) ranges: Vec<ForwardedRange<A>>,
    pub(super) ruleset: Ruleset<A::Wire>,
}

impl<'a, A: WireFamily> Compiler<'a, A> {
    pub(super) fn new(
        config: &'a Config,
        environment: &'a Environment<A>,
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

    pub(super) fn uplink_addresses(&self, id: UplinkId) -> &'a [A] {
        match A::of_uplink(&self.config.uplinks[id.0]) {
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
    pub(super) fn place_of(&self, prefix: A::Prefix) -> (u16, A) {
        if let Some(place) = self.environment.places.get(&prefix.addr()) {
            let none = (0, A::UNSPECIFIED);
            return place.map_or(none, |network| self.place_of_network(network));
        }
        let mut networks = self.config.networks.iter().zip(&self.networks);
        networks
            .find_map(|(network, number)| {
                let mut own = A::of_network(network).iter();
                Some((*number, own.find(|own| own.covers(&prefix))?.addr()))
            })
            .or_else(|| self.routed_place_of(prefix))
            .unwrap_or((0, A::UNSPECIFIED))
    }

    /// The number of the network that an address is in, 0 if it is in none.
    pub(super) fn network_of(&self, address: A) -> u16 {
        self.place_of(address.into()).0
    }

    /// Number and gateway of a network.
    pub(super) fn place_of_network(&self, NetworkId(id): NetworkId) -> (u16, A) {
        let own = A::of_network(&self.config.networks[id]).first();
        (self.networks[id], own.map_or(A::UNSPECIFIED, Prefix::addr))
    }

    /// All routed prefixes, each with its route.
    pub(super) fn routed(&self) -> impl Iterator<Item = (A::Prefix, &'a Route)> + use<'a, A> {
        let routes = self.config.routes.iter();
        routes.flat_map(|route| {
            let prefixes = A::of_route(route).iter();
            prefixes.map(move |prefix| (*prefix, route))
        })
    }

    /// Number of the network to which all of a prefix is routed, and the host's address in it.
    pub(super) fn routed_place_of(&self, prefix: A::Prefix) -> Option<(u16, A)> {
        let (_, route) = self.routed().find(|(routed, _)| routed.covers(&prefix))?;
        Some(self.place_of_network(route.network))
    }
}
