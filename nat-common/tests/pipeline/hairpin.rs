//! Guest to guest by an external address: U5, T10, and errors about it: I4.

use nat_common::{
    drop_reason::DropReason,
    tables::{inside::InsideFlags, snats::mapping},
    wire::protocol::{TCP, UDP},
};

use crate::family::{
    C1, C2, C3, HEADER, ICMP, Ip, PUBLIC, S1A, S2, SOURCE, TIME_EXCEEDED, UNREACHABLE, World, ends,
    fragments, host, read, reassemble,
};
use kit::{
    packets::{ACK, At, ETHERNET, GRE, SYN, answer, error, raw, request, tcp, udp},
    world::{DMZ, FORWARD_RULE, Fate, Hook, LAN},
};

const FORWARDED: At<Ip> = At(PUBLIC, 10_000);
const SERVER: At<Ip> = At(C2, 80);

/// A host that forwards a port of every protocol, and echo requests, to [`SERVER`].
fn forwarding() -> World {
    let mut world = World::new();
    for protocol in [TCP, UDP] {
        world.forward(protocol, 10_000..=10_009, SERVER);
    }
    world.forward(ICMP, 0..=0, SERVER);
    world
}

/// A request and its answer by the external address, as both ends see them.
#[track_caller]
fn exchange(world: &World, protocol: u8, client: At<Ip>, public: At<Ip>, server: At<Ip>) -> At<Ip> {
    let asked = world.guest_sends(&request(protocol, client, public).bytes());
    let (shown, at) = ends(&asked.guest());
    assert_eq!(at.0, server.0);
    assert_eq!(shown.0, PUBLIC, "the server sees an inside address");
    if matches!(protocol, TCP | UDP) {
        assert_eq!(at, server);
    }
    let answered = world.guest_sends(&answer(protocol, at, shown).bytes());
    let sent = answer(protocol, public, client).bytes();
    assert_eq!(ends(&answered.guest()), ends(&sent));
    world.check();
    shown
}

/// Guests reach a forwarded port by the public address, from both networks, and the server sees
/// the client's external address.
#[test]
fn u5_hairpin_by_a_forward_shows_the_external_source() {
    for protocol in [UDP, TCP, ICMP] {
        let world = forwarding();
        for client in [At(C1, 5000), At(C3, 5000)] {
            exchange(&world, protocol, client, FORWARDED, SERVER);
        }
        assert_eq!(world.counters(FORWARD_RULE).opened, 2);
        assert_eq!(world.counters(FORWARD_RULE).packets_in, 2);
        assert_eq!(world.counters(FORWARD_RULE).packets_out, 2);
    }
}

/// The source that the server sees is the mapping that the client has towards the outside too.
#[test]
fn u5_hairpin_uses_the_mapping_of_the_client() {
    let world = forwarding();
    world
        .guest_sends(&udp(At(C3, 5000), At(S2, 9)).bytes())
        .uplink();
    let outside = world.guest_sends(&udp(At(C1, 5000), At(S1A, 7000)).bytes());
    let external = ends(&outside.uplink()).0;
    assert_ne!(external, At(PUBLIC, 5000));
    let shown = exchange(&world, UDP, At(C1, 5000), FORWARDED, SERVER);
    assert_eq!(shown, external);
}

/// Guests reach each other by the external endpoints that they have towards the outside, whoever
/// sends first, and both at once.
#[test]
fn u5_hairpin_by_a_mapping_shows_the_external_source() {
    let world = World::new();
    let ends_of = [At(C1, 5000), At(C2, 6000)];
    let externals = ends_of.map(|guest| {
        let out = world.guest_sends(&udp(guest, At(S1A, 3478)).bytes());
        ends(&out.uplink()).0
    });
    for [from, to] in [[0, 1], [1, 0], [0, 1]] {
        let sent = udp(ends_of[from], externals[to]).bytes();
        let seen = ends(&world.guest_sends(&sent).guest());
        assert_eq!(seen, (externals[from], ends_of[to]));
    }
    world.check();
}

/// Traffic between guests keeps the mappings at both ends, which are released after it.
#[test]
fn u5_a_hairpin_keeps_the_mappings_at_both_of_its_ends() {
    let mut world = World::new();
    let ends_of = [At(C1, 5000), At(C2, 6000)];
    let externals = ends_of.map(|guest| {
        let out = world.guest_sends(&udp(guest, At(S1A, 3478)).bytes());
        ends(&out.uplink()).0
    });
    world
        .guest_sends(&udp(ends_of[0], externals[1]).bytes())
        .guest();
    world.advance(200);
    world
        .guest_sends(&udp(ends_of[0], externals[1]).bytes())
        .guest();
    assert_eq!(world.wait(100), 2, "sessions with the outside");
    assert_eq!(world.entries()[1..3], [2, 2], "mappings and ports");
    world.check();
    world.wait(300);
    assert_eq!(world.entries(), [0; 4]);
}

