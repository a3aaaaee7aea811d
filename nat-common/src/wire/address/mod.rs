//! Addresses, ports and endpoints in the byte order of the wire.

use core::fmt;

use bytemuck::{Pod, Zeroable};

mod ipv4;
mod ipv6;
mod value;

pub use ipv4::Addr4;
pub use ipv6::Addr6;
pub use value::Address;

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
