//! Several uplinks: whose address a session has, and when it ends because it leaves by another.

use nat_common::{
    pipeline::Verdict,
    tables::{
        addresses::ExternalAddress,
        interfaces::{Interface, InterfaceFlags, role},
        snats::{BY_DESTINATION, SNAT_FIXED_BITS, Snat, SnatKey, mapping},
    },
    wire::protocol::{TCP, UDP},
};

use crate::family::{ADDRESS_BITS, C1, C3, Ip, POOL, PUBLIC, S1A, S2, World, addr, ends, host};
use kit::{
    interleave::every_order,
    packets::{ACK, At, GRE, SYN, answer, request, tcp, udp},
    world::{DMZ, Hook, LAN, UPLINK},
};

/// The other uplink, its number and its address.
const OTHER: u32 = 4;
const OTHER_NUMBER: u16 = 2;
const OTHER_PUBLIC: Ip = host([203, 0, 113, 200]);

const GUEST: At<Ip> = At(C1, 5000);
const REMOTE: At<Ip> = At(S1A, 7000);

/// A host with two uplinks. By the other one guests hide behind its address, as they do by the
/// first.
fn world() -> World {
    let mut world = World::new();
    let other = Interface {
        role: role::UPLINK,
        number: OTHER_NUMBER,
        ..Interface::default()
    };
    let interfaces = &mut world.tables.interfaces;
    interfaces.insert(OTHER, other);
    for uplink in [UPLINK, OTHER] {
        let uplink = interfaces.get_mut(&uplink).unwrap();
        uplink.flags |= InterfaceFlags::ONE_OF_SEVERAL;
    }
    let address = ExternalAddress {
        uplink: OTHER_NUMBER,
        is_host: 1,
        is_silent: 0,
    };
    world.tables.addresses.insert(addr(OTHER_PUBLIC), address);
    world.snat(|snat| snat.filtering = nat_common::tables::snats::filtering::ENDPOINT_INDEPENDENT);
    hide(&mut world, mapping::ENDPOINT_INDEPENDENT);
    world
}

/// What guests of the first network hide behind at the other uplink.
fn hide(world: &mut World, mapping: u8) {
    let place = (OTHER_NUMBER, 1, C1);
    leave_from(world, place, 24, (OTHER_PUBLIC, mapping));
}

/// Gives a prefix, of an uplink by its number and a network, the address that it leaves by.
fn leave_from(
    world: &mut World,
    (uplink, network, prefix): (u16, u16, Ip),
    prefix_len: u32,
    (address, mapping): (Ip, u8),
) {
    let key = SnatKey {
        generation: 1,
        uplink,
        network,
        reserved: [0; 2],
        source: addr(prefix),
    };
    let snat = Snat {
        first: addr(address),
        last: addr(address),
        rule: 7,
        first_port: 1024,
        last_port: u16::MAX,
        mapping,
        filtering: 0,
        has_excludes: 0,
        by_destination: 0,
    };
    let snats = &mut world.tables.snats;
    snats.insert(SNAT_FIXED_BITS + ADDRESS_BITS - 32 + prefix_len, &key, snat);
}

/// The source with which a guest's packet leaves by an uplink.
#[track_caller]
fn leaves(world: &World, uplink: u32, packet: &[u8]) -> At<Ip> {
    let (_, packet) = world.run(Hook::Outbound, packet, uplink, LAN).unwrap();
    ends(&packet).0
}

/// Lets the host reach S2 from another address of the first uplink's.
fn reach_s2_from(world: &mut World, source: Ip) {
    world.external(source, true);
    let place = (1, BY_DESTINATION, S2);
    leave_from(world, place, 32, (source, mapping::ENDPOINT_INDEPENDENT));
}

/// A guest leaves by the address from which the host itself would reach its destination. What it
/// has there is for that destination alone: its mapping stays that of the address which most others
/// see.
#[test]
fn a_destination_that_is_reached_from_another_address_sees_guests_there() {
    let mut world = World::new();
    reach_s2_from(&mut world, POOL[0]);
    world.snat(|snat| snat.by_destination = 1);
    let (usual, special) = (At(PUBLIC, 5000), At(POOL[0], 5000));
    for (to, source, mappings) in [(S2, special, 0), (S1A, usual, 1), (S2, special, 1)] {
        let packet = udp(GUEST, At(to, 7000)).bytes();
        assert_eq!(leaves(&world, UPLINK, &packet), source, "to {to:?}");
        assert_eq!(world.entries()[1], mappings, "to {to:?}");
    }
    world.check();
}

