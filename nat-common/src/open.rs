//! Opening sessions: choice and claim of an external port, and the entries of both directions.
//!
//! Two packets may open the same session at the same time on different CPUs, also from both ends,
//! and one may open what another CPU is ending. Adding an entry never replaces one. Of a session's
//! two entries the same one ([`SessionKey::precedes`]) is added first and removed last, whoever does
//! it: who has added it opens the session, and who finds it there looks again until the session can
//! be used ([`join`]) or is gone. Whatever was added before a failure is taken back.

use crate::{
    address::{Address, Endpoint, Port},
    counter::{DropReason, NO_RULE},
    dhcp,
    guest::{self, GuestKey},
    mapping::{self, MappingKey, MappingRecord, PermitKey, PortKey, PortOwner, PortRecord},
    next_hop,
    parse::{ICMP, Parsed, TCP, UDP},
    port::{MAX_ATTEMPTS, PortSearch, beside},
    rule::{self, BY_DESTINATION, DNS_PORT, Forward, Snat, forward_flags},
    session::{JUST_OPENED, OPENING, SessionKey, SessionRecord, View, flags},
    tables::{HostSocket, InsertError, Tables},
    tcp,
    work::{Entry, Opening, Work, settle},
};

/// How many ports are tried for a remote whose own port is taken towards the guest.
const MAX_REMOTE_ATTEMPTS: u32 = 16;

/// How many times a packet looks again at what another CPU is adding or removing. That is over after
/// a few microseconds, in which it looks some dozens of times.
pub(crate) const MAX_WAITS: u32 = 256;

/// How many times a packet that opens no session looks whether another CPU has opened it just now.
const MAX_LOOKS: u32 = 16;

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
    /// What is to be tried next is known, and was not tried yet.
    Again,
    /// Another CPU is adding or removing what is in the way: a moment later it is clear.
    Busy,
    /// None will.
    Final(DropReason),
}

/// How the external endpoint of a session was chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Choice {
    /// A forward leads from it to the guest.
    Forwarded,
    /// It is the guest's own, nobody's to claim.
    Own,
    /// The guest has it already for other remotes.
    Mapped,
    /// It is one of many that may do.
    Candidate,
}

impl From<InsertError> for Refusal {
    fn from(error: InsertError) -> Self {
        match error {
            InsertError::Exists => Self::Busy,
            InsertError::Full => Self::Final(DropReason::TableFull),
        }
    }
}

const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP | ICMP)
}

/// [`SessionRecord::state`] of a session that a guest opens.
#[inline(always)]
fn first_state(protocol: u8, destination: Port) -> u32 {
    if protocol == UDP && destination.number() == DNS_PORT {
        tcp::QUESTION
    } else {
        0
    }
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
    if host == 0 {
        let state = first_state(parsed.header.protocol, remote.port);
        (opening.request.record.state, opening.answer.record.state) = (state, state);
    }
    // A connection may be taken up in its middle.
    opening.request.record.passed = parsed.acknowledged;
    opening.origin = origin;
    opening.snat = *snat;
    if snat.by_destination != 0 {
        choose_source(tables, opening);
    }
    with_external(tables, opening)
}

/// Makes the external address the one by which the host itself would reach the destination. If that is not
/// the one by which a guest reaches most others, its mapping towards those stays out of it.
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
        opening.snat.mapping = rule::mapping::ADDRESS_AND_PORT_DEPENDENT;
        opening.snat.filtering = rule::filtering::ADDRESS_AND_PORT_DEPENDENT;
    }
}

