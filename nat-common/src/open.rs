//! Opening sessions: choice and claim of an external port, and the entries of both directions.
//!
//! Two packets may want the same thing at the same time on different CPUs. Adding an entry never
//! replaces one, so the one that was added first has won; the entry that answers will be looked up
//! by is always added first, because it *is* the claim. Whatever was added before a failure is
//! taken back.

use crate::{
    address::{Address, Endpoint, Port},
    counter::{DropReason, NO_RULE},
    guest::{self, GuestKey},
    mapping::{self, MappingKey, MappingRecord, PermitKey, PortKey, PortOwner, PortRecord},
    next_hop,
    parse::{ICMP, Parsed, TCP, UDP},
    port::{MAX_ATTEMPTS, PortSearch},
    rule::{self, Forward, Snat, forward_flags},
    session::{JUST_OPENED, SessionKey, SessionRecord, View, flags},
    tables::{HostSocket, InsertError, Tables},
    work::{Entry, Opening, Work, settle},
};

/// How many ports are tried for a remote whose own port is taken towards the guest.
const MAX_REMOTE_ATTEMPTS: u32 = 16;

/// Where a packet that opens a session comes from, and under which rule set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Origin {
    /// Generation of the rule set.
    pub generation: u16,
    /// Number of the uplink by which it leaves or came.
    pub uplink: u16,
    /// Number of the network that it came from.
    pub network: u16,
}

/// Why a session was not opened with one external port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// Another port may do.
    PortTaken,
    /// None will.
    Final(DropReason),
}

impl From<InsertError> for Refusal {
    fn from(error: InsertError) -> Self {
        match error {
            InsertError::Exists => Self::PortTaken,
            InsertError::Full => Self::Final(DropReason::TableFull),
        }
    }
}

const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP | ICMP)
}

/// Whether there is an external port to be found: not for protocols without ports, nor where the
/// guest has an address of its own.
const fn is_searched<A>(protocol: u8, snat: &Snat<A>) -> bool {
    has_ports(protocol) && snat.mapping != rule::mapping::ONE_TO_ONE
}

/// Opens a session from inside and gives the external endpoint.
///
/// # Errors
///
/// The reason why the packet must be dropped.
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
    opening.origin = origin;
    opening.snat = *snat;
    with_external(tables, opening)
}

/// Opens a session from outside through a forward rule, and gives source and destination of the
/// packet towards the guest.
///
/// # Errors
///
/// The reason why the packet must be dropped.
#[inline(always)]
pub fn open_forward<A: Address, T: Tables<A>>(
    tables: &T,
    work: &mut Work<A>,
    forward: &Forward<A>,
) -> Result<(Endpoint<A>, Endpoint<A>), DropReason> {
    let Work {
        parsed, opening, ..
    } = work;
    let internal = forward_target(parsed, forward);
    let (external, remote) = (parsed.destination(), parsed.source());
    let protocol = parsed.header.protocol;
    opening.request.key = parsed.key(View::Outside, 0);
    opening.answer.record = SessionRecord {
        flags: flags::PRIMARY,
        ..record(tables, external, remote, View::Outside, 0, forward.rule)
    };
    opening.guest = GuestKey::new(internal.address, forward.network);
    guest::enter(tables, &opening.guest)?;
    let mut outcome = Err(DropReason::PortsExhausted);
    tables.repeat(MAX_REMOTE_ATTEMPTS, |attempt| {
        let mut towards_guest = remote;
        if attempt > 0 {
            // The guest already talks to this remote endpoint: it must see another port.
            towards_guest.port = Port::new(tables.random() as u16 | 0x8000);
        }
        opening.request.record = SessionRecord {
            flags: flags::IN | flags::FROM_INITIATOR,
            ..record(
                tables,
                towards_guest,
                internal,
                View::Inside,
                forward.network,
                forward.rule,
            )
        };
        opening.answer.key = answer_key(&opening.request);
        settle(opening);
        match add_pair(tables, opening) {
            Ok(()) => outcome = Ok((towards_guest, internal)),
            Err(Refusal::Final(reason)) => outcome = Err(reason),
            Err(Refusal::PortTaken) if !has_ports(protocol) => {
                outcome = Err(DropReason::RemoteInUse);
            }
            Err(Refusal::PortTaken) if tables.session(&opening.request.key).is_some() => {
                outcome = Err(DropReason::Ending);
            }
            Err(Refusal::PortTaken) => return true,
        }
        false
    });
    match outcome {
        Ok(_) => tables.count_opened(forward.rule),
        Err(_) => guest::leave(tables, &opening.guest),
    }
    outcome
}

