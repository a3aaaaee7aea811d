//! What differs between the families: where the configuration has their addresses, and their form
//! in the tables.

use std::net::{Ipv4Addr, Ipv6Addr};

use nat_common::wire::{
    address::{Addr4, Addr6},
    protocol::{ICMP, ICMPV6},
};

use crate::model::{
    Action, Address, Config, Guest, Inbound, Network, PolicyRule, Route, SnatSource, Uplink,
    UplinkAddresses, UplinkId,
};

/// A family for which rules are compiled.
pub(super) trait Family: Address {
    /// The address in the tables.
    type Wire: nat_common::wire::address::Address + Ord;

    /// The protocol number of its ICMP.
    const ICMP: u8;
    /// The UDP port of its DHCP servers.
    const DHCP: u16;

    /// The address in the tables.
    fn wire(self) -> Self::Wire;

    /// The external addresses of an uplink.
    fn of_uplink(uplink: &Uplink) -> &UplinkAddresses<Self>;
    /// The host's addresses in a network, with its prefixes.
    fn of_network(network: &Network) -> &[Self::Prefix];
    /// A guest's addresses.
    fn of_guest(guest: &Guest) -> Vec<Self>;
    /// The addresses of a route.
    fn of_route(route: &Route) -> &[Self::Prefix];
    /// The policies.
    fn policies(config: &Config) -> &[PolicyRule<Self>];
    /// What may be opened from uplinks by default.
    fn inbound(inbound: Inbound) -> Action;
    /// The external addresses that uplinks and rules name, except those of guests without a lease.
    fn named(config: &Config) -> Vec<(Self, UplinkId)>;
    /// Further inside addresses: prefixes that source translation names, and guests to which other
    /// rules translate.
    fn translated(config: &Config) -> Translated<Self>;
}

/// Inside addresses of rules that translate.
pub(super) struct Translated<A: Address> {
    /// Sources of `[[snat]]`.
    pub sources: Vec<A::Prefix>,
    /// Guests of `[[nat]]`.
    pub of_nats: Vec<A>,
    /// Guests of `[[forward]]`.
    pub of_forwards: Vec<A>,
}

impl Family for Ipv4Addr {
    type Wire = Addr4;

    const ICMP: u8 = ICMP;
    const DHCP: u16 = 67;

    fn wire(self) -> Addr4 {
        Addr4(self.octets())
    }

    fn of_uplink(uplink: &Uplink) -> &UplinkAddresses {
        &uplink.addresses
    }

    fn of_network(network: &Network) -> &[Self::Prefix] {
        std::slice::from_ref(&network.address)
    }

    fn of_guest(guest: &Guest) -> Vec<Self> {
        Vec::from_iter(guest.address.now())
    }

    fn of_route(route: &Route) -> &[Self::Prefix] {
        &route.addresses
    }

    fn policies(config: &Config) -> &[PolicyRule] {
        &config.policies
    }

    fn inbound(inbound: Inbound) -> Action {
        inbound.ipv4
    }

    fn named(config: &Config) -> Vec<(Self, UplinkId)> {
        let named = config.named_addresses();
        let named = named.filter(|one| one.guest.is_none_or(|guest| guest.now().is_some()));
        let each = named.flat_map(|one| one.addresses().map(move |address| (address, one.uplink)));
        each.collect()
    }

    fn translated(config: &Config) -> Translated<Self> {
        let sources = config.snat.iter().filter_map(|rule| match rule.source {
            SnatSource::Prefix(prefix) => Some(prefix),
            SnatSource::Network(_) => None,
        });
        let of_nats = config.nats.iter().filter_map(|rule| rule.to.now());
        let of_forwards = config.forwards.iter().filter_map(|rule| rule.to.now());
        Translated {
            sources: sources.collect(),
            of_nats: of_nats.collect(),
            of_forwards: of_forwards.collect(),
        }
    }
}

impl Family for Ipv6Addr {
    type Wire = Addr6;

    const ICMP: u8 = ICMPV6;
    const DHCP: u16 = 547;

    fn wire(self) -> Addr6 {
        Addr6::new(self.octets())
    }

    fn of_uplink(uplink: &Uplink) -> &UplinkAddresses<Self> {
        &uplink.addresses6
    }

    fn of_network(network: &Network) -> &[Self::Prefix] {
        &network.addresses6
    }

    fn of_guest(guest: &Guest) -> Vec<Self> {
        guest.addresses6.clone()
    }

    fn of_route(route: &Route) -> &[Self::Prefix] {
        &route.addresses6
    }

    fn policies(config: &Config) -> &[PolicyRule<Self>] {
        let rules = config.ipv6.as_ref();
        rules.map_or(&[], |rules| &rules.policies)
    }

    fn inbound(inbound: Inbound) -> Action {
        inbound.ipv6
    }

    fn named(_config: &Config) -> Vec<(Self, UplinkId)> {
        Vec::new() // (Those of uplinks are all.)
    }

    fn translated(_config: &Config) -> Translated<Self> {
        Translated {
            sources: Vec::new(),
            of_nats: Vec::new(),
            of_forwards: Vec::new(),
        }
    }
}
