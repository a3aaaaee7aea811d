//! Fragments in any order.

use nat_common::{
    drop_reason::DropReason, pipeline::fragments::DUPLICATE_WAYS, tables::queued::QUEUE_WAYS,
    wire::protocol::UDP,
};

use crate::family::{
    C1, C2, HEADER, PUBLIC, S1A, World, fragment_id, fragments, host, placed, read, reassemble,
};
use kit::{
    packets::{At, ETHERNET, tcp, udp},
    world::{Fate, Hook},
};

fn forwarding() -> World {
    let mut world = World::new();
    world.forward(UDP, 10_500..=10_500, At(C1, 53));
    world
}

fn datagram(len: usize) -> Vec<u8> {
    let payload: Vec<u8> = (0..len).map(|index| (index / 8) as u8).collect();
    udp(At(S1A, 4000), At(PUBLIC, 10_500))
        .payload(&payload)
        .id(7)
        .bytes()
}

/// What arrives of fragments that come in this order.
fn delivered(world: &World, parts: &[&Vec<u8>]) -> Vec<Vec<u8>> {
    let fates = parts
        .iter()
        .flat_map(|part| world.fragment(Hook::Inbound, part));
    fates.map(Fate::guest).collect()
}

#[test]
fn f2_fragments_arrive_in_every_order() {
    let parts = fragments(&datagram(992), 256);
    let [a, b, c, d] = &parts[..] else {
        panic!("{} fragments", parts.len())
    };
    for order in [
        [a, b, c, d],
        [d, c, b, a],
        [b, a, d, c],
        [c, d, a, b],
        [b, c, d, a],
    ] {
        let world = forwarding();
        let whole = reassemble(&delivered(&world, &order));
        assert_eq!(read(&whole).destination, At(C1, 53));
        assert_eq!(
            whole[ETHERNET + HEADER + 8..],
            datagram(992)[ETHERNET + HEADER + 8..]
        );
        // A complete packet is forgotten: its identification may be reused at once.
        assert!(world.tables.datagrams.entries().is_empty());
        assert_eq!(delivered(&world, &order).len(), 4);
    }
}

#[test]
fn f4_kept_fragments_are_forgotten_after_their_time() {
    let mut world = forwarding();
    let parts = fragments(&datagram(992), 256);
    assert!(delivered(&world, &[&parts[1], &parts[2]]).is_empty());
    world.advance(29);
    assert_eq!(
        nat_common::pipeline::fragments::expire_all(&world.tables),
        0
    );
    world.advance(1);
    assert_eq!(
        nat_common::pipeline::fragments::expire_all(&world.tables),
        2
    );
    let drops = world.tables.drops.take();
    assert_eq!(drops, [DropReason::FragmentExpired; 2]);
    // Only what comes from now on arrives.
    assert_eq!(delivered(&world, &[&parts[3], &parts[0]]).len(), 2);
}

#[test]
fn f6_a_contradicting_fragment_is_dropped_with_all_later_ones() {
    let parts = fragments(&datagram(992), 256);
    let behind_the_end = placed(&parts[1], 128, false);
    let second_end = placed(&parts[1], 64, false);
    for contradicting in [
        placed(&parts[1], 63, true),
        placed(&parts[1], 65, true),
        behind_the_end,
        second_end,
    ] {
        let world = forwarding();
        delivered(&world, &[&parts[0], &parts[1], &parts[3]]);
        for bad in [&contradicting, &parts[2]] {
            let fates = world.fragment(Hook::Inbound, bad);
            assert_eq!(fates, [Fate::Dropped(DropReason::FragmentOverlap)]);
        }
    }
}

#[test]
fn f12_a_duplicate_of_a_fragment_is_dropped_alone_and_the_datagram_arrives() {
    let parts = fragments(&datagram(992), 256);
    for order in [
        [0, 0, 1, 2, 3],
        [0, 1, 1, 2, 3],
        [0, 1, 0, 2, 3],
        [1, 1, 0, 2, 3],
        [3, 3, 2, 1, 0],
        [0, 3, 3, 2, 1],
        [3, 1, 3, 0, 2],
    ] {
        let world = forwarding();
        let fates = order.map(|index| world.fragment(Hook::Inbound, &parts[index]));
        let mut fates = fates.concat();
        let duplicate = Fate::Dropped(DropReason::FragmentDuplicate);
        assert_eq!(fates.iter().filter(|fate| **fate == duplicate).count(), 1);
        fates.retain(|fate| *fate != duplicate);
        let delivered: Vec<_> = fates.into_iter().map(Fate::guest).collect();
        assert_eq!(delivered.len(), parts.len(), "{order:?}");
        let whole = reassemble(&delivered);
        assert_eq!(
            whole[ETHERNET + HEADER + 8..],
            datagram(992)[ETHERNET + HEADER + 8..]
        );
        assert!(world.tables.datagrams.entries().is_empty());
    }
}

