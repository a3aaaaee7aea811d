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
        follow::follow_translated,
        fragment_ports::{renumber, resolve_fragment},
        icmp_errors,
        lookup::{find_of_guest, generation, network_of},
        place::Place,
    },
    session::{ending, lease, open_host::open_host, open_outbound::open_outbound, tracking},
    tables::{
        Tables,
        counters::NO_RULE,
        host::HostSocket,
        interfaces::{InterfaceFlags, role},
        origin::Origin,
        ports::PortKey,
        sessions::{Session, SessionFlags, SessionKey, View},
        snats::{Snat, filtering, mapping},
    },
    translation::{Step, Verdict, apply, mss},
    verifier::verifier_barrier,
    wire::{
        address::{Endpoint, Port},
        packet::Packet,
        protocol::{TCP, UDP},
        tcp,
    },
    work::Work,
};

/// Decides on a packet that is about to leave by an uplink, and translates it.
#[inline(always)]
pub fn outbound<A: Family, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    place: Place,
    work: &mut Work<A>,
) -> Verdict {
    match decide_outbound(packet, tables, place, work) {
        Ok(()) => apply(packet, tables, &work.parsed, &work.translation),
        Err(verdict) => verdict,
    }
}

#[inline(always)]
fn decide_outbound<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    place: Place,
    work: &mut Work<A>,
) -> Step {
    let parsed = &mut work.parsed;
    parse(packet, place.l3, parsed)?;
    work.translation.begin(parsed);
    let network = network_of(tables, packet.ingress_interface());
    let (uplink, is_one_of_several, has_prefixes) = match tables.interface(place.interface) {
        Some(interface) if interface.role == role::UPLINK => (
            interface.number,
            interface.flags.contains(InterfaceFlags::ONE_OF_SEVERAL),
            interface.flags.contains(InterfaceFlags::HAS_PREFIXES),
        ),
        _ => return Err(Verdict::Untouched),
    };
    if parsed.transport == Transport::IcmpError {
        return icmp_errors::error_to_outside(packet, tables, work, network, uplink);
    }
    let is_hosts = packet.ingress_interface() == 0;
    if (is_hosts && parsed.is_between_neighbours())
        || A::stays_on_link(parsed.header.source, parsed.header.destination)
    {
        return Err(Verdict::Untouched);
    }
    resolve_fragment(tables, parsed, View::Inside, network);
    if parsed.has_ports
        && let Some((session, home)) = find_of_guest(tables, parsed, network)
        && !(is_one_of_several && ends_by_moving(tables, parsed, home, uplink))
        // A packet that left by another uplink may have ended it since.
        && session.is_usable()
    {
        let is_as_inside = session.source == parsed.header.source;
        if network != 0 && !(has_prefixes && is_as_inside) && tables.is_fast_path_on(tables.now_s())
        {
            fast::learn(packet, tables, session, place);
        }
        work.translation.of_session(session);
        follow_translated(tables, parsed, session, &work.translation)?;
    } else {
        open_flow(packet, tables, work, uplink, network)?;
    }
    let Work {
        parsed,
        translation,
        ..
    } = work;
    translation.mss = mss::limit(tables, parsed, place.interface);
    Ok(renumber(
        tables,
        parsed,
        View::Inside,
        network,
        translation,
    )?)
}

/// Opens the flow of a packet that belongs to none.
#[inline(always)]
fn open_flow<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    work: &mut Work<A>,
    uplink: u16,
    network: u16,
) -> Step {
    let origin = Origin {
        generation: generation(tables),
        uplink,
        network,
    };
    work.opening.origin = origin;
    let parsed = &work.parsed;
    let snat = tables.snat(origin.generation, uplink, network, parsed.header.source);
    // A host without an address asks for one, whatever the source of a rule.
    let has_no_address = dhcp::asks_for_address(parsed) && packet.ingress_interface() == 0;
    match snat.filter(|snat| snat.mapping != mapping::NONE && !has_no_address) {
        Some(snat) => from_inside(tables, work, snat)?,
        None => from_host(packet, tables, work)?,
    }
    let Work {
        opening,
        translation,
        ..
    } = work;
    translation.of_opened(&opening.request.record, false);
    Ok(())
}

