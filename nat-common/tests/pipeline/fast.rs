//! The fast path: what it does to a packet, and what it leaves to the kernel as it came.

use nat_common::{
    atomics::Shared,
    pipeline::{self, Place, Verdict},
    tables::{
        interfaces::{Interface, InterfaceFlags, role},
        next_hops::{self, NextHop, NextHopKey},
        sessions::{REFRESH_S, SessionKey, Touch, View},
    },
    wire::{
        offload::Offload,
        packet::{Frames, SlicePacket},
        protocol::{TCP, UDP},
    },
    work::Work,
};
use proptest::prelude::*;

use crate::family::{
    Addr, C1, DESTINATION, HEADER, HOPS, ICMP, IS_IPV6, Ip, Make, PUBLIC, S1A, SOURCE,
    UDP_CHECKSUM, World, corrected, ends, piece_of,
};
use kit::{
    packets::{ACK, At, ETHERNET, FIN, RST, SYN, answer, request, tcp, udp},
    world::{Fate, Hook, LAN, SNAT_RULE, UPLINK},
};

/// The port of the bridge behind which the guest is.
pub(crate) const PORT: u32 = 7;
pub(crate) const BRIDGE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const GUEST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 3];
const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 4];
/// Tags of the router and of the guest.
const ROUTER: u32 = next_hops::tag(1, 1);
const GUEST: u32 = next_hops::tag(2, 1);
pub(crate) const MTU: u32 = 1500;
/// The most data that a datagram of that length has.
const LARGEST: usize = MTU as usize - HEADER - 8;

pub(crate) const CLIENT: At<Ip> = At(C1, 5000);
pub(crate) const REMOTE: At<Ip> = At(S1A, 7000);
pub(crate) const EXTERNAL: At<Ip> = At(PUBLIC, 5000);

/// A host whose next hops are known.
pub(crate) fn world() -> World {
    let mut world = World::new();
    let tables = &mut world.tables;
    tables.is_fast_path_on = true;
    for (index, role, mac) in [
        (UPLINK, role::UPLINK, UPLINK_MAC),
        (LAN, role::NETWORK, BRIDGE_MAC),
        (PORT, role::PORT, BRIDGE_MAC),
    ] {
        let interface = Interface {
            role,
            number: 1,
            mac,
            ..Interface::default()
        };
        tables.interfaces.insert(index, interface);
    }
    for (tag, device, port, destination, source) in [
        (ROUTER, UPLINK, UPLINK, ROUTER_MAC, UPLINK_MAC),
        (GUEST, LAN, PORT, GUEST_MAC, BRIDGE_MAC),
    ] {
        let hop = NextHop {
            tag: Shared::new(tag),
            port,
            mtu: MTU,
            destination,
            source,
            flags: next_hops::NextHopFlags::TAKES_FRAMES,
            epoch: 1,
            used_s: Shared::new(0),
        };
        tables.next_hops.insert(next_hops::slot(tag), hop);
        let key = NextHopKey::new(device, destination);
        tables.next_hop_tags.insert(key, tag);
    }
    world
}

/// A frame for a MAC address.
pub(crate) fn to(mac: [u8; 6], packet: &Make) -> Vec<u8> {
    let mut frame = packet.bytes();
    frame[..6].copy_from_slice(&mac);
    frame
}

/// Opens the session by the slow path: packets each way, until both directions have learned.
pub(crate) fn establish(world: &World, protocol: u8) {
    let flags = |flags| move |from, to| tcp(from, to, flags).payload(b"");
    let out = |make: &Make| {
        let fate = world.guest_sends(&to(ROUTER_MAC, make));
        assert!(matches!(fate, Fate::Uplink(_)), "{fate:?}");
    };
    let back = |make: &Make| {
        let fate = world.outside_sends(&to(GUEST_MAC, make));
        assert!(matches!(fate, Fate::Network(..)), "{fate:?}");
    };
    if protocol == TCP {
        out(&flags(SYN)(CLIENT, REMOTE));
        back(&flags(SYN | ACK)(REMOTE, EXTERNAL));
        out(&flags(ACK)(CLIENT, REMOTE));
    } else {
        out(&request(protocol, CLIENT, REMOTE));
        back(&answer(protocol, REMOTE, EXTERNAL));
        out(&request(protocol, CLIENT, REMOTE));
    }
}

/// Runs a frame at the port or, if it comes by the uplink, at XDP.
fn run(world: &World, hook: u32, frame: &[u8], clock: u32) -> (Verdict, Vec<u8>, u32) {
    run_offloaded(world, hook, frame, clock, (Offload::NOTHING, 0))
}

