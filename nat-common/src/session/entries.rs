//! Adding the entries of a session.
//!
//! Two packets may open the same session at the same time on different CPUs, also from both ends. A
//! packet may also open a session that another CPU is ending. Adding an entry never replaces one.
//! Of a session's two entries, every CPU adds the same one ([`SessionKey::precedes`]) first and
//! removes it last. The CPU that adds it opens the session. A CPU that finds it looks again until
//! the session can be used ([`super::opening`]) or is gone. If a step fails, everything that was
//! added before is removed.

use crate::{
    drop_reason::DropReason,
    family::Family,
    session::tracking,
    tables::{
        Tables,
        insert::InsertError,
        next_hops,
        sessions::{JUST_OPENED, OPENING, SessionFlags, SessionKey, SessionRecord, View},
        settings::DNS_PORT,
    },
    verifier::verifier_barrier,
    wire::{
        address::{Endpoint, Port},
        protocol::UDP,
    },
    work::opening::{Entry, Opening, Refusal},
};

/// [`SessionRecord::state`] of a session that a guest opens.
#[inline(always)]
pub(crate) fn first_state(protocol: u8, destination: Port) -> u32 {
    if protocol == UDP && destination.number() == DNS_PORT {
        tracking::QUESTION
    } else {
        0
    }
}

#[inline(always)]
pub(crate) fn record<A: Family, T: Tables<A>>(
    tables: &T,
    source: Endpoint<A>,
    destination: Endpoint<A>,
    peer_view: View,
    peer_network: u16,
    rule: u32,
) -> SessionRecord<A> {
    let now_s = tables.now_s();
    SessionRecord {
        source: source.address,
        destination: destination.address,
        source_port: source.port,
        destination_port: destination.port,
        peer_network,
        peer_view: peer_view as u8,
        flags: SessionFlags::empty(),
        rule,
        opened_s: now_s,
        seen_s: now_s,
        state: 0,
        next_hop: next_hops::NONE,
        xdp_passed_at: JUST_OPENED,
    }
}

/// The key under which answers to packets of this entry are looked up.
#[inline(always)]
pub(crate) fn answer_key<A: Family>(entry: &Entry<A>) -> SessionKey<A> {
    let Entry { key, record } = entry;
    SessionKey {
        source: record.destination,
        destination: record.source,
        source_port: record.destination_port,
        destination_port: record.source_port,
        network: record.peer_network,
        protocol: key.protocol,
        view: record.peer_view,
    }
}

/// The intermediate key of its answers: the reverse, as connection tracking expects.
#[inline(always)]
fn answer_between_key<A: Family>(request: &SessionKey<A>, answer: &Entry<A>) -> SessionKey<A> {
    SessionKey {
        network: answer.key.network,
        ..request.reversed()
    }
}

/// The intermediate key of a packet that opens a hairpinned session: everything is rewritten except
/// the source address.
#[inline(always)]
fn between_key<A: Family>(entry: &Entry<A>) -> SessionKey<A> {
    SessionKey {
        source_port: entry.record.source_port,
        destination: entry.record.destination,
        destination_port: entry.record.destination_port,
        view: View::Between as u8,
        ..entry.key
    }
}

/// Adds both entries of a session or none.
#[inline(always)]
pub(crate) fn add_pair<A: Family, T: Tables<A>>(
    tables: &T,
    opening: &mut Opening<A>,
) -> Result<(), Refusal> {
    if opening.request.key.precedes(&opening.answer.key) {
        add_request(tables, opening)?;
        add_answer(tables, opening).inspect_err(|_| remove_request(tables, opening))?;
        make_usable(tables, &opening.request);
        Ok(())
    } else {
        add_answer(tables, opening)?;
        add_request(tables, opening).inspect_err(|_| remove_answer(tables, opening))
    }
}

/// Adds all entries of a hairpinned session or none.
#[inline(always)]
fn add_hairpin<A: Family, T: Tables<A>>(
    tables: &T,
    opening: &mut Opening<A>,
) -> Result<(), Refusal> {
    if opening.request.key.precedes(&opening.answer.key) {
        add_request(tables, opening)?;
        add_between(tables, opening).inspect_err(|_| remove_request(tables, opening))?;
        add_answer(tables, opening).inspect_err(|_| {
            remove_between(tables, opening);
            remove_request(tables, opening);
        })?;
        make_usable(tables, &opening.request);
    } else {
        // The other guest may send first, which needs the intermediate entries.
        let seen_s = opening.answer.record.seen_s;
        opening.answer.record.seen_s = OPENING;
        let added = add_answer(tables, opening);
        opening.answer.record.seen_s = seen_s;
        added?;
        add_between(tables, opening).inspect_err(|_| remove_answer(tables, opening))?;
        add_request(tables, opening).inspect_err(|_| {
            remove_between(tables, opening);
            remove_answer(tables, opening);
        })?;
        make_usable(tables, &opening.answer);
    }
    Ok(())
}