/// A session by a forward refers to no owner of the port: not to one that has it from before the
/// forward.
#[test]
fn u5_the_end_of_a_hairpin_by_a_forward_leaves_an_older_mapping_of_its_port() {
    let mut world = World::new();
    let (owner, remote) = (At(C3, FORWARDED.1), At(S1A, 7000));
    let out = world.guest_sends(&udp(owner, remote).bytes());
    assert_eq!(ends(&out.uplink()).0, FORWARDED);
    world.forward(UDP, FORWARDED.1..=FORWARDED.1, SERVER);
    exchange(&world, UDP, At(C1, 5000), FORWARDED, SERVER);
    world.advance(200);
    world.guest_sends(&udp(owner, remote).bytes()).uplink();
    assert_eq!(world.wait(100), 1);
    world.check();
    let back = world.outside_sends(&udp(remote, FORWARDED).bytes());
    assert_eq!(ends(&back.guest()).1, owner);
}

/// The server reaches itself by the public address, though in between source and destination are
/// the same address.
#[test]
fn t10_a_server_reaches_itself_by_the_public_address() {
    for protocol in [UDP, TCP] {
        let world = forwarding();
        exchange(&world, protocol, At(C2, 5000), FORWARDED, SERVER);
    }
}

/// A whole connection between guests by the public address.
#[test]
fn t10_a_hairpinned_connection_is_established() {
    let mut world = forwarding();
    let client = At(C1, 5000);
    let shown = exchange(&world, TCP, client, FORWARDED, SERVER);
    for (from, to, seen) in [
        (client, FORWARDED, (shown, SERVER)),
        (SERVER, shown, (FORWARDED, client)),
    ] {
        let packet = tcp(from, to, ACK).payload(b"data").bytes();
        assert_eq!(ends(&world.guest_sends(&packet).guest()), seen);
    }
    assert_eq!(world.wait(7439), 0);
    assert_eq!(world.wait(1), 1);
    assert_eq!(world.entries(), [0; 4]);
}

/// Between the hooks, where connection tracking sees packets, an answer is the reverse of its
/// request: also where the server's port and the client's are not those that the other end sees.
#[test]
fn t10_between_hooks_answers_reverse_their_requests() {
    for protocol in [UDP, TCP, ICMP] {
        let world = forwarding();
        // Another guest has the port that the client would keep.
        let first = request(protocol, At(C3, 5000), At(S1A, 9)).bytes();
        world.guest_sends(&first).uplink();
        for client in [At(C1, 5000), At(C2, 5000)] {
            let shown = exchange(&world, protocol, client, FORWARDED, SERVER);
            let between = |sent: Vec<u8>| world.run(Hook::FromGuest, &sent, LAN, LAN).unwrap().1;
            let asked = between(request(protocol, client, FORWARDED).bytes());
            let answered = between(answer(protocol, SERVER, shown).bytes());
            assert_eq!(ends(&asked).0.0, client.0);
            let (from, to) = ends(&asked);
            let reversed = match protocol {
                ICMP => ends(&answer(ICMP, to, from).bytes()),
                _ => (to, from),
            };
            assert_eq!(ends(&answered), reversed);
        }
        world.check();
    }
}

/// A guest's error about a hairpinned packet quotes it as it was between the hooks, so that
/// connection tracking recognises it.
#[test]
fn i4_between_its_hooks_a_guests_error_quotes_the_packet_seen_there() {
    for protocol in [UDP, TCP, ICMP] {
        let world = forwarding();
        let client = At(C1, 5000);
        let shown = exchange(&world, protocol, client, FORWARDED, SERVER);
        for (sent, by) in [
            (request(protocol, client, FORWARDED).bytes(), C2),
            (answer(protocol, SERVER, shown).bytes(), C1),
        ] {
            let (_, between) = world.run(Hook::FromGuest, &sent, LAN, LAN).unwrap();
            let received = world.guest_sends(&sent).guest();
            let refused = error(by, &received, UNREACHABLE, HEADER + 8).bytes();
            let (_, refused) = world.run(Hook::FromGuest, &refused, LAN, LAN).unwrap();
            let seen = read(&refused);
            assert_eq!(
                (seen.source.0, seen.destination.0.to_vec()),
                (by, sent[SOURCE].to_vec())
            );
            let quoted = &between[ETHERNET..];
            assert_eq!(seen.payload, quoted[..seen.payload.len()]);
        }
    }
}

