//! ICMP queries and errors: I1 to I7.

use nat_common::{
    drop_reason::DropReason,
    session::ending::OUTSIDE_UNANSWERED_S,
    wire::protocol::{TCP, UDP},
};

use crate::family::{
    C1, C2, C3, HEADER, ICMP, IS_IPV6, Ip, Make, PARAMETER_PROBLEM, PUBLIC, REDIRECT, S1A, S1B, S2,
    SOURCE, TIME_EXCEEDED, UDP_CHECKSUM, UNREACHABLE, World, ends, fragments, host, read, sender,
};
use kit::{
    packets::{At, ETHERNET, GRE, answer, error, ping, pong, raw, request, tcp, udp, with_rest},
    world::{FORWARD_RULE, LAN, SNAT_RULE},
};

/// A router between the host and the remote.
const ROUTER: Ip = host([100, 64, 0, 1]);
const REMOTE: At<Ip> = At(S1A, 7000);

/// Asserts that an error about `sent` shows its sender the packet as it was sent.
#[track_caller]
fn assert_quotes(seen: &[u8], sent: &[u8], from: Ip) {
    let seen = read(seen);
    let quoted = &sent[ETHERNET..];
    assert_eq!(seen.source.0, from);
    assert_eq!(seen.destination.0, sent[SOURCE]);
    assert_eq!(seen.payload, quoted[..seen.payload.len()]);
}

/// An identifier of 0 is valid: packets without one, and answers without a query, do not belong to
/// its session.
#[test]
fn i1_the_identifier_0_is_one_like_any_other() {
    for by_forward in [false, true] {
        let mut world = World::new();
        if by_forward {
            world.forward(ICMP, 0..=0, At(C1, 0));
        }
        let asked = world.guest_sends(&ping(At(C1, 0), S1A).bytes()).uplink();
        let id = ends(&asked).0;
        let back = world.outside_sends(&pong(S1A, id).bytes());
        assert_eq!(ends(&back.guest()).1, At(C1, 0));
        // Answers of the guest's own, and a redirect of its.
        let unasked = world.guest_sends(&pong(C1, At(S1A, 0)).bytes());
        assert_eq!(unasked.reason(), DropReason::NoSession);
        let redirect = error(C1, &pong(S1A, At(C1, 0)).bytes(), REDIRECT, HEADER + 8).bytes();
        assert_eq!(world.guest_sends(&redirect).reason(), DropReason::NoSession);
        // The remote's redirect is the host's, and so is its query unless a rule says otherwise.
        let redirect = error(S1A, &asked, REDIRECT, HEADER + 8).bytes();
        assert_eq!(world.outside_sends(&redirect).host(), redirect);
        let query = ping(At(S1A, 0), PUBLIC).bytes();
        let query = world.outside_sends(&query);
        if by_forward {
            let (shown, guest) = ends(&query.guest());
            assert_eq!(guest.0, C1);
            world.guest_sends(&pong(C1, shown).bytes()).uplink();
        } else {
            query.host();
        }
        world.check();
    }
}

/// An error quotes all of a packet that is shorter than what is quoted of longer ones.
#[test]
fn i6_an_error_about_a_short_packet_reaches_its_guest() {
    let world = World::new();
    let sent = raw(GRE, C1, S1A).payload(&[1, 2, 3, 4]).bytes();
    let sent = world.guest_sends(&sent).uplink();
    let seen = world.outside_sends(&error(ROUTER, &sent, UNREACHABLE, HEADER + 4).bytes());
    let seen = read(&seen.guest());
    assert_eq!((seen.source.0, seen.destination.0), (ROUTER, C1));
    assert_eq!(sender(&seen.payload), C1);
}

