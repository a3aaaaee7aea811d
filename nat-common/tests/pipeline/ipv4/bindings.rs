//! A guest is bound to the port that it is plugged into.

use nat_common::{
    atomics::Shared,
    pipeline::guard::{self, FORGED, KEPT_S, MOST_NAMES, MOST_SERVED_NAMES, PASSES},
    tables::{
        bindings::{BindingRecord, Bindings as _, FIXED, Name},
        inside::{INSIDE_FIXED_BITS, Inside, InsideFlags, InsideKey},
        interfaces::{Interface, InterfaceFlags, role},
    },
    wire::packet::SlicePacket,
};

use super::paged::Paged;
use kit::ipv4::{C1, C2, C3, Ip, S1A, World, addr, fragments, host};
use kit::packets::{ACK, At, tcp, udp};

const TAP1: u32 = 21;
const TAP2: u32 = 22;
const NETWORK: u16 = 1;
const GATEWAY: Ip = host([172, 22, 161, 254]);
const BRIDGE: [u8; 6] = [2, 0, 0, 0, 1, 0xfe];
const M1: [u8; 6] = [2, 0, 0, 0, 1, 1];
const M2: [u8; 6] = [2, 0, 0, 0, 1, 2];
const ARP: [u8; 2] = [8, 6];
const OTHER: [u8; 2] = [0x88, 0xb5];

/// Two ports, at which guests are judged, of a network whose prefix is its guests' own.
fn world() -> World {
    let mut world = World::new();
    let tables = &mut world.tables;
    for port in [TAP1, TAP2] {
        let interface = Interface {
            role: role::PORT,
            number: NETWORK,
            flags: InterfaceFlags::GUARDED | InterfaceFlags::CARRIES,
            mac: BRIDGE,
            ..Interface::default()
        };
        tables.interfaces.insert(port, interface);
        tables.names.add(port, Shared::new(0)).unwrap();
    }
    inside(
        &mut world,
        host([172, 22, 161, 0]),
        24,
        InsideFlags::ON_LINK,
        [0; 6],
    );
    world
}

fn inside(world: &mut World, address: Ip, bits: u32, flags: InsideFlags, mac: [u8; 6]) {
    let key = InsideKey {
        generation: 1,
        reserved: [0; 2],
        address: addr(address),
    };
    let inside = Inside {
        network: NETWORK,
        flags,
        gateway: addr(GATEWAY),
        mac,
        reserved: [0; 2],
    };
    let table = &mut world.tables.inside;
    table.insert(INSIDE_FIXED_BITS + bits, &key, inside);
}

/// Whether a frame passes at a port.
fn passes(world: &World, port: u32, frame: Vec<u8>) -> bool {
    passes_in(world, 0, port, frame)
}

/// Whether a frame passes at a port, with the number of a VLAN in its tag.
fn passes_in(world: &World, vlan: u32, port: u32, mut frame: Vec<u8>) -> bool {
    let mut packet = SlicePacket::new(&mut frame, 0);
    match guard::check(&mut packet, &world.tables, port, vlan) {
        PASSES => true,
        FORGED => false,
        other => panic!("{other}"),
    }
}

fn frame(mac: [u8; 6], kind: [u8; 2]) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(mac);
    frame.extend(kind);
    frame.resize(60, 0);
    frame
}

fn ip(mac: [u8; 6], source: Ip) -> Vec<u8> {
    let mut packet = udp(At(source, 5000), At(S1A, 7000)).bytes();
    packet[6..12].copy_from_slice(&mac);
    packet
}

fn arp(mac: [u8; 6], sender: [u8; 6], address: Ip) -> Vec<u8> {
    let mut frame = frame(mac, ARP);
    frame[14..22].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 2]);
    frame[22..28].copy_from_slice(&sender);
    frame[28..32].copy_from_slice(&address);
    frame
}

