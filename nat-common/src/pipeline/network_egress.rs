//! Network, egress: packets between guests by an external address, on their way to the guest, and
//! where packets from outside go.

use crate::{
    family::Family,
    headers::parsed::{Transport, parse},
    pipeline::{
        fast,
        fragment_ports::{renumber, resolve_fragment},
        icmp_errors,
        lookup::home_of,
        place::Place,
        policy,
    },
    tables::{Tables, interfaces::role, sessions::View},
    translation::{Step, Verdict, apply},
    wire::packet::Packet,
    work::Work,
};

/// Decides on a packet that is about to leave to a guest, and translates it.
#[inline(always)]
pub fn to_guest<A: Family, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    place: Place,
    work: &mut Work<A>,
) -> Verdict {
    match decide_to_guest(packet, tables, place, work) {
        Ok(()) => apply(packet, tables, &work.parsed, &work.translation),
        Err(verdict) => verdict,
    }
}

#[inline(always)]
fn decide_to_guest<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    place: Place,
    work: &mut Work<A>,
) -> Step {
    let parsed = &mut work.parsed;
    let is_host = packet.ingress_interface() == 0;
    let (network, is_from_uplink) = match tables.interface(packet.ingress_interface()) {
        Some(interface) if interface.role == role::NETWORK => (interface.number, false),
        Some(interface) => (0, interface.role == role::UPLINK),
        None => (0, false),
    };
    if is_from_uplink {
        if tables.is_fast_path_on(tables.now_s()) {
            fast::learn_inbound(packet, tables, place);
        }
        return Err(Verdict::Untouched);
    }
    if network == 0 {
        return from_host_or_elsewhere(packet, tables, place, work, is_host);
    }
    parse(packet, place.l3, parsed)?;
    work.translation.begin(parsed);
    if parsed.transport == Transport::IcmpError {
        return icmp_errors::error_to_guest(packet, tables, work, network, place);
    }
    resolve_fragment(tables, parsed, View::Between, network);
    if !parsed.has_ports {
        return Err(Verdict::Untouched);
    }
    let session = match tables.session(&parsed.key(View::Between, network)) {
        Some(session) => Some(session),
        None => {
            let home = home_of(tables, &parsed.header.source);
            tables.session(&parsed.key(View::Between, home))
        }
    };
    let session = session.ok_or(Verdict::Untouched)?;
    // The ingress hook has followed and counted it.
    work.translation.source = session.source_endpoint();
    work.translation.destination = session.destination_endpoint();
    Ok(renumber(
        tables,
        parsed,
        View::Between,
        network,
        &mut work.translation,
    )?)
}

/// A packet that comes neither from a network nor from an uplink. A packet of the host itself may
/// be an error about a hairpinned packet.
#[inline(always)]
fn from_host_or_elsewhere<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    place: Place,
    work: &mut Work<A>,
    is_host: bool,
) -> Step {
    let interface = tables.interface(place.interface);
    let is_policed = policy::is_policed(interface);
    if !is_host && !is_policed {
        return Err(Verdict::Untouched);
    }
    parse(packet, place.l3, &mut work.parsed)?;
    work.translation.begin(&work.parsed);
    if is_host && work.parsed.transport == Transport::IcmpError {
        return icmp_errors::error_to_guest(packet, tables, work, 0, place);
    }
    if is_host && work.parsed.is_between_neighbours() {
        return Err(Verdict::Untouched);
    }
    Err(match interface {
        Some(interface) if is_policed => {
            policy::police_to_guest(packet, tables, work, interface.number)
        }
        _ => Verdict::Untouched,
    })
}
