//! Extension headers (6E1 to 6E4, 6G7).

use kit::{
    ipv6::{
        C1, C2, HEADER, Ip, LENGTH, Make, POOL, PUBLIC, S1A, SOURCE, TIME_EXCEEDED, TOO_BIG, World,
        ends, read,
    },
    octets::{DESTINATION_OPTIONS, FRAGMENT, HOP_BY_HOP, ROUTING},
    packets::{At, ETHERNET, SYN, error_with_code, raw, request, tcp, udp, with_rest},
    world::{FORWARD_RULE, Hook, LAN},
};
use nat_common::{
    drop_reason::DropReason,
    pipeline::Verdict,
    wire::protocol::{ICMPV6, TCP, UDP},
};

use super::ip;

const AUTHENTICATION: u8 = 51;
const NO_NEXT_HEADER: u8 = 59;

/// An option of eight bytes with next header and length that pads.
const PADDING: [u8; 6] = [1, 4, 0, 0, 0, 0];
const GUEST: At<Ip> = At(C1, 5000);
const REMOTE: At<Ip> = At(S1A, 7000);

/// Chains of headers before the transport header that a router must read past.
fn chains() -> Vec<Vec<u8>> {
    vec![
        vec![HOP_BY_HOP],
        vec![DESTINATION_OPTIONS],
        vec![HOP_BY_HOP, DESTINATION_OPTIONS],
        vec![
            HOP_BY_HOP,
            DESTINATION_OPTIONS,
            ROUTING,
            DESTINATION_OPTIONS,
        ],
        vec![DESTINATION_OPTIONS; 6],
    ]
}

fn with_chain(packet: Make, chain: &[u8]) -> Make {
    chain.iter().fold(packet, |packet, number| match *number {
        // Of type 2, and no further: segments left 0.
        ROUTING => packet.extension(ROUTING, &[2, 0, 0, 0, 0, 0]),
        number => packet.extension(number, &PADDING),
    })
}

/// Where such a chain ends in a frame.
fn end_of(chain: &[u8]) -> usize {
    ETHERNET + HEADER + 8 * chain.len()
}

#[test]
fn e6_1_packets_behind_extension_headers_are_translated_both_ways() {
    for chain in chains() {
        for protocol in [UDP, TCP, ICMPV6] {
            let mut world = World::new();
            world.forward(protocol, 0..=0, At(C2, 0));
            world.forward(protocol, 10_000..=10_000, At(C2, 80));
            let sent = with_chain(request(protocol, GUEST, REMOTE), &chain).bytes();
            let out = world.guest_sends(&sent).uplink();
            assert_eq!(ends(&out).0, At(PUBLIC, 5000), "{chain:?}");
            // The headers themselves stay.
            let headers = ETHERNET + HEADER..end_of(&chain);
            assert_eq!(out[headers.clone()], sent[headers], "{chain:?}");
            let back = kit::packets::answer(protocol, REMOTE, At(PUBLIC, 5000));
            let back = with_chain(back, &chain).bytes();
            let back = read(&world.outside_sends(&back).guest());
            assert_eq!(back.destination, GUEST);
            let asked = with_chain(request(protocol, REMOTE, At(PUBLIC, 10_000)), &chain);
            let asked = world.outside_sends(&asked.bytes()).guest();
            assert_eq!(ends(&asked).1.0, C2, "{chain:?}");
            assert_eq!(world.counters(FORWARD_RULE).opened, 1);
            world.check();
        }
    }
}

/// One more than are read past (RFC 8504 section 5.3).
#[test]
fn e6_2_seven_headers_are_dropped_at_every_hook() {
    let world = World::new();
    for number in [DESTINATION_OPTIONS, HOP_BY_HOP] {
        let chain = [number; 7];
        let from = with_chain(udp(GUEST, REMOTE), &chain).bytes();
        let to = with_chain(udp(REMOTE, At(PUBLIC, 5000)), &chain).bytes();
        assert_eq!(world.guest_sends(&from).reason(), DropReason::Malformed);
        assert_eq!(world.outside_sends(&to).reason(), DropReason::Malformed);
    }
    assert_eq!(world.entries(), [0; 4]);
}

#[test]
fn e6_2_a_chain_that_is_cut_off_or_lies_about_its_length_is_dropped() {
    let world = World::new();
    let whole = with_chain(udp(GUEST, REMOTE), &[HOP_BY_HOP, DESTINATION_OPTIONS]).bytes();
    // The packet says that it is as long as it is, and ends within its headers.
    for len in ETHERNET + HEADER..end_of(&[0, 0]) + 8 {
        let mut cut = whole[..len].to_vec();
        let payload = (len - ETHERNET - HEADER) as u16;
        cut[LENGTH..LENGTH + 2].copy_from_slice(&payload.to_be_bytes());
        assert_eq!(
            world.guest_sends(&cut).reason(),
            DropReason::Malformed,
            "{len}"
        );
    }
    for (at, len) in [(1, 255), (1, 2), (9, 255), (9, 3)] {
        let mut lying = whole.clone();
        lying[ETHERNET + HEADER + at] = len;
        assert_eq!(
            world.guest_sends(&lying).reason(),
            DropReason::Malformed,
            "{at}: {len}"
        );
    }
    assert_eq!(world.entries(), [0; 4]);
}

