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
        follow::translate,
        fragment_ports::resolve_fragment,
        fragments::{Order, enter},
        icmp_errors,
        lookup::{find_of_guest, generation},
        owner::check_owner,
        policy,
        verdict::{Outcome, Place, Verdict, rewritten},
    },
    session::{
        open_forward::forward_target,
        open_hairpin::{Server, open_hairpin},
    },
    tables::{
        Tables,
        addresses::ExternalAddress,
        forwards::forward_flags,
        host::HostSocket,
        interfaces::{Interface, interface_flags, role},
        origin::Origin,
        ports::PortKey,
        queued::QueuedPacket,
        sessions::{Session, View, flags},
        snats::{Snat, filtering, mapping},
    },
    translation::rewrite::rewrite,
    verifier::verifier_barrier,
    wire::{
        address::{Address, Endpoint, Port},
        packet::Packet,
    },
    work::Work,
};

/// Decides on a packet that a guest has sent.
///
/// # Errors
///
/// Why the packet is dropped.
#[inline(always)]
pub fn from_guest<A: Family, P: QueuedPacket, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    place: Place,
    work: &mut Work<A>,
) -> Outcome {
    let interface = tables
        .interface(place.interface)
        .filter(|interface| interface.role == role::NETWORK);
    let network = interface.map_or(0, |interface| interface.number);
    let is_policed = policy::is_policed(interface);
    let verdict = decide(packet, tables, place, work, interface)?;
    if matches!(verdict, Verdict::Translated | Verdict::Opened) {
        return Ok(rewritten(tables, place, verdict));
    }
    if network == 0 || verdict != Verdict::Untouched {
        return Ok(verdict);
    }
    verifier_barrier(work);
    if let Some(reason) = exit::check(tables, &work.parsed, place.interface, network) {
        return Err(reason);
    }
    if !is_policed {
        return Ok(Verdict::Untouched);
    }
    policy::from_guest(packet, tables, work, place.interface, network)
}

#[inline(always)]
fn decide<A: Family, P: QueuedPacket, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    place: Place,
    work: &mut Work<A>,
    interface: Option<&Interface>,
) -> Outcome {
    let parsed = &mut work.parsed;
    parse(packet, place.l3, parsed)?;
    let generation = generation(tables);
    let (network, is_policed) = match interface {
        Some(interface) => {
            check_guest(packet, tables, parsed, interface)?;
            if place.is_to_host
                && interface.flags & interface_flags::NO_BRIDGE != 0
                && let Some(outcome) =
                    fast::outbound(packet, tables, parsed, interface, &mut work.redirect)
            {
                return outcome;
            }
            (interface.number, policy::is_policed(Some(interface)))
        }
        None => (0, false),
    };
    if parsed.is_fragment()
        && enter(packet, tables, parsed, View::Inside, network)? == Order::Queued
    {
        return Ok(Verdict::Kept);
    }
    let Some(external) = tables.external_address(generation, parsed.header.destination) else {
        return Ok(Verdict::Untouched);
    };
    if parsed.transport == Transport::IcmpError {
        return icmp_errors::from_guest(packet, tables, parsed);
    }
    resolve_fragment(tables, parsed, View::Inside, network);
    if !parsed.has_ports {
        return Ok(Verdict::Untouched);
    }
    if let Some((session, _)) = find_of_guest(tables, parsed, network) {
        if !session.has(flags::HAIRPIN) {
            return Ok(Verdict::Untouched);
        }
        let (source, destination) = between(parsed, session);
        return translate(packet, tables, parsed, session, &[source, destination]);
    }
    if !parsed.may_open() {
        return Ok(Verdict::Untouched);
    }
    let origin = Origin {
        generation,
        uplink: external.uplink,
        network,
    };
    match server(tables, parsed, origin) {
        Some(server) => {
            if is_policed {
                let target = policy::Target {
                    endpoint: server.endpoint,
                    network: server.network,
                    is_accepted: server.is_accepted,
                };
                policy::check(packet, tables, work, network, &target)?;
            }
            to_server(packet, tables, work, origin, &server)
        }
        None => not_ours(external),
    }
}

/// Both ends of a packet of a hairpinned session between its two hooks. In a packet of the
/// initiator, everything except the source address is rewritten there; in an answer, only the
/// destination address. Each is therefore the reverse of the other.
#[inline(always)]
fn between<A: Address>(parsed: &Parsed<A>, session: &Session<A>) -> (Endpoint<A>, Endpoint<A>) {
    let (source_port, destination_port) = match session.has(flags::FROM_INITIATOR) {
        true => (session.source_port, session.destination_port),
        false => (parsed.source_port, parsed.destination_port),
    };
    (
        Endpoint::new(parsed.header.source, source_port),
        Endpoint::new(session.destination, destination_port),
    )
}

