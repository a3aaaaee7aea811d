//! Limits per guest on the shared tables, so that one guest cannot use everything (RFC 6888 REQ-4).

use crate::{
    drop_reason::DropReason,
    family::Family,
    tables::{
        Tables,
        environment::MAX_WAITS,
        guests::{Guest, GuestKey, is_from_outside},
        insert::InsertError,
        sessions::SessionFlags,
    },
};

/// Counts one more session of a guest or of the host. If the [`SessionFlags`] of its primary entry
/// say that it was opened from outside, it also counts among those, which may take three quarters
/// of the table. The rest is for guests.
///
/// # Errors
///
/// [`DropReason::GuestSessions`] if the guest has reached its limit,
/// [`DropReason::OutsideSessions`] if sessions from outside have, and others if it cannot be
/// counted.
#[inline(never)]
pub fn enter<A: Family, T: Tables<A>>(
    tables: &T,
    key: &GuestKey<A>,
    session_flags: SessionFlags,
) -> Result<(), DropReason> {
    let outside = GuestKey::outside();
    let is_from_outside = is_from_outside(session_flags);
    if is_from_outside {
        let quarter = tables.host_sessions();
        let most = quarter.saturating_add(quarter).saturating_add(quarter);
        match add_one(tables, &outside, SESSIONS, most) {
            Err(DropReason::GuestSessions) => return Err(DropReason::OutsideSessions),
            other => other?,
        }
    }
    let counted = add(tables, key);
    if counted.is_err() && is_from_outside {
        take_one(tables, &outside, SESSIONS);
    }
    counted
}

/// Counts one more session of the host: [`enter`] with less stack.
///
/// # Errors
///
/// The same.
#[inline(always)]
pub fn enter_host<A: Family, T: Tables<A>>(
    tables: &T,
    key: &GuestKey<A>,
) -> Result<(), DropReason> {
    add_one(tables, key, SESSIONS, tables.host_sessions())
}

/// Counts one session less of a guest, given by the [`SessionFlags`] of
/// its primary entry.
#[inline(never)]
pub fn leave<A: Family, T: Tables<A>>(tables: &T, key: &GuestKey<A>, session_flags: SessionFlags) {
    take(tables, key, SESSIONS);
    if is_from_outside(session_flags) {
        take_one(tables, &GuestKey::outside(), SESSIONS);
    }
}

/// Counts one more external port of a guest.
///
/// # Errors
///
/// [`DropReason::GuestPorts`] if the guest has reached its limit, and others if it cannot be
/// counted.
#[inline(never)]
pub fn take_port<A: Family, T: Tables<A>>(tables: &T, key: &GuestKey<A>) -> Result<(), DropReason> {
    let limit = tables
        .settings()
        .map_or(0, |settings| settings.ports_per_guest);
    count(tables, key, PORTS, limit)?;
    share_port(tables, key, limit)
}

/// Counts one external port less of a guest, given by its address and its network's number.
#[inline(never)]
pub fn give_port<A: Family, T: Tables<A>>(tables: &T, address: A, network: u16) {
    take(tables, &GuestKey::new(address, network), PORTS);
}

/// What is counted: sessions.
const SESSIONS: u32 = 0;

/// What is counted: external ports.
const PORTS: u32 = 1;

/// Counts one more session of a guest. If the address is bound to a port of a bridge, all guests
/// behind that port share the limit: a guest there may use many addresses.
#[inline(always)]
fn add<A: Family, T: Tables<A>>(tables: &T, key: &GuestKey<A>) -> Result<(), DropReason> {
    let limit = match key.is_host() {
        true => tables.host_sessions(),
        false => tables
            .settings()
            .map_or(0, |settings| settings.sessions_per_guest),
    };
    add_one(tables, key, SESSIONS, limit)?;
    let port = tables.guest(key).map_or(0, |guest| guest.port.load());
    if port == 0 {
        return Ok(());
    }
    let counted = add_one(tables, &GuestKey::of_port(port), SESSIONS, limit);
    if counted.is_err() {
        take_one(tables, key, SESSIONS);
    }
    counted
}

