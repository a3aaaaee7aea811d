//! Opening a session from inside.

use crate::{
    drop_reason::DropReason,
    session::{
        entries::{first_state, record},
        external::with_external,
    },
    tables::{
        Tables,
        counters::NO_RULE,
        origin::Origin,
        sessions::{SessionRecord, View, flags},
        snats::{self, BY_DESTINATION, Snat},
    },
    wire::address::{Address, Endpoint},
    work::{
        Work,
        opening::{Entry, Opening},
    },
};

/// Opens a session from inside and returns the external endpoint.
///
/// # Errors
///
/// Why the packet must be dropped.
#[inline(always)]
pub fn open_outbound<A: Address, T: Tables<A>>(
    tables: &T,
    work: &mut Work<A>,
    origin: Origin,
    snat: &Snat<A>,
) -> Result<Endpoint<A>, DropReason> {
    let Work {
        parsed, opening, ..
    } = work;
    let host = if snat.rule == NO_RULE { flags::HOST } else { 0 };
    let (internal, remote) = (parsed.source(), parsed.destination());
    opening.request = Entry {
        key: parsed.key(View::Inside, origin.network),
        record: SessionRecord {
            flags: flags::PRIMARY | flags::FROM_INITIATOR | host,
            ..record(tables, internal, remote, View::Outside, 0, snat.rule)
        },
    };
    opening.answer.record = SessionRecord {
        flags: flags::IN | host,
        ..record(
            tables,
            remote,
            internal,
            View::Inside,
            origin.network,
            snat.rule,
        )
    };
    if host == 0 {
        let state = first_state(parsed.header.protocol, remote.port);
        (opening.request.record.state, opening.answer.record.state) = (state, state);
    }
    // A connection may have begun before natbpf.
    opening.request.record.passed = parsed.acknowledged;
    opening.origin = origin;
    opening.snat = *snat;
    if snat.by_destination != 0 {
        choose_source(tables, opening);
    }
    with_external(tables, opening)
}

/// Makes the external address the one by which the host itself would reach the destination. If that
/// differs from the address by which the guest reaches most destinations, the session does not use
/// the guest's mapping for those.
#[inline(never)]
fn choose_source<A: Address, T: Tables<A>>(tables: &T, opening: &mut Opening<A>) {
    let Origin {
        generation, uplink, ..
    } = opening.origin;
    let destination = opening.request.key.destination;
    let Some(by) = tables.snat(generation, uplink, BY_DESTINATION, destination) else {
        return;
    };
    let source = by.first;
    if source != opening.snat.first {
        opening.snat.first = source;
        opening.snat.last = source;
        opening.snat.mapping = snats::mapping::ADDRESS_AND_PORT_DEPENDENT;
        opening.snat.filtering = snats::filtering::ADDRESS_AND_PORT_DEPENDENT;
    }
}
