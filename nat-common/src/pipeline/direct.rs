//! Packets from outside that are addressed directly to inside addresses.
//!
//! A translated guest is reached by an external address, or receives answers. A neighbour on the
//! uplink's link may not reach an inside prefix by routing it to this host, unless a `[[route]]`, a
//! policy or an excluded destination of the rule allows it.

use crate::{
    family::Family,
    headers::{
        parsed::{Parsed, Transport},
        quoted::quoted_addresses,
    },
    pipeline::lookup::{generation, network_of},
    tables::{Tables, interfaces::role, snats::mapping},
    wire::packet::Packet,
};

/// Whether a packet that came in by an uplink goes to an address that a rule hides from that
/// uplink.
#[inline(never)]
pub(crate) fn is_to_hidden<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    parsed: &Parsed<A>,
    interface: u32,
) -> bool {
    let destination = parsed.header.destination;
    let uplink = match tables.interface(interface) {
        Some(uplink) if uplink.role == role::UPLINK => uplink.number,
        _ => return false,
    };
    let Some(network) = network_behind(tables, parsed, interface) else {
        return false;
    };
    let generation = generation(tables);
    let snat = match tables.snat(generation, uplink, network, destination) {
        Some(snat) if snat.mapping != mapping::NONE => snat,
        _ => return false,
    };
    // Packets from guests leave there untranslated, so answers arrive untranslated.
    let is_answer = snat.has_excludes != 0
        && tables.is_excluded(generation, snat.rule, answered(packet, parsed));
    // A tunnel of the kernel (IPsec) ends at the uplink itself, where its packets arrive a second
    // time.
    !is_answer && !packet.was_decrypted()
}

/// The number of the network that a destination is in, 0 if only the prefix of a rule contains it;
/// `None` if it is not an inside address. Guests behind other guests have addresses that no prefix
/// contains.
#[inline(always)]
fn network_behind<A: Family, T: Tables<A>>(
    tables: &T,
    parsed: &Parsed<A>,
    interface: u32,
) -> Option<u16> {
    let header = &parsed.header;
    if !header.destination.is_unicast() {
        return None;
    }
    if let Some(inside) = tables.inside(generation(tables), header.destination) {
        return Some(inside.network);
    }
    if !header.destination.is_private() {
        return None;
    }
    let route = tables.route_lookup(interface, header.source, header.destination);
    Some(network_of(tables, route)).filter(|network| *network != 0)
}

/// The remote that a packet may answer: its source or, for an error, the destination of the quoted
/// packet.
#[inline(always)]
fn answered<A: Family, P: Packet>(packet: &P, parsed: &Parsed<A>) -> A {
    let source = parsed.header.source;
    match parsed.transport {
        Transport::IcmpError => {
            quoted_addresses(packet, parsed).map_or(source, |(_, destination)| destination)
        }
        _ => source,
    }
}
