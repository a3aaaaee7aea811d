//! The fast path: a packet of an established session is sent straight to the port behind which the
//! other side sits, without bridge, routing and netfilter.
//!
//! A direction of a session takes it once the kernel itself has sent one of its packets: where to is
//! learned there ([`learn`]). What the kernel would do more to a packet than send it on (an error for
//! its sender, fragments, options, the end of a connection in its connection tracking) is left to the
//! kernel, and the packet as it came; so is one packet every [`REFRESH_S`](crate::session::REFRESH_S),
//! and all behind it until the kernel has sent one on again.

use super::{Decision, Outcome, Place, Verdict, follow_datagram, hairpin::check_owner};
use crate::{
    address::Address,
    checksum::fold,
    counter::DropReason,
    next_hop::{self, NextHop, NextHopKey},
    offload::segment_headers,
    packet::Packet,
    parse::{Parsed, Transport, parse_plain},
    rewrite::{UDP_CHECKSUM, rewrite_forwarded},
    rule::{Interface, interface_flags, role},
    session::{Session, Touch, View, flags},
    tables::Tables,
    tcp::{self, Phase},
    work::{Sent, Work},
};

/// Length of the two addresses at the start of an Ethernet header in bytes.
const LINK_ADDRESSES: usize = 12;
/// Length of an Ethernet header in bytes.
const ETHERNET: usize = 14;
/// The shortest Ethernet frame in bytes, without its checksum: shorter packets are padded.
const LEAST_FRAME: usize = 60;

/// Decides on a packet at the port of a network's bridge, before the bridge sees it.
///
/// What does not take the fast path goes on untouched, whatever it is: the hook of the bridge judges.
#[inline(always)]
pub fn from_port<A: Address, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    place: Place,
    work: &mut Work<A>,
) -> Decision {
    let Some(port) = tables.near_interface(place.interface) else {
        return Decision::GoesOn;
    };
    if port.role != role::PORT || !is_to(packet, place.l3, port.mac) {
        return Decision::GoesOn;
    }
    let Some(parsed) = parse_plain(packet, place.l3) else {
        return Decision::GoesOn;
    };
    match outbound(packet, tables, &parsed, &port, &mut work.sent) {
        Some(result) => result.into(),
        None => Decision::GoesOn,
    }
}

/// Decides on a packet that has just come in by an uplink, before the kernel has made anything of it
/// (XDP).
///
/// TCP is left to the kernel, which puts segments together: a large one costs as little as a small
/// one from there on.
#[inline(always)]
pub fn early<A: Address, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    place: Place,
    work: &mut Work<A>,
    clock: impl Fn() -> u32,
) -> Decision {
    let is_ours =
        |uplink: &Interface| uplink.role == role::UPLINK && is_to(packet, place.l3, uplink.mac);
    let Some(uplink) = tables.near_interface(place.interface).filter(is_ours) else {
        return Decision::GoesOn;
    };
    let Some(parsed) = parse_plain(packet, place.l3) else {
        return Decision::GoesOn;
    };
    if !is_datagram(&parsed) {
        return Decision::GoesOn;
    }
    let Some(session) = tables.session(&parsed.key(View::Outside, 0)) else {
        return Decision::GoesOn;
    };
    let now_s = tables.now_s();
    let hop = next_hop(packet, tables, &parsed, session, now_s)
        .filter(|hop| hop.flags & next_hop::flags::TAKES_FRAMES != 0)
        .filter(|_| is_finished(packet, &parsed, &uplink));
    let hop = hop
        .filter(|_| session.is_caught_up(&clock))
        .filter(|_| session.touch(now_s) == Touch::Again);
    let Some(hop) = hop else {
        session.pass_up(clock());
        return Decision::GoesOn;
    };
    hop.touch(now_s);
    send(packet, tables, &parsed, session, hop, &mut work.sent).into()
}

/// Whether XDP takes packets of this kind: of these alone it can be seen whether their checksum is
/// finished.
#[inline(always)]
fn is_datagram<A>(parsed: &Parsed<A>) -> bool {
    matches!(
        parsed.transport,
        Transport::Udp | Transport::IcmpQuery { .. }
    )
}

