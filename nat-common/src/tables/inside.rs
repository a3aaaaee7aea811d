//! `INSIDE`: inside addresses, by prefix.

use crate::wire::address::{Addr4, Address};

/// Key of `INSIDE`, a longest-prefix match over inside addresses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
pub struct InsideKey<A> {
    /// Generation of the rule set.
    pub generation: u16,
    /// Zero.
    pub reserved: [u8; 2],
    /// The address.
    pub address: A,
}

/// Value of `INSIDE`, for a network's prefix or for a single guest in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Inside<A> {
    /// Number of the network, 0 if only a rule has the prefix.
    pub network: u16,
    /// Bits of [`inside_flags`].
    pub flags: u16,
    /// The host's address in the network, from which it sends ICMP errors; unspecified if only a
    /// rule has the prefix.
    pub gateway: A,
    /// The guest's link-layer address, if [`inside_flags::HAS_MAC`] is set.
    pub mac: [u8; 6],
    /// Zero.
    pub reserved: [u8; 2],
}

/// Bits of [`Inside::flags`].
pub mod inside_flags {
    /// Only frames from [`super::Inside::mac`] may have this source address.
    pub const HAS_MAC: u16 = 1 << 0;
    /// For a network's own prefix: each address belongs to the port that uses it first.
    pub const ON_LINK: u16 = 1 << 1;
}

/// The table of inside addresses.
pub trait InsideAddresses<A: Address> {
    /// The entry of an inside address.
    fn inside(&self, generation: u16, address: A) -> Option<&Inside<A>>;
}

/// IPv4 key of `INSIDE`.
pub type InsideKey4 = InsideKey<Addr4>;

/// IPv4 value of `INSIDE`.
pub type Inside4 = Inside<Addr4>;

crate::map_layout!(InsideKey4, 8);
crate::map_layout!(Inside4, 16);

/// Bits before the address in [`InsideKey4`].
pub const INSIDE_FIXED_BITS: u32 = 32;
