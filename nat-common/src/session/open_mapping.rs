//! Opening a session from outside to a mapping that a guest has made.

use crate::{
    drop_reason::DropReason,
    family::Family,
    session::{
        entries::{answer_key, record},
        limits,
        opening::{add_pair_in_time, finish, joined},
        references::{hold, release},
    },
    tables::{
        Tables,
        guests::GuestKey,
        ports::PortOwner,
        sessions::{SessionFlags, SessionRecord, View},
        snats,
    },
    verifier::verifier_barrier,
    wire::address::Endpoint,
    work::Work,
};

/// Opens a session from outside to a mapping that a guest has made; see
/// [`Opening::ends`](crate::work::opening::Opening::ends).
///
/// # Errors
///
/// Why the packet must be dropped.
#[inline(always)]
pub fn open_to_mapping<A: Family, T: Tables<A>>(
    tables: &T,
    work: &mut Work<A>,
    owner: &PortOwner<A>,
) -> Result<(), DropReason> {
    let Work {
        parsed, opening, ..
    } = work;
    let protocol = parsed.header.protocol;
    let (external, remote) = (parsed.destination(), parsed.source());
    let internal = Endpoint::new(owner.address, owner.port);
    let permit = owner.filtering == snats::filtering::ADDRESS_DEPENDENT;
    opening.guest = GuestKey::new(owner.address, owner.network);
    opening.request.key = parsed.key(View::Outside, 0);
    opening.request.record = SessionRecord {
        flags: SessionFlags::IN | SessionFlags::FROM_INITIATOR,
        ..record(
            tables,
            remote,
            internal,
            View::Inside,
            owner.network,
            owner.rule,
        )
    };
    opening.answer.record = SessionRecord {
        flags: SessionFlags::PRIMARY,
        ..record(tables, external, remote, View::Outside, 0, owner.rule)
    };
    opening.answer.key = answer_key(&opening.request);
    verifier_barrier(opening);
    if let Err(reason) = limits::enter(tables, &opening.guest, SessionFlags::PRIMARY) {
        return joined(tables, opening, reason);
    }
    let refs = match hold(tables, external, remote.address, protocol, owner, permit) {
        Ok(refs) => refs,
        Err(reason) => {
            limits::leave(tables, &opening.guest, SessionFlags::PRIMARY);
            return joined(tables, opening, reason);
        }
    };
    opening.answer.record.flags |= refs;
    add_pair_in_time(tables, opening);
    if opening.outcome.is_err() {
        release(tables, protocol, external, remote.address, refs);
    }
    finish(tables, opening)
}