/// Two guests ping the same remote with the same identifier, and each gets its own answer.
#[test]
fn i1_guests_with_the_same_identifier_both_get_their_answers() {
    let world = World::new();
    let ids = [C1, C2].map(|guest| {
        let out = world.guest_sends(&ping(At(guest, 77), S1A).bytes());
        let (source, destination) = ends(&out.uplink());
        assert_eq!((source.0, destination), (PUBLIC, At(S1A, 0)));
        source.1
    });
    assert_ne!(ids[0], ids[1]);
    for (id, guest) in ids.into_iter().zip([C1, C2]) {
        let back = world.outside_sends(&pong(S1A, At(PUBLIC, id)).bytes());
        assert_eq!(ends(&back.guest()), (At(S1A, 0), At(guest, 77)));
    }
    world.check();
}

/// Identifier 0 is one like any other.
#[test]
fn i1_identifier_zero_is_translated_and_restored() {
    let world = World::new();
    let sent = ping(At(C1, 0), S1A).bytes();
    let id = ends(&world.guest_sends(&sent).uplink()).0.1;
    let back = world.outside_sends(&pong(S1A, At(PUBLIC, id)).bytes());
    assert_eq!(ends(&back.guest()), (At(S1A, 0), At(C1, 0)));
}

/// A forwarded ping reaches the guest, and its answer the remote, also from two remotes with the
/// same identifier.
#[test]
fn i1_forwarded_pings_are_answered() {
    let mut world = World::new();
    world.forward(ICMP, 0..=0, At(C1, 0));
    for remote in [S1A, S1B] {
        for id in [77, 0] {
            let asked = world.outside_sends(&ping(At(remote, id), PUBLIC).bytes());
            assert_eq!(ends(&asked.guest()), (At(remote, id), At(C1, 0)));
            let answered = world.guest_sends(&pong(C1, At(remote, id)).bytes());
            assert_eq!(ends(&answered.uplink()), (At(PUBLIC, 0), At(remote, id)));
        }
    }
    world.check();
}

/// An answer without a query is the host's, or dropped if the identifier is a guest's.
#[test]
fn i1_an_answer_without_a_query_reaches_no_guest() {
    let world = World::new();
    let answer = pong(S1A, At(PUBLIC, 77)).bytes();
    assert_eq!(world.outside_sends(&answer).host(), answer);
    world.guest_sends(&ping(At(C1, 77), S2).bytes()).uplink();
    let fate = world.outside_sends(&answer);
    assert_eq!(fate.reason(), DropReason::Filtered);
}

/// Errors from a router about what a guest has sent, of all types and all protocols and quoting
/// as little or as much as they may, reach that guest with the quoted packet as it was sent.
#[test]
fn i2_an_error_from_outside_reaches_the_guest_with_its_own_packet() {
    for protocol in [UDP, TCP, ICMP, GRE] {
        let world = World::new();
        // Another guest has the ports, so that those of this one change.
        for guest in [C2, C1] {
            if protocol == GRE && guest == C2 {
                continue;
            }
            world
                .guest_sends(&request(protocol, At(guest, 5000), REMOTE).bytes())
                .uplink();
        }
        let sent = request(protocol, At(C1, 5000), REMOTE).bytes();
        let out = world.guest_sends(&sent).uplink();
        for kind in [UNREACHABLE, TIME_EXCEEDED, PARAMETER_PROBLEM] {
            for len in [HEADER + 8, HEADER + 9, HEADER + 16, 1000] {
                let packet = error(ROUTER, &out, kind, len).bytes();
                let seen = world.outside_sends(&packet).guest();
                assert_quotes(&seen, &sent, ROUTER);
            }
        }
        assert_eq!(world.counters(SNAT_RULE).packets_in, 12);
    }
}

