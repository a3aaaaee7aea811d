//! An address as its bytes, and what the headers of its family are like.
//!
//! A host of the tests has an address in each family: the IPv6 address ends with the bytes of the
//! IPv4 address.

use std::{cell::Cell, fmt::Debug, hash::Hash, thread::LocalKey};

use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv4Options};
use nat_common::{
    family::Family,
    tables::bindings::Name,
    wire::{address::Addr4, protocol::ICMP},
    work::Work,
};

use crate::packets::ones_complement_sum;

/// The bytes of an address, which decide the family of a packet, a world and its tables.
pub trait Octets:
    Copy + Default + Debug + Eq + Ord + Hash + AsRef<[u8]> + Send + Sync + 'static
{
    /// The address in the data plane.
    type Address: Family + Hash;

    /// How Ethernet calls the family.
    const ETHERTYPE: [u8; 2];
    /// Length of a header without options or extension headers in bytes.
    const HEADER: usize;
    /// Where a header has its source; the destination follows.
    const SOURCE: usize;
    /// Bits of an address before those of the IPv4 address that it ends with.
    const PREFIX_BITS: u32;
    /// Protocol number of ICMP.
    const ICMP: u8;
    /// Types of an echo request and its reply.
    const ECHO: [u8; 2];
    /// Type and code of the error that a host is unreachable.
    const UNREACHABLE: [u8; 2];

    /// The address of the host that has this IPv4 address.
    fn of_host(ipv4: [u8; 4]) -> Self;

    /// The IPv4 address of the host that has this address.
    fn host(self) -> [u8; 4];

    /// The address of a data plane's.
    fn of_address(address: Self::Address) -> Self;

    /// The address in the data plane.
    fn address(self) -> Self::Address;

    /// The address that a packet has at an offset from its header on; zeros if it is cut off.
    fn at(packet: &[u8], offset: usize) -> Self;

    /// The name by which a network's bridge knows the address.
    fn name(self, network: u16) -> Name {
        Name::of_address(Addr4(self.host()), network)
    }

    /// The work area lies in a map: each packet finds there what the one before has left.
    fn work() -> &'static LocalKey<Cell<Work<Self::Address>>>;

    /// A packet from its header on.
    fn packet(outside: &Outside<Self>, inside: &[u8]) -> Vec<u8>;

    /// What the ICMP checksum covers besides the message.
    fn icmp_pseudo_header(source: Self, destination: Self, len: usize) -> Vec<u8>;

    /// A packet, from its header on, cut into fragments with so many bytes of payload each.
    fn cut(packet: &[u8], size: usize) -> Vec<Vec<u8>>;

    /// A packet from all its fragments, each from its header on.
    fn join(fragments: &[&[u8]]) -> Vec<u8>;
}

/// An address of a family in the data plane.
pub type AddressOf<I> = <I as Octets>::Address;

/// What the header of a packet says.
#[derive(Debug, Clone)]
pub struct Outside<I> {
    /// Where it comes from.
    pub source: I,
    /// Where it goes.
    pub destination: I,
    /// The protocol of what is inside.
    pub protocol: u8,
    /// The identification for reassembly. IPv6 has none in a whole packet, whose flow label it is:
    /// its fragments get it from there.
    pub id: u16,
    /// Options of IPv4 under the number 0; extension headers of IPv6 under theirs, without next
    /// header and length.
    pub before: Vec<(u8, Vec<u8>)>,
}

/// The IPv4 address of the host that has this one: itself.
pub const fn ipv4(address: [u8; 4]) -> [u8; 4] {
    address
}

/// Puts the parts of a packet together: where each one starts, and its bytes.
pub(crate) fn put_together(parts: &[(usize, &[u8])]) -> Vec<u8> {
    let mut whole = Vec::new();
    for (start, part) in parts {
        whole.resize(whole.len().max(start + part.len()), 0);
        whole[*start..start + part.len()].copy_from_slice(part);
    }
    whole
}

impl Octets for [u8; 4] {
    type Address = Addr4;

    const ETHERTYPE: [u8; 2] = [8, 0];
    const HEADER: usize = Ipv4Header::MIN_LEN;
    const SOURCE: usize = 12;
    const PREFIX_BITS: u32 = 0;
    const ICMP: u8 = ICMP;
    const ECHO: [u8; 2] = [8, 0];
    const UNREACHABLE: [u8; 2] = [3, 1];

    fn of_host(ipv4: [u8; 4]) -> Self {
        ipv4
    }

    fn host(self) -> [u8; 4] {
        self
    }

    fn of_address(address: Addr4) -> Self {
        address.0
    }

    fn address(self) -> Addr4 {
        Addr4(self)
    }

    fn at(packet: &[u8], offset: usize) -> Self {
        let bytes = packet.get(offset..).and_then(<[u8]>::first_chunk);
        bytes.copied().unwrap_or_default()
    }

    fn work() -> &'static LocalKey<Cell<Work<Addr4>>> {
        thread_local! {
            static WORK: Cell<Work<Addr4>> = Cell::default();
        }
        &WORK
    }

    fn packet(outside: &Outside<Self>, inside: &[u8]) -> Vec<u8> {
        let protocol = IpNumber(outside.protocol);
        let (source, destination) = (outside.source, outside.destination);
        let mut ip = Ipv4Header::new(0, 64, protocol, source, destination).unwrap();
        for (_, options) in &outside.before {
            ip.options = Ipv4Options::try_from(&options[..]).unwrap();
        }
        ip.identification = outside.id;
        ip.dont_fragment = false;
        ip.set_payload_len(inside.len()).unwrap();
        ip.header_checksum = ip.calc_header_checksum();
        [&ip.to_bytes()[..], inside].concat()
    }

    fn icmp_pseudo_header(_: Self, _: Self, _: usize) -> Vec<u8> {
        Vec::new()
    }

    fn cut(packet: &[u8], size: usize) -> Vec<Vec<u8>> {
        let (ip, payload) = Ipv4Header::from_slice(packet).unwrap();
        let count = payload.len().div_ceil(size);
        let cut = |(index, part): (usize, &[u8])| {
            let mut ip = ip.clone();
            ip.fragment_offset = IpFragOffset::try_new((index * size / 8) as u16).unwrap();
            ip.more_fragments = index + 1 < count;
            ip.set_payload_len(part.len()).unwrap();
            ip.header_checksum = ip.calc_header_checksum();
            [&ip.to_bytes()[..], part].concat()
        };
        payload.chunks(size).enumerate().map(cut).collect()
    }

    fn join(fragments: &[&[u8]]) -> Vec<u8> {
        let read = fragments.iter().map(|fragment| {
            assert_eq!(ones_complement_sum(&fragment[..20]), 0xffff);
            Ipv4Header::from_slice(fragment).unwrap()
        });
        let read: Vec<_> = read.collect();
        let start = |ip: &Ipv4Header| usize::from(ip.fragment_offset.value()) * 8;
        let parts: Vec<_> = read.iter().map(|(ip, part)| (start(ip), *part)).collect();
        let whole = put_together(&parts);
        let first = read.iter().rev().find(|(ip, _)| start(ip) == 0);
        let mut ip = first.expect("a first fragment").0.clone();
        ip.more_fragments = false;
        ip.set_payload_len(whole.len()).unwrap();
        ip.header_checksum = ip.calc_header_checksum();
        [&ip.to_bytes()[..], &whole].concat()
    }
}
