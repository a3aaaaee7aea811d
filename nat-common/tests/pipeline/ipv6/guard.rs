//! What a guest may send at its port of a bridge (6F7, 6F8).

use kit::{
    ipv6::{C1, C2, C3, HOPS, Ip, S1A, World},
    octets::{DESTINATION_OPTIONS, HOP_BY_HOP},
    packets::{At, SYN, icmp, ping, tcp, udp},
};
use nat_common::{
    pipeline::{
        guard::{FORGED, PASSES, PASSES_SLOWLY},
        guard_ipv6::{ROGUE, check},
    },
    tables::{
        inside::InsideFlags,
        interfaces::{Interface, InterfaceFlags, role},
    },
    wire::packet::SlicePacket,
};

use super::ip;

const TAP: u32 = 21;
const MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
const ROUTER_ADVERTISEMENT: u8 = 134;
const REDIRECT: u8 = 137;

/// A network at whose ports guests are judged.
fn world() -> World {
    let mut world = World::new();
    let port = Interface {
        role: role::PORT,
        number: 1,
        flags: InterfaceFlags::GUARDED,
        ..Interface::default()
    };
    world.tables.interfaces.insert(TAP, port);
    world
}

fn judged(world: &World, frame: &[u8]) -> u32 {
    judged_in(world, frame, 0)
}

fn judged_in(world: &World, frame: &[u8], vlan: u32) -> u32 {
    let mut frame = frame.to_vec();
    frame[6..12].copy_from_slice(&MAC);
    check(
        &mut SlicePacket::new(&mut frame, 0),
        &world.tables,
        TAP,
        vlan,
    )
}

/// A message between neighbours.
fn message(kind: u8, source: Ip, destination: Ip) -> Vec<u8> {
    let message = icmp(source, destination, [kind, 0, 0, 0, 0, 0]);
    let mut frame = message.payload(&[0; 16]).bytes();
    frame[HOPS] = 255;
    frame
}

#[test]
fn f6_7_a_guest_sends_from_addresses_of_its_network_alone() {
    let mut world = world();
    let gateway = ip("fd00::ac16:a1fe");
    for (source, verdict) in [
        (C1, PASSES),
        (C2, PASSES),
        (gateway, FORGED),
        (C3, FORGED),
        (S1A, FORGED),
        (ip("::1"), FORGED),
        (ip("::ffff:172.22.161.170"), FORGED),
        (ip("ff02::1"), FORGED),
        (ip("::"), FORGED),
        (ip("fe80::10"), PASSES),
    ] {
        for frame in [
            tcp(At(source, 5000), At(S1A, 7000), SYN).bytes(),
            udp(At(source, 5000), At(S1A, 7000)).bytes(),
            ping(At(source, 77), S1A).bytes(),
        ] {
            assert_eq!(judged(&world, &frame), verdict, "{source:?}");
        }
    }
    world.known_by(C1, InsideFlags::HAS_MAC, MAC);
    world.known_by(C2, InsideFlags::HAS_MAC, [2; 6]);
    for (source, verdict) in [(C1, PASSES), (C2, FORGED)] {
        let frame = udp(At(source, 5000), At(S1A, 7000)).bytes();
        assert_eq!(judged(&world, &frame), verdict);
    }
    world.tables.settings = None;
    let frame = udp(At(C1, 5000), At(S1A, 7000)).bytes();
    assert_eq!(judged(&world, &frame), FORGED);
}

#[test]
fn f6_7_duplicate_address_detection_passes() {
    let (unspecified, group) = (ip("::"), ip("ff02::1:ff00:10"));
    let world = world();
    for kind in [133, 135, 143] {
        assert_eq!(judged(&world, &message(kind, unspecified, group)), PASSES);
    }
}

#[test]
fn f6_8_only_the_host_is_a_router_or_dhcpv6_server() {
    let world = world();
    let (guest, all) = (ip("fe80::10"), ip("ff02::1"));
    for (kind, verdict) in [
        (133, PASSES),
        (ROUTER_ADVERTISEMENT, ROGUE),
        (135, PASSES),
        (136, PASSES),
        (REDIRECT, ROGUE),
        (143, PASSES),
    ] {
        let frame = message(kind, guest, all);
        assert_eq!(judged(&world, &frame), verdict, "type {kind}");
    }
    for (ports, verdict) in [
        ((546, 547), PASSES),
        ((547, 546), ROGUE),
        ((5000, 546), ROGUE),
        ((547, 5000), ROGUE),
        ((5000, 5001), PASSES),
    ] {
        let frame = udp(At(guest, ports.0), At(all, ports.1)).bytes();
        assert_eq!(judged(&world, &frame), verdict, "{ports:?}");
    }
}

/// RFC 7113 section 3.
#[test]
fn f6_8_no_header_hides_a_router() {
    let world = world();
    let (guest, all) = (ip("fe80::10"), ip("ff02::1"));
    let behind = |kind: u8, options: usize| {
        let mut message = icmp(guest, all, [kind, 0, 0, 0, 0, 0]).payload(&[0; 16]);
        for number in 0..options {
            let header = match number {
                0 => HOP_BY_HOP,
                _ => DESTINATION_OPTIONS,
            };
            message = message.extension(header, &[1, 4, 0, 0, 0, 0]);
        }
        message.bytes()
    };
    for options in [1, 2, 6] {
        assert_eq!(
            judged(&world, &behind(ROUTER_ADVERTISEMENT, options)),
            ROGUE
        );
        assert_eq!(judged(&world, &behind(135, options)), PASSES);
    }
    // With seven, natbpf does not see what follows.
    assert_eq!(judged(&world, &behind(135, 7)), ROGUE);
}

#[test]
fn f6_8_no_fragment_hides_a_router() {
    let world = world();
    let (guest, all) = (ip("fe80::10"), ip("ff02::1"));
    let advertisement = message(ROUTER_ADVERTISEMENT, guest, all);
    let pieces = kit::ipv6::fragments(&advertisement, 16);
    assert!(pieces.len() > 1);
    assert_eq!(judged(&world, &pieces[0]), ROGUE);
    // Nothing without the first one.
    assert_eq!(judged(&world, &pieces[1]), PASSES);
    let solicitation = message(135, guest, all);
    let pieces = kit::ipv6::fragments(&solicitation, 16);
    assert_eq!(judged(&world, &pieces[0]), PASSES);
    // A first fragment without the message.
    let nothing = kit::ipv6::piece_of(&solicitation, 0, &[], true);
    assert_eq!(judged(&world, &nothing), ROGUE);
    for len in 0..solicitation.len() {
        let is_cut_off = len < 14 + 40 + 4;
        if is_cut_off && len >= 12 {
            assert_eq!(judged(&world, &solicitation[..len]), ROGUE, "{len}");
        }
    }
}

#[test]
fn frames_of_other_networks_and_of_ports_without_a_guard_pass() {
    let mut world = world();
    let advertisement = message(ROUTER_ADVERTISEMENT, ip("fe80::10"), ip("ff02::1"));
    assert_eq!(judged_in(&world, &advertisement, 7), PASSES);
    world.tables.interfaces.get_mut(&TAP).unwrap().vlan = 7;
    assert_eq!(judged_in(&world, &advertisement, 7), ROGUE);
    let port = world.tables.interfaces.get_mut(&TAP).unwrap();
    port.flags = InterfaceFlags::SLOW;
    assert_eq!(judged(&world, &advertisement), PASSES_SLOWLY);
    world.tables.interfaces.remove(&TAP);
    assert_eq!(judged(&world, &advertisement), PASSES_SLOWLY);
}
