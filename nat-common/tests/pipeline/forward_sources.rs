//! What a forward's target sends from a forwarded port: M6.

use nat_common::{
    drop_reason::DropReason,
    tables::inside::InsideFlags,
    wire::protocol::{TCP, UDP},
};

use crate::family::{
    C1, C2, HEADER, ICMP, Ip, POOL, PUBLIC, S1A, S2, UNREACHABLE, World, addr, assert_hidden, ends,
    host, sender,
};
use kit::{
    packets::{At, GRE, answer, error, raw, request, tcp, udp},
    world::{FORWARD_RULE, Hook, LAN, MAPPINGS, SNAT_RULE, UPLINK},
};

const REMOTE: At<Ip> = At(S1A, 40_000);

/// The external end of a packet that a guest sends.
fn source(world: &World, protocol: u8, from: At<Ip>, to: At<Ip>) -> At<Ip> {
    let out = world.guest_sends(&request(protocol, from, to).bytes());
    let out = out.uplink();
    assert_hidden(&out);
    ends(&out).0
}

/// It leaves from the external port that leads there, shifted ranges and many-to-one ports
/// included; from ports that are not forwarded it leaves as ever.
#[test]
fn m6_a_target_leaves_from_the_port_that_leads_to_it() {
    for protocol in [UDP, TCP] {
        for mode in MAPPINGS {
            let mut world = World::with_mapping(mode);
            world.forward(protocol, 27_015..=27_015, At(C1, 27_015));
            world.forward(protocol, 6000..=6009, At(C2, 7000));
            world.forward_to_one(protocol, 8000..=8009, At(C1, 80));
            for (internal, external) in [
                (At(C1, 27_015), 27_015),
                (At(C2, 7000), 6000),
                (At(C2, 7009), 6009),
                (At(C1, 80), 8000),
            ] {
                for remote in [REMOTE, At(S2, 53)] {
                    let seen = source(&world, protocol, internal, remote);
                    assert_eq!(seen, At(PUBLIC, external), "{internal:?}");
                    let back = answer(protocol, remote, seen).bytes();
                    let back = world.outside_sends(&back).guest();
                    assert_eq!(ends(&back), (remote, internal));
                }
            }
            assert_eq!(source(&world, protocol, At(C2, 7010), REMOTE).1, 7010);
            world.check();
            world.end_all();
            assert_eq!(world.entries(), [0; 4]);
        }
    }
}

/// Where the same port of the address that other traffic leaves by leads to another guest, the
/// target leaves by the address of its own forward.
#[test]
fn m6_a_target_does_not_leave_from_another_guests_port() {
    for protocol in [UDP, TCP] {
        let mut world = World::new();
        world.snat(|snat| (snat.first, snat.last) = (addr(POOL[0]), addr(POOL[0])));
        world.one_to_one(POOL[0], C2);
        world.forward(protocol, 80..=80, At(C1, 80));
        let seen = source(&world, protocol, At(C1, 80), REMOTE);
        assert_eq!(seen, At(PUBLIC, 80));
    }
}

/// A registered client may call the forwarded port from the port of its registration: this is one
/// session, and each end sees the other's own port, whoever is first.
#[test]
fn m6_a_call_and_a_registration_are_one_session() {
    for protocol in [UDP, TCP] {
        for is_called_first in [false, true] {
            let mut world = World::new();
            let (inside, outside) = (At(C1, 10_060), At(PUBLIC, 5060));
            world.forward(protocol, 5060..=5060, inside);
            let register = || source(&world, protocol, inside, REMOTE);
            let call = || {
                let call = world.outside_sends(&request(protocol, REMOTE, outside).bytes());
                ends(&call.guest())
            };
            if is_called_first {
                assert_eq!(call(), (REMOTE, inside));
                assert_eq!(register(), outside);
            } else {
                assert_eq!(register(), outside);
                assert_eq!(call(), (REMOTE, inside));
            }
            assert_eq!(world.entries()[0], 2);
            world.check();
        }
    }
}

