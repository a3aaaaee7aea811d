//! Packets that are no errors.

use etherparse::IpNumber;
use nat_common::{drop_reason::DropReason, wire::checksum};

use crate::packets::{
    ALL, Carried, GUEST, GUEST_4, RANDOM, SERVER, TTL, header_4, header_6, ipv6, packet_4,
    packet_6, server_6, table, translated, transport_len,
};

fn data(len: usize) -> Vec<u8> {
    (0..len).map(|at| at as u8).collect()
}

#[test]
fn x6_1_a_guests_packet_is_one_of_ipv4() {
    for what in ALL {
        for len in [0, 1, 37, 1200, 1400] {
            let data = data(len);
            let packet = packet_6(header_6(ipv6(GUEST), server_6()), what, &data);
            let len = transport_len(what) + len;
            let expected = packet_4(header_4(GUEST_4, SERVER, len), what, &data);
            assert_eq!(translated(&packet), Ok(expected), "{what:?} {len}");
        }
    }
}

#[test]
fn x6_1_an_answer_is_one_of_ipv6() {
    for what in ALL {
        for len in [0, 1, 37, 1200, 1400] {
            let data = data(len);
            let mut header = header_4(SERVER, GUEST_4, transport_len(what) + len);
            header.time_to_live = TTL;
            let packet = packet_4(header, what, &data);
            let mut header = header_6(server_6(), ipv6(GUEST));
            header.hop_limit = TTL + 1;
            let expected = packet_6(header, what, &data);
            assert_eq!(translated(&packet), Ok(expected), "{what:?} {len}");
        }
    }
}

#[test]
fn x6_1_headers_before_the_transport_are_left_out() {
    let plain = packet_6(header_6(ipv6(GUEST), server_6()), Carried::Tcp, b"data");
    let options = [6, 0, 1, 4, 0, 0, 0, 0];
    let mut packet = [&plain[..40], &options[..], &plain[40..]].concat();
    packet[6] = 60;
    packet[5] += 8;
    assert_eq!(translated(&packet), translated(&plain));
}

/// RFC 7915 section 5.1.
#[test]
fn x6_3_a_packet_with_segments_left_is_dropped() {
    let plain = packet_6(header_6(ipv6(GUEST), server_6()), Carried::Tcp, b"data");
    for (left, expected) in [(0, translated(&plain)), (1, Err(DropReason::Malformed))] {
        let routing = [6, 0, 2, left, 0, 0, 0, 0];
        let mut packet = [&plain[..40], &routing[..], &plain[40..]].concat();
        packet[6] = 43;
        packet[5] += 8;
        assert_eq!(translated(&packet), expected, "{left}");
    }
}

#[test]
fn x6_1_options_of_ipv4_are_left_out() {
    let plain = packet_4(header_4(SERVER, GUEST_4, 12), Carried::Udp, b"data");
    let mut packet = [&plain[..20], &[1, 1, 1, 1][..], &plain[20..]].concat();
    packet[0] = 0x46;
    packet[3] += 4;
    assert_eq!(translated(&packet), translated(&plain));
}

/// The IPv6 fragment header of a packet that goes on with `protocol`.
fn fragment(protocol: u8, offset: u16, more: bool, id: u32) -> Vec<u8> {
    let mut bytes = vec![protocol, 0];
    bytes.extend((offset | u16::from(more)).to_be_bytes());
    bytes.extend(id.to_be_bytes());
    bytes
}