/// A session that translates nothing, as the packet that opens it sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plain {
    /// Where the packet was seen.
    pub view: View,
    /// Number of the network that it came from, 0 if from none.
    pub network: u16,
    /// Where answers will be seen.
    pub answer_view: View,
    /// Number of the network that they come from, 0 if from none.
    pub answer_network: u16,
    /// Number of the rule that it counts under.
    pub rule: u32,
}

/// Opens a session that translates nothing, so that what answers it is known. It is that of the guest
/// that opens it, or of the one that it is opened to.
///
/// # Errors
///
/// The reason why the packet must be dropped.
#[inline(never)]
pub fn open_plain<A: Address, T: Tables<A>>(
    tables: &T,
    work: &mut Work<A>,
    plain: &Plain,
) -> Result<(), DropReason> {
    let Work {
        parsed, opening, ..
    } = work;
    let (source, destination) = (parsed.source(), parsed.destination());
    let is_guests = plain.view as u8 == View::Inside as u8;
    let (by_guest, to_guest) = (flags::PRIMARY, flags::IN);
    opening.request = Entry {
        key: parsed.key(plain.view, plain.network),
        record: SessionRecord {
            flags: flags::FROM_INITIATOR | if is_guests { by_guest } else { to_guest },
            ..record(
                tables,
                source,
                destination,
                plain.answer_view,
                plain.answer_network,
                plain.rule,
            )
        },
    };
    opening.answer.record = SessionRecord {
        flags: if is_guests { to_guest } else { by_guest },
        ..record(
            tables,
            destination,
            source,
            plain.view,
            plain.network,
            plain.rule,
        )
    };
    opening.answer.key = answer_key(&opening.request);
    opening.guest = match is_guests {
        true => GuestKey::new(source.address, plain.network),
        false => GuestKey::new(destination.address, plain.answer_network),
    };
    guest::enter(tables, &opening.guest)?;
    settle(opening);
    match add_pair(tables, opening) {
        Ok(()) => {
            tables.count_opened(plain.rule);
            Ok(())
        }
        Err(refusal) => {
            guest::leave(tables, &opening.guest);
            Err(refusal.reason())
        }
    }
}

/// Opens a session from outside to a mapping that a guest has made, and gives the guest's
/// endpoint.
///
/// # Errors
///
/// The reason why the packet must be dropped.
#[inline(always)]
pub fn open_to_mapping<A: Address, T: Tables<A>>(
    tables: &T,
    work: &mut Work<A>,
    owner: &PortOwner<A>,
) -> Result<Endpoint<A>, DropReason> {
    let Work {
        parsed, opening, ..
    } = work;
    let protocol = parsed.header.protocol;
    let (external, remote) = (parsed.destination(), parsed.source());
    let internal = Endpoint::new(owner.address, owner.port);
    let permit = owner.filtering == rule::filtering::ADDRESS_DEPENDENT;
    opening.guest = GuestKey::new(owner.address, owner.network);
    guest::enter(tables, &opening.guest)?;
    let held = match hold(tables, external, remote.address, protocol, owner, permit) {
        Ok(held) => held,
        Err(reason) => {
            guest::leave(tables, &opening.guest);
            return Err(reason);
        }
    };
    opening.request.key = parsed.key(View::Outside, 0);
    opening.request.record = SessionRecord {
        flags: flags::IN | flags::FROM_INITIATOR,
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
        flags: flags::PRIMARY | held,
        ..record(tables, external, remote, View::Outside, 0, owner.rule)
    };
    opening.answer.key = answer_key(&opening.request);
    settle(opening);
    match add_pair(tables, opening) {
        Ok(()) => {
            tables.count_opened(owner.rule);
            Ok(internal)
        }
        Err(refusal) => {
            release(tables, protocol, external, remote.address, held);
            guest::leave(tables, &opening.guest);
            Err(refusal.reason())
        }
    }
}