/// Errors about what a guest has answered through a forward reach it as well.
#[test]
fn i2_an_error_about_an_answer_of_a_forward_reaches_the_guest() {
    for protocol in [UDP, TCP, ICMP] {
        let mut world = World::new();
        world.forward(protocol, 0..=0, At(C1, 0));
        world.forward(protocol, 10_000..=10_000, At(C1, 80));
        let asked = request(protocol, REMOTE, At(PUBLIC, 10_000)).bytes();
        let (client, server) = ends(&world.outside_sends(&asked).guest());
        let sent = answer(protocol, server, client).bytes();
        let out = world.guest_sends(&sent).uplink();
        let packet = error(ROUTER, &out, UNREACHABLE, HEADER + 8).bytes();
        assert_quotes(&world.outside_sends(&packet).guest(), &sent, ROUTER);
    }
}

/// An error from a guest about what came in by a forward: the remote sees what it has sent, and no
/// inside address.
#[test]
fn i3_an_error_of_a_guest_shows_the_remote_its_own_packet() {
    for protocol in [UDP, TCP, ICMP] {
        let mut world = World::new();
        world.forward(protocol, 0..=0, At(C1, 0));
        world.forward(protocol, 10_000..=10_000, At(C1, 80));
        let sent = request(protocol, REMOTE, At(PUBLIC, 10_000)).bytes();
        let received = world.outside_sends(&sent).guest();
        for len in [HEADER + 8, 1000] {
            let packet = error(C1, &received, UNREACHABLE, len).bytes();
            let seen = world.guest_sends(&packet).uplink();
            assert_quotes(&seen, &sent, PUBLIC);
        }
        assert_eq!(world.counters(FORWARD_RULE).packets_out, 2);
    }
}

/// An error of the host's own about a forwarded packet shows the remote its own packet, and comes
/// from the host.
#[test]
fn i3_an_error_of_the_host_about_a_forward_shows_the_remote_its_own_packet() {
    let mut world = World::new();
    world.forward(UDP, 10_000..=10_000, At(C1, 80));
    let sent = udp(REMOTE, At(PUBLIC, 10_000)).bytes();
    let received = world.outside_sends(&sent).guest();
    for host in [PUBLIC, host([172, 22, 161, 254])] {
        let packet = error(host, &received, UNREACHABLE, HEADER + 8).bytes();
        assert_quotes(&world.host_sends(&packet).uplink(), &sent, PUBLIC);
    }
}

/// A router behind the host is hidden like the guest that the packet was for.
#[test]
fn i3_an_error_of_a_router_inside_hides_it() {
    let mut world = World::new();
    world.forward(UDP, 10_000..=10_000, At(C1, 80));
    let sent = udp(REMOTE, At(PUBLIC, 10_000)).bytes();
    let received = world.outside_sends(&sent).guest();
    let packet = error(C2, &received, TIME_EXCEEDED, HEADER + 8).bytes();
    assert_quotes(&world.guest_sends(&packet).uplink(), &sent, PUBLIC);
}

/// A router behind a guest, with an address of no network that the host knows.
const BEHIND: Ip = host([10, 5, 5, 1]);

/// Errors of any host behind a guest come from the session's external address: about what came in
/// by a forward, and about what answers a guest.
#[test]
fn i3_an_error_of_a_router_behind_a_guest_hides_it() {
    for protocol in [UDP, TCP, ICMP] {
        let mut world = World::new();
        world.forward(protocol, 0..=0, At(C1, 0));
        world.forward(protocol, 10_000..=10_000, At(C1, 80));
        let asked = request(protocol, REMOTE, At(PUBLIC, 10_000)).bytes();
        let received = world.outside_sends(&asked).guest();
        let out = world.guest_sends(&request(protocol, At(C2, 5000), REMOTE).bytes());
        let answered = answer(protocol, REMOTE, ends(&out.uplink()).0).bytes();
        let answer_received = world.outside_sends(&answered).guest();
        for (sent, received) in [(&asked, &received), (&answered, &answer_received)] {
            for source in [BEHIND, C1, C2, C3, host([172, 22, 161, 254])] {
                let packet = error(source, received, TIME_EXCEEDED, HEADER + 8).bytes();
                let seen = world.network_sends(LAN, &packet).uplink();
                assert_quotes(&seen, sent, PUBLIC);
            }
        }
    }
}

