//! `GUESTS`: each guest's use of the shared tables.

use crate::{
    atomics::Shared,
    tables::{
        insert::InsertError,
        references::References,
        sessions::{SessionFlags, SessionKey},
    },
    wire::address::{Addr4, Addr6, Address},
};

/// Key of `GUESTS`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C, packed(4))]
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
    /// How many external ports only it has. One may outlive its sessions if another guest's session
    /// refers to it.
    pub ports: u32,
    /// Index of the port of a bridge that the address was bound to when this entry was made, 0 for
    /// none: the use of all guests behind one port counts together.
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

    /// The guest under which a session counts, by its primary entry's key and [`SessionFlags`]:
    /// sessions of the host count together.
    #[inline(always)]
    pub fn of_session(key: &SessionKey<A>, session_flags: SessionFlags) -> Self {
        if session_flags.contains(SessionFlags::HOST) {
            Self::new(A::UNSPECIFIED, 0)
        } else {
            Self::new(key.source, key.network)
        }
    }

    /// The entry under which all sessions from outside count.
    #[inline(always)]
    pub fn outside() -> Self {
        Self::new(A::UNSPECIFIED, u16::MAX)
    }

    /// The entry under which all guests behind a port of a bridge count.
    #[inline(always)]
    pub(crate) fn of_port(port: u32) -> Self {
        Self::new(A::of_index(port), u16::MAX - 1)
    }

    /// Whether it is the host itself.
    #[inline(always)]
    pub fn is_host(&self) -> bool {
        self.network == 0 && { self.address } == A::UNSPECIFIED
    }
}

/// Whether a session was opened from outside, by the [`SessionFlags`] of its primary entry.
#[inline(always)]
#[must_use]
pub fn is_from_outside(session_flags: SessionFlags) -> bool {
    session_flags & (SessionFlags::PRIMARY | SessionFlags::FROM_INITIATOR | SessionFlags::HOST)
        == SessionFlags::PRIMARY
}

/// The table of guests.
pub trait Guests<A: Address> {
    /// Looks up a guest's use.
    fn guest(&self, key: &GuestKey<A>) -> Option<&Guest>;
    /// Adds an empty guest without references, behind this port.
    fn add_guest(&self, key: &GuestKey<A>, port: u32) -> Result<(), InsertError>;
    /// The index of the port to which an address of a network is bound, 0 for none.
    fn port_of(&self, address: A, network: u16) -> u32;
    /// Removes a guest.
    fn remove_guest(&self, key: &GuestKey<A>);
}

/// IPv4 key of `GUESTS`.
pub type GuestKey4 = GuestKey<Addr4>;

crate::map_layouts!(GuestKey, 8, 20);
crate::map_layout!(GuestRecord, 16);
const _: () = assert!(size_of::<Guest>() == size_of::<GuestRecord>());