/// The same, for a packet whose checksum or segmentation is unfinished.
pub(crate) fn run_offloaded(
    world: &World,
    hook: u32,
    frame: &[u8],
    clock: u32,
    (offload, segment_len): (Offload, u32),
) -> (Verdict, Vec<u8>, u32) {
    let mut bytes = frame.to_vec();
    let mut packet = SlicePacket {
        offload,
        frames: Frames { segment_len },
        ..SlicePacket::new(&mut bytes, hook)
    };
    let place = Place {
        l3: ETHERNET,
        interface: hook,
        is_to_host: true,
    };
    let mut work = Work::new();
    let decision = match hook {
        UPLINK => pipeline::early(&mut packet, &world.tables, place, &mut work, || clock),
        _ => pipeline::from_port(&mut packet, &world.tables, place, &mut work),
    };
    (decision, bytes, work.redirect.port)
}

#[track_caller]
fn assert_untouched(world: &World, hook: u32, frame: &[u8], what: &str) {
    let (decision, after, _) = run(world, hook, frame, 1);
    assert_eq!(decision, Verdict::Untouched, "{what}");
    assert_eq!(after, frame, "{what}");
}

#[test]
fn a_packet_is_translated_and_sent_to_the_next_hop() {
    for protocol in [UDP, TCP, ICMP, 47] {
        let world = world();
        establish(&world, protocol);
        let packet = match protocol {
            TCP => tcp(CLIENT, REMOTE, ACK).payload(b"data"),
            _ => request(protocol, CLIENT, REMOTE),
        };
        let before = world.counters(SNAT_RULE).packets_out;
        let (decision, after, port) = run(&world, PORT, &to(BRIDGE_MAC, &packet), 1);
        assert_eq!((decision, port), (Verdict::Forwarded, UPLINK), "{protocol}");
        assert_eq!(after[..6], ROUTER_MAC);
        assert_eq!(after[6..12], UPLINK_MAC);
        assert_eq!(after[HOPS], 63, "hops");
        // (Reading checks both checksums.)
        let (source, destination) = ends(&after);
        assert_eq!((source.0, destination.0), (PUBLIC, S1A));
        assert_eq!(world.counters(SNAT_RULE).packets_out, before + 1);
    }
}

/// Packets that are still to be segmented are as large as their frames will be.
#[test]
fn segments_that_fit_are_sent_on_together() {
    let world = world();
    establish(&world, TCP);
    let frame = to(BRIDGE_MAC, &tcp(CLIENT, REMOTE, ACK).payload(&[7; 4000]));
    let headers = HEADER as u32 + 20;
    for (segment_len, expected) in [
        (MTU - headers, Verdict::Forwarded),
        (MTU - headers + 1, Verdict::Untouched),
        (1, Verdict::Forwarded),
        (MTU + 40, Verdict::Untouched),
        (0, Verdict::Untouched),
    ] {
        let offload = (Offload::NOTHING, segment_len);
        let (decision, _, _) = run_offloaded(&world, PORT, &frame, 1, offload);
        assert_eq!(decision, expected, "{segment_len}");
    }
}

/// A port that accepts no frames from XDP gets its packets from the kernel.
#[test]
fn xdp_passes_up_packets_to_a_port_that_accepts_no_frames() {
    let mut world = world();
    establish(&world, UDP);
    world.tables.next_hops.get_mut(&2).unwrap().flags = next_hops::NextHopFlags::empty();
    let frame = to(UPLINK_MAC, &udp(REMOTE, EXTERNAL));
    for clock in [1, 1000, 2000] {
        assert_eq!(run(&world, UPLINK, &frame, clock).0, Verdict::Untouched);
    }
}

/// A pause is longer than what a poll takes, not as long.
#[test]
fn xdp_takes_datagrams_after_more_than_the_pause() {
    for (pause, expected) in [(200, Verdict::Untouched), (201, Verdict::Forwarded)] {
        let world = world();
        establish(&world, UDP);
        let frame = to(UPLINK_MAC, &udp(REMOTE, EXTERNAL));
        assert_eq!(run(&world, UPLINK, &frame, 1000).0, Verdict::Untouched);
        assert_eq!(run(&world, UPLINK, &frame, 1000 + pause).0, expected);
    }
}

