//! The network header of a family: its fields, and how to read and write them.

use crate::wire::{
    address::{Address, Port},
    checksum::Diff,
    icmp::IcmpClass,
    packet::{ChecksumKind, Packet},
    protocol::{TCP, UDP},
};

/// How an address family's header is read and written.
pub trait Family: Address {
    /// The shortest header in bytes: one without options.
    const HEADER_LEN: usize;

    /// The most bytes behind a header without options, as far as its length can say.
    const MAX_PAYLOAD: usize;

    /// Protocol number of the family's ICMP.
    const ICMP: u8;

    /// How the checksum of the family's ICMP is computed.
    const ICMP_CHECKSUM: ChecksumKind;

    /// Sorts the types of the family's ICMP messages.
    fn classify(icmp_type: u8) -> IcmpClass;

    /// The kind of an ICMP query. It replaces the server's port, as the identifier replaces the
    /// client's port. It is the type of the query, also for its answer. Other messages have another
    /// number, so that none is mistaken for an answer.
    fn service(icmp_type: u8) -> Port;

    /// The part of a change of addresses that the checksum of the family's ICMP covers: all of it
    /// where that has a pseudo-header.
    #[inline(always)]
    fn icmp_change(addresses: Diff) -> Diff {
        match Self::ICMP_CHECKSUM {
            ChecksumKind::Icmp => Diff::NONE,
            ChecksumKind::Tcp | ChecksumKind::Udp => addresses,
        }
    }

    /// Whether sessions of `protocol` have ports, or identifiers in their place.
    #[inline(always)]
    fn has_ports(protocol: u8) -> bool {
        matches!(protocol, TCP | UDP) || protocol == Self::ICMP
    }

    /// Sum of the pseudo-header's words for a message of the family's ICMP; 0 if it has none.
    fn icmp_pseudo_sum(header: &Header<Self>, message_len: usize) -> u32;

    /// Whether `protocol` is a header that comes before the transport header. After
    /// [`Self::parse_header`] it means that the transport header was not reached.
    fn is_extension(protocol: u8) -> bool;

    /// The change that an ICMP error's checksum follows after [`Self::write_addresses`] in the
    /// packet that it quotes: all but what the quoted header's own checksum takes back.
    fn quoted_change(addresses: Diff) -> Diff;

    /// Whether packets of `protocol` are authentic between their own addresses alone, so that a
    /// translated one would be of no use.
    fn covers_addresses(protocol: u8) -> bool;

    /// Reads the family's header at `offset`; `None` if it is malformed or cut off.
    fn parse_header<P: Packet>(packet: &P, offset: usize) -> Option<Header<Self>>;

    /// As [`Self::parse_header`] for a header without options. Another may be read or not.
    #[inline(always)]
    fn parse_plain_header<P: Packet>(packet: &P, offset: usize) -> Option<Header<Self>> {
        Self::parse_header(packet, offset)
    }

    /// As [`Self::parse_header`] where its time does not matter; `room` may be written. A family
    /// whose headers are long to read does so in one function, with a little of the stack.
    #[inline(always)]
    fn read_header<P: Packet>(
        packet: &P,
        offset: usize,
        room: &mut Header<Self>,
    ) -> Option<Header<Self>> {
        let _not_needed = room;
        Self::parse_header(packet, offset)
    }

    /// Writes both addresses into the header at `offset` and corrects the header's own checksum,
    /// where the family has one. `diff` is the sum of new minus old words of the two addresses.
    fn write_addresses<P: Packet>(
        packet: &mut P,
        offset: usize,
        source: Self,
        destination: Self,
        diff: Diff,
    ) -> Option<()>;

    /// Whether the header without options at `offset` is as it was sent, as far as its own checksum
    /// can tell, where the family has one.
    fn is_intact<P: Packet>(packet: &P, offset: usize) -> bool;

    /// As [`Self::write_addresses`], and decrements the time to live, which must be more than 0.
    fn write_forwarded<P: Packet>(
        packet: &mut P,
        offset: usize,
        source: Self,
        destination: Self,
        diff: Diff,
    ) -> Option<()>;

    /// Writes the identification for reassembly into the fragment's header at `offset`.
    fn write_id<P: Packet>(packet: &mut P, offset: usize, id: u32) -> Option<()>;

    /// Whether neighbours talk by the family's ICMP.
    const HAS_NEIGHBOURS: bool;
    /// Whether rules may replace its prefixes (NPTv6).
    const HAS_PREFIX_RULES: bool;

    /// Whether an ICMP message of this type is one between neighbours: it never leaves its link,
    /// and no other link's can look like it.
    fn is_between_neighbours(icmp_type: u8, header: &Header<Self>) -> bool;

    /// Whether a packet with these addresses never leaves its link.
    fn stays_on_link(source: Self, destination: Self) -> bool;

    /// The type of the routing header of the packet at `offset`, if the packet has more nodes to
    /// visit after its destination address. The transport's checksum covers the last of them
    /// (RFC 8200 section 8.1).
    fn route_ahead<P: Packet>(packet: &P, offset: usize) -> Option<u8>;

    /// An identification for reassembly, from a random number.
    fn id_from(random: u32) -> u32;
}

/// A network header of any family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Protocol number of what follows.
    pub protocol: u8,
    /// Length in bytes, options and extension headers included.
    pub header_len: usize,
    /// Length of header and payload in bytes.
    pub total_len: usize,
    /// Remaining time to live, in hops.
    pub ttl: u8,
    /// Identification for reassembly.
    pub id: u32,
    /// Offset of the fragment's payload in the whole payload, in bytes.
    pub fragment_offset: u16,
    /// Whether more fragments follow.
    pub more_fragments: bool,
}

impl<A: Address> Header<A> {
    /// Before any header is read.
    pub const EMPTY: Self = Self {
        source: A::UNSPECIFIED,
        destination: A::UNSPECIFIED,
        protocol: 0,
        header_len: 0,
        total_len: 0,
        ttl: 0,
        id: 0,
        fragment_offset: 0,
        more_fragments: false,
    };
}
