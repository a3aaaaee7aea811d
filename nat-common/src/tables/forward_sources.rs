//! `FORWARD_SOURCES`: the external source of packets from a forward's target and a forwarded port.

use crate::{
    tables::origin::Origin,
    wire::address::{Addr4, Addr6, Address, Endpoint, Port},
};

/// Key of `FORWARD_SOURCES`, a longest-prefix match over the last bits of the port.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C, packed(4))]
pub struct ForwardSourceKey<A> {
    /// Generation of the rule set.
    pub generation: u16,
    /// Number of the uplink.
    pub uplink: u16,
    /// Number of the guest's network, 0 if none has its address.
    pub network: u16,
    /// IP protocol number of TCP or UDP.
    pub protocol: u8,
    /// Zero.
    pub reserved: u8,
    /// The guest's address.
    pub address: A,
    /// The guest's port.
    pub port: Port,
    /// Zero, behind the prefix.
    pub padding: [u8; 2],
}

/// Value of `FORWARD_SOURCES`: packets from a forwarded port leave from the external port that
/// leads there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C, packed(4))]
pub struct ForwardSource<A> {
    /// The first external address of the rule.
    pub address: A,
    /// First port of the guest's range.
    pub first_internal: u16,
    /// The external port for it.
    pub first_external: u16,
}

impl<A> ForwardSource<A> {
    /// The external port for one of the guest's.
    #[inline(always)]
    #[must_use]
    pub fn external_port(&self, internal: Port) -> Port {
        let shift = self.first_external.wrapping_sub(self.first_internal);
        Port::new(internal.number().wrapping_add(shift))
    }
}

/// The table of the external sources of forward rules.
pub trait ForwardSources<A: Address> {
    /// The external source of packets from a forward's target and a forwarded port, for TCP or UDP.
    fn forward_source(
        &self,
        origin: &Origin,
        protocol: u8,
        internal: Endpoint<A>,
    ) -> Option<&ForwardSource<A>>;
}

/// IPv4 key of `FORWARD_SOURCES`.
pub type ForwardSourceKey4 = ForwardSourceKey<Addr4>;

/// IPv4 value of `FORWARD_SOURCES`.
pub type ForwardSource4 = ForwardSource<Addr4>;

crate::map_layouts!(ForwardSourceKey, 16, 28);
crate::map_layouts!(ForwardSource, 8, 20);

/// Bits before the port in [`ForwardSourceKey4`].
pub const FORWARD_SOURCE_FIXED_BITS: u32 = 96;
