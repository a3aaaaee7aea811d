//! What each guest has of the shared tables, so that one cannot take all (RFC 6888 REQ-4).

use crate::{
    address::{Addr4, Address},
    counter::DropReason,
    mapping::References,
    open::MAX_WAITS,
    session::{SessionKey, flags},
    shared::Shared,
    tables::{InsertError, Tables},
};

/// Key of `GUESTS`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
pub struct GuestKey<A> {
    /// The guest's address.
    pub address: A,
    /// Number of its network, 0 if it is in none.
    pub network: u16,
    /// Zero.
    pub reserved: u16,
}

/// Value of `GUESTS`, as it is written and read as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct GuestRecord {
    /// How many sessions and ports refer to this entry.
    pub references: u32,
    /// How many sessions it has.
    pub sessions: u32,
    /// How many external ports are its alone. One may outlive its sessions: another guest's may
    /// hold it.
    pub ports: u32,
    /// Index of the port of a bridge that the address was bound to when this entry was made, 0 for none:
    /// what a guest has counts together with all else of that port.
    pub port: u32,
}

/// [`GuestRecord`] in a table.
#[derive(Debug)]
#[repr(C)]
pub struct Guest {
    /// See [`GuestRecord::references`].
    pub references: References,
    /// See [`GuestRecord::sessions`].
    pub sessions: Shared,
    /// See [`GuestRecord::ports`].
    pub ports: Shared,
    /// See [`GuestRecord::port`].
    pub port: Shared,
}

impl<A: Address> GuestKey<A> {
    /// The key of a guest.
    #[inline(always)]
    pub fn new(address: A, network: u16) -> Self {
        Self {
            address,
            network,
            reserved: 0,
        }
    }

    /// Under whom a session counts, by its primary entry's key and [`flags`]: those of the host's
    /// own are counted together.
    #[inline(always)]
    pub fn of_session(key: &SessionKey<A>, session_flags: u8) -> Self {
        if session_flags & flags::HOST != 0 {
            Self::new(A::UNSPECIFIED, 0)
        } else {
            Self::new(key.source, key.network)
        }
    }

    /// Under whom all sessions count that were opened from outside.
    #[inline(always)]
    pub fn outside() -> Self {
        Self::new(A::UNSPECIFIED, u16::MAX)
    }

    /// Under whom all counts that is behind a port of a bridge.
    #[inline(always)]
    fn of_port(port: u32) -> Self {
        Self::new(A::of_index(port), u16::MAX - 1)
    }

    /// Whether it is the host itself.
    #[inline(always)]
    pub fn is_host(&self) -> bool {
        self.network == 0 && self.address == A::UNSPECIFIED
    }
}

/// Whether a session was opened from outside, by the [`flags`] of its primary entry.
#[inline(always)]
#[must_use]
pub const fn is_from_outside(session_flags: u8) -> bool {
    session_flags & (flags::PRIMARY | flags::FROM_INITIATOR | flags::HOST) == flags::PRIMARY
}

