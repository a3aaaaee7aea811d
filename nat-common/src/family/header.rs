//! The network header of a family: its fields, and how to read and write them.

use crate::wire::{address::Address, checksum::Diff, packet::Packet};

/// How an address family's header is read and written.
pub trait Family: Address {
    /// The shortest header in bytes: one without options.
    const HEADER_LEN: usize;

    /// Reads the family's header at `offset`; `None` if it is malformed or cut off.
    fn parse_header<P: Packet>(packet: &P, offset: usize) -> Option<Header<Self>>;

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

    /// Writes the identification for reassembly into the header at `offset`.
    fn write_id<P: Packet>(packet: &mut P, offset: usize, id: u32) -> Option<()>;

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
    /// Length in bytes, options included.
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