/// Opens a session with another guest for the packet, and rewrites the packet.
#[inline(always)]
fn to_server<A: Family, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    work: &mut Work<A>,
    origin: Origin,
    server: &Server<A>,
) -> Outcome {
    if let Some(reason) = open(tables, work, origin, server) {
        return Err(reason);
    }
    let port = work.opening.request.record.source_port;
    opened(packet, tables, &work.parsed, server, port)
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
    // A guest that has no address yet asks for one.
    if source == A::UNSPECIFIED {
        return Ok(());
    }
    parsed.check_source()?;
    if source == parsed.header.destination {
        return Err(DropReason::SameEndpoints);
    }
    if interface.flags & interface_flags::ANTI_SPOOF == 0 {
        return Ok(());
    }
    check_owner(packet, tables, parsed, interface)
}

/// A packet unknown to natbpf is the host's, if the host holds the address.
#[inline(always)]
fn not_ours(external: &ExternalAddress) -> Outcome {
    if external.is_host != 0 {
        Ok(Verdict::Untouched)
    } else {
        Err(DropReason::Unsolicited)
    }
}

/// The guest behind an external endpoint: of a forward rule, else of a mapping. No filter applies
/// between guests, which are behind the same NAT (RFC 4787 REQ-9 requires only the translation).
#[inline(always)]
fn server<A: Address, T: Tables<A>>(
    tables: &T,
    parsed: &Parsed<A>,
    origin: Origin,
) -> Option<Server<A>> {
    let protocol = parsed.header.protocol;
    if let Some(forward) = tables.forward(origin.generation, protocol, parsed.destination()) {
        return (forward.flags & forward_flags::HAIRPIN != 0).then(|| Server {
            endpoint: forward_target(parsed, forward),
            network: forward.network,
            rule: forward.rule,
            is_mapping: false,
            is_accepted: forward.flags & forward_flags::ACCEPTED != 0,
        });
    }
    if let Transport::IcmpQuery { .. } = parsed.transport {
        // A mapping accepts answers to queries, but no queries.
        return None;
    }
    let owner = tables.port(&PortKey::new(parsed.destination(), protocol))?;
    // A service that the host has started on the port since then has precedence.
    let is_hosts = || {
        let (remote, local) = (parsed.source(), parsed.destination());
        tables.host_socket(protocol, remote, local) != HostSocket::None
    };
    (owner.is_exclusive() && !is_hosts()).then(|| Server {
        endpoint: Endpoint::new(owner.address, owner.port),
        network: owner.network,
        rule: owner.rule,
        is_mapping: true,
        is_accepted: false,
    })
}

/// Opens a session between guests, or returns why not.
#[inline(never)]
fn open<A: Address, T: Tables<A>>(
    tables: &T,
    work: &mut Work<A>,
    origin: Origin,
    server: &Server<A>,
) -> Option<DropReason> {
    if let Err(reason) = work.parsed.check_ends() {
        return Some(reason);
    }
    let source = work.parsed.header.source;
    let snat = tables.snat(origin.generation, origin.uplink, origin.network, source);
    match snat.filter(|snat| snat.mapping != mapping::NONE && snat.first != A::UNSPECIFIED) {
        Some(snat) => open_hairpin(tables, work, origin, snat, server).err(),
        None => {
            // No rule translates this guest. Its source becomes the address to which it sends;
            // otherwise the server would answer past natbpf.
            let external = work.parsed.header.destination;
            let snat = Snat {
                first: external,
                last: external,
                rule: server.rule,
                first_port: 1024,
                last_port: u16::MAX,
                mapping: mapping::ADDRESS_AND_PORT_DEPENDENT,
                filtering: filtering::ADDRESS_AND_PORT_DEPENDENT,
                has_excludes: 0,
                by_destination: 0,
            };
            open_hairpin(tables, work, origin, &snat, server).err()
        }
    }
}

/// Rewrites and counts the packet that opened a session between guests. (A separate function,
/// because the stack has no room for both steps.)
#[inline(never)]
fn opened<A: Family, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    parsed: &Parsed<A>,
    server: &Server<A>,
    source_port: Port,
) -> Outcome {
    let traffic = parsed.traffic(packet, true);
    let source = Endpoint::new(parsed.header.source, source_port);
    rewrite(packet, parsed, source, server.endpoint)?;
    tables.count(server.rule, traffic);
    Ok(Verdict::Opened)
}
