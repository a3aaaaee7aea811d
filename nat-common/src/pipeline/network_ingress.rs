//! Network, ingress and egress: packets between guests by an external address.
//!
//! The ingress hook rewrites the destination: the kernel then sees and routes a packet from a guest
//! to a guest. (It would drop one of the host's own addresses as a martian source.) The egress hook
//! rewrites the source address. Both ends see only external addresses. Between the hooks, the
//! initiator has its external port and the other guest its own port. Connection tracking therefore
//! sees answers as the reverse of the request, and the two directions differ even if a guest sends
//! to itself.

use crate::{
    drop_reason::DropReason,
    family::Family,
    headers::{
        offloads::is_sound,
        parsed::{Parsed, Transport, parse},
    },
    pipeline::{
        exit, fast,
        follow::follow_translated,
        fragment_ports::resolve_fragment,
        fragments::enter,
        icmp_errors,
        lookup::{find_of_guest, generation},
        owner::check_owner,
        place::{Place, receive_anew},
        policy,
    },
    session::{open_forward::forward_target, open_hairpin::open_hairpin},
    tables::{
        Tables,
        addresses::ExternalAddress,
        forwards::ForwardFlags,
        host::HostSocket,
        interfaces::{Interface, InterfaceFlags, role},
        origin::Origin,
        ports::PortKey,
        queued::QueuedPacket,
        sessions::{Session, SessionFlags, View},
        snats::{Snat, filtering, mapping},
    },
    translation::{Step, Translation, Verdict, apply},
    verifier::verifier_barrier,
    wire::{address::Endpoint, packet::Packet},
    work::{Work, opening::Server},
};

/// Decides on a packet that a guest has sent, and translates it.
#[inline(always)]
pub fn from_guest<A: Family, P: QueuedPacket, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    place: Place,
    work: &mut Work<A>,
) -> Verdict {
    let interface = tables
        .interface(place.interface)
        .filter(|interface| interface.role == role::NETWORK);
    match decide_from_guest(packet, tables, place, work, interface) {
        Ok(()) => {
            receive_anew(tables, place, &mut work.translation);
            apply(packet, tables, &work.parsed, &work.translation)
        }
        Err(Verdict::Untouched)
            if let Some(network) = interface
                && !work.parsed.is_between_neighbours() =>
        {
            verifier_barrier(work);
            untranslated(packet, tables, place, work, network)
        }
        Err(verdict) => verdict,
    }
}

/// Decides on a guest's packet that is not translated at this hook.
#[inline(always)]
fn untranslated<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    place: Place,
    work: &mut Work<A>,
    network: &Interface,
) -> Verdict {
    if let Some(reason) = exit::check(tables, &work.parsed, place.interface, network.number) {
        return Verdict::Dropped(reason);
    }
    if !policy::is_policed(Some(network)) {
        return Verdict::Untouched;
    }
    policy::police_from_guest(packet, tables, work, place.interface, network.number)
}

#[inline(always)]
fn decide_from_guest<A: Family, P: QueuedPacket, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    place: Place,
    work: &mut Work<A>,
    interface: Option<&Interface>,
) -> Step {
    let parsed = &mut work.parsed;
    parse(packet, place.l3, parsed)?;
    work.translation.begin(parsed);
    let network = interface.map_or(0, |interface| interface.number);
    if parsed.is_between_neighbours() {
        return Err(Verdict::Untouched);
    }
    if let Some(interface) = interface {
        check_guest(packet, tables, parsed, interface)?;
        if place.is_to_host
            && interface.flags.contains(InterfaceFlags::NO_BRIDGE)
            && let fast::Path::Done(verdict) =
                fast::fast_outbound_apart(packet, tables, parsed, interface, &mut work.redirect)
        {
            return Err(verdict);
        }
    }
    if parsed.is_fragment() {
        enter(packet, tables, parsed, View::Inside, network)?;
    }
    let generation = generation(tables);
    if A::stays_on_link(parsed.header.source, parsed.header.destination) {
        return Err(Verdict::Untouched);
    }
    let Some(external) = tables.external_address(generation, parsed.header.destination) else {
        return Err(Verdict::Untouched);
    };
    if parsed.transport == Transport::IcmpError {
        return icmp_errors::error_from_guest(packet, tables, work);
    }
    resolve_fragment(tables, parsed, View::Inside, network);
    if !parsed.has_ports {
        return Err(Verdict::Untouched);
    }
    if let Some((session, _)) = find_of_guest(tables, parsed, network) {
        if !session.has(SessionFlags::HAIRPIN) {
            return Err(Verdict::Untouched);
        }
        between(parsed, session, &mut work.translation);
        return follow_translated(tables, parsed, session, &work.translation);
    }
    if !parsed.may_open() || A::covers_addresses(parsed.header.protocol) {
        return Err(Verdict::Untouched);
    }
    work.opening.origin = Origin {
        generation,
        uplink: external.uplink,
        network,
    };
    if !find_server(tables, work) {
        return not_ours(external);
    }
    to_server(packet, tables, work, policy::is_policed(interface))
}

