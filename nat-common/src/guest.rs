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

    /// Whether it is the host itself.
    #[inline(always)]
    pub fn is_host(&self) -> bool {
        self.network == 0 && self.address == A::UNSPECIFIED
    }
}

/// Counts one more session of a guest, or of the host.
///
/// # Errors
///
/// [`DropReason::GuestSessions`] if it has as many as it may, and others if it cannot be counted.
#[inline(never)]
pub fn enter<A: Address, T: Tables<A>>(tables: &T, key: &GuestKey<A>) -> Result<(), DropReason> {
    let limit = match key.is_host() {
        true => tables.host_sessions(),
        false => tables
            .settings()
            .map_or(0, |settings| settings.sessions_per_guest),
    };
    let guest = acquire(tables, key)?;
    count(tables, key, guest, &guest.sessions, limit).ok_or(DropReason::GuestSessions)
}

/// Counts one session less of a guest.
#[inline(never)]
pub fn leave<A: Address, T: Tables<A>>(tables: &T, key: &GuestKey<A>) {
    if let Some(guest) = tables.guest(key) {
        guest.sessions.fetch_add(u32::MAX);
        release(tables, key, guest);
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
    let guest = acquire(tables, key)?;
    count(tables, key, guest, &guest.ports, limit).ok_or(DropReason::GuestPorts)
}

/// Counts one external port less.
#[inline(never)]
pub fn give_port<A: Address, T: Tables<A>>(tables: &T, key: &GuestKey<A>) {
    if let Some(guest) = tables.guest(key) {
        guest.ports.fetch_add(u32::MAX);
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
    if tables.guest(key).is_none() && tables.add_guest(key) == Err(InsertError::Full) {
        return Err(DropReason::TableFull);
    }
    Ok(tables.guest(key).filter(|guest| guest.references.acquire()))
}

/// Counts one more of what a reference was acquired for, or gives that back if there are `limit`
/// (0 is none).
#[inline(always)]
fn count<A: Address, T: Tables<A>>(
    tables: &T,
    key: &GuestKey<A>,
    guest: &Guest,
    word: &Shared,
    limit: u32,
) -> Option<()> {
    if word.fetch_add(1) < limit || limit == 0 {
        return Some(());
    }
    word.fetch_add(u32::MAX);
    release(tables, key, guest);
    None
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
crate::map_layout!(GuestRecord, 12);
const _: () = assert!(size_of::<Guest>() == size_of::<GuestRecord>());