/// A program behind XDP puts internal addresses into packets of IPv6.
#[test]
fn xdp_passes_up_ipv6_where_its_prefixes_become_others() {
    let mut world = world();
    establish(&world, UDP);
    let uplink = world.tables.interfaces.get_mut(&UPLINK).unwrap();
    uplink.flags |= InterfaceFlags::HAS_PREFIXES;
    let frame = to(UPLINK_MAC, &udp(REMOTE, EXTERNAL));
    run(&world, UPLINK, &frame, 1000);
    let expected = match IS_IPV6 {
        true => Verdict::Untouched,
        false => Verdict::Forwarded,
    };
    assert_eq!(run(&world, UPLINK, &frame, 2000).0, expected);
}

/// Where spoofing is not looked for, whose address it is says nothing.
#[test]
fn without_anti_spoof_a_frame_of_another_mac_address_is_sent_on() {
    let mut world = world();
    establish(&world, UDP);
    world.anti_spoof(C1, GUEST_MAC);
    let frame = to(BRIDGE_MAC, &udp(CLIENT, REMOTE));
    assert_eq!(run(&world, PORT, &frame, 1).0, Verdict::Forwarded);
}

/// While no daemon follows changes, nothing is learned.
#[test]
fn nothing_is_learned_while_it_is_off() {
    let mut world = world();
    world.tables.is_fast_path_on = false;
    establish(&world, UDP);
    world.tables.is_fast_path_on = true;
    for (hook, frame) in [
        (PORT, to(BRIDGE_MAC, &udp(CLIENT, REMOTE))),
        (UPLINK, to(UPLINK_MAC, &udp(REMOTE, EXTERNAL))),
    ] {
        run(&world, hook, &frame, 1);
        assert_untouched(&world, hook, &frame, "nothing learned");
    }
}

#[test]
fn nothing_is_sent_on_before_the_kernel_has() {
    let world = world();
    let packet = to(BRIDGE_MAC, &udp(CLIENT, REMOTE));
    assert_untouched(&world, PORT, &packet, "no session");
    // The first packet opens the session, the second one is the first that can be learned from.
    world
        .guest_sends(&to(ROUTER_MAC, &udp(CLIENT, REMOTE)))
        .uplink();
    assert_untouched(&world, PORT, &packet, "nothing learned");
    world
        .guest_sends(&to(ROUTER_MAC, &udp(CLIENT, REMOTE)))
        .uplink();
    assert_eq!(run(&world, PORT, &packet, 1).0, Verdict::Forwarded);
}

#[test]
fn packets_that_need_more_than_forwarding_pass_unchanged() {
    let world = world();
    establish(&world, UDP);
    let plain = to(BRIDGE_MAC, &udp(CLIENT, REMOTE));
    assert_eq!(run(&world, PORT, &plain, 1).0, Verdict::Forwarded);
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = plain.clone();
        change(&mut frame);
        frame
    };
    let inside = &plain[ETHERNET + HEADER..];
    for (what, frame) in [
        ("one hop", corrected(changed(&|frame| frame[HOPS] = 1))),
        ("no hop", corrected(changed(&|frame| frame[HOPS] = 0))),
        ("a first fragment", piece_of(&plain, 0, inside, true)),
        ("a later fragment", piece_of(&plain, 8, inside, false)),
        ("for another MAC address", changed(&|frame| frame[5] ^= 1)),
        (
            "more than the packet",
            changed(&|frame| frame.resize(100, 0)),
        ),
        (
            "cut off",
            changed(&|frame| frame.truncate(ETHERNET + HEADER + 4)),
        ),
        (
            "options",
            to(BRIDGE_MAC, &udp(CLIENT, REMOTE).options(&[1; 4])),
        ),
        (
            "too large",
            to(BRIDGE_MAC, &udp(CLIENT, REMOTE).payload(&[0; LARGEST + 1])),
        ),
        ("of no session", to(BRIDGE_MAC, &udp(CLIENT, At(S1A, 1)))),
    ] {
        assert_untouched(&world, PORT, &frame, what);
    }
    if !IS_IPV6 {
        let wrong_sum = changed(&|frame| frame[ETHERNET + 1] ^= 1);
        assert_untouched(&world, PORT, &wrong_sum, "a wrong checksum of the header");
    }
    let largest = to(BRIDGE_MAC, &udp(CLIENT, REMOTE).payload(&[0; LARGEST]));
    assert_eq!(run(&world, PORT, &largest, 1).0, Verdict::Forwarded);
    // Ethernet pads short packets.
    let padded = changed(&|frame| frame.resize(frame.len().max(60), 0));
    assert_eq!(run(&world, PORT, &padded, 1).0, Verdict::Forwarded);
}

