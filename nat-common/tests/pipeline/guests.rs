//! What one guest may have and from where it may send: X3, S1, S3.

use nat_common::{
    drop_reason::DropReason,
    tables::snats::filtering,
    wire::protocol::{TCP, UDP},
};

use crate::family::{
    C1, C2, C3, HEADER, IS_IPV6, Ip, PUBLIC, S1A, S1B, S2, UNREACHABLE, World, ends, host,
};
use kit::{
    packets::{At, ETHERNET, answer, error, request, udp},
    world::DMZ,
};

const REMOTE: At<Ip> = At(S1A, 7000);

/// N sessions pass, the next one is refused, others are not affected, and there is room again when
/// one has ended. The same for what comes in by a forward and for hairpins.
#[test]
fn x3_a_guest_has_as_many_sessions_as_it_may() {
    let mut world = World::new();
    world.caps(3, 0);
    world.forward(UDP, 10_000..=10_009, At(C1, 80));
    world.forward(UDP, 20_000..=20_009, At(C2, 80));
    let send =
        |world: &World, guest, port| world.guest_sends(&udp(At(guest, port), REMOTE).bytes());
    let ask =
        |world: &World, port| world.outside_sends(&udp(At(S1B, port), At(PUBLIC, 10_000)).bytes());
    send(&world, C1, 5000).uplink();
    ask(&world, 1).guest();
    world
        .guest_sends(&udp(At(C1, 5001), At(PUBLIC, 20_000)).bytes())
        .guest();
    let before = world.entries();
    assert_eq!(send(&world, C1, 5002).reason(), DropReason::GuestSessions);
    assert_eq!(ask(&world, 2).reason(), DropReason::GuestSessions);
    let hairpin = world.guest_sends(&udp(At(C1, 5003), At(PUBLIC, 20_000)).bytes());
    assert_eq!(hairpin.reason(), DropReason::GuestSessions);
    assert_eq!(world.entries(), before);
    world.check();
    // Its existing sessions continue, and so do the others.
    send(&world, C1, 5000).uplink();
    send(&world, C2, 5000).uplink();
    send(&world, C3, 5000).uplink();
    world.advance(299);
    send(&world, C1, 5000).uplink();
    world.wait(1);
    send(&world, C1, 5002).uplink();
    world.check();
    world.wait(10_000);
    assert_eq!(world.entries(), [0; 4]);
    assert!(world.tables.guests.entries().is_empty());
}

/// A remote that a guest lets in counts for that guest.
#[test]
fn x3_sessions_that_remotes_open_to_a_mapping_count_for_its_guest() {
    let mut world = World::new();
    world.caps(2, 0);
    world.snat(|snat| snat.filtering = filtering::ENDPOINT_INDEPENDENT);
    world
        .guest_sends(&udp(At(C1, 5000), REMOTE).bytes())
        .uplink();
    let from = |port| udp(At(S2, port), At(PUBLIC, 5000)).bytes();
    world.outside_sends(&from(1)).guest();
    let refused = world.outside_sends(&from(2));
    assert_eq!(refused.reason(), DropReason::GuestSessions);
    world.check();
}

/// One port serves many remotes: only new ports are refused.
#[test]
fn x3_a_guest_has_as_many_ports_as_it_may() {
    for protocol in [UDP, TCP] {
        let mut world = World::new();
        world.caps(0, 2);
        let send = |world: &World, guest, port, remote| {
            let packet = request(protocol, At(guest, port), At(remote, 7000));
            world.guest_sends(&packet.bytes())
        };
        send(&world, C1, 5000, S1A).uplink();
        send(&world, C1, 5001, S1A).uplink();
        let refused = send(&world, C1, 5002, S1A);
        assert_eq!(refused.reason(), DropReason::GuestPorts);
        send(&world, C1, 5000, S2).uplink();
        send(&world, C2, 5002, S1A).uplink();
        world.check();
        world.wait(10_000);
        send(&world, C1, 5002, S1A).uplink();
        world.check();
    }
}

