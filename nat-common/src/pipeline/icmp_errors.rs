//! ICMP errors at the four hooks (RFC 5508 section 4).
//!
//! An error never opens, refreshes or ends a session (RFC 5508 REQ-6, RFC 5382 REQ-9).

use crate::{
    drop_reason::DropReason,
    family::Family,
    headers::{
        parsed::Parsed,
        quoted::{Quoted, read_quoted, verify_checksum},
    },
    pipeline::{
        lookup::{generation, home_of, network_of},
        place::Place,
    },
    tables::{
        Tables,
        inside::InsideFlags,
        sessions::{Session, SessionFlags, View},
        snats::mapping,
    },
    translation::{Step, Translation, Verdict, icmp_error::ErrorTranslation},
    verifier::read_here,
    wire::{address::Endpoint, packet::Packet},
    work::Work,
};

/// An error from outside about a guest's packet.
#[inline(never)]
pub(crate) fn error_from_outside<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    work: &mut Work<A>,
) -> Step {
    let Work {
        parsed: error,
        translation,
        ..
    } = work;
    if !read_quoted(packet, error, &mut translation.quoted) {
        return not_for_guests(tables, error);
    }
    let quoted = &translation.quoted;
    // The entry of answers to the quoted packet leads to the guest.
    let Some(session) = tables.session(&quoted.answer_key(View::Outside, 0)) else {
        return not_for_guests(tables, error);
    };
    if session.has(SessionFlags::HOST) && session.destination_endpoint() == quoted.source {
        return Err(Verdict::Untouched);
    }
    let source = error.header.source;
    error.check_source()?;
    if tables.inside(generation(tables), source).is_some() {
        return Err(DropReason::InternalSource.into());
    }
    // An error goes to the source of the quoted packet (RFC 1122 section 3.2.2).
    if error.header.destination != quoted.source.address {
        return not_for_guests(tables, error);
    }
    verify_checksum(packet, error)?;
    // The kernel would not forward one from a router's link-local address.
    let source = match A::stays_on_link(source, source) {
        true => error.header.destination,
        false => source,
    };
    deliver(translation, session, source, true);
    Ok(())
}

/// An error that belongs to no session is the host's, if it is sent to the host.
#[inline(always)]
fn not_for_guests<A: Family, T: Tables<A>>(tables: &T, error: &Parsed<A>) -> Step {
    Err(
        match tables.external_address(generation(tables), error.header.destination) {
            Some(external) if external.is_host == 0 => DropReason::Unsolicited.into(),
            Some(_) => Verdict::Untouched,
            None => Verdict::Beyond,
        },
    )
}

/// Reads the packet that an error quotes. Returns `false` if the error does not go to the source of
/// that packet, or quotes too little of it.
#[inline(always)]
fn read_own_quoted<A: Family, P: Packet>(
    packet: &P,
    error: &Parsed<A>,
    quoted: &mut Quoted<A>,
) -> bool {
    read_quoted(packet, error, quoted) && error.header.destination == quoted.source.address
}

/// An error about a packet from outside, from a guest, from a host behind a guest, or from the host
/// itself. It must not show an address that a rule hides, neither as its source nor in the
/// quotation.
#[inline(never)]
pub(crate) fn error_to_outside<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    work: &mut Work<A>,
    network: u16,
    uplink: u16,
) -> Step {
    let Work {
        parsed: error,
        translation,
        ..
    } = work;
    let is_host = packet.ingress_interface() == 0;
    let leaving = Leaving {
        generation: generation(tables),
        network,
        uplink,
    };
    // An error goes to the source of the quoted packet, and not out to a guest.
    let session = match read_own_quoted(packet, error, &mut translation.quoted) {
        true => session_of(tables, &translation.quoted, network, is_host),
        false => None,
    };
    let Some(session) = session else {
        return without_session(tables, error, &translation.quoted, leaving, is_host);
    };
    let quoted = &translation.quoted;
    if !is_host {
        check_sender(tables, error, quoted)?;
        verify_checksum(packet, error)?;
    }
    let source = error.header.source;
    // The NAT's own address, that of the session (RFC 5508 REQ-5). Routers on this side are visible
    // where nothing is translated, and the host's own address is not hidden.
    let is_shown = match is_host {
        true => tables.inside(leaving.generation, source).is_none(),
        false => {
            session.source == quoted.destination.address && !is_hidden(tables, leaving, source)
        }
    };
    let source = if is_shown { source } else { session.source };
    deliver(translation, session, source, false);
    Ok(())
}