#[test]
fn the_kernel_sees_connections_begin_and_end() {
    let world = world();
    establish(&world, TCP);
    for flags in [SYN, FIN | ACK, RST] {
        let frame = to(BRIDGE_MAC, &tcp(CLIENT, REMOTE, flags));
        assert_untouched(&world, PORT, &frame, "opens or closes");
    }
    let data = to(BRIDGE_MAC, &tcp(CLIENT, REMOTE, ACK).payload(b"data"));
    assert_eq!(run(&world, PORT, &data, 1).0, Verdict::Forwarded);
    // Both have said that they are done.
    world
        .guest_sends(&to(ROUTER_MAC, &tcp(CLIENT, REMOTE, FIN | ACK)))
        .uplink();
    world
        .outside_sends(&to(GUEST_MAC, &tcp(REMOTE, EXTERNAL, FIN | ACK)))
        .guest();
    let last = to(BRIDGE_MAC, &tcp(CLIENT, REMOTE, ACK).payload(b""));
    assert_untouched(&world, PORT, &last, "closed");
}

/// A guest that has said that it is done still acknowledges what it receives. If it sends data
/// again, its connection continues, which the kernel must see.
#[test]
fn after_its_own_end_acknowledgements_are_sent_on_and_data_is_not() {
    let world = world();
    establish(&world, TCP);
    world
        .guest_sends(&to(ROUTER_MAC, &tcp(CLIENT, REMOTE, FIN | ACK)))
        .uplink();
    let segment = |data: &[u8]| to(BRIDGE_MAC, &tcp(CLIENT, REMOTE, ACK).payload(data));
    assert_untouched(&world, PORT, &segment(b"data"), "data after the end");
    assert_eq!(run(&world, PORT, &segment(b""), 1).0, Verdict::Forwarded);
}

#[test]
fn a_connection_that_goes_on_after_a_reset_is_shown_to_the_kernel() {
    for resets in [UPLINK, PORT] {
        let world = world();
        establish(&world, TCP);
        let outside = |flags| {
            let frame = to(GUEST_MAC, &tcp(REMOTE, EXTERNAL, flags).payload(b"data"));
            world.outside_sends(&frame).guest();
        };
        let guest = |flags| {
            let frame = to(ROUTER_MAC, &tcp(CLIENT, REMOTE, flags).payload(b"data"));
            world.guest_sends(&frame).uplink();
        };
        let (sends, answers): (&dyn Fn(u8), &dyn Fn(u8)) = match resets {
            UPLINK => (&outside, &guest),
            _ => (&guest, &outside),
        };
        let inbound = to(UPLINK_MAC, &tcp(REMOTE, EXTERNAL, ACK));
        let at_uplink = || {
            world
                .run(Hook::Inbound, &inbound, UPLINK, UPLINK)
                .unwrap()
                .0
        };
        let outbound = to(BRIDGE_MAC, &tcp(CLIENT, REMOTE, ACK));
        let at_port = || run(&world, PORT, &outbound, 1).0;
        let answer_is_fast = || match resets {
            UPLINK => at_port() == Verdict::Forwarded,
            _ => at_uplink() == Verdict::Forwarded,
        };
        assert!(answer_is_fast());
        sends(RST | ACK);
        // The reset was not the ends'.
        sends(ACK);
        assert!(!answer_is_fast(), "an answer to a reset by {resets}");
        answers(ACK);
        assert!(answer_is_fast());
    }
}

/// A reset that does not count for the session may have ended the connection for the kernel.
#[test]
fn an_answer_to_a_reset_out_of_sequence_is_shown_to_the_kernel() {
    let world = world();
    establish(&world, TCP);
    let segment = tcp(CLIENT, REMOTE, ACK).numbers(1, 1 << 20);
    let at_port = || run(&world, PORT, &to(BRIDGE_MAC, &segment), 1).0;
    assert_eq!(at_port(), Verdict::Forwarded);
    let reset = tcp(REMOTE, EXTERNAL, RST).numbers(1, 0);
    world.outside_sends(&to(GUEST_MAC, &reset)).guest();
    assert_eq!(at_port(), Verdict::Untouched);
    world.guest_sends(&to(ROUTER_MAC, &segment)).uplink();
    assert_eq!(at_port(), Verdict::Forwarded);
}

/// What segments acknowledge on the fast path counts for the resets of the other side.
#[test]
fn a_reset_is_compared_with_acknowledgements_of_the_fast_path() {
    for (sequence, is_valid) in [(1, false), (1 << 20, true)] {
        let mut world = world();
        establish(&world, TCP);
        let segment = tcp(CLIENT, REMOTE, ACK).numbers(1, 1 << 20);
        let (decision, ..) = run(&world, PORT, &to(BRIDGE_MAC, &segment), 1);
        assert_eq!(decision, Verdict::Forwarded);
        let reset = tcp(REMOTE, EXTERNAL, RST).numbers(sequence, 0);
        world.outside_sends(&to(GUEST_MAC, &reset)).guest();
        assert_eq!(world.wait(300), usize::from(is_valid));
    }
}

