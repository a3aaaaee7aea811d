//! ICMP errors at the four hooks (RFC 5508 section 4).
//!
//! An error never opens, refreshes or ends a session (RFC 5508 REQ-6, RFC 5382 REQ-9).

use crate::{
    drop_reason::DropReason,
    family::Family,
    headers::{
        parsed::Parsed,
        quoted::{Quoted, parse_quoted, quoted_addresses, verify_checksum},
    },
    pipeline::{
        lookup::{generation, home_of, network_of},
        verdict::{Outcome, Place, Verdict},
    },
    tables::{
        Tables,
        inside::inside_flags,
        sessions::{Session, View, flags},
        snats::mapping,
    },
    translation::icmp_error::{ErrorTranslation, rewrite_error},
    wire::{
        address::{Address, Endpoint},
        packet::Packet,
    },
};

/// An error from outside about a guest's packet.
#[inline(never)]
pub(crate) fn inbound<A: Family, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    error: &Parsed<A>,
) -> Outcome {
    let Some(quoted) = parse_quoted(packet, error) else {
        return not_for_guests(tables, error);
    };
    // The entry of answers to the quoted packet leads to the guest.
    let Some(session) = tables.session(&quoted.answer_key(View::Outside, 0)) else {
        return not_for_guests(tables, error);
    };
    if session.has(flags::HOST) && session.destination_endpoint() == quoted.source {
        return Ok(Verdict::Untouched);
    }
    let source = error.header.source;
    error.check_source()?;
    if tables.inside(generation(tables), source).is_some() {
        return Err(DropReason::InternalSource);
    }
    // An error goes to the source of the quoted packet (RFC 1122 section 3.2.2).
    if error.header.destination != quoted.source.address {
        return not_for_guests(tables, error);
    }
    verify_checksum(packet, error)?;
    let to = ErrorTranslation {
        source,
        destination: session.destination,
        quoted_source: session.destination_endpoint(),
        quoted_destination: session.source_endpoint(),
    };
    deliver(packet, tables, error, &quoted, &to, session, true)
}

/// An error that belongs to no session is the host's, if it is sent to the host.
#[inline(always)]
fn not_for_guests<A: Address, T: Tables<A>>(tables: &T, error: &Parsed<A>) -> Outcome {
    match tables.external_address(generation(tables), error.header.destination) {
        Some(external) if external.is_host == 0 => Err(DropReason::Unsolicited),
        Some(_) => Ok(Verdict::Untouched),
        None => Ok(Verdict::Beyond),
    }
}

/// An error about a packet from outside, from a guest, from a host behind a guest, or from the host
/// itself. It must not show an address that a rule hides, neither as its source nor in the
/// quotation.
#[inline(never)]
pub(crate) fn outbound<A: Family, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    error: &Parsed<A>,
    network: u16,
    uplink: u16,
) -> Outcome {
    let is_host = packet.ingress_interface() == 0;
    let way = Way {
        generation: generation(tables),
        network,
        uplink,
    };
    let Some((quoted, session)) = session_of(packet, tables, error, network, is_host) else {
        return without_session(packet, tables, error, way, is_host);
    };
    if !is_host {
        check_sender(tables, error, &quoted)?;
        verify_checksum(packet, error)?;
    }
    let source = error.header.source;
    // The NAT's own address, that of the session (RFC 5508 REQ-5). Routers on this side are visible
    // where nothing is translated, and the host's own address is not hidden.
    let is_shown = match is_host {
        true => tables.inside(way.generation, source).is_none(),
        false => session.source == quoted.destination.address && !is_hidden(tables, way, source),
    };
    let to = ErrorTranslation {
        source: if is_shown { source } else { session.source },
        destination: session.destination,
        quoted_source: session.destination_endpoint(),
        quoted_destination: session.source_endpoint(),
    };
    deliver(packet, tables, error, &quoted, &to, session, false)
}

/// Refuses errors of another guest about packets to a guest that is bound to its port or Ethernet
/// address: there is no router between the host and that guest.
#[inline(always)]
fn check_sender<A: Address, T: Tables<A>>(
    tables: &T,
    error: &Parsed<A>,
    quoted: &Quoted<A>,
) -> Result<(), DropReason> {
    const IS_DIRECT: u16 = inside_flags::ON_LINK | inside_flags::HAS_MAC;
    let guest = quoted.destination.address;
    if error.header.source != guest
        && let Some(inside) = tables.inside(generation(tables), guest)
        && inside.flags & IS_DIRECT != 0
    {
        return Err(DropReason::NoSession);
    }
    Ok(())
}

/// Which rules apply to a packet that leaves by an uplink.
#[derive(Clone, Copy)]
struct Way {
    generation: u16,
    network: u16,
    uplink: u16,
}

