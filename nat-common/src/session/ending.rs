//! Ending sessions: by idle time, or because they are no longer wanted.

use crate::{
    family::Family,
    session::{
        limits,
        references::{release, release_port},
        tracking::{self, Phase},
    },
    tables::{
        Tables,
        guests::{self, GuestKey},
        sessions::{DEAD, OPENING, Session, SessionFlags, SessionKey, View},
        settings::{DNS_S, Settings},
    },
    wire::protocol::{ICMP, ICMPV6, TCP, UDP},
};

/// What the program `end_sessions` does with its sessions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum EndMode {
    /// Ends those that have been idle for too long.
    Idle = 0,
    /// Ends them all.
    Now = 1,
}

/// How many keys `end_sessions` takes at a time. Few, because this CPU handles no packet in the
/// meantime: ending a session takes some microseconds.
///
/// Its input is a packet: the [`EndMode`] and the number of keys as native `u32`, and the keys from
/// [`END_KEYS_OFFSET`] on. Into the first word of each key it writes when to check that session
/// again, see [`Fate::Kept`], or 0 if the session no longer exists.
pub const END_BATCH: u32 = 16;

/// Offset of the first key in the input of `end_sessions`, in bytes.
pub const END_KEYS_OFFSET: usize = 16;

/// State of an answered question.
const ANSWERED: u32 = tracking::QUESTION | tracking::REPLIED;

/// How long a session may be idle in seconds.
#[inline(always)]
#[must_use]
pub fn timeout_s(settings: &Settings, protocol: u8, state: u32) -> u32 {
    match protocol {
        TCP => match tracking::phase(state) {
            Phase::Opening => settings.tcp_opening_s,
            Phase::Established => settings.tcp_established_s,
            Phase::Closing => settings.tcp_closing_s,
        },
        UDP if state & ANSWERED == ANSWERED && settings.udp_s > DNS_S => DNS_S,
        UDP => settings.udp_s,
        ICMP | ICMPV6 => settings.icmp_s,
        _ => settings.other_s,
    }
}

/// How long a flow of the host itself may be idle before it is answered, in seconds: a resolver
/// asks from many ports. A flow that continues is recorded again.
pub const HOST_UNANSWERED_S: u32 = 30;

/// How long a session from outside may be idle before the guest answers, in seconds: for that time,
/// a sender with forged sources fills the table. A later packet opens it again.
pub const OUTSIDE_UNANSWERED_S: u32 = 10;

/// How long a session with these [`SessionFlags`] may be idle in seconds.
#[inline(always)]
#[must_use]
pub fn idle_s(settings: &Settings, protocol: u8, session_flags: SessionFlags, state: u32) -> u32 {
    let timeout_s = timeout_s(settings, protocol, state);
    if state & tracking::REPLIED != 0 {
        return timeout_s;
    }
    let most_s = if session_flags.contains(SessionFlags::HOST) {
        HOST_UNANSWERED_S
    } else if guests::is_from_outside(session_flags) {
        OUTSIDE_UNANSWERED_S
    } else {
        return timeout_s;
    };
    if timeout_s > most_s {
        most_s
    } else {
        timeout_s
    }
}

/// The outcome for a session that should end if it has been idle too long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It has ended.
    Ended,
    /// It continues at least until this second.
    Kept(u32),
    /// The entry is not the primary one of its session.
    NotPrimary,
}

/// The second by which idleness is judged at `now_s`.
///
/// Clocks hold whole seconds. For a packet that arrived at the end of a second, up to one second
/// less has passed than they say. No session may end early.
#[inline(always)]
#[must_use]
pub const fn judged_s(now_s: u32) -> u32 {
    now_s.saturating_sub(1)
}

