//! `INTERFACES` and `INTERFACE_CACHE`: the roles of interfaces.

use bitflags::bitflags;
use bytemuck::{Pod, Zeroable};

/// Value of `INTERFACES`, whose key is the interface's index.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Interface {
    /// [`role`].
    pub role: u16,
    /// Number of the uplink or network, from 1; for a port, that of its network.
    pub number: u16,
    /// For an uplink: the largest TCP segment in bytes that a connection through it may announce
    /// (RFC 9293 section 3.7.1), 0 to leave announcements unchanged.
    pub mss: u16,
    /// Its properties.
    pub flags: InterfaceFlags,
    /// Its link-layer address, zero if it has none; for a port, that of its bridge.
    pub mac: [u8; 6],
    /// For a port: the VLAN of frames without a tag, if its bridge filters VLANs, otherwise 0.
    pub vlan: u16,
}

/// Value of `INTERFACE_CACHE`: an interface for a lookup without a search, at its index modulo
/// [`CACHED_INTERFACES`], unless another interface has that place.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct CachedInterface {
    /// Its entry.
    pub interface: Interface,
    /// Its index, 0 if the place is free.
    pub index: u32,
}

/// How many places for interfaces there are.
pub const CACHED_INTERFACES: u32 = 1024;

/// What an interface is.
pub mod role {
    /// An uplink.
    pub const UPLINK: u16 = 1;
    /// An inside network.
    pub const NETWORK: u16 = 2;
    /// A port of an inside network's bridge.
    pub const PORT: u16 = 3;
}

bitflags! {
    /// Bits of [`Interface::flags`].
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
    #[repr(transparent)]
    pub struct InterfaceFlags: u16 {
        /// Guests of this network may send only from addresses that are theirs.
        const ANTI_SPOOF = 1 << 0;
        /// Guests are directly behind this interface, which has the fast path. (For a bridge, its
        /// ports have it.)
        const NO_BRIDGE = 1 << 1;
        /// It is not the only uplink: sessions may have the address of another one.
        const ONE_OF_SEVERAL = 1 << 2;
        /// There are policies.
        const POLICED = 1 << 3;
        /// Netfilter sees packets before the hook at its ingress does, as on a bridge with
        /// `bridge-nf-call-iptables`. A packet that is translated there is received again, so that
        /// netfilter sees the translated packet.
        const NETFILTER_FIRST = 1 << 4;
        /// Its frames come from a stack on the same machine, which may have left checksums
        /// unfinished.
        const MAY_BE_UNFINISHED = 1 << 5;
        /// Frames from this port are checked ([`crate::pipeline::guard`]).
        const GUARDED = 1 << 6;
        /// This port is up and has a carrier: addresses bound to it stay bound.
        const CARRIES = 1 << 7;
        /// Packets from this port do not take the fast path.
        const SLOW = 1 << 8;
        /// natbpf serves DHCP behind this port: no guest may, and no guest takes all addresses.
        const SERVED = 1 << 9;
        /// Prefixes of IPv6 become others at this uplink, behind the program at its egress: packets
        /// that are not translated here do not take the fast path, which may send them past it.
        const HAS_PREFIXES = 1 << 10;
    }
}

/// The tables of interfaces.
pub trait Interfaces {
    /// The role of an interface.
    fn interface(&self, index: u32) -> Option<&Interface>;
    /// The same, copied, and without a search if possible.
    fn cached_interface(&self, index: u32) -> Option<Interface>;
}

crate::map_layout!(Interface, 16);
crate::map_layout!(CachedInterface, 20);