/// Opens a session between guests by an external address.
///
/// The packet's source is rewritten at the next hook, which finds it in the table.
///
/// # Errors
///
/// The reason why the packet must be dropped.
#[inline(always)]
pub fn open_hairpin<A: Address, T: Tables<A>>(
    tables: &T,
    work: &mut Work<A>,
    origin: Origin,
    snat: &Snat<A>,
    server: &Server<A>,
) -> Result<(), DropReason> {
    let (protocol, external) = (work.parsed.header.protocol, work.parsed.destination());
    if server.is_mapping {
        let owner = tables.port(&PortKey::new(external, protocol));
        if !owner.is_some_and(|owner| owner.references.acquire()) {
            return Err(DropReason::Ending);
        }
    }
    prepare_hairpin(tables, work, origin, snat, server);
    let result = with_external(tables, &mut work.opening);
    if result.is_err() && server.is_mapping {
        release_port(tables, protocol, external);
    }
    result.map(|_| ())
}

/// Writes what is known of both directions' entries. (Apart from the rest, for the stack's sake.)
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
    opening.origin = origin;
    opening.snat = *snat;
}

/// Adds the entries for the hook in between, then those of the session.
#[inline(always)]
fn add_hairpin<A: Address, T: Tables<A>>(
    tables: &T,
    opening: &mut Opening<A>,
) -> Result<(), Refusal> {
    let request_between = between_key(&opening.request);
    let answer_between = between_key(&opening.answer);
    // Between the hooks, answers from the same external port of the server's to the same client
    // could not be told apart, whatever external port the client has.
    tables
        .add_session(&answer_between, &opening.answer.record)
        .map_err(|error| match error {
            InsertError::Exists => Refusal::Final(DropReason::RemoteInUse),
            InsertError::Full => Refusal::Final(DropReason::TableFull),
        })?;
    // Expiry looks at one entry of a session, which is not this one.
    opening.request.record.flags &= !flags::PRIMARY;
    let between = tables
        .add_session(&request_between, &opening.request.record)
        .map_err(Refusal::from);
    opening.request.record.flags |= flags::PRIMARY;
    let result = between.and_then(|()| {
        add_pair(tables, opening).inspect_err(|_| tables.remove_session(&request_between))
    });
    result.inspect_err(|_| tables.remove_session(&answer_between))
}

/// The guest behind an external endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Server<A> {
    /// Its internal endpoint.
    pub endpoint: Endpoint<A>,
    /// Number of its network.
    pub network: u16,
    /// Number of the rule that a session with it counts under.
    pub rule: u32,
    /// Whether it is known by a mapping of its own, not by a rule.
    pub is_mapping: bool,
    /// Whether it is accepted where no policy says otherwise.
    pub is_accepted: bool,
}

/// The guest's endpoint to which a forward rule sends a packet.
#[inline(always)]
pub fn forward_target<A: Address>(parsed: &Parsed<A>, forward: &Forward<A>) -> Endpoint<A> {
    let port = match parsed.header.protocol {
        TCP | UDP => forward.internal_port(parsed.destination_port),
        _ => parsed.destination_port,
    };
    Endpoint::new(forward.to, port)
}

impl Refusal {
    const fn reason(self) -> DropReason {
        match self {
            Self::PortTaken => DropReason::Ending,
            Self::Final(reason) => reason,
        }
    }
}

#[inline(always)]
fn record<A: Address, T: Tables<A>>(
    tables: &T,
    source: Endpoint<A>,
    destination: Endpoint<A>,
    peer_view: View,
    peer_network: u16,
    rule: u32,
) -> SessionRecord<A> {
    let now_s = tables.now_s();
    SessionRecord {
        source: source.address,
        destination: destination.address,
        source_port: source.port,
        destination_port: destination.port,
        peer_network,
        peer_view: peer_view as u8,
        flags: 0,
        rule,
        opened_s: now_s,
        seen_s: now_s,
        state: 0,
        next_hop: next_hop::NONE,
        passed: JUST_OPENED,
    }
}

/// The key under which answers to packets of this entry are looked up.
#[inline(always)]
pub(crate) fn answer_key<A: Address>(entry: &Entry<A>) -> SessionKey<A> {
    let Entry { key, record } = entry;
    SessionKey {
        source: record.destination,
        destination: record.source,
        source_port: record.destination_port,
        destination_port: record.source_port,
        network: record.peer_network,
        protocol: key.protocol,
        view: record.peer_view,
    }
}

/// The key of a hairpinned packet of which everything is rewritten but the source address.
#[inline(always)]
fn between_key<A: Address>(entry: &Entry<A>) -> SessionKey<A> {
    SessionKey {
        source_port: entry.record.source_port,
        destination: entry.record.destination,
        destination_port: entry.record.destination_port,
        view: View::Between as u8,
        ..entry.key
    }
}

