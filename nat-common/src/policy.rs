//! Policies: which flows may be opened between guests, networks, uplinks and the host.
//!
//! They are asked once for each flow, with inside addresses: what has a session passes. The order of
//! the rules is kept: of those that match, the one that was written first decides. So that a host with
//! hundreds of networks does not go through the rules of all of them, each rule stands in the *chain* of
//! the two sides that it names, and four chains at the most concern a flow.

use crate::{
    address::{Addr4, Address, Port},
    rule::{Interface, role},
    tables::Tables,
};

/// An end of a flow, as far as it is known by the interface.
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
    /// Where it is opened from.
    pub from: Side,
    /// Where it is opened to.
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

/// Value of `POLICIES`: what a policy says of one pair of prefixes.
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
    /// Its place among all: the lowest decides. From [`DEFAULTS`] on it is not a rule but what holds where
    /// none matches.
    pub order: u32,
}

/// [`Policy::order`] of the first default.
pub const DEFAULTS: u32 = 1 << 31;

/// What a policy says.
pub mod action {
    /// Of no policy: nobody asks, and no session is opened for it.
    pub const NONE: u8 = 0;
    /// It may be opened, and what answers it passes.
    pub const ACCEPT: u8 = 1;
    /// It may not.
    pub const DROP: u8 = 2;
}

/// How many chains concern a flow at the most.
pub const CHAINS: usize = 4;

/// How many entries policies come to at the most, in one rule set.
pub const MAX_POLICIES: u32 = 1 << 14;

/// A flow that is to be opened, and what is found out about it. It lies in the packet's work area.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Judging<A> {
    /// Generation of the rule set.
    pub generation: u16,
    /// Where it comes from.
    pub from: Side,
    /// Where it goes to.
    pub to: Side,
    /// Destination port; 0 for protocols without ports.
    pub port: Port,
    /// Source address.
    pub source: A,
    /// Destination address: the guest's own.
    pub destination: A,
    /// IP protocol number.
    pub protocol: u32,
    /// The chain that is being looked at.
    chain: u32,
    /// The entry in it.
    position: u32,
    /// [`Policy::order`] of the best so far.
    order: u32,
    /// [`Policy::action`] of the best so far.
    pub action: u32,
    /// [`Policy::rule`] of the best so far.
    pub rule: u32,
    chains: [Chain; CHAINS],
}

impl<A: Address> Judging<A> {
    /// Of no flow yet.
    pub const EMPTY: Self = Self {
        generation: 0,
        from: side::ANY,
        to: side::ANY,
        port: Port::ZERO,
        source: A::UNSPECIFIED,
        destination: A::UNSPECIFIED,
        protocol: 0,
        chain: 0,
        position: 0,
        order: 0,
        action: 0,
        rule: 0,
        chains: [Chain { first: 0, count: 0 }; CHAINS],
    };

    /// Whether what was found is what holds where no rule matches.
    #[inline(always)]
    pub fn is_default(&self) -> bool {
        self.order >= DEFAULTS
    }

    #[inline(always)]
    fn matches(&self, policy: &Policy<A>) -> bool {
        let port = self.port.number();
        (policy.protocol == 0 || u32::from(policy.protocol) == self.protocol)
            && policy.first_port <= port
            && port <= policy.last_port
            && self.source.masked(policy.source_mask) == policy.source
            && self.destination.masked(policy.destination_mask) == policy.destination
    }
}

/// The side of an interface.
#[inline(always)]
pub fn side_of(interface: Option<&Interface>) -> Side {
    match interface {
        Some(interface) if interface.role == role::NETWORK => interface.number,
        Some(interface) if interface.role == role::UPLINK => side::UPLINKS | interface.number,
        _ => side::ELSEWHERE,
    }
}

/// Finds out what policies say of a flow: [`Judging::action`] and [`Judging::rule`].
#[inline(always)]
pub fn judge<A: Address, T: Tables<A>>(tables: &T, judging: &mut Judging<A>) {
    let total = find_chains(tables, judging);
    judging.chain = 0;
    judging.position = 0;
    judging.order = u32::MAX;
    judging.action = u32::from(action::NONE);
    judging.rule = 0;
    if total == 0 {
        return;
    }
    crate::work::settle(judging);
    // A turn for each entry, and one for the end of each chain.
    tables.repeat(total + CHAINS as u32, |_| step(tables, judging));
    crate::work::settle(judging);
}

/// Looks up the chains of the two sides; how many entries they have together. (Apart from the rest: the
/// stack has no room for both.)
#[inline(never)]
fn find_chains<A: Address, T: Tables<A>>(tables: &T, judging: &mut Judging<A>) -> u32 {
    // The host is not any: what is said of all does not concern it.
    let any = |side: Side| {
        if side == side::HOST {
            side::HOST
        } else {
            side::ANY
        }
    };
    let (from, to) = (judging.from, judging.to);
    let (any_from, any_to) = (any(from), any(to));
    let mut total = 0;
    let mut look = |slot: usize, from: Side, to: Side, is_new: bool| {
        let key = ChainKey {
            generation: judging.generation,
            from,
            to,
            reserved: 0,
        };
        let chain = if is_new { tables.chain(&key) } else { None };
        let chain = chain.copied().unwrap_or_default();
        judging.chains[slot] = chain;
        total += chain.count.min(MAX_POLICIES);
    };
    look(0, from, to, true);
    look(1, from, any_to, any_to != to);
    look(2, any_from, to, any_from != from);
    look(3, any_from, any_to, any_from != from && any_to != to);
    total
}

/// Looks at one entry; whether to go on.
#[inline(always)]
fn step<A: Address, T: Tables<A>>(tables: &T, judging: &mut Judging<A>) -> bool {
    let Some(chain) = judging.chains.get(judging.chain as usize).copied() else {
        return false;
    };
    let position = judging.position;
    if position < chain.count {
        let index = chain.first.wrapping_add(position);
        let policy = tables.policy(u32::from(judging.generation), index);
        // Within a chain they are in order: what comes later cannot be better.
        if let Some(policy) = policy.filter(|policy| policy.order < judging.order) {
            if judging.matches(policy) {
                judging.order = policy.order;
                judging.action = u32::from(policy.action);
                judging.rule = policy.rule;
            } else {
                judging.position = position + 1;
                return true;
            }
        }
    }
    judging.chain += 1;
    judging.position = 0;
    judging.chain < CHAINS as u32
}

/// IPv4 value of `POLICIES`.
pub type Policy4 = Policy<Addr4>;

crate::map_layout!(ChainKey, 8);
crate::map_layout!(Chain, 8);
crate::map_layout!(Policy4, 32);
