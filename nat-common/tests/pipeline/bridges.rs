//! Bridges on which netfilter sees packets before they are translated.

use nat_common::{
    pipeline::Verdict,
    wire::protocol::{TCP, UDP},
};

use crate::family::{C1, C2, HEADER, ICMP, Ip, PUBLIC, S1A, UNREACHABLE, World, ends};
use kit::{
    packets::{At, answer, error, request, udp},
    world::{Hook, LAN, UPLINK},
};

const FORWARDED: At<Ip> = At(PUBLIC, 10_000);
const SERVER: At<Ip> = At(C2, 80);
const REMOTE: At<Ip> = At(S1A, 7000);

fn forwarding() -> World {
    let mut world = World::new();
    for protocol in [TCP, UDP] {
        world.forward(protocol, 10_000..=10_009, SERVER);
    }
    world.forward(ICMP, 0..=0, SERVER);
    world.netfilter_first();
    world
}

/// Opening packets, later ones, answers and errors: every packet that the uplink's ingress
/// translates is received again.
#[test]
fn translated_packets_from_outside_are_received_again() {
    for protocol in [TCP, UDP, ICMP] {
        let world = forwarding();
        let asked = request(protocol, REMOTE, FORWARDED).bytes();
        for _ in 0..2 {
            let (verdict, bytes) = world.run(Hook::Inbound, &asked, UPLINK, UPLINK).unwrap();
            assert_eq!(verdict, Verdict::ReceivedAnew);
            assert_eq!(ends(&bytes).1.0, C2);
        }
        let sent = request(protocol, At(C1, 5000), REMOTE).bytes();
        let out = world.guest_sends(&sent).uplink();
        let answered = answer(protocol, REMOTE, ends(&out).0).bytes();
        for packet in [answered, error(S1A, &out, UNREACHABLE, HEADER + 8).bytes()] {
            let (verdict, bytes) = world.run(Hook::Inbound, &packet, UPLINK, UPLINK).unwrap();
            assert_eq!(verdict, Verdict::ReceivedAnew);
            assert_eq!(ends(&bytes).1.0, C1);
        }
        world.check();
    }
}

/// The same at the guests' bridge, in both directions.
#[test]
fn hairpinned_packets_are_received_again() {
    for protocol in [TCP, UDP, ICMP] {
        let world = forwarding();
        let asked = request(protocol, At(C1, 5000), FORWARDED).bytes();
        let (verdict, _) = world.run(Hook::FromGuest, &asked, LAN, LAN).unwrap();
        assert_eq!(verdict, Verdict::ReceivedAnew);
        let seen = world.guest_sends(&asked).guest();
        let (shown, at) = ends(&seen);
        let answered = answer(protocol, at, shown).bytes();
        for packet in [answered, error(C2, &seen, UNREACHABLE, HEADER + 8).bytes()] {
            let (verdict, _) = world.run(Hook::FromGuest, &packet, LAN, LAN).unwrap();
            assert_eq!(verdict, Verdict::ReceivedAnew);
        }
    }
}

/// A packet that ingress does not translate keeps netfilter's state.
#[test]
fn packets_that_are_not_translated_go_on_at_once() {
    let world = forwarding();
    let out = udp(At(C1, 5000), REMOTE).bytes();
    let to_host = udp(REMOTE, At(PUBLIC, 22)).bytes();
    for (hook, interface, packet) in [
        (Hook::FromGuest, LAN, out),
        (Hook::Inbound, UPLINK, to_host),
    ] {
        let (verdict, bytes) = world.run(hook, &packet, interface, interface).unwrap();
        assert_eq!((verdict, bytes), (Verdict::Untouched, packet));
    }
}

/// Receiving a packet again has a cost: without netfilter at the bridge, no packet pays it.
#[test]
fn without_bridge_netfilter_no_packet_is_received_again() {
    let mut world = World::new();
    world.forward(UDP, 10_000..=10_009, SERVER);
    let from_outside = udp(REMOTE, FORWARDED).bytes();
    let from_guest = udp(At(C1, 5000), FORWARDED).bytes();
    for (hook, interface, packet) in [
        (Hook::Inbound, UPLINK, from_outside),
        (Hook::FromGuest, LAN, from_guest),
    ] {
        for expected in [Verdict::Opened, Verdict::Translated] {
            let (verdict, bytes) = world.run(hook, &packet, interface, interface).unwrap();
            assert_eq!(verdict, expected, "{hook:?}");
            assert_eq!(ends(&bytes).1.0, C2);
        }
    }
}
