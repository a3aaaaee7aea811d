//! The IPv6 header and its extension headers (RFC 8200).

use network_types::ip::Ipv6Hdr;

use crate::{
    family::header::{Family, Header},
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

/// Where the addresses stand.
const ADDRESSES: usize = 8;

/// Numbers of extension headers (RFC 8200 section 4).
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

/// What follows where nothing does (RFC 8200 section 4.7).
const NO_NEXT_HEADER: u8 = 59;

/// Length of a fragment header in bytes.
const FRAGMENT_LEN: usize = 8;

/// Bits of a fragment header's second word (RFC 8200 section 4.5).
const FRAGMENT_OFFSET: u16 = 0xfff8;
const MORE_FRAGMENTS: u16 = 1;

const ECHO_REQUEST: u8 = 128;
const ECHO_REPLY: u8 = 129;

impl Family for Addr6 {
    const HEADER_LEN: usize = HEADER_LEN;
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

    /// The quoted header has no checksum that would take the change back.
    #[inline(always)]
    fn quoted_change(addresses: Diff) -> Diff {
        addresses
    }

    #[inline(always)]
    fn parse_header<P: Packet>(packet: &P, offset: usize) -> Option<Header<Self>> {
        let bytes = packet.read::<ADDRESSES>(offset)?;
        if bytes[0] >> 4 != 6 {
            return None;
        }
        let [source, destination] = read_addresses(packet, offset)?;
        let payload_len = usize::from(u16::from_be_bytes([bytes[4], bytes[5]]));
        let mut header = Header {
            source,
            destination,
            protocol: bytes[6],
            header_len: HEADER_LEN,
            // A length of 0 stands in packets of over 64 KiB that are still to be segmented.
            total_len: match payload_len {
                0 if bytes[6] != NO_NEXT_HEADER => 0,
                payload_len => HEADER_LEN + payload_len,
            },
            ttl: bytes[7],
            id: 0,
            fragment_offset: 0,
            more_fragments: false,
            fragment_at: 0,
            is_source_routed: false,
        };
        let mut passed = 0;
        while passed < EXTENSIONS && Self::is_extension(header.protocol) {
            if !pass_extension(packet, offset, &mut header) {
                break;
            }
            passed += 1;
        }
        Some(header)
    }

    #[inline(always)]
    fn write_addresses<P: Packet>(
        packet: &mut P,
        offset: usize,
        source: Self,
        destination: Self,
        _diff: Diff,
    ) -> Option<()> {
        let [a, b, c, d] = words_to_bytes(source, destination);
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
    fn write_id<P: Packet>(
        packet: &mut P,
        offset: usize,
        header: &Header<Self>,
        id: u32,
    ) -> Option<()> {
        if header.fragment_at == 0 {
            return None;
        }
        let at = offset + usize::from(header.fragment_at) + 4;
        packet.write_unsummed(at, id.to_be_bytes())
    }

    #[inline(always)]
    fn id_from(random: u32) -> u32 {
        random
    }
}

#[inline(always)]
fn read_addresses<P: Packet>(packet: &P, offset: usize) -> Option<[Addr6; 2]> {
    let read = |at| {
        let [a, b, c, d, e, f, g, h] = packet.read::<8>(offset + at)?;
        Some([
            u32::from_ne_bytes([a, b, c, d]),
            u32::from_ne_bytes([e, f, g, h]),
        ])
    };
    let ([a, b], [c, d]) = (read(ADDRESSES)?, read(ADDRESSES + 8)?);
    let ([e, f], [g, h]) = (read(ADDRESSES + 16)?, read(ADDRESSES + 24)?);
    Some([Addr6([a, b, c, d]), Addr6([e, f, g, h])])
}

#[inline(always)]
fn words_to_bytes(source: Addr6, destination: Addr6) -> [[u8; 8]; 4] {
    let pair = |a: u32, b: u32| {
        let ([a, b, c, d], [e, f, g, h]) = (a.to_ne_bytes(), b.to_ne_bytes());
        [a, b, c, d, e, f, g, h]
    };
    let ([a, b, c, d], [e, f, g, h]) = (source.0, destination.0);
    [pair(a, b), pair(c, d), pair(e, f), pair(g, h)]
}

/// Reads the extension header in front, and moves on to what follows it; `false`, and the header
/// as it was, if it is cut off or nothing behind it is in this packet.
#[inline(always)]
fn pass_extension<P: Packet>(packet: &P, offset: usize, header: &mut Header<Addr6>) -> bool {
    let Some(bytes) = packet.read::<FRAGMENT_LEN>(offset + header.header_len) else {
        return false;
    };
    let len = match header.protocol {
        FRAGMENT => FRAGMENT_LEN,
        _ => (usize::from(bytes[1]) + 1) * 8,
    };
    if header.total_len != 0 && header.header_len + len > header.total_len {
        return false;
    }
    match header.protocol {
        FRAGMENT => {
            // Its payload would start with another one: no sender makes that.
            if header.fragment_at != 0 {
                return false;
            }
            let word = u16::from_be_bytes([bytes[2], bytes[3]]);
            header.fragment_at = header.header_len as u16;
            header.fragment_offset = word & FRAGMENT_OFFSET;
            header.more_fragments = word & MORE_FRAGMENTS != 0;
            header.id = u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        }
        // Segments left (RFC 8200 section 4.4).
        ROUTING => header.is_source_routed |= bytes[3] != 0,
        _ => {}
    }
    header.protocol = bytes[0];
    header.header_len += len;
    // What comes behind a later fragment's header is its payload, whatever its number says.
    header.fragment_offset == 0
}
