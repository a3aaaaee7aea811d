//! The two entries of a session that is being opened, and the attempts so far.

use crate::{
    drop_reason::DropReason,
    tables::{
        guests::GuestKey,
        insert::InsertError,
        origin::Origin,
        ports::{PortKey, PortRecord},
        sessions::{SessionFlags, SessionKey, SessionRecord},
        snats::Snat,
    },
    wire::address::Endpoint,
    work::port_search::PortSearch,
};

/// The two entries of a session that is being opened.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Opening<A: Copy> {
    /// Of the direction of the packet that opens it.
    pub request: Entry<A>,
    /// Of the other direction.
    pub answer: Entry<A>,
    /// Where the packet comes from.
    pub origin: Origin,
    /// Whose session it is.
    pub guest: GuestKey<A>,
    /// The guest that is asked, of a session between guests.
    pub server: Server<A>,
    /// The rule of the request's external source.
    pub snat: Snat<A>,
    /// The external address.
    pub address: A,
    /// The external source by which a forward leads to the guest, if [`Self::is_forwarded`].
    pub forwarded: Endpoint<A>,
    /// 1 if a forward leads to the guest.
    pub is_forwarded: u32,
    /// The other end of a flow of the host itself; unspecified if it may be any.
    pub remote: Endpoint<A>,
    /// The external source that is being tried.
    pub external: Endpoint<A>,
    /// The entry by which it is claimed.
    pub port: (PortKey<A>, PortRecord<A>),
    /// How it was chosen.
    pub(crate) choice: Choice,
    /// The references to it that the session holds, as flags.
    pub refs: SessionFlags,
    /// Whether the entries with it were added.
    pub(crate) added: Result<(), Refusal>,
    /// The external ports to try.
    pub search: PortSearch,
    /// How many external ports were taken so far.
    pub attempt: u32,
    /// How many times the guest was at its limit of ports.
    pub looks: u32,
    /// 1 if another CPU has opened the session, and `request` has its translation.
    pub is_joined: u32,
    /// The external source, or why there is none.
    pub outcome: Result<Endpoint<A>, DropReason>,
}

/// The guest behind an external endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Server<A> {
    /// Its internal endpoint.
    pub endpoint: Endpoint<A>,
    /// Number of its network.
    pub network: u16,
    /// Number of the rule under which a session with it counts.
    pub rule: u32,
    /// Whether it was found by its own mapping, not by a rule.
    pub is_mapping: bool,
    /// Whether it is accepted where no policy says otherwise.
    pub is_accepted: bool,
}

/// An entry of the session table.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Entry<A> {
    /// Its key.
    pub key: SessionKey<A>,
    /// Its value.
    pub record: SessionRecord<A>,
}

/// Why a session was not opened with one external port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// Another port may do.
    PortTaken,
    /// The next attempt is known and was not made yet.
    Again,
    /// Another CPU is adding or removing the conflicting entry: try again a moment later.
    Busy,
    /// No port will do.
    Final(DropReason),
}

/// How the external endpoint of a session was chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Choice {
    /// A forward leads from it to the guest.
    Forwarded,
    /// It is the guest's own and needs no claim.
    Own,
    /// The guest has it already for other remotes.
    Mapped,
    /// It is a candidate.
    Candidate,
}

impl From<InsertError> for Refusal {
    fn from(error: InsertError) -> Self {
        match error {
            InsertError::Exists => Self::Busy,
            InsertError::Full => Self::Final(DropReason::TableFull),
        }
    }
}
