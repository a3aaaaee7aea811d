//! Recording a flow that the host has opened.

use crate::{
    family::Family,
    session::{
        entries::{add_pair, answer_key, record},
        limits,
    },
    tables::{
        Tables,
        counters::NO_RULE,
        guests::GuestKey,
        sessions::{SessionFlags, SessionKey, SessionRecord, View},
    },
    verifier::verifier_barrier,
    work::{Work, opening::Entry},
};

/// Records a flow that the host has opened from an external address to
/// [`Opening::remote`](crate::work::opening::Opening::remote), so that no guest takes its answers.
/// Returns whether it is recorded: another flow may have the answers, or the host has reached its
/// limit. `network` is the number of an uplink if the flow concerns only that one, else 0.
#[inline(never)]
pub fn open_host<A: Family, T: Tables<A>>(tables: &T, work: &mut Work<A>, network: u16) -> bool {
    let Work {
        parsed, opening, ..
    } = work;
    let (local, remote) = (parsed.source(), opening.remote);
    opening.request = Entry {
        key: SessionKey {
            destination: remote.address,
            destination_port: remote.port,
            ..parsed.key(View::Inside, network)
        },
        record: SessionRecord {
            flags: SessionFlags::PRIMARY | SessionFlags::FROM_INITIATOR | SessionFlags::HOST,
            ..record(tables, local, remote, View::Outside, network, NO_RULE)
        },
    };
    opening.answer.record = SessionRecord {
        flags: SessionFlags::IN | SessionFlags::HOST,
        ..record(tables, remote, local, View::Inside, network, NO_RULE)
    };
    opening.answer.key = answer_key(&opening.request);
    opening.guest = GuestKey::of_session(&opening.request.key, SessionFlags::HOST);
    if limits::enter_host(tables, &opening.guest).is_err() {
        return false;
    }
    verifier_barrier(opening);
    let is_noted = add_pair(tables, opening).is_ok();
    match is_noted {
        true => tables.count_opened(NO_RULE),
        false => limits::leave(tables, &opening.guest, SessionFlags::HOST),
    }
    is_noted
}