/// A guest with an external address of its own: the error comes from that.
#[test]
fn i3_an_error_behind_a_guest_with_its_own_address_comes_from_that() {
    let own = host([19, 19, 8, 77]);
    let mut world = World::new();
    world.one_to_one(own, C1);
    let sent = udp(REMOTE, At(own, 80)).bytes();
    let received = world.outside_sends(&sent).guest();
    let packet = error(BEHIND, &received, TIME_EXCEEDED, HEADER + 8).bytes();
    assert_quotes(&world.network_sends(LAN, &packet).uplink(), &sent, own);
}

/// The same about a hairpinned packet: to its sender it comes from whom that has sent to.
#[test]
fn i4_an_error_of_a_router_behind_a_guest_about_a_hairpin_hides_it() {
    let mut world = World::new();
    world.forward(UDP, 10_000..=10_000, At(C2, 80));
    let sent = udp(At(C1, 5000), At(PUBLIC, 10_000)).bytes();
    let received = world.guest_sends(&sent).guest();
    let packet = error(BEHIND, &received, TIME_EXCEEDED, HEADER + 8).bytes();
    assert_quotes(&world.network_sends(LAN, &packet).guest(), &sent, PUBLIC);
}

/// An error about no session leaves only if it shows no hidden address, also where it is not known
/// whose error it is, or where the quotation says too little to find a session.
#[test]
fn i5_an_error_that_shows_a_hidden_address_does_not_leave() {
    let world = World::new();
    let to_guest = udp(REMOTE, At(C1, 80)).bytes();
    let from_guest = udp(At(C1, 80), REMOTE).bytes();
    let cases = [
        error(BEHIND, &to_guest, UNREACHABLE, HEADER + 8),
        error(BEHIND, &to_guest, UNREACHABLE, HEADER),
        error(
            BEHIND,
            &fragments(&udp(REMOTE, At(C1, 80)).payload(&[1; 90]).bytes(), 48)[1],
            UNREACHABLE,
            HEADER + 8,
        ),
        error(BEHIND, &to_guest, UNREACHABLE, HEADER - 8),
        error(
            C1,
            &udp(REMOTE, At(S1A, 80)).bytes(),
            UNREACHABLE,
            HEADER + 8,
        ),
    ];
    for case in cases {
        let fate = world.network_sends(LAN, &case.bytes());
        assert_eq!(fate.reason(), DropReason::NoSession);
    }
    let to_remote = error(BEHIND, &from_guest, UNREACHABLE, HEADER + 8);
    let to_remote = to_remote.to(S1A).bytes();
    let fate = world.network_sends(LAN, &to_remote);
    assert_eq!(fate.reason(), DropReason::NoSession);
}

/// Routers of routed guests are shown: nothing is translated there.
#[test]
fn i8_an_error_about_an_untranslated_packet_leaves_unchanged() {
    let world = World::new();
    let routed = host([192, 0, 2, 7]);
    let packet = error(
        host([192, 0, 2, 1]),
        &udp(REMOTE, At(routed, 80)).bytes(),
        TIME_EXCEEDED,
        HEADER + 8,
    )
    .bytes();
    let fate = world.network_sends(LAN, &packet);
    assert_eq!(fate.uplink(), packet);
}

/// An error of a guest that is about no session does not leave.
#[test]
fn i5_an_error_of_a_guest_without_a_session_does_not_leave() {
    let world = World::new();
    let packet = error(
        C1,
        &udp(REMOTE, At(C1, 80)).bytes(),
        UNREACHABLE,
        HEADER + 8,
    )
    .bytes();
    assert_eq!(world.guest_sends(&packet).reason(), DropReason::NoSession);
}

/// An error about no session is the host's.
#[test]
fn i5_an_error_without_a_session_is_the_hosts() {
    let world = World::new();
    let packet = error(
        ROUTER,
        &udp(At(PUBLIC, 5000), REMOTE).bytes(),
        UNREACHABLE,
        HEADER + 8,
    )
    .bytes();
    assert_eq!(world.outside_sends(&packet).host(), packet);
}

