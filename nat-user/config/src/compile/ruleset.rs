//! What a configuration is compiled with, and to.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::Ipv4Addr,
};

use nat_common::{
    tables::{
        addresses::ExternalAddress,
        excludes::ExcludeKey,
        forward_sources::{ForwardSource, ForwardSourceKey},
        forwards::{Forward, ForwardKey},
        inside::{Inside, InsideKey},
        policies::{Chain, Policy, Side},
        snats::{Snat, SnatKey},
    },
    translation::prefix::PrefixTranslation,
    wire::address::Addr4,
};

use crate::model::{Address, NetworkId};

/// What the configuration leaves to the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment<A = Ipv4Addr>
where
    A: Address,
{
    /// The own addresses of each uplink's interface, in the kernel's order, by
    /// [`crate::model::UplinkId`].
    pub uplink_addresses: Vec<Vec<A>>,
    /// All addresses that the host holds on any interface.
    pub host_addresses: HashSet<A>,
    /// From which addresses each uplink's destinations are reached, by [`crate::model::UplinkId`].
    pub sources: Vec<Sources<A>>,
    /// The networks behind which the host's routes place single addresses, `None` if behind none of
    /// them. The routes say nothing about missing addresses.
    pub places: HashMap<A, Option<NetworkId>>,
    /// External addresses for which the programs do not answer ARP: another host has them, or may
    /// have them.
    pub silent: BTreeSet<A>,
}

/// From which addresses an uplink's destinations are reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources<A = Ipv4Addr>
where
    A: Address,
{
    /// The one for most of them.
    pub first: Option<A>,
    /// The exceptions, by longest prefix.
    pub others: Vec<(A::Prefix, A)>,
}

impl<A: Address> Default for Environment<A> {
    fn default() -> Self {
        Self {
            uplink_addresses: Vec::new(),
            host_addresses: HashSet::new(),
            sources: Vec::new(),
            places: HashMap::new(),
            silent: BTreeSet::new(),
        }
    }
}

impl<A: Address> Default for Sources<A> {
    fn default() -> Self {
        Self {
            first: None,
            others: Vec::new(),
        }
    }
}

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

/// The entries of all rule tables of one family, without their generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruleset<A: Copy = Addr4> {
    /// `FORWARDS`.
    pub forwards: Vec<(Prefix<ForwardKey<A>>, Forward<A>)>,
    /// `FORWARD_SOURCES`.
    pub forward_sources: Vec<(Prefix<ForwardSourceKey<A>>, ForwardSource<A>)>,
    /// `SNATS`.
    pub snats: Vec<(Prefix<SnatKey<A>>, Snat<A>)>,
    /// `EXCLUDES`.
    pub excludes: Vec<Prefix<ExcludeKey<A>>>,
    /// `ADDRESSES`.
    pub addresses: Vec<(A, ExternalAddress)>,
    /// `INSIDE`.
    pub inside: Vec<(Prefix<InsideKey<A>>, Inside<A>)>,
    /// `CHAINS`: runs of the policies that follow.
    pub chains: Vec<((Side, Side), Chain)>,
    /// `POLICIES`.
    pub policies: Vec<Policy<A>>,
    /// The prefixes that become others, of IPv6 alone.
    pub prefixes: Vec<Prefixes>,
    /// Addresses in external prefixes that the host or another rule has, so they stay.
    pub spared: Vec<A>,
    /// What the loopback address stands for, if the host itself has access to any forward.
    pub own: Option<Vec<A>>,
}

impl<A: Copy> Default for Ruleset<A> {
    fn default() -> Self {
        Self {
            forwards: Vec::new(),
            forward_sources: Vec::new(),
            snats: Vec::new(),
            excludes: Vec::new(),
            addresses: Vec::new(),
            inside: Vec::new(),
            chains: Vec::new(),
            policies: Vec::new(),
            prefixes: Vec::new(),
            spared: Vec::new(),
            own: None,
        }
    }
}

/// One external prefix for one internal prefix (RFC 6296).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefixes {
    /// Number of the rule.
    pub rule: u32,
    /// Number of the uplink.
    pub uplink: u16,
    /// Number of the network behind which the internal prefix is, 0 if behind none.
    pub network: u16,
    /// How many bits the prefixes have, from 1 to 64.
    pub bits: u32,
    /// From the internal prefix to the external one.
    pub outbound: PrefixTranslation,
    /// Whether guests also reach each other by the external prefix.
    pub hairpin: bool,
}

/// An IPv4 address in wire order.
#[must_use]
pub fn wire(address: Ipv4Addr) -> Addr4 {
    Addr4(address.octets())
}
