//! The rule compiler: from a configuration to the entries of the rule tables.
//!
//! The order of the rules is resolved here, once, so that a packet costs the same with one rule and
//! with a hundred thousand: each port of each address belongs to at most one forward rule, and each
//! source prefix to one source translation rule. Ranges of ports are cut into prefixes, which the
//! tables match by the longest.
//!
//! Input and output are plain values. The compiler does not access the kernel.

mod forwards;
mod in_order;
mod policy;
mod route;
mod snats;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::Ipv4Addr,
};

use forwards::ForwardedRange;
use ipnet::Ipv4Net;
use nat_common::{
    tables::{
        addresses::ExternalAddress,
        excludes::ExcludeKey4,
        forward_sources::{ForwardSource4, ForwardSourceKey4},
        forwards::{Forward4, ForwardKey4},
        inside::{INSIDE_FIXED_BITS, Inside4, InsideFlags, InsideKey4},
        policies::{Chain, Policy4, Side},
        snats::{Snat4, SnatKey4},
    },
    wire::address::Addr4,
};

pub use self::in_order::InOrder;
use crate::model::{Config, NetworkId, SnatSource, UplinkAddresses, UplinkId};

/// What the configuration leaves to the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// The own addresses of each uplink's interface, in the kernel's order, by [`UplinkId`].
    pub uplink_addresses: Vec<Vec<Ipv4Addr>>,
    /// All addresses that the host holds on any interface.
    pub host_addresses: HashSet<Ipv4Addr>,
    /// From which addresses each uplink's destinations are reached, by [`UplinkId`].
    pub sources: Vec<Sources>,
    /// The networks behind which the host's routes place single addresses, `None` if behind none of
    /// them. The routes say nothing about missing addresses.
    pub places: HashMap<Ipv4Addr, Option<NetworkId>>,
    /// External addresses for which the programs do not answer ARP: another host has them, or may
    /// have them.
    pub silent: BTreeSet<Ipv4Addr>,
}

/// From which addresses an uplink's destinations are reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// The one for most of them.
    pub first: Option<Ipv4Addr>,
    /// The exceptions, by longest prefix.
    pub others: Vec<(Ipv4Net, Ipv4Addr)>,
}

/// Addresses that are inside addresses if they are behind a network (RFC 1918, RFC 6598): a rule
/// that hides the network hides them, unless another rule does.
const PRIVATE: [(Ipv4Addr, u8); 4] = [
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
];

/// The numbers that the data plane uses for the names of the configuration.
pub trait Numbering {
    /// An uplink's number, from 1.
    fn uplink(&mut self, name: &str) -> u16;
    /// A network's number, from 1.
    fn network(&mut self, name: &str) -> u16;
    /// The number of a `[[snat]]` rule, from 1.
    fn snat(&mut self, name: &str) -> u32;
    /// The number of a `[[forward]]` rule, from 1.
    fn forward(&mut self, name: &str) -> u32;
    /// The number of a `[[nat]]` rule, from 1.
    fn nat(&mut self, name: &str) -> u32;
    /// The number of a `[[policy]]`, from 1.
    fn policy(&mut self, name: &str) -> u32;
    /// The number of a network's default policy, from 1.
    fn default_of(&mut self, network: &str) -> u32;
}

/// A key of a longest-prefix match and the number of its bits that count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix<K> {
    /// How many bits count.
    pub bits: u32,
    /// The key; its generation is set when it is written.
    pub key: K,
}

/// The entries of all rule tables, without their generation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// `FORWARDS`.
    pub forwards: Vec<(Prefix<ForwardKey4>, Forward4)>,
    /// `FORWARD_SOURCES`.
    pub forward_sources: Vec<(Prefix<ForwardSourceKey4>, ForwardSource4)>,
    /// `SNATS`.
    pub snats: Vec<(Prefix<SnatKey4>, Snat4)>,
    /// `EXCLUDES`.
    pub excludes: Vec<Prefix<ExcludeKey4>>,
    /// `ADDRESSES`.
    pub addresses: Vec<(Addr4, ExternalAddress)>,
    /// `INSIDE`.
    pub inside: Vec<(Prefix<InsideKey4>, Inside4)>,
    /// `CHAINS`: runs of the policies that follow.
    pub chains: Vec<((Side, Side), Chain)>,
    /// `POLICIES`.
    pub policies: Vec<Policy4>,
    /// What 127.0.0.1 stands for, if the host itself has access to any forward.
    pub own: Option<Vec<Addr4>>,
}

/// Compiles a configuration.
pub fn compile(
    config: &Config,
    environment: &Environment,
    numbers: &mut impl Numbering,
) -> Ruleset {
    let mut compiler = Compiler::new(config, environment, numbers);
    compiler.addresses();
    compiler.inside();
    compiler.forwards(numbers);
    compiler.forward_sources();
    compiler.own();
    compiler.snats(numbers);
    compiler.policies(numbers);
    compiler.ruleset
}

/// An IPv4 address in wire order.
#[must_use]
pub fn wire(address: Ipv4Addr) -> Addr4 {
    Addr4(address.octets())
}

struct Compiler<'a> {
    config: &'a Config,
    environment: &'a Environment,
    uplinks: Vec<u16>,
    networks: Vec<u16>,
    /// The forwards, for the reverse direction.
    ranges: Vec<ForwardedRange>,
    ruleset: Ruleset,
}

