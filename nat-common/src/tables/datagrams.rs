//! `DATAGRAMS`: which parts of a packet that is sent in fragments have come.

use crate::{
    atomics::Shared,
    tables::{fragments::FragmentKey, insert::InsertError},
    wire::address::Address,
};

/// Bytes that a block of a packet has: fragments start at multiples of it.
pub(crate) const BLOCK: usize = 8;

/// Blocks that a word of [`Datagram::blocks`] stands for.
pub(crate) const WORD_BLOCKS: u32 = 32;

/// Words for all blocks of the longest packet.
pub(crate) const WORDS: usize = 65536 / BLOCK / WORD_BLOCKS as usize;

/// Value of `DATAGRAMS`: which parts of a packet have come.
#[derive(Debug)]
#[repr(C)]
pub struct Datagram {
    /// When its first part came, in seconds of the monotonic clock.
    pub seen_s: Shared,
    /// Bits of [`state`].
    pub state: Shared,
    /// How many blocks have come.
    pub received: Shared,
    /// How many it has, 0 until the last part has come.
    pub end: Shared,
    /// Which blocks have come.
    pub blocks: [Shared; WORDS],
}

/// Bits of [`Datagram::state`].
pub mod state {
    /// The first fragment has come.
    pub const FIRST: u32 = 1 << 0;
    /// Fragments are kept until the first one comes.
    pub const KEEPS: u32 = 1 << 1;
    /// Its fragments contradict each other: nothing more of it passes.
    pub const OVERLAPS: u32 = 1 << 2;
}

#[cfg(not(target_arch = "bpf"))]
impl Datagram {
    /// Nothing of it has come.
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

/// The table of the parts of packets in fragments.
pub trait Datagrams<A: Address> {
    /// Looks a packet up that is being sent in fragments.
    fn datagram(&self, key: &FragmentKey<A>) -> Option<&Datagram>;
    /// Adds one of which nothing has come; the oldest make room.
    fn add_datagram(&self, key: &FragmentKey<A>) -> Result<(), InsertError>;
    /// Removes one.
    fn remove_datagram(&self, key: &FragmentKey<A>);
}

const _: () = assert!(size_of::<Datagram>() == 1040);
