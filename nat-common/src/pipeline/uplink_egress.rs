//! Uplink, egress: packets that the kernel has routed to the outside.

use crate::{
    drop_reason::DropReason,
    family::Family,
    headers::{
        dhcp,
        parsed::{Parsed, Transport, parse},
    },
    pipeline::{
        fast,
        follow::translate,
        fragment_ports::{renumber, resolve_fragment},
        icmp_errors,
        lookup::{find_of_guest, generation, network_of},
        verdict::{NotOpened, Opened, Outcome, Place, Verdict, outcome},
    },
    session::{ending, lease, open_host::open_host, open_outbound::open_outbound, tracking},
    tables::{
        Tables,
        counters::NO_RULE,
        host::HostSocket,
        interfaces::{interface_flags, role},
        origin::Origin,
        ports::PortKey,
        sessions::{Session, SessionKey, View, flags},
        snats::{Snat, filtering, mapping},
    },
    translation::{mss, rewrite::rewrite},
    verifier::verifier_barrier,
    wire::{
        address::{Address, Endpoint, Port},
        packet::Packet,
        protocol::{TCP, UDP},
        tcp,
    },
    work::Work,
};

/// Decides on a packet that is about to leave by an uplink.
///
/// # Errors
///
/// Why the packet is dropped.
#[inline(always)]
pub fn outbound<A: Family, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    place: Place,
    work: &mut Work<A>,
) -> Outcome {
    let outcome = decide(packet, tables, place, work)?;
    let is_rewritten = matches!(outcome, Verdict::Translated | Verdict::Opened);
    if is_rewritten && !mss::clamp(packet, tables, &work.parsed, place.interface) {
        return Err(DropReason::RewriteFailed);
    }
    Ok(outcome)
}

#[inline(always)]
fn decide<A: Family, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    place: Place,
    work: &mut Work<A>,
) -> Outcome {
    let parsed = &mut work.parsed;
    parse(packet, place.l3, parsed)?;
    let network = network_of(tables, packet.ingress_interface());
    let (uplink, is_one_of_several) = match tables.interface(place.interface) {
        Some(interface) if interface.role == role::UPLINK => (
            interface.number,
            interface.flags & interface_flags::ONE_OF_SEVERAL != 0,
        ),
        _ => return Ok(Verdict::Untouched),
    };
    if parsed.transport == Transport::IcmpError {
        return icmp_errors::outbound(packet, tables, parsed, network, uplink);
    }
    resolve_fragment(tables, parsed, View::Inside, network);
    if parsed.has_ports
        && let Some((session, home)) = find_of_guest(tables, parsed, network)
        && !(is_one_of_several && ends_by_moving(tables, parsed, home, uplink))
        // A packet that left by another uplink may have ended it since.
        && session.is_usable()
    {
        if network != 0 && tables.is_fast_path_on(tables.now_s()) {
            fast::learn(packet, tables, session, place);
        }
        let (source, destination) = (session.source_endpoint(), session.destination_endpoint());
        renumber(
            packet,
            tables,
            parsed,
            View::Inside,
            network,
            source.address,
        )?;
        return translate(packet, tables, parsed, session, &[source, destination]);
    }
    let origin = Origin {
        generation: generation(tables),
        uplink,
        network,
    };
    let snat = tables.snat(origin.generation, uplink, network, parsed.header.source);
    // A host without an address asks for one, whatever the source of a rule.
    let is_hosts = dhcp::asks_for_address(parsed) && packet.ingress_interface() == 0;
    let opened = match snat.filter(|snat| snat.mapping != mapping::NONE && !is_hosts) {
        Some(snat) => from_inside(packet, tables, work, origin, snat),
        None => from_host(packet, tables, work, origin),
    };
    outcome(opened)
}