/// One direction of an established session at one hook of the fast path.
struct Stream {
    world: World,
    hook: Way,
    frame: Vec<u8>,
}

/// The hooks of the fast path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Port,
    Uplink,
    Xdp,
}

impl Stream {
    fn new(protocol: u8, hook: Way) -> Self {
        let world = world();
        establish(&world, protocol);
        let packet = match (hook, protocol) {
            (Way::Port, TCP) => tcp(CLIENT, REMOTE, ACK).payload(b"data"),
            (Way::Port, _) => request(protocol, CLIENT, REMOTE),
            (_, TCP) => tcp(REMOTE, EXTERNAL, ACK).payload(b"data"),
            (..) => answer(protocol, REMOTE, EXTERNAL),
        };
        let mac = match hook {
            Way::Port => BRIDGE_MAC,
            _ => UPLINK_MAC,
        };
        let frame = to(mac, &packet);
        Self { world, hook, frame }
    }

    /// Every combination that there is.
    fn all() -> impl Iterator<Item = (String, Self)> {
        let ways = [UDP, TCP, 1, 47]
            .into_iter()
            .flat_map(|protocol| [Way::Port, Way::Uplink, Way::Xdp].map(|hook| (protocol, hook)));
        // XDP takes datagrams alone.
        let ways = ways.filter(|way| !matches!(way, (TCP | 47, Way::Xdp)));
        ways.map(|(protocol, hook)| (format!("{protocol}, {hook:?}"), Self::new(protocol, hook)))
    }

    /// Runs a packet at the uplink's traffic control hook; whether it has taken the fast path.
    fn at_uplink(&self) -> bool {
        let result = self.world.run(Hook::Inbound, &self.frame, UPLINK, UPLINK);
        matches!(result, Ok((Verdict::Forwarded, _)))
    }

    /// Sends a packet; whether it has taken the fast path. What has not waits for the kernel.
    fn sends(&self) -> bool {
        match self.hook {
            Way::Port => run(&self.world, PORT, &self.frame, 1).0 == Verdict::Forwarded,
            Way::Uplink => self.at_uplink(),
            Way::Xdp => {
                run(&self.world, UPLINK, &self.frame, 1).0 == Verdict::Forwarded || self.at_uplink()
            }
        }
    }

    /// The kernel sends on what the hook has left to it.
    fn kernel_sends_on(&self) {
        let (mac, out) = match self.hook {
            Way::Port => (ROUTER_MAC, true),
            _ => (GUEST_MAC, false),
        };
        let mut frame = self.frame.clone();
        frame[..6].copy_from_slice(&mac);
        let fate = match out {
            true => self.world.guest_sends(&frame),
            false => self.world.outside_sends(&frame),
        };
        assert!(
            matches!(fate, Fate::Uplink(_) | Fate::Network(..)),
            "{fate:?}"
        );
    }
}

#[test]
fn a_packet_in_each_round_goes_through_the_kernel_and_those_behind_it_until_it_has_passed() {
    for (what, mut stream) in Stream::all() {
        stream.sends();
        assert!(stream.sends(), "{what}: it has the fast path");
        for round in 0..4 {
            let mut slow = 0;
            for _ in 0..REFRESH_S {
                stream.world.tables.now_s += 1;
                for _ in 0..3 {
                    if !stream.sends() {
                        slow += 1;
                        assert!(!stream.sends(), "{what}: one overtakes what goes before it");
                        stream.kernel_sends_on();
                    }
                }
            }
            assert_eq!(slow, 1, "{what}, round {round}");
        }
        let (now_s, hops) = (stream.world.tables.now_s, &stream.world.tables.next_hops);
        let hop = match stream.hook {
            Way::Port => ROUTER,
            _ => GUEST,
        };
        assert_eq!(hops[&next_hops::slot(hop)].used_s.load(), now_s, "{what}");
    }
}