/// A guest that no rule hides is hidden behind the address that it has sent to.
#[test]
fn t10_a_guest_without_a_rule_hides_behind_the_address_it_asks() {
    let mut world = forwarding();
    world.without_snat(C1);
    exchange(&world, TCP, At(C1, 5000), FORWARDED, SERVER);
}

/// Clients with the same port, and one client at several ports, stay apart.
#[test]
fn t10_hairpins_with_the_same_ports_stay_apart() {
    let world = forwarding();
    let mut shown = Vec::new();
    for client in [C1, C2, C3] {
        shown.push(exchange(&world, TCP, At(client, 5000), FORWARDED, SERVER));
    }
    shown.dedup();
    assert_eq!(shown.len(), 3);
    let next = At(PUBLIC, 10_001);
    exchange(&world, TCP, At(C1, 5000), next, At(C2, 81));
}

/// Of two ports that lead to one of the server's, a client can use one at a time from one port:
/// between the hooks the two could not be distinguished.
#[test]
fn m2_indistinguishable_hairpins_are_refused() {
    let mut world = World::new();
    world.forward_to_one(UDP, 10_000..=10_001, SERVER);
    let client = At(C1, 5000);
    exchange(&world, UDP, client, FORWARDED, SERVER);
    let second = world.guest_sends(&udp(client, At(PUBLIC, 10_001)).bytes());
    assert_eq!(second.reason(), DropReason::RemoteInUse);
    world.check();
    exchange(&world, UDP, client, FORWARDED, SERVER);
}

/// With an external port for each remote, it can use both.
#[test]
fn m2_hairpins_by_two_ports_to_one_get_separate_ports() {
    let mut world = World::with_mapping(mapping::ADDRESS_AND_PORT_DEPENDENT);
    world.forward_to_one(UDP, 10_000..=10_001, SERVER);
    let client = At(C1, 5000);
    let first = exchange(&world, UDP, client, FORWARDED, SERVER);
    let second = exchange(&world, UDP, client, At(PUBLIC, 10_001), SERVER);
    assert_ne!(first, second);
    exchange(&world, UDP, client, FORWARDED, SERVER);
    world.wait(1000);
    assert_eq!(world.entries(), [0; 4]);
}

/// The server reaches itself from the very port on which it serves.
#[test]
fn t10_a_server_reaches_itself_from_its_own_port() {
    for protocol in [UDP, TCP] {
        let mut world = forwarding();
        for _ in 0..2 {
            let shown = exchange(&world, protocol, SERVER, FORWARDED, SERVER);
            assert_eq!(shown.0, PUBLIC);
        }
        world.wait(10_000);
        assert_eq!(world.entries(), [0; 4]);
    }
}

/// An unused port is the host's, also for guests.
#[test]
fn s6_guests_reach_services_of_the_host_at_its_public_address() {
    let world = forwarding();
    let packet = tcp(At(C1, 5000), At(PUBLIC, 22), SYN).bytes();
    assert_eq!(world.guest_sends(&packet).host(), packet);
    assert_eq!(world.entries(), [0; 4]);
}

/// Fragments of a hairpinned datagram arrive whole at both ends.
#[test]
fn f1_hairpinned_fragments_arrive_whole() {
    let world = forwarding();
    let client = At(C1, 5000);
    let shown = exchange(&world, UDP, client, FORWARDED, SERVER);
    let flows = [
        (client, FORWARDED, (shown, SERVER)),
        (SERVER, shown, (FORWARDED, client)),
    ];
    for (from, to, seen) in flows {
        let whole = udp(from, to).payload(&[9; 900]).bytes();
        let parts = fragments(&whole, 400);
        let parts: Vec<_> = parts
            .iter()
            .map(|part| world.guest_sends(part).guest())
            .collect();
        assert_eq!(ends(&reassemble(&parts)), seen);
    }
}

/// Protocols without ports are hairpinned by the address alone.
#[test]
fn p4_other_protocols_are_hairpinned_by_address() {
    let mut world = World::new();
    world.forward_all(C2);
    let sent = raw(GRE, C1, PUBLIC).bytes();
    assert_eq!(
        ends(&world.guest_sends(&sent).guest()),
        (At(PUBLIC, 0), At(C2, 0))
    );
    let back = raw(GRE, C2, PUBLIC).bytes();
    assert_eq!(
        ends(&world.guest_sends(&back).guest()),
        (At(PUBLIC, 0), At(C1, 0))
    );
    world.check();
}

