//! Opening a session from inside.

use crate::{
    drop_reason::DropReason,
    family::Family,
    session::{
        entries::{first_state, record},
        external::with_external,
    },
    tables::{
        Tables,
        counters::NO_RULE,
        origin::Origin,
        sessions::{SessionFlags, SessionRecord, View},
        snats::{self, BY_DESTINATION},
    },
    work::{
        Work,
        opening::{Entry, Opening},
    },
};

/// Opens a session from inside. [`Opening::origin`] and [`Opening::snat`] say how.
///
/// # Errors
///
/// Why the packet must be dropped.
#[inline(never)]
pub fn open_outbound<A: Family, T: Tables<A>>(
    tables: &T,
    work: &mut Work<A>,
) -> Result<(), DropReason> {
    prepare_outbound(tables, work);
    if work.opening.snat.by_destination != 0 {
        choose_source(tables, &mut work.opening);
    }
    with_external(tables, &mut work.opening)
}

/// Writes both entries, except for the external endpoint. (A separate function, to save stack.)
#[inline(never)]
fn prepare_outbound<A: Family, T: Tables<A>>(tables: &T, work: &mut Work<A>) {
    let Work {
        parsed, opening, ..
    } = work;
    let (rule, network) = (opening.snat.rule, opening.origin.network);
    let host = if rule == NO_RULE {
        SessionFlags::HOST
    } else {
        SessionFlags::empty()
    };
    let (internal, remote) = (parsed.source(), parsed.destination());
    opening.request = Entry {
        key: parsed.key(View::Inside, network),
        record: SessionRecord {
            flags: SessionFlags::PRIMARY | SessionFlags::FROM_INITIATOR | host,
            ..record(tables, internal, remote, View::Outside, 0, rule)
        },
    };
    opening.answer.record = SessionRecord {
        flags: SessionFlags::IN | host,
        ..record(tables, remote, internal, View::Inside, network, rule)
    };
    if host.is_empty() {
        let state = first_state(parsed.header.protocol, remote.port);
        (opening.request.record.state, opening.answer.record.state) = (state, state);
    }
    // A connection may have begun before natbpf.
    opening.request.record.xdp_passed_at = parsed.acknowledged;
}

/// Makes the external address the one by which the host itself would reach the destination. If that
/// differs from the address by which the guest reaches most destinations, the session does not use
/// the guest's mapping for those.
#[inline(never)]
fn choose_source<A: Family, T: Tables<A>>(tables: &T, opening: &mut Opening<A>) {
    let Origin {
        generation, uplink, ..
    } = opening.origin;
    let destination = opening.request.key.destination;
    let Some(by) = tables.snat(generation, uplink, BY_DESTINATION, destination) else {
        return;
    };
    let source = by.first;
    if source != { opening.snat.first } {
        opening.snat.first = source;
        opening.snat.last = source;
        opening.snat.mapping = snats::mapping::ADDRESS_AND_PORT_DEPENDENT;
        opening.snat.filtering = snats::filtering::ADDRESS_AND_PORT_DEPENDENT;
    }
}
