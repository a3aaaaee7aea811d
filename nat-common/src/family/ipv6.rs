//! The IPv6 header and its extension headers (RFC 8200).

use network_types::ip::Ipv6Hdr;

use crate::{
    family::header::{Family, Header},
    verifier::{read_here, verifier_barrier},
    wire::{
        address::{Addr6, Address, Port},
        checksum::Diff,
        icmp::IcmpClass,
        packet::{ChecksumKind, Packet},
        protocol::ICMPV6,
    },
};

/// Length of a header without extension headers in bytes.
pub const HEADER_LEN: usize = Ipv6Hdr::LEN;

/// Extension headers that are read past, the fragment's included. Packets with more are dropped:
/// RFC 8504 section 5.3 lets a node set such a limit.
pub const EXTENSIONS: usize = 6;

/// Offset of the addresses in the header.
const ADDRESSES: usize = 8;

/// Numbers of extension headers (RFC 8200 section 4).
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

/// What follows where nothing does (RFC 8200 section 4.7).
const NO_NEXT_HEADER: u8 = 59;

/// Length of a fragment header in bytes, and the shortest of any extension header.
const FRAGMENT_LEN: usize = 8;

/// Where a fragment header has its identification.
const FRAGMENT_ID: usize = 4;

/// Where a routing header says its type, and behind it how far it has to go.
const ROUTING_TYPE: usize = 2;

/// Where the header says what follows it.
const NEXT_HEADER: usize = 6;

/// Bits of a fragment header's second word (RFC 8200 section 4.5).
const FRAGMENT_OFFSET: u16 = 0xfff8;
const MORE_FRAGMENTS: u16 = 1;

/// The hop limit that a packet can have only on the link where it was sent (RFC 4861 section 3.1).
const UNFORWARDED: u8 = 255;

const ECHO_REQUEST: u8 = 128;
const ECHO_REPLY: u8 = 129;

impl Family for Addr6 {
    const HEADER_LEN: usize = HEADER_LEN;
    /// The length is that of the payload alone (RFC 8200 sections 3 and 4.5).
    const MAX_PAYLOAD: usize = 65535;
    const HAS_NEIGHBOURS: bool = true;
    const HAS_PREFIX_RULES: bool = true;
    const ICMP: u8 = ICMPV6;
    const ICMP_CHECKSUM: ChecksumKind = ChecksumKind::Tcp;

    /// RFC 4443. All that concerns one link alone, or hosts and their routers, is the rest: types
    /// 130 to 153 without echo (RFC 4890 section 4.4).
    #[inline(always)]
    fn classify(icmp_type: u8) -> IcmpClass {
        match icmp_type {
            ECHO_REQUEST => IcmpClass::Request,
            ECHO_REPLY => IcmpClass::Reply,
            1..=4 => IcmpClass::Error,
            _ => IcmpClass::Other,
        }
    }

    #[inline(always)]
    fn service(icmp_type: u8) -> Port {
        Port::new(match icmp_type {
            ECHO_REPLY => u16::from(ECHO_REQUEST),
            query => u16::from(query),
        })
    }

    /// RFC 8200 section 8.1.
    #[inline(always)]
    fn icmp_pseudo_sum(header: &Header<Self>, message_len: usize) -> u32 {
        let word = |number: usize| u32::from((number as u16).to_be());
        header.source.sum() + header.destination.sum() + word(message_len) + word(ICMPV6.into())
    }

    #[inline(always)]
    fn is_extension(protocol: u8) -> bool {
        matches!(
            protocol,
            HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS
        )
    }

    /// RFC 4302 section 3.3.3.1.2.
    #[inline(always)]
    fn covers_addresses(protocol: u8) -> bool {
        protocol == AUTHENTICATION
    }

    /// The quoted header has no checksum that would take the change back.
    #[inline(always)]
    fn quoted_change(addresses: Diff) -> Diff {
        addresses
    }

