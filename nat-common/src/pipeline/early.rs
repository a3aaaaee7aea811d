//! Uplink, XDP: the fast path of established datagrams.

use crate::{
    family::Family,
    headers::parsed::{Parsed, Transport, parse_plain},
    pipeline::{
        fast::{is_datagram, is_to, next_hop, send},
        place::Place,
    },
    tables::{
        Tables,
        interfaces::{Interface, InterfaceFlags, role},
        next_hops,
        sessions::{Touch, View},
    },
    translation::Verdict,
    wire::{checksum::fold, packet::Packet, protocol::UDP_CHECKSUM},
    work::Work,
};

/// Decides on a packet that has just come in by an uplink, before the kernel processes it (XDP).
///
/// TCP continues to the kernel, which merges segments: a large segment then costs as little as a
/// small one.
#[inline(always)]
pub fn early<A: Family, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    place: Place,
    work: &mut Work<A>,
    clock: impl Fn() -> u32,
) -> Verdict {
    // (Sessions know internal addresses, which a program behind this one puts in.)
    let is_ours = |uplink: &Interface| {
        uplink.role == role::UPLINK
            && is_to(packet, place.l3, uplink.mac)
            && !(A::HAS_PREFIX_RULES && uplink.flags.contains(InterfaceFlags::HAS_PREFIXES))
    };
    let Some(uplink) = tables.cached_interface(place.interface).filter(is_ours) else {
        return Verdict::Untouched;
    };
    let Some(parsed) = parse_plain(packet, place.l3) else {
        return Verdict::Untouched;
    };
    if !is_datagram(&parsed) {
        return Verdict::Untouched;
    }
    let Some(session) = tables.session(&parsed.key(View::Outside, 0)) else {
        return Verdict::Untouched;
    };
    let now_s = tables.now_s();
    let hop = next_hop(packet, tables, &parsed, session, now_s)
        .filter(|hop| hop.flags.contains(next_hops::NextHopFlags::TAKES_FRAMES))
        .filter(|_| is_finished(packet, &parsed, &uplink));
    let hop = hop
        .filter(|_| session.is_caught_up(&clock))
        .filter(|_| session.touch(now_s) == Touch::Again);
    let Some(hop) = hop else {
        session.pass_up(clock());
        return Verdict::Untouched;
    };
    hop.touch(now_s);
    send(packet, tables, &parsed, session, hop, &mut work.redirect)
}

/// The shortest datagram that can contain a packet with its own checksum, in bytes of payload.
const LEAST_TUNNELLED: usize = 28;

/// Whether the packet's checksums are final, including those of a packet inside.
///
/// An unfinished checksum contains the sum of the pseudo-header. XDP cannot recognise it in another
/// way; if a final checksum equals it by chance, the packet takes the slow path. The checksum of a
/// tunnel is computed for a finished inner checksum, so it is wrong until then. A datagram with a
/// correct checksum therefore has nothing unfinished inside.
#[inline(always)]
fn is_finished<A: Family, P: Packet>(packet: &P, parsed: &Parsed<A>, uplink: &Interface) -> bool {
    if parsed.transport != Transport::Udp {
        return true;
    }
    let Some(field) = packet.read::<2>(parsed.l4 + UDP_CHECKSUM) else {
        return false;
    };
    let len = (parsed.header.total_len - parsed.header.header_len) as u16;
    let pseudo = parsed.header.source.sum()
        + parsed.header.destination.sum()
        + u32::from(u16::from(parsed.header.protocol).to_be())
        + u32::from(len.to_be());
    let field = u16::from_ne_bytes(field);
    if field == fold(pseudo) {
        return false;
    }
    if !uplink.flags.contains(InterfaceFlags::MAY_BE_UNFINISHED)
        || usize::from(len) < parsed.transport_len + LEAST_TUNNELLED
    {
        return true;
    }
    field != 0
        && packet
            .sum(parsed.l4, parsed.end())
            .is_some_and(|sum| fold(u32::from(fold(sum)) + u32::from(fold(pseudo))) == u16::MAX)
}