#[test]
fn a_stream_that_the_kernel_stops_stays_stopped() {
    for (what, mut stream) in Stream::all() {
        stream.sends();
        assert!(stream.sends(), "{what}: it has the fast path");
        let mut rounds = 0;
        // From the first packet that goes to the kernel on, which drops it and all behind it.
        while stream.sends() {
            stream.world.tables.now_s += 1;
            rounds += 1;
            assert!(rounds <= REFRESH_S, "{what}: none goes to the kernel");
        }
        for second in 0..5 * REFRESH_S {
            stream.world.tables.now_s += 1;
            assert!(!stream.sends(), "{what}: sent on after {second} s");
        }
        stream.kernel_sends_on();
        assert!(stream.sends(), "{what}: the rule is gone");
    }
}

#[test]
fn one_direction_that_the_kernel_stops_leaves_the_other_its_way() {
    let out = Stream::new(UDP, Way::Port);
    let mut back = Stream::new(UDP, Way::Uplink);
    back.world = out.world;
    let out = to(BRIDGE_MAC, &udp(CLIENT, REMOTE));
    let mut slow = 0;
    for _ in 0..3 * REFRESH_S {
        back.world.tables.now_s += 1;
        if run(&back.world, PORT, &out, 1).0 == Verdict::Untouched {
            slow += 1;
            let fate = back
                .world
                .guest_sends(&to(ROUTER_MAC, &udp(CLIENT, REMOTE)));
            assert!(matches!(fate, Fate::Uplink(_)), "{fate:?}");
        }
        back.sends();
    }
    assert_eq!(slow, 3);
    assert!(!back.sends(), "the kernel has sent none on");
}

#[test]
fn a_packet_that_only_the_kernel_can_send_on_is_a_refresh_as_well() {
    let mut stream = Stream::new(UDP, Way::Uplink);
    assert!(stream.sends());
    stream.world.tables.now_s += REFRESH_S;
    // The first one in the round has options.
    let options = to(UPLINK_MAC, &udp(REMOTE, EXTERNAL).options(&[1; 4]));
    let result = stream.world.run(Hook::Inbound, &options, UPLINK, UPLINK);
    assert!(result.is_ok(), "{result:?}");
    assert!(!stream.sends(), "the kernel has sent none on");
}

#[test]
fn of_two_packets_at_once_one_is_the_refresh() {
    let stream = Stream::new(UDP, Way::Uplink);
    let entries = stream.world.tables.sessions.entries();
    let session = entries[0].1;
    let seen_s = session.seen_s.load();
    let now_s = seen_s + REFRESH_S;
    assert_eq!(session.touch(now_s), Touch::Refresh);
    assert_eq!(session.next_hop.load(), next_hops::NONE);
    session.next_hop.store(GUEST);
    assert_eq!(session.touch(now_s), Touch::Again);
    assert_eq!(session.next_hop.load(), GUEST);
}

#[test]
fn a_next_hop_that_is_gone_is_not_used() {
    let mut world = world();
    establish(&world, UDP);
    let frame = to(BRIDGE_MAC, &udp(CLIENT, REMOTE));
    world.tables.next_hops[&1].tag.store(next_hops::NONE);
    assert_untouched(&world, PORT, &frame, "its tag is gone");
    // The slot has another one now.
    let other = next_hops::tag(1, 2);
    world.tables.next_hops[&1].tag.store(other);
    assert_untouched(&world, PORT, &frame, "its slot has another");
    let key = NextHopKey::new(UPLINK, ROUTER_MAC);
    world.tables.next_hop_tags.insert(key, other);
    world
        .guest_sends(&to(ROUTER_MAC, &udp(CLIENT, REMOTE)))
        .uplink();
    assert_eq!(run(&world, PORT, &frame, 1).0, Verdict::Forwarded);
}

#[test]
fn a_rule_or_a_daemon_that_is_gone_can_switch_it_off() {
    let mut world = world();
    establish(&world, UDP);
    let frame = to(BRIDGE_MAC, &udp(CLIENT, REMOTE));
    world.tables.is_fast_path_on = false;
    assert_untouched(&world, PORT, &frame, "nobody follows changes");
    world.tables.is_fast_path_on = true;
    world.tables.slow_rules.insert(SNAT_RULE);
    world
        .guest_sends(&to(ROUTER_MAC, &udp(CLIENT, REMOTE)))
        .uplink();
    assert_untouched(&world, PORT, &frame, "the rule says so");
}

#[test]
fn a_guest_that_uses_anothers_address_does_not_get_it() {
    let mut world = world();
    establish(&world, UDP);
    world.anti_spoof(C1, GUEST_MAC);
    world.tables.interfaces.get_mut(&PORT).unwrap().flags =
        nat_common::tables::interfaces::InterfaceFlags::ANTI_SPOOF;
    let mut frame = to(BRIDGE_MAC, &udp(CLIENT, REMOTE));
    assert_untouched(&world, PORT, &frame, "another's MAC address");
    frame[6..12].copy_from_slice(&GUEST_MAC);
    assert_eq!(run(&world, PORT, &frame, 1).0, Verdict::Forwarded);
}

