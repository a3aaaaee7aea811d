//! What must not come in, and the host's own traffic: S1, S2, S6.

use nat_common::{
    drop_reason::DropReason,
    tables::snats::{filtering, mapping},
    wire::protocol::{TCP, UDP},
};

use crate::family::{C1, C2, C3, ICMP, PUBLIC, S1A, S2, World, ends, host};
use kit::{
    packets::{ACK, At, GRE, SYN, answer, ping, pong, raw, request, tcp, udp},
    world::MAPPINGS,
};

/// Sources that no outside host can have, to a forwarded port, to a guest's and to the host's.
#[test]
fn s1_martian_sources_are_dropped() {
    let mut world = World::new();
    world.forward(UDP, 10_000..=10_000, At(C1, 80));
    world.snat(|snat| snat.filtering = filtering::ENDPOINT_INDEPENDENT);
    world
        .guest_sends(&udp(At(C1, 5000), At(S1A, 1)).bytes())
        .uplink();
    for source in [
        host([127, 0, 0, 1]),
        host([0, 0, 0, 0]),
        host([224, 0, 0, 1]),
        host([255; 4]),
    ] {
        for port in [10_000, 5000, 22] {
            let packet = udp(At(source, 1), At(PUBLIC, port)).bytes();
            let reason = match source[0] {
                224.. => DropReason::BroadcastSource,
                _ => DropReason::MartianSource,
            };
            assert_eq!(world.outside_sends(&packet).reason(), reason);
        }
    }
    assert_eq!(world.entries()[0], 2);
}

/// A packet from outside with a guest's source address is dropped, whatever its destination.
#[test]
fn s2_inside_sources_from_outside_are_dropped() {
    let mut world = World::new();
    world.forward(UDP, 10_000..=10_000, At(C1, 80));
    for source in [C2, C3] {
        for to in [At(PUBLIC, 10_000), At(PUBLIC, 22), At(C1, 80)] {
            let fate = world.outside_sends(&udp(At(source, 1), to).bytes());
            assert_eq!(fate.reason(), DropReason::InternalSource);
        }
    }
}

/// Packets unknown to natbpf are the host's.
#[test]
fn s6_unsolicited_packets_are_the_hosts() {
    let world = World::new();
    let packets = [
        udp(At(S1A, 1), At(PUBLIC, 22)).bytes(),
        tcp(At(S1A, 1), At(PUBLIC, 22), SYN).bytes(),
        tcp(At(S1A, 1), At(PUBLIC, 22), ACK).bytes(),
        ping(At(S1A, 1), PUBLIC).bytes(),
        pong(S1A, At(PUBLIC, 1)).bytes(),
        raw(GRE, S1A, PUBLIC).bytes(),
    ];
    for packet in packets {
        assert_eq!(world.outside_sends(&packet).host(), packet);
    }
    assert_eq!(world.entries(), [0; 4]);
}

/// The host's own packets leave as they are.
#[test]
fn s6_the_hosts_own_packets_leave_untouched() {
    let world = World::new();
    for protocol in [UDP, TCP, ICMP, GRE] {
        for make in [request, answer] {
            let packet = make(protocol, At(PUBLIC, 5000), At(S1A, 7000)).bytes();
            assert_eq!(world.host_sends(&packet).uplink(), packet);
        }
    }
}

/// A guest gets no port on which the host waits, and the host's service answers there.
#[test]
fn s6_ports_of_the_hosts_services_are_not_taken() {
    for protocol in [UDP, TCP] {
        for mode in MAPPINGS {
            let mut world = World::with_mapping(mode);
            world.socket(protocol, At(PUBLIC, 5000), None);
            let packet = request(protocol, At(C1, 5000), At(S1A, 7000)).bytes();
            let out = world.guest_sends(&packet).uplink();
            assert_ne!(ends(&out).0, At(PUBLIC, 5000));
            let asked = request(protocol, At(S1A, 7000), At(PUBLIC, 5000)).bytes();
            assert_eq!(world.outside_sends(&asked).host(), asked);
        }
    }
}