/// What the guest at the other end sees of an error about what it has sent: the packet is quoted as
/// it was sent, and the error comes from the destination of that packet.
#[track_caller]
fn assert_error(fate: Fate, sent: &[u8], from: Ip) {
    let seen = read(&fate.guest());
    assert_eq!(seen.source.0, from);
    assert_eq!(seen.destination.0, sent[SOURCE]);
    let quoted = &sent[ETHERNET..];
    assert_eq!(seen.payload, quoted[..seen.payload.len()]);
}

/// An error from either guest about a hairpinned packet reaches its sender, which sees what it has
/// sent quoted, whatever the protocol.
#[test]
fn i4_an_error_of_a_guest_about_a_hairpin_reaches_the_sender() {
    for protocol in [UDP, TCP, ICMP] {
        for client in [At(C1, 5000), At(C3, 5000), At(C2, 5000)] {
            let world = forwarding();
            let shown = exchange(&world, protocol, client, FORWARDED, SERVER);
            let asked = request(protocol, client, FORWARDED).bytes();
            let received = world.guest_sends(&asked).guest();
            let refused = error(C2, &received, UNREACHABLE, HEADER + 8).bytes();
            assert_error(world.guest_sends(&refused), &asked, PUBLIC);
            let answered = answer(protocol, SERVER, shown).bytes();
            let received = world.guest_sends(&answered).guest();
            let refused = error(client.0, &received, UNREACHABLE, 1000).bytes();
            assert_error(world.guest_sends(&refused), &answered, PUBLIC);
            world.check();
        }
    }
}

/// Where guests are known by their ports, a third guest cannot end what two others have opened with
/// each other. The one that was sent to can.
#[test]
fn i5_an_error_of_another_guest_about_a_hairpin_is_dropped() {
    for flag in [
        InsideFlags::ON_LINK,
        InsideFlags::HAS_MAC,
        InsideFlags::empty(),
    ] {
        let mut world = forwarding();
        world.known_by(C2, flag, [0; 6]);
        exchange(&world, UDP, At(C1, 5000), FORWARDED, SERVER);
        let asked = udp(At(C1, 5000), FORWARDED).bytes();
        let received = world.guest_sends(&asked).guest();
        let others = world.guest_sends(&error(C3, &received, UNREACHABLE, HEADER + 8).bytes());
        match flag {
            flag if flag.is_empty() => assert_error(others, &asked, PUBLIC),
            _ => assert_eq!(others.reason(), DropReason::NoSession),
        }
        let own = error(C2, &received, UNREACHABLE, HEADER + 8).bytes();
        assert_error(world.guest_sends(&own), &asked, PUBLIC);
    }
}

/// An error that the host itself sends about a hairpinned packet quotes what the host saw in
/// between; its sender sees what it has sent.
#[test]
fn i4_an_error_of_the_host_about_a_hairpin_reaches_the_sender() {
    const HOST: Ip = host([172, 22, 161, 254]);
    for protocol in [UDP, TCP, ICMP] {
        let world = forwarding();
        let client = At(C1, 5000);
        let shown = exchange(&world, protocol, client, FORWARDED, SERVER);
        for sent in [
            request(protocol, client, FORWARDED),
            answer(protocol, SERVER, shown),
        ] {
            let sent = sent.bytes();
            let (_, between) = world.run(Hook::FromGuest, &sent, LAN, LAN).unwrap();
            let expired = error(HOST, &between, TIME_EXCEEDED, HEADER + 8).bytes();
            assert_error(world.host_sends(&expired), &sent, HOST);
        }
    }
}

/// An error between guests that is not about a hairpinned packet is none of natbpf's.
#[test]
fn i4_an_error_between_guests_without_a_session_is_left_alone() {
    let world = forwarding();
    let direct = udp(At(C1, 5000), At(C3, 80)).bytes();
    let packet = error(C3, &direct, UNREACHABLE, HEADER + 8).bytes();
    assert_eq!(world.network_sends(DMZ, &packet).guest(), packet);
}

/// A checksum that is wrong is not made right.
#[test]
fn i5_a_damaged_error_about_a_hairpin_is_dropped() {
    let world = forwarding();
    exchange(&world, UDP, At(C1, 5000), FORWARDED, SERVER);
    let asked = udp(At(C1, 5000), FORWARDED).bytes();
    let received = world.guest_sends(&asked).guest();
    let mut damaged = error(C2, &received, UNREACHABLE, HEADER + 8).bytes();
    damaged[ETHERNET + 22] ^= 1;
    let fate = world.guest_sends(&damaged);
    assert_eq!(fate.reason(), DropReason::BadChecksum);
}
