//! What rules say: M1 to M4.

use nat_common::{
    drop_reason::DropReason,
    wire::{
        address::Address,
        protocol::{TCP, UDP},
    },
};

use crate::family::{
    C1, C2, ICMP, Ip, POOL, PUBLIC, S1A, S1B, S2, World, addr, assert_hidden, ends, host,
};
use kit::packets::{ACK, At, GRE, SYN, answer, ping, pong, raw, request, tcp, udp};

const CLIENT: At<Ip> = At(S1A, 40_000);

/// A request by a forwarded port and its answer; returns source and destination as the guest saw
/// them.
#[track_caller]
fn exchange(world: &World, protocol: u8, client: At<Ip>, port: u16) -> (At<Ip>, At<Ip>) {
    let public = At(PUBLIC, port);
    let asked = world.outside_sends(&request(protocol, client, public).bytes());
    let (shown, server) = ends(&asked.guest());
    let answered = world.guest_sends(&answer(protocol, server, shown).bytes());
    let answered = answered.uplink();
    assert_eq!(
        ends(&answered),
        ends(&answer(protocol, public, client).bytes())
    );
    world.check();
    (shown, server)
}

/// First, last and inner ports of ranges land where they should, and their neighbours nowhere.
#[test]
fn m2_ports_of_ranges_land_where_they_should() {
    for protocol in [UDP, TCP] {
        let mut world = World::new();
        world.forward(protocol, 10_000..=10_999, At(C1, 10_000));
        world.forward(protocol, 3000..=3099, At(C2, 53_000));
        world.forward_to_one(protocol, 6000..=6009, At(C2, 80));
        world.forward(protocol, 1..=1, At(C1, 65_535));
        world.forward(protocol, 65_535..=65_535, At(C1, 1));
        for (port, guest) in [
            (10_000, At(C1, 10_000)),
            (10_500, At(C1, 10_500)),
            (10_999, At(C1, 10_999)),
            (3000, At(C2, 53_000)),
            (3099, At(C2, 53_099)),
            (6000, At(C2, 80)),
            (1, At(C1, 65_535)),
            (65_535, At(C1, 1)),
        ] {
            assert_eq!(exchange(&world, protocol, CLIENT, port), (CLIENT, guest));
        }
        for port in [9999, 11_000, 2999, 3100, 5999, 6010, 2, 65_534] {
            let packet = request(protocol, CLIENT, At(PUBLIC, port)).bytes();
            assert_eq!(world.outside_sends(&packet).host(), packet, "port {port}");
        }
    }
}

/// One remote that comes from one port to two external ports of one guest's port gets answers from
/// the port that it has asked.
#[test]
fn m2_two_ports_to_one_show_the_guest_two_remotes() {
    for protocol in [UDP, TCP] {
        let mut world = World::new();
        world.forward_to_one(protocol, 6000..=6009, At(C1, 80));
        let first = exchange(&world, protocol, CLIENT, 6000);
        let second = exchange(&world, protocol, CLIENT, 6001);
        assert_eq!(first, (CLIENT, At(C1, 80)));
        assert_eq!((second.0.0, second.1), (S1A, At(C1, 80)));
        assert_ne!(first.0, second.0);
        assert_eq!(exchange(&world, protocol, CLIENT, 6000), first);
        assert_eq!(exchange(&world, protocol, CLIENT, 6001), second);
        assert_eq!(world.entries()[0], 4);
    }
}

/// Excluded destinations see the guest's address, others of the same rule do not.
#[test]
fn m3_excluded_destinations_are_not_translated() {
    let mut world = World::new();
    world.exclude(host([10, 0, 0, 0]), 8);
    let packet = udp(At(C1, 5000), At(host([10, 1, 2, 3]), 7000)).bytes();
    assert_eq!(world.guest_sends(&packet).uplink(), packet);
    assert_hidden(
        &world
            .guest_sends(&udp(At(C1, 5000), At(S1A, 1)).bytes())
            .uplink(),
    );
    assert_eq!(world.entries()[0], 2);
}

/// Multicast and broadcast do not leave with a guest's address, and not with the host's either.
#[test]
fn m3_multicast_and_broadcast_do_not_leave() {
    let world = World::new();
    for group in [host([224, 0, 0, 251]), host([239, 1, 1, 1]), host([255; 4])] {
        let packet = udp(At(C1, 5353), At(group, 5353)).bytes();
        assert_eq!(world.guest_sends(&packet).reason(), DropReason::NoSession);
    }
    assert_eq!(world.entries(), [0; 4]);
}

/// Without an address to hide behind nothing leaves.
#[test]
fn m3_without_an_external_address_nothing_leaves() {
    let mut world = World::new();
    world.snat(|snat| {
        snat.first = Address::UNSPECIFIED;
        snat.last = Address::UNSPECIFIED;
    });
    let fate = world.guest_sends(&udp(At(C1, 5000), At(S1A, 1)).bytes());
    assert_eq!(fate.reason(), DropReason::NoAddress);
}

fn pooled() -> World {
    let mut world = World::new();
    world.snat(|snat| {
        snat.first = addr(POOL[0]);
        snat.last = addr(POOL[1]);
    });
    for last in 12..=15 {
        world.external(host([19, 19, 8, last]), false);
    }
    world
}

/// A guest has one address of the pool for all protocols and remotes, and the guests together use
/// all of it.
#[test]
fn m4_a_guest_keeps_one_address_of_the_pool() {
    let world = pooled();
    let mut used = std::collections::BTreeSet::new();
    for last in 1..=64 {
        let guest: Ip = host([172, 22, 161, last]);
        let sources = [(UDP, S1A), (TCP, S1A), (ICMP, S1B), (UDP, S2), (GRE, S2)];
        let sources = sources.map(|(protocol, remote)| {
            if protocol == GRE && last > 1 {
                return None;
            }
            let packet = request(protocol, At(guest, 5000), At(remote, 7000)).bytes();
            Some(ends(&world.guest_sends(&packet).uplink()).0.0)
        });
        let address = sources[0].unwrap();
        assert!((POOL[0]..=POOL[1]).contains(&address));
        assert!(sources.iter().flatten().all(|&source| source == address));
        used.insert(address);
    }
    assert_eq!(used.len(), 4);
    world.check();
}

/// An unsolicited packet to a pool's address is dropped: the host does not hold it, and would send
/// it back out.
#[test]
fn m4_unsolicited_packets_to_the_pool_are_dropped() {
    let world = pooled();
    let to = At(POOL[0], 5000);
    let packets = [
        udp(CLIENT, to).bytes(),
        tcp(CLIENT, to, SYN).bytes(),
        tcp(CLIENT, to, ACK).bytes(),
        ping(CLIENT, to.0).bytes(),
        pong(S1A, to).bytes(),
        raw(GRE, S1A, to.0).bytes(),
    ];
    for packet in packets {
        let fate = world.outside_sends(&packet);
        assert_eq!(fate.reason(), DropReason::Unsolicited);
    }
}