/// An error with a wrong checksum is dropped, in either direction.
#[test]
fn i5_an_error_with_a_wrong_checksum_is_dropped() {
    let mut world = World::new();
    world.forward(UDP, 10_000..=10_000, At(C1, 80));
    let out = world
        .guest_sends(&udp(At(C1, 5000), REMOTE).bytes())
        .uplink();
    let mut packet = error(ROUTER, &out, UNREACHABLE, HEADER + 8).bytes();
    packet[ETHERNET + HEADER + 2] ^= 0x10;
    let fate = world.outside_sends(&packet);
    assert_eq!(fate.reason(), DropReason::BadChecksum);
    let received = world.outside_sends(&udp(REMOTE, At(PUBLIC, 10_000)).bytes());
    let mut packet = error(C1, &received.guest(), UNREACHABLE, HEADER + 8).bytes();
    *packet.last_mut().unwrap() ^= 1;
    let fate = world.guest_sends(&packet);
    assert_eq!(fate.reason(), DropReason::BadChecksum);
}

/// An error that was sent to another than the sender of the packet it quotes is forged.
#[test]
fn i5_an_error_that_quotes_a_packet_of_another_reaches_no_guest() {
    let mut world = World::new();
    const OTHER: Ip = host([19, 19, 8, 11]);
    world.external(OTHER, false);
    let out = world
        .guest_sends(&udp(At(C1, 5000), REMOTE).bytes())
        .uplink();
    let mut about = out.clone();
    about[SOURCE].copy_from_slice(&OTHER);
    let elsewhere = read(&error(ROUTER, &about, UNREACHABLE, HEADER + 8).bytes()).destination;
    assert_eq!(elsewhere.0, OTHER);
    let packet = error(ROUTER, &out, UNREACHABLE, HEADER + 8);
    let packet = packet.to(OTHER).bytes();
    let fate = world.outside_sends(&packet);
    assert_eq!(fate.reason(), DropReason::Unsolicited);
}

/// Errors with a source that no packet from outside may have are dropped.
#[test]
fn s1_s2_errors_with_impossible_sources_are_dropped() {
    let world = World::new();
    let out = world
        .guest_sends(&udp(At(C1, 5000), REMOTE).bytes())
        .uplink();
    for source in [
        host([127, 0, 0, 1]),
        host([0, 0, 0, 0]),
        host([224, 0, 0, 1]),
        host([255; 4]),
    ] {
        let packet = error(source, &out, UNREACHABLE, HEADER + 8).bytes();
        let reason = match source[0] {
            224.. => DropReason::BroadcastSource,
            _ => DropReason::MartianSource,
        };
        assert_eq!(world.outside_sends(&packet).reason(), reason, "{source:?}");
    }
    let fate = world.outside_sends(&error(C2, &out, UNREACHABLE, HEADER + 8).bytes());
    assert_eq!(fate.reason(), DropReason::InternalSource);
}

/// IP options in the quoted packet, and in the error itself, are stepped over and kept.
#[test]
fn i6_options_inside_and_outside_are_kept() {
    const OPTIONS: [u8; 8] = [7, 7, 4, 0, 0, 0, 0, 0];
    let start = ETHERNET + HEADER;
    let options = start..start + if IS_IPV6 { 16 } else { OPTIONS.len() };
    for protocol in [UDP, TCP, ICMP] {
        let world = World::new();
        world
            .guest_sends(&request(protocol, At(C2, 5000), REMOTE).bytes())
            .uplink();
        let sent = request(protocol, At(C1, 5000), REMOTE)
            .options(&OPTIONS)
            .bytes();
        let out = world.guest_sends(&sent).uplink();
        assert_eq!(out[options.clone()], sent[options.clone()]);
        for len in [options.end - ETHERNET + 8, 1000] {
            let packet = error(ROUTER, &out, TIME_EXCEEDED, len).options(&OPTIONS);
            let packet = packet.bytes();
            let seen = world.outside_sends(&packet).guest();
            assert_eq!(seen[options.clone()], packet[options.clone()]);
            assert_quotes(&seen, &sent, ROUTER);
        }
    }
}

