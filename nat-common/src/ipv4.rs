//! The IPv4 header (RFC 791).

use core::mem::offset_of;

use network_types::ip::Ipv4Hdr;

use crate::{
    address::{Addr4, Address},
    headers::parsed::Header,
    packet::Packet,
    wire::checksum::{Diff, fold},
};

/// Length of a header without options in bytes.
pub const HEADER_LEN: usize = Ipv4Hdr::LEN;

const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

impl Address for Addr4 {
    const UNSPECIFIED: Self = Self([0; 4]);
    const LOOPBACK: Self = Self([127, 0, 0, 1]);

    #[inline(always)]
    fn is_loopback(self) -> bool {
        self.0[0] == 127
    }

    #[inline(always)]
    fn sum(self) -> u32 {
        let word = u32::from_ne_bytes(self.0);
        (word & 0xffff) + (word >> 16)
    }

    #[inline(always)]
    fn is_valid_source(self) -> bool {
        // 0/8 this network, 127/8 loopback, 224/4 multicast, 240/4 reserved and broadcast.
        !matches!(self.0[0], 0 | 127 | 224..)
    }

    #[inline(always)]
    fn is_group(self) -> bool {
        self.0[0] >= 224
    }

    #[inline(always)]
    fn is_unicast(self) -> bool {
        self.0[0] < 224
    }

    #[inline(always)]
    fn is_private(self) -> bool {
        // RFC 1918, RFC 6598.
        let [first, second, ..] = self.0;
        match first {
            10 => true,
            172 => second & 0xf0 == 16,
            192 => second == 168,
            100 => second & 0xc0 == 64,
            _ => false,
        }
    }

    #[inline(always)]
    fn masked(self, mask: Self) -> Self {
        Self((u32::from_ne_bytes(self.0) & u32::from_ne_bytes(mask.0)).to_ne_bytes())
    }

    #[inline(always)]
    fn offset_by(self, offset: u32) -> Self {
        Self(
            u32::from_be_bytes(self.0)
                .wrapping_add(offset)
                .to_be_bytes(),
        )
    }

    #[inline(always)]
    fn distance_to(self, last: Self) -> u32 {
        u32::from_be_bytes(last.0).saturating_sub(u32::from_be_bytes(self.0))
    }

    #[inline(always)]
    fn mix(self) -> u32 {
        // Fibonacci hashing: neighbours land far apart.
        let mixed = u32::from_be_bytes(self.0).wrapping_mul(0x9e37_79b1);
        mixed ^ (mixed >> 15)
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

    const HEADER_LEN: usize = HEADER_LEN;

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
        // Halves of a one's complement sum may be added up (RFC 1071 section 2 (C)).
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

    #[inline(always)]
    fn of_index(index: u32) -> Self {
        Self(index.to_be_bytes())
    }

    #[inline(always)]
    fn id_from(random: u32) -> u32 {
        random & u32::from(u16::MAX)
    }
}
