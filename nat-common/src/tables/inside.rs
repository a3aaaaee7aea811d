//! `INSIDE`: inside addresses, by prefix.

use bitflags::bitflags;
use bytemuck::{Pod, Zeroable};

use crate::wire::address::{Addr4, Addr6, Address};

/// Key of `INSIDE`, a longest-prefix match over inside addresses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C, packed(4))]
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
#[repr(C, packed(4))]
pub struct Inside<A> {
    /// Number of the network, 0 if only a rule has the prefix.
    pub network: u16,
    /// Its properties.
    pub flags: InsideFlags,
    /// The host's address in the network, from which it sends ICMP errors; unspecified if only a
    /// rule has the prefix.
    pub gateway: A,
    /// The guest's link-layer address, if [`InsideFlags::HAS_MAC`] is set.
    pub mac: [u8; 6],
    /// Zero.
    pub reserved: [u8; 2],
}

bitflags! {
    /// Bits of [`Inside::flags`].
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
    #[repr(transparent)]
    pub struct InsideFlags: u16 {
        /// Only frames from [`Inside::mac`] may have this source address.
        const HAS_MAC = 1 << 0;
        /// For a network's own prefix: each address belongs to the port that uses it first.
        const ON_LINK = 1 << 1;
    }
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

crate::map_layouts!(InsideKey, 8, 20);
crate::map_layouts!(Inside, 16, 28);

/// Bits before the address in [`InsideKey4`].
pub const INSIDE_FIXED_BITS: u32 = 32;