#[test]
fn x6_4_fragments_stay_fragments_both_ways() {
    for (offset, more) in [(0, true), (1232, true), (1232, false)] {
        let data = data(64);
        let header = header_6(ipv6(GUEST), server_6());
        let whole = packet_6(header, Carried::Udp, &data);
        let mut packet = [
            &whole[..40],
            &fragment(17, offset, more, 0xabcd)[..],
            &whole[40..],
        ]
        .concat();
        packet[6] = 44;
        packet[5] += 8;
        let to_ipv4 = translated(&packet).unwrap();
        let word = (offset / 8) | if more { 0x2000 } else { 0 };
        assert_eq!(to_ipv4[4..8], [[0xab, 0xcd], word.to_be_bytes()].concat());
        assert_eq!(to_ipv4.len(), 20 + 8 + 64);
        assert_eq!(checksum::fold(checksum::sum(&to_ipv4[..20])), 0xffff);
        // Only the first one has a checksum.
        let is_same = to_ipv4[20..] == packet[48..];
        assert_eq!(is_same, offset != 0, "{offset}");

        let mut back = to_ipv4.clone();
        back[8] = TTL;
        back[12..16].copy_from_slice(&SERVER);
        back[16..20].copy_from_slice(&GUEST_4);
        let to_ipv6 = translated(&back).unwrap();
        assert_eq!(to_ipv6[6], 44);
        assert_eq!(to_ipv6[40..48], fragment(17, offset, more, 0xabcd));
        assert_eq!(to_ipv6[48..], packet[48..]);
    }
}

#[test]
fn x6_4_a_datagram_without_a_checksum_gets_one() {
    let data = data(33);
    let mut packet = packet_4(header_4(SERVER, GUEST_4, 41), Carried::Udp, &data);
    packet[8] = TTL;
    packet[26..28].fill(0);
    let mut header = header_6(server_6(), ipv6(GUEST));
    header.hop_limit = TTL + 1;
    let expected = packet_6(header, Carried::Udp, &data);
    assert_eq!(translated(&packet), Ok(expected));
    // A first fragment does not have all that the checksum covers.
    packet[6] |= 0x20;
    assert_eq!(translated(&packet), Err(DropReason::Untranslatable));
}

/// A sum that computes to 0 is sent as 0xffff both ways (RFC 768, RFC 8200 section 8.1), also one
/// that the translation makes itself.
#[test]
fn c6_3_no_datagram_loses_its_checksum() {
    let mut header = header_4(SERVER, GUEST_4, 10);
    header.time_to_live = TTL;
    let of_4 = |word: u16| packet_4(header.clone(), Carried::Udp, &word.to_be_bytes());
    let of_6 = |word: u16| {
        let header = header_6(ipv6(GUEST), server_6());
        packet_6(header, Carried::Udp, &word.to_be_bytes())
    };
    let (at_4, at_6) = (20 + 6, 40 + 6);
    let mut all_ones = [0; 3];
    for word in 0..=u16::MAX {
        let mut without = of_4(word);
        without[at_4..at_4 + 2].fill(0);
        let ways = [(of_6(word), at_4), (of_4(word), at_6), (without, at_6)];
        for ((packet, at), all_ones) in ways.into_iter().zip(&mut all_ones) {
            let out = translated(&packet).unwrap();
            let field = &out[at..at + 2];
            assert_ne!(field, [0, 0], "{word:#06x}");
            *all_ones += u32::from(field == [0xff, 0xff]);
        }
    }
    assert!(all_ones.iter().all(|count| *count > 0), "{all_ones:?}");
}

#[test]
fn x6_1_a_packet_that_links_may_fragment_has_an_identification() {
    let packet = |len| packet_6(header_6(ipv6(GUEST), server_6()), Carried::Udp, &data(len));
    // 1,280 bytes, which every link of IPv6 takes.
    let short = translated(&packet(1232)).unwrap();
    assert_eq!(
        short[4..8],
        [(RANDOM as u16).to_be_bytes(), [0, 0]].concat()
    );
    let long = translated(&packet(1233)).unwrap();
    assert_eq!(long[4..8], [0, 0, 0x40, 0]);
}

