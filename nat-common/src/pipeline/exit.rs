//! Network, ingress, while an uplink is missing: packets that would leave by an interface that the
//! daemon has not checked yet.
//!
//! A recreated interface has no programs until the daemon has attached them, and the kernel may
//! send packets by it before that. The program sees at once that the former interface is gone.

use crate::{
    drop_reason::DropReason,
    family::Family,
    headers::parsed::Parsed,
    pipeline::lookup::generation,
    tables::{Tables, routes::target, snats::mapping, uplinks::UPLINKS},
};

/// Why a guest's packet must not go where the kernel would send it; `None` if it may.
#[inline(never)]
pub(crate) fn check<A: Family, T: Tables<A>>(
    tables: &T,
    parsed: &Parsed<A>,
    interface: u32,
    network: u16,
) -> Option<DropReason> {
    let away = uplink_away(tables);
    if away == 0 || !parsed.header.destination.is_unicast() {
        return None;
    }
    let (source, destination) = (parsed.header.source, parsed.header.destination);
    let route = tables.route_lookup(interface, source, destination);
    if matches!(route, target::HOST | target::NOWHERE | target::TUNNEL) || tables.is_exit(route) {
        return None;
    }
    let snat = tables.snat(generation(tables), away, network, source);
    let is_routed = snat.is_some_and(|snat| snat.mapping == mapping::NONE);
    (!is_routed).then_some(DropReason::UplinkAway)
}

/// The number of the first missing uplink, 0 if all exist.
#[inline(always)]
fn uplink_away<A: Family, T: Tables<A>>(tables: &T) -> u16 {
    let mut away = 0;
    tables.repeat(UPLINKS, |place| match tables.uplink(place) {
        Some(uplink) if uplink.number != 0 => {
            let is_there = uplink.index != 0 && tables.is_there(uplink.index);
            if !is_there {
                away = uplink.number;
            }
            is_there
        }
        _ => false,
    });
    away
}