/// Adds the entry of the packet's direction. If it is the first one, packets do not use it yet,
/// because the other entry may turn out to be taken.
#[inline(never)]
fn add_request<A: Family, T: Tables<A>>(
    tables: &T,
    opening: &mut Opening<A>,
) -> Result<(), Refusal> {
    let Opening {
        request, answer, ..
    } = opening;
    let seen_s = request.record.seen_s;
    if request.key.precedes(&answer.key) {
        request.record.seen_s = OPENING;
    }
    verifier_barrier(request);
    // An existing entry belongs to the same flow, which another CPU is opening or ending.
    let result = tables.add_session(&request.key, &request.record);
    request.record.seen_s = seen_s;
    Ok(result?)
}

/// Adds the entry of the other direction.
#[inline(never)]
fn add_answer<A: Family, T: Tables<A>>(
    tables: &T,
    opening: &mut Opening<A>,
) -> Result<(), Refusal> {
    let Opening {
        request, answer, ..
    } = opening;
    match tables.add_session(&answer.key, &answer.record) {
        Ok(()) => Ok(()),
        Err(InsertError::Full) => Err(Refusal::Final(DropReason::TableFull)),
        Err(InsertError::Exists) => match tables.session(&answer.key) {
            Some(other)
                if other.is_usable() && other.peer_key(answer.key.protocol) != request.key =>
            {
                Err(Refusal::PortTaken)
            }
            _ => Err(Refusal::Busy),
        },
    }
}

#[inline(always)]
fn remove_request<A: Family, T: Tables<A>>(tables: &T, opening: &Opening<A>) {
    tables.remove_session(&opening.request.key);
}

#[inline(always)]
fn remove_answer<A: Family, T: Tables<A>>(tables: &T, opening: &Opening<A>) {
    tables.remove_session(&opening.answer.key);
}

/// Lets packets use the entry that was added first.
#[inline(never)]
fn make_usable<A: Family, T: Tables<A>>(tables: &T, first: &Entry<A>) {
    if let Some(session) = tables.session(&first.key) {
        session.seen_s.exchange_if(OPENING, first.record.seen_s);
    }
}

/// Adds the entries for the hook in between.
#[inline(never)]
fn add_between<A: Family, T: Tables<A>>(
    tables: &T,
    opening: &mut Opening<A>,
) -> Result<(), Refusal> {
    let Opening {
        request, answer, ..
    } = opening;
    let request_between = between_key(request);
    let answer_between = answer_between_key(&request_between, answer);
    // A guest that sends to itself with the same port at both ends: the intermediate keys of both
    // directions would be equal.
    if request_between == answer_between {
        return Err(Refusal::PortTaken);
    }
    let taken = |error| match error {
        InsertError::Exists => Refusal::PortTaken,
        InsertError::Full => Refusal::Final(DropReason::TableFull),
    };
    tables
        .add_session(&answer_between, &answer.record)
        .map_err(taken)?;
    // Expiry checks only the other entry of a session.
    request.record.flags &= !SessionFlags::PRIMARY;
    let result = tables.add_session(&request_between, &request.record);
    request.record.flags |= SessionFlags::PRIMARY;
    result
        .map_err(taken)
        .inspect_err(|_| tables.remove_session(&answer_between))
}

#[inline(never)]
fn remove_between<A: Family, T: Tables<A>>(tables: &T, opening: &Opening<A>) {
    let request = between_key(&opening.request);
    tables.remove_session(&answer_between_key(&request, &opening.answer));
    tables.remove_session(&request);
}

/// Adds all entries of the session or none.
#[inline(always)]
pub(crate) fn add_session<A: Family, T: Tables<A>>(
    tables: &T,
    opening: &mut Opening<A>,
) -> Result<(), Refusal> {
    if opening.request.record.flags.contains(SessionFlags::HAIRPIN) {
        add_hairpin(tables, opening)
    } else {
        add_pair(tables, opening)
    }
}

/// Adds all entries of a session that was opened elsewhere, or none; returns whether it added them.
#[inline(never)]
pub(crate) fn add_session_entries<A: Family, T: Tables<A>>(
    tables: &T,
    opening: &mut Opening<A>,
) -> bool {
    verifier_barrier(opening);
    add_session(tables, opening).is_ok()
}