/// A cap that is lowered ends nothing.
#[test]
fn x3_a_lower_cap_keeps_existing_sessions() {
    let mut world = World::new();
    let send = |world: &World, port| world.guest_sends(&udp(At(C1, port), REMOTE).bytes());
    for port in 5000..5004 {
        send(&world, port).uplink();
    }
    world.caps(2, 2);
    for port in 5000..5004 {
        send(&world, port).uplink();
    }
    assert_eq!(send(&world, 5004).reason(), DropReason::GuestSessions);
    world.check();
}

/// Nobody can answer a packet from or to port 0, nor one whose source is its destination.
#[test]
fn s1_ports_of_0_and_equal_ends_are_dropped_by_their_reasons() {
    let mut world = World::new();
    world.forward(UDP, 10_000..=10_009, At(C1, 80));
    for (from, to) in [(0, 7000), (5000, 0)] {
        let out = udp(At(C1, from), At(S1A, to)).bytes();
        assert_eq!(world.guest_sends(&out).reason(), DropReason::PortZero);
    }
    for (from, to) in [(0, 10_000), (5000, 0)] {
        let asked = udp(At(S1A, from), At(PUBLIC, to)).bytes();
        assert_eq!(world.outside_sends(&asked).reason(), DropReason::PortZero);
    }
    let hairpin = udp(At(C2, 0), At(PUBLIC, 10_000)).bytes();
    assert_eq!(world.guest_sends(&hairpin).reason(), DropReason::PortZero);
    let same = udp(At(PUBLIC, 10_000), At(PUBLIC, 10_000)).bytes();
    let fate = world.outside_sends(&same);
    assert_eq!(fate.reason(), DropReason::SameEndpoints);
    let same = udp(At(C1, 10_000), At(C1, 10_000)).bytes();
    assert_eq!(world.guest_sends(&same).reason(), DropReason::SameEndpoints);
    assert_eq!(world.entries(), [0; 4]);
}

/// With `anti_spoof` a packet passes only from its network's prefix, and from the guest whose
/// address it has where that is known.
#[test]
fn s3_another_guests_address_is_dropped() {
    const OWN: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
    let mut world = World::new();
    world.anti_spoof(C1, OWN);
    let from = |source, mac: [u8; 6]| {
        let mut packet = udp(At(source, 5000), REMOTE).bytes();
        packet[6..ETHERNET - 2].copy_from_slice(&mac);
        packet
    };
    let other = [0x52, 0x54, 0, 0, 0, 2];
    world.network_sends(2, &from(C1, OWN)).uplink();
    world.network_sends(2, &from(C2, other)).uplink();
    for source in [C1, C3, S2] {
        let fate = world.network_sends(2, &from(source, other));
        assert_eq!(fate.reason(), DropReason::Spoofed, "{source:?}");
    }
    // It has no address yet, and asks for one. (In IPv6 it asks a group.)
    let asking = world.run(
        kit::world::Hook::FromGuest,
        &from(host([0; 4]), other),
        2,
        2,
    );
    assert_eq!(asking.is_ok(), !IS_IPV6);
}

/// A guest with two interfaces may answer by the other one: the session is found by where the
/// routes put it.
#[test]
fn answers_by_another_network_find_their_session() {
    for protocol in [UDP, TCP] {
        let mut world = World::new();
        let server = At(C1, 80);
        world.forward(protocol, 10_000..=10_000, server);
        let (remote, public) = (At(S1A, 7000), At(PUBLIC, 10_000));
        let asked = world.outside_sends(&request(protocol, remote, public).bytes());
        assert_eq!(ends(&asked.guest()), (remote, server));
        let answered = answer(protocol, server, remote).bytes();
        let seen = world.network_sends(DMZ, &answered).uplink();
        assert_eq!(ends(&seen), (public, remote));
        // The same between guests, and for what is not delivered.
        let client = At(C2, 5000);
        let asked = request(protocol, client, public).bytes();
        let received = world.guest_sends(&asked).guest();
        let answered = answer(protocol, server, ends(&received).0).bytes();
        let seen = world.network_sends(DMZ, &answered).guest();
        assert_eq!(ends(&seen), (public, client));
        let sent = request(protocol, remote, public).bytes();
        let received = world.outside_sends(&sent).guest();
        let refused = error(C1, &received, UNREACHABLE, HEADER + 8).bytes();
        let seen = world.network_sends(DMZ, &refused).uplink();
        assert_eq!(ends(&seen).0.0, PUBLIC);
        world.check();
    }
}