/// The transport's checksum covers the last destination, not the one that would be translated.
#[test]
fn e6_3_a_packet_with_segments_left_is_not_translated() {
    let mut world = World::new();
    world.forward(UDP, 10_000..=10_000, At(C2, 80));
    world.external(POOL[0], false);
    world.guest_sends(&udp(GUEST, REMOTE).bytes()).uplink();
    let entries = world.entries();
    for kind in [2, 4] {
        for left in [1, 2] {
            let routed = |packet: Make| packet.extension(ROUTING, &[kind, left, 0, 0, 0, 0]);
            // Of a session, and of none.
            for remote in [REMOTE, At(S1A, 7001)] {
                let out = world.guest_sends(&routed(udp(GUEST, remote)).bytes());
                assert_eq!(out.reason(), DropReason::RoutingHeader);
            }
            // The host is only the next hop of the route.
            for to in [At(PUBLIC, 5000), At(PUBLIC, 10_000)] {
                let packet = routed(udp(REMOTE, to)).bytes();
                assert_eq!(world.outside_sends(&packet).host(), packet);
                let packet = routed(udp(At(C2, 5000), to)).bytes();
                assert_eq!(world.guest_sends(&packet).host(), packet);
            }
            let packet = routed(udp(REMOTE, At(POOL[0], 5000))).bytes();
            let fate = world.outside_sends(&packet);
            assert_eq!(fate.reason(), DropReason::RoutingHeader);
        }
    }
    assert_eq!(world.entries(), entries);
}

#[test]
fn e6_3_a_packet_at_the_end_of_its_route_is_translated() {
    for kind in [0, 2, 4] {
        let world = World::new();
        let routed = |packet: Make| packet.extension(ROUTING, &[kind, 0, 0, 0, 0, 0]);
        let out = world.guest_sends(&routed(udp(GUEST, REMOTE)).bytes());
        assert_eq!(ends(&out.uplink()).0, At(PUBLIC, 5000));
        let back = world.outside_sends(&routed(udp(REMOTE, At(PUBLIC, 5000))).bytes());
        assert_eq!(ends(&back.guest()).1, GUEST);
    }
}

/// RFC 5095: no node obeys type 0. Where nothing is translated, the other types pass.
#[test]
fn e6_3_type_0_with_segments_left_passes_nowhere() {
    let mut world = World::new();
    world.without_snat(C1);
    for kind in [0, 2, 4] {
        let routed = udp(GUEST, REMOTE).extension(ROUTING, &[kind, 1, 0, 0, 0, 0]);
        let packet = routed.bytes();
        let fate = world.guest_sends(&packet);
        match kind {
            0 => assert_eq!(fate.reason(), DropReason::Malformed),
            _ => assert_eq!(fate.uplink(), packet),
        }
    }
}

/// ESP, SCTP, protocols that natbpf does not know, and nothing at all, are translated by their
/// addresses: so are mobility, HIP and Shim6, which RFC 6092 names.
#[test]
fn e6_4_unknown_protocols_and_no_next_header_are_translated_by_address() {
    for protocol in [NO_NEXT_HEADER, 50, 132, 253, 135, 139, 140] {
        let world = World::new();
        let sent = raw(protocol, C1, S1A).bytes();
        let out = world.guest_sends(&sent).uplink();
        let inside = ETHERNET + HEADER;
        assert_eq!(out[inside..], sent[inside..], "{protocol}");
        assert_eq!(out[SOURCE], PUBLIC, "{protocol}");
        let back = raw(protocol, S1A, PUBLIC).bytes();
        let back = world.outside_sends(&back).guest();
        assert_eq!(back[kit::ipv6::DESTINATION], C1, "{protocol}");
        world.check();
    }
}

/// An authentication header covers the addresses: it passes where nothing is translated.
#[test]
fn e6_4_an_authentication_header_passes_without_translation_alone() {
    let mut world = World::new();
    world.forward_all(C2);
    let packet = |from, to| {
        let header = raw(AUTHENTICATION, from, to).payload(&[6, 4, 0, 0, 0, 0, 0, 1]);
        header.bytes()
    };
    assert_eq!(
        world.guest_sends(&packet(C1, S1A)).reason(),
        DropReason::NoSession
    );
    // What comes to the host is the host's.
    for packet in [packet(S1A, PUBLIC), packet(C1, PUBLIC)] {
        let fate = if packet[SOURCE] == C1 {
            world.guest_sends(&packet)
        } else {
            world.outside_sends(&packet)
        };
        assert_eq!(fate.host(), packet);
    }
    assert_eq!(world.entries(), [0; 4]);
    world.without_snat(C1);
    let sent = packet(C1, S1A);
    assert_eq!(world.guest_sends(&sent).uplink(), sent);
}

