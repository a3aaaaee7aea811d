//! Fragments and their headers (6G1 to 6G4).

use kit::{
    ipv6::{
        C1, C2, FRAGMENT_HEADER, Ip, PUBLIC, S1A, World, fragment_id, fragments, piece_of, read,
        reassemble,
    },
    octets::DESTINATION_OPTIONS,
    packets::{At, ETHERNET, SYN, tcp, udp},
    world::{Fate, Hook},
};
use nat_common::{drop_reason::DropReason, wire::protocol::UDP};

const GUEST: At<Ip> = At(C1, 5000);
const REMOTE: At<Ip> = At(S1A, 7000);
const FORWARDED: At<Ip> = At(PUBLIC, 10_000);

fn forwarding() -> World {
    let mut world = World::new();
    world.forward(UDP, 10_000..=10_000, At(C1, 80));
    world
}

/// All of a packet in one fragment (RFC 6946).
fn atomic(packet: &[u8]) -> Vec<u8> {
    piece_of(packet, 0, &packet[ETHERNET + kit::ipv6::HEADER..], false)
}

#[test]
fn g6_2_an_atomic_fragment_is_translated_at_once_and_remembered_nowhere() {
    let world = forwarding();
    let sent = atomic(&udp(GUEST, REMOTE).id(7).bytes());
    let out = world.guest_sends(&sent).uplink();
    assert_eq!(
        read(&reassemble(std::slice::from_ref(&out))).source,
        At(PUBLIC, 5000)
    );
    assert_eq!(fragment_id(&out), 7);
    let asked = atomic(&udp(REMOTE, FORWARDED).id(7).bytes());
    let asked = world.outside_sends(&asked).guest();
    assert_eq!(read(&reassemble(&[asked])).destination, At(C1, 80));
    let tables = &world.tables;
    assert!(tables.fragments.entries().is_empty());
    assert!(tables.datagrams.entries().is_empty());
    assert!(tables.queued.entries().is_empty());
}

/// Nor is it mixed with fragments of the same identification that wait for their first one.
#[test]
fn g6_2_an_atomic_fragment_releases_nothing_that_waits() {
    let world = forwarding();
    let whole = udp(REMOTE, FORWARDED).payload(&[1; 500]).id(7).bytes();
    let parts = fragments(&whole, 256);
    assert_eq!(world.fragment(Hook::Inbound, &parts[1]), []);
    let alone = atomic(&udp(REMOTE, FORWARDED).id(7).bytes());
    let fates = world.fragment(Hook::Inbound, &alone);
    assert!(matches!(fates[..], [Fate::Network(..)]), "{fates:?}");
    // The first one comes, and both go on.
    assert_eq!(world.fragment(Hook::Inbound, &parts[0]).len(), 2);
}

/// RFC 7112: the first fragment has all headers, including the transport's.
#[test]
fn g6_3_a_first_fragment_without_all_headers_is_dropped() {
    let world = forwarding();
    let segment = tcp(GUEST, REMOTE, SYN).payload(&[0; 64]).bytes();
    for len in [8, 16] {
        let part = &fragments(&segment, len)[0];
        let fates = world.fragment(Hook::FromGuest, part);
        assert_eq!(
            fates,
            [Fate::Dropped(DropReason::FragmentTiny)],
            "{len} bytes of TCP"
        );
    }
    // The chain of headers ends behind it.
    let options = tcp(GUEST, REMOTE, SYN)
        .payload(&[0; 64])
        .extension(
            DESTINATION_OPTIONS,
            &[1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        )
        .bytes();
    for len in [8, 16, 24] {
        let part = &fragments(&options, len)[0];
        let fates = world.fragment(Hook::FromGuest, part);
        assert!(
            matches!(fates[..], [Fate::Dropped(_)]),
            "{len} bytes: {fates:?}"
        );
    }
    assert_eq!(world.entries(), [0; 4]);
}

/// Fragments of one packet in every order, both ways.
#[test]
fn g6_1_fragments_arrive_in_any_order() {
    const ORDERS: [[usize; 3]; 6] = [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ];
    for order in ORDERS {
        let world = forwarding();
        for (hook, whole) in [
            (Hook::Inbound, udp(REMOTE, FORWARDED)),
            (Hook::Outbound, udp(GUEST, REMOTE)),
        ] {
            let parts = fragments(&whole.payload(&[9; 700]).id(9).bytes(), 256);
            let sent = order.map(|number| &parts[number]);
            let fates = sent.iter().flat_map(|part| match hook {
                Hook::Inbound => world.fragment(hook, part),
                _ => world.fragment(Hook::FromGuest, part),
            });
            let arrived: Vec<_> = fates
                .filter_map(|fate| match fate {
                    Fate::Network(_, packet) | Fate::Uplink(packet) => Some(packet),
                    Fate::Queued => None,
                    other => panic!("{order:?}: {other:?}"),
                })
                .collect();
            let seen = read(&reassemble(&arrived));
            assert_eq!(seen.payload, [9; 700], "{order:?}");
            match hook {
                Hook::Inbound => assert_eq!(seen.destination, At(C1, 80)),
                _ => assert_eq!(seen.source.0, PUBLIC),
            }
        }
        world.check();
    }
}

/// One fragment that overlaps another spoils the packet (RFC 5722).
#[test]
fn g6_1_fragments_that_overlap_end_their_packet() {
    let world = forwarding();
    let whole = udp(REMOTE, FORWARDED).payload(&[9; 700]).id(9).bytes();
    let parts = fragments(&whole, 256);
    assert_eq!(world.fragment(Hook::Inbound, &parts[0]).len(), 1);
    let overlapping = piece_of(&whole, 248, &[7; 256], true);
    for part in [&overlapping, &parts[1], &parts[2]] {
        let fates = world.fragment(Hook::Inbound, part);
        assert_eq!(fates, [Fate::Dropped(DropReason::FragmentOverlap)]);
    }
}

/// All 32 bits of the identification count, and two guests' are kept apart.
#[test]
fn g6_4_one_identification_of_two_guests_to_one_remote_becomes_two() {
    const ID: [u8; 4] = [0xde, 0xad, 0, 7];
    let world = World::new();
    let cut = |guest, byte| {
        let whole = udp(At(guest, 5000), REMOTE).payload(&[byte; 500]);
        let mut parts = fragments(&whole.bytes(), 256);
        for part in &mut parts {
            part[ETHERNET + FRAGMENT_HEADER - 4..][..4].copy_from_slice(&ID);
        }
        parts
    };
    let mut sent = [Vec::new(), Vec::new()];
    for (one, other) in cut(C1, 1).iter().zip(&cut(C2, 2)) {
        for (part, sent) in [one, other].into_iter().zip(&mut sent) {
            sent.push(world.guest_sends(part).uplink());
        }
    }
    let ids = sent.each_ref().map(|parts| fragment_id(&parts[0]));
    assert_eq!(ids[0], u32::from_be_bytes(ID), "kept where it is free");
    assert_ne!(ids[0], ids[1]);
    assert_ne!(ids[1] >> 16, 0, "drawn from all of them");
    for (parts, byte) in sent.iter().zip([1, 2]) {
        assert!(
            parts
                .iter()
                .all(|part| fragment_id(part) == fragment_id(&parts[0]))
        );
        assert_eq!(read(&reassemble(parts)).payload, [byte; 500]);
    }
}
