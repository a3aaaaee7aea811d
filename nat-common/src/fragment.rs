//! Fragments in any order.
//!
//! Only the first fragment of a packet says the ports. Those that come before it are kept and sent
//! on when it comes, at the hook at which packets enter: from there on the first one is always in
//! front. Bounded in number and bytes by [`HELD_SETS`] and [`HELD_WAYS`], in time by
//! `fragment_s`, and fair: a sender has the slots of one set, whatever it sends.
//!
//! A packet's fragments may not overlap (RFC 5722 section 3, and Linux since 5.0 for IPv4 too): the
//! receiver could put another packet together than the one that was judged here. A fragment of which
//! every block has come already is a duplicate that the network has made (RFC 8200 section 4.5). It is
//! dropped alone, as by Linux (`inet_frag_queue_insert`): the receiver gets each block once, so what a
//! duplicate holds is not compared.

use core::cell::UnsafeCell;

use crate::{
    address::{Addr4, Address, Port},
    counter::DropReason,
    packet::Packet,
    parse::{ICMP, Parsed, TCP, UDP},
    session::View,
    shared::Shared,
    tables::{InsertError, Tables},
};

/// Key of `DATAGRAMS` and `FRAGMENTS`: a packet that is being sent in fragments (RFC 791).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
pub struct FragmentKey<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// The packet's identification.
    pub id: u32,
    /// Number of the network that it came from.
    pub network: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// A [`View`].
    pub view: u8,
}

/// Value of `FRAGMENTS`: what the first fragment said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct FragmentPorts {
    /// Source port.
    pub source_port: Port,
    /// Destination port.
    pub destination_port: Port,
    /// When the first fragment came, in seconds of the monotonic clock.
    pub seen_s: u32,
    /// The identification under which it goes on.
    pub id: u32,
}

/// Bytes that a block of a packet has: fragments start at multiples of it.
const BLOCK: usize = 8;
/// Blocks that a word of [`Datagram::blocks`] stands for.
const WORD_BLOCKS: u32 = 32;
/// Words for all blocks of the longest packet.
const WORDS: usize = 65536 / BLOCK / WORD_BLOCKS as usize;
/// The longest payload of an IPv4 packet in bytes.
const MAX_PAYLOAD: usize = 65535 - 20;

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

/// Senders are spread over this many sets of slots in `HELD`, by their address.
pub const HELD_SETS: u32 = 64;
/// Slots of a set: fragments that are kept of a sender at the most.
pub const HELD_WAYS: u32 = 64;
/// Of these for fragments that may be duplicates of a complete packet. (They may as well belong to the
/// next one with the same identification.)
pub const DUPLICATE_WAYS: u32 = HELD_WAYS / 8;
/// The longest frame that can be kept in bytes.
pub const HELD_BYTES: usize = 2048 - 24;

/// Value of `HELD`: a fragment that waits for the first one.
#[repr(C)]
pub struct Held<A> {
    /// When it came in seconds of the monotonic clock, [`FREE`] or [`BUSY`].
    pub seen_s: Shared,
    /// Length of the frame in bytes.
    pub len: Shared,
    /// The packet that it is a part of. Touched by [`Busy`] alone.
    key: UnsafeCell<FragmentKey<A>>,
    /// The frame. Touched by [`Busy`] alone.
    bytes: UnsafeCell<[u8; HELD_BYTES]>,
}

/// A slot that this packet has made busy, so that nobody else touches what is in it until it is
/// [handed over](Self::hand_over).
#[derive(Debug)]
pub struct Busy<'h, A>(&'h Held<A>);

/// [`Held::seen_s`] of a slot with nothing in it.
pub const FREE: u32 = 0;
/// [`Held::seen_s`] of a slot that somebody writes or reads.
pub const BUSY: u32 = u32::MAX;

/// What becomes of a fragment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// The first one has come, or is this one: it goes on.
    GoesOn,
    /// It is kept until the first one comes.
    Kept,
}

/// The blocks of a fragment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Blocks {
    first: u32,
    /// The one after the last.
    end: u32,
    is_last: bool,
}

/// What the blocks of a fragment are to those that came before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    New,
    Duplicate,
    Contradiction,
}

/// For how long a fragment of a complete packet may be a duplicate, in seconds.
const DUPLICATES_S: u32 = 1;

impl<A: Address> Parsed<A> {
    /// Whether it is a part of a packet. (A packet whose header merely allows it is whole: an
    /// atomic fragment.)
    #[inline(always)]
    pub fn is_fragment(&self) -> bool {
        self.header.more_fragments || self.header.fragment_offset != 0
    }