#[test]
fn xdp_takes_datagrams_once_those_before_have_arrived() {
    let stream = Stream::new(UDP, Way::Xdp);
    let frame = &stream.frame;
    let at_xdp = |clock| run(&stream.world, UPLINK, frame, clock);
    // Nobody knows what XDP has let through before the session was.
    for clock in [1001, 1002] {
        let (decision, after, _) = at_xdp(clock);
        assert_eq!(
            (decision, &after),
            (Verdict::Untouched, frame),
            "at {clock}"
        );
    }
    stream.at_uplink();
    assert_eq!(at_xdp(1003).0, Verdict::Untouched, "one is on its way");
    stream.at_uplink();
    assert_eq!(at_xdp(1004).0, Verdict::Untouched, "another one is");
    stream.at_uplink();
    stream.at_uplink();
    // Without any pause.
    for clock in [1004, 1005, 9999] {
        let (decision, after, port) = at_xdp(clock);
        assert_eq!(decision, Verdict::Forwarded, "at {clock}");
        assert_eq!((port, &after[..6]), (PORT, &GUEST_MAC[..]));
        assert_eq!(ends(&after), (REMOTE, CLIENT));
    }
    // A passing packet makes those behind it wait.
    let mut last_hop = frame.clone();
    last_hop[HOPS] = 1;
    let last_hop = corrected(last_hop);
    let result = run(&stream.world, UPLINK, &last_hop, 10_000);
    assert_eq!(result.0, Verdict::Untouched);
    assert_eq!(at_xdp(10_001).0, Verdict::Untouched);
    let result = stream.world.run(Hook::Inbound, &last_hop, UPLINK, UPLINK);
    assert!(result.is_ok(), "{result:?}");
    assert_eq!(
        at_xdp(10_002).0,
        Verdict::Untouched,
        "one is still on its way"
    );
    stream.at_uplink();
    stream.at_uplink();
    assert_eq!(at_xdp(10_002).0, Verdict::Forwarded);
    // More may come than were counted: they were let through before the session was.
    stream.at_uplink();
    assert_eq!(at_xdp(10_002).0, Verdict::Forwarded);
}

#[test]
fn xdp_waits_for_lost_datagrams_only_briefly() {
    // The clock in the session's entry runs round.
    for base in [1000, 0x000f_ffff, 0x0010_0000 - 500, u32::MAX - 20] {
        let stream = Stream::new(UDP, Way::Xdp);
        let at_xdp = |later| {
            run(
                &stream.world,
                UPLINK,
                &stream.frame,
                base.wrapping_add(later),
            )
            .0
        };
        assert_eq!(at_xdp(0), Verdict::Untouched);
        assert_eq!(at_xdp(100), Verdict::Untouched);
        assert_eq!(at_xdp(290), Verdict::Untouched, "a pause of 190");
        assert_eq!(at_xdp(500), Verdict::Forwarded, "a pause of 210");
        assert_eq!(at_xdp(501), Verdict::Forwarded);
    }
}

#[test]
fn xdp_restarts_its_count_after_too_many_losses() {
    let stream = Stream::new(UDP, Way::Xdp);
    let at_xdp = || run(&stream.world, UPLINK, &stream.frame, 7).0;
    for lost in 0..2048 {
        assert_eq!(at_xdp(), Verdict::Untouched, "{lost} lost");
    }
    // This one is the only one that is on its way.
    assert_eq!(at_xdp(), Verdict::Untouched);
    stream.at_uplink();
    assert_eq!(at_xdp(), Verdict::Forwarded);
}

#[test]
fn frames_that_were_put_together_arrive_as_many_as_they_were() {
    let stream = Stream::new(UDP, Way::Xdp);
    for clock in 1..=4 {
        let result = run(&stream.world, UPLINK, &stream.frame, clock);
        assert_eq!(result.0, Verdict::Untouched);
    }
    let entries = stream.world.tables.sessions.entries();
    let is_outside = |key: &SessionKey<Addr>| key.view == View::Outside as u8;
    let (_, session) = entries.iter().find(|entry| is_outside(&entry.0)).unwrap();
    session.arrive(|| 3);
    assert!(!session.is_caught_up(|| 5), "one is on its way");
    session.arrive(|| 4);
    assert!(session.is_caught_up(|| 5));
    session.arrive(|| panic!("none is on its way"));
}

