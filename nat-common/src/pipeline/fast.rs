//! The fast path: a packet of an established session goes straight to the port of the other side,
//! past bridge, routing and netfilter.
//!
//! A direction of a session takes the fast path once the kernel has sent one of its packets, from
//! which [`learn`] takes the next hop. Packets that need more than forwarding (an error for the
//! sender, fragments, options, the end of a connection in connection tracking) take the slow path
//! unchanged. So does one packet every [`REFRESH_S`](crate::tables::sessions::REFRESH_S), and all
//! packets after it until the kernel has sent one again.

use crate::{
    family::Family,
    headers::{
        offloads::segment_headers,
        parsed::{Parsed, Transport, parse_plain},
    },
    pipeline::{follow::follow_datagram, lookup::network_of, owner::check_owner, place::Place},
    session::tracking::{self, Phase},
    tables::{
        Tables,
        counters::Traffic,
        interfaces::{Interface, InterfaceFlags},
        next_hops::{self, NextHop, NextHopKey},
        sessions::{Session, SessionFlags, Touch, View},
    },
    translation::{Verdict, apply_forwarded},
    wire::{packet::Packet, tcp},
    work::Redirect,
};

/// Length of an Ethernet header in bytes.
const ETHERNET: usize = 14;

/// The shortest Ethernet frame in bytes, without its checksum: shorter packets are padded.
const LEAST_FRAME: usize = 60;

/// Whether XDP handles packets of this protocol: only these show whether their checksum is
/// finished.
#[inline(always)]
pub(crate) fn is_datagram<A>(parsed: &Parsed<A>) -> bool {
    matches!(
        parsed.transport,
        Transport::Udp | Transport::IcmpQuery { .. }
    )
}

/// Sends a guest's packet to the outside if its session has the fast path.
#[inline(always)]
pub(crate) fn fast_outbound<A: Family, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    parsed: &Parsed<A>,
    interface: &Interface,
    redirect: &mut Redirect,
) -> Path {
    if !parsed.has_ports {
        return Path::Slow;
    }
    let Some(session) = tables.session(&parsed.key(View::Inside, interface.number)) else {
        return Path::NoSession;
    };
    if session.has(SessionFlags::HAIRPIN) {
        return Path::Slow;
    }
    if interface.flags.contains(InterfaceFlags::ANTI_SPOOF)
        && check_owner(packet, tables, parsed, interface).is_err()
    {
        return Path::Slow;
    }
    forward(packet, tables, parsed, session, redirect)
}

/// [`fast_outbound`] as a separate function, because the stack has no room for it and the rest of a
/// network's hook.
#[inline(never)]
pub(crate) fn fast_outbound_apart<A: Family, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    parsed: &Parsed<A>,
    interface: &Interface,
    redirect: &mut Redirect,
) -> Path {
    fast_outbound(packet, tables, parsed, interface, redirect)
}

/// The path that a packet takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Path {
    /// It took the fast path, or was dropped there.
    Done(Verdict),
    /// It takes the slow path unchanged.
    Slow,
    /// The same, and it belongs to no session.
    NoSession,
}

/// Sends a packet from outside to its guest if its session has the fast path. (A separate function,
/// because the stack has no room for it and the rest of the hook.)
#[inline(never)]
pub(crate) fn fast_inbound<A: Family, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    l3: usize,
    redirect: &mut Redirect,
) -> Path {
    let Some(parsed) = parse_plain(packet, l3) else {
        return Path::Slow;
    };
    let Some(session) = tables.session(&parsed.key(View::Outside, 0)) else {
        return Path::NoSession;
    };
    if is_datagram(&parsed) {
        session.arrive(|| parsed.traffic(packet, true).packets as u32);
    }
    forward(packet, tables, &parsed, session, redirect)
}

#[inline(always)]
fn forward<A: Family, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    parsed: &Parsed<A>,
    session: &Session<A>,
    redirect: &mut Redirect,
) -> Path {
    let now_s = tables.now_s();
    let Some(hop) = next_hop(packet, tables, parsed, session, now_s) else {
        return Path::Slow;
    };
    if session.touch(now_s) != Touch::Again {
        return Path::Slow;
    }
    hop.touch(now_s);
    Path::Done(send(packet, tables, parsed, session, hop, redirect))
}