fn dhcp(mac: [u8; 6], client: [u8; 6]) -> Vec<u8> {
    let mut message = [0; 240];
    message[28..34].copy_from_slice(&client);
    let asks = udp(At(host([0; 4]), 68), At(host([255; 4]), 67)).payload(&message);
    let mut packet = asks.bytes();
    packet[6..12].copy_from_slice(&mac);
    packet
}

#[test]
fn an_ethernet_address_stays_with_its_port_while_that_carries() {
    let mut world = world();
    assert!(passes(&world, TAP1, frame(M1, OTHER)));
    assert!(!passes(&world, TAP2, frame(M1, OTHER)), "taken");
    assert!(passes(&world, TAP2, frame(M2, OTHER)));
    world.tables.now_s += 86_400;
    assert!(
        !passes(&world, TAP2, frame(M1, OTHER)),
        "after a silent day"
    );
    // The guest has moved: its old port is down, or gone.
    let carries = |world: &mut World, carries: bool| {
        let port = world.tables.interfaces.get_mut(&TAP1).unwrap();
        port.flags = InterfaceFlags::GUARDED;
        if carries {
            port.flags |= InterfaceFlags::CARRIES;
        }
    };
    carries(&mut world, false);
    assert!(passes(&world, TAP2, frame(M1, OTHER)));
    carries(&mut world, true);
    assert!(!passes(&world, TAP1, frame(M1, OTHER)));
    world.tables.interfaces.remove(&TAP2);
    assert!(passes(&world, TAP1, frame(M1, OTHER)));
}

#[test]
fn the_host_and_groups_own_no_guest_address() {
    let world = world();
    assert!(!passes(&world, TAP1, frame(BRIDGE, OTHER)));
    assert!(!passes(&world, TAP1, frame([1, 0, 0x5e, 0, 0, 1], OTHER)));
    assert!(!passes(&world, TAP1, ip(M1, GATEWAY)));
    assert!(!passes(&world, TAP1, arp(M1, M1, GATEWAY)));
}

/// Linux removes tags without a number one by one, and then receives the inner packet.
#[test]
fn frames_hidden_behind_a_second_tag_are_refused() {
    let world = world();
    for tag in [[0x81, 0x00], [0x88, 0xa8]] {
        let mut hidden = arp(M1, M1, GATEWAY);
        hidden.splice(12..12, [tag, [0, 0]].concat());
        assert!(!passes(&world, TAP1, hidden.clone()));
        // A frame of another VLAN belongs to that VLAN.
        assert!(passes_in(&world, 100, TAP1, hidden));
    }
}

/// A bridge that tells VLANs apart takes a frame with the number of a network's own VLAN as one of
/// it.
#[test]
fn a_tag_of_the_own_vlan_hides_nothing() {
    let mut world = world();
    let forged = [
        ip(M1, GATEWAY),
        arp(M1, M1, GATEWAY),
        arp(M1, M2, C1),
        dhcp(M1, M2),
    ];
    assert!(
        forged
            .iter()
            .all(|frame| passes_in(&world, 7, TAP1, frame.clone()))
    );
    world.tables.interfaces.get_mut(&TAP1).unwrap().vlan = 7;
    assert!(
        !forged
            .iter()
            .any(|frame| passes_in(&world, 7, TAP1, frame.clone()))
    );
    assert!(passes_in(&world, 7, TAP1, ip(M1, C1)));
    assert!(passes_in(&world, 8, TAP1, arp(M1, M1, GATEWAY)));
}

/// With a better offer, a guest's port would be the bridge's way to the root.
#[test]
fn a_guest_takes_no_part_in_the_spanning_tree() {
    let world = world();
    let mut offer = frame(M1, [0, 38]);
    offer[..6].copy_from_slice(&[0x01, 0x80, 0xc2, 0, 0, 0]);
    offer[14..17].copy_from_slice(&[0x42, 0x42, 3]);
    assert!(!passes(&world, TAP1, offer.clone()));
    assert!(!passes_in(&world, 7, TAP1, offer.clone()));
    // LLDP, which bridges do not forward.
    offer[5] = 0x0e;
    assert!(passes(&world, TAP1, offer));
}