#[test]
fn xdp_leaves_tcp_unfinished_checksums_and_other_hosts_frames_alone() {
    let world = world();
    establish(&world, TCP);
    let segment = to(UPLINK_MAC, &tcp(REMOTE, EXTERNAL, ACK).payload(b"data"));
    for clock in [1, 10_000, 20_000] {
        assert_eq!(run(&world, UPLINK, &segment, clock).0, Verdict::Untouched);
    }

    let world = self::world();
    establish(&world, UDP);
    let frame = to(UPLINK_MAC, &udp(REMOTE, EXTERNAL));
    run(&world, UPLINK, &frame, 1);
    assert_eq!(run(&world, UPLINK, &frame, 1000).0, Verdict::Forwarded);
    let mut unfinished = frame.clone();
    let pseudo = pseudo_sum(&frame);
    unfinished[UDP_CHECKSUM].copy_from_slice(&pseudo.to_be_bytes());
    assert_eq!(run(&world, UPLINK, &unfinished, 2000).0, Verdict::Untouched);
    let mut others = frame.clone();
    others[5] ^= 1;
    assert_eq!(run(&world, UPLINK, &others, 3000).0, Verdict::Untouched);
    // A checksum that was left out is none to be finished.
    let unsummed = to(UPLINK_MAC, &udp(REMOTE, EXTERNAL).unsummed());
    run(&world, UPLINK, &unsummed, 4000);
    assert_eq!(run(&world, UPLINK, &unsummed, 5000).0, Verdict::Forwarded);
}

/// The sum of a UDP packet's pseudo-header: what a sender leaves where a device is to finish it.
fn pseudo_sum(frame: &[u8]) -> u16 {
    let mut words: Vec<u16> = [&frame[SOURCE], &frame[DESTINATION]]
        .concat()
        .chunks(2)
        .map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
        .collect();
    words.extend([u16::from(UDP), (frame.len() - ETHERNET - HEADER) as u16]);
    let sum: u32 = words.into_iter().map(u32::from).sum();
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// The one's complement sum of a part of a frame, in which 0 and 0xffff are the same.
fn sum_of(parts: &[&[u8]]) -> u32 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let sum: u32 = words
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)))
        .sum();
    sum % 0xffff
}

/// Sums over the IP header, if that has a checksum, and over what the UDP checksum covers; a
/// translation keeps both.
fn sums(frame: &[u8]) -> [u32; 2] {
    let (header, message) = frame[ETHERNET..].split_at(HEADER);
    let of_header = if IS_IPV6 { 0 } else { sum_of(&[header]) };
    [
        of_header,
        sum_of(&[&frame[SOURCE], &frame[DESTINATION], message]),
    ]
}

/// Length of the frame of a datagram with eight bytes of data.
const LEN: usize = ETHERNET + HEADER + 16;

proptest! {
    #[test]
    fn damaged_packets_are_sent_on_with_the_same_damage_or_left_alone(
        flips in proptest::collection::vec((0..LEN, any::<u8>()), 0..4),
        length in 0..LEN + 10,
        inbound in any::<bool>(),
    ) {
        let world = world();
        establish(&world, UDP);
        let (hook, mut frame) = match inbound {
            true => (UPLINK, to(UPLINK_MAC, &udp(REMOTE, EXTERNAL))),
            false => (PORT, to(BRIDGE_MAC, &udp(CLIENT, REMOTE))),
        };
        run(&world, hook, &frame, 1);
        for (at, bits) in flips {
            if let Some(byte) = frame.get_mut(at) {
                *byte ^= bits;
            }
        }
        // Most are whole.
        if length > 14 && length % 4 == 0 {
            frame.truncate(length);
        }
        let (decision, after, _) = run(&world, hook, &frame, 1000);
        match decision {
            Verdict::Untouched => prop_assert_eq!(after, frame),
            Verdict::Forwarded => {
                prop_assert_eq!(after.len(), frame.len());
                prop_assert_eq!(after[HOPS], frame[HOPS] - 1);
                prop_assert_eq!(sums(&after)[0], sums(&frame)[0]);
                let has_sum = frame[UDP_CHECKSUM] != [0, 0];
                if has_sum {
                    prop_assert_eq!(sums(&after)[1], sums(&frame)[1]);
                }
                // Nothing else has changed: addresses, ports and checksums apart.
                for at in (ETHERNET..HOPS).chain(ETHERNET + HEADER + 8..frame.len()) {
                    prop_assert_eq!(after[at], frame[at], "byte {}", at);
                }
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }
}