/// Ends the session of a packet that a guest has opened and that now leaves by another uplink than
/// the one whose address it has, if that uplink has a rule for it: answers would not return to it.
/// netfilter does the same with masqueraded connections (`nf_nat_oif_changed`,
/// `net/netfilter/nf_nat_core.c`).
#[inline(never)]
fn ends_by_moving<A: Family, T: Tables<A>>(
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
    if network == 0
        || !session.has(SessionFlags::PRIMARY)
        || !session.has(SessionFlags::FROM_INITIATOR)
    {
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
#[inline(always)]
fn from_inside<A: Family, T: Tables<A>>(tables: &T, work: &mut Work<A>, snat: &Snat<A>) -> Step {
    let Work {
        parsed, opening, ..
    } = work;
    let destination = parsed.header.destination;
    let generation = opening.origin.generation;
    if snat.has_excludes != 0 && tables.is_excluded(generation, snat.rule, destination) {
        return Err(Verdict::Untouched);
    }
    if { snat.first } == A::UNSPECIFIED {
        return Err(DropReason::NoAddress.into());
    }
    parsed.check_ends()?;
    if !parsed.has_ports {
        return Err(parsed.without_ports().into());
    }
    if !parsed.may_open()
        || !destination.is_unicast()
        || A::covers_addresses(parsed.header.protocol)
    {
        return Err(DropReason::NoSession.into());
    }
    opening.snat = *snat;
    Ok(open_outbound(tables, work)?)
}

/// The outcome for a packet that leaves from an external address and is not a guest's: it is the
/// host's own, or other software on the host has translated it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
enum HostFlow {
    /// It leaves unchanged.
    Passes,
    /// A forward or a guest could take its answers: the flow is recorded, and it leaves unchanged.
    Recorded,
    /// The same, and it replaces a guest's session.
    Replaces,
    /// The host asks for an address.
    AsksForAddress,
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
    packet: &P,
    tables: &T,
    work: &mut Work<A>,
) -> Step {
    let mut flow = host_flow(packet, tables, work);
    verifier_barrier(work);
    if flow == HostFlow::Recorded {
        flow = compare(tables, work);
        verifier_barrier(work);
    }
    match flow {
        HostFlow::TurnedBack => return Err(DropReason::Unsolicited.into()),
        HostFlow::Asks | HostFlow::Meets => {}
        HostFlow::AsksForAddress => {
            note_asking(tables, work);
            return Err(Verdict::Untouched);
        }
        HostFlow::Passes => return Err(Verdict::Untouched),
        HostFlow::Recorded | HostFlow::Replaces => {
            if flow == HostFlow::Replaces {
                end_of_answers(tables, work);
            }
            open_host(tables, work, 0);
            return Err(Verdict::Untouched);
        }
    }
    keep_address(work);
    match open_outbound(tables, work) {
        Err(_) if flow == HostFlow::Asks => Err(Verdict::Untouched),
        opened => Ok(opened?),
    }
}

/// (A separate function, because the stack has no room for both.)
#[inline(never)]
fn host_flow<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    work: &mut Work<A>,
) -> HostFlow {
    let Work {
        parsed, opening, ..
    } = work;
    let origin = opening.origin;
    let is_own = packet.ingress_interface() == 0;
    if !is_own && is_turned_back(tables, parsed, origin.generation) {
        return HostFlow::TurnedBack;
    }
    if is_own && dhcp::asks_for_address(parsed) {
        return HostFlow::AsksForAddress;
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
    if let Transport::IcmpQuery { .. } = parsed.transport {
        // (Answers to a query to a group come from other addresses, for which there is no session.)
        return match is_to_group(packet, parsed) || origin.network != 0 {
            true => HostFlow::Passes,
            false => claimed(tables, parsed),
        };
    }
    if !opens_for_others(parsed, is_own) && !is_contested(tables, parsed, origin.generation) {
        return HostFlow::Passes;
    }
    opening.remote = match is_to_group(packet, parsed) {
        true => Endpoint::new(A::UNSPECIFIED, Port::ZERO),
        false => parsed.destination(),
    };
    HostFlow::Recorded
}

/// The outcome for a query.
#[inline(always)]
fn claimed<A: Family, T: Tables<A>>(tables: &T, parsed: &Parsed<A>) -> HostFlow {
    let answer = parsed.key(View::Outside, 0).reversed();
    match tables.session(&answer) {
        Some(_) => HostFlow::Meets,
        None => HostFlow::Asks,
    }
}

/// Whether a DHCP server's packet for a client is on its way back out: the host does not hold the
/// address and had the chance to take the packet.
#[inline(always)]
fn is_turned_back<A: Family, T: Tables<A>>(
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
fn may_be_answered<A: Family>(parsed: &Parsed<A>, is_own: bool) -> bool {
    match parsed.transport {
        Transport::Tcp { flags } => {
            flags & tcp::RST == 0 && (!is_own || flags & (tcp::SYN | tcp::ACK) == tcp::SYN)
        }
        Transport::IcmpQuery { is_reply } => !is_reply,
        Transport::Udp | Transport::Opaque => true,
        Transport::IcmpError
        | Transport::IcmpOther
        | Transport::Neighbours
        | Transport::LaterFragment => false,
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
fn opens_for_others<A: Family>(parsed: &Parsed<A>, is_own: bool) -> bool {
    let opens = match parsed.transport {
        Transport::Tcp { flags } => flags & (tcp::SYN | tcp::ACK) == tcp::SYN,
        _ => true,
    };
    opens && !is_own
}

/// Whether a guest or a forward could take the answers to a packet.
#[inline(always)]
fn is_contested<A: Family, T: Tables<A>>(tables: &T, parsed: &Parsed<A>, generation: u16) -> bool {
    let protocol = parsed.header.protocol;
    !matches!(protocol, TCP | UDP)
        || tables
            .forward(generation, protocol, parsed.source())
            .is_some()
        || tables
            .port(&PortKey::new(parsed.source(), protocol))
            .is_some()
}

/// The key of the answers to a flow that is to be recorded.
#[inline(always)]
fn answers<A: Family>(work: &Work<A>) -> SessionKey<A> {
    SessionKey {
        source: work.opening.remote.address,
        source_port: work.opening.remote.port,
        ..work.parsed.key(View::Outside, 0).reversed()
    }
}

/// Compares a flow that is to be recorded with existing sessions and sockets.
#[inline(never)]
fn compare<A: Family, T: Tables<A>>(tables: &T, work: &Work<A>) -> HostFlow {
    let parsed = &work.parsed;
    let answer = answers(work);
    if let Some(session) = tables.session(&answer) {
        if session.has(SessionFlags::HOST) && session.destination_endpoint() == parsed.source() {
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
        return HostFlow::Replaces;
    }
    match is_known_by_socket(tables, parsed, &work.opening.remote) {
        true => HostFlow::Passes,
        false => HostFlow::Recorded,
    }
}

/// Whether the socket that has sent a packet shows that answers are the host's. If a forward would
/// take them, this does not hold for datagrams: a socket may be connected without having sent
/// anything.
#[inline(always)]
fn is_known_by_socket<A: Family, T: Tables<A>>(
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
fn note_asking<A: Family, T: Tables<A>>(tables: &T, work: &mut Work<A>) {
    let uplink = work.opening.origin.uplink;
    match tables.session(&lease::answers(uplink)) {
        Some(session) => drop(session.touch(tables.now_s())),
        None => {
            work.opening.remote = Endpoint::new(A::UNSPECIFIED, Port::ZERO);
            open_host(tables, work, uplink);
        }
    }
}

/// Whether a guest's session yields to a flow of the host. Without ports, only one of them can have
/// the answers. A session that was opened from outside and that the guest has not answered may be
/// an answer for the host.
#[inline(always)]
fn yields<A: Family>(parsed: &Parsed<A>, session: &Session<A>) -> bool {
    let is_unanswered =
        session.has(SessionFlags::FROM_INITIATOR) && session.state.load() & tracking::REPLIED == 0;
    is_unanswered || !matches!(parsed.header.protocol, TCP | UDP)
}

/// Ends the guest's session that would receive the answers to the host's packet.
#[inline(never)]
fn end_of_answers<A: Family, T: Tables<A>>(tables: &T, work: &Work<A>) {
    let Some(session) = tables.session(&answers(work)) else {
        return;
    };
    let key = session.peer_key(work.parsed.header.protocol);
    if let Some(primary) = tables.session(&key) {
        // (If a packet of the guest passes at the same moment, the host's next packet ends it.)
        ending::end(tables, &key, primary);
    }
}

/// Lets a session of the host itself keep its address, and its port if that is not taken.
#[inline(always)]
fn keep_address<A: Family>(work: &mut Work<A>) {
    let source = work.parsed.header.source;
    work.opening.snat = Snat {
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
}

/// The first port or identifier to which a flow of the host may move.
const FIRST_HOST_PORT: u16 = 1024;