/// Ends the session of a primary entry if it has been idle for too long at `now_s`.
///
/// Both directions are checked, and taken out of use only if no packet has passed since. A packet
/// that arrives at the same moment keeps the whole session.
#[inline(always)]
pub fn expire<A: Family, T: Tables<A>>(
    tables: &T,
    settings: &Settings,
    now_s: u32,
    key: &SessionKey<A>,
    session: &Session<A>,
) -> Fate {
    if !session.has(SessionFlags::PRIMARY) {
        return Fate::NotPrimary;
    }
    let timeout_s = idle_s(settings, key.protocol, session.flags, session.state.load());
    let seen_s = session.seen_s.load();
    if !is_idle(now_s, seen_s, timeout_s) {
        return Fate::Kept(seen_s.saturating_add(timeout_s));
    }
    // A packet that arrives in between belongs to the current second.
    let kept = Fate::Kept(now_s.saturating_add(timeout_s));
    let peer_key = session.peer_key(key.protocol);
    if let Some(peer) = tables.session(&peer_key) {
        let peer_seen_s = peer.seen_s.load();
        // A remote alone does not keep a mapping alive (RFC 4787 REQ-6): the guest must have
        // answered.
        let counts = peer.has(SessionFlags::HAIRPIN)
            || !is_unanswered_by_guest(session)
            || !session.has(SessionFlags::REFS_PORT);
        if counts && !is_idle(now_s, peer_seen_s, timeout_s) {
            return Fate::Kept(peer_seen_s.saturating_add(timeout_s));
        }
        if !peer.kill(peer_seen_s) {
            return kept;
        }
        if !session.kill(seen_s) {
            peer.seen_s.store(peer_seen_s);
            return kept;
        }
    } else if !session.kill(seen_s) {
        return kept;
    }
    remove(tables, key, session);
    Fate::Ended
}

/// Ends the session of a primary entry at once; `false` if it is not primary, already ending, still
/// being opened, or if a packet passed at the same moment and the caller must try again.
#[inline(always)]
pub fn end<A: Family, T: Tables<A>>(tables: &T, key: &SessionKey<A>, session: &Session<A>) -> bool {
    let seen_s = session.seen_s.load();
    if !session.has(SessionFlags::PRIMARY) || seen_s >= OPENING || !session.kill(seen_s) {
        return false;
    }
    if let Some(peer) = tables.session(&session.peer_key(key.protocol)) {
        peer.seen_s.store(DEAD);
    }
    remove(tables, key, session);
    true
}

#[inline(always)]
const fn is_idle(now_s: u32, seen_s: u32, timeout_s: u32) -> bool {
    seen_s == DEAD || now_s.saturating_sub(seen_s) >= timeout_s
}

/// It was opened from outside, and the guest has not sent anything.
#[inline(always)]
fn is_unanswered_by_guest<A: Family>(session: &Session<A>) -> bool {
    !session.has(SessionFlags::FROM_INITIATOR) && session.state.load() & tracking::REPLIED == 0
}

/// Removes all entries of a session that is out of use, and releases its references.
#[inline(always)]
fn remove<A: Family, T: Tables<A>>(tables: &T, key: &SessionKey<A>, session: &Session<A>) {
    let protocol = key.protocol;
    let external = session.source_endpoint();
    let remote = match session.has(SessionFlags::HAIRPIN) {
        // The primary entry of a hairpinned session is the request's: its key still has the
        // external address that the client sent to.
        true => key.destination,
        false => session.destination,
    };
    let (refs, rule) = (session.flags, session.rule);
    if session.has(SessionFlags::HAIRPIN) {
        remove_between(tables, key, session);
    }
    remove_both(tables, key, session);
    release(tables, protocol, external, remote, refs);
    if refs.contains(SessionFlags::REFS_SERVER) {
        release_port(tables, protocol, key.destination_endpoint());
    }
    limits::leave(tables, &GuestKey::of_session(key, refs), refs);
    tables.count_closed(rule);
}

/// Removes both entries of a session. (A separate function, to save stack.)
#[inline(never)]
fn remove_both<A: Family, T: Tables<A>>(tables: &T, key: &SessionKey<A>, session: &Session<A>) {
    let peer_key = session.peer_key(key.protocol);
    // A packet that opens the session again begins with the entry that is removed last.
    let (last, first) = match key.precedes(&peer_key) {
        true => (key, &peer_key),
        false => (&peer_key, key),
    };
    tables.remove_session(first);
    tables.remove_session(last);
}

/// Removes the entries of a hairpinned session in between. (A separate function, to save stack.)
#[inline(never)]
fn remove_between<A: Family, T: Tables<A>>(tables: &T, key: &SessionKey<A>, session: &Session<A>) {
    let request = between(key, session);
    tables.remove_session(&request);
    tables.remove_session(&SessionKey {
        network: session.peer_network,
        ..request.reversed()
    });
}

/// The key of a hairpinned session's requests in between.
#[inline(always)]
fn between<A: Family>(key: &SessionKey<A>, session: &Session<A>) -> SessionKey<A> {
    SessionKey {
        source_port: session.source_port,
        destination: session.destination,
        destination_port: session.destination_port,
        view: View::Between as u8,
        ..*key
    }
}
