//! Flows that the host itself opens come before forwards and guests, whatever their protocol: S6,
//! S7.

use nat_common::{
    drop_reason::DropReason,
    session::ending::HOST_UNANSWERED_S,
    tables::snats::filtering,
    wire::protocol::{TCP, UDP},
};

use crate::family::{
    C1, C2, HEADER, ICMP, Ip, POOL, PUBLIC, S1A, S2, TIME_EXCEEDED, UNREACHABLE, World, ends, host,
};
use kit::{
    packets::{ACK, At, GRE, RST, SYN, answer, error, ping, pong, raw, request, tcp, udp},
    world::{ELSEWHERE, Fate, Hook, LAN, UPLINK, network_of},
};

const ESP: u8 = 50;
const OSPF: u8 = 89;
const SCTP: u8 = 132;
const IPIP: u8 = 4;
const SIX_IN_FOUR: u8 = 41;
const PORTLESS: [u8; 6] = [GRE, ESP, OSPF, SCTP, IPIP, SIX_IN_FOUR];

const LOCAL: At<Ip> = At(PUBLIC, 10_777);
const SERVER: At<Ip> = At(S1A, 53);

/// Whether a packet from outside reaches the host unchanged.
#[track_caller]
fn reaches_host(world: &World, packet: &[u8]) -> bool {
    match world.outside_sends(packet) {
        Fate::Host(seen) => {
            assert_eq!(seen, packet);
            true
        }
        _ => false,
    }
}

/// Others on the host send, whom netfilter translates: the packet leaves from the host's address.
fn others_send(world: &World, packet: &[u8]) -> Vec<u8> {
    let (_, sent) = world
        .run(Hook::Outbound, packet, UPLINK, ELSEWHERE)
        .unwrap();
    sent
}

/// A socket that is not connected asks from a port that is forwarded, by itself, in a range or with
/// all others: the answer is the host's, and other remotes reach the guest as ever.
#[test]
fn s7_answers_to_the_host_pass_a_forward() {
    for is_all in [false, true] {
        let mut world = World::new();
        match is_all {
            true => world.forward_all(C1),
            false => world.forward(UDP, 10_000..=10_999, At(C1, 10_000)),
        }
        world.socket(UDP, LOCAL, None);
        let asked = udp(LOCAL, SERVER).bytes();
        let answer = udp(SERVER, LOCAL).bytes();
        assert!(!reaches_host(&world, &answer));
        for _ in 0..3 {
            assert_eq!(world.host_sends(&asked).uplink(), asked);
            assert!(reaches_host(&world, &answer));
        }
        let other = world.outside_sends(&udp(At(S2, 53), LOCAL).bytes());
        assert_eq!(ends(&other.guest()).1, At(C1, 10_777));
        world.check();
        world.end_all();
        assert_eq!(world.entries(), [0; 4]);
    }
}

/// The port is a guest's, which also sends to that server: the answer to the host is the host's,
/// and what the guest then opens leaves from another port.
#[test]
fn s7_answers_to_the_host_pass_a_mapping_and_its_permits() {
    for filter in 0..=filtering::ADDRESS_AND_PORT_DEPENDENT {
        let mut world = World::new();
        world.snat(|snat| snat.filtering = filter);
        let guest = At(C1, 10_777);
        let out = world.guest_sends(&udp(guest, At(S1A, 853)).bytes());
        assert_eq!(ends(&out.uplink()).0, LOCAL);
        world.socket(UDP, LOCAL, None);
        world.host_sends(&udp(LOCAL, SERVER).bytes()).uplink();
        assert!(reaches_host(&world, &udp(SERVER, LOCAL).bytes()));
        // A question, which takes no port, leaves by another one.
        let asked = world.guest_sends(&udp(guest, SERVER).bytes());
        assert_ne!(ends(&asked.uplink()).0, LOCAL);
        let other = At(SERVER.0, 3478);
        world.host_sends(&udp(LOCAL, other).bytes()).uplink();
        let out = world.guest_sends(&udp(guest, other).bytes());
        assert_ne!(ends(&out.uplink()).0, LOCAL);
        let back = world.outside_sends(&udp(At(S1A, 853), LOCAL).bytes());
        assert_eq!(ends(&back.guest()).1, guest);
        world.check();
    }
}