/// Opens a session from outside through a forward rule; see [`Opening::ends`].
///
/// # Errors
///
/// The reason why the packet must be dropped.
#[inline(always)]
pub fn open_forward<A: Address, T: Tables<A>>(
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
        flags: flags::PRIMARY,
        ..record(tables, external, remote, View::Outside, 0, forward.rule)
    };
    opening.guest = GuestKey::new(internal.address, forward.network);
    let (first, rule) = (remote.port, forward.rule);
    opening.request.record = SessionRecord {
        flags: flags::IN | flags::FROM_INITIATOR,
        ..record(
            tables,
            remote,
            internal,
            View::Inside,
            forward.network,
            rule,
        )
    };
    if let Err(reason) = guest::enter(tables, &opening.guest, flags::PRIMARY) {
        return joined(tables, opening, reason);
    }
    opening.begin();
    settle(opening);
    tables.repeat(MAX_REMOTE_ATTEMPTS + MAX_WAITS, |_| {
        if opening.attempt > 0 {
            // The guest already talks to this remote endpoint: it must see another port.
            opening.request.record.source_port = Port::new(tables.random() as u16 | 0x8000);
        } else {
            opening.request.record.source_port = first;
        }
        opening.answer.key = answer_key(&opening.request);
        settle(opening);
        let result = match add_pair(tables, opening) {
            Err(Refusal::PortTaken) if !has_ports(protocol) => {
                Err(Refusal::Final(DropReason::RemoteInUse))
            }
            result => result,
        };
        opening.goes_on(tables, result, MAX_REMOTE_ATTEMPTS)
    });
    settle(opening);
    finish(tables, opening)
}

/// Notes a flow that the host itself has opened from an external address, so that nobody else takes
/// what answers it. Whether it is noted: others may have the answers, or the host has as many flows
/// as it may. `network` is the number of an uplink for what is about that alone, else 0.
#[inline(never)]
pub fn open_host<A: Address, T: Tables<A>>(
    tables: &T,
    work: &mut Work<A>,
    remote: &Endpoint<A>,
    network: u16,
) -> bool {
    let Work {
        parsed, opening, ..
    } = work;
    let local = parsed.source();
    opening.request = Entry {
        key: SessionKey {
            destination: remote.address,
            destination_port: remote.port,
            ..parsed.key(View::Inside, network)
        },
        record: SessionRecord {
            flags: flags::PRIMARY | flags::FROM_INITIATOR | flags::HOST,
            ..record(tables, local, *remote, View::Outside, network, NO_RULE)
        },
    };
    opening.answer.record = SessionRecord {
        flags: flags::IN | flags::HOST,
        ..record(tables, *remote, local, View::Inside, network, NO_RULE)
    };
    opening.answer.key = answer_key(&opening.request);
    opening.guest = GuestKey::of_session(&opening.request.key, flags::HOST);
    if guest::enter_host(tables, &opening.guest).is_err() {
        return false;
    }
    settle(opening);
    let is_noted = add_pair(tables, opening).is_ok();
    match is_noted {
        true => tables.count_opened(NO_RULE),
        false => guest::leave(
            tables,
            &opening.guest,
            flags::PRIMARY | flags::FROM_INITIATOR | flags::HOST,
        ),
    }
    is_noted
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
    if is_guests {
        let state = first_state(parsed.header.protocol, destination.port);
        (opening.request.record.state, opening.answer.record.state) = (state, state);
    }
    opening.answer.key = answer_key(&opening.request);
    opening.guest = match is_guests {
        true => GuestKey::new(source.address, plain.network),
        false => GuestKey::new(destination.address, plain.answer_network),
    };
    if let Err(reason) = enter(tables, opening) {
        return joined(tables, opening, reason);
    }
    add_pair_in_time(tables, opening);
    finish(tables, opening)
}

/// Opens a session from outside to a mapping that a guest has made; see [`Opening::ends`].
///
/// # Errors
///
/// The reason why the packet must be dropped.
#[inline(always)]
pub fn open_to_mapping<A: Address, T: Tables<A>>(
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
    let permit = owner.filtering == rule::filtering::ADDRESS_DEPENDENT;
    opening.guest = GuestKey::new(owner.address, owner.network);
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
        flags: flags::PRIMARY,
        ..record(tables, external, remote, View::Outside, 0, owner.rule)
    };
    opening.answer.key = answer_key(&opening.request);
    settle(opening);
    if let Err(reason) = guest::enter(tables, &opening.guest, flags::PRIMARY) {
        return joined(tables, opening, reason);
    }
    let held = match hold(tables, external, remote.address, protocol, owner, permit) {
        Ok(held) => held,
        Err(reason) => {
            guest::leave(tables, &opening.guest, flags::PRIMARY);
            return joined(tables, opening, reason);
        }
    };
    opening.answer.record.flags |= held;
    add_pair_in_time(tables, opening);
    if opening.outcome.is_err() {
        release(tables, protocol, external, remote.address, held);
    }
    finish(tables, opening)
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

