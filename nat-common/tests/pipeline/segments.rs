//! Packets before segmentation, and how they count; data and headers.

use nat_common::{
    drop_reason::DropReason,
    headers::parsed::{Parsed, parse},
    tables::counters::Traffic,
    wire::{
        packet::{Frames, Packet, SlicePacket},
        protocol::TCP,
    },
};

use crate::family::{Addr, C1, HEADER, IS_IPV6, Ip, LENGTH, S1A, World};
use kit::packets::{ACK, At, ETHERNET, GRE, SYN, ping, raw, tcp, udp};

const GUEST: At<Ip> = At(C1, 5000);
const REMOTE: At<Ip> = At(S1A, 7000);
/// Bytes of the headers of a segment without options.
const HEADERS: usize = HEADER + 20;

/// The headers of a packet that becomes frames with so many bytes of payload, 0 for one that is a
/// frame; and what is counted of it.
fn read(bytes: &[u8], segment_len: u32) -> Result<(Parsed<Addr>, Traffic), DropReason> {
    let mut bytes = bytes.to_vec();
    let packet = SlicePacket {
        frames: Frames { segment_len },
        ..SlicePacket::new(&mut bytes, 0)
    };
    let mut parsed = Parsed::EMPTY;
    parse(&packet, ETHERNET, &mut parsed)?;
    Ok((parsed, parsed.traffic(&packet, true)))
}

#[test]
fn counters_count_frames_on_the_wire_with_headers() {
    let large = tcp(GUEST, REMOTE, ACK).payload(&[7; 3001]).bytes();
    for (segment_len, packets) in [
        (0, 1),
        (1460, 3),
        (3000, 2),
        (3001, 1),
        (9000, 1),
        (1, 3001),
    ] {
        let (_, traffic) = read(&large, segment_len).unwrap();
        let expected = Traffic {
            is_in: true,
            packets,
            bytes: 3001 + packets * HEADERS as u64,
        };
        assert_eq!(traffic, expected, "{segment_len}");
    }
    // One without data is a frame all the same.
    let (_, traffic) = read(&tcp(GUEST, REMOTE, ACK).bytes(), 1460).unwrap();
    assert_eq!((traffic.packets, traffic.bytes), (1, HEADERS as u64));
}

#[test]
fn a_length_of_0_is_that_of_a_packet_that_is_too_large_to_say_it() {
    let mut large = udp(GUEST, REMOTE).payload(&[7; 1000]).bytes();
    large[LENGTH..LENGTH + 2].fill(0);
    large[ETHERNET + HEADER + 4..][..2].fill(0);
    let (parsed, _) = read(&large, 500).unwrap();
    let headers = HEADER + 8;
    assert_eq!(
        (parsed.header.total_len, parsed.headers_len()),
        (1000 + headers, headers)
    );
    assert_eq!(read(&large, 0), Err(DropReason::Malformed));
    // One that says its length has the one that it says.
    let padded = [udp(GUEST, REMOTE).bytes(), vec![0; 10]].concat();
    for segment_len in [0, 500] {
        let (parsed, _) = read(&padded, segment_len).unwrap();
        assert_eq!(parsed.end(), padded.len() - 10);
    }
}

#[test]
fn padding_is_no_data_and_options_are_headers() {
    let bare = tcp(GUEST, REMOTE, ACK);
    let padded = |packet: Vec<u8>| [packet, vec![0; 6]].concat();
    let options = bare.clone().options(&[1; 4]);
    for (packet, headers_len, has_data) in [
        (bare.bytes(), HEADERS, false),
        (padded(bare.bytes()), HEADERS, false),
        (bare.clone().payload(b"x").bytes(), HEADERS, true),
        (
            options.bytes(),
            HEADERS + if IS_IPV6 { 8 } else { 4 },
            false,
        ),
        (udp(GUEST, REMOTE).payload(b"").bytes(), HEADER + 8, false),
        (udp(GUEST, REMOTE).bytes(), HEADER + 8, true),
        (ping(GUEST, S1A).bytes(), HEADER + 8, true),
    ] {
        let (parsed, _) = read(&packet, 0).unwrap();
        assert_eq!(
            (parsed.headers_len(), parsed.has_data()),
            (headers_len, has_data)
        );
    }
}

/// As little as a protocol needs is enough, and one byte less is not.
#[test]
fn s5_the_shortest_packets_of_each_protocol_pass() {
    // In IPv6 a length of 0 is that of a packet that is too large to say it.
    let of_gre = usize::from(IS_IPV6);
    for (protocol, least) in [(GRE, of_gre), (136, 8), (33, 8)] {
        let world = World::new();
        let packet = |len| raw(protocol, C1, S1A).payload(&vec![1; len]).bytes();
        world.guest_sends(&packet(least)).uplink();
        for len in [least.saturating_sub(1), least / 2]
            .into_iter()
            .filter(|len| *len < least)
        {
            let fate = world.guest_sends(&packet(len));
            assert_eq!(fate.reason(), DropReason::Malformed, "{protocol}: {len}");
        }
    }
    let world = World::new();
    world
        .guest_sends(&udp(GUEST, REMOTE).payload(b"").bytes())
        .uplink();
    let opens = tcp(GUEST, REMOTE, SYN).bytes();
    world.guest_sends(&opens).uplink();
    assert_eq!(read(&opens, 0).unwrap().0.header.protocol, TCP);
}

#[test]
fn a_packet_without_bytes_is_empty_and_shown_with_where_it_came_in() {
    let (mut none, mut some) = ([], [1, 2]);
    assert!(SlicePacket::new(&mut none, 0).is_empty());
    let packet = SlicePacket::new(&mut some, 7);
    assert!(!packet.is_empty());
    let shown = format!("{packet:?}");
    assert!(shown.contains("[1, 2]") && shown.contains('7'), "{shown}");
}
