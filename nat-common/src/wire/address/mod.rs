//! Addresses, ports and endpoints in the byte order of the wire.

use core::fmt;

use bytemuck::{Pod, Zeroable};

mod ipv4;
mod ipv6;

pub use ipv4::Addr4;
pub use ipv6::Addr6;

/// An address of some family: a value.
pub trait Address: Pod + Eq + fmt::Debug {
    /// The unspecified address.
    const UNSPECIFIED: Self;

    /// The loopback address.
    const LOOPBACK: Self;

    /// Whether only the host itself can have it (RFC 1122 section 3.2.1.3).
    fn is_loopback(self) -> bool;

    /// Sum of the address's 16-bit words in memory order, as RFC 1071 adds them.
    fn sum(self) -> u32;

    /// Whether a packet from outside may carry it as its source (RFC 1812 section 5.3.7).
    fn is_valid_source(self) -> bool;

    /// Whether it is multicast or broadcast.
    fn is_group(self) -> bool;

    /// Whether it is unicast.
    fn is_unicast(self) -> bool;

    /// Whether it is private.
    fn is_private(self) -> bool;

    /// The address `offset` after this one.
    fn offset_by(self, offset: u32) -> Self;

    /// How far `last` is after this one, 0 if they are equal or `last` is lower.
    fn distance_to(self, last: Self) -> u32;

    /// The address masked by `mask`.
    fn masked(self, mask: Self) -> Self;

    /// A number that depends on every bit of the address.
    fn hash(self) -> u32;

    /// The key for an interface of this index where addresses are keys.
    fn of_index(index: u32) -> Self;
}

/// A TCP or UDP port or an ICMP query identifier in wire order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Pod, Zeroable, Default)]
#[repr(transparent)]
pub struct Port(pub [u8; 2]);

/// An address and a port.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
pub struct Endpoint<A> {
    /// The address.
    pub address: A,
    /// The port; 0 for protocols without ports.
    pub port: Port,
}

impl Port {
    /// No port.
    pub const ZERO: Self = Self([0, 0]);

    /// From a number.
    #[inline(always)]
    #[must_use]
    pub const fn new(number: u16) -> Self {
        Self(number.to_be_bytes())
    }

    /// As a number.
    #[inline(always)]
    #[must_use]
    pub const fn number(self) -> u16 {
        u16::from_be_bytes(self.0)
    }

    /// The word as it is in memory, for checksums.
    #[inline(always)]
    #[must_use]
    pub const fn sum(self) -> u32 {
        u16::from_ne_bytes(self.0) as u32
    }
}

impl<A: Address> Endpoint<A> {
    /// From its parts.
    #[inline(always)]
    pub const fn new(address: A, port: Port) -> Self {
        Self { address, port }
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number().fmt(f)
    }
}