/// Whether a frame's destination is this link-layer address.
#[inline(always)]
pub(crate) fn is_to<P: Packet>(packet: &P, l3: usize, mac: [u8; 6]) -> bool {
    l3.checked_sub(ETHERNET)
        .and_then(|start| packet.read::<6>(start))
        == Some(mac)
}

/// The next hop of a packet that the kernel would only forward.
#[inline(always)]
pub(crate) fn next_hop<'t, A: Family, P: Packet, T: Tables<A>>(
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

/// Whether a packet neither opens nor closes anything. Connection tracking must see connections
/// begin and end, or its table would fill.
#[inline(always)]
fn is_flowing<A: Family>(parsed: &Parsed<A>, session: &Session<A>) -> bool {
    match parsed.transport {
        Transport::Tcp { flags } => {
            let state = session.state.load();
            let own_fin = match session.has(SessionFlags::FROM_INITIATOR) {
                true => tracking::INITIATOR_FIN,
                false => tracking::RESPONDER_FIN,
            };
            flags & (tcp::SYN | tcp::FIN | tcp::RST) == 0
                && tracking::phase(state) == Phase::Established
                && (state & own_fin == 0 || !parsed.has_data())
        }
        Transport::Udp | Transport::IcmpQuery { .. } | Transport::Opaque => true,
        Transport::IcmpError
        | Transport::IcmpOther
        | Transport::Neighbours
        | Transport::LaterFragment => false,
    }
}

/// Whether each frame that the packet becomes is at most `mtu` bytes long, and the packet ends with
/// its frame or is padded to the shortest one. (The kernel cuts off anything behind a packet.)
#[inline(always)]
fn fits<A: Family, P: Packet>(packet: &P, parsed: &Parsed<A>, mtu: u32) -> bool {
    let segment_len = packet.frames().segment_len as usize;
    if segment_len != 0 {
        return segment_headers(packet, parsed)
            .is_some_and(|headers| headers + segment_len <= mtu as usize);
    }
    let len = packet.len();
    (len == parsed.end() || len <= LEAST_FRAME) && parsed.header.total_len <= mtu as usize
}

/// Translates a packet and does a router's work on it.
#[inline(always)]
pub(crate) fn send<A: Family, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    parsed: &Parsed<A>,
    session: &Session<A>,
    hop: &NextHop,
    redirect: &mut Redirect,
) -> Verdict {
    match parsed.transport {
        // It no longer changes the state of its connection.
        Transport::Tcp { .. } => session.acknowledge(parsed.acknowledged),
        _ => follow_datagram(tables, parsed, session),
    }
    let (packets, bytes) = parsed.frames(packet);
    let (source, destination) = (session.source_endpoint(), session.destination_endpoint());
    if let Err(reason) = apply_forwarded(packet, parsed, source, destination, hop) {
        return Verdict::Dropped(reason);
    }
    // (The direction is read here, because a register would keep it while the packet is written.)
    let is_in = session.has(SessionFlags::IN);
    tables.count(
        session.rule,
        Traffic {
            is_in,
            packets,
            bytes,
        },
    );
    *redirect = Redirect {
        port: hop.port,
        flags: hop.flags,
    };
    Verdict::Forwarded
}

/// Learns the next hop of a session from a packet that the kernel is about to send at `place`.
#[inline(always)]
pub(crate) fn learn<A: Family, P: Packet, T: Tables<A>>(
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
        false => next_hops::NONE,
    };
    if session.next_hop.load() != tag {
        session.next_hop.store(tag);
    }
}

/// Learns the next hop of a session from a packet that the kernel is about to send to a guest's
/// network.
#[inline(never)]
pub(crate) fn learn_inbound<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    place: Place,
) {
    let Some(parsed) = parse_plain(packet, place.l3) else {
        return;
    };
    let network = network_of(tables, place.interface);
    // Only the entry of the answers is known here, and it names the other entry.
    let answer = tables.session(&parsed.key(View::Inside, network).reversed());
    let Some(answer) = answer.filter(|answer| !answer.has(SessionFlags::HAIRPIN)) else {
        return;
    };
    if let Some(session) = tables.session(&answer.peer_key(parsed.header.protocol)) {
        learn(packet, tables, session, place);
    }
}