#[test]
fn x6_3_what_is_cut_off_or_has_no_counterpart_is_dropped() {
    let echo = packet_6(
        header_6(ipv6(GUEST), server_6()),
        Carried::EchoRequest,
        b"data",
    );
    let tcp = packet_6(header_6(ipv6(GUEST), server_6()), Carried::Tcp, b"data");
    for packet in [&echo, &tcp] {
        for len in 0..packet.len() {
            let mut cut = packet[..len].to_vec();
            if !cut.is_empty() {
                assert_eq!(translated(&cut), Err(DropReason::Malformed), "{len}");
            }
            // The same with a length that agrees.
            if len > 40 {
                cut[5] = (len - 40) as u8;
                let _no_panic = translated(&cut);
            }
        }
    }
    // Neighbour discovery, and a fragment of ICMPv6.
    let mut solicitation = echo.clone();
    solicitation[40] = 135;
    assert_eq!(translated(&solicitation), Err(DropReason::Untranslatable));
    let mut part = [&echo[..40], &fragment(58, 0, true, 1)[..], &echo[40..]].concat();
    part[6] = 44;
    part[5] += 8;
    assert_eq!(translated(&part), Err(DropReason::Untranslatable));
}

#[test]
fn x6_5_local_networks_are_not_reached_by_the_well_known_prefix() {
    let to = |text| packet_6(header_6(ipv6(GUEST), ipv6(text)), Carried::Tcp, b"");
    for text in ["64:ff9b::10.1.2.3", "64:ff9b::127.0.0.1", "2001:db8::1"] {
        assert_eq!(
            translated(&to(text)),
            Err(DropReason::Untranslatable),
            "{text}"
        );
    }
}

#[test]
fn x6_1_no_source_is_forged() {
    let from = |text| packet_6(header_6(ipv6(text), server_6()), Carried::Tcp, b"");
    for text in [
        "::",
        "::1",
        "fe80::1",
        "ff02::1",
        "::ffff:1.2.3.4",
        "64:ff9b::1.2.3.4",
    ] {
        assert_eq!(
            translated(&from(text)),
            Err(DropReason::MartianSource),
            "{text}"
        );
    }
}

#[test]
fn x6_1_without_a_counterpart_a_packet_is_dropped() {
    let mut empty = table();
    empty.guests.clear();
    let packet = packet_6(header_6(ipv6(GUEST), server_6()), Carried::Tcp, b"");
    assert_eq!(empty.translate(&packet), Err(DropReason::TableFull));
    let answer = packet_4(header_4(SERVER, GUEST_4, 20), Carried::Tcp, b"");
    assert_eq!(empty.translate(&answer), Err(DropReason::Unsolicited));
}

#[test]
fn x6_3_a_protocol_that_is_another_in_the_other_family_is_dropped() {
    // Hop-by-hop options, routing, fragment, ICMPv6, destination options.
    for protocol in [0, 43, 44, 58, 60] {
        let mut header = header_4(SERVER, GUEST_4, 16);
        header.protocol = IpNumber(protocol);
        header.header_checksum = header.calc_header_checksum();
        let packet = [&header.to_bytes()[..], &[8, 0, 0, 0, 0, 0, 0, 0].repeat(2)].concat();
        assert_eq!(
            translated(&packet),
            Err(DropReason::Malformed),
            "{protocol}"
        );
    }
    let mut packet = packet_6(
        header_6(ipv6(GUEST), server_6()),
        Carried::EchoRequest,
        b"data",
    );
    packet[6] = 1;
    assert_eq!(translated(&packet), Err(DropReason::Malformed));
}

/// Types of ICMP that are echoes in the other family alone.
#[test]
fn x6_3_a_type_that_is_an_echo_in_the_other_family_is_dropped() {
    for (kind, other) in [(8, 128), (0, 129)] {
        let mut packet = packet_6(header_6(ipv6(GUEST), server_6()), Carried::EchoRequest, b"");
        packet[40] = kind;
        assert_eq!(
            translated(&packet),
            Err(DropReason::Untranslatable),
            "{kind}"
        );
        let mut packet = packet_4(header_4(SERVER, GUEST_4, 8), Carried::EchoRequest, b"");
        packet[20] = other;
        assert_eq!(
            translated(&packet),
            Err(DropReason::Untranslatable),
            "{other}"
        );
    }
}