#[test]
fn a_fixed_name_is_of_its_port_alone() {
    let world = world();
    let bind = |mac, port| {
        let record = BindingRecord {
            port,
            seen_s: FIXED,
        };
        let name = Name::of_mac(mac, NETWORK);
        world.tables.add_binding(&name, &record).unwrap();
    };
    bind(M1, TAP1);
    bind(M2, 0);
    assert!(!passes(&world, TAP2, frame(M1, OTHER)));
    assert!(passes(&world, TAP1, frame(M1, OTHER)));
    assert!(
        !passes(&world, TAP2, frame(M2, OTHER)),
        "its port is not there"
    );
}

#[test]
fn the_sender_of_arp_must_own_its_addresses() {
    let mut world = world();
    inside(&mut world, C1, 32, InsideFlags::HAS_MAC, M1);
    assert!(passes(&world, TAP1, arp(M1, M1, C1)));
    assert!(!passes(&world, TAP2, arp(M2, M2, C1)), "another's address");
    assert!(
        !passes(&world, TAP2, arp(M2, M1, C1)),
        "another's addresses"
    );
    assert!(!passes(&world, TAP2, arp(M1, M1, C1)), "at another port");
    assert!(!passes(&world, TAP2, arp(M2, M2, C3)), "of no network here");
    assert!(passes(&world, TAP2, arp(M2, M2, [0; 4])), "a probe");
    let mut odd = arp(M2, M2, C2);
    odd[14] = 7;
    assert!(!passes(&world, TAP2, odd));
}

#[test]
fn an_unassigned_address_stays_with_its_user() {
    let mut world = world();
    assert!(passes(&world, TAP1, ip(M1, C1)));
    assert!(!passes(&world, TAP2, ip(M2, C1)));
    assert!(!passes(&world, TAP2, arp(M2, M2, C1)));
    assert!(passes(&world, TAP2, ip(M2, C2)));
    world.tables.now_s += KEPT_S;
    assert!(!passes(&world, TAP2, ip(M2, C1)));
    world.tables.now_s += 1;
    assert!(passes(&world, TAP2, ip(M2, C1)), "silent for long enough");
    assert!(!passes(&world, TAP1, ip(M1, C1)));
}

#[test]
fn several_guests_behind_a_router_or_a_bridge_share_a_port() {
    let mut world = world();
    inside(
        &mut world,
        host([10, 9, 0, 0]),
        16,
        InsideFlags::empty(),
        [0; 6],
    );
    for number in 0..=255 {
        let mac = [6, 0, 0, 0, 0, number];
        assert!(passes(&world, TAP1, frame(mac, OTHER)));
        assert!(passes(
            &world,
            TAP1,
            ip(mac, [172, 22, 161, number.min(250)])
        ));
        // The router is responsible for addresses that are routed to it.
        assert!(passes(&world, TAP1, ip(M1, [10, 9, number, 1])));
    }
    assert!(passes(&world, TAP2, ip(M2, host([10, 9, 0, 1]))));
}

#[test]
fn a_port_has_so_many_names_and_others_have_theirs() {
    let world = world();
    let frame_of = |number: u32| {
        let [_, _, a, b] = number.to_be_bytes();
        frame([6, 0, 0, 0, a, b], OTHER)
    };
    let passed = (0..2 * MOST_NAMES).filter(|number| passes(&world, TAP2, frame_of(*number)));
    assert_eq!(passed.count() as u32, MOST_NAMES);
    assert_eq!(world.tables.names(TAP2).unwrap().load(), MOST_NAMES);
    assert!(passes(&world, TAP2, frame_of(0)), "those that it has");
    assert!(passes(&world, TAP1, frame(M1, OTHER)));
}

