//! Answers to whoever asks for an address on the uplink's link (RFC 4861).

use kit::{
    ipv6::World,
    world::{LAN, UPLINK},
};
use nat_common::{
    headers::neighbour::{Solicitation, advertisement, solicitation, solicited_node},
    pipeline::neighbours::answer,
    tables::{
        addresses::ExternalAddress,
        neighbours::{NEIGHBOUR_FIXED_BITS, Neighbour, NeighbourKey},
    },
    wire::packet::SlicePacket,
};

use crate::packets::{
    FRAGMENT, ICMPV6, L3, address, fill_in, fragment, packet, read, transport_sum,
};

const ROUTER: &str = "fe80::1";
const TARGET: &str = "2001:db8:1:2::1:1";
const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

/// A solicitation from `source` to the group of its target.
fn asked(source: &str, options: &[u8]) -> Vec<u8> {
    asked_for(TARGET, source, options)
}

fn asked_for(target: &str, source: &str, options: &[u8]) -> Vec<u8> {
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend(address(target).bytes());
    message.extend(options);
    let mut frame = packet(&[], ICMPV6, &message);
    frame[6..12].copy_from_slice(&ROUTER_MAC);
    frame[L3 + 7] = 255;
    frame[L3 + 8..L3 + 24].copy_from_slice(&address(source).bytes());
    frame[L3 + 24..L3 + 40].copy_from_slice(&solicited_node(address(target)).bytes());
    fill_in(&mut frame, L3 + 40, 2, ICMPV6);
    frame
}

fn from_router() -> Vec<u8> {
    asked(ROUTER, &[1, 1, 2, 0, 0, 0, 0, 1])
}

fn heard(frame: &[u8]) -> Option<Solicitation> {
    solicitation(&mut SlicePacket::new(&mut frame.to_vec(), 1))
}

#[test]
fn n6_1_a_router_is_answered_from_the_address_that_it_asks_for() {
    let heard = heard(&from_router()).expect("a solicitation");
    assert_eq!(heard.target, address(TARGET));
    assert_eq!((heard.source, heard.mac), (address(ROUTER), ROUTER_MAC));
    let frame = advertisement(&heard, OUR_MAC);
    assert_eq!(
        (&frame[..6], &frame[6..12]),
        (&ROUTER_MAC[..], &OUR_MAC[..])
    );
    let parsed = read(&frame).expect("a packet");
    assert_eq!(parsed.header.source, address(TARGET));
    assert_eq!(parsed.header.destination, address(ROUTER));
    assert_eq!(parsed.header.ttl, 255);
    assert_eq!(transport_sum(&frame, L3 + 40, ICMPV6), 0xffff);
    // Router, solicited, no override.
    assert_eq!((frame[L3 + 40], frame[L3 + 44]), (136, 0xc0));
    assert_eq!(frame[L3 + 48..L3 + 64], address(TARGET).bytes());
    assert_eq!(frame[L3 + 64..], [&[2, 1][..], &OUR_MAC[..]].concat());
}

#[test]
fn n6_3_detection_of_duplicates_is_answered_to_all() {
    let heard = heard(&asked("::", &[])).expect("a solicitation");
    let frame = advertisement(&heard, OUR_MAC);
    assert_eq!(frame[..6], [0x33, 0x33, 0, 0, 0, 1]);
    let parsed = read(&frame).expect("a packet");
    assert_eq!(parsed.header.destination, address("ff02::1"));
    assert_eq!(frame[L3 + 44], 0x80);
    assert_eq!(transport_sum(&frame, L3 + 40, ICMPV6), 0xffff);
}

#[test]
fn a_solicitation_to_the_address_itself_is_heard_with_or_without_options() {
    let mut unicast = from_router();
    unicast[L3 + 24..L3 + 40].copy_from_slice(&address(TARGET).bytes());
    fill_in(&mut unicast, L3 + 40, 2, ICMPV6);
    assert!(heard(&unicast).is_some());
    assert!(heard(&asked(ROUTER, &[])).is_some());
    let nonce = [14, 1, 1, 2, 3, 4, 5, 6];
    assert!(heard(&asked("::", &nonce)).is_some());
    let one_of_eight_units = [&[14, 8][..], &[7; 62]].concat();
    assert!(heard(&asked(ROUTER, &one_of_eight_units)).is_some());
    assert!(heard(&asked(ROUTER, &nonce.repeat(8))).is_some());
    let source_last = [nonce.repeat(7), vec![1, 1, 2, 0, 0, 0, 0, 1]].concat();
    assert!(heard(&asked(ROUTER, &source_last)).is_some());
    assert_eq!(heard(&asked("::", &source_last)), None);
    assert_eq!(heard(&asked(ROUTER, &nonce.repeat(9))), None);
    assert_eq!(heard(&asked(ROUTER, &[14, 1, 0])), None);
}

