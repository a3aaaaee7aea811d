//! What a configuration is compiled with, and to.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::Ipv4Addr,
};

use ipnet::Ipv4Net;
use nat_common::{
    tables::{
        addresses::ExternalAddress,
        excludes::ExcludeKey4,
        forward_sources::{ForwardSource4, ForwardSourceKey4},
        forwards::{Forward4, ForwardKey4},
        inside::{Inside4, InsideKey4},
        policies::{Chain, Policy4, Side},
        snats::{Snat4, SnatKey4},
    },
    wire::address::Addr4,
};

use crate::model::NetworkId;

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

/// An IPv4 address in wire order.
#[must_use]
pub fn wire(address: Ipv4Addr) -> Addr4 {
    Addr4(address.octets())
}
