//! The way through extension headers to the transport header (RFC 8200).

use nat_common::{
    drop_reason::DropReason,
    family::Family as _,
    headers::parsed::{Transport, parse_plain},
    wire::{
        address::{Addr6, Port},
        packet::SlicePacket,
    },
};

use crate::packets::{
    DESTINATION_OPTIONS, FRAGMENT, GUEST, HOP_BY_HOP, ICMPV6, L3, NO_NEXT_HEADER, REMOTE, ROUTING,
    TCP, UDP, address, fragment, packet, padding, read, udp,
};

fn tcp() -> Vec<u8> {
    let mut bytes = vec![0x13, 0x88, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2];
    bytes.extend([0x50, 0x12, 0xff, 0xff, 0, 0, 0, 0]);
    bytes
}

#[test]
fn a_packet_without_extension_headers_says_who_talks_to_whom() {
    let parsed = read(&packet(&[], UDP, &udp(b"abc"))).expect("a packet");
    assert_eq!(parsed.header.source, address(GUEST));
    assert_eq!(parsed.header.destination, address(REMOTE));
    assert_eq!(
        (parsed.source_port, parsed.destination_port),
        (Port::new(5000), Port::new(53))
    );
    assert_eq!(
        (parsed.l3, parsed.l4, parsed.transport_len),
        (L3, L3 + 40, 8)
    );
    assert_eq!((parsed.header.ttl, parsed.header.total_len), (64, 51));
    assert_eq!(parsed.transport, Transport::Udp);
    assert!(!parsed.is_fragment());
}

#[test]
fn e6_1_the_transport_is_found_behind_options_and_six_headers() {
    let hop_by_hop = (HOP_BY_HOP, padding());
    let options = (DESTINATION_OPTIONS, padding());
    let long = (
        DESTINATION_OPTIONS,
        [padding(), vec![1, 6, 0, 0, 0, 0, 0, 0]].concat(),
    );
    let six = vec![options.clone(); 6];
    for (extensions, l4) in [
        (vec![hop_by_hop.clone()], 48),
        (vec![options.clone()], 48),
        (vec![hop_by_hop.clone(), options.clone()], 56),
        (vec![hop_by_hop, long], 64),
        (six, 88),
    ] {
        let bytes = packet(&extensions, TCP, &tcp());
        let parsed = read(&bytes).expect("a packet");
        assert_eq!(parsed.l4, L3 + l4);
        assert_eq!(parsed.transport, Transport::Tcp { flags: 0x12 });
        assert_eq!(parsed.destination_port, Port::new(80));
        // The fast path is for packets without them.
        let mut bytes = bytes;
        assert!(parse_plain::<Addr6, _>(&SlicePacket::new(&mut bytes, 1), L3).is_none());
    }
}

#[test]
fn e6_2_seven_headers_and_headers_that_are_cut_off_are_malformed() {
    let options = (DESTINATION_OPTIONS, padding());
    let seven = packet(&vec![options.clone(); 7], TCP, &tcp());
    assert_eq!(read(&seven).unwrap_err(), DropReason::Malformed);
    // An extension header says that it is longer than the packet.
    let mut long = packet(core::slice::from_ref(&options), TCP, &tcp());
    long[L3 + 41] = 200;
    assert_eq!(read(&long).unwrap_err(), DropReason::Malformed);
    // The payload's length goes past the end, or ends within each header.
    let whole = packet(&[options.clone(), options], TCP, &tcp());
    let mut past = whole.clone();
    past[L3 + 5] += 1;
    assert_eq!(read(&past).unwrap_err(), DropReason::Malformed);
    for len in 0..whole.len() {
        assert_eq!(
            read(&whole[..len]).unwrap_err(),
            DropReason::Malformed,
            "{len} bytes"
        );
    }
    for payload_len in 0..36 {
        let mut short = whole.clone();
        short[L3 + 5] = payload_len;
        assert_eq!(
            read(&short).unwrap_err(),
            DropReason::Malformed,
            "{payload_len}"
        );
    }
}

#[test]
fn e6_3_a_routing_header_with_segments_left_is_told() {
    for (left, route) in [(0, None), (1, Some(4))] {
        let routing = (ROUTING, vec![4, left, 0, 0, 0, 0]);
        let mut bytes = packet(&[(DESTINATION_OPTIONS, padding()), routing], UDP, &udp(b""));
        let parsed = read(&bytes).expect("a packet");
        let frame = SlicePacket::new(&mut bytes, 1);
        assert_eq!(Addr6::route_ahead(&frame, L3), route);
        assert_eq!(parsed.transport, Transport::Udp);
    }
}

