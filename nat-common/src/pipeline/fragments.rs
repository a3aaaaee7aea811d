//! Fragments in any order.
//!
//! Only the first fragment of a packet contains the ports. Fragments that arrive before it are
//! queued at the ingress hook and sent on when it arrives, so at all later hooks the first fragment
//! comes first. [`QUEUE_SETS`] and [`QUEUE_WAYS`] bound the queue in number and bytes, and
//! `fragment_s` bounds it in time. The queue is fair: a sender can use only the slots of one set.
//!
//! A packet's fragments may not overlap (RFC 5722 section 3, and Linux since 5.0 for IPv4 too): the
//! receiver could reassemble another packet than the one that was judged here. A fragment whose
//! blocks have all arrived before is a duplicate made by the network (RFC 8200 section 4.5). Only
//! the duplicate is dropped, as by Linux (`inet_frag_queue_insert`). The receiver gets each block
//! once, so the content of a duplicate is not compared.

use crate::{
    drop_reason::DropReason,
    family::Family,
    headers::parsed::Parsed,
    pipeline::lookup::generation,
    tables::{
        Tables,
        datagrams::{BLOCK, Datagram, WORD_BLOCKS, WORDS, state},
        fragments::{FragmentKey, FragmentPorts},
        insert::InsertError,
        policies::{ChainKey, side},
        queued::{BUSY, Busy, FREE, QUEUE_SETS, QUEUE_WAYS, Queued, QueuedPacket},
        sessions::View,
    },
    translation::{Step, Verdict},
    wire::protocol::TCP,
};

/// Slots of these for fragments that may be duplicates of a complete packet. (They may also belong
/// to the next packet with the same identification.)
pub const DUPLICATE_WAYS: u32 = QUEUE_WAYS / 8;

/// The outcome for a fragment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// It passes: the first fragment has arrived, or is this one.
    GoesOn,
    /// It is queued until the first fragment arrives.
    Queued,
}

/// The blocks of a fragment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Blocks {
    first: u32,
    /// The one after the last.
    end: u32,
    is_last: bool,
}

/// How the blocks of a fragment relate to those that arrived before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    New,
    Duplicate,
    Contradiction,
}

/// For how long a fragment of a complete packet may be a duplicate, in seconds.
const DUPLICATES_S: u32 = 1;

impl<A: Family> Parsed<A> {
    /// The blocks of a fragment.
    ///
    /// # Errors
    ///
    /// Why no host would accept it.
    #[inline(always)]
    fn blocks(&self) -> Result<Blocks, DropReason> {
        let header = &self.header;
        let len = header.total_len - header.header_len;
        let offset = usize::from(header.fragment_offset);
        if len == 0 || (header.more_fragments && !len.is_multiple_of(BLOCK)) {
            return Err(DropReason::Malformed);
        }
        if offset + len > A::MAX_PAYLOAD {
            return Err(DropReason::FragmentOversized);
        }
        if offset == BLOCK && header.protocol == TCP {
            // It would overwrite TCP's flags, which are in the first fragment (RFC 3128).
            return Err(DropReason::FragmentTiny);
        }
        Ok(Blocks {
            first: (offset / BLOCK) as u32,
            end: (offset + len).div_ceil(BLOCK) as u32,
            is_last: !header.more_fragments,
        })
    }
}

/// Lets a fragment pass if the first fragment of its packet has arrived, and queues it otherwise.
/// When the first fragment arrives, it sends the queued ones, which reach the same hook after this
/// packet.
///
/// # Errors
///
/// Why it is dropped.
#[inline(always)]
pub fn order<A: Family, P: QueuedPacket, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    parsed: &Parsed<A>,
    key: &FragmentKey<A>,
) -> Result<Order, DropReason> {
    let blocks = parsed.blocks()?;
    if packet.was_queued() {
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
    } else if A::has_ports(key.protocol) && datagram.state.load() & state::FIRST == 0 {
        return queue(packet, tables, key, datagram);
    }
    if datagram.is_complete() {
        // Its identification may be used again.
        tables.remove_datagram(key);
    }
    Ok(Order::GoesOn)
}

/// The packet to which a fragment belongs; a new one if none of its fragments has arrived recently.
#[inline(always)]
fn datagram<'t, A: Family, T: Tables<A>>(
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
fn lifetime_s<A: Family, T: Tables<A>>(tables: &T) -> u32 {
    tables.settings().map_or(0, |settings| settings.fragment_s)
}

