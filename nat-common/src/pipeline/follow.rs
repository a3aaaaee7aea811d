//! Packets of established sessions: following their connection.

use crate::{
    family::Family,
    headers::parsed::{Parsed, Transport},
    pipeline::lookup::is_reset,
    session::tracking::{self, Segment},
    tables::{
        Tables, next_hops,
        sessions::{Session, SessionFlags},
    },
    translation::{Step, Translation, Verdict},
    wire::tcp,
};

/// Follows the connection of a packet that its session translates. A recorded flow of the host
/// itself passes unchanged.
#[inline(always)]
pub(crate) fn follow_translated<A: Family, T: Tables<A>>(
    tables: &T,
    parsed: &Parsed<A>,
    session: &Session<A>,
    translation: &Translation<A>,
) -> Step {
    follow(tables, parsed, session);
    if is_reset(parsed) {
        show_answers(tables, parsed, session);
    }
    match is_only_noted(parsed, session, translation) {
        true => Err(Verdict::Untouched),
        false => Ok(()),
    }
}

/// Whether a packet belongs to a flow of the host itself that is recorded, not translated. (A
/// fragment may have received another identification.)
#[inline(always)]
fn is_only_noted<A: Family>(
    parsed: &Parsed<A>,
    session: &Session<A>,
    translation: &Translation<A>,
) -> bool {
    session.has(SessionFlags::HOST)
        && translation.source == parsed.source()
        && translation.destination == parsed.destination()
        && !parsed.is_fragment()
}

/// Sends the answers to a reset through the kernel. Connection tracking has taken the reset for the
/// end of the connection. It reverts this if it sees the connection continue.
#[inline(never)]
fn show_answers<A: Family, T: Tables<A>>(tables: &T, parsed: &Parsed<A>, session: &Session<A>) {
    if let Some(peer) = tables.session(&session.peer_key(parsed.header.protocol)) {
        peer.next_hop.store(next_hops::NONE);
    }
}

/// Updates both entries of the session with what a packet says about its connection.
#[inline(never)]
pub(crate) fn follow<A: Family, T: Tables<A>>(
    tables: &T,
    parsed: &Parsed<A>,
    session: &Session<A>,
) {
    let Transport::Tcp { flags } = parsed.transport else {
        return follow_datagram(tables, parsed, session);
    };
    let state = session.state.load();
    let segment = Segment {
        flags,
        has_data: parsed.has_data(),
        from_initiator: session.has(SessionFlags::FROM_INITIATOR),
    };
    let next = tracking::next(state, segment, || ahead(tables, parsed, session));
    let is_reset = flags & tcp::RST != 0;
    if !is_reset {
        session.acknowledge(parsed.acknowledged);
    } else if next != state {
        session.touch(tables.now_s());
    }
    write_state(tables, parsed, session, state, next);
}

/// The same for a packet other than TCP.
#[inline(always)]
pub(crate) fn follow_datagram<A: Family, T: Tables<A>>(
    tables: &T,
    parsed: &Parsed<A>,
    session: &Session<A>,
) {
    let state = session.state.load();
    let next = match session.has(SessionFlags::FROM_INITIATOR) {
        false => state | tracking::REPLIED,
        // A client that sends after an answer does more than ask one question.
        true if state & tracking::REPLIED != 0 => state & !tracking::QUESTION,
        true => state,
    };
    if next != state {
        write_state(tables, parsed, session, state, next);
    }
}

/// Writes the changed bits of the state into both entries. Only those bits, because packets of both
/// directions may change the state at once.
#[inline(never)]
fn write_state<A: Family, T: Tables<A>>(
    tables: &T,
    parsed: &Parsed<A>,
    session: &Session<A>,
    state: u32,
    next: u32,
) {
    let (added, removed) = (next & !state, state & !next);
    let write = |entry: &Session<A>| {
        if removed != 0 {
            entry.state.fetch_and(!removed);
        }
        if added != 0 {
            entry.state.fetch_or(added);
        }
    };
    if added | removed == 0 {
        return;
    }
    write(session);
    if let Some(peer) = tables.session(&session.peer_key(parsed.header.protocol)) {
        write(peer);
    }
}

/// How far a segment is ahead of the other side's last acknowledgement, if that is known.
#[inline(always)]
fn ahead<A: Family, T: Tables<A>>(
    tables: &T,
    parsed: &Parsed<A>,
    session: &Session<A>,
) -> Option<u32> {
    let peer = tables.session(&session.peer_key(parsed.header.protocol))?;
    Some(parsed.sequence.wrapping_sub(peer.acknowledged()?))
}