/// A quotation with less than the 8 bytes that name the ports belongs to no session.
#[test]
fn i6_a_quotation_that_is_too_short_reaches_no_guest() {
    let world = World::new();
    let out = world
        .guest_sends(&udp(At(C1, 5000), REMOTE).bytes())
        .uplink();
    for len in 0..HEADER + 8 {
        let packet = error(ROUTER, &out, UNREACHABLE, len).bytes();
        assert_eq!(world.outside_sends(&packet).host(), packet, "{len} bytes");
    }
}

/// Of a protocol without ports as much is needed, unless the packet itself was shorter.
#[test]
fn i6_a_quotation_of_a_protocol_without_ports_that_is_too_short_reaches_no_guest() {
    let world = World::new();
    let out = world.guest_sends(&raw(GRE, C1, S1A).bytes()).uplink();
    for len in HEADER..HEADER + 8 {
        let packet = error(ROUTER, &out, UNREACHABLE, len).bytes();
        assert_eq!(world.outside_sends(&packet).host(), packet, "{len} bytes");
    }
    let packet = error(ROUTER, &out, UNREACHABLE, HEADER + 8).bytes();
    world.outside_sends(&packet).guest();
}

/// Bytes after a quotation that ends before the quoted checksum are not part of it: a frame is
/// padded.
#[test]
fn i6_padding_behind_a_short_quotation_stays() {
    let world = World::new();
    for guest in [C2, C1] {
        let opens = request(TCP, At(guest, 5000), REMOTE);
        world.guest_sends(&opens.bytes()).uplink();
    }
    let sent = request(TCP, At(C1, 5000), REMOTE).bytes();
    let out = world.guest_sends(&sent).uplink();
    for len in [HEADER + 14, HEADER + 15, HEADER + 16] {
        let mut packet = error(ROUTER, &out, UNREACHABLE, len).bytes();
        let end = packet.len();
        packet.extend([0xa5; 8]);
        let seen = world.outside_sends(&packet).guest();
        assert_eq!(seen[end..], [0xa5; 8], "{len} bytes");
        assert_quotes(&seen[..end], &sent, ROUTER);
    }
}

/// The checksums of these protocols hold the addresses too, and are right again in the quotation.
#[test]
fn i2_a_quoted_packet_of_udp_lite_or_dccp_is_as_it_was_sent() {
    for protocol in [136, 33] {
        let world = World::new();
        let words = [0x0f, 0xa0, 0x1b, 0x58, 0, 12, 0x31, 0x41, 1, 2, 3, 4];
        let sent = raw(protocol, C1, S1A).payload(&words).bytes();
        let out = world.guest_sends(&sent).uplink();
        assert_ne!(out[UDP_CHECKSUM], sent[UDP_CHECKSUM]);
        for len in [HEADER + 8, HEADER + 12] {
            let packet = error(ROUTER, &out, UNREACHABLE, len).bytes();
            let seen = world.outside_sends(&packet).guest();
            assert_quotes(&seen, &sent, ROUTER);
        }
    }
}

