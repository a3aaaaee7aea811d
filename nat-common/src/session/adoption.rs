//! Sessions that the former programs opened or used while the daemon copied their tables into new
//! ones.
//!
//! The daemon fills the new tables while the old ones are still in use, and lets new programs take
//! over. It passes the changes that the old tables saw in the meantime to the program
//! `adopt_sessions`, which adds them to the new tables while packets already use these.

use crate::{
    family::Family,
    session::{
        entries::{add_session_entries, answer_key},
        limits,
        references::{add_permit, add_port, release, release_port},
    },
    tables::{
        Tables,
        guests::GuestKey,
        permits::PermitKey,
        ports::{PortKey, PortRecord},
        sessions::{DEAD, Session, SessionFlags, SessionKey, SessionRecord},
    },
    wire::address::{Addr4, Addr6, Address},
    work::opening::Opening,
};

/// A session in the input of `adopt_sessions`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Adopted<A> {
    /// Key of its primary entry.
    pub key: SessionKey<A>,
    /// Its primary entry.
    pub record: SessionRecord<A>,
    /// The other direction's entry.
    pub peer: SessionRecord<A>,
    /// The owner of its external port, if it [holds](SessionFlags::REFS_PORT) it.
    pub port: PortRecord<A>,
    /// The owner of the port to which it was sent, if it [holds](SessionFlags::REFS_SERVER) that
    /// one.
    pub server: PortRecord<A>,
}

/// How many sessions `adopt_sessions` takes at a time.
///
/// Its input is a packet: the number of sessions as native `u32`, and the sessions from
/// [`ADOPT_OFFSET`] on.
pub const ADOPT_BATCH: u32 = 8;

/// Offset of the first session in the input of `adopt_sessions`, in bytes.
pub const ADOPT_OFFSET: usize = 16;

/// The counts under one number, for the program `add_counts`, which adds them on this CPU. The
/// kernel must add them, because packets count there at the same time.
///
/// Its input is a packet: the number of entries as native `u32`, and the entries from
/// [`ADOPT_OFFSET`] on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Counted {
    /// One of [`counted`].
    pub table: u32,
    /// The number in the table.
    pub number: u32,
    /// What to add: the words of a [`crate::tables::counters::RuleCounters`], or one word for a
    /// drop reason.
    pub words: [u64; 6],
}

/// Values of [`Counted::table`].
pub mod counted {
    /// `COUNTERS`, by rule.
    pub const RULES: u32 = 0;
    /// `DROPS`, by reason.
    pub const DROPS: u32 = 1;
}

/// How many entries `add_counts` takes at a time.
pub const COUNTED_BATCH: u32 = 16;

/// Adds a session, or updates the existing one. `false` if it could not be added: a newer session
/// has its place, or the tables are full.
#[inline(always)]
pub fn adopt<A: Family, T: Tables<A>>(
    tables: &T,
    adopted: &Adopted<A>,
    opening: &mut Opening<A>,
) -> bool {
    let (key, record) = (&adopted.key, &adopted.record);
    if let Some(session) = tables.session(key) {
        refresh(session, record);
        if let Some(peer) = tables.session(&session.peer_key(key.protocol)) {
            refresh(peer, &adopted.peer);
        }
        return true;
    }
    prepare(adopted, opening);
    if limits::enter(tables, &opening.guest, record.flags).is_err() {
        return false;
    }
    let refs = hold(tables, adopted);
    let is_added = refs.is_some() && add_session_entries(tables, opening);
    if !is_added {
        give_back(tables, adopted, refs.unwrap_or_default());
        limits::leave(tables, &opening.guest, record.flags);
    }
    is_added
}

/// Takes over clock and state. Packets of the session may change both at the same moment.
#[inline(always)]
fn refresh<A: Family>(session: &Session<A>, record: &SessionRecord<A>) {
    let seen_s = session.seen_s.load();
    if seen_s != DEAD && seen_s < record.seen_s {
        session.seen_s.exchange_if(seen_s, record.seen_s);
    }
    // The next segment corrects anything that is out of date.
    session.state.fetch_or(record.state);
}

