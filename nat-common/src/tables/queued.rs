//! `QUEUED`: fragments that wait for the first one of their packet.

use core::cell::UnsafeCell;

use crate::{
    atomics::Shared,
    tables::fragments::FragmentKey,
    wire::{
        address::{Addr4, Address},
        packet::{Packet, SlicePacket},
    },
};

/// A packet that can be queued in a slot and sent from there.
pub trait QueuedPacket: Packet {
    /// Whether it was queued and sent; true only once.
    fn was_queued(&mut self) -> bool;

    /// Copies the whole packet into a slot.
    fn queue<A: Address>(&self, slot: &mut Busy<'_, A>, key: &FragmentKey<A>) -> Option<()>;

    /// Sets this packet aside, so that others can be sent in its place.
    fn save(&self) -> Option<()>;

    /// Sends the packet of a slot to the hook that this one is at, if it belongs to `key`; `false`
    /// if it does not.
    fn send_queued<A: Address>(&mut self, slot: &Busy<'_, A>, key: &FragmentKey<A>) -> bool;

    /// Restores the packet that was set aside.
    fn restore(&mut self);
}

impl QueuedPacket for SlicePacket<'_> {
    fn was_queued(&mut self) -> bool {
        core::mem::take(&mut self.was_queued)
    }

    fn queue<A: Address>(&self, slot: &mut Busy<'_, A>, key: &FragmentKey<A>) -> Option<()> {
        slot.set_key(key);
        slot.bytes_mut()
            .get_mut(..self.bytes.len())?
            .copy_from_slice(self.bytes);
        slot.set_len(self.bytes.len() as u32);
        Some(())
    }

    fn save(&self) -> Option<()> {
        Some(())
    }

    fn send_queued<A: Address>(&mut self, slot: &Busy<'_, A>, key: &FragmentKey<A>) -> bool {
        let is_wanted = slot.key() == *key;
        if let (true, Some(send)) = (is_wanted, &mut self.send_queued) {
            send(&slot.bytes()[..slot.frame_len() as usize]);
        }
        is_wanted
    }

    fn restore(&mut self) {}
}

/// Senders are spread over this many sets of slots in `QUEUED`, by address.
pub const QUEUE_SETS: u32 = 64;

/// Slots of a set: the most queued fragments of a sender.
pub const QUEUE_WAYS: u32 = 64;

/// The longest frame that can be queued, in bytes.
pub const QUEUE_BYTES: usize = 2048 - 24;

/// Value of `QUEUED`: a fragment that waits for the first one.
#[repr(C)]
pub struct Queued<A> {
    /// When it arrived, in seconds of the monotonic clock, [`FREE`] or [`BUSY`].
    pub seen_s: Shared,
    /// Length of the frame in bytes.
    pub len: Shared,
    /// The packet to which it belongs. Only [`Busy`] accesses it.
    key: UnsafeCell<FragmentKey<A>>,
    /// The frame. Only [`Busy`] accesses it.
    bytes: UnsafeCell<[u8; QUEUE_BYTES]>,
}

/// A slot that this packet has made busy, so that no other packet accesses its content until it is
/// handed over (`hand_over`).
#[derive(Debug)]
pub struct Busy<'h, A>(pub(crate) &'h Queued<A>);

/// [`Queued::seen_s`] of an empty slot.
pub const FREE: u32 = 0;

/// [`Queued::seen_s`] of a slot that a packet writes or reads.
pub const BUSY: u32 = u32::MAX;

#[cfg(not(target_arch = "bpf"))]
impl<A: Address> Queued<A> {
    /// An empty slot.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            seen_s: Shared::new(FREE),
            len: Shared::new(0),
            key: UnsafeCell::new(FragmentKey {
                source: A::UNSPECIFIED,
                destination: A::UNSPECIFIED,
                id: 0,
                network: 0,
                protocol: 0,
                view: 0,
            }),
            bytes: UnsafeCell::new([0; QUEUE_BYTES]),
        }
    }
}

#[cfg(not(target_arch = "bpf"))]
impl<A: Address> Default for Queued<A> {
    fn default() -> Self {
        Self::new()
    }
}

impl<A> core::fmt::Debug for Queued<A> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Queued")
            .field("seen_s", &self.seen_s)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl<A: Address> Queued<A> {
    /// Makes the slot busy if it is unchanged. Its content is then that of its last hand-over,
    /// because the exchange acquires.
    #[inline(always)]
    pub(crate) fn make_busy(&self, seen_s: u32) -> Option<Busy<'_, A>> {
        (self.seen_s.exchange_if(seen_s, BUSY) == seen_s).then_some(Busy(self))
    }
}

impl<A: Copy> Busy<'_, A> {
    /// The packet to which the fragment belongs.
    #[inline(always)]
    #[must_use]
    pub fn key(&self) -> FragmentKey<A> {
        // SAFETY: the slot is busy, held by this value.
        unsafe { *self.0.key.get() }
    }

    /// Sets the packet to which the fragment belongs.
    #[inline(always)]
    pub fn set_key(&mut self, key: &FragmentKey<A>) {
        // SAFETY: as above.
        unsafe { *self.0.key.get() = *key };
    }

    /// The buffer for a frame; its first [`frame_len`](Self::frame_len) bytes are in use.
    #[inline(always)]
    #[must_use]
    pub fn bytes(&self) -> &[u8; QUEUE_BYTES] {
        // SAFETY: as above.
        unsafe { &*self.0.bytes.get() }
    }

    /// The same, to be written.
    #[inline(always)]
    pub fn bytes_mut(&mut self) -> &mut [u8; QUEUE_BYTES] {
        // SAFETY: as above, and this is the only borrow.
        unsafe { &mut *self.0.bytes.get() }
    }

    /// Length of the frame in bytes.
    #[inline(always)]
    #[must_use]
    pub fn frame_len(&self) -> u32 {
        self.0.len.load()
    }

    /// Sets the length of the frame.
    #[inline(always)]
    pub fn set_len(&mut self, len: u32) {
        self.0.len.store(len);
    }

    /// Hands the slot over to others: with its content and arrival time `seen_s`, or as a [`FREE`]
    /// one. The exchange releases, so that the next owner sees all writes.
    #[inline(always)]
    pub(crate) fn hand_over(self, seen_s: u32) {
        self.0.seen_s.exchange_if(BUSY, seen_s);
    }
}

// SAFETY: the words are atomic. The rest is accessed only through `Busy`, and a slot has at most
// one: creating it needs a successful compare-and-exchange.
unsafe impl<A: Sync> Sync for Queued<A> {}

/// The table of fragments that wait for the first one.
pub trait QueuedFragments<A: Address> {
    /// A slot for a fragment that waits for the first one.
    fn queued(&self, slot: u32) -> Option<&Queued<A>>;
}

const _: () = assert!(size_of::<Queued<Addr4>>() == 2048);