    /// The key of the packet that this fragment is a part of.
    #[inline(always)]
    pub fn fragment_key(&self, view: View, network: u16) -> FragmentKey<A> {
        FragmentKey {
            source: self.header.source,
            destination: self.header.destination,
            id: self.header.id,
            network,
            protocol: self.header.protocol,
            view: view as u8,
        }
    }

    /// The blocks of a fragment.
    ///
    /// # Errors
    ///
    /// Why no host would take it.
    #[inline(always)]
    fn blocks(&self) -> Result<Blocks, DropReason> {
        let header = &self.header;
        let len = header.total_len - header.header_len;
        let offset = usize::from(header.fragment_offset);
        if len == 0 || (header.more_fragments && !len.is_multiple_of(BLOCK)) {
            return Err(DropReason::Malformed);
        }
        if offset + len > MAX_PAYLOAD {
            return Err(DropReason::FragmentOversized);
        }
        if offset == BLOCK && header.protocol == TCP {
            // It would hold TCP's flags, which stand in the first one (RFC 3128).
            return Err(DropReason::FragmentTiny);
        }
        Ok(Blocks {
            first: (offset / BLOCK) as u32,
            end: (offset + len).div_ceil(BLOCK) as u32,
            is_last: !header.more_fragments,
        })
    }
}

/// Whether later fragments need the first one: protocols without ports do not.
#[inline(always)]
pub const fn needs_first(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP | ICMP)
}

/// Lets a fragment pass if the first one of its packet has come, keeps it otherwise, and sends on
/// what was kept when the first one comes. Those come to the same hook again, after this one.
///
/// # Errors
///
/// Why it is dropped.
#[inline(always)]
pub fn order<A: Address, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    parsed: &Parsed<A>,
    key: &FragmentKey<A>,
) -> Result<Order, DropReason> {
    let blocks = parsed.blocks()?;
    if packet.was_kept() {
        return Ok(Order::GoesOn);
    }
    let datagram = datagram(tables, key).ok_or(DropReason::FragmentsFull)?;
    let part = datagram.note(tables, blocks);
    if part == Part::Contradiction {
        datagram.state.fetch_or(state::OVERLAPS);
    }
    if datagram.state.load() & state::OVERLAPS != 0 {
        return Err(DropReason::FragmentOverlap);
    }
    if part == Part::Duplicate {
        return Err(DropReason::FragmentDuplicate);
    }
    if parsed.header.fragment_offset == 0 {
        if datagram.state.fetch_or(state::FIRST) & state::KEEPS != 0 {
            send_on(packet, tables, key);
        }
    } else if needs_first(key.protocol) && datagram.state.load() & state::FIRST == 0 {
        return keep(packet, tables, key, datagram);
    }
    if datagram.is_complete() {
        // Its identification may be used again.
        tables.remove_datagram(key);
    }
    Ok(Order::GoesOn)
}

/// The packet that a fragment is a part of, new if none of its fragments has come lately.
#[inline(always)]
fn datagram<'t, A: Address, T: Tables<A>>(
    tables: &'t T,
    key: &FragmentKey<A>,
) -> Option<&'t Datagram> {
    let now_s = tables.now_s();
    if let Some(datagram) = tables.datagram(key) {
        if now_s.saturating_sub(datagram.seen_s.load()) < lifetime_s(tables) {
            return Some(datagram);
        }
        tables.remove_datagram(key);
    }
    match tables.add_datagram(key) {
        Ok(()) | Err(InsertError::Exists) => {}
        Err(InsertError::Full) => return None,
    }
    let datagram = tables.datagram(key)?;
    datagram.seen_s.store(now_s);
    Some(datagram)
}

#[inline(always)]
fn lifetime_s<A: Address, T: Tables<A>>(tables: &T) -> u32 {
    tables.settings().map_or(0, |settings| settings.fragment_s)
}