/// The shortest datagram that holds a packet with a checksum of its own, in bytes of its payload.
const LEAST_TUNNELLED: usize = 28;

/// Whether the packet's checksums are the final ones, also of a packet inside.
///
/// A checksum that is still to be finished holds the sum of the pseudo-header, which XDP has no other way
/// to know; a final one that is equal by chance costs that packet the fast path. The checksum of a tunnel
/// is the right one for when the one inside is finished. So it is wrong until then, and only a datagram
/// whose checksum is right has nothing unfinished inside.
#[inline(always)]
fn is_finished<A: Address, P: Packet>(packet: &P, parsed: &Parsed<A>, uplink: &Interface) -> bool {
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
    if uplink.flags & interface_flags::MAY_BE_UNFINISHED == 0
        || usize::from(len) < parsed.transport_len + LEAST_TUNNELLED
    {
        return true;
    }
    field != 0
        && packet
            .sum(parsed.l4, parsed.end())
            .is_some_and(|sum| fold(u32::from(fold(sum)) + u32::from(fold(pseudo))) == u16::MAX)
}

/// Sends a guest's packet to the outside if its session has the fast path.
#[inline(always)]
pub(super) fn outbound<A: Address, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    parsed: &Parsed<A>,
    interface: &Interface,
    sent: &mut Sent,
) -> Option<Outcome> {
    if !parsed.has_ports {
        return None;
    }
    let session = tables.session(&parsed.key(View::Inside, interface.number))?;
    if session.has(flags::HAIRPIN) {
        return None;
    }
    if interface.flags & interface_flags::ANTI_SPOOF != 0 {
        check_owner(packet, tables, parsed, interface).ok()?;
    }
    forward(packet, tables, parsed, session, sent)
}

/// What has become of a packet from outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Inbound {
    /// It has taken the fast path, or was dropped on it.
    Done(Decision),
    /// It takes the slow path, as it came.
    Slow,
    /// The same, and it belongs to no session.
    NoSession,
}

/// Sends a packet from outside to its guest if its session has the fast path. (Apart from what else is done at this hook: the stack has no room for both.)
#[inline(never)]
pub(super) fn inbound<A: Address, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    l3: usize,
    sent: &mut Sent,
) -> Inbound {
    let Some(parsed) = parse_plain(packet, l3) else {
        return Inbound::Slow;
    };
    let Some(session) = tables.session(&parsed.key(View::Outside, 0)) else {
        return Inbound::NoSession;
    };
    if is_datagram(&parsed) {
        session.arrive(|| parsed.traffic(packet, true).packets as u32);
    }
    match forward(packet, tables, &parsed, session, sent) {
        Some(outcome) => Inbound::Done(outcome.into()),
        None => Inbound::Slow,
    }
}

#[inline(always)]
fn forward<A: Address, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    parsed: &Parsed<A>,
    session: &Session<A>,
    sent: &mut Sent,
) -> Option<Outcome> {
    let now_s = tables.now_s();
    let hop = next_hop(packet, tables, parsed, session, now_s)?;
    if session.touch(now_s) != Touch::Again {
        return None;
    }
    hop.touch(now_s);
    Some(send(packet, tables, parsed, session, hop, sent))
}

/// Whether a frame's destination is this link-layer address.
#[inline(always)]
fn is_to<P: Packet>(packet: &P, l3: usize, mac: [u8; 6]) -> bool {
    l3.checked_sub(ETHERNET)
        .and_then(|start| packet.read::<6>(start))
        == Some(mac)
}

/// The next hop of a packet that the kernel would do no more to than send it on.
#[inline(always)]
fn next_hop<'t, A: Address, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &'t T,
    parsed: &Parsed<A>,
    session: &Session<A>,
    now_s: u32,
) -> Option<&'t NextHop> {
    let hop = tables.next_hop(session.next_hop.load())?;
    let header = &parsed.header;
    let is_plain = header.ttl > 1
        && header.header_len == A::HEADER_LEN
        && !parsed.is_fragment()
        && is_flowing(parsed, session);
    (is_plain && fits(packet, parsed, hop.mtu) && tables.is_fast_path_on(now_s)).then_some(hop)
}