#[test]
fn f12_of_a_guests_duplicates_each_block_leaves_once_under_one_identification() {
    let world = World::new();
    let packet = udp(At(C1, 5000), At(S1A, 7000)).payload(&[1; 700]).id(7);
    let parts = fragments(&packet.bytes(), 256);
    // The identification is taken: another guest's datagram is on its way.
    let other = udp(At(C2, 5000), At(S1A, 7000)).payload(&[1; 700]).id(7);
    world.fragment(Hook::FromGuest, &fragments(&other.bytes(), 256)[0]);
    let mut ids = Vec::new();
    for index in [0, 0, 1, 0, 1, 2] {
        for fate in world.fragment(Hook::FromGuest, &parts[index]) {
            match fate {
                Fate::Uplink(packet) => ids.push(fragment_id(&packet)),
                other => assert_eq!(other, Fate::Dropped(DropReason::FragmentDuplicate)),
            }
        }
    }
    assert_eq!(ids, [ids[0]; 3]);
}

#[test]
fn f12_a_duplicate_takes_no_slot_and_late_ones_take_few() {
    let world = forwarding();
    let whole = |id| {
        let whole = udp(At(S1A, 4000), At(PUBLIC, 10_500));
        fragments(&whole.payload(&[0; 500]).id(id).bytes(), 256)
    };
    for _ in 0..QUEUE_WAYS {
        world.fragment(Hook::Inbound, &whole(1)[1]);
    }
    // Duplicates that come when the datagram is complete could as well be the next one's.
    for id in 2..100 {
        delivered(&world, &[&whole(id)[0], &whole(id)[1]]);
        world.fragment(Hook::Inbound, &whole(id)[1]);
    }
    for id in 100..100 + (QUEUE_WAYS - DUPLICATE_WAYS - 1) as u16 {
        assert_eq!(world.fragment(Hook::Inbound, &whole(id)[1]), []);
        assert_eq!(world.fragment(Hook::Inbound, &whole(id)[0]).len(), 2);
    }
    for id in 200..200 + (QUEUE_WAYS - DUPLICATE_WAYS - 1) as u16 {
        assert_eq!(world.fragment(Hook::Inbound, &whole(id)[1]), [], "{id}");
    }
}

#[test]
fn f12_the_last_fragment_again_with_another_end_contradicts() {
    let world = forwarding();
    let parts = fragments(&datagram(992), 256);
    delivered(&world, &[&parts[0], &parts[1], &parts[3]]);
    let as_last = placed(&parts[1], 32, false);
    for bad in [&as_last, &parts[2]] {
        let fates = world.fragment(Hook::Inbound, bad);
        assert_eq!(fates, [Fate::Dropped(DropReason::FragmentOverlap)]);
    }
}

#[test]
fn f6_fragments_that_no_host_takes_are_dropped_each_by_its_reason() {
    let world = forwarding();
    let parts = fragments(&datagram(992), 256);
    let segment = tcp(At(S1A, 4000), At(PUBLIC, 10_500), 2)
        .payload(&[0; 64])
        .bytes();
    let odd = fragments(&datagram(1001), 512);
    for (fragment, reason) in [
        (
            placed(&parts[1], 8191, false),
            DropReason::FragmentOversized,
        ),
        (placed(&odd[1], 64, true), DropReason::Malformed),
        (fragments(&segment, 16)[0].clone(), DropReason::FragmentTiny),
        (fragments(&segment, 8)[1].clone(), DropReason::FragmentTiny),
    ] {
        let fates = world.fragment(Hook::Inbound, &fragment);
        assert_eq!(fates, [Fate::Dropped(reason)], "{fragment:?}");
    }
    assert!(world.tables.queued.entries().is_empty());
}

#[test]
fn f7_the_same_identification_from_two_guests_becomes_two() {
    let world = World::new();
    let cut = |guest| {
        let packet = udp(At(guest, 5000), At(S1A, 7000)).payload(&[1; 500]).id(7);
        fragments(&packet.bytes(), 256)
    };
    let (firsts, seconds) = (cut(C1), cut(C2));
    let mut ids = Vec::new();
    for (one, other) in firsts.iter().zip(&seconds) {
        for part in [one, other] {
            let fates = world.fragment(Hook::FromGuest, part);
            let [Fate::Uplink(packet)] = &fates[..] else {
                panic!("{fates:?}")
            };
            ids.push(fragment_id(packet));
        }
    }
    assert_eq!(ids[0], 7, "kept where it is free");
    assert_ne!(ids[0], ids[1]);
    for pair in ids.chunks(2) {
        assert_eq!(pair, &ids[..2]);
    }
}

#[test]
fn f8_a_sender_has_so_many_slots_and_no_more() {
    let world = forwarding();
    let late = |source, id| {
        let whole = udp(At(source, 4000), At(PUBLIC, 10_500));
        let whole = whole.payload(&[0; 500]).id(id).bytes();
        fragments(&whole, 256)[1].clone()
    };
    for id in 0..QUEUE_WAYS as u16 {
        assert_eq!(world.fragment(Hook::Inbound, &late(S1A, id)), []);
    }
    let fates = world.fragment(Hook::Inbound, &late(S1A, 1000));
    assert_eq!(fates, [Fate::Dropped(DropReason::FragmentsFull)]);
    assert_eq!(
        world.fragment(Hook::Inbound, &late(host([198, 51, 100, 9]), 1)),
        []
    );
}
