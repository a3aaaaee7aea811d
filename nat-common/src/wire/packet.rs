//! Access to the bytes of one packet.

use core::fmt;

use crate::wire::{
    checksum::Diff,
    offload::{Offload, Sum},
};

/// The bytes of a packet, from the start of its link-layer header, and what its carrier knows.
///
/// Offsets count from the first byte. Reads and writes outside of the packet return `None` and
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

    /// Makes the bytes before `end` readable, if the carrier has them elsewhere.
    fn make_readable(&mut self, end: usize);

    /// Writes `N` bytes.
    fn write<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()>;

    /// Writes `N` bytes, an even number at an even offset, that no checksum in the packet covers.
    /// A carrier that has summed the packet up must follow.
    #[inline(always)]
    fn write_unsummed<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        self.write(offset, bytes)
    }

    /// Corrects the TCP, UDP or ICMP checksum field at `offset`.
    ///
    /// `pseudo` is the change of words that only the pseudo-header holds (addresses), `payload`
    /// that of words in the message itself. A carrier that leaves the sum unfinished for the
    /// hardware needs the two apart: then the field holds the pseudo-header's sum alone. `offload`
    /// says whether it does ([`Offload::of_frame`]); if that is unknown, the carrier decides.
    #[inline(always)]
    fn update_checksum(
        &mut self,
        offset: usize,
        kind: ChecksumKind,
        offload: Offload,
        pseudo: Diff,
        payload: Diff,
    ) -> Option<()> {
        let sum = offload.sum_at(offset, self.frames().segment_len != 0);
        let field = self.read::<2>(offset)?;
        self.write(offset, kind.corrected(field, sum, pseudo, payload))
    }

    /// As [`Self::update_checksum`], for the fast path: without a call, whose return is expensive
    /// on processors with mitigations.
    #[inline(always)]
    fn update_checksum_fast(
        &mut self,
        offset: usize,
        kind: ChecksumKind,
        offload: Offload,
        pseudo: Diff,
        payload: Diff,
    ) -> Option<()> {
        self.update_checksum(offset, kind, offload, pseudo, payload)
    }

    /// Sum of the words from `offset` to `end`, or `None` if it cannot be computed.
    fn sum(&self, offset: usize, end: usize) -> Option<u32>;

    /// Frames of this packet: more than 1 before segmentation (GSO).
    fn frames(&self) -> Frames;

    /// What else is left to a device.
    fn offload(&self) -> Offload;

    /// As [`Self::offload`], for the fast path: without a call.
    #[inline(always)]
    fn offload_fast(&self) -> Offload {
        self.offload()
    }

    /// The interface by which it came into the host, 0 if the host made it.
    fn ingress_interface(&self) -> u32;

    /// Whether the kernel has decrypted it (IPsec).
    fn was_decrypted(&self) -> bool {
        false
    }
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
    /// With a pseudo-header: TCP, and ICMP for IPv6.
    Tcp,
    /// With a pseudo-header, and 0 means none: UDP.
    Udp,
    /// Without a pseudo-header: ICMP for IPv4.
    Icmp,
}

impl ChecksumKind {
    /// A checksum field after changes; see [`Packet::update_checksum`].
    #[inline(always)]
    #[must_use]
    pub fn corrected(self, field: [u8; 2], sum: Sum, pseudo: Diff, payload: Diff) -> [u8; 2] {
        match self {
            Self::Udp if u16::from_ne_bytes(field) == 0 => field,
            Self::Tcp | Self::Udp if sum == Sum::OfPseudoHeader => pseudo.add_to(field),
            Self::Tcp => pseudo.and(payload).apply(field),
            Self::Udp => pseudo.and(payload).apply_udp(field),
            Self::Icmp => payload.apply(field),
        }
    }
}

/// Removes a queued frame that is sent now.
pub type SendQueued<'a> = dyn FnMut(&[u8]) + 'a;

/// A packet in memory of the host, for tests, fuzzers and `explain`.
pub struct SlicePacket<'a> {
    /// The bytes.
    pub bytes: &'a mut [u8],
    /// What [`Packet::ingress_interface`] says.
    pub ingress_interface: u32,
    /// Whether it was queued and sent.
    pub was_queued: bool,
    /// What [`Packet::offload`] says.
    pub offload: Offload,
    /// What [`Packet::frames`] says.
    pub frames: Frames,
    /// Removes the queued frames that are sent now.
    pub send_queued: Option<&'a mut SendQueued<'a>>,
}

impl<'a> SlicePacket<'a> {
    /// A packet that came in by an interface, 0 if the host made it.
    pub fn new(bytes: &'a mut [u8], ingress_interface: u32) -> Self {
        Self {
            bytes,
            ingress_interface,
            was_queued: false,
            offload: Offload::NOTHING,
            frames: Frames { segment_len: 0 },
            send_queued: None,
        }
    }
}

impl fmt::Debug for SlicePacket<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlicePacket")
            .field("bytes", &self.bytes)
            .field("ingress_interface", &self.ingress_interface)
            .finish_non_exhaustive()
    }
}

impl Packet for SlicePacket<'_> {
    fn len(&self) -> usize {
        self.bytes.len()
    }

    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.bytes.get(offset..)?.first_chunk::<N>().copied()
    }

    fn make_readable(&mut self, _end: usize) {}

    fn write<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        *self.bytes.get_mut(offset..)?.first_chunk_mut::<N>()? = bytes;
        Some(())
    }

    fn sum(&self, offset: usize, end: usize) -> Option<u32> {
        Some(crate::wire::checksum::sum(self.bytes.get(offset..end)?))
    }

    fn frames(&self) -> Frames {
        self.frames
    }

    fn offload(&self) -> Offload {
        self.offload
    }

    fn ingress_interface(&self) -> u32 {
        self.ingress_interface
    }
}