/// Whether a packet neither opens nor closes anything. Connection tracking is to see how
/// connections begin and end, or its table would fill.
#[inline(always)]
fn is_flowing<A: Address>(parsed: &Parsed<A>, session: &Session<A>) -> bool {
    match parsed.transport {
        Transport::Tcp { flags } => {
            let state = session.state.load();
            let own_fin = match session.has(flags::FROM_INITIATOR) {
                true => tcp::INITIATOR_FIN,
                false => tcp::RESPONDER_FIN,
            };
            flags & (tcp::SYN | tcp::FIN | tcp::RST) == 0
                && tcp::phase(state) == Phase::Established
                && (state & own_fin == 0 || !parsed.has_data())
        }
        Transport::Udp | Transport::IcmpQuery { .. } | Transport::Opaque => true,
        Transport::IcmpError | Transport::IcmpOther | Transport::LaterFragment => false,
    }
}

/// Whether each frame that the packet becomes is at most `mtu` bytes long, and the packet ends with
/// its frame or is padded to the shortest one. (The kernel cuts off what follows a packet.)
#[inline(always)]
fn fits<A: Address, P: Packet>(packet: &P, parsed: &Parsed<A>, mtu: u32) -> bool {
    let segment_len = packet.frames().segment_len as usize;
    if segment_len != 0 {
        return segment_headers(packet, parsed)
            .is_some_and(|headers| headers + segment_len <= mtu as usize);
    }
    let len = packet.len();
    (len == parsed.end() || len <= LEAST_FRAME) && parsed.header.total_len <= mtu as usize
}

/// Does a router's work on a packet, and that of the translation.
#[inline(always)]
fn send<A: Address, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    parsed: &Parsed<A>,
    session: &Session<A>,
    hop: &NextHop,
    sent: &mut Sent,
) -> Outcome {
    match parsed.transport {
        // It changes no more about its connection.
        Transport::Tcp { .. } => session.acknowledge(parsed.acknowledged),
        _ => follow_datagram(tables, parsed, session),
    }
    let traffic = parsed.traffic(packet, session.has(flags::IN));
    let (source, destination) = (session.source_endpoint(), session.destination_endpoint());
    rewrite_forwarded(packet, parsed, source, destination)?;
    parsed
        .l3
        .checked_sub(ETHERNET)
        .and_then(|start| packet.write::<LINK_ADDRESSES>(start, link_addresses(hop)))
        .ok_or(DropReason::RewriteFailed)?;
    tables.count(session.rule, traffic);
    *sent = Sent {
        port: hop.port,
        flags: u32::from(hop.flags),
    };
    Ok(Verdict::Forwarded)
}

#[inline(always)]
fn link_addresses(hop: &NextHop) -> [u8; LINK_ADDRESSES] {
    let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (hop.destination, hop.source);
    [a, b, c, d, e, f, g, h, i, j, k, l]
}

/// Notes where the kernel sends a packet of the session that it is about to hand to `place`.
#[inline(always)]
pub(super) fn learn<A: Address, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    session: &Session<A>,
    place: Place,
) {
    let start = place.l3.checked_sub(ETHERNET);
    let Some(destination) = start.and_then(|start| packet.read::<6>(start)) else {
        return;
    };
    let tag = match tables.is_rule_fast(session.rule) {
        true => tables.next_hop_tag(&NextHopKey::new(place.interface, destination)),
        false => next_hop::NONE,
    };
    if session.next_hop.load() != tag {
        session.next_hop.store(tag);
    }
}

/// Notes where the kernel sends a packet from outside that it is about to hand to a guest's network.
#[inline(never)]
pub(super) fn learn_inbound<A: Address, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    network: u16,
    place: Place,
) {
    let Some(parsed) = parse_plain(packet, place.l3) else {
        return;
    };
    // The entry of the answers is the one that is known here, and it names the other.
    let answer = tables.session(&parsed.key(View::Inside, network).reversed());
    let Some(answer) = answer.filter(|answer| !answer.has(flags::HAIRPIN)) else {
        return;
    };
    if let Some(session) = tables.session(&answer.peer_key(parsed.header.protocol)) {
        learn(packet, tables, session, place);
    }
}
