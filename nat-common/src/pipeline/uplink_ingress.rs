//! Uplink, ingress: packets from outside.

use crate::{
    drop_reason::DropReason,
    family::Family,
    headers::{
        dhcp,
        parsed::{Parsed, Transport, parse},
    },
    pipeline::{
        direct,
        fast::{self, Inbound},
        follow::translate,
        fragment_ports::resolve_fragment,
        fragments::{Order, enter},
        icmp_errors,
        lookup::{find, generation},
        policy,
        verdict::{Decision, NotOpened, Opened, Outcome, Place, Verdict, outcome, rewritten},
    },
    session::{
        open_forward::{forward_target, open_forward},
        open_mapping::open_to_mapping,
    },
    tables::{
        Tables,
        addresses::ExternalAddress,
        forwards::{Forward, forward_flags},
        host::HostSocket,
        permits::PermitKey,
        policies::side_of,
        ports::{PortKey, PortOwner},
        queued::QueuedPacket,
        sessions::{SessionKey, Touch, View},
        snats::filtering,
    },
    translation::{mss, rewrite::rewrite},
    wire::{
        address::{Address, Endpoint, Port},
        packet::Packet,
        protocol::TCP,
    },
    work::Work,
};

/// Decides on a packet that came in by an uplink.
///
/// # Errors
///
/// Why the packet is dropped.
#[inline(always)]
pub fn inbound<A: Family, P: QueuedPacket, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    place: Place,
    work: &mut Work<A>,
) -> Outcome {
    let mut may_have_session = true;
    if place.is_to_host {
        match fast::inbound(packet, tables, place.l3, &mut work.redirect) {
            Inbound::Done(Decision::Dropped(reason)) => return Err(reason),
            Inbound::Done(_) => return Ok(Verdict::Forwarded),
            Inbound::NoSession => may_have_session = false,
            Inbound::Slow => {}
        }
    }
    let mut outcome = decide(packet, tables, place, work, may_have_session)?;
    if outcome == Verdict::Beyond {
        outcome = policy::inbound(packet, tables, work, place.interface)?;
    }
    if outcome == Verdict::Beyond {
        if direct::is_to_hidden(packet, tables, &work.parsed, place.interface) {
            return Err(DropReason::DirectToInside);
        }
        return Ok(Verdict::Untouched);
    }
    let is_rewritten = matches!(outcome, Verdict::Translated | Verdict::Opened);
    if !is_rewritten {
        return Ok(outcome);
    }
    if !mss::clamp(packet, tables, &work.parsed, place.interface) {
        return Err(DropReason::RewriteFailed);
    }
    Ok(rewritten(tables, place, outcome))
}

#[inline(always)]
fn decide<A: Family, P: QueuedPacket, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    place: Place,
    work: &mut Work<A>,
    may_have_session: bool,
) -> Outcome {
    let parsed = &mut work.parsed;
    parse(packet, place.l3, parsed)?;
    if parsed.transport == Transport::IcmpError {
        return icmp_errors::inbound(packet, tables, parsed);
    }
    if parsed.is_fragment() && enter(packet, tables, parsed, View::Outside, 0)? == Order::Queued {
        return Ok(Verdict::Kept);
    }
    resolve_fragment(tables, parsed, View::Outside, 0);
    if may_have_session
        && parsed.has_ports
        && let Some(session) = find(tables, parsed, View::Outside, 0)
    {
        let (source, destination) = (session.source_endpoint(), session.destination_endpoint());
        return translate(packet, tables, parsed, session, &[source, destination]);
    }
    outcome(without_session(packet, tables, work, place.interface))
}