/// The key in between of what answers it: the reverse, as connection tracking expects.
#[inline(always)]
fn answer_between_key<A: Address>(request: &SessionKey<A>, answer: &Entry<A>) -> SessionKey<A> {
    SessionKey {
        network: answer.key.network,
        ..request.reversed()
    }
}

/// The key in between of a packet that opens a hairpinned session: everything is rewritten but the
/// source address.
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

/// Adds both entries of a session or none.
#[inline(always)]
fn add_pair<A: Address, T: Tables<A>>(tables: &T, opening: &mut Opening<A>) -> Result<(), Refusal> {
    if opening.request.key.precedes(&opening.answer.key) {
        add_request(tables, opening)?;
        add_answer(tables, opening).inspect_err(|_| remove_request(tables, opening))?;
        make_usable(tables, &opening.request);
        Ok(())
    } else {
        add_answer(tables, opening)?;
        add_request(tables, opening).inspect_err(|_| remove_answer(tables, opening))
    }
}

/// Adds all entries of a hairpinned session or none.
#[inline(always)]
fn add_hairpin<A: Address, T: Tables<A>>(
    tables: &T,
    opening: &mut Opening<A>,
) -> Result<(), Refusal> {
    if opening.request.key.precedes(&opening.answer.key) {
        add_request(tables, opening)?;
        add_between(tables, opening).inspect_err(|_| remove_request(tables, opening))?;
        add_answer(tables, opening).inspect_err(|_| {
            remove_between(tables, opening);
            remove_request(tables, opening);
        })?;
        make_usable(tables, &opening.request);
    } else {
        // The guest that is sent to may send itself: that needs what stands in between.
        let seen_s = opening.answer.record.seen_s;
        opening.answer.record.seen_s = OPENING;
        let added = add_answer(tables, opening);
        opening.answer.record.seen_s = seen_s;
        added?;
        add_between(tables, opening).inspect_err(|_| remove_answer(tables, opening))?;
        add_request(tables, opening).inspect_err(|_| {
            remove_between(tables, opening);
            remove_answer(tables, opening);
        })?;
        make_usable(tables, &opening.answer);
    }
    Ok(())
}

/// Adds the entry of the packet's own direction. If it comes first, nobody uses it yet: the other
/// may turn out to be taken.
#[inline(never)]
fn add_request<A: Address, T: Tables<A>>(
    tables: &T,
    opening: &mut Opening<A>,
) -> Result<(), Refusal> {
    let Opening {
        request, answer, ..
    } = opening;
    let seen_s = request.record.seen_s;
    if request.key.precedes(&answer.key) {
        request.record.seen_s = OPENING;
    }
    settle(request);
    // One that is there is of the same flow, opened on another CPU or ending.
    let result = tables.add_session(&request.key, &request.record);
    request.record.seen_s = seen_s;
    Ok(result?)
}

/// Adds the entry of the other direction.
#[inline(never)]
fn add_answer<A: Address, T: Tables<A>>(
    tables: &T,
    opening: &mut Opening<A>,
) -> Result<(), Refusal> {
    let Opening {
        request, answer, ..
    } = opening;
    match tables.add_session(&answer.key, &answer.record) {
        Ok(()) => Ok(()),
        Err(InsertError::Full) => Err(Refusal::Final(DropReason::TableFull)),
        Err(InsertError::Exists) => match tables.session(&answer.key) {
            Some(other)
                if other.is_usable() && other.peer_key(answer.key.protocol) != request.key =>
            {
                Err(Refusal::PortTaken)
            }
            _ => Err(Refusal::Busy),
        },
    }
}

#[inline(always)]
fn remove_request<A: Address, T: Tables<A>>(tables: &T, opening: &Opening<A>) {
    tables.remove_session(&opening.request.key);
}

#[inline(always)]
fn remove_answer<A: Address, T: Tables<A>>(tables: &T, opening: &Opening<A>) {
    tables.remove_session(&opening.answer.key);
}