/// Without ports there is one flow between two addresses: the host's, be it first, or later than
/// that of a guest or of a forward.
#[test]
fn s7_without_ports_the_host_has_the_remote_alone() {
    for protocol in PORTLESS {
        for is_forwarded in [false, true] {
            let mut world = World::new();
            if is_forwarded {
                world.forward_all(C1);
            }
            let out = raw(protocol, PUBLIC, S1A).bytes();
            let back = raw(protocol, S1A, PUBLIC).bytes();
            let guests = raw(protocol, C1, S1A).bytes();
            assert_eq!(world.host_sends(&out).uplink(), out);
            let refused = world.guest_sends(&guests);
            assert_eq!(refused.reason(), DropReason::RemoteInUse, "{protocol}");
            assert!(reaches_host(&world, &back), "{protocol}");
            world.check();
            world.end_all();

            world.guest_sends(&guests).uplink();
            assert!(!reaches_host(&world, &back));
            assert_eq!(world.host_sends(&out).uplink(), out);
            assert!(reaches_host(&world, &back), "{protocol}");
            let refused = world.guest_sends(&guests);
            assert_eq!(refused.reason(), DropReason::RemoteInUse, "{protocol}");
            world.check();
            // Another remote is the guest's.
            world.guest_sends(&raw(protocol, C1, S2).bytes()).uplink();
        }
    }
}

/// A flow that the host had before natbpf came, and in which the other end speaks first: the host's
/// next packet has it back, unless the guest has answered in the meantime.
#[test]
fn s7_a_flow_that_a_forward_took_comes_back_with_the_hosts_next_packet() {
    let mut world = World::new();
    world.forward_all(C1);
    world.socket(UDP, LOCAL, None);
    let (out, back) = (udp(LOCAL, SERVER).bytes(), udp(SERVER, LOCAL).bytes());
    assert!(!reaches_host(&world, &back));
    assert_eq!(world.host_sends(&out).uplink(), out);
    assert!(reaches_host(&world, &back));
    world.check();
}

/// What a guest behind a forward of everything has sent to a remote before stays its own; the host
/// then gets another port, and its answers.
#[test]
fn s7_a_guest_that_was_first_does_not_get_the_hosts_answers() {
    let mut world = World::new();
    world.forward_all(C1);
    let guest = At(C1, LOCAL.1);
    let out = world.guest_sends(&udp(guest, SERVER).bytes()).uplink();
    assert_eq!(ends(&out).0, LOCAL);
    let moved = world.host_sends(&udp(LOCAL, SERVER).bytes()).uplink();
    let moved = ends(&moved).0;
    assert_ne!(moved, LOCAL);
    let back = world.outside_sends(&udp(SERVER, moved).bytes()).host();
    assert_eq!(ends(&back), (SERVER, LOCAL));
    let back = world.outside_sends(&udp(SERVER, LOCAL).bytes());
    assert_eq!(ends(&back.guest()), (SERVER, guest));
    world.check();
}

/// A connection without a socket, as tools make them that write segments themselves, is noted by
/// its SYN; one with a socket needs no note.
#[test]
fn s7_connections_without_a_socket_are_noted() {
    for has_socket in [false, true] {
        let mut world = World::new();
        world.forward_all(C1);
        if has_socket {
            world.socket(TCP, LOCAL, Some(SERVER));
        }
        world.host_sends(&tcp(LOCAL, SERVER, SYN).bytes()).uplink();
        let expected = if has_socket { 0 } else { 2 };
        assert_eq!(world.entries()[0], expected);
        let answer = tcp(SERVER, LOCAL, SYN | ACK).bytes();
        assert!(reaches_host(&world, &answer));
        // Neither resets nor answers of a service open anything.
        for flags in [RST, ACK, SYN | ACK] {
            let other = tcp(LOCAL, At(S2, 7), flags).bytes();
            assert_eq!(world.host_sends(&other).uplink(), other);
        }
        assert_eq!(world.entries()[0], expected);
    }
}