impl Datagram {
    /// Notes blocks that have come, and says what they are to those that came before.
    #[inline(always)]
    fn note<A: Address, T: Tables<A>>(&self, tables: &T, blocks: Blocks) -> Part {
        let first_word = blocks.first / WORD_BLOCKS;
        let (mut known, mut new) = (0, 0);
        tables.repeat((blocks.end - 1) / WORD_BLOCKS - first_word + 1, |turn| {
            let word = first_word + turn;
            let bits = word_bits(blocks, word);
            let before = self.blocks[word as usize % WORDS].fetch_or(bits);
            known |= before & bits;
            new |= !before & bits;
            true
        });
        let len = if new == 0 {
            0
        } else {
            blocks.end - blocks.first
        };
        let received = self.received.fetch_add(len) + len;
        let end = if blocks.is_last {
            self.end.exchange_if(0, blocks.end)
        } else {
            self.end.load()
        };
        let has_other_end = blocks.is_last && end != 0 && end != blocks.end;
        let is_behind_end = end != 0 && (blocks.end > end || received > end);
        let is_too_long = blocks.is_last && received > blocks.end;
        let is_partly_known = known != 0 && new != 0;
        if has_other_end || is_behind_end || is_too_long || is_partly_known {
            return Part::Contradiction;
        }
        match new {
            0 => Part::Duplicate,
            _ => Part::New,
        }
    }

    /// Whether all of it has come.
    #[inline(always)]
    fn is_complete(&self) -> bool {
        self.end.load() == self.received.load()
    }
}

/// The bits of a word that stand for some of these blocks.
#[inline(always)]
const fn word_bits(blocks: Blocks, word: u32) -> u32 {
    let start = word * WORD_BLOCKS;
    let mut bits = u32::MAX;
    if blocks.first > start {
        bits &= u32::MAX << ((blocks.first - start) & (WORD_BLOCKS - 1));
    }
    if blocks.end < start + WORD_BLOCKS {
        bits &= !(u32::MAX << ((blocks.end - start) & (WORD_BLOCKS - 1)));
    }
    bits
}

/// The first slot of a sender's set.
#[inline(always)]
fn set_of<A: Address>(key: &FragmentKey<A>) -> u32 {
    key.source.mix().wrapping_add(key.network.into()) % HELD_SETS * HELD_WAYS
}

#[inline(never)]
fn keep<A: Address, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    key: &FragmentKey<A>,
    datagram: &Datagram,
) -> Result<Order, DropReason> {
    let (now_s, lifetime_s, set) = (tables.now_s(), lifetime_s(tables), set_of(key));
    // What is complete is forgotten, but not its ports.
    let has_just_come = |ports: &FragmentPorts| now_s.saturating_sub(ports.seen_s) <= DUPLICATES_S;
    let (ways, full) = match tables.fragment(key).is_some_and(has_just_come) {
        true => (DUPLICATE_WAYS, DropReason::FragmentDuplicate),
        false => (HELD_WAYS, DropReason::FragmentsFull),
    };
    let mut slot = None;
    tables.repeat(ways, |way| {
        let Some(held) = tables.held(set + way) else {
            return false;
        };
        if held.claim(tables, now_s, lifetime_s).is_some() {
            slot = Some(set + way);
        }
        slot.is_none()
    });
    // (Made busy above: a reference does not outlast the loop for the verifier.)
    let held = slot.and_then(|slot| tables.held(slot)).ok_or(full)?;
    let mut busy = Busy(held);
    if packet.keep(&mut busy, key).is_none() {
        busy.hand_over(FREE);
        return Err(DropReason::FragmentsFull);
    }
    busy.hand_over(now_s);
    // The first one may have come meanwhile, and not have seen this one.
    let has_first = datagram.state.fetch_or(state::KEEPS) & state::FIRST != 0;
    if has_first && held.seen_s.exchange_if(now_s, FREE) == now_s {
        return Ok(Order::GoesOn);
    }
    Ok(Order::Kept)
}

/// Sends on what was kept of a packet whose first fragment is here.
#[inline(never)]
fn send_on<A: Address, P: Packet, T: Tables<A>>(packet: &mut P, tables: &T, key: &FragmentKey<A>) {
    if packet.save().is_none() {
        return;
    }
    let set = set_of(key);
    tables.repeat(HELD_WAYS, |way| {
        let Some(held) = tables.held(set + way) else {
            return false;
        };
        let seen_s = held.seen_s.load();
        if seen_s != FREE
            && seen_s != BUSY
            && let Some(busy) = held.make_busy(seen_s)
        {
            let is_wanted = packet.send_kept(&busy, key);
            busy.hand_over(if is_wanted { FREE } else { seen_s });
        }
        true
    });
    packet.restore();
}