/// Lets packets use the entry that was added first.
#[inline(never)]
fn make_usable<A: Address, T: Tables<A>>(tables: &T, first: &Entry<A>) {
    if let Some(session) = tables.session(&first.key) {
        session.seen_s.exchange_if(OPENING, first.record.seen_s);
    }
}

/// Adds the entries for the hook in between.
#[inline(never)]
fn add_between<A: Address, T: Tables<A>>(
    tables: &T,
    opening: &mut Opening<A>,
) -> Result<(), Refusal> {
    let Opening {
        request, answer, ..
    } = opening;
    let request_between = between_key(request);
    let answer_between = answer_between_key(&request_between, answer);
    // A guest that asks itself by a port that is the same at both ends: in between the directions could
    // not be told apart.
    if request_between == answer_between {
        return Err(Refusal::PortTaken);
    }
    let taken = |error| match error {
        InsertError::Exists => Refusal::PortTaken,
        InsertError::Full => Refusal::Final(DropReason::TableFull),
    };
    tables
        .add_session(&answer_between, &answer.record)
        .map_err(taken)?;
    // Expiry looks at one entry of a session, which is not this one.
    request.record.flags &= !flags::PRIMARY;
    let result = tables.add_session(&request_between, &request.record);
    request.record.flags |= flags::PRIMARY;
    result
        .map_err(taken)
        .inspect_err(|_| tables.remove_session(&answer_between))
}

#[inline(never)]
fn remove_between<A: Address, T: Tables<A>>(tables: &T, opening: &Opening<A>) {
    let request = between_key(&opening.request);
    tables.remove_session(&answer_between_key(&request, &opening.answer));
    tables.remove_session(&request);
}

/// Adds both entries of a session whose translation is known, as soon as other CPUs let it.
#[inline(never)]
fn add_pair_in_time<A: Address, T: Tables<A>>(tables: &T, opening: &mut Opening<A>) {
    opening.begin();
    settle(opening);
    tables.repeat(MAX_WAITS, |_| {
        let result = match add_pair(tables, opening) {
            Err(Refusal::PortTaken) => Err(Refusal::Final(DropReason::Ending)),
            result => result,
        };
        opening.goes_on(tables, result, 1)
    });
    settle(opening);
}

impl<A: Address> Opening<A> {
    /// The [`flags`] of the primary entry.
    #[inline(always)]
    fn primary_flags(&self) -> u8 {
        let (request, answer) = (self.request.record.flags, self.answer.record.flags);
        match request & flags::PRIMARY {
            0 => answer,
            _ => request,
        }
    }

    /// Makes ready for the first attempt.
    #[inline(always)]
    fn begin(&mut self) {
        (self.attempt, self.looks) = (0, 0);
        self.is_joined = 0;
        self.outcome = Err(DropReason::PortsExhausted);
    }

    /// Takes in what an attempt has come to; whether there is to be another.
    #[inline(always)]
    fn goes_on<T: Tables<A>>(
        &mut self,
        tables: &T,
        result: Result<(), Refusal>,
        attempts: u32,
    ) -> bool {
        match result {
            Ok(()) => {
                self.outcome = Ok(self.request.record.source_endpoint());
                false
            }
            Err(Refusal::PortTaken) => {
                self.attempt += 1;
                self.outcome = Err(DropReason::PortsExhausted);
                self.attempt < attempts
            }
            Err(Refusal::Again) => true,
            Err(Refusal::Busy) => {
                self.outcome = Err(DropReason::Ending);
                tables.pause();
                !join(tables, self)
            }
            Err(Refusal::Final(reason)) => {
                self.outcome = Err(reason);
                // The port may be one that another CPU has just taken for this very endpoint.
                let looks_again =
                    reason as u32 == DropReason::GuestPorts as u32 && self.looks < MAX_LOOKS;
                self.looks += 1;
                if looks_again {
                    tables.pause();
                }
                looks_again
            }
        }
    }

