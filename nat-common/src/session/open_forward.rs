//! Opening a session from outside through a forward rule.

use crate::{
    drop_reason::DropReason,
    family::Family,
    headers::parsed::Parsed,
    session::{
        entries::{add_pair, answer_key, record},
        limits,
        opening::{finish, joined},
    },
    tables::{
        Tables,
        environment::MAX_WAITS,
        forwards::Forward,
        guests::GuestKey,
        sessions::{SessionFlags, SessionRecord, View},
    },
    verifier::verifier_barrier,
    wire::{
        address::{Endpoint, Port},
        protocol::{TCP, UDP},
    },
    work::{Work, opening::Refusal},
};

/// How many ports are tried for a remote if its own port towards the guest is taken.
const MAX_REMOTE_ATTEMPTS: u32 = 16;

/// Opens a session from outside through a forward rule; see
/// [`Opening::ends`](crate::work::opening::Opening::ends).
///
/// # Errors
///
/// Why the packet must be dropped.
#[inline(always)]
pub fn open_forward<A: Family, T: Tables<A>>(
    tables: &T,
    work: &mut Work<A>,
    forward: &Forward<A>,
) -> Result<(), DropReason> {
    let Work {
        parsed, opening, ..
    } = work;
    let internal = forward_target(parsed, forward);
    let (external, remote) = (parsed.destination(), parsed.source());
    let protocol = parsed.header.protocol;
    opening.request.key = parsed.key(View::Outside, 0);
    opening.answer.record = SessionRecord {
        flags: SessionFlags::PRIMARY,
        ..record(tables, external, remote, View::Outside, 0, forward.rule)
    };
    opening.guest = GuestKey::new(internal.address, forward.network);
    let (first, rule) = (remote.port, forward.rule);
    opening.request.record = SessionRecord {
        flags: SessionFlags::IN | SessionFlags::FROM_INITIATOR,
        ..record(
            tables,
            remote,
            internal,
            View::Inside,
            forward.network,
            rule,
        )
    };
    if let Err(reason) = limits::enter(tables, &opening.guest, SessionFlags::PRIMARY) {
        return joined(tables, opening, reason);
    }
    opening.begin();
    verifier_barrier(opening);
    tables.repeat(MAX_REMOTE_ATTEMPTS + MAX_WAITS, |_| {
        if opening.attempt > 0 {
            // The guest already talks to this remote endpoint: it must see another port of the
            // remote.
            opening.request.record.source_port = Port::new(tables.random() as u16 | 0x8000);
        } else {
            opening.request.record.source_port = first;
        }
        opening.answer.key = answer_key(&opening.request);
        verifier_barrier(opening);
        let result = match add_pair(tables, opening) {
            Err(Refusal::PortTaken) if !A::has_ports(protocol) => {
                Err(Refusal::Final(DropReason::RemoteInUse))
            }
            result => result,
        };
        opening.goes_on(tables, result, MAX_REMOTE_ATTEMPTS)
    });
    verifier_barrier(opening);
    finish(tables, opening)
}

/// The guest's endpoint to which a forward rule sends a packet.
#[inline(always)]
pub fn forward_target<A: Family>(parsed: &Parsed<A>, forward: &Forward<A>) -> Endpoint<A> {
    let port = match parsed.header.protocol {
        TCP | UDP => forward.internal_port(parsed.destination_port),
        _ => parsed.destination_port,
    };
    Endpoint::new(forward.to, port)
}