    #[inline(always)]
    fn parse_header<P: Packet>(packet: &P, offset: usize) -> Option<Header<Self>> {
        let mut header = parse_fixed(packet, offset)?;
        let mut place = Place::first(header.protocol);
        let mut fragment = Fragment::default();
        let mut passed = 0;
        while passed < EXTENSIONS && !place.is_end {
            if !pass(packet, offset, header.total_len, &mut place, &mut fragment) {
                break;
            }
            passed += 1;
        }
        (header.protocol, header.header_len) = (place.protocol, place.at);
        (header.id, header.more_fragments) = (fragment.id, fragment.more);
        header.fragment_offset = fragment.offset;
        Some(header)
    }

    #[inline(always)]
    fn parse_plain_header<P: Packet>(packet: &P, offset: usize) -> Option<Header<Self>> {
        let header = parse_fixed(packet, offset)?;
        (!Self::is_extension(header.protocol)).then_some(header)
    }

    #[inline(always)]
    fn read_header<P: Packet>(
        packet: &P,
        offset: usize,
        room: &mut Header<Self>,
    ) -> Option<Header<Self>> {
        let is_whole = read_apart(packet, offset, room);
        verifier_barrier(room);
        is_whole.then_some(*room)
    }

    #[inline(always)]
    fn write_addresses<P: Packet>(
        packet: &mut P,
        offset: usize,
        source: Self,
        destination: Self,
        _diff: Diff,
    ) -> Option<()> {
        let ([a, b], [c, d]) = (source.to_halves(), destination.to_halves());
        packet.write(offset + ADDRESSES, a)?;
        packet.write(offset + ADDRESSES + 8, b)?;
        packet.write(offset + ADDRESSES + 16, c)?;
        packet.write(offset + ADDRESSES + 24, d)
    }

    /// The header has no checksum: the transport's covers what matters (RFC 8200 section 8.1).
    #[inline(always)]
    fn is_intact<P: Packet>(_packet: &P, _offset: usize) -> bool {
        true
    }

    #[inline(always)]
    fn write_forwarded<P: Packet>(
        packet: &mut P,
        offset: usize,
        source: Self,
        destination: Self,
        diff: Diff,
    ) -> Option<()> {
        let at = offset + 6;
        let [next, ttl] = packet.read::<2>(at)?;
        packet.write_unsummed(at, [next, ttl.wrapping_sub(1)])?;
        Self::write_addresses(packet, offset, source, destination, diff)
    }

    #[inline(always)]
    fn write_id<P: Packet>(packet: &mut P, offset: usize, id: u32) -> Option<()> {
        let at = find(packet, offset, FRAGMENT)?;
        packet.write_unsummed(offset + at + FRAGMENT_ID, id.to_be_bytes())
    }

    /// Neighbour discovery, whose hop limit no router leaves as it is, and messages about groups,
    /// which groups receive (RFC 4890 section 4.3.3).
    #[inline(always)]
    fn is_between_neighbours(icmp_type: u8, header: &Header<Self>) -> bool {
        match icmp_type {
            133..=137 | 141 | 142 | 148 | 149 => header.ttl == UNFORWARDED,
            130..=132 | 143 | 151..=153 => header.destination.is_group(),
            _ => false,
        }
    }

    /// RFC 4291 section 2.5.6.
    #[inline(always)]
    fn stays_on_link(source: Self, destination: Self) -> bool {
        source.is_link_local() || destination.is_link_local()
    }

    #[inline(always)]
    fn route_ahead<P: Packet>(packet: &P, offset: usize) -> Option<u8> {
        let at = find(packet, offset, ROUTING)?;
        let [kind, left] = packet.read::<2>(offset + at + ROUTING_TYPE)?;
        (left != 0).then_some(kind)
    }

    #[inline(always)]
    fn id_from(random: u32) -> u32 {
        random
    }
}

/// [`Family::parse_header`] as a separate function; `false` if the header is malformed or cut off.
#[inline(never)]
fn read_apart<P: Packet>(packet: &P, offset: usize, header: &mut Header<Addr6>) -> bool {
    match Addr6::parse_header(read_here(packet), offset) {
        Some(parsed) => {
            *header = parsed;
            true
        }
        None => false,
    }
}