/// Refuses errors of another guest about packets to a guest that is bound to its port or Ethernet
/// address: there is no router between the host and that guest.
#[inline(always)]
fn check_sender<A: Family, T: Tables<A>>(
    tables: &T,
    error: &Parsed<A>,
    quoted: &Quoted<A>,
) -> Result<(), DropReason> {
    const IS_DIRECT: InsideFlags = InsideFlags::ON_LINK.union(InsideFlags::HAS_MAC);
    let guest = quoted.destination.address;
    if error.header.source != guest
        && let Some(inside) = tables.inside(generation(tables), guest)
        && inside.flags.intersects(IS_DIRECT)
    {
        return Err(DropReason::NoSession);
    }
    Ok(())
}

/// Which rules apply to a packet that leaves by an uplink.
#[derive(Clone, Copy)]
struct Leaving {
    generation: u16,
    network: u16,
    uplink: u16,
}

/// Whether a rule hides an address from the outside.
#[inline(always)]
fn is_hidden<A: Family, T: Tables<A>>(tables: &T, leaving: Leaving, address: A) -> bool {
    tables
        .snat(leaving.generation, leaving.uplink, leaving.network, address)
        .is_some_and(|snat| snat.mapping != mapping::NONE)
}

/// The session of the packet from outside that an error is about.
#[inline(always)]
fn session_of<'t, A: Family, T: Tables<A>>(
    tables: &'t T,
    quoted: &Quoted<A>,
    network: u16,
    is_host: bool,
) -> Option<&'t Session<A>> {
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
    (!session.has(SessionFlags::HAIRPIN)).then_some(session)
}

/// An error about no session: it leaves if it shows no hidden address.
#[inline(always)]
fn without_session<A: Family, T: Tables<A>>(
    tables: &T,
    error: &Parsed<A>,
    quoted: &Quoted<A>,
    leaving: Leaving,
    is_host: bool,
) -> Step {
    let shows = match quoted.addresses() {
        Some((source, destination)) => {
            is_hidden(tables, leaving, source) || is_hidden(tables, leaving, destination)
        }
        None => !is_host,
    };
    if shows || is_hidden(tables, leaving, error.header.source) {
        return Err(DropReason::NoSession.into());
    }
    Err(Verdict::Untouched)
}

/// An error from a guest about a hairpinned packet: it quotes the packet as that guest saw it. The
/// rest is translated at the egress hook.
#[inline(never)]
pub(crate) fn error_from_guest<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    work: &mut Work<A>,
) -> Step {
    let Work {
        parsed: error,
        translation,
        ..
    } = work;
    if !read_own_quoted(packet, error, &mut translation.quoted) {
        return Err(Verdict::Untouched);
    }
    let quoted = &translation.quoted;
    let home = home_of(tables, &quoted.destination.address);
    let session = match tables.session(&quoted.answer_key(View::Inside, home)) {
        Some(session) if session.has(SessionFlags::HAIRPIN) => session,
        _ => return Err(Verdict::Untouched),
    };
    check_sender(tables, error, quoted)?;
    verify_checksum(packet, error)?;
    let to = &mut translation.error;
    // The quoted packet as it was between its two hooks.
    (to.quoted_source, to.quoted_destination) = match session.has(SessionFlags::FROM_INITIATOR) {
        true => (
            session.destination_endpoint(),
            Endpoint::new(quoted.destination.address, session.source_port),
        ),
        false => (
            Endpoint::new(session.destination, quoted.source.port),
            quoted.destination,
        ),
    };
    (to.source, to.destination) = (error.header.source, session.destination);
    translation.count(session.rule, session.has(SessionFlags::IN));
    Ok(())
}

/// An error about a hairpinned packet on its way to the packet's sender, from a guest or from the
/// host itself. It quotes the packet as it was between its two hooks.
#[inline(never)]
pub(crate) fn error_to_guest<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    work: &mut Work<A>,
    network: u16,
    place: Place,
) -> Step {
    let Work {
        parsed: error,
        translation,
        ..
    } = work;
    if !read_own_quoted(read_here(packet), error, &mut translation.quoted) {
        return Err(Verdict::Untouched);
    }
    let quoted = &translation.quoted;
    // The quoted packet's sender is in the network to which the error goes.
    let sender_network = network_of(tables, place.interface);
    let Some(session) = tables.session(&quoted.key(View::Between, sender_network)) else {
        return Err(Verdict::Untouched);
    };
    let Some(peer) = tables.session(&session.peer_key(quoted.protocol)) else {
        return Err(Verdict::Untouched);
    };
    translation.error = ErrorTranslation {
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
    Ok(())
}

/// Translates an error to the addresses of its session. It quotes a packet of the other direction.
#[inline(always)]
fn deliver<A: Family>(
    translation: &mut Translation<A>,
    session: &Session<A>,
    source: A,
    is_in: bool,
) {
    translation.error = ErrorTranslation {
        source,
        destination: session.destination,
        quoted_source: session.destination_endpoint(),
        quoted_destination: session.source_endpoint(),
    };
    translation.count(session.rule, is_in);
}