/// Linux takes ARP for IEEE 802 networks (6) as well, and others look at no length.
#[test]
fn other_kinds_of_arp_are_refused() {
    let world = world();
    for (place, value) in [(15, 6), (14, 1), (16, 0x86), (18, 8), (19, 16)] {
        let mut frame = arp(M1, M1, C1);
        frame[place] = value;
        assert!(!passes(&world, TAP1, frame), "{value} at {place}");
    }
    assert!(passes(&world, TAP1, arp(M1, M1, C1)));
}

/// natbpf serves DHCP at both ports.
fn served() -> World {
    let mut world = world();
    for port in [TAP1, TAP2] {
        let interface = world.tables.interfaces.get_mut(&port).unwrap();
        interface.flags |= InterfaceFlags::SERVED;
    }
    world
}

/// By leases to forged Ethernet addresses, or by answering for unused addresses.
#[test]
fn where_natbpf_serves_dhcp_one_port_does_not_take_all_addresses() {
    let mac = |number: u8| [6, 0, 0, 0, 0, number];
    let world = served();
    let asks = (0..255).filter(|n| passes(&world, TAP2, dhcp(mac(*n), mac(*n))));
    assert_eq!(asks.count() as u32, MOST_SERVED_NAMES);
    assert!(passes(&world, TAP1, dhcp(M1, M1)), "another guest");
    let world = served();
    let answers = (1..250).filter(|n| passes(&world, TAP2, arp(M2, M2, [172, 22, 161, *n])));
    assert_eq!(answers.count() as u32, MOST_SERVED_NAMES - 1);
    assert!(passes(&world, TAP1, ip(M1, host([172, 22, 161, 250]))));
}

/// A guest that answers other guests' questions would be their gateway and their name server.
#[test]
fn where_natbpf_serves_dhcp_guests_answer_no_clients() {
    let answer = |to: Ip| {
        let mut packet = udp(At(C2, 67), At(to, 68)).payload(&[0; 240]).bytes();
        packet[6..12].copy_from_slice(&M2);
        packet
    };
    for to in [C1, [255; 4]] {
        assert!(!passes(&served(), TAP2, answer(to)));
        // Elsewhere the server may be a guest.
        assert!(passes(&world(), TAP2, answer(to)));
    }
    let mut first = fragments(&answer(C1), 8).into_iter().next().unwrap();
    first[6..12].copy_from_slice(&M2);
    assert!(!passes(&served(), TAP2, first), "in fragments");
}

#[test]
fn guests_behind_one_port_count_together() {
    let mut world = world();
    world.caps(5, 3);
    for number in 0..20 {
        assert!(passes(
            &world,
            TAP2,
            ip(M2, host([172, 22, 161, 1 + number]))
        ));
    }
    let opens = |source: Ip, port| {
        let packet = udp(At(source, port), At(S1A, 7000)).bytes();
        world.guest_sends(&packet)
    };
    let mut opened = 0;
    for number in 0..20 {
        let fate = opens(host([172, 22, 161, 1 + number]), 5000 + u16::from(number));
        opened += u32::from(!matches!(fate, kit::world::Fate::Dropped(_)));
    }
    assert_eq!(opened, 3);
    // A guest at another port has its own share.
    assert!(passes(&world, TAP1, ip(M1, C1)));
    for port in 5000..5003 {
        opens(C1, port).uplink();
    }
    assert_eq!(
        opens(C1, 5003).reason(),
        nat_common::drop_reason::DropReason::GuestPorts
    );
    world.end_all();
    assert!(world.tables.guests.entries().is_empty());
}

#[test]
fn a_dhcp_client_asks_for_itself() {
    let world = world();
    assert!(passes(&world, TAP2, dhcp(M2, M2)));
    assert!(!passes(&world, TAP2, dhcp(M2, M1)));
    // A release, from the guest's own address.
    let mut release = ip(M2, C2);
    release[34..38].copy_from_slice(&[0, 68, 0, 67]);
    assert!(!passes(&world, TAP2, release), "it does not say about whom");
    // A packet that contains the port but not the client.
    let mut pieces = fragments(&dhcp(M2, M1), 8).into_iter();
    let mut first = pieces.next().unwrap();
    first[6..12].copy_from_slice(&M2);
    assert!(!passes(&world, TAP2, first));
}