/// Whether a rule hides an address from the outside.
#[inline(always)]
fn is_hidden<A: Address, T: Tables<A>>(tables: &T, way: Way, address: A) -> bool {
    tables
        .snat(way.generation, way.uplink, way.network, address)
        .is_some_and(|snat| snat.mapping != mapping::NONE)
}

/// The packet from outside that an error is about, and its session.
#[inline(always)]
fn session_of<'t, A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &'t T,
    error: &Parsed<A>,
    network: u16,
    is_host: bool,
) -> Option<(Quoted<A>, &'t Session<A>)> {
    let quoted = parse_quoted(packet, error)?;
    // An error goes to the source of the quoted packet, and not out to a guest.
    if error.header.destination != quoted.source.address {
        return None;
    }
    let known = |network| tables.session(&quoted.answer_key(View::Inside, network));
    // The host's own errors come from no network: the quoted guest determines it. A router may use
    // another uplink than the guest.
    let session = match is_host {
        true => None,
        false => known(network),
    };
    let session = match session {
        Some(session) => session,
        None => known(home_of(tables, &quoted.destination.address))?,
    };
    (!session.has(flags::HAIRPIN)).then_some((quoted, session))
}

/// An error about no session: it leaves if it shows no hidden address.
#[inline(always)]
fn without_session<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    error: &Parsed<A>,
    way: Way,
    is_host: bool,
) -> Outcome {
    let shows = match quoted_addresses(packet, error) {
        Some((source, destination)) => {
            is_hidden(tables, way, source) || is_hidden(tables, way, destination)
        }
        None => !is_host,
    };
    if shows || is_hidden(tables, way, error.header.source) {
        return Err(DropReason::NoSession);
    }
    Ok(Verdict::Untouched)
}

/// An error from a guest about a hairpinned packet: it quotes the packet as that guest saw it. The
/// rest is rewritten at the egress hook.
#[inline(never)]
pub(crate) fn from_guest<A: Family, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    error: &Parsed<A>,
) -> Outcome {
    let quoted = parse_quoted(packet, error)
        .filter(|quoted| error.header.destination == quoted.source.address);
    let Some(quoted) = quoted else {
        return Ok(Verdict::Untouched);
    };
    let home = home_of(tables, &quoted.destination.address);
    let session = match tables.session(&quoted.answer_key(View::Inside, home)) {
        Some(session) if session.has(flags::HAIRPIN) => session,
        _ => return Ok(Verdict::Untouched),
    };
    check_sender(tables, error, &quoted)?;
    verify_checksum(packet, error)?;
    // The quoted packet as it was between its two hooks.
    let (quoted_source, quoted_destination) = match session.has(flags::FROM_INITIATOR) {
        true => (
            session.destination_endpoint(),
            Endpoint::new(quoted.destination.address, session.source_port),
        ),
        false => (
            Endpoint::new(session.destination, quoted.source.port),
            quoted.destination,
        ),
    };
    let to = ErrorTranslation {
        source: error.header.source,
        destination: session.destination,
        quoted_source,
        quoted_destination,
    };
    let is_in = session.has(flags::IN);
    deliver(packet, tables, error, &quoted, &to, session, is_in)
}

/// An error about a hairpinned packet on its way to the packet's sender, from a guest or from the
/// host itself. It quotes the packet as it was between its two hooks.
#[inline(never)]
pub(crate) fn to_guest<A: Family, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    error: &Parsed<A>,
    network: u16,
    place: Place,
) -> Outcome {
    let quoted = parse_quoted(packet, error)
        .filter(|quoted| error.header.destination == quoted.source.address);
    let Some(quoted) = quoted else {
        return Ok(Verdict::Untouched);
    };
    // The quoted packet's sender is in the network to which the error goes.
    let sender_network = network_of(tables, place.interface);
    let Some(session) = tables.session(&quoted.key(View::Between, sender_network)) else {
        return Ok(Verdict::Untouched);
    };
    let Some(peer) = tables.session(&session.peer_key(quoted.protocol)) else {
        return Ok(Verdict::Untouched);
    };
    let to = ErrorTranslation {
        // Any host behind the other guest may report the error. The sender sees it from the address
        // to which it sent.
        source: match network {
            0 => error.header.source,
            _ => peer.source,
        },
        destination: error.header.destination,
        quoted_source: peer.destination_endpoint(),
        quoted_destination: peer.source_endpoint(),
    };
    rewrite_error(packet, error, &quoted, &to)?;
    Ok(Verdict::Translated)
}

#[inline(always)]
fn deliver<A: Family, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    error: &Parsed<A>,
    quoted: &Quoted<A>,
    to: &ErrorTranslation<A>,
    session: &Session<A>,
    is_in: bool,
) -> Outcome {
    let traffic = error.traffic(packet, is_in);
    let rule = session.rule;
    rewrite_error(packet, error, quoted, to)?;
    tables.count(rule, traffic);
    Ok(Verdict::Translated)
}