#[inline(never)]
fn prepare<A: Family>(adopted: &Adopted<A>, opening: &mut Opening<A>) {
    let is_request = adopted.record.flags.contains(SessionFlags::FROM_INITIATOR);
    let (primary, peer) = match is_request {
        false => (&mut opening.answer, &mut opening.request),
        true => (&mut opening.request, &mut opening.answer),
    };
    primary.key = adopted.key;
    primary.record = adopted.record;
    peer.record = adopted.peer;
    peer.key = answer_key(primary);
    opening.guest = GuestKey::of_session(&adopted.key, adopted.record.flags);
}

/// Takes the references that the session holds and returns their flags, or none if not all are
/// available.
#[inline(always)]
fn hold<A: Family, T: Tables<A>>(tables: &T, adopted: &Adopted<A>) -> Option<SessionFlags> {
    let (key, record) = (&adopted.key, &adopted.record);
    let wanted = record.flags;
    let external = PortKey::new(record.source_endpoint(), key.protocol);
    let mut refs = SessionFlags::empty();
    let mut is_complete = true;
    if wanted.contains(SessionFlags::REFS_PORT) {
        is_complete = hold_port(tables, &external, &adopted.port);
        refs.set(SessionFlags::REFS_PORT, is_complete);
    }
    if is_complete && wanted.contains(SessionFlags::REFS_PERMIT) {
        is_complete = add_permit(tables, &permit_key(adopted)).is_ok();
        refs.set(SessionFlags::REFS_PERMIT, is_complete);
    }
    if is_complete && wanted.contains(SessionFlags::REFS_SERVER) {
        let server = PortKey::new(key.destination_endpoint(), key.protocol);
        is_complete = hold_port(tables, &server, &adopted.server);
        refs.set(SessionFlags::REFS_SERVER, is_complete);
    }
    if !is_complete {
        give_back(tables, adopted, refs);
        return None;
    }
    Some(refs)
}

#[inline(always)]
fn permit_key<A: Family>(adopted: &Adopted<A>) -> PermitKey<A> {
    let (key, record) = (&adopted.key, &adopted.record);
    PermitKey::new(record.source_endpoint(), remote(adopted), key.protocol)
}

/// The address of the permit: see [`crate::session::ending`], which releases it.
#[inline(always)]
fn remote<A: Family>(adopted: &Adopted<A>) -> A {
    match adopted.record.flags.contains(SessionFlags::HAIRPIN) {
        true => adopted.key.destination,
        false => adopted.record.destination,
    }
}

#[inline(never)]
fn give_back<A: Family, T: Tables<A>>(tables: &T, adopted: &Adopted<A>, refs: SessionFlags) {
    let (key, record) = (&adopted.key, &adopted.record);
    let external = record.source_endpoint();
    release(tables, key.protocol, external, remote(adopted), refs);
    if refs.contains(SessionFlags::REFS_SERVER) {
        release_port(tables, key.protocol, key.destination_endpoint());
    }
}

/// Takes a reference to a port of this owner; adds the port if it does not exist.
#[inline(never)]
fn hold_port<A: Family, T: Tables<A>>(
    tables: &T,
    key: &PortKey<A>,
    record: &PortRecord<A>,
) -> bool {
    let Some(owner) = tables.port(key) else {
        return add_port(tables, key, &mut { *record }).is_ok();
    };
    let is_same = owner.flags == record.flags
        && owner.address == record.address
        && owner.port == record.port
        && owner.network == record.network;
    is_same && owner.references.acquire()
}

/// IPv4 input of `adopt_sessions`.
pub type Adopted4 = Adopted<Addr4>;

crate::map_layouts!(Adopted, 136, 232);
crate::map_layout!(Counted, 56);