impl<'a> Compiler<'a> {
    fn new(config: &'a Config, environment: &'a Environment, numbers: &mut impl Numbering) -> Self {
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

    fn uplink_addresses(&self, id: UplinkId) -> &'a [Ipv4Addr] {
        match &self.config.uplinks[id.0].addresses {
            UplinkAddresses::Fixed(addresses) => addresses,
            UplinkAddresses::Interface => self
                .environment
                .uplink_addresses
                .get(id.0)
                .map_or(&[], Vec::as_slice),
        }
    }

    /// The uplinks' addresses, and all others that rules name.
    fn addresses(&mut self) {
        let mut seen = BTreeMap::new();
        for (id, _) in self.config.uplinks.iter().enumerate() {
            for address in self.uplink_addresses(UplinkId(id)) {
                seen.entry(*address).or_insert(id);
            }
        }
        // (A guest without a lease has no entry yet.)
        let named = self.config.named_addresses();
        for named in named.filter(|named| named.guest.is_none_or(|guest| guest.now().is_some())) {
            for address in named.addresses() {
                seen.entry(address).or_insert(named.uplink.0);
            }
        }
        for (address, uplink) in seen {
            let is_host = self.environment.host_addresses.contains(&address);
            let external = ExternalAddress {
                uplink: self.uplinks[uplink],
                is_host: is_host.into(),
                is_silent: self.environment.silent.contains(&address).into(),
            };
            self.ruleset.addresses.push((wire(address), external));
        }
    }

    /// The networks' prefixes, single guests, and prefixes that only a rule names. A prefix that
    /// holds an external address of the host's (`0.0.0.0/0`, say) does not make its addresses
    /// inside addresses.
    fn inside(&mut self) {
        let mut prefixes = BTreeMap::new();
        for rule in &self.config.snat {
            if let SnatSource::Prefix(prefix) = rule.source
                && !self.holds_external_address(prefix)
            {
                prefixes.insert(prefix.trunc(), self.place_of(prefix));
            }
        }
        for (prefix, route) in self.routed() {
            prefixes.insert(prefix, self.place_of_network(route.network));
        }
        for to in self.config.nats.iter().filter_map(|rule| rule.to.now()) {
            let guest = to.into();
            prefixes.insert(guest, self.place_of(guest));
        }
        for network in &self.config.networks {
            let prefix = network.address.trunc();
            prefixes.insert(prefix, self.place_of(prefix));
        }
        for to in self.config.forwards.iter().filter_map(|rule| rule.to.now()) {
            // Behind another interface than that of its prefix.
            if self.environment.places.contains_key(&to) {
                prefixes.insert(to.into(), self.place_of(to.into()));
            }
        }
        let guests = self.config.guests.iter();
        let guests =
            guests.filter_map(|guest| Some((Ipv4Net::from(guest.address.now()?), guest.mac)));
        let guests: Vec<(Ipv4Net, [u8; 6])> = guests.collect();
        for (prefix, _) in &guests {
            prefixes.remove(prefix);
        }
        for (prefix, (network, gateway)) in prefixes {
            self.push_inside(prefix, network, gateway, None);
        }
        for (prefix, mac) in guests {
            let (network, gateway) = self.place_of(prefix);
            self.push_inside(prefix, network, gateway, Some(mac));
        }
    }

    fn push_inside(
        &mut self,
        prefix: Ipv4Net,
        network: u16,
        gateway: Ipv4Addr,
        mac: Option<[u8; 6]>,
    ) {
        let key = InsideKey4 {
            generation: 0,
            reserved: [0; 2],
            address: wire(prefix.addr()),
        };
        let bits = INSIDE_FIXED_BITS + u32::from(prefix.prefix_len());
        let inside = Inside4 {
            network,
            flags: match mac {
                Some(_) => InsideFlags::HAS_MAC,
                None if self.is_on_link(prefix) => InsideFlags::ON_LINK,
                None => InsideFlags::empty(),
            },
            gateway: wire(gateway),
            mac: mac.unwrap_or_default(),
            reserved: [0; 2],
        };
        self.ruleset.inside.push((Prefix { bits, key }, inside));
    }

    /// Whether a prefix is of a network that keeps guests to their addresses.
    fn is_on_link(&self, prefix: Ipv4Net) -> bool {
        let mut networks = self.config.networks.iter();
        networks.any(|network| network.anti_spoof && network.address.contains(&prefix))
    }

    fn holds_external_address(&self, prefix: Ipv4Net) -> bool {
        let mut ids = (0..self.config.uplinks.len()).map(UplinkId);
        ids.any(|id| {
            self.uplink_addresses(id)
                .iter()
                .any(|address| prefix.contains(address))
        })
    }

    /// Number and gateway of the network behind which the host's routes place a prefix. If they say
    /// nothing: of the network that contains it, or to which it is routed. 0 if other software
    /// routes it.
    fn place_of(&self, prefix: Ipv4Net) -> (u16, Ipv4Addr) {
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
    fn network_of(&self, address: Ipv4Addr) -> u16 {
        self.place_of(address.into()).0
    }
}

#[cfg(test)]
mod tests;