    /// Source and destination of the packet that opened the session, after translation. They are read
    /// from here, not returned by who opens it: across a `?` the compiler keeps them in stack slots that
    /// hold pointers on other ways, and the verifier refuses that.
    #[inline(always)]
    pub fn ends(&self) -> (Endpoint<A>, Endpoint<A>) {
        let record = &self.request.record;
        let destination = Endpoint::new(record.destination, record.destination_port);
        (record.source_endpoint(), destination)
    }
}

/// Takes the session that another CPU has opened for the same flow in the place of the one that was
/// to be opened; whether there is one.
#[inline(never)]
fn join<A: Address, T: Tables<A>>(tables: &T, opening: &mut Opening<A>) -> bool {
    let key = &opening.request.key;
    let Some(session) = tables.session(key) else {
        return false;
    };
    if !session.is_usable() {
        return false;
    }
    if !session.has(flags::FROM_INITIATOR) {
        // It was opened from the other end, at which this packet arrives as an answer.
        session.state.fetch_or(tcp::REPLIED);
        if let Some(peer) = tables.session(&session.peer_key(key.protocol)) {
            peer.state.fetch_or(tcp::REPLIED);
        }
    }
    let record = &mut opening.request.record;
    record.source = session.source;
    record.source_port = session.source_port;
    record.destination = session.destination;
    record.destination_port = session.destination_port;
    opening.is_joined = 1;
    true
}

/// The session of the same flow if another CPU opens one at this moment, else why there is none.
#[inline(never)]
fn joined<A: Address, T: Tables<A>>(
    tables: &T,
    opening: &mut Opening<A>,
    reason: DropReason,
) -> Result<(), DropReason> {
    settle(opening);
    opening.is_joined = 0;
    tables.repeat(MAX_LOOKS, |_| {
        tables.pause();
        !join(tables, opening)
    });
    settle(opening);
    match opening.is_joined {
        0 => Err(reason),
        _ => Ok(()),
    }
}

/// Counts [`Opening::guest`]. (Apart from what follows: the stack has no room for both.)
#[inline(never)]
fn enter<A: Address, T: Tables<A>>(tables: &T, opening: &Opening<A>) -> Result<(), DropReason> {
    guest::enter(tables, &opening.guest, opening.primary_flags())
}

/// Ends the opening of a session of which [`Opening::guest`] has been counted.
#[inline(never)]
fn finish<A: Address, T: Tables<A>>(
    tables: &T,
    opening: &mut Opening<A>,
) -> Result<(), DropReason> {
    if opening.is_joined == 0 && opening.outcome.is_ok() {
        tables.count_opened(opening.request.record.rule);
        return Ok(());
    }
    guest::leave(tables, &opening.guest, opening.primary_flags());
    match opening.outcome {
        Err(reason) if opening.is_joined == 0 => joined(tables, opening, reason),
        _ => Ok(()),
    }
}

/// Finds an external endpoint for the source of [`Opening::request`] with which both entries can be
/// added, and adds them.
#[inline(always)]
fn with_external<A: Address, T: Tables<A>>(
    tables: &T,
    opening: &mut Opening<A>,
) -> Result<Endpoint<A>, DropReason> {
    let Opening { request, snat, .. } = opening;
    opening.guest = GuestKey::of_session(&request.key, request.record.flags);
    opening.address = pooled_address(snat, request.key.source);
    if let Err(reason) = guest::enter(tables, &opening.guest, opening.request.record.flags) {
        if opening.guest.is_host() {
            return Err(reason);
        }
        joined(tables, opening, reason)?;
        return Ok(opening.request.record.source_endpoint());
    }
    let Opening { request, snat, .. } = opening;
    let attempts = match is_searched(request.key.protocol, snat) {
        true => MAX_ATTEMPTS,
        false => 1,
    };
    let (first, last) = (snat.first_port, snat.last_port);
    let (protocol, wanted) = (request.key.protocol, request.key.source_port);
    opening.search = PortSearch::new(protocol, wanted, first, last, tables.random());
    opening.begin();
    find_forwarded(tables, opening);
    settle(opening);
    tables.repeat(MAX_ATTEMPTS + MAX_WAITS, |_| {
        let result = attempt_external(tables, opening);
        opening.goes_on(tables, result, attempts)
    });
    settle(opening);
    finish(tables, opening)?;
    Ok(opening.request.record.source_endpoint())
}