/// A service of the host's that was started on a port that guests share serves remotes to which no
/// guest talks; without a service, no packet is admitted.
#[test]
fn s6_a_later_service_of_the_host_serves_strangers_of_a_shared_port() {
    for protocol in [UDP, TCP] {
        let mut world = World::with_mapping(mapping::ADDRESS_AND_PORT_DEPENDENT);
        let (guest, remote) = (At(C1, 5000), At(S1A, 7000));
        world
            .guest_sends(&request(protocol, guest, remote).bytes())
            .uplink();
        let stranger = request(protocol, At(S2, 1), At(PUBLIC, 5000)).bytes();
        let refused = world.outside_sends(&stranger);
        assert_eq!(refused.reason(), DropReason::Filtered);
        world.socket(protocol, At(PUBLIC, 5000), None);
        assert_eq!(world.outside_sends(&stranger).host(), stranger);
        let back = answer(protocol, remote, At(PUBLIC, 5000)).bytes();
        assert_eq!(ends(&world.outside_sends(&back).guest()).1, guest);
    }
}

/// The host's own queries are no guest's sessions: the guests' limits do not hold for them.
#[test]
fn s6_pings_of_the_host_are_not_limited_as_a_guests_sessions_are() {
    let mut world = World::new();
    world.caps(1, 1);
    for id in 1..=4 {
        let out = world.host_sends(&ping(At(PUBLIC, id), S1A).bytes());
        let back = world.outside_sends(&pong(S1A, ends(&out.uplink()).0).bytes());
        assert_eq!(ends(&back.host()).1, At(PUBLIC, id));
    }
    world
        .guest_sends(&udp(At(C1, 5000), At(S1A, 1)).bytes())
        .uplink();
    let guests = world.tables.guests.entries();
    assert_eq!(guests.iter().filter(|(key, _)| !key.is_host()).count(), 1);
    world.check();
    world.wait(10_000);
    assert_eq!(world.entries(), [0; 4]);
}

/// A connection of the host's from a port that is forwarded keeps its answers.
#[test]
fn s6_a_connection_of_the_host_comes_before_a_forward() {
    for protocol in [UDP, TCP] {
        let mut world = World::new();
        world.forward(protocol, 5000..=5000, At(C1, 80));
        let (local, remote) = (At(PUBLIC, 5000), At(S1A, 7000));
        world.socket(protocol, local, Some(remote));
        let sent = request(protocol, local, remote).bytes();
        assert_eq!(world.host_sends(&sent).uplink(), sent);
        let packet = answer(protocol, remote, local).bytes();
        assert_eq!(world.outside_sends(&packet).host(), packet);
        let other = world.outside_sends(&request(protocol, At(S2, 7000), local).bytes());
        assert_eq!(ends(&other.guest()).1, At(C1, 80));
        world.check();
    }
}

/// Any user of the host may connect a datagram socket to a remote, by a port that is forwarded.
/// While it has sent nothing, the remote reaches the guest, and the guest leaves from the forwarded
/// port.
#[test]
fn s12_a_socket_that_has_sent_nothing_takes_no_packet_of_a_forward() {
    for is_whole in [false, true] {
        let mut world = World::new();
        match is_whole {
            true => world.forward_all(C1),
            false => world.forward(UDP, 5000..=5000, At(C1, 5000)),
        }
        let (local, remote) = (At(PUBLIC, 5000), At(S1A, 7000));
        world.socket(UDP, local, Some(remote));
        let packet = udp(remote, local).bytes();
        assert_eq!(ends(&world.outside_sends(&packet).guest()).1, At(C1, 5000));
        world.end_all();
        let out = world.guest_sends(&udp(At(C1, 5000), remote).bytes());
        assert_eq!(ends(&out.uplink()).0, local);
        world.check();
    }
}

/// A mapping that a guest has already is not used towards a remote to which the host talks from the
/// same port; towards others it continues.
#[test]
fn s6_a_mapping_is_not_used_towards_the_hosts_own_peer() {
    let mut world = World::new();
    let guest = At(C1, 5000);
    world
        .guest_sends(&udp(guest, At(S1A, 7000)).bytes())
        .uplink();
    world.socket(UDP, At(PUBLIC, 5000), Some(At(S2, 7000)));
    let out = world.guest_sends(&udp(guest, At(S2, 7000)).bytes());
    assert_ne!(ends(&out.uplink()).0, At(PUBLIC, 5000));
    let answer = udp(At(S2, 7000), At(PUBLIC, 5000)).bytes();
    assert_eq!(world.outside_sends(&answer).host(), answer);
    let other = world.guest_sends(&udp(guest, At(S2, 7001)).bytes());
    assert_eq!(ends(&other.uplink()).0, At(PUBLIC, 5000));
    world.check();
}

