//! Fragments at their bounds: the longest packet, blocks that begin and end inside of a word,
//! slots.

use nat_common::{
    drop_reason::DropReason,
    tables::queued::{QUEUE_BYTES, QUEUE_SETS, QUEUE_WAYS},
    wire::{address::Address as _, protocol::UDP},
};

use crate::family::{
    C1, C3, FRAGMENT_HEADER, HEADER, Ip, LONGEST, PUBLIC, S1A, S2, World, addr, fragment_id,
    fragments, host, piece_of, read, reassemble,
};
use kit::{
    octets::Octets as _,
    packets::{At, ETHERNET, udp},
    world::{DMZ, Fate, Hook, LAN, UPLINK},
};

const FORWARDED: At<Ip> = At(PUBLIC, 10_500);

fn forwarding() -> World {
    let mut world = World::new();
    world.forward(UDP, 10_500..=10_500, At(C1, 53));
    world
}

fn datagram(source: Ip, id: u16, len: usize) -> Vec<u8> {
    let payload: Vec<u8> = (0..len).map(|index| (index / 8) as u8).collect();
    udp(At(source, 4000), FORWARDED)
        .payload(&payload)
        .id(id)
        .bytes()
}

/// A piece of a datagram: some of its blocks of eight bytes, with more behind it or not.
fn piece(whole: &[u8], blocks: std::ops::Range<usize>, more_fragments: bool) -> Vec<u8> {
    let payload = &whole[ETHERNET + HEADER..];
    let part = &payload[blocks.start * 8..(blocks.end * 8).min(payload.len())];
    piece_of(whole, blocks.start * 8, part, more_fragments)
}

fn arrives(world: &World, piece: &[u8]) -> Vec<Fate> {
    world.fragment(Hook::Inbound, piece)
}

#[track_caller]
fn assert_contradicts(world: &World, piece: &[u8]) {
    let overlaps = [Fate::Dropped(DropReason::FragmentOverlap)];
    assert_eq!(arrives(world, piece), overlaps);
}

#[test]
fn f2_the_longest_datagram_passes_both_ways_and_no_longer_one() {
    let world = forwarding();
    let whole = datagram(S1A, 7, LONGEST - 8);
    let parts = fragments(&whole, 1480);
    let delivered: Vec<_> = parts
        .iter()
        .flat_map(|part| arrives(&world, part))
        .map(Fate::guest)
        .collect();
    assert_eq!(delivered.len(), parts.len());
    let seen = read(&reassemble(&delivered));
    assert_eq!(
        (seen.destination, seen.payload.len()),
        (At(C1, 53), LONGEST - 8)
    );
    // A complete packet is forgotten, in every word of its blocks.
    assert!(world.tables.datagrams.entries().is_empty());

    let whole = udp(At(C1, 5000), At(S1A, 7000)).payload(&[7; LONGEST - 8]);
    let sent: Vec<_> = fragments(&whole.bytes(), 1480)
        .iter()
        .flat_map(|part| world.fragment(Hook::FromGuest, part))
        .map(Fate::uplink)
        .collect();
    assert_eq!(read(&reassemble(&sent)).payload.len(), LONGEST - 8);

    // One byte more.
    let part = [1; LONGEST % 8 + 1];
    let longer = piece_of(&datagram(S1A, 8, 64), LONGEST / 8 * 8, &part, false);
    let refused = [Fate::Dropped(DropReason::FragmentOversized)];
    assert_eq!(arrives(&world, &longer), refused);
}

/// Fragments share words of the table of blocks: each has its own bits in them. (Right behind the
/// first one, what begins a block earlier has come already: a duplicate.)
#[test]
fn f6_fragments_that_overlap_by_one_block_contradict_wherever_they_begin() {
    for start in [2, 3, 29, 31, 32, 33, 60, 64] {
        for len in [2, 3, 31, 32, 33, 64] {
            let whole = datagram(S1A, 7, 2000);
            let first = piece(&whole, 0..1, true);
            let one = piece(&whole, start..start + len, true);
            let next = piece(&whole, start + len..start + len + 2, true);
            let before = piece(&whole, start - 1..start + 1, true);
            let behind = piece(&whole, start + len - 1..start + len + 1, true);
            for contradicting in [before, behind] {
                let world = forwarding();
                for good in [&first, &one] {
                    assert!(matches!(arrives(&world, good)[..], [Fate::Network(..)]));
                }
                assert_contradicts(&world, &contradicting);
            }
            let world = forwarding();
            for good in [&first, &one, &next] {
                assert!(matches!(arrives(&world, good)[..], [Fate::Network(..)]));
            }
        }
    }
}

#[test]
fn f6_a_fragment_beyond_the_end_contradicts_before_and_after_it() {
    let whole = datagram(S1A, 7, 192);
    let blocks = whole[ETHERNET + HEADER..].len() / 8;
    let long = datagram(S1A, 7, 1000);
    let behind = piece(&long, blocks + 40..blocks + 50, true);
    let parts = [piece(&whole, 0..10, true), piece(&whole, 10..blocks, false)];
    let world = forwarding();
    for part in &parts[..1] {
        assert!(matches!(arrives(&world, part)[..], [Fate::Network(..)]));
    }
    let last = piece(&whole, blocks - 2..blocks, false);
    assert!(matches!(arrives(&world, &last)[..], [Fate::Network(..)]));
    assert_contradicts(&world, &behind);

    let world = forwarding();
    for part in [&parts[0], &behind] {
        assert!(matches!(arrives(&world, part)[..], [Fate::Network(..)]));
    }
    // More has come than there is.
    assert_contradicts(&world, &parts[1]);
}

