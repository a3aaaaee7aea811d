//! Access to the bytes of one packet.

use crate::checksum::Diff;

/// The bytes of a packet, from the start of its link-layer header, and what its carrier knows.
///
/// Offsets count from the first byte. Reads and writes outside of the packet give `None` and
/// change nothing.
pub trait Packet {
    /// Length of the whole packet in bytes, link-layer header included.
    fn len(&self) -> usize;

    /// Whether it has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads `N` bytes.
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// Writes `N` bytes.
    fn write<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()>;

    /// Corrects the TCP, UDP or ICMP checksum field at `offset`.
    ///
    /// `pseudo` is the change of words that only the pseudo-header holds (addresses), `payload`
    /// that of words in the message itself. A carrier that leaves the sum unfinished for the
    /// hardware needs the two apart: then the field holds the pseudo-header's sum alone.
    fn update_checksum(
        &mut self,
        offset: usize,
        kind: ChecksumKind,
        pseudo: Diff,
        payload: Diff,
    ) -> Option<()>;

    /// Sum of the words from `offset` to `end`, or `None` if it cannot be taken.
    fn sum(&self, offset: usize, end: usize) -> Option<u32>;

    /// Frames that this packet stands for: more than 1 if segmentation was put off (GSO).
    fn frames(&self) -> Frames;

    /// The interface by which it came into the host, 0 if the host made it.
    fn ingress_interface(&self) -> u32;
}

/// How many frames a packet becomes on a wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frames {
    /// 0 if the packet is sent as it is; otherwise the payload of each frame in bytes.
    pub segment_len: u32,
}

/// Which rules a checksum field follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChecksumKind {
    /// With a pseudo-header: TCP.
    Tcp,
    /// With a pseudo-header, and 0 means none: UDP.
    Udp,
    /// Without a pseudo-header: ICMP.
    Icmp,
}

/// A packet in memory of the host, for tests, fuzzers and `explain`.
#[derive(Debug)]
pub struct SlicePacket<'a> {
    /// The bytes.
    pub bytes: &'a mut [u8],
    /// What [`Packet::ingress_interface`] says.
    pub ingress_interface: u32,
}

impl Packet for SlicePacket<'_> {
    fn len(&self) -> usize {
        self.bytes.len()
    }

    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.bytes.get(offset..)?.first_chunk::<N>().copied()
    }

    fn write<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        *self.bytes.get_mut(offset..)?.first_chunk_mut::<N>()? = bytes;
        Some(())
    }

    fn update_checksum(
        &mut self,
        offset: usize,
        kind: ChecksumKind,
        pseudo: Diff,
        payload: Diff,
    ) -> Option<()> {
        let field = self.read::<2>(offset)?;
        let new = match kind {
            ChecksumKind::Tcp => pseudo.and(payload).apply(field),
            ChecksumKind::Udp => pseudo.and(payload).apply_udp(field),
            ChecksumKind::Icmp => payload.apply(field),
        };
        self.write(offset, new)
    }

    fn sum(&self, offset: usize, end: usize) -> Option<u32> {
        Some(crate::checksum::sum(self.bytes.get(offset..end)?))
    }

    fn frames(&self) -> Frames {
        Frames { segment_len: 0 }
    }

    fn ingress_interface(&self) -> u32 {
        self.ingress_interface
    }
}