/// A service of the host's that was started on a guest's port serves all, including remotes and
/// guests that the guest's mapping would admit. The guest's open session continues; later sessions
/// leave from another port.
#[test]
fn s6_a_later_service_of_the_host_comes_before_a_mapping() {
    for protocol in [UDP, TCP] {
        for filter in 0..=filtering::ADDRESS_AND_PORT_DEPENDENT {
            let mut world = World::new();
            world.snat(|snat| snat.filtering = filter);
            let (guest, service) = (At(C1, 5000), At(PUBLIC, 5000));
            let remote = At(S1A, 1);
            let sent = request(protocol, guest, remote).bytes();
            assert_eq!(ends(&world.guest_sends(&sent).uplink()).0, service);
            world.socket(protocol, service, None);
            for from in [At(S1A, 2), At(S2, 1)] {
                let asked = request(protocol, from, service).bytes();
                assert_eq!(world.outside_sends(&asked).host(), asked);
            }
            let asked = request(protocol, At(C2, 9), service).bytes();
            assert_eq!(world.guest_sends(&asked).host(), asked);
            let back = world.outside_sends(&answer(protocol, remote, service).bytes());
            assert_eq!(ends(&back.guest()).1, guest);
            let out = world.guest_sends(&request(protocol, guest, At(S2, 1)).bytes());
            let moved = ends(&out.uplink()).0;
            assert_ne!(moved, service);
            let back = world.outside_sends(&answer(protocol, At(S2, 1), moved).bytes());
            assert_eq!(ends(&back.guest()).1, guest);
            world.check();
            world.end_all();
            assert_eq!(world.entries(), [0; 4]);
        }
    }
}

/// A connection of the host's with the addresses of a guest's session gets another port, and keeps
/// it while it lasts.
#[test]
fn s6_a_colliding_connection_of_the_host_gets_another_port() {
    for protocol in [UDP, TCP] {
        let mut world = World::new();
        let (local, remote) = (At(PUBLIC, 5000), At(S1A, 7000));
        world
            .guest_sends(&request(protocol, At(C1, 5000), remote).bytes())
            .uplink();
        let sent = request(protocol, local, remote).bytes();
        let moved = ends(&world.host_sends(&sent).uplink()).0;
        assert_ne!(moved, local);
        assert_eq!(ends(&world.host_sends(&sent).uplink()).0, moved);
        let back = world.outside_sends(&answer(protocol, remote, moved).bytes());
        assert_eq!(
            ends(&back.host()),
            ends(&answer(protocol, remote, local).bytes())
        );
        let back = world.outside_sends(&answer(protocol, remote, local).bytes());
        assert_eq!(ends(&back.guest()).1, At(C1, 5000));
        world.check();
        world.wait(10_000);
        assert_eq!(world.entries(), [0; 4]);
    }
}

/// Segments in the middle of a connection of the host's stay as they are: it began before the
/// guest's.
#[test]
fn s6_only_the_first_segment_of_a_colliding_connection_of_the_host_is_moved() {
    let world = World::new();
    let (local, remote) = (At(PUBLIC, 5000), At(S1A, 7000));
    world
        .guest_sends(&tcp(At(C1, 5000), remote, SYN).bytes())
        .uplink();
    let entries = world.entries();
    let segment = tcp(local, remote, ACK).bytes();
    assert_eq!(world.host_sends(&segment).uplink(), segment);
    assert_eq!(world.entries(), entries);
    let opens = tcp(local, remote, SYN).bytes();
    assert_ne!(ends(&world.host_sends(&opens).uplink()).0, local);
}

/// A ping of the host's and one of a guest's with the same identifier both get their answers,
/// whoever is first.
#[test]
fn s6_pings_of_the_host_and_of_guests_stay_apart() {
    for host_first in [true, false] {
        let world = World::new();
        let mut ids = [0; 2];
        for is_host in [host_first, !host_first] {
            let out = match is_host {
                true => world.host_sends(&ping(At(PUBLIC, 77), S1A).bytes()),
                false => world.guest_sends(&ping(At(C1, 77), S1A).bytes()),
            };
            ids[usize::from(is_host)] = ends(&out.uplink()).0.1;
        }
        assert_ne!(ids[0], ids[1]);
        let to_guest = world.outside_sends(&pong(S1A, At(PUBLIC, ids[0])).bytes());
        assert_eq!(ends(&to_guest.guest()).1, At(C1, 77));
        let to_host = world.outside_sends(&pong(S1A, At(PUBLIC, ids[1])).bytes());
        assert_eq!(ends(&to_host.host()).1, At(PUBLIC, 77));
        world.check();
    }
}