/// Opens the session with the external endpoint that is to be tried now. (Between the two steps nothing
/// but the work area tells the verifier which one that is: it looks at the second step once.)
#[inline(always)]
fn attempt_external<A: Address, T: Tables<A>>(
    tables: &T,
    opening: &mut Opening<A>,
) -> Result<(), Refusal> {
    choose_external(tables, opening)?;
    settle(opening);
    add_entries(tables, opening)
}

/// Chooses the external endpoint by which a forward leads to the guest, else the one that the guest's
/// has already, else a candidate; takes the references to it that the session is to hold.
#[inline(always)]
fn choose_external<A: Address, T: Tables<A>>(
    tables: &T,
    opening: &mut Opening<A>,
) -> Result<(), Refusal> {
    opening.held = 0;
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
    opening.held = flags::HOLDS_PORT;
    take_permit(tables, opening)
}

/// Finds the external endpoint by which a forward leads to the source of [`Opening::request`],
/// unless the host has a socket there that comes first.
#[inline(never)]
fn find_forwarded<A: Address, T: Tables<A>>(tables: &T, opening: &mut Opening<A>) {
    opening.is_forwarded = 0;
    let Some(forwarded) = forwarded_source(tables, opening) else {
        return;
    };
    let (key, external) = (&opening.request.key, forwarded.external);
    if external == key.destination_endpoint() {
        // It sends to itself: the two directions could not be told apart.
        return;
    }
    let host_socket = tables.host_socket(key.protocol, key.destination_endpoint(), external);
    // (What a datagram socket of the host has sent is noted, and stands in the session's way.)
    if (key.protocol == TCP && host_socket == HostSocket::Connected)
        || (forwarded.is_whole && host_socket == HostSocket::Listening)
    {
        return;
    }
    opening.is_forwarded = 1;
    opening.forwarded = external;
    count_under(opening, forwarded.rule);
}

/// Lets the session count under a rule. One between guests counts under the rule of the guest that
/// is asked.
#[inline(always)]
fn count_under<A>(opening: &mut Opening<A>, rule: u32) {
    if opening.request.record.flags & flags::HAIRPIN == 0 {
        opening.request.record.rule = rule;
        opening.answer.record.rule = rule;
    }
}

/// The external endpoint by which a forward leads to an internal one.
#[derive(Clone, Copy)]
struct Forwarded<A> {
    external: Endpoint<A>,
    rule: u32,
    /// Whether the forward takes all ports, those that others leave by as well.
    is_whole: bool,
}

/// Finds the forward that leads to the source of [`Opening::request`]: at the address that its
/// other traffic leaves by, else, if it names ports, at the first one of the rule.
#[inline(always)]
fn forwarded_source<A: Address, T: Tables<A>>(
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
        || request.record.flags & flags::HOST != 0
        || snat.mapping == rule::mapping::ONE_TO_ONE
    {
        return None;
    }
    let source = tables.forward_source(origin, key.protocol, key.source_endpoint())?;
    let port = source.external_port(key.source_port);
    let leading_back = |external| {
        let forward = tables.forward(origin.generation, key.protocol, external);
        forward.filter(|forward| {
            forward.to == key.source
                && forward.network == key.network
                && forward.internal_port(port) == key.source_port
        })
    };
    let is_whole = |forward: &Forward<A>| forward.flags & forward_flags::WHOLE != 0;
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

/// Whether the session is a question to a DNS server, for which endpoint-independent mapping does nothing.
#[inline(always)]
fn is_question<A: Address>(opening: &Opening<A>) -> bool {
    let record = &opening.request.record;
    record.state & tcp::QUESTION != 0
        && record.flags & flags::HAIRPIN == 0
        && opening.snat.mapping == rule::mapping::ENDPOINT_INDEPENDENT
}

/// Whether the session of a question may use the candidate, without taking the port for it: only what
/// answers it comes back by it, and that is found first. So questions to different servers use one port,
/// and leave all of them to others. One that is another guest's is used where there is hardly any other.
#[inline(never)]
fn may_ask<A: Address, T: Tables<A>>(tables: &T, opening: &mut Opening<A>) -> Result<(), Refusal> {
    let key = PortKey::new(opening.external, opening.request.key.protocol);
    let is_anothers = opening.attempt < MAX_ATTEMPTS / 2 && tables.port(&key).is_some();
    if is_anothers {
        return Err(Refusal::PortTaken);
    }
    check_spoken_for(tables, opening)
}

/// Takes a reference to the remote's permit where the rule wants one, else gives back the port.
#[inline(always)]
fn take_permit<A: Address, T: Tables<A>>(
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
        Ok(()) => opening.held |= flags::HOLDS_PERMIT,
        Err(_) => release_port(tables, request.key.protocol, *external),
    }
    result
}

