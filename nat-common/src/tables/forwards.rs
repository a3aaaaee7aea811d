//! `FORWARDS`: compiled forward rules.

use bitflags::bitflags;
use bytemuck::{Pod, Zeroable};

use crate::wire::address::{Addr4, Addr6, Address, Endpoint, Port};

/// Key of `FORWARDS`, a longest-prefix match over the last bits of the port.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C, packed(4))]
pub struct ForwardKey<A> {
    /// Generation of the rule set.
    pub generation: u16,
    /// IP protocol number, or [`OTHER_PROTOCOLS`].
    pub protocol: u8,
    /// Zero.
    pub reserved: u8,
    /// External address.
    pub address: A,
    /// External port; 0 for protocols without ports and for ICMP queries.
    pub port: Port,
    /// Zero, behind the prefix.
    pub padding: [u8; 2],
}

/// [`ForwardKey::protocol`] of all protocols but TCP, UDP and ICMP. (0 is the IPv6 hop-by-hop
/// option, which no IPv4 packet carries as its protocol.)
pub const OTHER_PROTOCOLS: u8 = 0;

/// Value of `FORWARDS`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C, packed(4))]
pub struct Forward<A> {
    /// The guest's address.
    pub to: A,
    /// Number of the rule.
    pub rule: u32,
    /// Number of the guest's network, 0 if none has its address.
    pub network: u16,
    /// First external port of the range.
    pub first_external: u16,
    /// The guest's port for it.
    pub first_internal: u16,
    /// Its properties.
    pub flags: ForwardFlags,
    /// Zero.
    pub reserved: u8,
}

bitflags! {
    /// Bits of [`Forward::flags`].
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
    #[repr(transparent)]
    pub struct ForwardFlags: u8 {
        /// All ports of the range go to the first internal one.
        const MANY_TO_ONE = 1 << 0;
        /// Guests also reach it by the external address.
        const HAIRPIN = 1 << 1;
        /// The host itself reaches it by the external address, and by its loopback address.
        const LOCAL = 1 << 2;
        /// It names services of the guest, which are accepted unless a policy says otherwise.
        const ACCEPTED = 1 << 3;
        /// It takes all packets to the address. Source translation may nevertheless use ports of
        /// the address: otherwise none would be left, and answers find their session first.
        const WHOLE = 1 << 4;
    }
}

impl<A> Forward<A> {
    /// The guest's port for an external port of the range.
    #[inline(always)]
    #[must_use]
    pub fn internal_port(&self, external: Port) -> Port {
        if self.flags.contains(ForwardFlags::MANY_TO_ONE) {
            return Port::new(self.first_internal);
        }
        let shift = self.first_internal.wrapping_sub(self.first_external);
        Port::new(external.number().wrapping_add(shift))
    }
}

/// The table of forward rules.
pub trait Forwards<A: Address> {
    /// The forward rule for packets to an external endpoint.
    fn forward(&self, generation: u16, protocol: u8, to: Endpoint<A>) -> Option<&Forward<A>>;
}

/// IPv4 key of `FORWARDS`.
pub type ForwardKey4 = ForwardKey<Addr4>;

/// IPv4 value of `FORWARDS`.
pub type Forward4 = Forward<Addr4>;

crate::map_layouts!(ForwardKey, 12, 24);
crate::map_layouts!(Forward, 16, 28);

/// Bits before the port in [`ForwardKey4`].
pub const FORWARD_FIXED_BITS: u32 = 64;