/// Another guest that sends from that port gets another one, and so does the target where the host
/// itself or an older session talks to the same remote from there.
#[test]
fn m6_another_guest_with_the_port_number_gets_another_port() {
    for protocol in [UDP, TCP] {
        let mut world = World::new();
        world.forward(protocol, 5000..=5000, At(C1, 5000));
        assert_ne!(source(&world, protocol, At(C2, 5000), REMOTE).1, 5000);
        world.socket(protocol, At(PUBLIC, 5000), Some(REMOTE));
        world.host_sends(&request(protocol, At(PUBLIC, 5000), REMOTE).bytes());
        assert_ne!(source(&world, protocol, At(C1, 5000), REMOTE).1, 5000);
        assert_eq!(source(&world, protocol, At(C1, 5000), At(S2, 9)).1, 5000);
        world.check();

        let mut world = World::new();
        assert_eq!(source(&world, protocol, At(C2, 5000), REMOTE).1, 5000);
        world.forward(protocol, 5000..=5000, At(C1, 5000));
        assert_ne!(source(&world, protocol, At(C1, 5000), REMOTE).1, 5000);
        assert_eq!(source(&world, protocol, At(C1, 5000), At(S2, 9)).1, 5000);
        world.check();
    }
}

/// A forward of every port is not shadowed: another guest that sends from the port of a service
/// behind it leaves from one that it does not choose, also where it had that port before the
/// forward came. So the remote that it has sent to reaches the service.
#[test]
fn s11_a_guest_does_not_shadow_a_forward_of_everything() {
    for protocol in [UDP, TCP] {
        for mode in MAPPINGS {
            for had_it_before in [false, true] {
                let mut world = World::with_mapping(mode);
                if had_it_before {
                    source(&world, protocol, At(C2, 51_820), At(S2, 1));
                }
                world.forward_all(C1);
                for port in [443, 51_820, 61_820] {
                    let remote = At(S1A, port);
                    let seen = source(&world, protocol, At(C2, port), remote);
                    assert!(seen.1 >= 61_000 && seen.1 != port, "{seen:?}");
                    let back = answer(protocol, remote, seen).bytes();
                    assert_eq!(ends(&world.outside_sends(&back).guest()).1, At(C2, port));
                    let asked = request(protocol, remote, At(PUBLIC, port)).bytes();
                    assert_eq!(ends(&world.outside_sends(&asked).guest()).1, At(C1, port));
                }
                world.check();
                world.end_all();
                assert_eq!(world.entries(), [0; 4]);
            }
        }
    }
}

/// Nor by a question to a DNS server, nor by a protocol without ports, which has one flow to a
/// remote.
#[test]
fn s11_questions_and_portless_flows_do_not_shadow_a_forward_of_everything() {
    let mut world = World::new();
    world.forward_all(C1);
    let server = At(S1A, 53);
    assert!(source(&world, UDP, At(C2, 5353), server).1 >= 61_000);
    let asked = world.outside_sends(&udp(server, At(PUBLIC, 5353)).bytes());
    assert_eq!(ends(&asked.guest()).1, At(C1, 5353));
    let refused = world.guest_sends(&raw(GRE, C2, S1A).bytes());
    assert_eq!(refused.reason(), DropReason::RemoteInUse);
    let asked = world.outside_sends(&raw(GRE, S1A, PUBLIC).bytes());
    assert_eq!(ends(&asked.guest()).1.0, C1);
    assert_eq!(source(&world, GRE, At(C1, 0), At(S2, 0)).0, PUBLIC);
    world.check();
}

/// A forward that names ports is not shadowed either by a guest that had one before it came.
#[test]
fn s11_a_guest_that_had_the_port_before_a_forward_opens_nothing_more_from_it() {
    for protocol in [UDP, TCP] {
        let mut world = World::new();
        let (guest, open) = (At(C2, 5000), At(S2, 9));
        assert_eq!(source(&world, protocol, guest, open).1, 5000);
        world.forward(protocol, 5000..=5000, At(C1, 5000));
        assert_ne!(source(&world, protocol, guest, REMOTE).1, 5000);
        let asked = request(protocol, REMOTE, At(PUBLIC, 5000)).bytes();
        assert_eq!(ends(&world.outside_sends(&asked).guest()).1, At(C1, 5000));
        // (Open sessions continue.)
        assert_eq!(source(&world, protocol, guest, open).1, 5000);
        world.check();
    }
}

