//! `DESTINATIONS` and `OWN_ADDRESSES`: the destinations that sockets of the host have named, and
//! the addresses that the loopback address stands for.

use crate::wire::address::{Addr4, Address, Endpoint, Port};

/// How many addresses the loopback address can stand for.
pub const MAX_OWN: usize = 64;

/// The only value of `OWN_ADDRESSES`: what the loopback address stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct OwnAddresses<A> {
    /// How many there are.
    pub count: u32,
    /// The uplinks' addresses, in the order in which they are tried.
    pub addresses: [A; MAX_OWN],
}

/// Key of `DESTINATIONS`: a socket and its guest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
pub struct OriginalDestinationKey<A> {
    /// The kernel's number of the socket, which is unique.
    pub socket: u64,
    /// The guest's address.
    pub address: A,
    /// The guest's port.
    pub port: Port,
    /// Zero.
    pub reserved: u16,
}

/// Value of `DESTINATIONS`: the destination that the socket has named and sees as its peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct OriginalDestination<A> {
    /// The address.
    pub address: A,
    /// The port.
    pub port: Port,
    /// Zero.
    pub reserved: u16,
}

impl<A: Address> OriginalDestinationKey<A> {
    /// From a socket and its guest.
    #[inline(always)]
    pub fn new(socket: u64, guest: Endpoint<A>) -> Self {
        Self {
            socket,
            address: guest.address,
            port: guest.port,
            reserved: 0,
        }
    }
}

impl<A: Address> OriginalDestination<A> {
    /// From an address and a port.
    #[inline(always)]
    pub fn new(named: Endpoint<A>) -> Self {
        Self {
            address: named.address,
            port: named.port,
            reserved: 0,
        }
    }

    /// The address with its port.
    #[inline(always)]
    pub fn endpoint(&self) -> Endpoint<A> {
        Endpoint::new(self.address, self.port)
    }
}

/// IPv4 value of `OWN_ADDRESSES`.
pub type OwnAddresses4 = OwnAddresses<Addr4>;

/// IPv4 key of `DESTINATIONS`.
pub type OriginalDestinationKey4 = OriginalDestinationKey<Addr4>;

/// IPv4 value of `DESTINATIONS`.
pub type OriginalDestination4 = OriginalDestination<Addr4>;

crate::map_layout!(OwnAddresses4, 260);
crate::map_layout!(OriginalDestinationKey4, 16);
crate::map_layout!(OriginalDestination4, 8);
