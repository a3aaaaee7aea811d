//! How a packet becomes one of the other family, and doing it.

use crate::verifier::read_here;
use crate::wire::{
    checksum::{Diff, fold},
    offload::Offload,
    packet::{ChecksumKind, Packet},
};

/// The longest start of a packet that is written anew in bytes: the headers of an IPv6 error and of
/// the fragment that it quotes.
pub const MAX_START: usize = 40 + 8 + 40 + 8;

/// The family that a packet gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A packet whose family and length can change.
pub trait Reshape: Packet {
    /// Keeps `plan.kept_len` bytes from `l3` on, and replaces the first `plan.replaced_len` of them
    /// by the plan's start. The packet is of the other family then. `None` if the packet cannot
    /// change; it is to be dropped.
    fn reshape(&mut self, l3: usize, plan: &Plan) -> Option<()>;
}

/// How a packet becomes one of the other family.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct Plan {
    /// What the packet starts with, from its network header on: that header, and those of an error
    /// and of the packet that it quotes.
    pub start: [u8; MAX_START],
    /// Length of the start in bytes.
    pub start_len: usize,
    /// How many bytes of the packet the start replaces.
    pub replaced_len: usize,
    /// Bytes of the packet that are kept, the replaced ones included. The rest is cut off.
    pub kept_len: usize,
    /// The family that the packet gets.
    pub version: Version,
    /// Words behind the start that change.
    pub(super) words: [Word; 2],
    /// The transport's checksum.
    pub(super) checksum: Checksum,
}

/// What happens to the transport's checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Checksum {
    /// It stays, or there is none.
    Kept,
    /// It follows a change.
    Corrected(Correction),
    /// It is computed anew.
    Computed(Computation),
}

/// How a checksum field changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Correction {
    /// Where it is behind the start, in bytes.
    pub(super) at: usize,
    pub(super) kind: ChecksumKind,
    pub(super) pseudo: Diff,
    pub(super) payload: Diff,
}

/// How a checksum is computed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Computation {
    /// Where the message begins, in bytes from the network header.
    pub(super) message: usize,
    /// Where the field is in the message.
    pub(super) field: usize,
    /// Sum of the pseudo-header.
    pub(super) pseudo: u32,
}

/// A word of the packet and its new value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Word {
    /// Where it is behind the start, in bytes.
    pub(super) at: usize,
    pub(super) value: [u8; 2],
    pub(super) is_there: bool,
}

impl Word {
    pub(super) const NONE: Self = Self {
        at: 0,
        value: [0; 2],
        is_there: false,
    };

    #[inline(always)]
    pub(super) const fn new(at: usize, value: [u8; 2]) -> Self {
        Self {
            at,
            value,
            is_there: true,
        }
    }
}

impl Plan {
    /// Before any packet.
    pub const EMPTY: Self = Self {
        start: [0; MAX_START],
        start_len: 0,
        replaced_len: 0,
        kept_len: 0,
        version: Version::V4,
        words: [Word::NONE; 2],
        checksum: Checksum::Kept,
    };

    /// Begins with another packet.
    #[inline(always)]
    pub(super) fn begin(&mut self, version: Version) {
        (self.start_len, self.replaced_len, self.kept_len) = (0, 0, 0);
        (self.version, self.words, self.checksum) = (version, [Word::NONE; 2], Checksum::Kept);
    }

    /// Writes at a place of the start that the caller knows when it is compiled.
    #[inline(always)]
    pub(super) fn put<const N: usize>(&mut self, at: usize, bytes: [u8; N]) {
        if let Some(place) = self.start.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
            *place = bytes;
        }
    }

    /// Length of the packet from its network header on, in bytes.
    #[inline(always)]
    #[must_use]
    pub fn new_len(&self) -> usize {
        self.start_len + self.kept_len.saturating_sub(self.replaced_len)
    }
}

/// Makes the packet what the plan says. `None` if it cannot be written to; the caller drops it.
#[inline(never)]
pub fn apply<P: Reshape>(packet: &mut P, l3: usize, plan: &Plan) -> Option<()> {
    packet.reshape(l3, plan)?;
    let behind = l3 + plan.start_len;
    for word in plan.words {
        if word.is_there {
            packet.write(behind + word.at, word.value)?;
        }
    }
    match plan.checksum {
        Checksum::Kept => Some(()),
        Checksum::Corrected(Correction {
            at,
            kind,
            pseudo,
            payload,
        }) => packet.update_checksum(behind + at, kind, Offload::UNKNOWN, pseudo, payload),
        Checksum::Computed(computation) => compute(packet, l3, plan.new_len(), computation),
    }
}

#[inline(always)]
fn compute<P: Packet>(packet: &mut P, l3: usize, len: usize, how: Computation) -> Option<()> {
    let message = l3 + how.message;
    let field = message + how.field;
    packet.write(field, [0, 0])?;
    let sum = sum_of(packet, message, l3 + len)?;
    // A sum of 0 says that there is none (RFC 768), and 0xffff is the same to a receiver.
    let check = match !fold(sum + u32::from(fold(how.pseudo))) {
        0 => u16::MAX,
        check => check,
    };
    packet.write(field, check.to_ne_bytes())
}

/// The folded sum of the words from `offset` to `end`: a separate function, for its loops.
#[inline(never)]
pub(super) fn sum_of<P: Packet>(packet: &P, offset: usize, end: usize) -> Option<u32> {
    read_here(packet)
        .sum(offset, end)
        .map(|sum| fold(sum).into())
}
