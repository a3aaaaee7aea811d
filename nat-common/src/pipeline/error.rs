//! ICMP errors at the four hooks (RFC 5508 section 4).
//!
//! An error never opens, refreshes or ends a session (RFC 5508 REQ-6, RFC 5382 REQ-9).

use super::{Outcome, Place, Verdict, generation, network_of};
use crate::{
    address::{Address, Endpoint},
    counter::DropReason,
    icmp::{ErrorTranslation, Quoted, parse_quoted, rewrite_error, verify_checksum},
    packet::Packet,
    parse::Parsed,
    rule::mapping,
    session::{Session, View, flags},
    tables::Tables,
};

/// An error from outside about what a guest has sent.
#[inline(never)]
pub(super) fn inbound<A: Address, P: Packet, T: Tables<A>>(
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
    // An error goes to whom it quotes (RFC 1122 section 3.2.2).
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
        _ => Ok(Verdict::Untouched),
    }
}

/// An error from a guest, or from the host itself, about a packet from outside.
#[inline(never)]
pub(super) fn outbound<A: Address, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    error: &Parsed<A>,
    network: u16,
    uplink: u16,
) -> Outcome {
    let generation = generation(tables);
    let source = error.header.source;
    let is_host = packet.ingress_interface() == 0;
    let session = parse_quoted(packet, error).and_then(|quoted| {
        // The host's own errors come from no network: the quoted guest tells which it is.
        let network = match is_host {
            true => {
                tables
                    .inside(generation, quoted.destination.address)?
                    .network
            }
            false => network,
        };
        let session = tables.session(&quoted.answer_key(View::Inside, network))?;
        // An error goes to whom it quotes, and not out to a guest.
        let is_sound = error.header.destination == quoted.source.address;
        (is_sound && !session.has(flags::HAIRPIN)).then_some((quoted, session))
    });
    let Some((quoted, session)) = session else {
        // Without a session it must not show an inside address.
        return match tables.snat(generation, uplink, network, source) {
            Some(snat) if snat.mapping != mapping::NONE => Err(DropReason::NoSession),
            _ => Ok(Verdict::Untouched),
        };
    };
    if !is_host {
        verify_checksum(packet, error)?;
    }
    let is_inside =
        source == quoted.destination.address || tables.inside(generation, source).is_some();
    let to = ErrorTranslation {
        source: if is_inside { session.source } else { source },
        destination: session.destination,
        quoted_source: session.destination_endpoint(),
        quoted_destination: session.source_endpoint(),
    };
    deliver(packet, tables, error, &quoted, &to, session, false)
}

/// An error from a guest about a hairpinned packet: it quotes what that guest has seen. Its own
/// source is rewritten when it leaves again.
#[inline(never)]
pub(super) fn from_guest<A: Address, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    error: &Parsed<A>,
) -> Outcome {
    let generation = generation(tables);
    let quoted = parse_quoted(packet, error)
        .filter(|quoted| error.header.destination == quoted.source.address);
    let Some(quoted) = quoted else {
        return Ok(Verdict::Untouched);
    };
    let Some(inside) = tables.inside(generation, quoted.destination.address) else {
        return Ok(Verdict::Untouched);
    };
    let session = match tables.session(&quoted.answer_key(View::Inside, inside.network)) {
        Some(session) if session.has(flags::HAIRPIN) => session,
        _ => return Ok(Verdict::Untouched),
    };
    verify_checksum(packet, error)?;
    let to = ErrorTranslation {
        source: error.header.source,
        destination: session.destination,
        quoted_source: session.destination_endpoint(),
        quoted_destination: session.source_endpoint(),
    };
    let is_in = session.has(flags::IN);
    deliver(packet, tables, error, &quoted, &to, session, is_in)
}

/// An error about a hairpinned packet on its way to the packet's sender: from a guest, with the
/// quotation translated already, or from the host, which quotes what it saw in between.
#[inline(never)]
pub(super) fn to_guest<A: Address, P: Packet, T: Tables<A>>(
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
    let to = if network == 0 {
        let Some(session) = tables.session(&quoted.key(View::Between, sender_network)) else {
            return Ok(Verdict::Untouched);
        };
        let peer_key = session.peer_key(quoted.protocol);
        let Some(peer) = tables.session(&peer_key) else {
            return Ok(Verdict::Untouched);
        };
        // (The port of the sender was rewritten already.)
        translation(
            error.header.source,
            error,
            peer.destination_endpoint(),
            peer.source_endpoint(),
        )
    } else {
        match tables.session(&quoted.key(View::Inside, sender_network)) {
            Some(session) if session.has(flags::HAIRPIN) => {}
            _ => return Ok(Verdict::Untouched),
        }
        let external = quoted.destination.address;
        translation(external, error, quoted.source, quoted.destination)
    };
    rewrite_error(packet, error, &quoted, &to)?;
    Ok(Verdict::Translated)
}

#[inline(always)]
fn translation<A: Address>(
    source: A,
    error: &Parsed<A>,
    quoted_source: Endpoint<A>,
    quoted_destination: Endpoint<A>,
) -> ErrorTranslation<A> {
    ErrorTranslation {
        source,
        destination: error.header.destination,
        quoted_source,
        quoted_destination,
    }
}

#[inline(always)]
fn deliver<A: Address, P: Packet, T: Tables<A>>(
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