impl Datagram {
    /// Records the blocks that arrived, and returns how they relate to earlier ones.
    #[inline(always)]
    fn note<A: Family, T: Tables<A>>(&self, tables: &T, blocks: Blocks) -> Part {
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

    /// Whether all of it has arrived.
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
fn set_of<A: Family>(key: &FragmentKey<A>) -> u32 {
    key.source.hash().wrapping_add(key.network.into()) % QUEUE_SETS * QUEUE_WAYS
}

#[inline(never)]
fn queue<A: Family, P: QueuedPacket, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    key: &FragmentKey<A>,
    datagram: &Datagram,
) -> Result<Order, DropReason> {
    let (now_s, lifetime_s, set) = (tables.now_s(), lifetime_s(tables), set_of(key));
    // A complete packet is forgotten, but not its ports.
    let has_just_come = |ports: &FragmentPorts| now_s.saturating_sub(ports.seen_s) <= DUPLICATES_S;
    let (ways, full) = match tables.fragment(key).is_some_and(has_just_come) {
        true => (DUPLICATE_WAYS, DropReason::FragmentDuplicate),
        false => (QUEUE_WAYS, DropReason::FragmentsFull),
    };
    let mut slot = None;
    tables.repeat(ways, |way| {
        let Some(queued) = tables.queued(set + way) else {
            return false;
        };
        if queued.claim(tables, now_s, lifetime_s).is_some() {
            slot = Some(set + way);
        }
        slot.is_none()
    });
    // (Looked up again, although it is busy: to the verifier, a reference does not outlive the
    // loop.)
    let queued = slot.and_then(|slot| tables.queued(slot)).ok_or(full)?;
    let mut busy = Busy(queued);
    if packet.queue(&mut busy, key).is_none() {
        busy.hand_over(FREE);
        return Err(DropReason::FragmentsFull);
    }
    busy.hand_over(now_s);
    // The first fragment may have arrived in the meantime without seeing this one.
    let has_first = datagram.state.fetch_or(state::KEEPS) & state::FIRST != 0;
    if has_first && queued.seen_s.exchange_if(now_s, FREE) == now_s {
        return Ok(Order::GoesOn);
    }
    Ok(Order::Queued)
}

/// Sends the queued fragments of a packet whose first fragment is here.
#[inline(never)]
fn send_on<A: Family, P: QueuedPacket, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    key: &FragmentKey<A>,
) {
    if packet.save().is_none() {
        return;
    }
    let set = set_of(key);
    tables.repeat(QUEUE_WAYS, |way| {
        let Some(queued) = tables.queued(set + way) else {
            return false;
        };
        let seen_s = queued.seen_s.load();
        if seen_s != FREE
            && seen_s != BUSY
            && let Some(busy) = queued.make_busy(seen_s)
        {
            let is_wanted = packet.send_queued(&busy, key);
            busy.hand_over(if is_wanted { FREE } else { seen_s });
        }
        true
    });
    // This fails only if the kernel lacks memory. The packet then still holds a fragment that has
    // been sent on, and is translated once more. The receiver never gets the first fragment, so it
    // never completes the datagram from this copy.
    packet.restore();
}

/// Frees all slots whose fragments have waited too long, and returns how many those were.
#[inline(always)]
pub fn expire_all<A: Family, T: Tables<A>>(tables: &T) -> i32 {
    let (now_s, lifetime_s) = (tables.now_s(), lifetime_s(tables));
    let mut freed = 0;
    tables.repeat(QUEUE_SETS * QUEUE_WAYS, |slot| {
        let queued = tables.queued(slot);
        freed += i32::from(queued.is_some_and(|queued| queued.expire(tables, now_s, lifetime_s)));
        true
    });
    freed
}

impl<A: Family> Queued<A> {
    /// Makes the slot busy if it is empty or its fragment has waited too long.
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

    /// Frees the slot if its fragment has waited too long.
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

/// Lets a fragment into the pipeline once the first fragment of its packet has arrived.
#[inline(never)]
pub(crate) fn enter<A: Family, P: QueuedPacket, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    parsed: &Parsed<A>,
    view: View,
    network: u16,
) -> Step {
    let (generation, destination) = (generation(tables), parsed.header.destination);
    let may_be_translated = match view {
        View::Outside => tables.external_address(generation, destination).is_some(),
        _ => destination.is_unicast() && tables.inside(generation, destination).is_none(),
    };
    // Policies need the ports of packets to guests.
    let may_be_policed = || {
        let any = ChainKey {
            generation,
            from: side::ANY,
            to: side::ANY,
            reserved: 0,
        };
        destination.is_unicast() && tables.chain(&any).is_some()
    };
    if !may_be_translated && !may_be_policed() {
        return Ok(());
    }
    match order(packet, tables, parsed, &parsed.fragment_key(view, network))? {
        Order::GoesOn => Ok(()),
        Order::Queued => Err(Verdict::Queued),
    }
}