/// Ends the session of a packet that a guest has opened and that now leaves by another uplink than
/// the one whose address it has, if that uplink has a rule for it: answers would not return to it.
/// netfilter does the same with masqueraded connections (`nf_nat_oif_changed`,
/// `net/netfilter/nf_nat_core.c`).
#[inline(never)]
fn ends_by_moving<A: Address, T: Tables<A>>(
    tables: &T,
    parsed: &Parsed<A>,
    network: u16,
    uplink: u16,
) -> bool {
    let key = parsed.key(View::Inside, network);
    let Some(session) = tables.session(&key) else {
        return false;
    };
    // A server answers from the address to which the request went, by any uplink.
    if network == 0 || !session.has(flags::PRIMARY) || !session.has(flags::FROM_INITIATOR) {
        return false;
    }
    let generation = generation(tables);
    let is_elsewhere = tables
        .external_address(generation, session.source)
        .is_some_and(|external| external.uplink != uplink);
    let is_translated_here = tables
        .snat(generation, uplink, network, key.source)
        .is_some_and(|snat| snat.mapping != mapping::NONE);
    is_elsewhere && is_translated_here && ending::end(tables, &key, session)
}

/// A packet from an inside source without a session opens one, or does not leave.
#[inline(never)]
fn from_inside<A: Family, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    work: &mut Work<A>,
    origin: Origin,
    snat: &Snat<A>,
) -> Opened {
    let parsed = &work.parsed;
    let destination = parsed.header.destination;
    if snat.has_excludes != 0 && tables.is_excluded(origin.generation, snat.rule, destination) {
        return Err(NotOpened::Passes);
    }
    if snat.first == A::UNSPECIFIED {
        return Err(DropReason::NoAddress.into());
    }
    parsed.check_ends()?;
    if !parsed.has_ports {
        return Err(DropReason::FragmentUnknown.into());
    }
    if !parsed.may_open() || !destination.is_unicast() {
        return Err(DropReason::NoSession.into());
    }
    open(packet, tables, work, origin, snat)
}

/// The outcome for a packet that leaves from an external address and is not a guest's: it is the
/// host's own, or other software on the host has translated it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
enum HostFlow {
    /// It leaves unchanged. If a forward or a guest could take its answers, the flow is recorded.
    Passes,
    /// It is a query. Its identifier is claimed, so no guest gets it towards that remote. If there
    /// is no room, it leaves unchanged.
    Asks,
    /// A guest's session has the same addresses and ports: the packet gets another port.
    Meets,
    /// The host had the chance to take it.
    TurnedBack,
}

/// Decides on a packet without a session and without a rule for its source.
#[inline(always)]
fn from_host<A: Family, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    work: &mut Work<A>,
    origin: Origin,
) -> Opened {
    let flow = host_flow(packet, tables, work, origin);
    match flow {
        HostFlow::Passes => return Err(NotOpened::Passes),
        HostFlow::TurnedBack => return Err(DropReason::Unsolicited.into()),
        HostFlow::Asks | HostFlow::Meets => {}
    }
    verifier_barrier(work);
    match open_elsewhere(packet, tables, work, origin) {
        Err(NotOpened::Dropped(reason))
            if flow == HostFlow::Asks && reason != DropReason::RewriteFailed =>
        {
            Err(NotOpened::Passes)
        }
        opened => opened,
    }
}

/// (A separate function, because the stack has no room for both.)
#[inline(never)]
fn host_flow<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    work: &mut Work<A>,
    origin: Origin,
) -> HostFlow {
    let parsed = &work.parsed;
    let is_own = packet.ingress_interface() == 0;
    if !is_own && is_turned_back(tables, parsed, origin.generation) {
        return HostFlow::TurnedBack;
    }
    if is_own && dhcp::asks_for_address(parsed) {
        note_asking(tables, work, origin.uplink);
        return HostFlow::Passes;
    }
    let source = parsed.header.source;
    // An address that the host holds is never a guest's: the kernel accepts no packet from it.
    let is_hosts = may_be_answered(parsed, is_own)
        && tables
            .external_address(origin.generation, source)
            .is_some_and(|external| is_own || external.is_host != 0);
    if !is_hosts {
        return HostFlow::Passes;
    }
    let is_to_group = is_to_group(packet, parsed);
    if let Transport::IcmpQuery { .. } = parsed.transport {
        // (Answers to a query to a group come from other addresses, for which there is no session.)
        return match is_to_group || origin.network != 0 {
            true => HostFlow::Passes,
            false => claimed(tables, parsed),
        };
    }
    if !opens_for_others(parsed, is_own) && !is_contested(tables, parsed, origin.generation) {
        return HostFlow::Passes;
    }
    let remote = match is_to_group {
        true => Endpoint::new(A::UNSPECIFIED, Port::ZERO),
        false => parsed.destination(),
    };
    note(tables, work, &remote)
}