#[test]
fn n6_5_what_no_neighbour_sends_is_not_heard() {
    let right = from_router();
    let changed = |at: usize, byte: u8| {
        let mut frame = right.clone();
        frame[at] = byte;
        fill_in(&mut frame, L3 + 40, 2, ICMPV6);
        frame
    };
    for (why, frame) in [
        ("a router in between", changed(L3 + 7, 64)),
        ("a code", changed(L3 + 41, 1)),
        ("an advertisement", changed(L3 + 40, 136)),
        ("a group as target", changed(L3 + 48, 0xff)),
        ("an option of no length", changed(L3 + 65, 0)),
        ("an option past the end", changed(L3 + 65, 2)),
        ("IPv4", changed(L3, 0x45)),
        ("another type of frame", changed(13, 0)),
        (
            "detection with an address",
            asked("::", &[1, 1, 2, 0, 0, 0, 0, 1]),
        ),
    ] {
        assert_eq!(heard(&frame), None, "{why}");
    }
    let mut wrong_sum = right.clone();
    wrong_sum[L3 + 42] ^= 1;
    assert_eq!(heard(&wrong_sum), None);
    let mut elsewhere = asked("::", &[]);
    elsewhere[L3 + 39] ^= 1;
    fill_in(&mut elsewhere, L3 + 40, 2, ICMPV6);
    assert_eq!(heard(&elsewhere), None, "detection to another group");
    let message = right[L3 + 40..].to_vec();
    let mut fragmented = packet(&[(FRAGMENT, fragment(0, false, 1))], ICMPV6, &message);
    fragmented[L3 + 7] = 255;
    assert_eq!(heard(&fragmented), None, "a fragment");
    for len in 0..right.len() {
        assert_eq!(heard(&right[..len]), None, "{len} bytes");
    }
}

/// The number of the uplink.
const NUMBER: u16 = 1;

/// A host with guests in 2001:db8:1:2::/64 on the link of its uplink.
fn host() -> World {
    let mut world = World::new();
    world.tables.interfaces.get_mut(&UPLINK).unwrap().mac = OUR_MAC;
    answers_for(&mut world, NUMBER, "2001:db8:1:2::", 64, true);
    world
}

fn answers_for(world: &mut World, uplink: u16, prefix: &str, bits: u32, is_answered: bool) {
    let key = NeighbourKey {
        generation: 1,
        uplink,
        address: address(prefix),
    };
    let neighbour = Neighbour {
        is_answered: is_answered.into(),
        reserved: [0; 3],
    };
    let neighbours = &mut world.tables.neighbours;
    neighbours.insert(NEIGHBOUR_FIXED_BITS + bits, &key, neighbour);
}

fn says(world: &World, interface: u32, target: &str) -> Option<Vec<u8>> {
    let mut frame = asked_for(target, ROUTER, &[1, 1, 2, 0, 0, 0, 0, 1]);
    let mut packet = SlicePacket::new(&mut frame, interface);
    answer(&mut packet, &world.tables, interface).map(|frame| frame.to_vec())
}

#[test]
fn n6_1_the_host_answers_for_guests_on_the_link_of_an_uplink() {
    let world = host();
    for guest in [TARGET, "2001:db8:1:2:ffff:ffff:ffff:ffff"] {
        let frame = says(&world, UPLINK, guest).expect("an answer");
        assert_eq!(frame[L3 + 8..L3 + 24], address(guest).bytes());
        assert_eq!(frame[6..12], OUR_MAC);
    }
}

#[test]
fn n6_2_addresses_of_others_are_not_answered() {
    let mut world = host();
    for (others, why) in [
        ("2001:db8:1:2::2", "the kernel's own"),
        ("2001:db8:1:2::1", "the router's"),
    ] {
        answers_for(&mut world, NUMBER, others, 128, false);
        assert_eq!(says(&world, UPLINK, others), None, "{why}");
    }
    assert!(says(&world, UPLINK, "2001:db8:1:2::3").is_some());
    assert_eq!(says(&world, UPLINK, "2001:db8:1:3::3"), None, "outside");
    answers_for(&mut world, NUMBER + 1, "2001:db8:1:3::", 64, true);
    assert_eq!(says(&world, UPLINK, "2001:db8:1:3::3"), None, "elsewhere");
    assert_eq!(says(&world, LAN, TARGET), None, "of a guest");
    assert_eq!(says(&world, 99, TARGET), None, "unknown interface");
    world.tables.interfaces.get_mut(&UPLINK).unwrap().mac = [0; 6];
    assert_eq!(says(&world, UPLINK, TARGET), None, "no Ethernet address");
    let mut world = host();
    world.tables.settings = None;
    assert_eq!(says(&world, UPLINK, TARGET), None, "no rules yet");
}

#[test]
fn n6_1_the_host_answers_for_external_addresses_that_it_claims() {
    let claimed = ExternalAddress {
        uplink: NUMBER,
        is_host: 0,
        is_silent: 0,
    };
    let (is_host, is_silent) = (1, 1);
    for (external, is_answered) in [
        (claimed, true),
        (ExternalAddress { is_host, ..claimed }, false),
        (
            ExternalAddress {
                is_silent,
                ..claimed
            },
            false,
        ),
        (
            ExternalAddress {
                uplink: NUMBER + 1,
                ..claimed
            },
            false,
        ),
    ] {
        // In a prefix of guests as well as elsewhere: the address itself decides.
        for target in [TARGET, "2001:db8:9::9"] {
            let mut world = host();
            world.tables.addresses.insert(address(target), external);
            let frame = says(&world, UPLINK, target);
            assert_eq!(frame.is_some(), is_answered, "{target}: {external:?}");
        }
    }
}