#[test]
fn f8_fragments_that_come_in_order_look_at_no_slot_and_count_nothing() {
    let world = forwarding();
    for part in fragments(&datagram(S1A, 7, 992), 256) {
        assert!(matches!(arrives(&world, &part)[..], [Fate::Network(..)]));
    }
    assert!(world.tables.queued.entries().is_empty());
    assert!(world.tables.drops.borrow().is_empty());
}

/// A sender's slots are one set, the whole of it, and nothing of another.
#[test]
fn f8_a_senders_fragments_fill_its_own_slots_and_no_others() {
    let set = |source: Ip| addr(source).hash() % QUEUE_SETS;
    let other = [S2, host([203, 0, 113, 3]), host([203, 0, 113, 4])];
    let other = other.into_iter().find(|ip| set(*ip) != set(S1A)).unwrap();
    let world = forwarding();
    for (count, source) in [(1, S1A), (2, other)] {
        for id in 0..QUEUE_WAYS as u16 {
            let late = &fragments(&datagram(source, id, 500), 256)[1];
            assert_eq!(arrives(&world, late), []);
        }
        assert!(
            world.tables.drops.borrow().is_empty(),
            "nothing has expired"
        );
        let late = &fragments(&datagram(source, 1000, 500), 256)[1];
        let refused = [Fate::Dropped(DropReason::FragmentsFull)];
        assert_eq!(arrives(&world, late), refused);
        let slots = world.tables.queued.entries();
        assert_eq!(slots.len(), count * QUEUE_WAYS as usize);
        for (slot, _) in slots {
            assert!([set(S1A), set(other)].contains(&(slot / QUEUE_WAYS)));
        }
    }
    // And all of them are sent on.
    for source in [S1A, other] {
        let first = &fragments(&datagram(source, 63, 500), 256)[0];
        assert_eq!(arrives(&world, first).len(), 2);
    }
}

/// The content of a first fragment counts only within its time, at the egress hook too.
#[test]
fn f4_a_later_fragment_leaves_until_its_time_is_over() {
    for (wait, passes) in [(29, true), (30, false)] {
        let mut world = World::new();
        let whole = udp(At(C1, 5000), At(S1A, 7000)).payload(&[0; 500]);
        let parts = fragments(&whole.bytes(), 256);
        let leaves = |world: &World, part| world.run(Hook::Outbound, part, UPLINK, LAN);
        leaves(&world, &parts[0]).unwrap();
        world.advance(wait);
        let late = leaves(&world, &parts[1]);
        match passes {
            true => assert!(late.is_ok()),
            false => assert_eq!(late, Err(DropReason::FragmentUnknown)),
        }
    }
}

/// A slot holds a frame of 2,024 bytes, and not one byte more.
#[test]
fn f3_a_frame_that_fits_in_no_slot_passes_in_order_alone() {
    const FIRST: usize = 2000;
    for (frame, is_kept) in [(QUEUE_BYTES, true), (QUEUE_BYTES + 1, false)] {
        let world = forwarding();
        let later = frame - ETHERNET - FRAGMENT_HEADER;
        let whole = udp(At(S1A, 4000), FORWARDED).payload(&vec![7; FIRST - 8 + later]);
        let parts = fragments(&whole.bytes(), FIRST);
        assert_eq!((parts.len(), parts[1].len()), (2, frame));
        match is_kept {
            true => assert_eq!(world.outside_sends(&parts[1]), Fate::Queued),
            false => assert_eq!(
                world.outside_sends(&parts[1]).reason(),
                DropReason::FragmentsFull
            ),
        }
        let world = forwarding();
        for part in &parts {
            world.outside_sends(part).guest();
        }
    }
}

/// Packets through the host to addresses unknown to natbpf are the kernel's: they wait for nothing.
#[test]
fn f4_a_later_fragment_to_an_address_that_is_no_external_one_goes_on_at_once() {
    let mut world = forwarding();
    world.without_snat(C1);
    for destination in [host([192, 168, 7, 7]), C1] {
        let whole = udp(At(S1A, 4000), At(destination, 53)).payload(&[0; 500]);
        let late = &fragments(&whole.bytes(), 256)[1];
        let (_, after) = world.run(Hook::Inbound, late, UPLINK, UPLINK).unwrap();
        assert_eq!(&after, late);
    }
    assert!(world.tables.datagrams.entries().is_empty());
}

/// Guests of different networks leave by one address: what they call by the same number must not be
/// mixed by who receives it.
#[test]
fn f7_the_same_identification_from_guests_of_two_networks_becomes_two() {
    let world = World::new();
    let sent = [(LAN, C1), (DMZ, C3)].map(|(_, guest)| {
        let whole = udp(At(guest, 5000), At(S1A, 7000)).payload(&[guest.host()[0]; 500]);
        let parts = fragments(&whole.id(7).bytes(), 256);
        let sent = parts
            .iter()
            .flat_map(|part| world.fragment(Hook::FromGuest, part));
        sent.map(Fate::uplink).collect::<Vec<_>>()
    });
    let id = |part: &Vec<u8>| fragment_id(part);
    let [ours, theirs] = sent.each_ref().map(|parts| id(&parts[0]));
    assert_eq!(ours, 7, "kept where it is free");
    assert_ne!(ours, theirs);
    for (parts, expected) in sent.iter().zip([ours, theirs]) {
        assert!(parts.iter().all(|part| id(part) == expected));
    }
    let payloads = sent.map(|parts| read(&reassemble(&parts)).payload);
    assert_eq!(payloads, [vec![C1.host()[0]; 500], vec![C3.host()[0]; 500]]);
}