/// The session counts under the forward, and ends with it.
#[test]
fn m6_the_session_counts_under_the_forward() {
    let mut world = World::new();
    world.forward(UDP, 5000..=5000, At(C1, 5000));
    source(&world, UDP, At(C1, 5000), REMOTE);
    let counted = world.counters(FORWARD_RULE);
    assert_eq!((counted.opened, counted.packets_out), (1, 1));
    assert_eq!(world.counters(SNAT_RULE).packets_out, 0);
    world.end_all();
    assert_eq!(world.counters(FORWARD_RULE).closed, 1);
}

/// A forward of everything forwards pings too, but those of its target leave by the source rule.
#[test]
fn m6_pings_of_a_target_of_everything_count_under_the_source_rule() {
    let mut world = World::new();
    world.forward_all(C1);
    assert_eq!(source(&world, ICMP, At(C1, 5000), REMOTE).1, 5000);
    assert_eq!(world.counters(FORWARD_RULE).packets_out, 0);
    assert_eq!(world.counters(SNAT_RULE).packets_out, 1);
}

/// Where a rule leaves a guest no port but one that a forward names, it has none.
#[test]
fn s11_the_only_port_of_a_rule_is_not_taken_from_a_forward_that_names_it() {
    for protocol in [UDP, TCP] {
        let mut world = World::new();
        world.snat(|snat| (snat.first_port, snat.last_port) = (5000, 5000));
        world.forward(protocol, 5000..=5000, At(C1, 5000));
        let fate = world.guest_sends(&request(protocol, At(C2, 5000), REMOTE).bytes());
        assert_eq!(fate.reason(), DropReason::PortsExhausted);
    }
}

/// A rule that takes everything leads to every port of its target: that keeps its ports, but leaves
/// those of the host's own sockets alone. If its other traffic leaves by another address, that is
/// not changed.
#[test]
fn m6_a_target_of_everything_keeps_its_ports() {
    let mut world = World::new();
    world.forward_all(C1);
    for protocol in [UDP, TCP] {
        assert_eq!(source(&world, protocol, At(C1, 5000), REMOTE).1, 5000);
        world.socket(protocol, At(PUBLIC, 6000), None);
        assert_ne!(source(&world, protocol, At(C1, 6000), REMOTE).1, 6000);
    }
    world.check();
    world.snat(|snat| {
        snat.first = addr(POOL[0]);
        snat.last = addr(POOL[1]);
    });
    for protocol in [UDP, TCP, ICMP, GRE] {
        assert_ne!(source(&world, protocol, At(C1, 7), At(S2, 9)).0, PUBLIC);
    }
    world.check();
}

/// Where the other traffic of the guest leaves by an address that the rule does not forward, it
/// leaves by the rule's; a destination that is excluded, or a guest with an address of its own, is
/// as ever.
#[test]
fn m6_the_address_is_one_that_leads_back() {
    let mut world = World::new();
    world.snat(|snat| {
        snat.first = addr(POOL[0]);
        snat.last = addr(POOL[1]);
    });
    world.forward(UDP, 5000..=5000, At(C1, 5000));
    assert_eq!(source(&world, UDP, At(C1, 5000), REMOTE), At(PUBLIC, 5000));
    assert_ne!(source(&world, UDP, At(C1, 5001), REMOTE).0, PUBLIC);

    let mut world = World::new();
    world.forward(UDP, 5000..=5000, At(C1, 4000));
    world.one_to_one(POOL[0], C1);
    assert_eq!(source(&world, UDP, At(C1, 4000), REMOTE), At(POOL[0], 4000));

    let mut world = World::new();
    world.forward(UDP, 5000..=5000, At(C1, 4000));
    world.exclude(S1A, 32);
    let packet = udp(At(C1, 4000), REMOTE).bytes();
    assert_eq!(world.guest_sends(&packet).uplink(), packet);
}