/// The outcome for a query.
#[inline(always)]
fn claimed<A: Address, T: Tables<A>>(tables: &T, parsed: &Parsed<A>) -> HostFlow {
    let answer = parsed.key(View::Outside, 0).reversed();
    match tables.session(&answer) {
        Some(_) => HostFlow::Meets,
        None => HostFlow::Asks,
    }
}

/// Whether a DHCP server's packet for a client is on its way back out: the host does not hold the
/// address and had the chance to take the packet.
#[inline(always)]
fn is_turned_back<A: Address, T: Tables<A>>(
    tables: &T,
    parsed: &Parsed<A>,
    generation: u16,
) -> bool {
    dhcp::is_to_client(parsed)
        && tables
            .external_address(generation, parsed.header.destination)
            .is_some()
}

/// Whether a packet may open a flow that needs a record. A connection of the host itself has a
/// socket and needs none; a connection that other software translates has no socket.
#[inline(always)]
fn may_be_answered<A: Address>(parsed: &Parsed<A>, is_own: bool) -> bool {
    match parsed.transport {
        Transport::Tcp { flags } => {
            flags & tcp::RST == 0 && (!is_own || flags & (tcp::SYN | tcp::ACK) == tcp::SYN)
        }
        Transport::IcmpQuery { is_reply } => !is_reply,
        Transport::Udp | Transport::Opaque => true,
        Transport::IcmpError | Transport::IcmpOther | Transport::LaterFragment => false,
    }
}

/// Whether a packet goes to many hosts at once, any of which may answer. Only the frame reveals the
/// broadcast address of a subnet.
#[inline(always)]
fn is_to_group<A: Family, P: Packet>(packet: &P, parsed: &Parsed<A>) -> bool {
    const ETHERNET: usize = 14;
    let frame = parsed.l3.checked_sub(ETHERNET);
    let is_group_frame = frame
        .and_then(|frame| packet.read::<2>(frame))
        .is_some_and(|[first, _]| first & 1 != 0);
    is_group_frame || !parsed.header.destination.is_unicast()
}

/// Whether a packet may open a flow that other software on the host translates. Such a flow has no
/// socket: only a recorded session keeps guests from using its port towards that remote.
#[inline(always)]
fn opens_for_others<A: Address>(parsed: &Parsed<A>, is_own: bool) -> bool {
    let opens = match parsed.transport {
        Transport::Tcp { flags } => flags & (tcp::SYN | tcp::ACK) == tcp::SYN,
        _ => true,
    };
    opens && !is_own
}

/// Whether a guest or a forward could take the answers to a packet.
#[inline(always)]
fn is_contested<A: Address, T: Tables<A>>(tables: &T, parsed: &Parsed<A>, generation: u16) -> bool {
    let protocol = parsed.header.protocol;
    !matches!(protocol, TCP | UDP)
        || tables
            .forward(generation, protocol, parsed.source())
            .is_some()
        || tables
            .port(&PortKey::new(parsed.source(), protocol))
            .is_some()
}

/// Records the flow of a packet to `remote`.
#[inline(always)]
fn note<A: Address, T: Tables<A>>(
    tables: &T,
    work: &mut Work<A>,
    remote: &Endpoint<A>,
) -> HostFlow {
    let parsed = &work.parsed;
    let answer = SessionKey {
        source: remote.address,
        source_port: remote.port,
        ..parsed.key(View::Outside, 0).reversed()
    };
    if let Some(session) = tables.session(&answer) {
        if session.has(flags::HOST) && session.destination_endpoint() == parsed.source() {
            session.touch(tables.now_s());
            return HostFlow::Passes;
        }
        if !session.is_usable() {
            return HostFlow::Passes;
        }
        if !yields(parsed, session) {
            return match parsed.transport {
                Transport::Tcp { flags } if flags & tcp::SYN == 0 => HostFlow::Passes,
                _ => HostFlow::Meets,
            };
        }
        end_of_answers(tables, &answer, session);
    } else if is_known_by_socket(tables, parsed, remote) {
        return HostFlow::Passes;
    }
    open_host(tables, work, remote, 0);
    HostFlow::Passes
}

