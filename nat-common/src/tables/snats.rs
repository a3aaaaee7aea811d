//! `SNATS`: compiled source translation rules.

use crate::wire::address::{Addr4, Addr6, Address};

/// Key of `SNATS`, a longest-prefix match over the source address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
pub struct SnatKey<A> {
    /// Generation of the rule set.
    pub generation: u16,
    /// Number of the uplink.
    pub uplink: u16,
    /// Number of the network from which the packet came, 0 if from none; or [`BY_DESTINATION`].
    pub network: u16,
    /// Zero.
    pub reserved: [u8; 2],
    /// Source address.
    pub source: A,
}

/// [`SnatKey::network`] of entries that only say from which address the host reaches a destination.
/// [`SnatKey::source`] then holds the destination.
pub const BY_DESTINATION: u16 = u16::MAX;

/// Value of `SNATS`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C, packed(4))]
pub struct Snat<A> {
    /// First external address; unspecified if the uplink has none: then no packet leaves.
    pub first: A,
    /// Last external address.
    pub last: A,
    /// Number of the rule.
    pub rule: u32,
    /// First external port.
    pub first_port: u16,
    /// Last external port.
    pub last_port: u16,
    /// [`mapping`].
    pub mapping: u8,
    /// [`filtering`].
    pub filtering: u8,
    /// 1 if the rule has entries in `EXCLUDES`.
    pub has_excludes: u8,
    /// 1 if the uplink has entries [`BY_DESTINATION`] that apply to the rule: destinations are
    /// reached from different addresses.
    pub by_destination: u8,
}

/// Mapping behaviour (RFC 4787 section 4.1).
pub mod mapping {
    /// One external endpoint for an internal one.
    pub const ENDPOINT_INDEPENDENT: u8 = 0;
    /// An external port may be shared towards different remotes.
    pub const ADDRESS_AND_PORT_DEPENDENT: u8 = 1;
    /// No translation: one of the host's own addresses within the prefix of a rule.
    pub const NONE: u8 = 2;
    /// One external address for one guest, with all ports of all protocols unchanged.
    pub const ONE_TO_ONE: u8 = 3;
}

/// Filtering behaviour (RFC 4787 section 5).
pub mod filtering {
    /// Any remote may send.
    pub const ENDPOINT_INDEPENDENT: u8 = 0;
    /// Only addresses to which the guest has sent.
    pub const ADDRESS_DEPENDENT: u8 = 1;
    /// Only endpoints to which the guest has sent.
    pub const ADDRESS_AND_PORT_DEPENDENT: u8 = 2;
}

/// The table of source translation rules.
pub trait Snats<A: Address> {
    /// The source translation rule for packets of `source` that leave by `uplink`.
    fn snat(&self, generation: u16, uplink: u16, network: u16, source: A) -> Option<&Snat<A>>;
}

/// IPv4 key of `SNATS`.
pub type SnatKey4 = SnatKey<Addr4>;

/// IPv4 value of `SNATS`.
pub type Snat4 = Snat<Addr4>;

crate::map_layouts!(SnatKey, 12, 24);
crate::map_layouts!(Snat, 20, 44);

/// Bits before the address in [`SnatKey4`] and
/// [`ExcludeKey4`](crate::tables::excludes::ExcludeKey4).
pub const SNAT_FIXED_BITS: u32 = 64;

impl<A: Address> Snat<A> {
    pub(crate) const EMPTY: Self = Self {
        first: A::UNSPECIFIED,
        last: A::UNSPECIFIED,
        rule: 0,
        first_port: 0,
        last_port: 0,
        mapping: 0,
        filtering: 0,
        has_excludes: 0,
        by_destination: 0,
    };
}