/// A flow is not recorded if no other flow could take its answers, nor if the host is the server.
#[test]
fn s7_uncontested_flows_are_not_recorded() {
    let mut world = World::new();
    world.forward(UDP, 5000..=5000, At(C1, 80));
    // (Others behind the host have no sockets that would keep guests from their ports.)
    let hosts = [udp(LOCAL, SERVER).bytes(), tcp(LOCAL, SERVER, SYN).bytes()];
    let anybodys = [
        pong(PUBLIC, At(S1A, 7)).bytes(),
        // From an address that is no external one.
        raw(GRE, host([192, 0, 2, 77]), S1A).bytes(),
    ];
    for packet in hosts.iter().chain(&anybodys) {
        assert_eq!(world.host_sends(packet).uplink(), *packet);
    }
    for packet in anybodys {
        assert_eq!(others_send(&world, &packet), packet);
    }
    world.socket(UDP, LOCAL, Some(SERVER));
    world.host_sends(&udp(LOCAL, SERVER).bytes());
    assert_eq!(world.entries(), [0; 4]);
}

/// A datagram socket that is connected needs no record where a guest has the port: the guest
/// yields. Against a forward, only sent packets count.
#[test]
fn s7_a_connected_datagram_socket_is_noted_before_a_forward_alone() {
    let mut world = World::new();
    let guest = At(C1, LOCAL.1);
    world.guest_sends(&udp(guest, At(S2, 9)).bytes()).uplink();
    world.socket(UDP, LOCAL, Some(SERVER));
    world.host_sends(&udp(LOCAL, SERVER).bytes()).uplink();
    assert_eq!(world.entries()[0], 2);
    world.forward(UDP, LOCAL.1..=LOCAL.1, At(C2, 9));
    world.host_sends(&udp(LOCAL, SERVER).bytes()).uplink();
    assert_eq!(world.entries()[0], 4);
    assert!(reaches_host(&world, &udp(SERVER, LOCAL).bytes()));
    world.check();
}

/// Flows that netfilter translates on the host are also the host's.
#[test]
fn s7_flows_of_others_behind_the_host_are_the_hosts() {
    for protocol in [UDP, TCP, GRE, ICMP] {
        let mut world = World::new();
        world.forward_all(C1);
        let out = request(protocol, LOCAL, SERVER).bytes();
        assert_eq!(others_send(&world, &out), out);
        assert!(reaches_host(
            &world,
            &answer(protocol, SERVER, LOCAL).bytes()
        ));
        world.check();
    }
    // A connection that was there before.
    let mut world = World::new();
    world.forward_all(C1);
    others_send(&world, &tcp(LOCAL, SERVER, ACK).bytes());
    assert!(reaches_host(&world, &tcp(SERVER, LOCAL, ACK).bytes()));
}

/// A guest with a foreign source address creates no owner.
#[test]
fn s7_a_spoofed_source_is_not_noted() {
    let mut world = World::new();
    world.one_to_one(POOL[0], C2);
    for protocol in [UDP, GRE] {
        let spoofed = request(protocol, At(POOL[0], 5000), SERVER).bytes();
        world.run(Hook::Outbound, &spoofed, UPLINK, LAN).unwrap();
        assert_eq!(world.entries()[0], 0);
        let asked = request(protocol, SERVER, At(POOL[0], 5000)).bytes();
        let guest = ends(&world.outside_sends(&asked).guest()).1;
        assert_eq!(network_of(guest.0), Some(LAN));
        world.end_all();
    }
}

/// Any host may answer a message to a group: under a forward of everything the host receives the
/// answer, under one with ports the guest.
#[test]
fn s7_answers_to_a_group_message_are_the_hosts() {
    const GROUP: Ip = host([224, 0, 0, 5]);
    for (protocol, group) in [
        (OSPF, At(GROUP, 0)),
        (UDP, At(host([239, 255, 255, 250]), 1900)),
        (UDP, At(host([255; 4]), 137)),
    ] {
        let mut world = World::new();
        world.forward_all(C1);
        let sent = request(protocol, LOCAL, group).bytes();
        let answers = [S1A, S2].map(|from| request(protocol, At(from, 9), LOCAL).bytes());
        for answer in &answers {
            assert!(!reaches_host(&world, answer));
        }
        world.end_all();
        for _ in 0..2 {
            assert_eq!(world.host_sends(&sent).uplink(), sent);
            assert_eq!(world.entries()[0], 2);
        }
        for answer in &answers {
            assert!(reaches_host(&world, answer));
        }
        world.wait(HOST_UNANSWERED_S);
        assert_eq!(world.entries(), [0; 4]);
    }
    let mut world = World::new();
    world.forward(UDP, LOCAL.1..=LOCAL.1, At(C1, 9));
    world.host_sends(&udp(LOCAL, At(host([224, 0, 0, 251]), 5353)).bytes());
    assert!(!reaches_host(&world, &udp(SERVER, LOCAL).bytes()));
}

