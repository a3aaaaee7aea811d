//! Choice and claim of the external endpoint of a session that is being opened.

use crate::{
    drop_reason::DropReason,
    family::Family,
    headers::dhcp,
    session::{
        entries::{add_session, answer_key},
        limits,
        opening::{finish, joined},
        references::{add_permit, add_port, release, release_port},
        tracking,
    },
    tables::{
        Tables,
        environment::MAX_WAITS,
        forwards::{Forward, ForwardFlags},
        guests::GuestKey,
        host::HostSocket,
        mappings::MappingKey,
        permits::PermitKey,
        ports::{self, PortKey, PortRecord},
        sessions::SessionFlags,
        snats::{self, Snat},
    },
    verifier::verifier_barrier,
    wire::{
        address::{Endpoint, Port},
        protocol::{TCP, UDP},
    },
    work::{
        opening::{Choice, Opening, Refusal},
        port_search::{MAX_ATTEMPTS, PortSearch, beside},
    },
};

/// Whether an external port must be found: not for protocols without ports, and not if the guest
/// has its own external address.
fn is_searched<A: Family>(protocol: u8, snat: &Snat<A>) -> bool {
    A::has_ports(protocol) && snat.mapping != snats::mapping::ONE_TO_ONE
}

/// Finds an external endpoint for the source of [`Opening::request`] with which both entries can be
/// added, and adds them.
#[inline(always)]
pub(crate) fn with_external<A: Family, T: Tables<A>>(
    tables: &T,
    opening: &mut Opening<A>,
) -> Result<(), DropReason> {
    let Opening { request, snat, .. } = opening;
    opening.guest = GuestKey::of_session(&request.key, request.record.flags);
    opening.address = pooled_address(snat, request.key.source);
    if let Err(reason) = limits::enter(tables, &opening.guest, opening.request.record.flags) {
        if opening.guest.is_host() {
            return Err(reason);
        }
        return joined(tables, opening, reason);
    }
    let Opening { request, snat, .. } = opening;
    let random = tables.random();
    let attempts = match is_searched(request.key.protocol, snat) {
        true => MAX_ATTEMPTS,
        false => 1,
    };
    let (first, last) = (snat.first_port, snat.last_port);
    let (protocol, wanted) = (request.key.protocol, request.key.source_port);
    opening.search = PortSearch::new(protocol, wanted, first, last, random);
    opening.begin();
    find_forwarded(tables, opening);
    verifier_barrier(opening);
    tables.repeat(MAX_ATTEMPTS + MAX_WAITS, |_| {
        let result = attempt_external(tables, opening);
        opening.goes_on(tables, result, attempts)
    });
    verifier_barrier(opening);
    finish(tables, opening)
}

/// Opens the session with the external endpoint to try now. (Only the work area connects the two
/// steps, so the verifier checks the second step once.)
#[inline(always)]
fn attempt_external<A: Family, T: Tables<A>>(
    tables: &T,
    opening: &mut Opening<A>,
) -> Result<(), Refusal> {
    choose_external(tables, opening)?;
    verifier_barrier(opening);
    add_entries(tables, opening)
}

/// Chooses the external endpoint by which a forward leads to the guest, else the guest's existing
/// one, else a candidate; takes the session's references to it.
#[inline(always)]
fn choose_external<A: Family, T: Tables<A>>(
    tables: &T,
    opening: &mut Opening<A>,
) -> Result<(), Refusal> {
    opening.refs = SessionFlags::empty();
    let protocol = opening.request.key.protocol;
    if opening.is_forwarded != 0 {
        (opening.external, opening.choice) = (opening.forwarded, Choice::Forwarded);
        return Ok(());
    }
    if !is_searched(protocol, &opening.snat) {
        opening.external = Endpoint::new(opening.address, opening.request.key.source_port);
        opening.choice = Choice::Own;
        return match is_anothers(tables, opening) {
            true => Err(Refusal::Final(DropReason::RemoteInUse)),
            false => Ok(()),
        };
    }
    let is_question = is_question(opening);
    if !(is_question && opening.attempt > 0) && take_mapping(tables, opening)? {
        opening.choice = match is_question {
            true => Choice::Candidate,
            false => Choice::Mapped,
        };
        return take_permit(tables, opening);
    }
    let Some(port) = opening.search.candidate(opening.attempt) else {
        return Err(Refusal::Final(DropReason::PortsExhausted));
    };
    opening.external = Endpoint::new(opening.address, port);
    opening.choice = Choice::Candidate;
    if is_question {
        return may_ask(tables, opening);
    }
    claim(tables, opening)?;
    opening.refs = SessionFlags::REFS_PORT;
    take_permit(tables, opening)
}