/// Frees all slots whose fragments have waited for too long, and gives how many those were.
#[inline(always)]
pub fn expire_all<A: Address, T: Tables<A>>(tables: &T) -> i32 {
    let (now_s, lifetime_s) = (tables.now_s(), lifetime_s(tables));
    let mut freed = 0;
    tables.repeat(HELD_SETS * HELD_WAYS, |slot| {
        let held = tables.held(slot);
        freed += i32::from(held.is_some_and(|held| held.expire(tables, now_s, lifetime_s)));
        true
    });
    freed
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

#[cfg(not(target_arch = "bpf"))]
impl<A: Address> Held<A> {
    /// A slot with nothing in it.
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
            bytes: UnsafeCell::new([0; HELD_BYTES]),
        }
    }
}

#[cfg(not(target_arch = "bpf"))]
impl<A: Address> Default for Held<A> {
    fn default() -> Self {
        Self::new()
    }
}

impl<A> core::fmt::Debug for Held<A> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Held")
            .field("seen_s", &self.seen_s)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl<A: Address> Held<A> {
    /// Makes the slot busy if nothing is in it or what is has waited for too long.
    #[inline(always)]
    fn claim<T: Tables<A>>(&self, tables: &T, now_s: u32, lifetime_s: u32) -> Option<Busy<'_, A>> {
        let seen_s = self.seen_s.load();
        if seen_s == BUSY || (seen_s != FREE && now_s.saturating_sub(seen_s) < lifetime_s) {
            return None;
        }
        let busy = self.make_busy(seen_s)?;
        if seen_s != FREE {
            tables.count_drop(DropReason::FragmentExpired);
        }
        Some(busy)
    }

    /// Makes the slot busy if it still is as it was seen. What is in it is then what was there when it was
    /// handed over: the exchange acquires.
    #[inline(always)]
    fn make_busy(&self, seen_s: u32) -> Option<Busy<'_, A>> {
        (self.seen_s.exchange_if(seen_s, BUSY) == seen_s).then_some(Busy(self))
    }

    /// Frees the slot if what is in it has waited for too long.
    #[inline(always)]
    fn expire<T: Tables<A>>(&self, tables: &T, now_s: u32, lifetime_s: u32) -> bool {
        if self.seen_s.load() == FREE {
            return false;
        }
        match self.claim(tables, now_s, lifetime_s) {
            Some(busy) => {
                busy.hand_over(FREE);
                true
            }
            None => false,
        }
    }
}

impl<A: Copy> Busy<'_, A> {
    /// The packet that the fragment is a part of.
    #[inline(always)]
    #[must_use]
    pub fn key(&self) -> FragmentKey<A> {
        // SAFETY: the slot is busy, by this.
        unsafe { *self.0.key.get() }
    }

    /// Sets the packet that the fragment is a part of.
    #[inline(always)]
    pub fn set_key(&mut self, key: &FragmentKey<A>) {
        // SAFETY: as above.
        unsafe { *self.0.key.get() = *key };
    }

    /// The room for a frame, of which [`len`](Self::len) bytes hold one.
    #[inline(always)]
    #[must_use]
    pub fn bytes(&self) -> &[u8; HELD_BYTES] {
        // SAFETY: as above.
        unsafe { &*self.0.bytes.get() }
    }

    /// The same, to be written.
    #[inline(always)]
    pub fn bytes_mut(&mut self) -> &mut [u8; HELD_BYTES] {
        // SAFETY: as above, and nobody else borrows from this.
        unsafe { &mut *self.0.bytes.get() }
    }

    /// Length of the frame in bytes.
    #[inline(always)]
    #[must_use]
    pub fn len(&self) -> u32 {
        self.0.len.load()
    }

    /// Whether there is no frame.
    #[inline(always)]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sets the length of the frame.
    #[inline(always)]
    pub fn set_len(&mut self, len: u32) {
        self.0.len.store(len);
    }

    /// Lets others have the slot: with what was written to it since `seen_s`, or as a [`FREE`] one. The
    /// exchange releases, so that who makes it busy next sees all of that.
    #[inline(always)]
    fn hand_over(self, seen_s: u32) {
        self.0.seen_s.exchange_if(BUSY, seen_s);
    }
}

// SAFETY: the words are atomic, and the rest is touched only through `Busy`, of which there is one for a
// slot: who makes it has exchanged a word.
unsafe impl<A: Sync> Sync for Held<A> {}

/// IPv4 key of `DATAGRAMS` and `FRAGMENTS`.
pub type FragmentKey4 = FragmentKey<Addr4>;

crate::map_layout!(FragmentKey4, 16);
crate::map_layout!(FragmentPorts, 12);
const _: () = assert!(size_of::<Held<Addr4>>() == 2048);
const _: () = assert!(size_of::<Datagram>() == 1040);
