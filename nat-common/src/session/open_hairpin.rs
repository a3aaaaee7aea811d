//! Opening a session between guests by an external address.

use crate::{
    drop_reason::DropReason,
    family::Family,
    session::{
        entries::{first_state, record},
        external::with_external,
        opening::joined,
        references::release_port,
    },
    tables::{
        Tables,
        ports::PortKey,
        sessions::{SessionFlags, SessionRecord, View},
    },
    work::{
        Work,
        opening::{Entry, Server},
    },
};

/// Opens a session between guests by an external address. The work area names the server, the
/// origin and the rule.
///
/// The packet's source is rewritten at the next hook, which finds it in the table.
///
/// # Errors
///
/// Why the packet must be dropped.
#[inline(never)]
pub fn open_hairpin<A: Family, T: Tables<A>>(
    tables: &T,
    work: &mut Work<A>,
) -> Result<(), DropReason> {
    prepare_hairpin(tables, work);
    if work.opening.server.is_mapping && !take_server_port(tables, work) {
        return joined(tables, &mut work.opening, DropReason::Ending);
    }
    let result = with_external(tables, &mut work.opening);
    if work.opening.server.is_mapping && (result.is_err() || work.opening.is_joined != 0) {
        give_server_port(tables, work);
    }
    result
}

/// Takes a reference to the port to which the packet goes; returns whether it is still there. (A
/// separate function, to save stack.)
#[inline(never)]
fn take_server_port<A: Family, T: Tables<A>>(tables: &T, work: &Work<A>) -> bool {
    let key = PortKey::new(work.parsed.destination(), work.parsed.header.protocol);
    tables
        .port(&key)
        .is_some_and(|owner| owner.references.acquire())
}

/// Releases it. (A separate function, to save stack.)
#[inline(never)]
fn give_server_port<A: Family, T: Tables<A>>(tables: &T, work: &Work<A>) {
    let parsed = &work.parsed;
    release_port(tables, parsed.header.protocol, parsed.destination());
}

/// Writes the known fields of both directions' entries. (A separate function, to save stack.)
#[inline(never)]
fn prepare_hairpin<A: Family, T: Tables<A>>(tables: &T, work: &mut Work<A>) {
    let Work {
        parsed, opening, ..
    } = work;
    let Server {
        endpoint,
        network,
        rule,
        is_mapping,
        ..
    } = opening.server;
    let from = opening.origin.network;
    let (client, external) = (parsed.source(), parsed.destination());
    let refs = if is_mapping {
        SessionFlags::REFS_SERVER
    } else {
        SessionFlags::empty()
    };
    opening.request = Entry {
        key: parsed.key(View::Inside, from),
        record: SessionRecord {
            flags: SessionFlags::PRIMARY
                | SessionFlags::FROM_INITIATOR
                | SessionFlags::IN
                | SessionFlags::HAIRPIN
                | refs,
            ..record(tables, client, endpoint, View::Inside, network, rule)
        },
    };
    opening.answer.record = SessionRecord {
        flags: SessionFlags::HAIRPIN,
        ..record(tables, external, client, View::Inside, from, rule)
    };
    let state = first_state(opening.request.key.protocol, external.port);
    (opening.request.record.state, opening.answer.record.state) = (state, state);
}
