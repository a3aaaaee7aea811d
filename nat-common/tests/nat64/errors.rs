//! ICMP errors and the packets that they quote.

use nat_common::{drop_reason::DropReason, wire::checksum};

use crate::packets::{
    ALL, Carried, GUEST, GUEST_4, SERVER, STRANGER, TTL, header_4, header_6, ipv6, packet_4,
    packet_6, server_6, translated, transport_len,
};

/// An IPv6 error of a router about a packet that it got.
fn error_6(source: [u8; 16], [kind, code]: [u8; 2], rest: u32, quoted: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x6b, 0x80, 0, 0];
    bytes.extend((8 + quoted.len() as u16).to_be_bytes());
    bytes.extend([58, TTL]);
    bytes.extend(source);
    bytes.extend(server_6());
    bytes.extend([kind, code, 0, 0]);
    bytes.extend(rest.to_be_bytes());
    bytes.extend(quoted);
    let check = !sum_6(&bytes);
    bytes[42..44].copy_from_slice(&check.to_ne_bytes());
    bytes
}

/// Sum of an ICMPv6 message with its pseudo-header, 0xffff if its checksum is right.
fn sum_6(bytes: &[u8]) -> u16 {
    let mut words = bytes[8..40].to_vec();
    words.extend((bytes.len() as u32 - 40).to_be_bytes());
    words.extend([0, 0, 0, 58]);
    words.extend(&bytes[40..]);
    checksum::fold(checksum::sum(&words))
}

/// An IPv4 error of a router about a packet of the guest.
fn error_4([kind, code]: [u8; 2], rest: u32, quoted: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x45, 0xb8];
    bytes.extend((28 + quoted.len() as u16).to_be_bytes());
    bytes.extend([0, 0, 0, 0, TTL, 1, 0, 0]);
    bytes.extend([198, 51, 100, 1]);
    bytes.extend(GUEST_4);
    bytes.extend([kind, code, 0, 0]);
    bytes.extend(rest.to_be_bytes());
    bytes.extend(quoted);
    fill_in_4(&mut bytes);
    bytes
}

/// Fills both checksums of an IPv4 error in.
fn fill_in_4(bytes: &mut [u8]) {
    for (field, range) in [(10, 0..20), (22, 20..bytes.len())] {
        bytes[field..field + 2].fill(0);
        let check = !checksum::fold(checksum::sum(&bytes[range]));
        bytes[field..field + 2].copy_from_slice(&check.to_ne_bytes());
    }
}

/// A packet that the guest has sent, as it left the guest, and as the world saw it.
fn sent(what: Carried, len: usize) -> (Vec<u8>, Vec<u8>) {
    let data = vec![0x5a; len];
    let packet = packet_6(header_6(ipv6(GUEST), server_6()), what, &data);
    let mut header = header_4(GUEST_4, SERVER, transport_len(what) + len);
    (header.time_to_live, header.identification) = (TTL, 0);
    (packet, packet_4(header, what, &data))
}

/// A packet to the guest, as the world sent it, and as the guest saw it.
fn received(what: Carried, len: usize) -> (Vec<u8>, Vec<u8>) {
    let data = vec![0x5a; len];
    let mut header = header_4(SERVER, GUEST_4, transport_len(what) + len);
    (header.time_to_live, header.identification) = (TTL, 0);
    let packet = packet_6(header_6(server_6(), ipv6(GUEST)), what, &data);
    (packet_4(header, what, &data), packet)
}

#[test]
fn x6_2_an_error_to_a_guest_quotes_the_guests_own_packet() {
    for what in ALL {
        for cut in [8, 20, 28, 60] {
            let (own, seen) = sent(what, 60);
            let packet = error_4([3, 4], 1400, &seen[..20 + cut]);
            let error = translated(&packet).unwrap();
            assert_eq!(error[40..42], [2, 0], "{what:?} {cut}");
            assert_eq!(error[44..48], 1420_u32.to_be_bytes());
            assert_eq!(error[8..24], ipv6("64:ff9b::198.51.100.1"));
            assert_eq!(error[24..40], ipv6(GUEST));
            assert_eq!(error[48..], own[..40 + cut], "{what:?} {cut}");
            assert_eq!(usize::from(error[5]), error.len() - 40);
            assert_eq!(sum_6(&error), 0xffff);
        }
    }
}

#[test]
fn x6_2_an_error_of_a_guest_quotes_the_packet_as_it_was_sent() {
    for what in ALL {
        for cut in [8, 20, 28, 60] {
            let (original, seen) = received(what, 60);
            let packet = error_6(ipv6(GUEST), [1, 4], 0, &seen[..40 + cut]);
            let error = translated(&packet).unwrap();
            assert_eq!(error[20..22], [3, 3], "{what:?} {cut}");
            assert_eq!(error[12..16], GUEST_4);
            assert_eq!(error[16..20], SERVER);
            assert_eq!(error[28..], original[..20 + cut], "{what:?} {cut}");
            assert_eq!(usize::from(error[3]), error.len());
            assert_eq!(checksum::fold(checksum::sum(&error[..20])), 0xffff);
            assert_eq!(checksum::fold(checksum::sum(&error[20..])), 0xffff);
        }
    }
}

