//! `FRAGMENTS`: the ports of fragmented packets.

use crate::{
    headers::parsed::Parsed,
    tables::{insert::InsertError, sessions::View},
    wire::address::{Addr4, Addr6, Address, Port},
};

/// Key of `DATAGRAMS` and `FRAGMENTS`: a fragmented packet (RFC 791).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
pub struct FragmentKey<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// The packet's identification.
    pub id: u32,
    /// Number of the network from which it came.
    pub network: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// A [`View`].
    pub view: u8,
}

/// Value of `FRAGMENTS`: the content of the first fragment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct FragmentPorts {
    /// Source port.
    pub source_port: Port,
    /// Destination port.
    pub destination_port: Port,
    /// When the first fragment arrived, in seconds of the monotonic clock.
    pub seen_s: u32,
    /// The identification with which it leaves.
    pub id: u32,
}

impl<A: Address> Parsed<A> {
    /// The key of the packet to which this fragment belongs.
    #[inline(always)]
    pub fn fragment_key(&self, view: View, network: u16) -> FragmentKey<A> {
        FragmentKey {
            source: self.header.source,
            destination: self.header.destination,
            id: self.header.id,
            network,
            protocol: self.header.protocol,
            view: view as u8,
        }
    }
}

/// The table of the ports of fragmented packets.
pub trait Fragments<A: Address> {
    /// What the first fragment of a packet contained.
    fn fragment(&self, key: &FragmentKey<A>) -> Option<&FragmentPorts>;
    /// Stores what the first fragment of a packet contains; the oldest make room.
    fn put_fragment(&self, key: &FragmentKey<A>, ports: &FragmentPorts);
    /// Adds what the first fragment of a packet contained; the oldest make room.
    fn add_fragment(&self, key: &FragmentKey<A>, ports: &FragmentPorts) -> Result<(), InsertError>;
}

/// IPv4 key of `DATAGRAMS` and `FRAGMENTS`.
pub type FragmentKey4 = FragmentKey<Addr4>;

crate::map_layouts!(FragmentKey, 16, 40);
crate::map_layout!(FragmentPorts, 12);
