//! Translations of IPv6 packets: every checksum is right, and nothing else changes.

use nat_common::{
    family::Family as _,
    headers::quoted::{Quoted, read_quoted, verify_checksum},
    translation::{
        icmp_error::{ErrorTranslation, rewrite_error},
        rewrite::{rewrite, rewrite_forwarded},
    },
    wire::{
        address::{Addr6, Endpoint, Port},
        packet::SlicePacket,
    },
};

use crate::packets::{
    DESTINATION_OPTIONS, FRAGMENT, ICMPV6, L3, TCP, UDP, address, fill_in, fragment, packet,
    padding, read, transport_sum, udp,
};

const PUBLIC: &str = "2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff";

fn public(port: u16) -> Endpoint<Addr6> {
    Endpoint::new(address(PUBLIC), Port::new(port))
}

/// TCP, UDP and echo, each with the place of its checksum and right sums.
fn messages() -> [(u8, usize, Vec<u8>); 3] {
    let mut tcp = vec![0x13, 0x88, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2];
    tcp.extend([0x50, 0x12, 0xff, 0xff, 0, 0, 0, 0, 1, 2, 3]);
    let echo = vec![128, 0, 0, 0, 0x12, 0x34, 0, 1, 9, 9, 9];
    [(TCP, 16, tcp), (UDP, 6, udp(b"hello")), (ICMPV6, 2, echo)]
}

#[test]
fn a_translation_keeps_every_checksum_right() {
    for extensions in [vec![], vec![(DESTINATION_OPTIONS, padding())]] {
        for (protocol, field, message) in messages() {
            let mut bytes = packet(&extensions, protocol, &message);
            let parsed = read(&bytes).expect("a packet");
            fill_in(&mut bytes, parsed.l4, field, protocol);
            for is_forwarded in [false, true] {
                let mut translated = bytes.clone();
                let mut frame = SlicePacket::new(&mut translated, 1);
                let to = (public(61_234), parsed.destination());
                match is_forwarded {
                    true => rewrite_forwarded(&mut frame, &parsed, to.0, to.1),
                    false => rewrite(&mut frame, &parsed, to.0, to.1),
                }
                .expect("a translation");
                let after = read(&translated).expect("a packet");
                assert_eq!(after.source(), to.0);
                assert_eq!(after.destination(), to.1);
                assert_eq!(after.header.ttl, 64 - u8::from(is_forwarded));
                assert_eq!(transport_sum(&translated, parsed.l4, protocol), 0xffff);
                // Version, traffic class and flow label (case 6E5).
                assert_eq!(translated[L3..L3 + 7], bytes[L3..L3 + 7]);
            }
        }
    }
}

#[test]
fn a_fragment_gets_its_identification_where_it_stands() {
    for extensions in [
        vec![(FRAGMENT, fragment(0, true, 7))],
        vec![
            (DESTINATION_OPTIONS, padding()),
            (FRAGMENT, fragment(8, false, 7)),
        ],
    ] {
        let mut bytes = packet(&extensions, UDP, &udp(b"abc"));
        let before = bytes.clone();
        let mut frame = SlicePacket::new(&mut bytes, 1);
        Addr6::write_id(&mut frame, L3, 0xdead_beef).expect("a place");
        assert_eq!(read(&bytes).expect("a packet").header.id, 0xdead_beef);
        let changed = (0..bytes.len())
            .filter(|at| bytes[*at] != before[*at])
            .count();
        assert_eq!(changed, 4);
    }
    let mut whole = packet(&[], UDP, &udp(b"abc"));
    let mut frame = SlicePacket::new(&mut whole, 1);
    assert!(Addr6::write_id(&mut frame, L3, 1).is_none());
}

/// An error comes about a packet that a guest has sent as `PUBLIC`: quotation and error go back to
/// the guest's own address, and both the error's sum and the quoted one are right.
#[test]
fn g6_7_an_error_and_its_quotation_are_translated_wherever_it_is_cut() {
    let guest = Endpoint::new(address("fd00::10"), Port::new(5000));
    for extensions in [vec![], vec![(DESTINATION_OPTIONS, padding())]] {
        for (protocol, field, message) in messages() {
            let mut quoted = packet(&extensions, protocol, &message);
            let sent = read(&quoted).expect("a packet");
            quoted[L3 + 8..L3 + 24].copy_from_slice(&address(PUBLIC).bytes());
            fill_in(&mut quoted, sent.l4, field, protocol);
            for len in sent.l4 - L3 + 8..=quoted.len() - L3 {
                let mut message = vec![2, 0, 0, 0, 0, 0, 5, 0];
                message.extend(&quoted[L3..L3 + len]);
                let mut bytes = packet(&[], ICMPV6, &message);
                fill_in(&mut bytes, L3 + 40, 2, ICMPV6);
                let error = read(&bytes).expect("a packet");
                let mut frame = SlicePacket::new(&mut bytes, 1);
                verify_checksum(&frame, &error).expect("a right sum");
                let mut inner = Quoted::EMPTY;
                assert!(read_quoted(&frame, &error, &mut inner), "a quotation");
                assert_eq!(inner.source.address, address(PUBLIC));
                let to = ErrorTranslation {
                    source: error.header.source,
                    destination: guest.address,
                    quoted_source: guest,
                    quoted_destination: inner.destination,
                };
                rewrite_error(&mut frame, &error, &inner, &to).expect("a translation");
                let after = read(&bytes).expect("a packet");
                assert_eq!(after.header.destination, guest.address);
                assert_eq!(
                    transport_sum(&bytes, L3 + 40, ICMPV6),
                    0xffff,
                    "{len} bytes"
                );
                assert_eq!(bytes[L3 + 44..L3 + 48], [0, 0, 5, 0], "the MTU");
                let start = L3 + 48 - L3;
                if len == quoted.len() - L3 {
                    let sum = transport_sum(&bytes[start..], sent.l4, protocol);
                    assert_eq!(sum, 0xffff, "protocol {protocol}");
                }
            }
        }
    }
}