/// While the host keeps sending to a group, it may be answered.
#[test]
fn s7_a_record_for_a_group_lives_while_the_host_sends() {
    let mut world = World::new();
    world.forward_all(C1);
    let sent = udp(LOCAL, At(host([239, 255, 255, 250]), 1900)).bytes();
    for _ in 0..2 {
        world.host_sends(&sent).uplink();
        world.wait(HOST_UNANSWERED_S - 1);
    }
    assert!(reaches_host(&world, &udp(At(S1A, 9), LOCAL).bytes()));
}

/// Answers to the host's ping to a group come from any host.
#[test]
fn s7_a_ping_to_a_group_is_answered_by_all() {
    let world = World::new();
    let mut broadcast = ping(At(PUBLIC, 77), host([198, 51, 100, 255])).bytes();
    broadcast[..6].fill(0xff);
    for sent in [
        ping(At(PUBLIC, 77), host([224, 0, 0, 1])).bytes(),
        broadcast,
    ] {
        assert_eq!(world.host_sends(&sent).uplink(), sent);
        for from in [S1A, S2] {
            assert!(reaches_host(&world, &pong(from, At(PUBLIC, 77)).bytes()));
        }
    }
}

/// An unused identifier is kept, however low: only ports of connections are chosen from a range.
#[test]
fn s7_a_ping_of_the_host_keeps_any_identifier() {
    let world = World::new();
    for identifier in [1, 77, 1023, 1024, u16::MAX] {
        let sent = ping(At(PUBLIC, identifier), S1A).bytes();
        assert_eq!(world.host_sends(&sent).uplink(), sent);
        let answer = pong(S1A, At(PUBLIC, identifier)).bytes();
        assert!(reaches_host(&world, &answer));
    }
}

/// Errors about the host's flows are the host's.
#[test]
fn s7_errors_about_the_hosts_flows_are_the_hosts() {
    for protocol in [UDP, TCP, GRE] {
        let mut world = World::new();
        world.forward_all(C1);
        let out = request(protocol, LOCAL, SERVER).bytes();
        world.host_sends(&out).uplink();
        for kind in [UNREACHABLE, TIME_EXCEEDED] {
            assert!(reaches_host(
                &world,
                &error(S2, &out, kind, HEADER + 8).bytes()
            ));
        }
    }
}

/// A resolver asks from many ports: unanswered flows are soon forgotten, and the number of the
/// host's recorded flows is limited. Further ones leave unchanged, and guests keep their room.
#[test]
fn s7_many_questions_of_the_host_are_bounded() {
    let mut world = World::new();
    world.forward_all(C1);
    world.tables.host_sessions = 10;
    for port in 0..100 {
        let out = udp(At(PUBLIC, 20_000 + port), SERVER).bytes();
        assert_eq!(world.host_sends(&out).uplink(), out);
        let ping = ping(At(PUBLIC, port + 1), S2).bytes();
        assert_eq!(world.host_sends(&ping).uplink(), ping);
    }
    assert_eq!(world.entries()[0], 20);
    world.check();
    world
        .guest_sends(&udp(At(C1, 5000), SERVER).bytes())
        .uplink();
    world.wait(HOST_UNANSWERED_S);
    assert_eq!(world.entries()[0], 2);
    world.host_sends(&udp(LOCAL, SERVER).bytes()).uplink();
    assert!(reaches_host(&world, &udp(SERVER, LOCAL).bytes()));
    world.wait(HOST_UNANSWERED_S);
    assert_eq!(world.entries()[0], 4);
    world.wait(300);
    assert_eq!(world.entries(), [0; 4]);
    world.check();
}

/// A guest that was first keeps that flow: if the host has no room for its own flow with another
/// port, its packet does not leave with the guest's.
#[test]
fn s7_a_flow_that_meets_a_guests_and_finds_no_room_does_not_leave() {
    let mut world = World::new();
    world.forward_all(C1);
    let guest = At(C1, LOCAL.1);
    world.guest_sends(&udp(guest, SERVER).bytes()).uplink();
    world.host_sends(&udp(LOCAL, At(S2, 9)).bytes()).uplink();
    world.tables.host_sessions = 1;
    let refused = world.host_sends(&udp(LOCAL, SERVER).bytes());
    assert_eq!(refused.reason(), DropReason::GuestSessions);
    world.check();
}

