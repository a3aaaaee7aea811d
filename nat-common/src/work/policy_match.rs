//! A flow as policies see it, and the matching policy.

use crate::{
    tables::policies::{CHAINS, Chain, DEFAULTS, Policy, Side, side},
    wire::address::{Address, Port},
};

/// A new flow, and the policy found for it. It is in the packet's work area.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct PolicyMatch<A> {
    /// Generation of the rule set.
    pub generation: u16,
    /// Its source side.
    pub from: Side,
    /// Its destination side.
    pub to: Side,
    /// Destination port; 0 for protocols without ports.
    pub port: Port,
    /// Source address.
    pub source: A,
    /// Destination address: the guest's own.
    pub destination: A,
    /// IP protocol number.
    pub protocol: u32,
    /// The current chain.
    pub(crate) chain: u32,
    /// The current entry.
    pub(crate) position: u32,
    /// [`Policy::order`] of the best so far.
    pub(crate) order: u32,
    /// [`Policy::action`] of the best so far.
    pub action: u32,
    /// [`Policy::rule`] of the best so far.
    pub rule: u32,
    pub(crate) chains: [Chain; CHAINS],
}

impl<A: Address> PolicyMatch<A> {
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

    /// Whether the result is a default.
    #[inline(always)]
    pub fn is_default(&self) -> bool {
        self.order >= DEFAULTS
    }

    #[inline(always)]
    pub(crate) fn matches(&self, policy: &Policy<A>) -> bool {
        let port = self.port.number();
        (policy.protocol == 0 || u32::from(policy.protocol) == self.protocol)
            && policy.first_port <= port
            && port <= policy.last_port
            && self.source.masked(policy.source_mask) == policy.source
            && self.destination.masked(policy.destination_mask) == policy.destination
    }
}