/// Reads the header alone.
#[inline(always)]
fn parse_fixed<P: Packet>(packet: &P, offset: usize) -> Option<Header<Addr6>> {
    let bytes = packet.read::<ADDRESSES>(offset)?;
    if bytes[0] >> 4 != 6 {
        return None;
    }
    let [source, destination] = read_addresses(packet, offset)?;
    let payload_len = usize::from(u16::from_be_bytes([bytes[4], bytes[5]]));
    Some(Header {
        source,
        destination,
        protocol: bytes[6],
        header_len: HEADER_LEN,
        // Packets of over 64 KiB have a length of 0 before segmentation.
        total_len: match payload_len {
            0 if bytes[6] != NO_NEXT_HEADER => 0,
            payload_len => HEADER_LEN + payload_len,
        },
        ttl: bytes[7],
        id: 0,
        fragment_offset: 0,
        more_fragments: false,
    })
}

#[inline(always)]
fn read_addresses<P: Packet>(packet: &P, offset: usize) -> Option<[Addr6; 2]> {
    let read = |at| packet.read::<8>(offset + at);
    let source = [read(ADDRESSES)?, read(ADDRESSES + 8)?];
    let destination = [read(ADDRESSES + 16)?, read(ADDRESSES + 24)?];
    Some([Addr6::of_halves(source), Addr6::of_halves(destination)])
}

/// A header in the chain of headers: its offset from the start of the first one, and its number.
#[derive(Clone, Copy)]
struct Place {
    at: usize,
    protocol: u8,
    /// Whether no extension header follows.
    is_end: bool,
}

/// What a fragment header says.
#[derive(Clone, Copy, Default)]
struct Fragment {
    is_there: bool,
    id: u32,
    offset: u16,
    more: bool,
}

impl Place {
    #[inline(always)]
    fn first(protocol: u8) -> Self {
        Self::behind(HEADER_LEN, protocol)
    }

    #[inline(always)]
    fn behind(at: usize, protocol: u8) -> Self {
        Self {
            at,
            protocol,
            is_end: !Addr6::is_extension(protocol),
        }
    }
}

/// Reads the extension header at `place`, and goes on to what follows it. `false`, and the place as
/// it was, if the header is cut off, goes past `total_len` (0 if unknown), or is a second fragment
/// header, which no sender makes.
#[inline(always)]
fn pass<P: Packet>(
    packet: &P,
    offset: usize,
    total_len: usize,
    place: &mut Place,
    fragment: &mut Fragment,
) -> bool {
    let Some(bytes) = packet.read::<FRAGMENT_LEN>(offset + place.at) else {
        return false;
    };
    let is_fragment = place.protocol == FRAGMENT;
    let len = length(place.protocol, bytes);
    let is_past = total_len != 0 && place.at + len > total_len;
    if is_past || (is_fragment && fragment.is_there) {
        return false;
    }
    *place = Place::behind(place.at + len, bytes[0]);
    if is_fragment {
        let word = u16::from_be_bytes([bytes[2], bytes[3]]);
        *fragment = Fragment {
            is_there: true,
            id: u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
            offset: word & FRAGMENT_OFFSET,
            more: word & MORE_FRAGMENTS != 0,
        };
        // What comes behind a later fragment's header is its payload, whatever its number says.
        place.is_end |= fragment.offset != 0;
    }
    true
}

/// Where the first extension header of this kind starts, in bytes from `offset`.
#[inline(always)]
fn find<P: Packet>(packet: &P, offset: usize, wanted: u8) -> Option<usize> {
    let [protocol, _] = packet.read::<2>(offset + NEXT_HEADER)?;
    let mut place = Place::first(protocol);
    let mut passed = 0;
    while passed < EXTENSIONS && !place.is_end {
        if place.protocol == wanted {
            return Some(place.at);
        }
        let bytes = packet.read::<FRAGMENT_LEN>(offset + place.at)?;
        place = Place::behind(place.at + length(place.protocol, bytes), bytes[0]);
        passed += 1;
    }
    None
}

/// Length of an extension header in bytes (RFC 8200 sections 4.3 to 4.6).
#[inline(always)]
fn length(protocol: u8, bytes: [u8; FRAGMENT_LEN]) -> usize {
    match protocol {
        FRAGMENT => FRAGMENT_LEN,
        _ => (usize::from(bytes[1]) + 1) * 8,
    }
}