/// Whether the socket that has sent a packet shows that answers are the host's. If a forward would
/// take them, this does not hold for datagrams: a socket may be connected without having sent
/// anything.
#[inline(always)]
fn is_known_by_socket<A: Address, T: Tables<A>>(
    tables: &T,
    parsed: &Parsed<A>,
    remote: &Endpoint<A>,
) -> bool {
    let (protocol, local) = (parsed.header.protocol, parsed.source());
    let is_forwarded = || {
        tables
            .forward(generation(tables), protocol, local)
            .is_some()
    };
    tables.host_socket(protocol, *remote, local) == HostSocket::Connected
        && (protocol != UDP || !is_forwarded())
}

/// Records that the host asks for an address on an uplink.
#[inline(always)]
fn note_asking<A: Address, T: Tables<A>>(tables: &T, work: &mut Work<A>, uplink: u16) {
    match tables.session(&lease::answers(uplink)) {
        Some(session) => drop(session.touch(tables.now_s())),
        None => {
            let anybody = Endpoint::new(A::UNSPECIFIED, Port::ZERO);
            open_host(tables, work, &anybody, uplink);
        }
    }
}

/// Whether a guest's session yields to a flow of the host. Without ports, only one of them can have
/// the answers. A session that was opened from outside and that the guest has not answered may be
/// an answer for the host.
#[inline(always)]
fn yields<A: Address>(parsed: &Parsed<A>, session: &Session<A>) -> bool {
    let is_unanswered =
        session.has(flags::FROM_INITIATOR) && session.state.load() & tracking::REPLIED == 0;
    is_unanswered || !matches!(parsed.header.protocol, TCP | UDP)
}

/// Ends a guest's session, given by its entry for packets from outside.
#[inline(always)]
fn end_of_answers<A: Address, T: Tables<A>>(
    tables: &T,
    answer: &SessionKey<A>,
    session: &Session<A>,
) {
    let key = session.peer_key(answer.protocol);
    if let Some(primary) = tables.session(&key) {
        // (If a packet of the guest passes at the same moment, the host's next packet ends it.)
        ending::end(tables, &key, primary);
    }
}

/// Opens a session of the host itself with the packet's port, or with another one if that is taken.
#[inline(never)]
fn open_elsewhere<A: Family, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    work: &mut Work<A>,
    origin: Origin,
) -> Opened {
    let source = work.parsed.header.source;
    let snat = Snat {
        first: source,
        last: source,
        rule: NO_RULE,
        first_port: FIRST_HOST_PORT,
        last_port: u16::MAX,
        mapping: mapping::ADDRESS_AND_PORT_DEPENDENT,
        filtering: filtering::ADDRESS_AND_PORT_DEPENDENT,
        has_excludes: 0,
        by_destination: 0,
    };
    open(packet, tables, work, origin, &snat)
}

/// The first port or identifier to which a flow of the host may move.
const FIRST_HOST_PORT: u16 = 1024;

#[inline(always)]
fn open<A: Family, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    work: &mut Work<A>,
    origin: Origin,
    snat: &Snat<A>,
) -> Opened {
    let source = open_outbound(tables, work, origin, snat)?;
    let parsed = &work.parsed;
    let traffic = parsed.traffic(packet, false);
    renumber(
        packet,
        tables,
        parsed,
        View::Inside,
        origin.network,
        source.address,
    )?;
    rewrite(packet, parsed, source, parsed.destination())?;
    tables.count(work.opening.request.record.rule, traffic);
    Ok(())
}