/// Opens a session for a packet, and rewrites the packet.
#[inline(never)]
fn without_session<A: Family, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    work: &mut Work<A>,
    interface: u32,
) -> Opened {
    let parsed = &work.parsed;
    if dhcp::is_to_client(parsed) {
        // (Servers may have private addresses.)
        return Err(NotOpened::Beyond);
    }
    let generation = generation(tables);
    parsed.check_source()?;
    if tables.inside(generation, parsed.header.source).is_some() {
        return Err(DropReason::InternalSource.into());
    }
    let Some(external) = tables.external_address(generation, parsed.header.destination) else {
        return Err(NotOpened::Beyond);
    };
    parsed.check_ends()?;
    if !parsed.has_ports {
        return Err(not_ours(external, DropReason::FragmentUnknown));
    }
    if !parsed.may_open() {
        return Err(not_for_guests(tables, parsed, external));
    }
    let forward = tables.forward(generation, parsed.header.protocol, parsed.destination());
    if let Some(forward) = forward {
        return by_forward(packet, tables, work, forward, interface);
    }
    if let Transport::IcmpQuery { .. } = parsed.transport {
        // A mapping accepts answers to queries, but no queries.
        return Err(not_ours(external, DropReason::Unsolicited));
    }
    let key = PortKey::new(parsed.destination(), parsed.header.protocol);
    match tables.port(&key) {
        Some(owner) if owner.is_exclusive() => by_mapping(packet, tables, work, owner, interface),
        Some(_) if host_socket(tables, parsed) == HostSocket::None => {
            Err(DropReason::Filtered.into())
        }
        _ => Err(not_ours(external, DropReason::Unsolicited)),
    }
}

/// A packet unknown to natbpf is the host's, if the host holds the address.
#[inline(always)]
fn not_ours(external: &ExternalAddress, reason: DropReason) -> NotOpened {
    if external.is_host != 0 {
        NotOpened::Passes
    } else {
        NotOpened::Dropped(reason)
    }
}

/// A packet that cannot open a session: an answer, a reset, a later fragment. It is dropped if it
/// goes to a guest's port; otherwise it is the host's.
#[inline(always)]
fn not_for_guests<A: Address, T: Tables<A>>(
    tables: &T,
    parsed: &Parsed<A>,
    external: &ExternalAddress,
) -> NotOpened {
    let key = PortKey::new(parsed.destination(), parsed.header.protocol);
    let is_guests = tables.port(&key).is_some();
    if is_guests && host_socket(tables, parsed) == HostSocket::None {
        return NotOpened::Dropped(DropReason::Filtered);
    }
    not_ours(external, DropReason::Unsolicited)
}

#[inline(always)]
fn host_socket<A: Address, T: Tables<A>>(tables: &T, parsed: &Parsed<A>) -> HostSocket {
    tables.host_socket(
        parsed.header.protocol,
        parsed.source(),
        parsed.destination(),
    )
}

#[inline(always)]
fn by_forward<A: Family, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    work: &mut Work<A>,
    forward: &Forward<A>,
    interface: u32,
) -> Opened {
    // The host's own connections have precedence, also from a port that a rule forwards. Flows of
    // its datagram sockets are recorded; a connected socket that has sent nothing may belong to any
    // user.
    if work.parsed.header.protocol == TCP
        && host_socket(tables, &work.parsed) == HostSocket::Connected
    {
        return Err(NotOpened::Passes);
    }
    if forward.flags & forward_flags::WHOLE != 0 && is_answer_to_group(tables, &work.parsed) {
        return Err(NotOpened::Passes);
    }
    let target = policy::Target {
        endpoint: forward_target(&work.parsed, forward),
        network: forward.network,
        is_accepted: forward.flags & forward_flags::ACCEPTED != 0,
    };
    check_policies(packet, tables, work, interface, &target)?;
    open_forward(tables, work, forward)?;
    Ok(opened(packet, tables, work)?)
}

/// Whether the host has sent to a group from the packet's destination, so the packet may be an
/// answer.
#[inline(always)]
fn is_answer_to_group<A: Address, T: Tables<A>>(tables: &T, parsed: &Parsed<A>) -> bool {
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
    packet: &mut P,
    tables: &T,
    work: &mut Work<A>,
    owner: &PortOwner<A>,
    interface: u32,
) -> Opened {
    let parsed = &work.parsed;
    // A service that the host has started on the port since then has precedence over the guest's
    // mapping.
    if host_socket(tables, parsed) != HostSocket::None {
        return Err(NotOpened::Passes);
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
    open_to_mapping(tables, work, owner)?;
    Ok(opened(packet, tables, work)?)
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

/// Rewrites and counts the packet that opened a session. (Apart from opening it: the stack has no
/// room for both.)
#[inline(never)]
fn opened<A: Family, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    work: &Work<A>,
) -> Result<(), DropReason> {
    let parsed = &work.parsed;
    let (source, destination) = work.opening.ends();
    let traffic = parsed.traffic(packet, true);
    rewrite(packet, parsed, source, destination)?;
    tables.count(work.opening.request.record.rule, traffic);
    Ok(())
}
