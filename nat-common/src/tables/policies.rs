//! Policies: which flows may be opened between guests, networks, uplinks and the host.
//!
//! They apply once to each flow, with inside addresses: packets of a session pass. The order of the
//! rules counts: of those that match, the first in the file decides. Each rule is in the *chain* of
//! its two sides, and at most four chains concern a flow. A host with hundreds of networks
//! therefore does not compare a flow with the rules of all of them.

use crate::{
    tables::interfaces::{Interface, role},
    wire::address::{Addr4, Addr6, Address},
};

/// An end of a flow, as far as the interface determines it.
pub type Side = u16;

/// The sides that are no network; a network's side is its number.
pub mod side {
    use super::Side;

    /// Any network, uplink or other interface, but not the host itself. Only in keys.
    pub const ANY: Side = 0;
    /// The first uplink's side is the one after it.
    pub const UPLINKS: Side = 1 << 15;
    /// An interface that the configuration does not name.
    pub const ELSEWHERE: Side = Side::MAX - 1;
    /// The host itself.
    pub const HOST: Side = Side::MAX;
}

/// Key of `CHAINS`: the two sides of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
pub struct ChainKey {
    /// Generation of the rule set.
    pub generation: u16,
    /// The side that opens it.
    pub from: Side,
    /// The other side.
    pub to: Side,
    /// Zero.
    pub reserved: u16,
}

/// Value of `CHAINS`: a run of entries of `POLICIES`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Chain {
    /// Index of the first one.
    pub first: u32,
    /// How many there are.
    pub count: u32,
}

/// Value of `POLICIES`: a policy for one pair of prefixes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Policy<A> {
    /// Prefix of the address from which the flow is opened.
    pub source: A,
    /// Its mask.
    pub source_mask: A,
    /// Prefix of the address to which it is opened: a guest's own, not an external one.
    pub destination: A,
    /// Its mask.
    pub destination_mask: A,
    /// First destination port.
    pub first_port: u16,
    /// Last destination port.
    pub last_port: u16,
    /// IP protocol number; 0 is any.
    pub protocol: u8,
    /// An [`action`].
    pub action: u8,
    /// Zero.
    pub reserved: u16,
    /// Number of the rule.
    pub rule: u32,
    /// Its place among all: the lowest decides. From [`DEFAULTS`] on, it is a default that applies
    /// if no rule matches.
    pub order: u32,
}

/// [`Policy::order`] of the first default.
pub const DEFAULTS: u32 = 1 << 31;

/// The action of a policy.
pub mod action {
    /// No policy applies, and no session is needed.
    pub const NONE: u8 = 0;
    /// The flow may be opened, and its answers pass.
    pub const ACCEPT: u8 = 1;
    /// The flow may not be opened.
    pub const DROP: u8 = 2;
}

/// The most chains that concern a flow.
pub const CHAINS: usize = 4;

/// The most entries of the policies of one rule set.
pub const MAX_POLICIES: u32 = 1 << 14;

/// The side of an interface.
#[inline(always)]
pub fn side_of(interface: Option<&Interface>) -> Side {
    match interface {
        Some(interface) if interface.role == role::NETWORK => interface.number,
        Some(interface) if interface.role == role::UPLINK => side::UPLINKS | interface.number,
        _ => side::ELSEWHERE,
    }
}

/// The tables of policies and their chains.
pub trait Policies<A: Address> {
    /// The policies between two sides.
    fn chain(&self, key: &ChainKey) -> Option<&Chain>;
    /// One entry of the policies of a generation.
    fn policy(&self, generation: u32, index: u32) -> Option<&Policy<A>>;
}

/// IPv4 value of `POLICIES`.
pub type Policy4 = Policy<Addr4>;

crate::map_layout!(ChainKey, 8);
crate::map_layout!(Chain, 8);
crate::map_layouts!(Policy, 32, 80);