/// The host's flows have precedence over any forward: they move to any port, not only to those that
/// are kept for guests beside a forward of everything.
#[test]
fn s7_a_flow_is_moved_to_any_port_beside_a_forward_of_everything() {
    let mut world = World::new();
    world.forward_all(C1);
    let moved = (20_000..20_020).map(|port| {
        world
            .guest_sends(&udp(At(C1, port), SERVER).bytes())
            .uplink();
        let out = world.host_sends(&udp(At(PUBLIC, port), SERVER).bytes());
        ends(&out.uplink()).0.1
    });
    let below = moved.filter(|port| *port < 61_000).count();
    assert!(below > 10, "{below}");
}

/// A port that a flow was moved to is in use towards that remote, by the host as well.
#[test]
fn s7_a_flow_from_a_port_that_another_was_moved_to_moves_as_well() {
    let mut world = World::new();
    world.forward_all(C1);
    let guest = At(C1, LOCAL.1);
    world.guest_sends(&udp(guest, SERVER).bytes()).uplink();
    let moved = world.host_sends(&udp(LOCAL, SERVER).bytes()).uplink();
    let first = ends(&moved).0;
    let moved = world.host_sends(&udp(first, SERVER).bytes()).uplink();
    let second = ends(&moved).0;
    assert!(![LOCAL, first].contains(&second));
    for (shown, own) in [(first, LOCAL), (second, first)] {
        let back = world.outside_sends(&udp(SERVER, shown).bytes()).host();
        assert_eq!(ends(&back), (SERVER, own));
    }
    world.check();
}

/// A flow that was not recorded for lack of room does not count as the host's.
#[test]
fn s7_flows_that_found_a_full_table_leave_room_for_later_ones() {
    let mut world = World::new();
    world.forward_all(C1);
    world.tables.host_sessions = 1;
    let capacity = core::mem::replace(&mut world.tables.sessions.capacity, 1);
    let out = udp(LOCAL, SERVER).bytes();
    world.host_sends(&out).uplink();
    assert_eq!(world.entries()[0], 0);
    world.tables.sessions.capacity = capacity;
    world.host_sends(&out).uplink();
    assert_eq!(world.entries()[0], 2);
    world.check();
}

/// Where the table is full the host's packets leave all the same.
#[test]
fn s7_a_full_table_does_not_stop_the_host() {
    for protocol in [UDP, TCP, ICMP, GRE] {
        let mut world = World::new();
        world.forward_all(C1);
        world.tables.sessions.capacity = 1;
        let out = request(protocol, LOCAL, SERVER).bytes();
        assert_eq!(world.host_sends(&out).uplink(), out);
        world.check();
        assert_eq!(world.entries(), [0; 4]);
    }
}

/// A flow that netfilter translates has no socket on the host: a record protects it from guests.
#[test]
fn s7_a_guest_that_asks_as_others_behind_the_host_do_gets_another_port() {
    let own = At(PUBLIC, 5000);
    for protocol in [UDP, TCP] {
        let world = World::new();
        let server = At(S1A, 7000);
        let asked = request(protocol, own, server).bytes();
        assert_eq!(others_send(&world, &asked), asked);
        let guest = At(C1, 5000);
        let out = world.guest_sends(&request(protocol, guest, server).bytes());
        let shown = ends(&out.uplink()).0;
        assert_eq!(shown.0, PUBLIC);
        assert_ne!(shown, own, "{protocol}");
        assert!(reaches_host(&world, &answer(protocol, server, own).bytes()));
        let back = world.outside_sends(&answer(protocol, server, shown).bytes());
        assert_eq!(ends(&back.guest()).1, guest);
        world.check();
        world.end_all();
        assert_eq!(world.entries(), [0; 4]);
    }
}

/// A server behind the host answers its clients by connections that it has not opened: connections
/// from outside use no records.
#[test]
fn s7_answers_to_connections_from_outside_are_not_noted() {
    let world = World::new();
    let (server, client) = (At(PUBLIC, 8080), At(S1A, 7000));
    for flags in [SYN | ACK, ACK] {
        let answer = tcp(server, client, flags).bytes();
        assert_eq!(others_send(&world, &answer), answer);
    }
    assert_eq!(world.entries(), [0; 4]);
}
