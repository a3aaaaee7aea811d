//! The announced segment size: T9.

use crate::family::{C1, C2, HEADER, Ip, PUBLIC, S1A, World, read};
use kit::packets::{ACK, At, ETHERNET, SYN, tcp};
use nat_common::wire::protocol::TCP;

const REMOTE: At<Ip> = At(S1A, 7000);
/// Where the options of a TCP header without IP options stand in a frame.
const OPTIONS: usize = ETHERNET + HEADER + 20;
/// Where that header says its length, and where its checksum is.
const DATA_OFFSET: usize = ETHERNET + HEADER + 12;
const CHECKSUM: usize = ETHERNET + HEADER + 16;

/// A segment that opens a connection, with these options; sums are made right by hand.
pub(crate) fn syn(source: At<Ip>, destination: At<Ip>, flags: u8, options: &[u8]) -> Vec<u8> {
    let mut packet = tcp(source, destination, flags).payload(options).bytes();
    // What was data becomes options: no byte moves, so only the header's length changes the sum.
    let old = packet[DATA_OFFSET];
    packet[DATA_OFFSET] = (5 + options.len() as u8 / 4) << 4 | (old & 0xf);
    let sum = u16::from_be_bytes([packet[CHECKSUM], packet[CHECKSUM + 1]]);
    let change = u32::from(packet[DATA_OFFSET]) << 8;
    let old = u32::from(old) << 8;
    let mut total = u32::from(!sum) + change + (0xffff - old);
    total = (total & 0xffff) + (total >> 16);
    total = (total & 0xffff) + (total >> 16);
    packet[CHECKSUM..CHECKSUM + 2].copy_from_slice(&(!(total as u16)).to_be_bytes());
    packet
}

pub(crate) fn options(packet: &[u8], len: usize) -> &[u8] {
    // Checks all checksums.
    read(packet);
    &packet[OPTIONS..OPTIONS + len]
}

/// What interfaces are limited to: the size behind an IPv4 header, which is the shortest.
const LIMIT: u16 = 1400 + (HEADER - 20) as u16;
const MSS_1460: [u8; 4] = [2, 4, 5, 180];
const MSS_1400: [u8; 4] = [2, 4, 5, 120];

#[test]
fn t9_a_larger_segment_size_is_lowered_both_ways() {
    let mut world = World::new();
    world.mss(LIMIT);
    world.forward(TCP, 80..=80, At(C2, 80));
    let sent = syn(At(C1, 5000), REMOTE, SYN, &MSS_1460);
    let sent = world.guest_sends(&sent).uplink();
    assert_eq!(options(&sent, 4), MSS_1400);
    let answer = syn(REMOTE, At(PUBLIC, 5000), SYN | ACK, &MSS_1460);
    let answer = world.outside_sends(&answer).guest();
    assert_eq!(options(&answer, 4), MSS_1400);
    let asked = syn(REMOTE, At(PUBLIC, 80), SYN, &MSS_1460);
    let asked = world.outside_sends(&asked).guest();
    assert_eq!(options(&asked, 4), MSS_1400);
}

#[test]
fn t9_nothing_else_changes() {
    let mut world = World::new();
    let unlimited = syn(At(C1, 5000), REMOTE, SYN, &MSS_1460);
    let unlimited = world.guest_sends(&unlimited).uplink();
    assert_eq!(options(&unlimited, 4), MSS_1460, "without a limit");
    world.mss(LIMIT);
    for (port, list) in [
        (5001, &[2, 4, 5, 100][..]),
        (5002, &MSS_1400),
        (5003, &[1, 1, 1, 0]),
        (5004, &[0, 2, 4, 255]),
        (5005, &[2, 3, 255, 0]),
        (5006, &[2, 0, 255, 255]),
        (5007, &[1, 1, 1, 2]),
        (5008, &[8, 10, 2, 4, 255, 255, 0, 0, 0, 0, 1, 1]),
        (5009, &[3, 3, 2, 2, 4, 5]),
        // Behind the end of the options, and behind one that is too short to be one.
        (5010, &[0, 2, 2, 4, 5, 180]),
        (5011, &[3, 1, 2, 4, 5, 180]),
    ] {
        let list = [list, &[0; 4][..(4 - list.len() % 4) % 4]].concat();
        let sent = world.guest_sends(&syn(At(C1, port), REMOTE, SYN, &list));
        assert_eq!(options(&sent.uplink(), list.len()), list);
    }
    // Only what opens a connection announces anything.
    let data = syn(At(C1, 5001), REMOTE, ACK, &MSS_1460);
    assert_eq!(options(&world.guest_sends(&data).uplink(), 4), MSS_1460);
}

/// Data of a segment that opens a connection (RFC 7413) is no option, whatever it looks like.
#[test]
fn t9_data_behind_the_options_does_not_change() {
    let mut world = World::new();
    world.mss(LIMIT);
    for (port, list, data) in [
        (5000, [1, 1, 1, 1], MSS_1460),
        (5001, [1, 1, 2, 4], [255; 4]),
    ] {
        let mut sent = syn(At(C1, port), REMOTE, SYN, &[&list[..], &data].concat());
        // The second half is data: the header is four bytes shorter, and its sum with it.
        sent[DATA_OFFSET] -= 0x10;
        let sum = u16::from_be_bytes([sent[CHECKSUM], sent[CHECKSUM + 1]]);
        let (sum, carry) = sum.overflowing_add(0x1000);
        let sum = sum + u16::from(carry);
        sent[CHECKSUM..CHECKSUM + 2].copy_from_slice(&sum.to_be_bytes());
        let seen = read(&world.guest_sends(&sent).uplink());
        assert_eq!(seen.payload, data);
    }
}

#[test]
fn t9_it_is_found_behind_an_option_without_a_value() {
    let mut world = World::new();
    world.mss(LIMIT);
    let list = [&[4, 2][..], &MSS_1460, &[1, 1]].concat();
    let sent = world.guest_sends(&syn(At(C1, 5000), REMOTE, SYN, &list));
    assert_eq!(options(&sent.uplink(), 8)[2..6], MSS_1400);
}

#[test]
fn t9_it_is_found_among_other_options_at_any_offset() {
    let mut world = World::new();
    world.mss(LIMIT);
    for before in 0..4 {
        let mut list = vec![1; before];
        list.extend([3, 3, 7]);
        list.extend(MSS_1460);
        list.resize(12, 0);
        let port = 5000 + before as u16;
        let sent = world.guest_sends(&syn(At(C1, port), REMOTE, SYN, &list));
        let mut expected = list.clone();
        expected[before + 3..before + 7].copy_from_slice(&MSS_1400);
        assert_eq!(options(&sent.uplink(), 12), expected);
    }
}