/// The last hop's error comes from the kernel: a hop limit of 1 changes no decision (6E6).
#[test]
fn e6_a_packet_at_its_last_hop_is_decided_like_any_other() {
    let world = World::new();
    let mut sent = udp(GUEST, REMOTE).bytes();
    sent[kit::ipv6::HOPS] = 1;
    let (verdict, after) = world.run(Hook::FromGuest, &sent, LAN, LAN).unwrap();
    assert_eq!((verdict, after), (Verdict::Untouched, sent));
    // A router's answer to one that left with as little reaches the guest with its own packet.
    let mut sent = udp(GUEST, REMOTE).bytes();
    sent[kit::ipv6::HOPS] = 2;
    let out = world.guest_sends(&sent).uplink();
    let expired = error_with_code(ip("2001:db8:ffff::1"), &out, [TIME_EXCEEDED, 0], 1000);
    let seen = read(&world.outside_sends(&expired.bytes()).guest());
    assert_eq!(seen.payload, sent[ETHERNET..]);
}

/// An error that quotes a packet with extension headers, whole or cut within its transport header,
/// shows its sender what it has sent; its MTU stays, below 1280 too (RFC 8201).
#[test]
fn g6_7_quoted_extension_headers_are_stepped_over() {
    for chain in chains() {
        for mtu in [1280_u32, 1000] {
            let world = World::new();
            // Another guest has the port, so that this one's changes.
            world
                .guest_sends(&udp(At(C2, 5000), REMOTE).bytes())
                .uplink();
            world
                .guest_sends(&tcp(At(C2, 5000), REMOTE, SYN).bytes())
                .uplink();
            let sent = with_chain(tcp(GUEST, REMOTE, SYN), &chain).bytes();
            let out = world.guest_sends(&sent).uplink();
            let transport = end_of(&chain) - ETHERNET;
            for len in [
                transport + 8,
                transport + 16,
                transport + 18,
                transport + 20,
            ] {
                let packet = error_with_code(ip("2001:db8:ffff::1"), &out, TOO_BIG, len);
                let packet = with_rest(packet, mtu.to_be_bytes()).bytes();
                let seen = world.outside_sends(&packet).guest();
                assert_eq!(seen[ETHERNET + HEADER + 4..][..4], mtu.to_be_bytes());
                let seen = read(&seen);
                assert_eq!(seen.destination.0, C1);
                assert_eq!(seen.payload, sent[ETHERNET..][..len], "{chain:?}, {len}");
            }
            // With less than names the ports it is about nothing.
            let packet = error_with_code(S1A, &out, TOO_BIG, transport + 4).bytes();
            assert_eq!(world.outside_sends(&packet).host(), packet);
        }
    }
}

/// A quoted first fragment has a fragment header before its ports.
#[test]
fn g6_7_an_error_about_a_first_fragment_reaches_its_sender() {
    let world = World::new();
    let whole = udp(GUEST, REMOTE).payload(&[5; 1000]).id(9).bytes();
    let sent = &kit::ipv6::fragments(&whole, 512)[0];
    let out = world.guest_sends(sent).uplink();
    let packet = error_with_code(ip("2001:db8:ffff::1"), &out, TOO_BIG, 600).bytes();
    let seen = read(&world.outside_sends(&packet).guest());
    assert_eq!(seen.destination.0, C1);
    let (id, ports) = (HEADER + 4..HEADER + 8, HEADER + 8..HEADER + 12);
    assert_eq!(seen.payload[ports.clone()], sent[ETHERNET..][ports]);
    assert_eq!(seen.payload[id.clone()], sent[ETHERNET..][id]);
    assert_eq!(seen.payload[6], FRAGMENT);
}

/// A router on the uplink's link may have no other address than a link-local one: its error goes on
/// from the address that it was sent to, since the kernel forwards nothing link-local.
#[test]
fn an_error_from_a_link_local_address_reaches_the_guest() {
    let world = World::new();
    let sent = udp(GUEST, REMOTE).bytes();
    let out = world.guest_sends(&sent).uplink();
    let packet = error_with_code(ip("fe80::1"), &out, TOO_BIG, 1000);
    let packet = with_rest(packet, [0, 0, 5, 0]).bytes();
    let seen = read(&world.outside_sends(&packet).guest());
    assert_eq!((seen.source.0, seen.destination.0), (PUBLIC, C1));
    assert_eq!(seen.payload, sent[ETHERNET..]);
}
