//! What each guest has of the shared tables, so that one cannot take all (RFC 6888 REQ-4).

use crate::{
    address::{Addr4, Address},
    counter::DropReason,
    mapping::{Acquired, References},
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
    /// How many sessions it has.
    pub sessions: u32,
    /// How many external ports are its alone.
    pub ports: u32,
}

/// [`GuestRecord`] in a table. It goes with the guest's last session, which holds its last port.
#[derive(Debug)]
#[repr(C)]
pub struct Guest {
    /// See [`GuestRecord::sessions`].
    pub sessions: References,
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
}

/// Counts one more session of a guest.
///
/// # Errors
///
/// [`DropReason::GuestSessions`] if it has as many as it may, and others if it cannot be counted.
#[inline(never)]
pub fn enter<A: Address, T: Tables<A>>(tables: &T, key: &GuestKey<A>) -> Result<(), DropReason> {
    let limit = tables
        .settings()
        .map_or(0, |settings| settings.sessions_per_guest);
    if tables.guest(key).is_none() {
        match tables.add_guest(key) {
            Ok(()) => return Ok(()),
            Err(InsertError::Full) => return Err(DropReason::TableFull),
            // Another CPU has added it just now.
            Err(InsertError::Exists) => {}
        }
    }
    match tables
        .guest(key)
        .map(|guest| guest.sessions.acquire_below(limit))
    {
        Some(Acquired::Yes) => Ok(()),
        Some(Acquired::TooMany) => Err(DropReason::GuestSessions),
        Some(Acquired::Gone) | None => Err(DropReason::Ending),
    }
}

/// Counts one session less of a guest, after it has given back what it held.
#[inline(never)]
pub fn leave<A: Address, T: Tables<A>>(tables: &T, key: &GuestKey<A>) {
    if tables
        .guest(key)
        .is_some_and(|guest| guest.sessions.release())
    {
        tables.remove_guest(key);
    }
}

/// Counts one more external port of a guest that has a session; `false` if it has as many as it
/// may.
#[inline(always)]
pub fn take_port<A: Address, T: Tables<A>>(tables: &T, key: &GuestKey<A>) -> bool {
    let limit = tables
        .settings()
        .map_or(0, |settings| settings.ports_per_guest);
    let Some(guest) = tables.guest(key) else {
        return true;
    };
    let is_free = guest.ports.fetch_add(1) < limit || limit == 0;
    if !is_free {
        guest.ports.fetch_add(u32::MAX);
    }
    is_free
}

/// Counts one external port less.
#[inline(always)]
pub fn give_port<A: Address, T: Tables<A>>(tables: &T, key: &GuestKey<A>) {
    if let Some(guest) = tables.guest(key) {
        guest.ports.fetch_add(u32::MAX);
    }
}

/// IPv4 key of `GUESTS`.
pub type GuestKey4 = GuestKey<Addr4>;

crate::map_layout!(GuestKey4, 8);
crate::map_layout!(GuestRecord, 8);
const _: () = assert!(size_of::<Guest>() == size_of::<GuestRecord>());