/// Adds both entries of a session or none; that of answers, which is the claim, first.
#[inline(always)]
fn add_pair<A: Address, T: Tables<A>>(tables: &T, opening: &mut Opening<A>) -> Result<(), Refusal> {
    tables.add_session(&opening.answer.key, &opening.answer.record)?;
    tables
        .add_session(&opening.request.key, &opening.request.record)
        .map_err(|error| {
            tables.remove_session(&opening.answer.key);
            match error {
                // The same flow was opened on another CPU just now.
                InsertError::Exists => Refusal::Final(DropReason::Ending),
                InsertError::Full => Refusal::Final(DropReason::TableFull),
            }
        })
}

/// Finds an external endpoint for the source of [`Opening::request`] with which both entries can be
/// added, and adds them.
#[inline(always)]
fn with_external<A: Address, T: Tables<A>>(
    tables: &T,
    opening: &mut Opening<A>,
) -> Result<Endpoint<A>, DropReason> {
    let key = &opening.request.key;
    opening.guest = GuestKey::new(key.source, key.network);
    let is_guests = opening.request.record.flags & flags::HOST == 0;
    if is_guests {
        guest::enter(tables, &opening.guest)?;
    }
    let Opening { request, snat, .. } = opening;
    let mut attempts = MAX_ATTEMPTS;
    let wanted = request.key.source_port;
    if !is_searched(request.key.protocol, snat) {
        attempts = 1;
    }
    opening.address = pooled_address(snat, request.key.source);
    let (first, last) = (snat.first_port, snat.last_port);
    opening.search = PortSearch::new(request.key.protocol, wanted, first, last, tables.random());
    opening.outcome = Err(DropReason::PortsExhausted);
    settle(opening);
    tables.repeat(attempts, |attempt| {
        match attempt_external(tables, opening, attempt) {
            Ok(external) => {
                opening.outcome = Ok(external);
                false
            }
            Err(Refusal::PortTaken) => true,
            Err(Refusal::Final(reason)) => {
                opening.outcome = Err(reason);
                false
            }
        }
    });
    settle(opening);
    match opening.outcome {
        Ok(_) => tables.count_opened(opening.request.record.rule),
        Err(_) if is_guests => guest::leave(tables, &opening.guest),
        Err(_) => {}
    }
    opening.outcome
}

/// Opens the session with the external endpoint that the guest's has already, else with a
/// candidate.
#[inline(always)]
fn attempt_external<A: Address, T: Tables<A>>(
    tables: &T,
    opening: &mut Opening<A>,
    attempt: u32,
) -> Result<Endpoint<A>, Refusal> {
    let key = &opening.request.key;
    if !is_searched(key.protocol, &opening.snat) {
        let external = Endpoint::new(opening.address, key.source_port);
        return match add_entries(tables, opening, external, 0) {
            Err(Refusal::PortTaken) => Err(Refusal::Final(DropReason::RemoteInUse)),
            result => result.map(|()| external),
        };
    }
    if let Some(external) = existing_mapping(tables, opening)? {
        return match open_held(tables, opening, external) {
            Err(Refusal::PortTaken) => Err(Refusal::Final(DropReason::RemoteInUse)),
            result => result.map(|()| external),
        };
    }
    let Some(port) = opening.search.candidate(attempt) else {
        return Err(Refusal::Final(DropReason::PortsExhausted));
    };
    let external = Endpoint::new(opening.address, port);
    claim(tables, opening, external)?;
    open_held(tables, opening, external).map(|()| external)
}

/// Opens the session with an external endpoint to which a reference is held already, and gives
/// that back if it does not succeed.
#[inline(never)]
fn open_held<A: Address, T: Tables<A>>(
    tables: &T,
    opening: &mut Opening<A>,
    external: Endpoint<A>,
) -> Result<(), Refusal> {
    let protocol = opening.request.key.protocol;
    let remote = opening.request.key.destination;
    let permitted = if wants_permit(&opening.snat) {
        let key = PermitKey::new(external, remote, protocol);
        add_permit(tables, &key).map(|()| flags::HOLDS_PERMIT)
    } else {
        Ok(0)
    };
    let held = flags::HOLDS_PORT | permitted.unwrap_or(0);
    let result = match permitted {
        Ok(_) => add_entries(tables, opening, external, held),
        Err(reason) => Err(Refusal::Final(reason)),
    };
    if result.is_err() {
        release(tables, protocol, external, remote, held);
    }
    result
}