/// Gives a packet of a hairpinned session the endpoints that it has between its two hooks. In a
/// packet of the initiator, everything except the source address is translated there; in an answer,
/// only the destination address. Each is therefore the reverse of the other.
#[inline(always)]
fn between<A: Family>(parsed: &Parsed<A>, session: &Session<A>, translation: &mut Translation<A>) {
    translation.of_session(session);
    translation.source.address = parsed.header.source;
    if !session.has(SessionFlags::FROM_INITIATOR) {
        translation.source.port = parsed.source_port;
        translation.destination.port = parsed.destination_port;
    }
}

/// Opens a session with another guest.
#[inline(always)]
fn to_server<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    work: &mut Work<A>,
    is_policed: bool,
) -> Step {
    if is_policed {
        let server = &work.opening.server;
        let target = policy::Target {
            endpoint: server.endpoint,
            network: server.network,
            is_accepted: server.is_accepted,
        };
        let network = work.opening.origin.network;
        policy::check(packet, tables, work, network, &target)?;
    }
    work.parsed.check_ends()?;
    choose_snat(tables, work);
    open_hairpin(tables, work)?;
    let Work {
        parsed,
        opening,
        translation,
        ..
    } = work;
    translation.of_opened(&opening.request.record, true);
    // The egress hook finds the session and translates the source address.
    translation.source.address = parsed.header.source;
    translation.destination = opening.server.endpoint;
    translation.rule = opening.server.rule;
    Ok(())
}

/// Whether a guest may send from the packet's source address.
#[inline(always)]
fn check_guest<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    parsed: &Parsed<A>,
    interface: &Interface,
) -> Result<(), DropReason> {
    if !is_sound(parsed, packet.offload()) {
        return Err(DropReason::FalseOffload);
    }
    let source = parsed.header.source;
    // A guest that has no address yet asks for one. (In IPv6 it asks a group.)
    if source == A::UNSPECIFIED && !(A::HAS_NEIGHBOURS && parsed.header.destination.is_unicast()) {
        return Ok(());
    }
    parsed.check_source()?;
    if source == parsed.header.destination {
        return Err(DropReason::SameEndpoints);
    }
    // The kernel forwards nothing from such a source.
    if !interface.flags.contains(InterfaceFlags::ANTI_SPOOF) || A::stays_on_link(source, source) {
        return Ok(());
    }
    check_owner(packet, tables, parsed, interface)
}

/// A packet unknown to natbpf is the host's, if the host holds the address.
#[inline(always)]
fn not_ours(external: &ExternalAddress) -> Step {
    Err(if external.is_host != 0 {
        Verdict::Untouched
    } else {
        DropReason::Unsolicited.into()
    })
}

/// Finds the guest behind an external endpoint: of a forward rule, else of a mapping. Returns
/// whether there is one. No filter applies between guests, which are behind the same NAT (RFC 4787
/// REQ-9 requires only the translation).
#[inline(never)]
fn find_server<A: Family, T: Tables<A>>(tables: &T, work: &mut Work<A>) -> bool {
    let Work {
        parsed, opening, ..
    } = work;
    let protocol = parsed.header.protocol;
    let generation = opening.origin.generation;
    if let Some(forward) = tables.forward(generation, protocol, parsed.destination()) {
        opening.server = Server {
            endpoint: forward_target(parsed, forward),
            network: forward.network,
            rule: forward.rule,
            is_mapping: false,
            is_accepted: forward.flags.contains(ForwardFlags::ACCEPTED),
        };
        return forward.flags.contains(ForwardFlags::HAIRPIN);
    }
    if let Transport::IcmpQuery { .. } = parsed.transport {
        // A mapping accepts answers to queries, but no queries.
        return false;
    }
    let Some(owner) = tables.port(&PortKey::new(parsed.destination(), protocol)) else {
        return false;
    };
    opening.server = Server {
        endpoint: Endpoint::new(owner.address, owner.port),
        network: owner.network,
        rule: owner.rule,
        is_mapping: true,
        is_accepted: false,
    };
    // A service that the host has started on the port since then has precedence.
    let is_hosts = || {
        let (remote, local) = (parsed.source(), parsed.destination());
        tables.host_socket(protocol, remote, local) != HostSocket::None
    };
    owner.is_exclusive() && !is_hosts()
}

/// Chooses the rule that translates the client's source. If there is none, its source becomes the
/// address to which it sends; otherwise the server would answer past natbpf.
#[inline(never)]
fn choose_snat<A: Family, T: Tables<A>>(tables: &T, work: &mut Work<A>) {
    let Work {
        parsed, opening, ..
    } = work;
    let Origin {
        generation,
        uplink,
        network,
    } = opening.origin;
    let snat = tables.snat(generation, uplink, network, parsed.header.source);
    if let Some(snat) = snat
        && snat.mapping != mapping::NONE
        && { snat.first } != A::UNSPECIFIED
    {
        opening.snat = *snat;
        return;
    }
    let external = parsed.header.destination;
    opening.snat = Snat {
        first: external,
        last: external,
        rule: opening.server.rule,
        first_port: 1024,
        last_port: u16::MAX,
        mapping: mapping::ADDRESS_AND_PORT_DEPENDENT,
        filtering: filtering::ADDRESS_AND_PORT_DEPENDENT,
        has_excludes: 0,
        by_destination: 0,
    };
}