/// Finds the external endpoint by which a forward leads to the source of [`Opening::request`],
/// unless a socket of the host there has precedence.
#[inline(never)]
fn find_forwarded<A: Family, T: Tables<A>>(tables: &T, opening: &mut Opening<A>) {
    opening.is_forwarded = 0;
    let Some(forwarded) = forwarded_source(tables, opening) else {
        return;
    };
    let (key, external) = (&opening.request.key, forwarded.external);
    if external == key.destination_endpoint() {
        // It sends to itself: the keys of both directions would be equal.
        return;
    }
    let host_socket = tables.host_socket(key.protocol, key.destination_endpoint(), external);
    // (A flow of a datagram socket of the host is recorded, and its entry blocks the session.)
    if (key.protocol == TCP && host_socket == HostSocket::Connected)
        || (forwarded.is_whole && host_socket == HostSocket::Listening)
    {
        return;
    }
    opening.is_forwarded = 1;
    opening.forwarded = external;
    count_under(opening, forwarded.rule);
}

/// Lets the session count under a rule. A session between guests counts under the rule of the guest
/// that is addressed.
#[inline(always)]
fn count_under<A: Family>(opening: &mut Opening<A>, rule: u32) {
    if !opening.request.record.flags.contains(SessionFlags::HAIRPIN) {
        opening.request.record.rule = rule;
        opening.answer.record.rule = rule;
    }
}

/// The external endpoint by which a forward leads to an internal one.
#[derive(Clone, Copy)]
pub(crate) struct Forwarded<A> {
    external: Endpoint<A>,
    rule: u32,
    /// Whether the forward takes all ports, including those by which other guests leave.
    is_whole: bool,
}

/// Finds the forward that leads to the source of [`Opening::request`]: at the address of its other
/// traffic or, if the forward names ports, at the first address of the rule.
#[inline(always)]
fn forwarded_source<A: Family, T: Tables<A>>(
    tables: &T,
    opening: &Opening<A>,
) -> Option<Forwarded<A>> {
    let Opening {
        request,
        origin,
        snat,
        ..
    } = opening;
    let key = &request.key;
    if !matches!(key.protocol, TCP | UDP)
        || request.record.flags.contains(SessionFlags::HOST)
        || snat.mapping == snats::mapping::ONE_TO_ONE
    {
        return None;
    }
    let source = tables.forward_source(origin, key.protocol, key.source_endpoint())?;
    let port = source.external_port(key.source_port);
    let leading_back = |external| {
        let forward = tables.forward(origin.generation, key.protocol, external);
        forward.filter(|forward| {
            key.source == { forward.to }
                && forward.network == key.network
                && forward.internal_port(port) == key.source_port
        })
    };
    let is_whole = |forward: &Forward<A>| forward.flags.contains(ForwardFlags::WHOLE);
    let mut external = Endpoint::new(opening.address, port);
    let mut forward = leading_back(external);
    if forward.is_none() {
        external.address = source.address;
        forward = leading_back(external).filter(|forward| !is_whole(forward));
    }
    let forward = forward?;
    Some(Forwarded {
        external,
        rule: forward.rule,
        is_whole: is_whole(forward),
    })
}

/// Whether the session is a question to a DNS server, for which endpoint-independent mapping does
/// nothing.
#[inline(always)]
fn is_question<A: Family>(opening: &Opening<A>) -> bool {
    let record = &opening.request.record;
    record.state & tracking::QUESTION != 0
        && !record.flags.contains(SessionFlags::HAIRPIN)
        && opening.snat.mapping == snats::mapping::ENDPOINT_INDEPENDENT
}

/// Whether the session of a question may use the candidate, without taking the port for it: only
/// its answers return by the port, and the session finds them first. Questions to different servers
/// therefore share one port and leave it to others. A port of another guest is used only if hardly
/// any other is left.
#[inline(never)]
fn may_ask<A: Family, T: Tables<A>>(tables: &T, opening: &mut Opening<A>) -> Result<(), Refusal> {
    let key = PortKey::new(opening.external, opening.request.key.protocol);
    let is_anothers = opening.attempt < MAX_ATTEMPTS / 2 && tables.port(&key).is_some();
    if is_anothers {
        return Err(Refusal::PortTaken);
    }
    check_spoken_for(tables, opening)
}

