//! The IPv4 header (RFC 791).

use core::mem::offset_of;

use network_types::ip::Ipv4Hdr;

use crate::{
    family::header::{Family, Header},
    wire::{
        address::{Addr4, Port},
        checksum::{Diff, fold},
        icmp::IcmpClass,
        packet::{ChecksumKind, Packet},
        protocol::ICMP,
    },
};

/// Length of a header without options in bytes.
pub const HEADER_LEN: usize = Ipv4Hdr::LEN;

const MORE_FRAGMENTS: u16 = 0x2000;

const FRAGMENT_OFFSET: u16 = 0x1fff;

impl Family for Addr4 {
    const HEADER_LEN: usize = HEADER_LEN;
    const MAX_PAYLOAD: usize = 65535 - HEADER_LEN;
    const HAS_NEIGHBOURS: bool = false;
    const HAS_PREFIX_RULES: bool = false;
    const ICMP: u8 = ICMP;
    const ICMP_CHECKSUM: ChecksumKind = ChecksumKind::Icmp;

    /// RFC 792, RFC 950, RFC 5508.
    #[inline(always)]
    fn classify(icmp_type: u8) -> IcmpClass {
        match icmp_type {
            8 | 13 | 15 | 17 => IcmpClass::Request,
            0 | 14 | 16 | 18 => IcmpClass::Reply,
            3 | 11 | 12 => IcmpClass::Error,
            _ => IcmpClass::Other,
        }
    }

    #[inline(always)]
    fn service(icmp_type: u8) -> Port {
        const ECHO: u8 = 8;
        Port::new(match icmp_type {
            0 => u16::from(ECHO),
            // Timestamp, information, address mask: the answer's type comes after the query's.
            14 | 16 | 18 => u16::from(icmp_type) - 1,
            query => u16::from(query),
        })
    }

    #[inline(always)]
    fn icmp_pseudo_sum(_header: &Header<Self>, _message_len: usize) -> u32 {
        0
    }

    #[inline(always)]
    fn is_extension(_protocol: u8) -> bool {
        false
    }

    /// (An authentication header is translated like any protocol: its receiver decides.)
    #[inline(always)]
    fn covers_addresses(_protocol: u8) -> bool {
        false
    }

    #[inline(always)]
    fn quoted_change(_addresses: Diff) -> Diff {
        Diff::NONE
    }

    #[inline(always)]
    fn parse_header<P: Packet>(packet: &P, offset: usize) -> Option<Header<Self>> {
        let bytes = packet.read::<HEADER_LEN>(offset)?;
        let header_len = usize::from(bytes[0] & 0x0f) * 4;
        if bytes[0] >> 4 != 4 || header_len < HEADER_LEN {
            return None;
        }
        let fragment = u16::from_be_bytes([bytes[6], bytes[7]]);
        Some(Header {
            source: Self([bytes[12], bytes[13], bytes[14], bytes[15]]),
            destination: Self([bytes[16], bytes[17], bytes[18], bytes[19]]),
            protocol: bytes[9],
            header_len,
            total_len: usize::from(u16::from_be_bytes([bytes[2], bytes[3]])),
            ttl: bytes[8],
            id: u32::from(u16::from_be_bytes([bytes[4], bytes[5]])),
            fragment_offset: (fragment & FRAGMENT_OFFSET) * 8,
            more_fragments: fragment & MORE_FRAGMENTS != 0,
        })
    }

    #[inline(always)]
    fn write_addresses<P: Packet>(
        packet: &mut P,
        offset: usize,
        source: Self,
        destination: Self,
        diff: Diff,
    ) -> Option<()> {
        let check = offset + offset_of!(Ipv4Hdr, check);
        let field = packet.read::<2>(check)?;
        packet.write(check, diff.apply(field))?;
        packet.write(offset + offset_of!(Ipv4Hdr, src_addr), source.0)?;
        packet.write(offset + offset_of!(Ipv4Hdr, dst_addr), destination.0)
    }

    #[inline(always)]
    fn is_intact<P: Packet>(packet: &P, offset: usize) -> bool {
        let Some(bytes) = packet.read::<HEADER_LEN>(offset) else {
            return false;
        };
        let mut sum = 0_u64;
        let mut at = 0;
        while at < HEADER_LEN {
            let word = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
            sum += u64::from(u32::from_ne_bytes(word));
            at += 4;
        }
        // Two halves of a one's complement sum may be added (RFC 1071 section 2 (C)).
        let halves = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
        fold(halves as u32) == u16::MAX
    }

    #[inline(always)]
    fn write_forwarded<P: Packet>(
        packet: &mut P,
        offset: usize,
        source: Self,
        destination: Self,
        diff: Diff,
    ) -> Option<()> {
        // From the time to live to the end.
        let start = offset + offset_of!(Ipv4Hdr, ttl);
        let mut bytes = packet.read::<12>(start)?;
        let word = |bytes: &[u8; 12]| u32::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
        let old = word(&bytes);
        bytes[0] = bytes[0].wrapping_sub(1);
        let diff = diff.and(Diff::NONE.replace(old, word(&bytes)));
        let check = diff.apply([bytes[2], bytes[3]]);
        bytes[2..4].copy_from_slice(&check);
        bytes[4..8].copy_from_slice(&source.0);
        bytes[8..].copy_from_slice(&destination.0);
        packet.write(start, bytes)
    }

    #[inline(always)]
    fn write_id<P: Packet>(packet: &mut P, offset: usize, id: u32) -> Option<()> {
        // From the identification to the checksum.
        let start = offset + offset_of!(Ipv4Hdr, id);
        let mut bytes = packet.read::<8>(start)?;
        let (old, new) = ([bytes[0], bytes[1]], (id as u16).to_be_bytes());
        let word = |bytes| u32::from(u16::from_ne_bytes(bytes));
        let diff = Diff::NONE.replace(word(old), word(new));
        let check = diff.apply([bytes[6], bytes[7]]);
        bytes[..2].copy_from_slice(&new);
        bytes[6..].copy_from_slice(&check);
        packet.write(start, bytes)
    }

    /// Neighbours find each other by ARP; other such messages are [`IcmpClass::Other`].
    #[inline(always)]
    fn is_between_neighbours(_icmp_type: u8, _header: &Header<Self>) -> bool {
        false
    }

    /// (Link-local addresses of IPv4 may be routed as private ones.)
    #[inline(always)]
    fn stays_on_link(_source: Self, _destination: Self) -> bool {
        false
    }

    /// IPv4 has its source routes in options, and the transport's checksum does not cover these.
    #[inline(always)]
    fn route_ahead<P: Packet>(_packet: &P, _offset: usize) -> Option<u8> {
        None
    }

    #[inline(always)]
    fn id_from(random: u32) -> u32 {
        random & u32::from(u16::MAX)
    }
}
