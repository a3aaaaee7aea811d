//! Writing a translation into a packet.

use crate::{
    drop_reason::DropReason,
    family::Family,
    headers::parsed::{Parsed, Transport},
    tables::{Tables, next_hops::NextHop},
    translation::{
        icmp_error::rewrite_error,
        mss,
        rewrite::{rewrite, rewrite_forwarded},
        value::Translation,
        verdict::Verdict,
    },
    wire::{address::Endpoint, packet::Packet},
};

/// Translates a packet, counts it, and returns its verdict.
#[inline(never)]
pub fn apply<A: Family, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    parsed: &Parsed<A>,
    translation: &Translation<A>,
) -> Verdict {
    let traffic = parsed.traffic(packet, translation.is_in);
    if let Err(reason) = write(packet, tables, parsed, translation) {
        return Verdict::Dropped(reason);
    }
    if translation.is_counted {
        tables.count(translation.rule, traffic);
    }
    translation.verdict
}

#[inline(always)]
fn write<A: Family, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    parsed: &Parsed<A>,
    translation: &Translation<A>,
) -> Result<(), DropReason> {
    if parsed.transport == Transport::IcmpError {
        return rewrite_error(packet, parsed, &translation.quoted, &translation.error);
    }
    if translation.id != parsed.header.id {
        A::write_id(packet, parsed.l3, translation.id).ok_or(DropReason::RewriteFailed)?;
    }
    rewrite(packet, parsed, translation.source, translation.destination)?;
    match translation.mss {
        0 => Ok(()),
        limit => mss::lower(packet, tables, parsed, limit).ok_or(DropReason::RewriteFailed),
    }
}

/// Length of the two addresses at the start of an Ethernet header in bytes.
const LINK_ADDRESSES: usize = 12;

/// Length of an Ethernet header in bytes.
const ETHERNET: usize = 14;

/// [`apply`] on the fast path: gives a packet these endpoints and the link-layer addresses of its
/// next hop, and takes one from its time to live.
#[inline(always)]
pub(crate) fn apply_forwarded<A: Family, P: Packet>(
    packet: &mut P,
    parsed: &Parsed<A>,
    source: Endpoint<A>,
    destination: Endpoint<A>,
    hop: &NextHop,
) -> Result<(), DropReason> {
    rewrite_forwarded(packet, parsed, source, destination)?;
    parsed
        .l3
        .checked_sub(ETHERNET)
        .and_then(|start| packet.write::<LINK_ADDRESSES>(start, link_addresses(hop)))
        .ok_or(DropReason::RewriteFailed)
}

#[inline(always)]
fn link_addresses(hop: &NextHop) -> [u8; LINK_ADDRESSES] {
    let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (hop.destination, hop.source);
    [a, b, c, d, e, f, g, h, i, j, k, l]
}
