//! What a configuration says about one family.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{
    address::Address,
    config::Config,
    forward::ForwardRule,
    guest::{Guest, GuestAddress},
    nat::NatRule,
    network::{Action, Inbound, Network},
    policy::{PolicyEnd, PolicyRule},
    route::Route,
    snat::SnatRule,
    uplink::{Uplink, UplinkAddresses, UplinkId},
};

/// A family, by its addresses.
pub trait Family: Address {
    /// Its name for people.
    const NAME: &'static str;

    /// The external addresses of an uplink.
    fn of_uplink(uplink: &Uplink) -> &UplinkAddresses<Self>;
    /// The host's addresses in a network, with its prefixes.
    fn of_network(network: &Network) -> &[Self::Prefix];
    /// A guest's addresses.
    fn of_guest(guest: &Guest) -> &[GuestAddress<Self>];
    /// The addresses of a route.
    fn of_route(route: &Route) -> &[Self::Prefix];
    /// `[[snat]]`.
    fn snat(config: &Config) -> &[SnatRule<Self>];
    /// `[[forward]]`.
    fn forwards(config: &Config) -> &[ForwardRule<Self>];
    /// `[[nat]]` of single guests.
    fn nats(config: &Config) -> &[NatRule<Self>];
    /// `[[policy]]`.
    fn policies(config: &Config) -> &[PolicyRule<Self>];
    /// Ends between which `[nat64]` lets no flow be opened where no policy says otherwise.
    fn closed_by_nat64(config: &Config) -> Vec<[PolicyEnd<Self>; 2]>;
    /// What may be opened from uplinks by default.
    fn inbound(inbound: Inbound) -> Action;
    /// The inside prefixes of `[[nat]]` of prefixes, and the uplinks where they become others.
    fn internal_prefixes(config: &Config) -> Vec<(Self::Prefix, UplinkId)>;
    /// The prefixes of a network that a `[[snat]]` of the network translates.
    fn translated(network: &Network) -> Vec<Self::Prefix>;
}

impl Family for Ipv4Addr {
    const NAME: &'static str = "IPv4";

    fn of_uplink(uplink: &Uplink) -> &UplinkAddresses {
        &uplink.addresses
    }

    fn of_network(network: &Network) -> &[Self::Prefix] {
        network.address.as_slice()
    }

    fn of_guest(guest: &Guest) -> &[GuestAddress] {
        guest.address.as_slice()
    }

    fn of_route(route: &Route) -> &[Self::Prefix] {
        &route.addresses
    }

    fn snat(config: &Config) -> &[SnatRule] {
        &config.snat
    }

    fn forwards(config: &Config) -> &[ForwardRule] {
        &config.forwards
    }

    fn nats(config: &Config) -> &[NatRule] {
        &config.nats
    }

    fn policies(config: &Config) -> &[PolicyRule] {
        &config.policies
    }

    fn closed_by_nat64(config: &Config) -> Vec<[PolicyEnd; 2]> {
        let device = config
            .nat64()
            .map(|nat64| PolicyEnd::Network(nat64.network));
        let closed = config.uplinks_without_nat64().into_iter();
        let uplinks = closed.map(PolicyEnd::Uplink);
        uplinks
            .filter_map(|uplink| Some([device.clone()?, uplink]))
            .collect()
    }

    fn inbound(inbound: Inbound) -> Action {
        inbound.ipv4
    }

    fn internal_prefixes(_config: &Config) -> Vec<(Self::Prefix, UplinkId)> {
        Vec::new()
    }

    fn translated(network: &Network) -> Vec<Self::Prefix> {
        network.address.iter().map(|own| own.trunc()).collect()
    }
}

impl Family for Ipv6Addr {
    const NAME: &'static str = "IPv6";

    fn of_uplink(uplink: &Uplink) -> &UplinkAddresses<Self> {
        &uplink.addresses6
    }

    fn of_network(network: &Network) -> &[Self::Prefix] {
        &network.addresses6
    }

    fn of_guest(guest: &Guest) -> &[GuestAddress<Self>] {
        &guest.addresses6
    }

    fn of_route(route: &Route) -> &[Self::Prefix] {
        &route.addresses6
    }

    fn snat(config: &Config) -> &[SnatRule<Self>] {
        config.ipv6.as_ref().map_or(&[], |rules| &rules.snat)
    }

    fn forwards(config: &Config) -> &[ForwardRule<Self>] {
        config.ipv6.as_ref().map_or(&[], |rules| &rules.forwards)
    }

    /// (IPv6 translates prefixes instead.)
    fn nats(_config: &Config) -> &[NatRule<Self>] {
        &[]
    }

    fn policies(config: &Config) -> &[PolicyRule<Self>] {
        config.ipv6.as_ref().map_or(&[], |rules| &rules.policies)
    }

    fn closed_by_nat64(config: &Config) -> Vec<[PolicyEnd<Self>; 2]> {
        let device = config
            .nat64()
            .map(|nat64| PolicyEnd::Network(nat64.network));
        let closed = config.networks_without_nat64().into_iter();
        let networks = closed.map(PolicyEnd::Network);
        networks
            .filter_map(|network| Some([network, device.clone()?]))
            .collect()
    }

    fn inbound(inbound: Inbound) -> Action {
        inbound.ipv6
    }

    fn internal_prefixes(config: &Config) -> Vec<(Self::Prefix, UplinkId)> {
        let rules = config.ipv6.iter().flat_map(|rules| &rules.prefixes);
        rules.map(|rule| (rule.internal, rule.uplink)).collect()
    }

    fn translated(network: &Network) -> Vec<Self::Prefix> {
        network.unique_local().collect()
    }
}