#[test]
fn a_truncated_frame_is_refused() {
    let world = world();
    for whole in [frame(M1, OTHER), ip(M1, C1), arp(M1, M1, C1), dhcp(M1, M1)] {
        for length in 0..14 {
            assert!(!passes(&world, TAP1, whole[..length].to_vec()), "{length}");
        }
        assert!(passes(&world, TAP1, whole));
    }
    assert!(!passes(&world, TAP1, arp(M1, M1, C1)[..31].to_vec()));
    assert!(!passes(&world, TAP1, ip(M1, C1)[..33].to_vec()));
}

/// Only a first fragment holds ports; in a later one, and in another protocol, these bytes are
/// data.
#[test]
fn packets_that_resemble_dhcp_pass() {
    let world = served();
    for offset in [[0, 1], [1, 0]] {
        let mut later = dhcp(M2, M1);
        later[20..22].copy_from_slice(&offset);
        assert!(passes(&world, TAP2, later), "at {offset:?}");
    }
    let mut segment = tcp(At(C2, 67), At(S1A, 67), ACK).bytes();
    segment[6..12].copy_from_slice(&M2);
    assert!(passes(&world, TAP2, segment));
}

/// A carrier may hold the rest of a frame in pages, which are copied when they are asked for.
#[test]
fn only_the_checked_part_of_a_paged_frame_is_made_readable() {
    let world = world();
    for (mut frame, passes, readable) in [
        (dhcp(M2, M2), PASSES, 14 + 20 + 8 + 34),
        (dhcp(M2, M1), FORGED, 14 + 20 + 8 + 34),
        (arp(M2, M2, C2), PASSES, 14 + 28),
        (tcp(At(C2, 67), At(S1A, 67), ACK).bytes(), PASSES, 14 + 28),
    ] {
        frame[6..12].copy_from_slice(&M2);
        // With room for excess requests.
        frame.resize(600, 0);
        let mut packet = Paged::new(&mut frame);
        assert_eq!(guard::check(&mut packet, &world.tables, TAP2, 0), passes);
        assert_eq!(packet.readable(), readable);
    }
}

/// Without `anti_spoof` for its network.
#[test]
fn at_a_port_that_is_not_guarded_every_frame_passes() {
    let mut world = world();
    let port = world.tables.interfaces.get_mut(&TAP2).unwrap();
    port.flags = InterfaceFlags::CARRIES;
    assert!(passes(&world, TAP1, frame(M1, OTHER)));
    assert!(passes(&world, TAP2, frame(M1, OTHER)), "another's");
    assert!(passes(&world, TAP2, frame(BRIDGE, OTHER)), "the host's");
}

#[test]
fn an_address_that_is_used_stays_and_a_fixed_one_without_use_as_well() {
    let mut world = world();
    let record = BindingRecord {
        port: TAP1,
        seen_s: FIXED,
    };
    let fixed = Name::of_address(addr(C3), NETWORK);
    world.tables.add_binding(&fixed, &record).unwrap();
    inside(&mut world, C3, 32, InsideFlags::ON_LINK, [0; 6]);
    assert!(passes(&world, TAP1, ip(M1, C1)));
    assert!(passes(&world, TAP1, ip(M1, C3)));
    world.tables.now_s += KEPT_S;
    assert!(passes(&world, TAP1, ip(M1, C1)));
    world.tables.now_s += KEPT_S;
    assert!(!passes(&world, TAP2, ip(M2, C1)), "in use");
    world.tables.now_s += KEPT_S;
    assert!(!passes(&world, TAP2, ip(M2, C3)), "fixed");
}
