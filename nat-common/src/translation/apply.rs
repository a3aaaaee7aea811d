//! Writing a translation into a packet.

use crate::{
    drop_reason::DropReason,
    family::Family,
    headers::parsed::{Parsed, Transport},
    tables::Tables,
    translation::{
        icmp_error::rewrite_error, mss, rewrite::rewrite, value::Translation, verdict::Verdict,
    },
    wire::packet::Packet,
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
