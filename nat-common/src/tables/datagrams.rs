//! `DATAGRAMS`: which parts of a fragmented packet have arrived.

use crate::{
    atomics::Shared,
    tables::{fragments::FragmentKey, insert::InsertError},
    wire::address::Address,
};

/// Bytes of a block of a packet: fragments start at multiples of it.
pub(crate) const BLOCK: usize = 8;

/// Blocks per word of [`Datagram::blocks`].
pub(crate) const WORD_BLOCKS: u32 = 32;

/// Words for all blocks of the longest packet.
pub(crate) const WORDS: usize = 65536 / BLOCK / WORD_BLOCKS as usize;

/// Value of `DATAGRAMS`: which parts of a packet have arrived.
#[derive(Debug)]
#[repr(C)]
pub struct Datagram {
    /// When its first part arrived, in seconds of the monotonic clock.
    pub seen_s: Shared,
    /// Bits of [`state`].
    pub state: Shared,
    /// How many blocks have arrived.
    pub received: Shared,
    /// How many it has, 0 until the last part has arrived.
    pub end: Shared,
    /// Which blocks have arrived.
    pub blocks: [Shared; WORDS],
}

/// Bits of [`Datagram::state`].
pub mod state {
    /// The first fragment has arrived.
    pub const FIRST: u32 = 1 << 0;
    /// Fragments are queued until the first one arrives.
    pub const KEEPS: u32 = 1 << 1;
    /// Its fragments contradict each other: no more fragments of it pass.
    pub const OVERLAPS: u32 = 1 << 2;
}

#[cfg(not(target_arch = "bpf"))]
impl Datagram {
    /// No part of it has arrived.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            seen_s: Shared::new(0),
            state: Shared::new(0),
            received: Shared::new(0),
            end: Shared::new(0),
            blocks: [const { Shared::new(0) }; WORDS],
        }
    }
}

#[cfg(not(target_arch = "bpf"))]
impl Default for Datagram {
    fn default() -> Self {
        Self::new()
    }
}

/// The table of the parts of fragmented packets.
pub trait Datagrams<A: Address> {
    /// Looks up a fragmented packet.
    fn datagram(&self, key: &FragmentKey<A>) -> Option<&Datagram>;
    /// Adds a packet without any part; the oldest make room.
    fn add_datagram(&self, key: &FragmentKey<A>) -> Result<(), InsertError>;
    /// Removes one.
    fn remove_datagram(&self, key: &FragmentKey<A>);
}

const _: () = assert!(size_of::<Datagram>() == 1040);