#[test]
fn e6_4_what_has_no_ports_is_opaque() {
    for protocol in [51, NO_NEXT_HEADER, 50, 132, 253, 1] {
        let parsed = read(&packet(&[], protocol, &[0; 16])).expect("a packet");
        assert_eq!(parsed.transport, Transport::Opaque, "protocol {protocol}");
        assert_eq!(parsed.header.protocol, protocol);
    }
    let nothing = read(&packet(&[], NO_NEXT_HEADER, &[])).expect("a packet");
    assert_eq!(nothing.transport, Transport::Opaque);
}

#[test]
fn fragments_say_where_they_belong() {
    let id = 0x1234_5678;
    let first = read(&packet(
        &[(FRAGMENT, fragment(0, true, id))],
        UDP,
        &udp(b""),
    ));
    let first = first.expect("a packet");
    assert_eq!((first.header.id, first.header.fragment_offset), (id, 0));
    assert!(first.is_fragment() && first.has_ports);
    let options = (DESTINATION_OPTIONS, padding());
    let extensions = [options, (FRAGMENT, fragment(1232, false, id))];
    let last = read(&packet(&extensions, UDP, &[7; 3])).expect("a packet");
    assert_eq!((last.header.id, last.header.fragment_offset), (id, 1232));
    assert_eq!(last.transport, Transport::LaterFragment);
    assert_eq!(last.l4, L3 + 56);
    // Its payload is no header, whatever number the first fragment's next header has.
    let later = packet(
        &[(FRAGMENT, fragment(8, true, id))],
        DESTINATION_OPTIONS,
        &[0xff; 8],
    );
    assert_eq!(
        read(&later).expect("a packet").transport,
        Transport::LaterFragment
    );
}

#[test]
fn g6_2_an_atomic_fragment_is_a_whole_packet() {
    let parsed = read(&packet(
        &[(FRAGMENT, fragment(0, false, 9))],
        UDP,
        &udp(b"x"),
    ));
    let parsed = parsed.expect("a packet");
    assert!(!parsed.is_fragment());
    assert_eq!(parsed.transport, Transport::Udp);
}

#[test]
fn g6_3_a_first_fragment_without_all_headers_is_tiny() {
    for payload in [&[][..], &[0; 4]] {
        let short = packet(&[(FRAGMENT, fragment(0, true, 9))], UDP, payload);
        assert_eq!(read(&short).unwrap_err(), DropReason::FragmentTiny);
    }
    let cut = packet(
        &[(FRAGMENT, fragment(0, true, 9))],
        DESTINATION_OPTIONS,
        &[17, 3, 0, 0],
    );
    assert_eq!(read(&cut).unwrap_err(), DropReason::FragmentTiny);
    let long = packet(
        &[(FRAGMENT, fragment(0, true, 9))],
        DESTINATION_OPTIONS,
        &[17, 3, 0, 0, 0, 0, 0, 0],
    );
    assert_eq!(read(&long).unwrap_err(), DropReason::FragmentTiny);
}

#[test]
fn a_second_fragment_header_is_malformed() {
    let twice = [
        (FRAGMENT, fragment(0, false, 9)),
        (FRAGMENT, fragment(0, false, 9)),
    ];
    assert_eq!(
        read(&packet(&twice, UDP, &udp(b""))).unwrap_err(),
        DropReason::Malformed
    );
}

#[test]
fn echo_is_a_query_and_what_concerns_one_link_is_not() {
    for (kind, transport) in [
        (128, Transport::IcmpQuery { is_reply: false }),
        (129, Transport::IcmpQuery { is_reply: true }),
        (1, Transport::IcmpError),
        (2, Transport::IcmpError),
        (3, Transport::IcmpError),
        (4, Transport::IcmpError),
        (130, Transport::IcmpOther),
        (133, Transport::IcmpOther),
        (134, Transport::IcmpOther),
        (135, Transport::IcmpOther),
        (136, Transport::IcmpOther),
        (137, Transport::IcmpOther),
        (143, Transport::IcmpOther),
    ] {
        let parsed =
            read(&packet(&[], ICMPV6, &[kind, 0, 0, 0, 0x12, 0x34, 0, 1])).expect("a packet");
        assert_eq!(parsed.transport, transport, "type {kind}");
        let echo = (Port::new(0x1234), Port::new(128));
        let ends = (parsed.source_port, parsed.destination_port);
        match kind {
            128 => assert_eq!(ends, echo),
            129 => assert_eq!((ends.1, ends.0), echo),
            _ => assert_eq!(ends, (Port::ZERO, Port::ZERO)),
        }
    }
}