/// Adds all entries of the session, with an external endpoint and the references that it holds.
#[inline(never)]
fn add_entries<A: Address, T: Tables<A>>(
    tables: &T,
    opening: &mut Opening<A>,
    external: Endpoint<A>,
    held: u8,
) -> Result<(), Refusal> {
    let record = &mut opening.request.record;
    record.source = external.address;
    record.source_port = external.port;
    record.flags = record.flags & !(flags::HOLDS_PORT | flags::HOLDS_PERMIT) | held;
    opening.answer.key = answer_key(&opening.request);
    settle(opening);
    add_session(tables, opening)
}

/// Adds all entries of the session or none.
#[inline(always)]
fn add_session<A: Address, T: Tables<A>>(
    tables: &T,
    opening: &mut Opening<A>,
) -> Result<(), Refusal> {
    if opening.request.record.flags & flags::HAIRPIN != 0 {
        add_hairpin(tables, opening)
    } else {
        add_pair(tables, opening)
    }
}

/// Adds all entries of a session that was opened elsewhere, or none; whether it did.
#[inline(never)]
pub(crate) fn add_session_entries<A: Address, T: Tables<A>>(
    tables: &T,
    opening: &mut Opening<A>,
) -> bool {
    settle(opening);
    add_session(tables, opening).is_ok()
}

const fn wants_permit<A>(snat: &Snat<A>) -> bool {
    snat.mapping == rule::mapping::ENDPOINT_INDEPENDENT
        && snat.filtering == rule::filtering::ADDRESS_DEPENDENT
}

/// The address of the pool that this guest always gets (RFC 4787 REQ-2, paired).
#[inline(always)]
fn pooled_address<A: Address>(snat: &Snat<A>, internal: A) -> A {
    let count = snat.first.distance_to(snat.last).wrapping_add(1);
    snat.first
        .offset_by(internal.mix().checked_rem(count).unwrap_or(0))
}

/// The external endpoint that the internal one has already, with a reference to it.
#[inline(never)]
fn existing_mapping<A: Address, T: Tables<A>>(
    tables: &T,
    opening: &Opening<A>,
) -> Result<Option<Endpoint<A>>, Refusal> {
    if opening.snat.mapping != rule::mapping::ENDPOINT_INDEPENDENT {
        return Ok(None);
    }
    let Some(mapping) = tables.mapping(&mapping_key(opening)) else {
        return Ok(None);
    };
    let external = Endpoint::new(mapping.address, mapping.port);
    let key = &opening.request.key;
    if tables.host_socket(key.protocol, key.destination_endpoint(), external)
        == HostSocket::Connected
    {
        // The host talks to this remote from that port itself.
        return Err(Refusal::Final(DropReason::RemoteInUse));
    }
    match tables.port(&PortKey::new(external, key.protocol)) {
        Some(owner) if owner.references.acquire() => Ok(Some(external)),
        _ => Err(Refusal::Final(DropReason::Ending)),
    }
}

#[inline(always)]
fn mapping_key<A: Address>(opening: &Opening<A>) -> MappingKey<A> {
    let key = &opening.request.key;
    MappingKey {
        address: key.source,
        port: key.source_port,
        network: opening.origin.network,
        uplink: opening.origin.uplink,
        protocol: key.protocol,
        reserved: 0,
    }
}

/// Claims an external endpoint with one reference.
#[inline(never)]
fn claim<A: Address, T: Tables<A>>(
    tables: &T,
    opening: &Opening<A>,
    external: Endpoint<A>,
) -> Result<(), Refusal> {
    let Opening {
        request,
        origin,
        snat,
        ..
    } = opening;
    let key = PortKey::new(external, request.key.protocol);
    let is_shared = snat.mapping != rule::mapping::ENDPOINT_INDEPENDENT;
    if let Some(owner) = tables.port(&key) {
        let joined = is_shared && !owner.is_exclusive() && owner.references.acquire();
        return if joined {
            Ok(())
        } else {
            Err(Refusal::PortTaken)
        };
    }
    if is_reserved(tables, opening, external) {
        return Err(Refusal::PortTaken);
    }
    let record = PortRecord {
        address: if is_shared {
            A::UNSPECIFIED
        } else {
            request.key.source
        },
        port: if is_shared {
            Port::ZERO
        } else {
            request.key.source_port
        },
        network: origin.network,
        uplink: origin.uplink,
        filtering: snat.filtering,
        flags: if is_shared { mapping::SHARED } else { 0 },
        rule: snat.rule,
        references: 1,
    };
    add_port(tables, &key, &record)
}

