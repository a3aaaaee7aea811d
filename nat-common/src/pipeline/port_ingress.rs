//! Port of a network's bridge, ingress: the fast path of established sessions.

use crate::{
    family::Family,
    headers::parsed::parse_plain,
    pipeline::{
        fast::{Path, fast_outbound, is_to},
        place::Place,
    },
    tables::{Tables, interfaces::role},
    translation::Verdict,
    wire::packet::Packet,
    work::Work,
};

/// Decides on a packet at the port of a network's bridge, before the bridge sees it.
///
/// A packet that does not take the fast path passes unchanged: the hook of the bridge decides on
/// it.
#[inline(always)]
pub fn from_port<A: Family, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    place: Place,
    work: &mut Work<A>,
) -> Verdict {
    let Some(port) = tables.cached_interface(place.interface) else {
        return Verdict::Untouched;
    };
    if port.role != role::PORT || !is_to(packet, place.l3, port.mac) {
        return Verdict::Untouched;
    }
    let Some(parsed) = parse_plain(packet, place.l3) else {
        return Verdict::Untouched;
    };
    match fast_outbound(packet, tables, &parsed, &port, &mut work.redirect) {
        Path::Done(verdict) => verdict,
        Path::Slow | Path::NoSession => Verdict::Untouched,
    }
}