#[test]
fn a_destination_that_is_reached_from_the_usual_address_shares_the_mapping() {
    let mut world = World::new();
    reach_s2_from(&mut world, PUBLIC);
    world.snat(|snat| snat.by_destination = 1);
    for (to, mappings) in [(S2, 1), (S1A, 1)] {
        let packet = udp(GUEST, At(to, 7000)).bytes();
        assert_eq!(leaves(&world, UPLINK, &packet), At(PUBLIC, 5000));
        assert_eq!(world.entries()[1], mappings, "to {to:?}");
    }
}

#[test]
fn a_rule_with_an_address_of_its_own_heeds_no_destinations() {
    let mut world = World::new();
    reach_s2_from(&mut world, POOL[0]);
    let packet = udp(GUEST, At(S2, 7000)).bytes();
    assert_eq!(leaves(&world, UPLINK, &packet), At(PUBLIC, 5000));
}

#[test]
fn a_session_that_leaves_by_another_uplink_gets_that_ones_address() {
    let world = world();
    let packet = udp(GUEST, REMOTE).bytes();
    assert_eq!(leaves(&world, UPLINK, &packet), At(PUBLIC, 5000));
    assert_eq!(leaves(&world, UPLINK, &packet), At(PUBLIC, 5000));
    assert_eq!(world.entries()[0], 2);
    assert_eq!(leaves(&world, OTHER, &packet), At(OTHER_PUBLIC, 5000));
    assert_eq!(world.entries()[0], 2, "the one before has ended");
    assert_eq!(leaves(&world, OTHER, &packet), At(OTHER_PUBLIC, 5000));
    assert_eq!(leaves(&world, UPLINK, &packet), At(PUBLIC, 5000));
    world.check();
}

/// One of the two ends the session, and the other one uses it no more.
#[test]
fn two_packets_at_once_that_leave_by_another_uplink_get_that_ones_address() {
    for protocol in [UDP, TCP, GRE] {
        let packet = request(protocol, GUEST, REMOTE).bytes();
        let world = || {
            let world = world();
            leaves(&world, UPLINK, &packet);
            world
        };
        let leave = |world: &World| leaves(world, OTHER, &packet);
        let orders = every_order(world, [&leave, &leave], |world, sources| {
            assert_eq!(sources.map(|At(address, _)| address), [OTHER_PUBLIC; 2]);
            assert_eq!(sources[0], sources[1]);
            assert_eq!(world.entries()[0], 2);
            world.check();
        });
        assert!(orders > 2, "one has nothing to do with the other");
    }
}

#[test]
fn a_session_keeps_its_address_where_the_other_uplink_translates_nothing() {
    let mut world = world();
    hide(&mut world, mapping::NONE);
    let packet = udp(GUEST, REMOTE).bytes();
    for uplink in [UPLINK, OTHER, UPLINK] {
        assert_eq!(leaves(&world, uplink, &packet), At(PUBLIC, 5000));
    }
    assert_eq!(world.entries()[0], 2);
}

#[test]
fn a_session_moves_only_if_there_are_several_uplinks() {
    let mut world = world();
    for interface in world.tables.interfaces.values_mut() {
        interface.flags = InterfaceFlags::empty();
    }
    let packet = udp(GUEST, REMOTE).bytes();
    for uplink in [UPLINK, OTHER, UPLINK] {
        assert_eq!(leaves(&world, uplink, &packet), At(PUBLIC, 5000));
    }
}

/// Who was asked at an address answers from there: by a forward, and by a mapping.
#[test]
fn answers_to_one_uplink_leave_with_its_address_by_any_uplink() {
    let mut world = world();
    world.forward(UDP, 10_000..=10_000, At(C1, 80));
    let stranger = At(host([203, 0, 113, 9]), 4000);
    world
        .outside_sends(&request(UDP, stranger, At(PUBLIC, 10_000)).bytes())
        .guest();
    let back = answer(UDP, At(C1, 80), stranger).bytes();
    assert_eq!(leaves(&world, OTHER, &back), At(PUBLIC, 10_000));
    leaves(&world, UPLINK, &udp(GUEST, REMOTE).bytes());
    world
        .outside_sends(&udp(stranger, At(PUBLIC, 5000)).bytes())
        .guest();
    let back = udp(GUEST, stranger).bytes();
    assert_eq!(leaves(&world, OTHER, &back), At(PUBLIC, 5000));
    world.check();
}

