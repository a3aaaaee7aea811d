//! Opening a session between guests by an external address.

use crate::{
    drop_reason::DropReason,
    session::{
        entries::{first_state, record},
        external::with_external,
        opening::joined,
        references::release_port,
    },
    tables::{
        Tables,
        origin::Origin,
        ports::PortKey,
        sessions::{SessionRecord, View, flags},
        snats::Snat,
    },
    wire::address::{Address, Endpoint},
    work::{Work, opening::Entry},
};

/// Opens a session between guests by an external address.
///
/// The packet's source is rewritten at the next hook, which finds it in the table.
///
/// # Errors
///
/// Why the packet must be dropped.
#[inline(always)]
pub fn open_hairpin<A: Address, T: Tables<A>>(
    tables: &T,
    work: &mut Work<A>,
    origin: Origin,
    snat: &Snat<A>,
    server: &Server<A>,
) -> Result<(), DropReason> {
    let (protocol, external) = (work.parsed.header.protocol, work.parsed.destination());
    prepare_hairpin(tables, work, origin, snat, server);
    if server.is_mapping {
        let owner = tables.port(&PortKey::new(external, protocol));
        if !owner.is_some_and(|owner| owner.references.acquire()) {
            return joined(tables, &mut work.opening, DropReason::Ending);
        }
    }
    let result = with_external(tables, &mut work.opening);
    if server.is_mapping && (result.is_err() || work.opening.is_joined != 0) {
        release_port(tables, protocol, external);
    }
    result.map(|_| ())
}

/// Writes the known fields of both directions' entries. (A separate function, to save stack.)
#[inline(never)]
fn prepare_hairpin<A: Address, T: Tables<A>>(
    tables: &T,
    work: &mut Work<A>,
    origin: Origin,
    snat: &Snat<A>,
    server: &Server<A>,
) {
    let Work {
        parsed, opening, ..
    } = work;
    let Server {
        endpoint,
        network,
        rule,
        is_mapping,
        ..
    } = *server;
    let (client, external) = (parsed.source(), parsed.destination());
    let held = if is_mapping { flags::HOLDS_SERVER } else { 0 };
    opening.request = Entry {
        key: parsed.key(View::Inside, origin.network),
        record: SessionRecord {
            flags: flags::PRIMARY | flags::FROM_INITIATOR | flags::IN | flags::HAIRPIN | held,
            ..record(tables, client, endpoint, View::Inside, network, rule)
        },
    };
    opening.answer.record = SessionRecord {
        flags: flags::HAIRPIN,
        ..record(tables, external, client, View::Inside, origin.network, rule)
    };
    let state = first_state(opening.request.key.protocol, external.port);
    (opening.request.record.state, opening.answer.record.state) = (state, state);
    opening.origin = origin;
    opening.snat = *snat;
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