/// Errors about such a flow reach the guest, with its own port in the quotation.
#[test]
fn m6_errors_about_it_reach_the_target() {
    let mut world = World::new();
    let inside = At(C1, 4000);
    world.forward(UDP, 5000..=5000, inside);
    let sent = udp(inside, REMOTE).bytes();
    let out = world.guest_sends(&sent).uplink();
    let back = world
        .outside_sends(&error(S2, &out, UNREACHABLE, HEADER + 8).bytes())
        .guest();
    assert_eq!(sender(&back[back.len() - HEADER - 8..]), C1);
    assert_eq!(&back[back.len() - 8..][..2], &4000_u16.to_be_bytes());
}

/// Targets that talk to each other by their external addresses see each other's forwarded ports,
/// and it is one session from both sides.
#[test]
fn m6_targets_see_each_others_forwarded_ports() {
    for protocol in [UDP, TCP] {
        let mut world = World::new();
        let (one, two) = (At(C1, 10_000), At(C2, 20_000));
        world.forward(protocol, 5000..=5000, one);
        world.forward(protocol, 6000..=6000, two);
        let sent = world.guest_sends(&request(protocol, one, At(PUBLIC, 6000)).bytes());
        assert_eq!(ends(&sent.guest()), (At(PUBLIC, 5000), two));
        let back = world.guest_sends(&answer(protocol, two, At(PUBLIC, 5000)).bytes());
        assert_eq!(ends(&back.guest()), (At(PUBLIC, 6000), one));
        assert_eq!(world.entries()[0], 4);
        world.check();
        world.end_all();
        assert_eq!(world.entries(), [0; 4]);
    }
}

/// The limit of sessions per guest holds; it takes no port of those that a guest may have.
#[test]
fn m6_limits_per_guest_hold() {
    let mut world = World::new();
    world.caps(2, 1);
    world.forward(TCP, 5000..=5000, At(C1, 5000));
    let from = At(C1, 5000);
    source(&world, TCP, from, At(S1A, 1));
    source(&world, TCP, from, At(S1A, 2));
    let refused = world.guest_sends(&tcp(from, At(S1A, 3), 2).bytes());
    assert_eq!(refused.reason(), DropReason::GuestSessions);
    world.check();
}

/// A route that comes later puts a forward's target behind a network. Until the daemon has ended
/// what was opened before, answers find it, and the next session has the same ends.
#[test]
fn m6_answers_of_sessions_older_than_a_route_leave_from_the_forwarded_port() {
    let target = At(host([10, 200, 0, 5]), 80);
    for protocol in [UDP, TCP] {
        let mut world = World::new();
        world.forward(protocol, 8080..=8080, target);
        let asked = request(protocol, REMOTE, At(PUBLIC, 8080)).bytes();
        let ask = |world: &World| {
            let (_, packet) = world.run(Hook::Inbound, &asked, UPLINK, UPLINK).unwrap();
            ends(&packet)
        };
        let answered = answer(protocol, target, REMOTE).bytes();
        let leave = |world: &World| {
            let (_, packet) = world.run(Hook::Outbound, &answered, UPLINK, LAN).unwrap();
            ends(&packet)
        };
        assert_eq!(ask(&world), (REMOTE, target));
        world.known_by(target.0, InsideFlags::empty(), [0; 6]);
        world.forward(protocol, 8080..=8080, target);
        for _ in 0..2 {
            assert_eq!(ask(&world), (REMOTE, target));
            assert_eq!(leave(&world), (At(PUBLIC, 8080), REMOTE));
        }
        world.end_all();
        assert_eq!(ask(&world), (REMOTE, target));
        assert_eq!(leave(&world), (At(PUBLIC, 8080), REMOTE));
        assert_eq!(world.entries()[0], 2);
        world.check();
    }
}