/// A connection of the host that had to get another port keeps it on any uplink.
#[test]
fn a_moved_connection_of_the_host_stays_by_any_uplink() {
    let world = world();
    leaves(&world, UPLINK, &udp(GUEST, REMOTE).bytes());
    let own = udp(At(PUBLIC, 5000), REMOTE).bytes();
    let source = |uplink| {
        let (_, packet) = world.run(Hook::Outbound, &own, uplink, 0).unwrap();
        ends(&packet).0
    };
    let moved = source(UPLINK);
    assert_ne!(moved, At(PUBLIC, 5000));
    assert_eq!(source(OTHER), moved);
}

/// Packets from neither a guest nor the host do not concern natbpf: packets in transit from an
/// uplink, or from an interface that it does not know.
#[test]
fn forwarded_packets_from_an_uplink_are_neither_a_guests_nor_the_hosts() {
    let world = World::new();
    for source in [GUEST, At(PUBLIC, 5000)] {
        let packet = udp(source, REMOTE).bytes();
        for ingress in [UPLINK, kit::world::ELSEWHERE] {
            let (verdict, after) = world.run(Hook::Outbound, &packet, UPLINK, ingress).unwrap();
            assert_eq!((verdict, &after), (Verdict::Untouched, &packet));
        }
    }
    // No packet leaves by an interface that is not an uplink, even if it has the number of one.
    let packet = udp(At(C3, 5000), REMOTE).bytes();
    let (verdict, _) = world.run(Hook::Outbound, &packet, LAN, DMZ).unwrap();
    assert_eq!(verdict, Verdict::Untouched);
}

/// Where a guest has a session with just these addresses, who leaves by the host's address gets
/// another port, as the host itself does, and its answers.
#[test]
fn others_behind_the_host_that_meet_a_guests_session_get_another_port() {
    let world = self::world();
    leaves(&world, UPLINK, &udp(GUEST, REMOTE).bytes());
    let own = At(PUBLIC, 5000);
    let (verdict, packet) = world
        .run(
            Hook::Outbound,
            &udp(own, REMOTE).bytes(),
            UPLINK,
            kit::world::ELSEWHERE,
        )
        .unwrap();
    let moved = ends(&packet).0;
    assert_eq!((verdict, moved.0), (Verdict::Opened, PUBLIC));
    assert_ne!(moved, own);
    let back = world.outside_sends(&udp(REMOTE, moved).bytes());
    assert_eq!(ends(&back.host()), (REMOTE, own));
    let back = world.outside_sends(&udp(REMOTE, own).bytes());
    assert_eq!(ends(&back.guest()).1, GUEST);
}

/// A segment in the middle of a connection is no new flow: it has the port that its connection has.
#[test]
fn segments_of_others_behind_the_host_keep_their_port_where_a_guest_has_it() {
    let world = self::world();
    leaves(&world, UPLINK, &tcp(GUEST, REMOTE, SYN).bytes());
    let segment = tcp(At(PUBLIC, 5000), REMOTE, ACK).bytes();
    let elsewhere = kit::world::ELSEWHERE;
    let (verdict, after) = world
        .run(Hook::Outbound, &segment, UPLINK, elsewhere)
        .unwrap();
    assert_eq!((verdict, after), (Verdict::Untouched, segment));
}

/// Rules of another generation are not in use.
#[test]
fn only_the_generation_in_use_translates() {
    let mut world = World::new();
    world.tables.settings.as_mut().unwrap().generation = 2;
    let packet = udp(GUEST, REMOTE).bytes();
    let (verdict, _) = world.run(Hook::Outbound, &packet, UPLINK, LAN).unwrap();
    assert_eq!(verdict, Verdict::Untouched);
    // It is the low half of a word that counts on.
    world.tables.settings.as_mut().unwrap().generation = 0x1_0001;
    assert_eq!(leaves(&world, UPLINK, &packet), At(PUBLIC, 5000));
}