/// Extensions behind the quoted packet (RFC 4884) are kept byte for byte.
#[test]
fn i6_extensions_behind_the_quotation_are_kept() {
    let world = World::new();
    world
        .guest_sends(&udp(At(C2, 5000), REMOTE).bytes())
        .uplink();
    let sent = udp(At(C1, 5000), REMOTE).payload(&[5; 200]).bytes();
    let out = world.guest_sends(&sent).uplink();
    // An interface information object with two bytes of address.
    let extension = [0x20, 0, 0x12, 0x34, 0, 8, 2, 1, 10, 0, 0, 1];
    let mut quoted = out[ETHERNET..][..128].to_vec();
    quoted.extend(extension);
    let packet: Make = error(ROUTER, &out, TIME_EXCEEDED, 128).payload(&quoted);
    // The length of the quotation in words.
    let packet = with_rest(packet, [0, 32, 0, 0]).bytes();
    let seen = read(&world.outside_sends(&packet).guest());
    assert_eq!(seen.payload[..128], sent[ETHERNET..][..128]);
    assert_eq!(seen.payload[128..], extension);
}

/// The MTU in a "fragmentation needed" is kept.
#[test]
fn f9_the_mtu_of_fragmentation_needed_is_kept() {
    let world = World::new();
    let sent = tcp(At(C1, 5000), REMOTE, kit::packets::SYN).bytes();
    let out = world.guest_sends(&sent).uplink();
    let packet = with_rest(
        error(ROUTER, &out, UNREACHABLE, HEADER + 8),
        [0, 0, 0x05, 0x00],
    )
    .bytes();
    let seen = world.outside_sends(&packet).guest();
    assert_eq!(seen[ETHERNET + HEADER + 4..][..4], [0, 0, 5, 0]);
    assert_quotes(&seen, &sent, ROUTER);
}

/// An error neither refreshes nor ends the session that it is about.
#[test]
fn i7_an_error_does_not_touch_the_session() {
    let mut world = World::new();
    let out = world
        .guest_sends(&udp(At(C1, 5000), REMOTE).bytes())
        .uplink();
    assert_eq!(world.wait(299), 0);
    let packet = error(ROUTER, &out, UNREACHABLE, HEADER + 8).bytes();
    world.outside_sends(&packet).guest();
    let answer = udp(REMOTE, At(PUBLIC, 5000)).bytes();
    let received = answer.clone();
    assert_eq!(world.wait(1), 1);
    assert_eq!(world.outside_sends(&received).host(), answer);
    assert_eq!(world.entries(), [0; 4]);
}

/// An error of a guest about an answer that it did not expect does not keep the session either.
#[test]
fn i7_an_error_of_a_guest_does_not_refresh() {
    let mut world = World::new();
    world.forward(UDP, 10_000..=10_000, At(C1, 80));
    let received = world.outside_sends(&udp(REMOTE, At(PUBLIC, 10_000)).bytes());
    let refused = error(C1, &received.guest(), UNREACHABLE, HEADER + 8).bytes();
    assert_eq!(world.wait(OUTSIDE_UNANSWERED_S - 1), 0);
    world.guest_sends(&refused).uplink();
    assert_eq!(world.wait(1), 1);
}

/// An error that says it is about an error is about nothing.
#[test]
fn i7_no_error_is_translated_about_an_error() {
    let world = World::new();
    let out = world
        .guest_sends(&udp(At(C1, 5000), REMOTE).bytes())
        .uplink();
    let about = error(
        PUBLIC,
        &udp(REMOTE, At(PUBLIC, 5000)).bytes(),
        UNREACHABLE,
        HEADER + 8,
    )
    .bytes();
    let packet = error(ROUTER, &about, UNREACHABLE, HEADER + 8 + HEADER + 8 + 4).bytes();
    assert_eq!(world.outside_sends(&packet).host(), packet);
    assert_eq!(ends(&out).0, At(PUBLIC, 5000));
}

/// Errors about a protocol without ports find the guest by the address.
#[test]
fn p2_errors_about_a_protocol_without_ports_reach_the_guest() {
    let world = World::new();
    let sent = raw(GRE, C1, S1A).bytes();
    let out = world.guest_sends(&sent).uplink();
    let packet = error(ROUTER, &out, UNREACHABLE, HEADER + 8).bytes();
    assert_quotes(&world.outside_sends(&packet).guest(), &sent, ROUTER);
}