/// Adds the owner of an external port, with its mapping if it is the only one.
#[inline(always)]
pub(crate) fn add_port<A: Address, T: Tables<A>>(
    tables: &T,
    key: &PortKey<A>,
    record: &PortRecord<A>,
) -> Result<(), Refusal> {
    if !record.is_exclusive() {
        return tables.add_port(key, record).map_err(Refusal::from);
    }
    let guest = GuestKey::new(record.address, record.network);
    guest::take_port(tables, &guest).map_err(Refusal::Final)?;
    tables
        .add_port(key, record)
        .inspect_err(|_| guest::give_port(tables, &guest))?;
    let mapping = MappingRecord::new(Endpoint::new(key.address, key.port));
    tables
        .add_mapping(&record.mapping_key(key.protocol), &mapping)
        .map_err(|error| {
            // Another CPU made one for the same internal endpoint: that is found at the next turn.
            tables.remove_port(key);
            guest::give_port(tables, &guest);
            error.into()
        })
}
/// Whether an external port is spoken for by a forward rule that names it, or by a socket of the host.
#[inline(always)]
fn is_reserved<A: Address, T: Tables<A>>(
    tables: &T,
    opening: &Opening<A>,
    external: Endpoint<A>,
) -> bool {
    let Opening {
        request, origin, ..
    } = opening;
    let protocol = request.key.protocol;
    protocol != ICMP
        && (tables
            .forward(origin.generation, protocol, external)
            .is_some_and(|forward| forward.flags & forward_flags::WHOLE == 0)
            || tables.host_socket(protocol, request.key.destination_endpoint(), external)
                != HostSocket::None)
}

/// Takes references to a port and, if asked, to a permit, and gives the flags that say so.
#[inline(always)]
fn hold<A: Address, T: Tables<A>>(
    tables: &T,
    external: Endpoint<A>,
    remote: A,
    protocol: u8,
    owner: &PortOwner<A>,
    permit: bool,
) -> Result<u8, DropReason> {
    if !owner.references.acquire() {
        return Err(DropReason::Ending);
    }
    if !permit {
        return Ok(flags::HOLDS_PORT);
    }
    match add_permit(tables, &PermitKey::new(external, remote, protocol)) {
        Ok(()) => Ok(flags::HOLDS_PORT | flags::HOLDS_PERMIT),
        Err(reason) => {
            release(tables, protocol, external, remote, flags::HOLDS_PORT);
            Err(reason)
        }
    }
}

/// Takes a reference to a remote address's permit, which is made if it is not there.
#[inline(always)]
pub(crate) fn add_permit<A: Address, T: Tables<A>>(
    tables: &T,
    key: &PermitKey<A>,
) -> Result<(), DropReason> {
    if let Some(references) = tables.permit(key) {
        return if references.acquire() {
            Ok(())
        } else {
            Err(DropReason::Ending)
        };
    }
    match tables.add_permit(key) {
        Ok(()) => Ok(()),
        Err(InsertError::Full) => Err(DropReason::TableFull),
        Err(InsertError::Exists) => match tables.permit(key) {
            Some(references) if references.acquire() => Ok(()),
            _ => Err(DropReason::Ending),
        },
    }
}

/// Gives back what `held` says: references to an external port and to a remote's permit. What
/// nobody refers to any more is removed.
#[inline(always)]
pub(crate) fn release<A: Address, T: Tables<A>>(
    tables: &T,
    protocol: u8,
    external: Endpoint<A>,
    remote: A,
    held: u8,
) {
    if held & flags::HOLDS_PERMIT != 0 {
        let key = PermitKey::new(external, remote, protocol);
        if tables
            .permit(&key)
            .is_some_and(mapping::References::release)
        {
            tables.remove_permit(&key);
        }
    }
    if held & flags::HOLDS_PORT != 0 {
        release_port(tables, protocol, external);
    }
}

/// Gives back a reference to an external port.
#[inline(never)]
pub(crate) fn release_port<A: Address, T: Tables<A>>(
    tables: &T,
    protocol: u8,
    external: Endpoint<A>,
) {
    let key = PortKey::new(external, protocol);
    if let Some(owner) = tables.port(&key)
        && owner.references.release()
    {
        if owner.is_exclusive() {
            tables.remove_mapping(&owner.mapping_key(protocol));
            guest::give_port(tables, &GuestKey::new(owner.address, owner.network));
        }
        tables.remove_port(&key);
    }
}
