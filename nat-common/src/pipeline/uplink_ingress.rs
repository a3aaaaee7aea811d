//! Uplink, ingress: packets from outside.

use crate::{
    drop_reason::DropReason,
    family::Family,
    headers::{
        dhcp,
        parsed::{Parsed, Transport, parse},
    },
    pipeline::{
        direct, fast,
        follow::follow_translated,
        fragment_ports::resolve_fragment,
        fragments::enter,
        icmp_errors,
        lookup::{find, generation},
        place::{Place, receive_anew},
        policy,
    },
    session::{
        open_forward::{forward_target, open_forward},
        open_mapping::open_to_mapping,
    },
    tables::{
        Tables,
        addresses::ExternalAddress,
        forwards::{Forward, ForwardFlags},
        host::HostSocket,
        permits::PermitKey,
        policies::side_of,
        ports::{PortKey, PortOwner},
        queued::QueuedPacket,
        sessions::{SessionKey, Touch, View},
        snats::filtering,
    },
    translation::{Step, Verdict, apply, mss},
    wire::{
        address::{Endpoint, Port},
        packet::Packet,
        protocol::TCP,
    },
    work::Work,
};

/// Decides on a packet that came in by an uplink, and translates it.
#[inline(always)]
pub fn inbound<A: Family, P: QueuedPacket, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    place: Place,
    work: &mut Work<A>,
) -> Verdict {
    let mut may_have_session = true;
    if place.is_to_host {
        match fast::fast_inbound(packet, tables, place.l3, &mut work.redirect) {
            fast::Path::Done(verdict) => return verdict,
            fast::Path::NoSession => may_have_session = false,
            fast::Path::Slow => {}
        }
    }
    match decide_inbound(packet, tables, place, work, may_have_session) {
        Ok(()) => {
            work.translation.mss = mss::limit(tables, &work.parsed, place.interface);
            receive_anew(tables, place, &mut work.translation);
            apply(packet, tables, &work.parsed, &work.translation)
        }
        Err(Verdict::Beyond) => beyond(packet, tables, work, place.interface),
        Err(verdict) => verdict,
    }
}

/// Decides on a packet to an address that is not external.
#[inline(always)]
fn beyond<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    work: &mut Work<A>,
    interface: u32,
) -> Verdict {
    match policy::police_from_outside(packet, tables, work, interface) {
        Verdict::Beyond if direct::is_to_hidden(packet, tables, &work.parsed, interface) => {
            DropReason::DirectToInside.into()
        }
        Verdict::Beyond => Verdict::Untouched,
        verdict => verdict,
    }
}

#[inline(always)]
fn decide_inbound<A: Family, P: QueuedPacket, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    place: Place,
    work: &mut Work<A>,
    may_have_session: bool,
) -> Step {
    let parsed = &mut work.parsed;
    parse(packet, place.l3, parsed)?;
    work.translation.begin(parsed);
    if parsed.transport == Transport::IcmpError {
        return icmp_errors::error_from_outside(packet, tables, work);
    }
    if parsed.is_between_neighbours() {
        return Err(Verdict::Untouched);
    }
    if A::stays_on_link(parsed.header.source, parsed.header.destination) {
        return Err(Verdict::Beyond);
    }
    if parsed.is_fragment() {
        enter(packet, tables, parsed, View::Outside, 0)?;
    }
    resolve_fragment(tables, parsed, View::Outside, 0);
    if may_have_session
        && parsed.has_ports
        && let Some(session) = find(tables, parsed, View::Outside, 0)
    {
        work.translation.of_session(session);
        return follow_translated(tables, parsed, session, &work.translation);
    }
    without_session(packet, tables, work, place.interface)?;
    let Work {
        opening,
        translation,
        ..
    } = work;
    translation.of_opened(&opening.request.record, true);
    Ok(())
}

/// Opens a session for a packet.
#[inline(never)]
fn without_session<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    work: &mut Work<A>,
    interface: u32,
) -> Step {
    let parsed = &work.parsed;
    if dhcp::is_to_client(parsed) {
        // (Servers may have private addresses.)
        return Err(Verdict::Beyond);
    }
    let generation = generation(tables);
    parsed.check_source()?;
    if tables.inside(generation, parsed.header.source).is_some() {
        return Err(DropReason::InternalSource.into());
    }
    let Some(external) = tables.external_address(generation, parsed.header.destination) else {
        return Err(Verdict::Beyond);
    };
    parsed.check_ends()?;
    if !parsed.has_ports {
        return not_ours(external, parsed.without_ports());
    }
    if !parsed.may_open() || A::covers_addresses(parsed.header.protocol) {
        return not_for_guests(tables, parsed, external);
    }
    let forward = tables.forward(generation, parsed.header.protocol, parsed.destination());
    if let Some(forward) = forward {
        return by_forward(packet, tables, work, forward, interface);
    }
    if let Transport::IcmpQuery { .. } = parsed.transport {
        // A mapping accepts answers to queries, but no queries.
        return not_ours(external, DropReason::Unsolicited);
    }
    let key = PortKey::new(parsed.destination(), parsed.header.protocol);
    match tables.port(&key) {
        Some(owner) if owner.is_exclusive() => by_mapping(packet, tables, work, owner, interface),
        Some(_) if host_socket(tables, parsed) == HostSocket::None => {
            Err(DropReason::Filtered.into())
        }
        _ => not_ours(external, DropReason::Unsolicited),
    }
}

