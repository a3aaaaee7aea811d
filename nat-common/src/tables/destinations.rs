//! `DESTINATIONS` and `OWN_ADDRESSES`: the destinations that sockets of the host have named, and
//! the addresses that the loopback address stands for.

use crate::wire::address::{Addr4, Addr6, Address, Endpoint, Port};

/// How many addresses the loopback address can stand for.
pub const MAX_OWN: usize = 64;

/// The only value of `OWN_ADDRESSES`: what the loopback address stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct OwnAddresses<A> {
    /// How many there are.
    pub count: u32,
    /// Zero.
    pub reserved: u32,
    /// The uplinks' addresses, in the order in which they are tried.
    pub addresses: [A; MAX_OWN],
}

/// Key of `DESTINATIONS`: a socket and its guest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C, packed(4))]
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
#[repr(C, packed(4))]
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

crate::map_layouts!(OwnAddresses, 264, 1032);
crate::map_layouts!(OriginalDestinationKey, 16, 28);
crate::map_layouts!(OriginalDestination, 8, 20);