#[test]
fn x6_2_a_router_without_a_counterpart_has_an_address_of_its_own() {
    let (_, seen) = received(Carried::Udp, 4);
    let packet = error_6(ipv6("2001:db8:ffff::1"), [3, 0], 0, &seen);
    let error = translated(&packet).unwrap();
    assert_eq!(error[12..16], STRANGER);
    assert_eq!(error[20..22], [11, 0]);
}

#[test]
fn x6_2_a_router_of_a_local_network_is_heard() {
    let (own, seen) = sent(Carried::Udp, 4);
    let mut packet = error_4([11, 0], 0, &seen);
    packet[12..16].copy_from_slice(&[10, 0, 0, 1]);
    fill_in_4(&mut packet);
    let error = translated(&packet).unwrap();
    assert_eq!(error[8..24], ipv6("64:ff9b::10.0.0.1"));
    assert_eq!(error[48..], own);
}

#[test]
fn x6_2_an_error_to_a_guest_is_no_longer_than_1280_bytes() {
    for len in [1152, 1153, 1300] {
        let (own, seen) = sent(Carried::Udp, len);
        let error = translated(&error_4([3, 3], 0, &seen)).unwrap();
        let quoted = own.len().min(1280 - 48);
        assert_eq!(error[48..], own[..quoted], "{len}");
        assert_eq!(sum_6(&error), 0xffff);
    }
}

#[test]
fn x6_2_extensions_of_errors_are_left_out() {
    let extension = [0x20, 0, 0, 0, 0, 8, 1, 1, 0, 1, 2, 3];
    let (own, seen) = sent(Carried::Udp, 100);
    // 32 words of 4 bytes are quoted, and then comes the extension (RFC 4884).
    let quoted = [&seen[..128], &extension[..]].concat();
    let error = translated(&error_4([11, 0], 32 << 16, &quoted)).unwrap();
    assert_eq!(error[44..48], [0; 4]);
    assert_eq!(error[48..], own[..148]);
    assert_eq!(sum_6(&error), 0xffff);

    let (original, seen) = received(Carried::Udp, 100);
    let quoted = [&seen[..136], &extension[..]].concat();
    let error = translated(&error_6(ipv6(GUEST), [3, 0], 17 << 24, &quoted)).unwrap();
    assert_eq!(error[24..28], [0; 4]);
    assert_eq!(error[28..], original[..116]);
    assert_eq!(checksum::fold(checksum::sum(&error[20..])), 0xffff);
}

#[test]
fn x6_3_errors_without_a_whole_quoted_header_are_dropped() {
    let (_, seen) = sent(Carried::Tcp, 0);
    for len in 0..20 {
        let packet = error_4([3, 1], 0, &seen[..len]);
        assert_eq!(translated(&packet), Err(DropReason::Malformed), "{len}");
    }
    for len in 20..seen.len() {
        assert!(
            translated(&error_4([3, 1], 0, &seen[..len])).is_ok(),
            "{len}"
        );
    }
    let (_, seen) = received(Carried::Tcp, 0);
    for len in 0..40 {
        let packet = error_6(ipv6(GUEST), [1, 0], 0, &seen[..len]);
        assert_eq!(translated(&packet), Err(DropReason::Malformed), "{len}");
    }
}

#[test]
fn x6_3_errors_about_errors_are_dropped() {
    let (_, seen) = sent(Carried::Udp, 0);
    let nested = error_4([3, 1], 0, &error_4([3, 1], 0, &seen));
    assert_eq!(translated(&nested), Err(DropReason::Untranslatable));
    let (_, seen) = received(Carried::Udp, 0);
    let inner = error_6(ipv6(GUEST), [1, 0], 0, &seen);
    let nested = error_6(ipv6(GUEST), [1, 0], 0, &inner);
    assert_eq!(translated(&nested), Err(DropReason::Untranslatable));
}

#[test]
fn x6_3_an_error_with_a_wrong_checksum_is_dropped() {
    let (_, seen) = sent(Carried::Udp, 8);
    let mut packet = error_4([3, 1], 0, &seen);
    packet[23] ^= 1;
    assert_eq!(translated(&packet), Err(DropReason::BadChecksum));
    let (_, seen) = received(Carried::Udp, 8);
    let mut packet = error_6(ipv6(GUEST), [1, 0], 0, &seen);
    packet[43] ^= 1;
    assert_eq!(translated(&packet), Err(DropReason::BadChecksum));
}

#[test]
fn x6_3_an_error_about_an_unknown_guests_packet_is_dropped() {
    let (_, mut seen) = received(Carried::Udp, 8);
    seen[39] ^= 1;
    let packet = error_6(ipv6(GUEST), [1, 0], 0, &seen);
    assert_eq!(translated(&packet), Err(DropReason::Untranslatable));
}