/// A packet unknown to natbpf is the host's, if the host holds the address.
#[inline(always)]
fn not_ours(external: &ExternalAddress, reason: DropReason) -> Step {
    Err(if external.is_host != 0 {
        Verdict::Untouched
    } else {
        reason.into()
    })
}

/// A packet that cannot open a session: an answer, a reset, a later fragment. It is dropped if it
/// goes to a guest's port; otherwise it is the host's.
#[inline(always)]
fn not_for_guests<A: Family, T: Tables<A>>(
    tables: &T,
    parsed: &Parsed<A>,
    external: &ExternalAddress,
) -> Step {
    let key = PortKey::new(parsed.destination(), parsed.header.protocol);
    let is_guests = tables.port(&key).is_some();
    if is_guests && host_socket(tables, parsed) == HostSocket::None {
        return Err(DropReason::Filtered.into());
    }
    not_ours(external, DropReason::Unsolicited)
}

#[inline(always)]
fn host_socket<A: Family, T: Tables<A>>(tables: &T, parsed: &Parsed<A>) -> HostSocket {
    tables.host_socket(
        parsed.header.protocol,
        parsed.source(),
        parsed.destination(),
    )
}

#[inline(always)]
fn by_forward<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    work: &mut Work<A>,
    forward: &Forward<A>,
    interface: u32,
) -> Step {
    // The host's own connections have precedence, also from a port that a rule forwards. Flows of
    // its datagram sockets are recorded; a connected socket that has sent nothing may belong to any
    // user.
    if work.parsed.header.protocol == TCP
        && host_socket(tables, &work.parsed) == HostSocket::Connected
    {
        return Err(Verdict::Untouched);
    }
    if forward.flags.contains(ForwardFlags::WHOLE) && is_answer_to_group(tables, &work.parsed) {
        return Err(Verdict::Untouched);
    }
    let target = policy::Target {
        endpoint: forward_target(&work.parsed, forward),
        network: forward.network,
        is_accepted: forward.flags.contains(ForwardFlags::ACCEPTED),
    };
    check_policies(packet, tables, work, interface, &target)?;
    Ok(open_forward(tables, work, forward)?)
}

/// Whether the host has sent to a group from the packet's destination, so the packet may be an
/// answer.
#[inline(always)]
fn is_answer_to_group<A: Family, T: Tables<A>>(tables: &T, parsed: &Parsed<A>) -> bool {
    let from_anybody = SessionKey {
        source: A::UNSPECIFIED,
        source_port: Port::ZERO,
        ..parsed.key(View::Outside, 0)
    };
    tables
        .session(&from_anybody)
        .is_some_and(|session| session.touch(tables.now_s()) != Touch::Dead)
}

#[inline(always)]
fn by_mapping<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    work: &mut Work<A>,
    owner: &PortOwner<A>,
    interface: u32,
) -> Step {
    let parsed = &work.parsed;
    // A service that the host has started on the port since then has precedence over the guest's
    // mapping.
    if host_socket(tables, parsed) != HostSocket::None {
        return Err(Verdict::Untouched);
    }
    let protocol = parsed.header.protocol;
    let is_permitted = match owner.filtering {
        filtering::ENDPOINT_INDEPENDENT => true,
        filtering::ADDRESS_DEPENDENT => {
            let key = PermitKey::new(parsed.destination(), parsed.header.source, protocol);
            tables.permit(&key).is_some()
        }
        _ => false,
    };
    // A connection begins with SYN: any other segment belongs to a connection that has ended.
    let begins = match parsed.transport {
        Transport::Tcp { flags } => flags & crate::wire::tcp::SYN != 0,
        _ => true,
    };
    if !is_permitted || !begins {
        return Err(DropReason::Filtered.into());
    }
    let target = policy::Target {
        endpoint: Endpoint::new(owner.address, owner.port),
        network: owner.network,
        is_accepted: false,
    };
    check_policies(packet, tables, work, interface, &target)?;
    Ok(open_to_mapping(tables, work, owner)?)
}

/// Whether policies, if there are any, let a guest be reached by an uplink.
#[inline(always)]
fn check_policies<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    work: &mut Work<A>,
    interface: u32,
    target: &policy::Target<A>,
) -> Result<(), DropReason> {
    let uplink = tables.interface(interface);
    if !policy::is_policed(uplink) {
        return Ok(());
    }
    policy::check(packet, tables, work, side_of(uplink), target)
}
