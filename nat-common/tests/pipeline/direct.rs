//! Packets from the uplink's link to inside addresses as they are: S10.

use nat_common::{
    drop_reason::DropReason,
    pipeline::Verdict,
    tables::policies::side,
    wire::protocol::{TCP, UDP},
};

use super::policy::accept;
use crate::family::{
    C1, C2, C3, HEADER, ICMP, Ip, POOL, PUBLIC, S1A, S2, TIME_EXCEEDED, UNREACHABLE, World, ends,
    fragments, host,
};
use kit::{
    packets::{ACK, At, GRE, RST, answer, error, pong, raw, request, tcp, udp},
    tables::Lpm,
    world::{Fate, Hook, LAN},
};

const WAN_SIDE: u16 = side::UPLINKS | 1;
const GATEWAY: Ip = host([172, 22, 161, 254]);
const BROADCAST: Ip = host([172, 22, 161, 255]);

/// Whether a packet from outside reaches a guest unchanged.
#[track_caller]
fn passes(world: &World, packet: &[u8]) -> bool {
    match world.outside_sends(packet) {
        Fate::Network(_, seen) => {
            assert_eq!(seen, packet);
            true
        }
        Fate::Dropped(reason) => {
            assert_eq!(reason, DropReason::DirectToInside);
            false
        }
        other => panic!("{other:?}"),
    }
}

/// Of all protocols, opening packets and answers.
fn packets(from: Ip, to: Ip) -> Vec<Vec<u8>> {
    let mut packets: Vec<_> = [UDP, TCP, ICMP, GRE]
        .into_iter()
        .map(|protocol| request(protocol, At(from, 5353), At(to, 5353)).bytes())
        .collect();
    packets.extend([ACK, RST].map(|flags| tcp(At(from, 1), At(to, 80), flags).bytes()));
    packets.push(pong(from, At(to, 7)).bytes());
    // From a DHCP server's port to a client's.
    packets.push(udp(At(from, 67), At(to, 68)).bytes());
    let large = udp(At(from, 1), At(to, 2)).payload(&[5; 100]).bytes();
    packets.extend(fragments(&large, 48));
    let quoted = udp(At(to, 5000), At(from, 9)).bytes();
    packets.push(error(from, &quoted, UNREACHABLE, HEADER + 8).bytes());
    packets
}

/// Neither guests nor the host's own address among them are reached, and nothing is opened.
#[test]
fn s10_translated_inside_addresses_are_not_reached_directly() {
    let world = World::new();
    for to in [C1, C2, C3, GATEWAY, BROADCAST] {
        for packet in packets(S1A, to) {
            assert!(!passes(&world, &packet), "{to:?} {packet:?}");
        }
    }
    assert_eq!(world.entries(), [0; 4]);
}

/// A rule hides guests from an uplink, not from a network that has the uplink's number.
#[test]
fn s10_packets_from_other_interfaces_reach_inside_addresses() {
    let world = World::new();
    let packet = udp(At(S1A, 5353), At(C1, 5353)).bytes();
    let (verdict, after) = world.run(Hook::Inbound, &packet, LAN, LAN).unwrap();
    assert_eq!((verdict, after), (Verdict::Untouched, packet));
}

/// A guest behind another guest has an address that no prefix names: the routes say where it is.
#[test]
fn s10_guests_behind_other_guests_are_not_reached_directly() {
    let mut world = World::new();
    world.tables.inside = Lpm::default();
    for packet in packets(S1A, C1) {
        assert!(!passes(&world, &packet));
    }
}

/// A guest with its own address is reached only by that.
#[test]
fn s10_a_guest_with_an_external_address_is_reached_by_that_alone() {
    let mut world = World::new();
    world.one_to_one(POOL[0], C1);
    for packet in packets(S1A, C1) {
        assert!(!passes(&world, &packet));
    }
    let asked = udp(At(S1A, 1), At(POOL[0], 2)).bytes();
    assert_eq!(ends(&world.outside_sends(&asked).guest()).1, At(C1, 2));
}

/// Routed guests are reached: no rule translates them.
#[test]
fn s10_untranslated_inside_addresses_are_reached() {
    let mut world = World::new();
    world.without_snat(C1);
    for packet in packets(S1A, C1) {
        assert!(passes(&world, &packet), "{packet:?}");
    }
    assert!(!passes(&world, &udp(At(S1A, 1), At(C2, 2)).bytes()));
}

/// Excluded packets leave untranslated, so their answers and errors return unchanged.
#[test]
fn s10_excluded_destinations_answer_directly() {
    let mut world = World::new();
    world.exclude(S1A, 24);
    for packet in packets(S1A, C1) {
        assert!(passes(&world, &packet), "{packet:?}");
    }
    let sent = udp(At(C1, 5000), At(S1A, 9)).bytes();
    let other = udp(At(C1, 5000), At(host([8, 8, 8, 8]), 9)).bytes();
    assert!(passes(
        &world,
        &error(S2, &sent, TIME_EXCEEDED, HEADER + 8).bytes()
    ));
    assert!(!passes(
        &world,
        &error(S2, &other, TIME_EXCEEDED, HEADER + 8).bytes()
    ));
    assert!(!passes(&world, &udp(At(S2, 1), At(C1, 2)).bytes()));
}

/// A policy lets in what it is about, and the answers out.
#[test]
fn s10_a_policy_admits_accepted_flows() {
    for protocol in [UDP, TCP, ICMP] {
        let mut world = World::new();
        let policy = nat_common::tables::policies::Policy {
            protocol,
            ..accept()
        };
        world.chain(WAN_SIDE, 1, &[policy]);
        let (remote, guest) = (At(S1A, 4000), At(C1, 4000));
        assert!(passes(&world, &request(protocol, remote, guest).bytes()));
        assert!(passes(&world, &request(protocol, remote, guest).bytes()));
        let back = answer(protocol, guest, remote).bytes();
        assert_eq!(world.guest_sends(&back).uplink(), back);
        let others = [
            raw(GRE, S1A, C1).bytes(),
            udp(At(S1A, 1), At(C3, 2)).bytes(),
        ];
        assert!(others.iter().all(|packet| !passes(&world, packet)));
        // And the host is reached as ever.
        let own = udp(At(S1A, 1), At(PUBLIC, 22)).bytes();
        assert_eq!(world.outside_sends(&own).host(), own);
    }
}