/// Counts an external port of a guest among those of its bridge's port, where a session of the
/// guest already counts.
#[inline(never)]
fn share_port<A: Family, T: Tables<A>>(
    tables: &T,
    key: &GuestKey<A>,
    limit: u32,
) -> Result<(), DropReason> {
    let port = tables.guest(key).map_or(0, |guest| guest.port.load());
    if port == 0 {
        return Ok(());
    }
    let together = tables.guest(&GuestKey::of_port(port));
    let together = together.filter(|together| together.references.acquire());
    if let Some(together) = together {
        if together.ports.fetch_add(1) < limit || limit == 0 {
            return Ok(());
        }
        together.ports.fetch_add(u32::MAX);
        release(tables, &GuestKey::of_port(port), together);
    }
    uncount(tables, key, PORTS);
    Err(DropReason::GuestPorts)
}

/// Counts one less of a guest.
#[inline(always)]
fn take<A: Family, T: Tables<A>>(tables: &T, key: &GuestKey<A>, what: u32) {
    let port = tables.guest(key).map_or(0, |guest| guest.port.load());
    uncount(tables, key, what);
    if port != 0 {
        uncount(tables, &GuestKey::of_port(port), what);
    }
}

/// [`count`] as a separate function.
#[inline(never)]
fn add_one<A: Family, T: Tables<A>>(
    tables: &T,
    key: &GuestKey<A>,
    what: u32,
    limit: u32,
) -> Result<(), DropReason> {
    count(tables, key, what, limit)
}

/// Counts one more in an entry, unless there are `limit` (0 is none). (Inlined, where the stack has
/// no room for another frame.)
#[inline(always)]
fn count<A: Family, T: Tables<A>>(
    tables: &T,
    key: &GuestKey<A>,
    what: u32,
    limit: u32,
) -> Result<(), DropReason> {
    let guest = acquire(tables, key)?;
    let (word, reason) = match what {
        SESSIONS => (&guest.sessions, DropReason::GuestSessions),
        _ => (&guest.ports, DropReason::GuestPorts),
    };
    if word.fetch_add(1) < limit || limit == 0 {
        return Ok(());
    }
    word.fetch_add(u32::MAX);
    release(tables, key, guest);
    Err(reason)
}

/// [`uncount`] as a separate function.
#[inline(never)]
fn take_one<A: Family, T: Tables<A>>(tables: &T, key: &GuestKey<A>, what: u32) {
    uncount(tables, key, what);
}

/// Counts one less in an entry.
#[inline(always)]
fn uncount<A: Family, T: Tables<A>>(tables: &T, key: &GuestKey<A>, what: u32) {
    if let Some(guest) = tables.guest(key) {
        match what {
            SESSIONS => guest.sessions.fetch_add(u32::MAX),
            _ => guest.ports.fetch_add(u32::MAX),
        };
        release(tables, key, guest);
    }
}

/// The guest's entry with one more reference; a new one if there was none.
#[inline(always)]
fn acquire<'t, A: Family, T: Tables<A>>(
    tables: &'t T,
    key: &GuestKey<A>,
) -> Result<&'t Guest, DropReason> {
    if let Some(guest) = try_acquire(tables, key)? {
        return Ok(guest);
    }
    // Another CPU is releasing its last reference.
    tables.repeat(MAX_WAITS, |_| {
        tables.pause();
        tables
            .guest(key)
            .is_some_and(|guest| guest.references.is_gone())
    });
    try_acquire(tables, key)?.ok_or(DropReason::Ending)
}

/// The same, and none if the guest's entry is being removed.
#[inline(always)]
fn try_acquire<'t, A: Family, T: Tables<A>>(
    tables: &'t T,
    key: &GuestKey<A>,
) -> Result<Option<&'t Guest>, DropReason> {
    if tables.guest(key).is_none() {
        let port = tables.port_of(key.address, key.network);
        if tables.add_guest(key, port) == Err(InsertError::Full) {
            return Err(DropReason::TableFull);
        }
    }
    Ok(tables.guest(key).filter(|guest| guest.references.acquire()))
}

#[inline(always)]
fn release<A: Family, T: Tables<A>>(tables: &T, key: &GuestKey<A>, guest: &Guest) {
    if guest.references.release() {
        tables.remove_guest(key);
    }
}
