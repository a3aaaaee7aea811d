//! Uplink, egress: packets that the kernel has routed to the outside.

use super::{
    Outcome, Place, Verdict, error, fast, find_of_guest, generation, network_of, renumber,
    resolve_fragment, translate,
};
use crate::{
    address::{Address, Port},
    counter::{DropReason, NO_RULE},
    mss,
    open::{Origin, open_outbound},
    packet::Packet,
    parse::{Parsed, Transport, parse},
    rewrite::rewrite,
    rule::{Snat, filtering, interface_flags, mapping, role},
    session::{View, flags},
    sweep,
    tables::Tables,
    tcp,
    work::Work,
};

/// Decides on a packet that is about to leave by an uplink.
///
/// # Errors
///
/// The reason why it is dropped.
#[inline(always)]
pub fn outbound<A: Address, P: Packet, T: Tables<A>>(
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
fn decide<A: Address, P: Packet, T: Tables<A>>(
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
        return error::outbound(packet, tables, parsed, network, uplink);
    }
    resolve_fragment(tables, parsed, View::Inside, network);
    if parsed.has_ports
        && let Some((session, home)) = find_of_guest(tables, parsed, network)
        && !(is_one_of_several && ends_by_moving(tables, parsed, home, uplink))
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
        return translate(packet, tables, parsed, session, source, destination);
    }
    let origin = Origin {
        generation: generation(tables),
        uplink,
        network,
    };
    let snat = tables.snat(origin.generation, uplink, network, parsed.header.source);
    match snat.filter(|snat| snat.mapping != mapping::NONE) {
        Some(snat) => from_inside(packet, tables, work, origin, snat),
        None if packet.ingress_interface() == 0 => from_host(packet, tables, work, origin),
        None => Ok(Verdict::Untouched),
    }
}

/// Ends the session of a packet that a guest has opened and that now leaves by another uplink than the
/// one whose address it has, if that uplink has a rule for it: from there answers would not come
/// back. netfilter does so with what is masqueraded (`nf_nat_oif_changed`,
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
    // Who was asked at an address answers from there, by whatever way.
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
    is_elsewhere
        && is_translated_here
        && (sweep::end(tables, &key, session) || !session.is_usable())
}

/// A packet from an inside source without a session: it opens one, or it does not leave.
#[inline(never)]
fn from_inside<A: Address, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    work: &mut Work<A>,
    origin: Origin,
    snat: &Snat<A>,
) -> Outcome {
    let parsed = &work.parsed;
    let destination = parsed.header.destination;
    if snat.has_excludes != 0 && tables.is_excluded(origin.generation, snat.rule, destination) {
        return Ok(Verdict::Untouched);
    }
    if snat.first == A::UNSPECIFIED {
        return Err(DropReason::NoAddress);
    }
    parsed.check_ends()?;
    if !parsed.has_ports {
        return Err(DropReason::FragmentUnknown);
    }
    if !parsed.may_open() || !destination.is_unicast() {
        return Err(DropReason::NoSession);
    }
    open(packet, tables, work, origin, snat)
}

/// A packet of the host's own. It goes out as it is, unless a guest's session has exactly these
/// addresses: then the host's gets another port. A query of the host's is noted, so that no guest
/// gets the same identifier towards that remote.
#[inline(never)]
fn from_host<A: Address, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    work: &mut Work<A>,
    origin: Origin,
) -> Outcome {
    let parsed = &work.parsed;
    let is_query = match parsed.transport {
        Transport::Tcp { flags } if flags & tcp::SYN == 0 => return Ok(Verdict::Untouched),
        Transport::Tcp { .. } | Transport::Udp => false,
        Transport::IcmpQuery { is_reply: false } => true,
        _ => return Ok(Verdict::Untouched),
    };
    let source = parsed.header.source;
    if tables.external_address(origin.generation, source).is_none() {
        return Ok(Verdict::Untouched);
    }
    let answer = parsed.key(View::Outside, 0).reversed();
    let is_taken = tables.session(&answer).is_some_and(|session| {
        // The answer to what a forward rule let in is the guest's too, but then this packet is
        // not from the host: only entries made for guests count.
        !session.has(flags::HOST)
    });
    if !is_taken && !is_query {
        return Ok(Verdict::Untouched);
    }
    let ports = if is_query {
        (Port::new(1), Port::new(u16::MAX))
    } else {
        HOST_PORTS
    };
    let snat = Snat {
        first: source,
        last: source,
        rule: NO_RULE,
        first_port: ports.0.number(),
        last_port: ports.1.number(),
        mapping: mapping::ADDRESS_AND_PORT_DEPENDENT,
        filtering: filtering::ADDRESS_AND_PORT_DEPENDENT,
        has_excludes: 0,
        by_destination: 0,
    };
    open(packet, tables, work, origin, &snat)
}

/// Ports that a connection of the host's may be moved to.
const HOST_PORTS: (Port, Port) = (Port::new(1024), Port::new(u16::MAX));

#[inline(always)]
fn open<A: Address, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    work: &mut Work<A>,
    origin: Origin,
    snat: &Snat<A>,
) -> Outcome {
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
    tables.count(snat.rule, traffic);
    Ok(Verdict::Opened)
}
