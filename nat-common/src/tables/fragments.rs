//! `FRAGMENTS`: the ports of packets that are sent in fragments.

use crate::{
    headers::parsed::Parsed,
    tables::{insert::InsertError, sessions::View},
    wire::address::{Addr4, Address, Port},
};

/// Key of `DATAGRAMS` and `FRAGMENTS`: a packet that is being sent in fragments (RFC 791).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
pub struct FragmentKey<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// The packet's identification.
    pub id: u32,
    /// Number of the network that it came from.
    pub network: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// A [`View`].
    pub view: u8,
}

/// Value of `FRAGMENTS`: what the first fragment said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct FragmentPorts {
    /// Source port.
    pub source_port: Port,
    /// Destination port.
    pub destination_port: Port,
    /// When the first fragment came, in seconds of the monotonic clock.
    pub seen_s: u32,
    /// The identification under which it goes on.
    pub id: u32,
}

impl<A: Address> Parsed<A> {
    /// The key of the packet that this fragment is a part of.
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

/// The table of the ports of packets in fragments.
pub trait Fragments<A: Address> {
    /// What the first fragment of a packet said.
    fn fragment(&self, key: &FragmentKey<A>) -> Option<&FragmentPorts>;
    /// Remembers what the first fragment of a packet says; the oldest make room.
    fn put_fragment(&self, key: &FragmentKey<A>, ports: &FragmentPorts);
    /// Adds what the first fragment of a packet said; the oldest make room.
    fn add_fragment(&self, key: &FragmentKey<A>, ports: &FragmentPorts) -> Result<(), InsertError>;
}

/// IPv4 key of `DATAGRAMS` and `FRAGMENTS`.
pub type FragmentKey4 = FragmentKey<Addr4>;

crate::map_layout!(FragmentKey4, 16);
crate::map_layout!(FragmentPorts, 12);
