//! The work area of one packet.
//!
//! It lies in a map. The stack of a BPF program has 512 bytes for all its calls, and what lies in
//! a map the verifier does not follow: after [`settle`] it looks at what comes next once, not once
//! for each way that leads there.

use crate::{
    address::{Address, Endpoint, Port},
    counter::DropReason,
    guest::GuestKey,
    open::{Choice, Origin, Refusal},
    parse::Parsed,
    policy::Judging,
    port::PortSearch,
    refusal,
    rule::Snat,
    session::{SessionKey, SessionRecord},
};

/// What is kept of a packet while it is decided on.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Work<A> {
    /// Its headers.
    pub parsed: Parsed<A>,
    /// The session that it opens.
    pub opening: Opening<A>,
    /// The flow that it opens, as policies see it.
    pub judging: Judging<A>,
    /// The answer to its refusal.
    pub refusal: [u8; refusal::MAX_LEN],
    /// Where the fast path sends it.
    pub sent: Sent,
}

/// Where a packet is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Sent {
    /// Index of the interface.
    pub port: u32,
    /// Bits of [`crate::next_hop::flags`].
    pub flags: u32,
}

/// The two entries of a session that is being opened.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Opening<A> {
    /// Of the direction of the packet that opens it.
    pub request: Entry<A>,
    /// Of the other direction.
    pub answer: Entry<A>,
    /// Where the packet comes from.
    pub origin: Origin,
    /// Whose session it is.
    pub guest: GuestKey<A>,
    /// The rule that gives the request its external source.
    pub snat: Snat<A>,
    /// The external address.
    pub address: A,
    /// The external source by which a forward leads to the guest, if [`Self::is_forwarded`].
    pub forwarded: Endpoint<A>,
    /// 1 if a forward leads to the guest.
    pub is_forwarded: u32,
    /// The external source that is being tried.
    pub external: Endpoint<A>,
    /// How it was chosen.
    pub(crate) choice: Choice,
    /// The references to it that the session holds, as bits of [`crate::session::flags`].
    pub held: u8,
    /// Whether the entries with it were added.
    pub(crate) added: Result<(), Refusal>,
    /// The external ports to try.
    pub search: PortSearch,
    /// How many external ports were taken so far.
    pub attempt: u32,
    /// How many times it was found that the guest has all the ports that it may have.
    pub looks: u32,
    /// 1 if another CPU has opened the session, and `request` has its translation.
    pub is_joined: u32,
    /// The external source, or why there is none.
    pub outcome: Result<Endpoint<A>, DropReason>,
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

impl<A: Address> Work<A> {
    /// Of no packet yet.
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
            snat: Snat::EMPTY,
            address: A::UNSPECIFIED,
            forwarded: Endpoint {
                address: A::UNSPECIFIED,
                port: Port::ZERO,
            },
            is_forwarded: 0,
            external: Endpoint {
                address: A::UNSPECIFIED,
                port: Port::ZERO,
            },
            choice: Choice::Own,
            held: 0,
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
            judging: Judging::EMPTY,
            refusal: [0; refusal::MAX_LEN],
            sent: Sent { port: 0, flags: 0 },
        }
    }
}

impl<A: Address> Default for Work<A> {
    fn default() -> Self {
        Self::new()
    }
}

impl<A: Address> Parsed<A> {
    /// Of no packet yet.
    pub const EMPTY: Self = Self {
        l3: 0,
        l4: 0,
        header: crate::parse::Header {
            source: A::UNSPECIFIED,
            destination: A::UNSPECIFIED,
            protocol: 0,
            header_len: 0,
            total_len: 0,
            ttl: 0,
            id: 0,
            fragment_offset: 0,
            more_fragments: false,
        },
        transport: crate::parse::Transport::Opaque,
        transport_len: 0,
        source_port: Port::ZERO,
        destination_port: Port::ZERO,
        sequence: 0,
        acknowledged: crate::parse::NO_ACKNOWLEDGEMENT,
        has_ports: false,
    };
}

impl<A: Address> SessionKey<A> {
    const EMPTY: Self = Self {
        source: A::UNSPECIFIED,
        destination: A::UNSPECIFIED,
        source_port: Port::ZERO,
        destination_port: Port::ZERO,
        network: 0,
        protocol: 0,
        view: 0,
    };
}

impl<A: Address> SessionRecord<A> {
    const EMPTY: Self = Self {
        source: A::UNSPECIFIED,
        destination: A::UNSPECIFIED,
        source_port: Port::ZERO,
        destination_port: Port::ZERO,
        peer_network: 0,
        peer_view: 0,
        flags: 0,
        rule: 0,
        opened_s: 0,
        seen_s: 0,
        state: 0,
        next_hop: 0,
        passed: 0,
    };
}

impl<A: Address> Snat<A> {
    const EMPTY: Self = Self {
        first: A::UNSPECIFIED,
        last: A::UNSPECIFIED,
        rule: 0,
        first_port: 0,
        last_port: 0,
        mapping: 0,
        filtering: 0,
        has_excludes: 0,
        by_destination: 0,
    };
}

/// Makes what was written to `value` final: what follows is compiled as if it could be anything.
#[inline(always)]
pub fn settle<V>(value: &mut V) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: copies a register to itself; to the compiler it may have changed any memory.
    unsafe {
        core::arch::asm!("{0} = {0}", inout(reg) core::ptr::from_mut(value) => _, options(nostack));
    }
    #[cfg(not(target_arch = "bpf"))]
    let _ = value;
}

/// The same number, of which the compiler knows nothing.
#[inline(always)]
#[must_use]
pub fn unknown(number: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    let number = {
        let mut number = number;
        // SAFETY: copies a register to itself.
        unsafe {
            core::arch::asm!("{0} = {0}", inout(reg) number, options(nomem, nostack));
        }
        number
    };
    number
}
