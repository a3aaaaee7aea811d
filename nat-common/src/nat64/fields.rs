//! What both families' network headers say, and writing them.

use super::plan::Plan;
use crate::{
    drop_reason::DropReason,
    family::{Family, Header},
    wire::{
        address::{Addr4, Addr6, Address as _},
        checksum::{fold, sum},
        packet::Packet,
        protocol::{ICMP, ICMPV6},
    },
};

/// The longest IPv6 packet that every link takes, as an IPv4 packet, in bytes.
const MIN_MTU_AS_IPV4: usize = 1260;

const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;

/// Number of the fragment header (RFC 8200 section 4.5), and its length in bytes.
const FRAGMENT: u8 = 44;
const FRAGMENT_LEN: usize = 8;

/// The most bytes behind a header.
const MAX_PAYLOAD_4: usize = 65535 - 20;
const MAX_PAYLOAD_6: usize = 65535;

/// What a header says apart from its addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Fields {
    /// Traffic class, or type of service.
    pub(super) class: u8,
    pub(super) ttl: u8,
    /// Of the packet that is translated.
    pub(super) protocol: u8,
    pub(super) payload_len: usize,
    pub(super) fragment: Fragment,
}

/// The place of a packet's payload in a larger one. (No `Option`: the kernel refuses the type
/// information of one with a field in the padding of another.)
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Fragment {
    pub(super) id: u32,
    /// In bytes.
    pub(super) offset: u16,
    pub(super) more: bool,
}

impl Fields {
    /// Before any header is read.
    pub(super) const EMPTY: Self = Self {
        class: 0,
        ttl: 0,
        protocol: 0,
        payload_len: 0,
        fragment: Fragment {
            id: 0,
            offset: 0,
            more: false,
        },
    };

    /// Of a header that was read at `at`; `None` if its lengths contradict each other, a header
    /// before the transport's was not read, or the protocol's number says something else in the
    /// other family: the payload would become extension headers there, or ICMP.
    #[inline(always)]
    pub(super) fn of<A: Family, P: Packet>(
        packet: &P,
        at: usize,
        header: &Header<A>,
    ) -> Option<Self> {
        let payload_len = header.total_len.checked_sub(header.header_len)?;
        let first = packet.read::<2>(at)?;
        let is_foreign = header.protocol == ICMP + ICMPV6 - A::ICMP;
        if is_foreign || Addr6::is_extension(header.protocol) {
            return None;
        }
        Some(Self {
            class: match first[0] >> 4 {
                6 => first[0] << 4 | first[1] >> 4,
                _ => first[1],
            },
            ttl: header.ttl,
            protocol: header.protocol,
            payload_len,
            fragment: Fragment {
                id: header.id,
                offset: header.fragment_offset,
                more: header.more_fragments,
            },
        })
    }

    /// Whether it is not a whole packet.
    #[inline(always)]
    pub(super) fn is_fragment(&self) -> bool {
        self.fragment.more || self.is_later_fragment()
    }

    /// Whether the transport header is elsewhere.
    #[inline(always)]
    pub(super) fn is_later_fragment(&self) -> bool {
        self.fragment.offset != 0
    }

    /// Writes the IPv4 header at `at` of the start. A packet that some link may have to fragment
    /// gets an identification (RFC 7915 section 5.1); `random` becomes it.
    ///
    /// # Errors
    ///
    /// [`DropReason::Malformed`] if it is too long for IPv4.
    #[inline(always)]
    pub(super) fn write_ipv4(
        &self,
        plan: &mut Plan,
        at: usize,
        [source, destination]: [Addr4; 2],
        random: u32,
    ) -> Result<(), DropReason> {
        if self.payload_len > MAX_PAYLOAD_4 {
            return Err(DropReason::Malformed);
        }
        let total_len = Addr4::HEADER_LEN + self.payload_len;
        let Fragment { id, offset, more } = self.fragment;
        let (id, flags) = if self.is_fragment() {
            let more = if more { MORE_FRAGMENTS } else { 0 };
            (id as u16, more | (offset / 8))
        } else if total_len <= MIN_MTU_AS_IPV4 {
            (random as u16, 0)
        } else {
            (0, DONT_FRAGMENT)
        };
        let mut header = [0; 20];
        (header[0], header[1]) = (0x45, self.class);
        header[2..4].copy_from_slice(&(total_len as u16).to_be_bytes());
        header[4..6].copy_from_slice(&id.to_be_bytes());
        header[6..8].copy_from_slice(&flags.to_be_bytes());
        (header[8], header[9]) = (self.ttl, self.protocol_of::<Addr4>());
        header[12..16].copy_from_slice(&source.0);
        header[16..].copy_from_slice(&destination.0);
        let check = !fold(sum(&header));
        header[10..12].copy_from_slice(&check.to_ne_bytes());
        plan.put(at, header);
        Ok(())
    }

    /// Writes the IPv6 header at `at` of the start, and that of a fragment; returns their length in
    /// bytes.
    ///
    /// # Errors
    ///
    /// [`DropReason::Malformed`] if the packet is too long for IPv6.
    #[inline(always)]
    pub(super) fn write_ipv6(
        &self,
        plan: &mut Plan,
        at: usize,
        [source, destination]: [Addr6; 2],
    ) -> Result<usize, DropReason> {
        let headers_len = self.headers_len_ipv6();
        let len = self.payload_len + headers_len - Addr6::HEADER_LEN;
        if len > MAX_PAYLOAD_6 {
            return Err(DropReason::Malformed);
        }
        let protocol = self.protocol_of::<Addr6>();
        let next = if self.is_fragment() {
            FRAGMENT
        } else {
            protocol
        };
        let [high, low] = (len as u16).to_be_bytes();
        let class = [0x60 | self.class >> 4, self.class << 4];
        plan.put(at, [class[0], class[1], 0, 0, high, low, next, self.ttl]);
        let ([a, b], [c, d]) = (source.to_halves(), destination.to_halves());
        plan.put(at + 8, a);
        plan.put(at + 16, b);
        plan.put(at + 24, c);
        plan.put(at + 32, d);
        if self.is_fragment() {
            let Fragment { id, offset, more } = self.fragment;
            let [a, b] = (offset | u16::from(more)).to_be_bytes();
            let [c, d, e, f] = id.to_be_bytes();
            plan.put(at + Addr6::HEADER_LEN, [protocol, 0, a, b, c, d, e, f]);
        }
        Ok(headers_len)
    }

    /// Length of the IPv6 header, and that of a fragment, in bytes.
    #[inline(always)]
    pub(super) fn headers_len_ipv6(&self) -> usize {
        let fragment_len = if self.is_fragment() { FRAGMENT_LEN } else { 0 };
        Addr6::HEADER_LEN + fragment_len
    }

    /// The protocol's number in a family: both have an ICMP of their own.
    #[inline(always)]
    fn protocol_of<A: Family>(&self) -> u8 {
        match self.protocol {
            ICMP | ICMPV6 => A::ICMP,
            protocol => protocol,
        }
    }
}

/// Sum of the pseudo-header of ICMPv6 (RFC 8200 section 8.1).
#[inline(always)]
pub(super) fn pseudo_sum([source, destination]: [Addr6; 2], message_len: usize) -> u32 {
    let word = |number: usize| u32::from((number as u16).to_be());
    let addresses = u32::from(fold(source.sum() + destination.sum()));
    addresses + word(message_len) + word(ICMPV6.into())
}

/// Sum of two addresses.
#[inline(always)]
pub(super) fn addresses_sum<A: Family>([source, destination]: [A; 2]) -> u32 {
    u32::from(fold(source.sum() + destination.sum()))
}
