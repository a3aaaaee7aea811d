//! Which guest receives an error about its refused packet, and how often.

use nat_common::{
    drop_reason::DropReason,
    headers::parsed::{Parsed, parse},
    pipeline::refusal::recipient,
    tables::{
        inside::{INSIDE_FIXED_BITS, Inside, InsideFlags, InsideKey},
        interfaces::{Interface, role},
        refusals::RATE_LIMITERS,
    },
    wire::{address::Address as _, packet::SlicePacket, unreachable::Recipient},
};

use crate::family::{
    ADDRESS_BITS, Addr, C1, C2, C3, IS_IPV6, Ip, S1A, World, addr, fragments, host,
};
use kit::{
    packets::{At, ETHERNET, raw, udp},
    world::{DMZ, ELSEWHERE, LAN, UPLINK},
};

const REMOTE: At<Ip> = At(S1A, 7000);
const GATEWAY: Ip = host([172, 22, 161, 254]);

/// The receiver of an error about a packet that came in by one interface and is at another.
fn told(world: &World, packet: &[u8], interfaces: [u32; 2]) -> Option<Recipient<Addr>> {
    let mut bytes = packet.to_vec();
    let mut parsed = Parsed::EMPTY;
    parse(&SlicePacket::new(&mut bytes, LAN), ETHERNET, &mut parsed).unwrap();
    recipient(&world.tables, &parsed, interfaces)
}

fn from(guest: Ip) -> Vec<u8> {
    udp(At(guest, 5000), REMOTE).bytes()
}

#[test]
fn x1_a_guests_errors_come_from_its_gateway() {
    let to = |interface| Recipient {
        gateway: addr(GATEWAY),
        guest: addr(C1),
        interface,
    };
    let world = World::new();
    // At the uplink's egress, at the network's ingress, and between networks.
    for interfaces in [
        [LAN, UPLINK],
        [LAN, LAN],
        [DMZ, LAN],
        [UPLINK, LAN],
        [LAN, DMZ],
    ] {
        assert_eq!(told(&world, &from(C1), interfaces), Some(to(LAN)));
        world.tables.rate_limiters.entries()[0].1.store(0);
    }
    // Neither at an interface that is not its network's, nor at one that is none.
    for interfaces in [
        [UPLINK, UPLINK],
        [DMZ, UPLINK],
        [ELSEWHERE, DMZ],
        [0, UPLINK],
    ] {
        assert_eq!(told(&world, &from(C1), interfaces), None, "{interfaces:?}");
    }
}

#[test]
fn x1_a_bridge_port_with_the_networks_number_is_not_the_network() {
    let mut world = World::new();
    let port = Interface {
        role: role::PORT,
        number: 1,
        ..Interface::default()
    };
    world.tables.interfaces.insert(7, port);
    assert_eq!(told(&world, &from(C1), [7, UPLINK]), None);
    let told = told(&world, &from(C1), [7, LAN]);
    assert_eq!(told.map(|to| to.interface), Some(LAN));
}

#[test]
fn x1_packets_that_cannot_be_quoted_are_dropped_silently() {
    let mut world = World::new();
    let interfaces = [LAN, UPLINK];
    let whole = udp(At(C1, 5000), REMOTE).payload(&[0; 500]).bytes();
    let parts = fragments(&whole, 256);
    // A first fragment says its ports. (That of IPv6 has one more header to be quoted.)
    let of_first = told(&world, &parts[0], interfaces);
    assert_eq!(of_first.is_some(), !IS_IPV6);
    for (what, packet) in [
        (
            "options",
            udp(At(C1, 5000), REMOTE).options(&[1; 4]).bytes(),
        ),
        ("a later fragment", parts[1].clone()),
        ("too short", raw(47, C1, S1A).payload(&[0; 8 - 1]).bytes()),
        (
            "a group",
            udp(At(C1, 5000), At(host([224, 0, 0, 251]), 5353)).bytes(),
        ),
        ("from the prefix of no network", from(host([192, 0, 2, 9]))),
    ] {
        assert_eq!(told(&world, &packet, interfaces), None, "{what}");
    }
    let shortest = raw(47, C1, S1A).payload(&[0; 8]).bytes();
    assert!(told(&world, &shortest, interfaces).is_some());
    // A prefix that only a rule has has no gateway to send an error.
    let key = InsideKey {
        generation: 1,
        reserved: [0; 2],
        address: addr(C2),
    };
    let inside = Inside {
        network: 1,
        flags: InsideFlags::empty(),
        gateway: Addr::UNSPECIFIED,
        mac: [0; 6],
        reserved: [0; 2],
    };
    world
        .tables
        .inside
        .insert(INSIDE_FIXED_BITS + ADDRESS_BITS, &key, inside);
    assert_eq!(told(&world, &from(C2), interfaces), None);
}

#[test]
fn x1_each_guest_gets_eight_errors_a_second() {
    let mut world = World::new();
    for second in 0..3 {
        for (guest, network) in [(C1, LAN), (C3, DMZ)] {
            let times = (0..40).filter(|_| told(&world, &from(guest), [network, UPLINK]).is_some());
            assert_eq!(times.count(), 8, "second {second}");
        }
        world.advance(1);
    }
    // Each has a clock by its address, of a bounded number of clocks.
    let clocks = world.tables.rate_limiters.entries();
    let mut numbers: Vec<u32> = clocks.iter().map(|(number, _)| *number).collect();
    let mut expected = [C1, C3]
        .map(|guest| addr(guest).hash() % RATE_LIMITERS)
        .to_vec();
    numbers.sort_unstable();
    expected.sort_unstable();
    assert_eq!(numbers, expected);
    // The clock holds the second and how often it was told in it.
    let first = clocks.iter().map(|(_, clock)| clock.load());
    assert!(
        first.clone().all(|clock| clock == 1002 << 8 | 8),
        "{:x?}",
        first.collect::<Vec<_>>()
    );
}

#[test]
fn x1_only_packets_without_room_count_as_refused() {
    use DropReason::*;
    for reason in [
        TableFull,
        PortsExhausted,
        RemoteInUse,
        NoAddress,
        GuestSessions,
        GuestPorts,
    ] {
        assert!(reason.is_refusal(), "{reason:?}");
    }
    for reason in [
        Malformed,
        Spoofed,
        Filtered,
        NoSession,
        Policy,
        Ending,
        FragmentsFull,
    ] {
        assert!(!reason.is_refusal(), "{reason:?}");
    }
}
