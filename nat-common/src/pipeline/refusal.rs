//! Which guest receives an ICMP error about its refused packet (RFC 1812 section 5.2.7.1).

use crate::{
    family::Family,
    headers::parsed::Parsed,
    tables::{
        Tables,
        interfaces::{Interface, role},
        refusals::RATE_LIMITERS,
    },
    wire::unreachable::{QUOTED_PAYLOAD, Recipient},
};

/// ICMP errors about refused packets that a guest receives per second (RFC 1812 section 4.3.2.8).
const PER_SECOND: u32 = 8;

/// The guest that receives an error about its packet: if there is a guest, the packet can be
/// quoted, and the guest's rate limit allows it. `interfaces` are the one by which the packet came
/// in and the current one.
#[inline(always)]
pub fn recipient<A: Family, T: Tables<A>>(
    tables: &T,
    parsed: &Parsed<A>,
    interfaces: [u32; 2],
) -> Option<Recipient<A>> {
    let header = &parsed.header;
    // Options would have to be quoted too; a later fragment has no ports to quote.
    if header.header_len != A::HEADER_LEN
        || header.fragment_offset != 0
        || header.total_len < A::HEADER_LEN + QUOTED_PAYLOAD
        || !header.destination.is_unicast()
    {
        return None;
    }
    let settings = tables.settings()?;
    let inside = tables.inside(settings.generation as u16, header.source)?;
    if { inside.gateway } == A::UNSPECIFIED {
        return None;
    }
    let is_its_network = |interface: &Interface| {
        interface.role == role::NETWORK && interface.number == inside.network
    };
    let [first, second] = interfaces;
    let interface = if tables.interface(first).is_some_and(is_its_network) {
        first
    } else if tables.interface(second).is_some_and(is_its_network) {
        second
    } else {
        return None;
    };
    is_due(tables, header.source).then_some(Recipient {
        gateway: inside.gateway,
        guest: header.source,
        interface,
    })
}

/// Whether a guest may receive an error now. The clock contains the second and, in its last eight
/// bits, the number of errors in that second.
#[inline(always)]
fn is_due<A: Family, T: Tables<A>>(tables: &T, guest: A) -> bool {
    let Some(clock) = tables.rate_limiter(guest.hash() % RATE_LIMITERS) else {
        return false;
    };
    let (before, second) = (clock.load(), tables.now_s() << 8);
    let next = if before & !0xff == second {
        before + 1
    } else {
        second + 1
    };
    next & 0xff <= PER_SECOND && clock.exchange_if(before, next) == before
}