/// Takes a reference to the remote's permit if the rule needs one; releases the port on failure. (A
/// separate function, to save stack.)
#[inline(never)]
fn take_permit<A: Family, T: Tables<A>>(
    tables: &T,
    opening: &mut Opening<A>,
) -> Result<(), Refusal> {
    if !wants_permit(&opening.snat) {
        return Ok(());
    }
    let Opening {
        request, external, ..
    } = opening;
    let key = PermitKey::new(*external, request.key.destination, request.key.protocol);
    let result = add_permit(tables, &key);
    match result {
        Ok(()) => opening.refs |= SessionFlags::REFS_PERMIT,
        Err(_) => release_port(tables, request.key.protocol, *external),
    }
    result
}

/// Adds all entries of the session with the external endpoint that was chosen, or releases what it
/// holds.
#[inline(never)]
fn add_entries<A: Family, T: Tables<A>>(
    tables: &T,
    opening: &mut Opening<A>,
) -> Result<(), Refusal> {
    let external = opening.external;
    let record = &mut opening.request.record;
    record.source = external.address;
    record.source_port = external.port;
    record.flags =
        record.flags & !(SessionFlags::REFS_PORT | SessionFlags::REFS_PERMIT) | opening.refs;
    opening.answer.key = answer_key(&opening.request);
    verifier_barrier(opening);
    opening.added = match is_answer_to_host(opening) {
        true => Err(Refusal::PortTaken),
        false => add_session(tables, opening),
    };
    verifier_barrier(opening);
    if opening.added.is_err() {
        let Opening {
            request, external, ..
        } = opening;
        let (protocol, remote) = (request.key.protocol, request.key.destination);
        release(tables, protocol, *external, remote, opening.refs);
    }
    match (opening.added, opening.choice) {
        // Another flow to this remote uses that endpoint: proceed as without the forward.
        (Err(Refusal::PortTaken), Choice::Forwarded) => {
            opening.is_forwarded = 0;
            let rule = opening.snat.rule;
            count_under(opening, rule);
            Err(Refusal::Again)
        }
        (Err(Refusal::PortTaken), Choice::Own | Choice::Mapped) => {
            Err(Refusal::Final(DropReason::RemoteInUse))
        }
        (added, _) => added,
    }
}

/// Whether the host asks for its address by DHCP from the chosen endpoint: answers are the host's.
#[inline(always)]
fn is_answer_to_host<A: Family>(opening: &Opening<A>) -> bool {
    let key = &opening.request.key;
    !opening
        .request
        .record
        .flags
        .intersects(SessionFlags::HOST | SessionFlags::HAIRPIN)
        && key.protocol == UDP
        && opening.external.port == dhcp::CLIENT
        && key.destination_port == dhcp::SERVER
}

const fn wants_permit<A>(snat: &Snat<A>) -> bool {
    snat.mapping == snats::mapping::ENDPOINT_INDEPENDENT
        && snat.filtering == snats::filtering::ADDRESS_DEPENDENT
}

/// The address of the pool that this guest always gets (RFC 4787 REQ-2, paired).
#[inline(always)]
fn pooled_address<A: Family>(snat: &Snat<A>, internal: A) -> A {
    let count = snat.first.distance_to(snat.last).wrapping_add(1);
    snat.first
        .offset_by(internal.hash().checked_rem(count).unwrap_or(0))
}

/// Chooses the external endpoint that the internal one has already, with a reference to it; whether
/// there is one.
#[inline(never)]
fn take_mapping<A: Family, T: Tables<A>>(
    tables: &T,
    opening: &mut Opening<A>,
) -> Result<bool, Refusal> {
    if opening.snat.mapping != snats::mapping::ENDPOINT_INDEPENDENT {
        return Ok(false);
    }
    let Some(mapping) = tables.mapping(&mapping_key(opening)) else {
        return Ok(false);
    };
    let external = Endpoint::new(mapping.address, mapping.port);
    opening.external = external;
    let (first, last) = beside(opening.snat.first_port, opening.snat.last_port);
    let is_beside = (first..=last).contains(&external.port.number());
    let spoken_for = spoken_for(tables, opening);
    if spoken_for == SpokenFor::Yes || (spoken_for == SpokenFor::ByWholeForward && !is_beside) {
        // The host or a forward has taken the port since: open sessions keep it, new ones get
        // another.
        opening.snat.mapping = snats::mapping::ADDRESS_AND_PORT_DEPENDENT;
        opening.snat.filtering = snats::filtering::ADDRESS_AND_PORT_DEPENDENT;
        return Err(Refusal::Again);
    }
    let key = &opening.request.key;
    match tables.port(&PortKey::new(external, key.protocol)) {
        Some(owner) if owner.references.acquire() => {
            opening.refs = SessionFlags::REFS_PORT;
            Ok(true)
        }
        _ => Err(Refusal::Busy),
    }
}