/// Counts one more session of a guest, or of the host; by the [`flags`] of its primary entry also of
/// those from outside, which are three quarters of the table at the most: the rest is the guests'.
///
/// # Errors
///
/// [`DropReason::GuestSessions`] if it has as many as it may, [`DropReason::OutsideSessions`] if
/// those from outside are as many as there may be, and others if it cannot be counted.
#[inline(never)]
pub fn enter<A: Address, T: Tables<A>>(
    tables: &T,
    key: &GuestKey<A>,
    session_flags: u8,
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

/// Counts one more session of the host's own: [`enter`] with less of the stack.
///
/// # Errors
///
/// The same.
#[inline(always)]
pub fn enter_host<A: Address, T: Tables<A>>(
    tables: &T,
    key: &GuestKey<A>,
) -> Result<(), DropReason> {
    add_one(tables, key, SESSIONS, tables.host_sessions())
}

/// Counts one session less of a guest, given by the [`flags`] of its primary entry.
#[inline(never)]
pub fn leave<A: Address, T: Tables<A>>(tables: &T, key: &GuestKey<A>, session_flags: u8) {
    take(tables, key, SESSIONS);
    if is_from_outside(session_flags) {
        take_one(tables, &GuestKey::outside(), SESSIONS);
    }
}

/// Counts one more external port of a guest.
///
/// # Errors
///
/// [`DropReason::GuestPorts`] if it has as many as it may, and others if it cannot be counted.
#[inline(never)]
pub fn take_port<A: Address, T: Tables<A>>(
    tables: &T,
    key: &GuestKey<A>,
) -> Result<(), DropReason> {
    let limit = tables
        .settings()
        .map_or(0, |settings| settings.ports_per_guest);
    count(tables, key, PORTS, limit)?;
    share_port(tables, key, limit)
}

/// Counts one external port less.
#[inline(never)]
pub fn give_port<A: Address, T: Tables<A>>(tables: &T, key: &GuestKey<A>) {
    take(tables, key, PORTS);
}

/// What is counted: sessions.
const SESSIONS: u32 = 0;
/// What is counted: external ports.
const PORTS: u32 = 1;

/// Counts one more session of a guest. The limit is that of all guests behind the same port, where the
/// address is bound to one: whoever is there may have as many addresses as it likes.
#[inline(always)]
fn add<A: Address, T: Tables<A>>(tables: &T, key: &GuestKey<A>) -> Result<(), DropReason> {
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

/// Counts an external port that a guest has taken with those of its bridge's port, which has a session
/// of the guest's.
#[inline(never)]
fn share_port<A: Address, T: Tables<A>>(
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
fn take<A: Address, T: Tables<A>>(tables: &T, key: &GuestKey<A>, what: u32) {
    let port = tables.guest(key).map_or(0, |guest| guest.port.load());
    uncount(tables, key, what);
    if port != 0 {
        uncount(tables, &GuestKey::of_port(port), what);
    }
}

/// [`count`] as a function of its own.
#[inline(never)]
fn add_one<A: Address, T: Tables<A>>(
    tables: &T,
    key: &GuestKey<A>,
    what: u32,
    limit: u32,
) -> Result<(), DropReason> {
    count(tables, key, what, limit)
}

/// Counts one more in an entry, unless there are `limit` (0 is none). (Where the stack has no room for
/// one more function, it is written out.)
#[inline(always)]
fn count<A: Address, T: Tables<A>>(
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

/// [`uncount`] as a function of its own.
#[inline(never)]
fn take_one<A: Address, T: Tables<A>>(tables: &T, key: &GuestKey<A>, what: u32) {
    uncount(tables, key, what);
}

/// Counts one less in an entry.
#[inline(always)]
fn uncount<A: Address, T: Tables<A>>(tables: &T, key: &GuestKey<A>, what: u32) {
    if let Some(guest) = tables.guest(key) {
        match what {
            SESSIONS => guest.sessions.fetch_add(u32::MAX),
            _ => guest.ports.fetch_add(u32::MAX),
        };
        release(tables, key, guest);
    }
}

/// The guest with one more reference, new if it had nothing.
#[inline(always)]
fn acquire<'t, A: Address, T: Tables<A>>(
    tables: &'t T,
    key: &GuestKey<A>,
) -> Result<&'t Guest, DropReason> {
    if let Some(guest) = try_acquire(tables, key)? {
        return Ok(guest);
    }
    // Another CPU takes the last of what it had away.
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
fn try_acquire<'t, A: Address, T: Tables<A>>(
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
fn release<A: Address, T: Tables<A>>(tables: &T, key: &GuestKey<A>, guest: &Guest) {
    if guest.references.release() {
        tables.remove_guest(key);
    }
}

/// IPv4 key of `GUESTS`.
pub type GuestKey4 = GuestKey<Addr4>;

crate::map_layout!(GuestKey4, 8);
crate::map_layout!(GuestRecord, 16);
const _: () = assert!(size_of::<Guest>() == size_of::<GuestRecord>());
