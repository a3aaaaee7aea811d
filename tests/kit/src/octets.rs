//! An address as its bytes, and what the headers of its family are like.
//!
//! A host of the tests has an address in each family: the IPv6 address ends with the bytes of the
//! IPv4 address.

use std::{cell::Cell, fmt::Debug, hash::Hash, thread::LocalKey};

use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, Ipv6Header};
use nat_common::{
    family::Family,
    tables::bindings::Name,
    wire::{
        address::{Addr4, Addr6},
        protocol::{ICMP, ICMPV6},
    },
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
    /// Where a header has the packet's hops: TTL or hop limit.
    const HOPS: usize;
    /// Where a header has the packet's length, in two bytes.
    const LENGTH: usize;
    /// Protocol number of ICMP.
    const ICMP: u8;
    /// Types of an echo request and its reply.
    const ECHO: [u8; 2];
    /// Type of the error that a destination is unreachable.
    const UNREACHABLE: u8;
    /// Its code for a host.
    const HOST_UNREACHABLE: u8;
    /// Type of the error that the last hop is behind the packet.
    const TIME_EXCEEDED: u8;
    /// Type of the error that a header is wrong.
    const PARAMETER_PROBLEM: u8;
    /// Type and code of the error that a packet is too big.
    const TOO_BIG: [u8; 2];
    /// Type of a redirect.
    const REDIRECT: u8;
    /// Length of all headers before a fragment's bytes.
    const FRAGMENT_HEADER: usize;

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

    /// Options in the form of [`Outside::before`].
    fn options(bytes: &[u8]) -> (u8, Vec<u8>);

    /// A packet from its header on.
    fn packet(outside: &Outside<Self>, inside: &[u8]) -> Vec<u8>;

    /// What the ICMP checksum covers besides the message.
    fn icmp_pseudo_header(source: Self, destination: Self, len: usize) -> Vec<u8>;

    /// The most bytes behind a header without options.
    const LONGEST: usize;

    /// What is inside of a packet, extension headers included.
    fn inside(packet: &[u8]) -> &[u8];

    /// The protocol of a packet that is no fragment, and its message, without padding. Checks the
    /// header.
    fn open(packet: &[u8]) -> (u8, &[u8]);

    /// A fragment of a packet with these bytes of it, which start so many bytes behind its header.
    fn fragment(packet: &[u8], start: usize, part: &[u8], more_fragments: bool) -> Vec<u8>;

    /// Makes the checksum of a header without options right, if headers have one.
    fn correct_header(packet: &mut [u8]);

    /// Places a fragment, from its header on, at this block of eight bytes.
    fn place(fragment: &mut [u8], block: u16, more_fragments: bool);

    /// The identification of a fragment.
    fn fragment_id(fragment: &[u8]) -> u32;

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

/// The IPv6 address of the host that has this IPv4 address. It is of the same kind, as far as there
/// is one: unspecified, loopback, of one link, of a private network, of a group, or public.
pub const fn ipv6(ipv4: [u8; 4]) -> [u8; 16] {
    let [a, b, c, d] = ipv4;
    let prefix: [u8; 4] = match (a, b) {
        (0, _) => [0; 4],
        (127, _) => return [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        (169, 254) => [0xfe, 0x80, 0, 0],
        (10, _) | (172, 16..32) | (192, 168) | (100, 64..128) => [0xfd, 0, 0, 0],
        (224.., _) => [0xff, 0x0e, 0, 0],
        _ => [0x20, 0x01, 0x0d, 0xb8],
    };
    let [e, f, g, h] = prefix;
    [e, f, g, h, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d]
}

/// Number of the IPv6 header with options for every hop.
pub const HOP_BY_HOP: u8 = 0;

/// Number of the IPv6 header with a route.
pub const ROUTING: u8 = 43;

/// Number of the IPv6 header that a fragment has.
pub const FRAGMENT: u8 = 44;

/// Number of the IPv6 header with options for the destination.
pub const DESTINATION_OPTIONS: u8 = 60;

/// Length of a fragment header in bytes.
const FRAGMENT_LEN: usize = 8;

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
    const HOPS: usize = 8;
    const LENGTH: usize = 2;
    const ICMP: u8 = ICMP;
    const ECHO: [u8; 2] = [8, 0];
    const UNREACHABLE: u8 = 3;
    const HOST_UNREACHABLE: u8 = 1;
    const TIME_EXCEEDED: u8 = 11;
    const PARAMETER_PROBLEM: u8 = 12;
    const TOO_BIG: [u8; 2] = [3, 4];
    const REDIRECT: u8 = 5;
    const FRAGMENT_HEADER: usize = Ipv4Header::MIN_LEN;

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

    fn options(bytes: &[u8]) -> (u8, Vec<u8>) {
        (0, bytes.to_vec())
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

    const LONGEST: usize = 65_535 - Ipv4Header::MIN_LEN;

    fn inside(packet: &[u8]) -> &[u8] {
        Ipv4Header::from_slice(packet).unwrap().1
    }

    fn open(packet: &[u8]) -> (u8, &[u8]) {
        let (ip, rest) = Ipv4Header::from_slice(packet).unwrap();
        let right = ip.calc_header_checksum();
        assert_eq!(ip.header_checksum, right, "IP checksum: {packet:02x?}");
        assert!(!ip.is_fragmenting_payload(), "a fragment: {packet:02x?}");
        let len = usize::from(ip.payload_len().unwrap());
        (ip.protocol.0, &rest[..len])
    }

    fn fragment(packet: &[u8], start: usize, part: &[u8], more_fragments: bool) -> Vec<u8> {
        let (mut ip, _) = Ipv4Header::from_slice(packet).unwrap();
        ip.fragment_offset = IpFragOffset::try_new((start / 8) as u16).unwrap();
        ip.more_fragments = more_fragments;
        ip.set_payload_len(part.len()).unwrap();
        ip.header_checksum = ip.calc_header_checksum();
        [&ip.to_bytes()[..], part].concat()
    }

    fn correct_header(packet: &mut [u8]) {
        packet[10..12].fill(0);
        let sum = !ones_complement_sum(&packet[..Ipv4Header::MIN_LEN]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }

    fn place(fragment: &mut [u8], block: u16, more_fragments: bool) {
        let (mut ip, _) = Ipv4Header::from_slice(fragment).unwrap();
        ip.fragment_offset = IpFragOffset::try_new(block).unwrap();
        ip.more_fragments = more_fragments;
        ip.header_checksum = ip.calc_header_checksum();
        let header = ip.to_bytes();
        fragment[..header.len()].copy_from_slice(&header);
    }

    fn fragment_id(fragment: &[u8]) -> u32 {
        u16::from_be_bytes([fragment[4], fragment[5]]).into()
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

impl Octets for [u8; 16] {
    type Address = Addr6;

    const ETHERTYPE: [u8; 2] = [0x86, 0xdd];
    const HEADER: usize = Ipv6Header::LEN;
    const SOURCE: usize = 8;
    const PREFIX_BITS: u32 = 96;
    const HOPS: usize = 7;
    const LENGTH: usize = 4;
    const ICMP: u8 = ICMPV6;
    const ECHO: [u8; 2] = [128, 129];
    const UNREACHABLE: u8 = 1;
    const HOST_UNREACHABLE: u8 = 3;
    const TIME_EXCEEDED: u8 = 3;
    const PARAMETER_PROBLEM: u8 = 4;
    const TOO_BIG: [u8; 2] = [2, 0];
    const REDIRECT: u8 = 137;
    const FRAGMENT_HEADER: usize = Ipv6Header::LEN + FRAGMENT_LEN;

    fn of_host(ipv4: [u8; 4]) -> Self {
        ipv6(ipv4)
    }

    fn host(self) -> [u8; 4] {
        let [.., a, b, c, d] = self;
        [a, b, c, d]
    }

    fn of_address(address: Addr6) -> Self {
        address.bytes()
    }

    fn address(self) -> Addr6 {
        Addr6::new(self)
    }

    fn at(packet: &[u8], offset: usize) -> Self {
        let bytes = packet.get(offset..).and_then(<[u8]>::first_chunk);
        bytes.copied().unwrap_or_default()
    }

    fn work() -> &'static LocalKey<Cell<Work<Addr6>>> {
        thread_local! {
            static WORK: Cell<Work<Addr6>> = Cell::default();
        }
        &WORK
    }

    /// One option that pads (RFC 8200 section 4.2), as long as the header needs it.
    fn options(bytes: &[u8]) -> (u8, Vec<u8>) {
        let len = (bytes.len() + 4).next_multiple_of(8) - 2;
        let mut option = [&[1, len as u8 - 2], bytes].concat();
        option.resize(len, 0);
        (DESTINATION_OPTIONS, option)
    }

    fn packet(outside: &Outside<Self>, inside: &[u8]) -> Vec<u8> {
        let before = &outside.before;
        let mut next: Vec<u8> = before.iter().map(|(number, _)| *number).collect();
        next.push(outside.protocol);
        let mut extensions = Vec::new();
        for ((number, bytes), next) in before.iter().zip(&next[1..]) {
            let len = (bytes.len() + 2) / 8 - 1;
            let len = if *number == FRAGMENT { 0 } else { len as u8 };
            extensions.extend([&[*next, len], &bytes[..]].concat());
        }
        let [high, low] = outside.id.to_be_bytes();
        let len = ((extensions.len() + inside.len()) as u16).to_be_bytes();
        [
            &[0x60, 0, high, low, len[0], len[1], next[0], 64],
            &outside.source[..],
            &outside.destination,
            &extensions,
            inside,
        ]
        .concat()
    }

    fn icmp_pseudo_header(source: Self, destination: Self, len: usize) -> Vec<u8> {
        let len = (len as u32).to_be_bytes();
        [&source[..], &destination, &len, &[0, 0, 0, ICMPV6]].concat()
    }

    const LONGEST: usize = 65_535;

    fn inside(packet: &[u8]) -> &[u8] {
        &packet[Ipv6Header::LEN..]
    }

    fn open(packet: &[u8]) -> (u8, &[u8]) {
        let (ip, rest) = Ipv6Header::from_slice(packet).unwrap();
        let (mut next, mut rest) = (ip.next_header, &rest[..ip.payload_length.into()]);
        while let HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS = next.0 {
            assert_ne!(next.0, FRAGMENT, "a fragment: {packet:02x?}");
            next = IpNumber(rest[0]);
            rest = &rest[(usize::from(rest[1]) + 1) * 8..];
        }
        (next.0, rest)
    }

    /// The fragment header comes before all other extension headers.
    fn fragment(packet: &[u8], start: usize, part: &[u8], more_fragments: bool) -> Vec<u8> {
        let mut header = packet[..Ipv6Header::LEN].to_vec();
        let len = (FRAGMENT_LEN + part.len()) as u16;
        header[4..6].copy_from_slice(&len.to_be_bytes());
        header[6] = FRAGMENT;
        let [high, low] = (start as u16 | u16::from(more_fragments)).to_be_bytes();
        let fragment = [packet[6], 0, high, low, 0, 0, packet[2], packet[3]];
        [&header, &fragment[..], part].concat()
    }

    fn correct_header(_: &mut [u8]) {}

    fn place(fragment: &mut [u8], block: u16, more_fragments: bool) {
        let word = (block * 8) | u16::from(more_fragments);
        fragment[42..44].copy_from_slice(&word.to_be_bytes());
    }

    fn fragment_id(fragment: &[u8]) -> u32 {
        u32::from_be_bytes([fragment[44], fragment[45], fragment[46], fragment[47]])
    }

    fn join(fragments: &[&[u8]]) -> Vec<u8> {
        let start = |fragment: &[u8]| {
            assert_eq!(fragment[6], FRAGMENT);
            usize::from(u16::from_be_bytes([fragment[42], fragment[43]]) & !7)
        };
        let parts: Vec<_> = fragments
            .iter()
            .map(|fragment| (start(fragment), &fragment[Self::FRAGMENT_HEADER..]))
            .collect();
        let whole = put_together(&parts);
        let first = fragments.iter().rev().find(|fragment| start(fragment) == 0);
        let first = first.expect("a first fragment");
        let mut header = first[..Ipv6Header::LEN].to_vec();
        header[4..6].copy_from_slice(&(whole.len() as u16).to_be_bytes());
        header[6] = first[Ipv6Header::LEN];
        [header, whole].concat()
    }
}
