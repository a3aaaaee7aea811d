//! The work area of one packet.
//!
//! It is in a map. The stack of a BPF program has 512 bytes for all its calls, and the verifier
//! does not track values in a map.

pub mod opening;
pub mod policy_match;
pub mod port_search;

use crate::{
    drop_reason::DropReason,
    headers::parsed::Parsed,
    tables::{
        guests::GuestKey,
        next_hops::NextHopFlags,
        origin::Origin,
        ports::{PortKey, PortRecord},
        sessions::{SessionFlags, SessionKey, SessionRecord},
        snats::Snat,
    },
    translation::Translation,
    wire::{
        address::{Address, Endpoint, Port},
        unreachable,
    },
    work::{
        opening::{Choice, Entry, Opening, Server},
        policy_match::PolicyMatch,
        port_search::PortSearch,
    },
};

/// The state of a packet during its processing.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Work<A: Copy> {
    /// Its headers.
    pub parsed: Parsed<A>,
    /// The session that it opens.
    pub opening: Opening<A>,
    /// How it is translated.
    pub translation: Translation<A>,
    /// The flow that it opens, as policies see it.
    pub policy_match: PolicyMatch<A>,
    /// The answer to its refusal.
    pub refusal: [u8; unreachable::MAX_LEN],
    /// The redirect of the fast path.
    pub redirect: Redirect,
}

/// A redirect.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Redirect {
    /// Index of the interface.
    pub port: u32,
    /// What its port needs.
    pub flags: NextHopFlags,
}

impl<A: Address> Work<A> {
    /// Before any packet.
    #[must_use]
    pub const fn new() -> Self {
        let entry = Entry {
            key: SessionKey::EMPTY,
            record: SessionRecord::EMPTY,
        };
        let opening = Opening {
            request: entry,
            answer: entry,
            origin: Origin {
                generation: 0,
                uplink: 0,
                network: 0,
            },
            guest: GuestKey {
                address: A::UNSPECIFIED,
                network: 0,
                reserved: 0,
            },
            server: Server {
                endpoint: Endpoint {
                    address: A::UNSPECIFIED,
                    port: Port::ZERO,
                },
                network: 0,
                rule: 0,
                is_mapping: false,
                is_accepted: false,
            },
            snat: Snat::EMPTY,
            address: A::UNSPECIFIED,
            forwarded: Endpoint {
                address: A::UNSPECIFIED,
                port: Port::ZERO,
            },
            is_forwarded: 0,
            remote: Endpoint {
                address: A::UNSPECIFIED,
                port: Port::ZERO,
            },
            port: (PortKey::EMPTY, PortRecord::EMPTY),
            external: Endpoint {
                address: A::UNSPECIFIED,
                port: Port::ZERO,
            },
            choice: Choice::Own,
            refs: SessionFlags::empty(),
            added: Ok(()),
            search: PortSearch::EMPTY,
            attempt: 0,
            looks: 0,
            is_joined: 0,
            outcome: Err(DropReason::PortsExhausted),
        };
        Self {
            parsed: Parsed::EMPTY,
            opening,
            translation: Translation::EMPTY,
            policy_match: PolicyMatch::EMPTY,
            refusal: [0; unreachable::MAX_LEN],
            redirect: Redirect {
                port: 0,
                flags: NextHopFlags::empty(),
            },
        }
    }
}

impl<A: Address> Default for Work<A> {
    fn default() -> Self {
        Self::new()
    }
}