#[inline(always)]
fn mapping_key<A: Family>(opening: &Opening<A>) -> MappingKey<A> {
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

/// Claims the external endpoint that was chosen with one reference.
#[inline(never)]
fn claim<A: Family, T: Tables<A>>(tables: &T, opening: &mut Opening<A>) -> Result<(), Refusal> {
    let protocol = opening.request.key.protocol;
    opening.port.0 = PortKey::new(opening.external, protocol);
    let is_shared = opening.snat.mapping != snats::mapping::ENDPOINT_INDEPENDENT;
    if let Some(owner) = tables.port(&opening.port.0) {
        if is_shared && !owner.is_exclusive() {
            check_spoken_for(tables, opening)?;
            if owner.references.acquire() {
                return Ok(());
            }
        }
        let is_own = !is_shared
            && owner.is_exclusive()
            && owner.mapping_key(protocol) == mapping_key(opening);
        // Another CPU is adding or removing the mapping of the same endpoint, or releasing the
        // port.
        return match is_own || owner.references.is_gone() {
            true => Err(Refusal::Busy),
            false => Err(Refusal::PortTaken),
        };
    }
    check_spoken_for(tables, opening)?;
    let Opening {
        request,
        origin,
        snat,
        port: (key, record),
        ..
    } = opening;
    *record = PortRecord {
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
        flags: if is_shared { ports::SHARED } else { 0 },
        rule: snat.rule,
        references: 1,
    };
    add_port(tables, key, record)
}

/// Whether the chosen external port is in use without a claim.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
enum SpokenFor {
    No,
    /// A forward takes every port of the address, and this is one of them.
    ByWholeForward,
    /// A forward names it, or the host has a socket there.
    Yes,
}

#[inline(never)]
fn spoken_for<A: Family, T: Tables<A>>(tables: &T, opening: &Opening<A>) -> SpokenFor {
    let Opening {
        request,
        origin,
        external,
        ..
    } = opening;
    let (protocol, external) = (request.key.protocol, *external);
    if protocol == A::ICMP {
        return SpokenFor::No;
    }
    let remote = request.key.destination_endpoint();
    if tables.host_socket(protocol, remote, external) != HostSocket::None {
        return SpokenFor::Yes;
    }
    let is_hosts = request.record.flags.contains(SessionFlags::HOST);
    match tables.forward(origin.generation, protocol, external) {
        None => SpokenFor::No,
        Some(forward) if !forward.flags.contains(ForwardFlags::WHOLE) => SpokenFor::Yes,
        // A flow of the host has precedence over any forward.
        Some(_) if is_hosts => SpokenFor::No,
        Some(_) => SpokenFor::ByWholeForward,
    }
}

/// Refuses a candidate that is in use. Beside a forward of every port, the search continues among
/// ports that the guest does not choose.
#[inline(always)]
fn check_spoken_for<A: Family, T: Tables<A>>(
    tables: &T,
    opening: &mut Opening<A>,
) -> Result<(), Refusal> {
    match spoken_for(tables, opening) {
        SpokenFor::Yes => Err(Refusal::PortTaken),
        SpokenFor::ByWholeForward if !opening.search.is_beside_forward() => {
            let (first, last) = (opening.snat.first_port, opening.snat.last_port);
            opening.search = PortSearch::beside_forward(first, last, tables.random());
            Err(Refusal::Again)
        }
        SpokenFor::ByWholeForward | SpokenFor::No => Ok(()),
    }
}

/// Whether a forward gives a protocol without ports to another guest than the one that sends.
#[inline(never)]
fn is_anothers<A: Family, T: Tables<A>>(tables: &T, opening: &Opening<A>) -> bool {
    let Opening {
        request,
        origin,
        snat,
        external,
        ..
    } = opening;
    let key = &request.key;
    // (Sessions between guests have other keys than packets from outside.)
    let is_between = request.record.flags.contains(SessionFlags::HAIRPIN);
    let is_own = snat.mapping == snats::mapping::ONE_TO_ONE
        || request.record.flags.contains(SessionFlags::HOST);
    !(is_own || is_between || A::has_ports(key.protocol))
        && tables
            .forward(origin.generation, key.protocol, *external)
            .is_some_and(|forward| { forward.to } != key.source || forward.network != key.network)
}