/// Adds all entries of the session with the external endpoint that was chosen, or gives back what it
/// holds.
#[inline(never)]
fn add_entries<A: Address, T: Tables<A>>(
    tables: &T,
    opening: &mut Opening<A>,
) -> Result<(), Refusal> {
    let external = opening.external;
    let record = &mut opening.request.record;
    record.source = external.address;
    record.source_port = external.port;
    record.flags = record.flags & !(flags::HOLDS_PORT | flags::HOLDS_PERMIT) | opening.held;
    opening.answer.key = answer_key(&opening.request);
    settle(opening);
    opening.added = match is_answer_to_host(opening) {
        true => Err(Refusal::PortTaken),
        false => add_session(tables, opening),
    };
    settle(opening);
    if opening.added.is_err() {
        let key = &opening.request.key;
        let (protocol, remote) = (key.protocol, key.destination);
        release(tables, protocol, external, remote, opening.held);
    }
    match (opening.added, opening.choice) {
        // Somebody else talks to this remote from there: it is as if there were no forward.
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

/// Whether the host asks for its address by DHCP from the endpoint that was chosen: what answers is
/// the host's.
#[inline(always)]
fn is_answer_to_host<A: Address>(opening: &Opening<A>) -> bool {
    let key = &opening.request.key;
    opening.request.record.flags & (flags::HOST | flags::HAIRPIN) == 0
        && key.protocol == UDP
        && opening.external.port == dhcp::CLIENT
        && key.destination_port == dhcp::SERVER
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

/// Chooses the external endpoint that the internal one has already, with a reference to it; whether
/// there is one.
#[inline(never)]
fn take_mapping<A: Address, T: Tables<A>>(
    tables: &T,
    opening: &mut Opening<A>,
) -> Result<bool, Refusal> {
    if opening.snat.mapping != rule::mapping::ENDPOINT_INDEPENDENT {
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
        // The host or a forward has the port since: sessions that are open keep it, others get
        // another one.
        opening.snat.mapping = rule::mapping::ADDRESS_AND_PORT_DEPENDENT;
        opening.snat.filtering = rule::filtering::ADDRESS_AND_PORT_DEPENDENT;
        return Err(Refusal::Again);
    }
    let key = &opening.request.key;
    match tables.port(&PortKey::new(external, key.protocol)) {
        Some(owner) if owner.references.acquire() => {
            opening.held = flags::HOLDS_PORT;
            Ok(true)
        }
        _ => Err(Refusal::Busy),
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

/// Claims the external endpoint that was chosen with one reference.
#[inline(never)]
fn claim<A: Address, T: Tables<A>>(tables: &T, opening: &mut Opening<A>) -> Result<(), Refusal> {
    let key = PortKey::new(opening.external, opening.request.key.protocol);
    let is_shared = opening.snat.mapping != rule::mapping::ENDPOINT_INDEPENDENT;
    if let Some(owner) = tables.port(&key) {
        if is_shared && !owner.is_exclusive() {
            check_spoken_for(tables, opening)?;
            if owner.references.acquire() {
                return Ok(());
            }
        }
        let is_own = !is_shared
            && owner.is_exclusive()
            && owner.mapping_key(key.protocol) == mapping_key(opening);
        // Another CPU makes or removes the mapping of this very endpoint, or gives the port back.
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
        ..
    } = opening;
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

/// Adds the owner of an external port, with its mapping if it is the only one. Until that is there
/// nobody else can take a reference to the port.
#[inline(always)]
pub(crate) fn add_port<A: Address, T: Tables<A>>(
    tables: &T,
    key: &PortKey<A>,
    record: &PortRecord<A>,
) -> Result<(), Refusal> {
    if !record.is_exclusive() {
        return Ok(tables.add_port(key, record)?);
    }
    let guest = GuestKey::new(record.address, record.network);
    guest::take_port(tables, &guest).map_err(Refusal::Final)?;
    let result = add_exclusive_port(tables, key, record);
    if result.is_err() {
        guest::give_port(tables, &guest);
    }
    result
}

#[inline(always)]
fn add_exclusive_port<A: Address, T: Tables<A>>(
    tables: &T,
    key: &PortKey<A>,
    record: &PortRecord<A>,
) -> Result<(), Refusal> {
    let claimed = PortRecord {
        references: mapping::CLAIMED,
        ..*record
    };
    tables.add_port(key, &claimed)?;
    let mapping = MappingRecord::new(Endpoint::new(key.address, key.port));
    // If another CPU has made one for the same internal endpoint, that is found at the next turn.
    let added = tables.add_mapping(&record.mapping_key(key.protocol), &mapping);
    match (added, tables.port(key)) {
        (Ok(()), Some(owner)) => {
            owner.references.begin();
            Ok(())
        }
        (added, _) => {
            tables.remove_port(key);
            Err(added.err().map_or(Refusal::Busy, Refusal::from))
        }
    }
}

/// Whether somebody has the external port that was chosen already, other than by having claimed it.
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
fn spoken_for<A: Address, T: Tables<A>>(tables: &T, opening: &Opening<A>) -> SpokenFor {
    let Opening {
        request,
        origin,
        external,
        ..
    } = opening;
    let (protocol, external) = (request.key.protocol, *external);
    if protocol == ICMP {
        return SpokenFor::No;
    }
    let remote = request.key.destination_endpoint();
    if tables.host_socket(protocol, remote, external) != HostSocket::None {
        return SpokenFor::Yes;
    }
    let is_hosts = request.record.flags & flags::HOST != 0;
    match tables.forward(origin.generation, protocol, external) {
        None => SpokenFor::No,
        Some(forward) if forward.flags & forward_flags::WHOLE == 0 => SpokenFor::Yes,
        // What the host has opened comes before any forward.
        Some(_) if is_hosts => SpokenFor::No,
        Some(_) => SpokenFor::ByWholeForward,
    }
}

/// Refuses a candidate that somebody has. Beside a forward of every port the search goes on among
/// ports that the guest does not choose.
#[inline(always)]
fn check_spoken_for<A: Address, T: Tables<A>>(
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
fn is_anothers<A: Address, T: Tables<A>>(tables: &T, opening: &Opening<A>) -> bool {
    let Opening {
        request,
        origin,
        snat,
        external,
        ..
    } = opening;
    let key = &request.key;
    // (What is between guests stands under other keys than what comes from outside.)
    let is_between = request.record.flags & flags::HAIRPIN != 0;
    let is_own =
        snat.mapping == rule::mapping::ONE_TO_ONE || request.record.flags & flags::HOST != 0;
    !(is_own || is_between || has_ports(key.protocol))
        && tables
            .forward(origin.generation, key.protocol, *external)
            .is_some_and(|forward| forward.to != key.source || forward.network != key.network)
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
        Err(refusal) => {
            release(tables, protocol, external, remote, flags::HOLDS_PORT);
            Err(match refusal {
                Refusal::Final(reason) => reason,
                _ => DropReason::Ending,
            })
        }
    }
}

/// Takes a reference to a remote address's permit, which is made if it is not there.
#[inline(always)]
pub(crate) fn add_permit<A: Address, T: Tables<A>>(
    tables: &T,
    key: &PermitKey<A>,
) -> Result<(), Refusal> {
    match tables.permit(key) {
        Some(references) if references.acquire() => Ok(()),
        Some(_) => Err(Refusal::Busy),
        None => Ok(tables.add_permit(key)?),
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
