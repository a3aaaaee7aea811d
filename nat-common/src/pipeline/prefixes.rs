//! Prefixes that become others, without sessions (NPTv6, RFC 6296).
//!
//! At uplinks this is in front of everything else that natbpf does at ingress, and behind it at
//! egress, so all the rest sees internal addresses alone. At networks it is in the same places, for
//! packets between guests by an external address.

use network_types::{icmp::Icmpv4Hdr, ip::Ipv6Hdr};

use crate::{
    drop_reason::DropReason,
    family::Family as _,
    headers::parsed::{Parsed, Transport, parse},
    pipeline::place::Place,
    tables::{
        counters::Counters,
        interfaces::{Interfaces, role},
        settings::CurrentSettings,
    },
    translation::{
        Verdict,
        prefix_table::{PrefixEntry, PrefixTable, side},
    },
    wire::{
        address::{Addr6, Address as _},
        packet::Packet,
    },
    work::Work,
};

/// Where an IPv6 header has its source and its destination.
const SOURCE: usize = 8;
const DESTINATION: usize = 24;

/// What these decisions need to know.
pub trait PrefixTables: Counters + CurrentSettings + Interfaces + PrefixTable {}

impl<T: Counters + CurrentSettings + Interfaces + PrefixTable> PrefixTables for T {}

/// Gives a packet to an external prefix its internal destination.
#[inline(always)]
pub fn from_prefix<P: Packet, T: PrefixTables>(
    packet: &mut P,
    tables: &T,
    place: Place,
    work: &mut Work<Addr6>,
) -> Verdict {
    let Some(at) = locate(packet, tables, place, work) else {
        return Verdict::Untouched;
    };
    let destination = work.parsed.header.destination;
    let Some(entry) = tables.prefix(at.generation, at.uplink, destination) else {
        return Verdict::Untouched;
    };
    match entry.side {
        side::EXTERNAL => {
            translate_quoted(packet, tables, &work.parsed, at, (SOURCE, entry.side));
            translate::<P, T, true>(packet, tables, &work.parsed, entry)
        }
        // (A tunnel of the kernel ends at the uplink itself, where its packets arrive again.)
        side::INTERNAL if at.uplink != 0 && !packet.was_decrypted() => {
            DropReason::DirectToInside.into()
        }
        _ => Verdict::Untouched,
    }
}

/// Gives a packet from an internal prefix its external source. An error about a packet to such a
/// prefix quotes it as its sender knows it, also if the error is the host's own.
#[inline(always)]
pub fn to_prefix<P: Packet, T: PrefixTables>(
    packet: &mut P,
    tables: &T,
    place: Place,
    work: &mut Work<Addr6>,
) -> Verdict {
    let Some(at) = locate(packet, tables, place, work) else {
        return Verdict::Untouched;
    };
    let quoted = (DESTINATION, side::INTERNAL);
    let is_changed = translate_quoted(packet, tables, &work.parsed, at, quoted).is_some();
    let source = work.parsed.header.source;
    match tables.prefix(at.generation, at.uplink, source) {
        Some(entry) if entry.side == side::INTERNAL => {
            translate::<P, T, false>(packet, tables, &work.parsed, entry)
        }
        _ if is_changed => Verdict::Translated,
        _ => Verdict::Untouched,
    }
}

/// In which part of the table the packet's addresses are looked up.
#[derive(Clone, Copy)]
struct Part {
    generation: u16,
    uplink: u16,
}

/// Reads the packet; `None` if it is none that leaves its link. (What is malformed, the other
/// programs drop.)
#[inline(always)]
fn locate<P: Packet, T: PrefixTables>(
    packet: &P,
    tables: &T,
    place: Place,
    work: &mut Work<Addr6>,
) -> Option<Part> {
    let parsed = &mut work.parsed;
    parse(packet, place.l3, parsed).ok()?;
    let header = &parsed.header;
    if parsed.is_between_neighbours()
        || !header.destination.is_unicast()
        || Addr6::stays_on_link(header.source, header.destination)
    {
        return None;
    }
    let interface = tables.interface(place.interface)?;
    Some(Part {
        generation: tables.settings()?.generation as u16,
        uplink: match interface.role {
            role::UPLINK => interface.number,
            _ => 0,
        },
    })
}

/// Replaces the prefix of one address. No checksum changes.
#[inline(always)]
fn translate<P: Packet, T: PrefixTables, const IS_IN: bool>(
    packet: &mut P,
    tables: &T,
    parsed: &Parsed<Addr6>,
    entry: &PrefixEntry,
) -> Verdict {
    let (place, old) = match IS_IN {
        true => (DESTINATION, parsed.header.destination),
        false => (SOURCE, parsed.header.source),
    };
    let Some(new) = entry.translation.apply(old) else {
        return DropReason::NoCounterpart.into();
    };
    tables.count(entry.rule, parsed.traffic(packet, IS_IN));
    match write(packet, parsed.l3 + place, new) {
        Some(()) => Verdict::Translated,
        None => DropReason::RewriteFailed.into(),
    }
}

/// The same in the packet that an ICMPv6 error quotes: for the address at this place in its header,
/// if it has a prefix of this side.
#[inline(always)]
fn translate_quoted<P: Packet, T: PrefixTables>(
    packet: &mut P,
    tables: &T,
    parsed: &Parsed<Addr6>,
    at: Part,
    (place, side): (usize, u32),
) -> Option<()> {
    let quotation = parsed.l4 + Icmpv4Hdr::LEN;
    if parsed.transport != Transport::IcmpError || quotation + Ipv6Hdr::LEN > parsed.end() {
        return None;
    }
    let place = quotation + place;
    let old = Addr6::of_halves([packet.read::<8>(place)?, packet.read::<8>(place + 8)?]);
    let entry = tables.prefix(at.generation, at.uplink, old)?;
    if entry.side != side {
        return None;
    }
    write(packet, place, entry.translation.apply(old)?)
}

#[inline(always)]
fn write<P: Packet>(packet: &mut P, place: usize, address: Addr6) -> Option<()> {
    let [upper, lower] = address.to_halves();
    packet.write(place, upper)?;
    packet.write(place + 8, lower)
}
