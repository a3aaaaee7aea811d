//! Races: two packets, or a packet and an end, at the same time on two CPUs.

use nat_common::{
    drop_reason::DropReason,
    session::{ending, tracking},
    tables::{
        policies::side,
        ports::{PortKey, Ports as _},
        sessions::{Sessions as _, View},
        snats::mapping,
    },
    wire::{
        address::{Endpoint, Port},
        protocol::{TCP, UDP},
    },
};

use super::policy::{accept, drop_by_default};
use crate::family::{C1, C2, C3, Ip, PUBLIC, S1A, S1B, S2, World, addr, ends};
use kit::{
    interleave::every_order,
    packets::{ACK, At, GRE, SYN, request, tcp, udp},
    world::{Fate, MAPPINGS},
};

const GUEST: At<Ip> = At(C1, 5000);
const REMOTE: At<Ip> = At(S1A, 7000);
const PUBLIC_END: At<Ip> = At(PUBLIC, 5000);

/// What a packet of one CPU does.
type Operation<'o> = &'o (dyn Fn(&World) -> Option<Fate> + Sync);

fn guest_sends(packet: Vec<u8>) -> impl Fn(&World) -> Option<Fate> + Sync {
    move |world: &World| Some(world.guest_sends(&packet))
}

fn outside_sends(packet: Vec<u8>) -> impl Fn(&World) -> Option<Fate> + Sync {
    move |world: &World| Some(world.outside_sends(&packet))
}

/// The daemon ends all sessions that have been there.
fn ends_all(world: &World) -> Option<Fate> {
    world.end_all();
    None
}

/// The daemon ends the sessions that have been idle for too long.
fn expires(world: &World) -> Option<Fate> {
    world.expire();
    None
}

/// How the packet left, by which hook it may have been; a packet that was dropped is a failure.
#[track_caller]
fn left(fate: Fate) -> (At<Ip>, At<Ip>) {
    match fate {
        Fate::Uplink(packet) | Fate::Network(_, packet) => ends(&packet),
        other => panic!("lost: {other:?}"),
    }
}

/// Asserts that no packet is lost in any order, that the tables agree, and that nothing is left in
/// them when all has ended.
#[track_caller]
fn assert_nothing_is_lost(world: impl Fn() -> World, operations: [Operation<'_>; 2]) {
    assert_outcomes(world, operations, |_, fates| {
        for fate in fates.into_iter().flatten() {
            left(fate);
        }
    });
}

#[track_caller]
fn assert_outcomes(
    world: impl Fn() -> World,
    operations: [Operation<'_>; 2],
    check: impl Fn(&World, [Option<Fate>; 2]),
) {
    let orders = every_order(world, operations, |world, fates| {
        world.check();
        check(world, fates);
        assert_all_ends(world);
    });
    assert!(orders > 2, "one has nothing to do with the other");
}

#[track_caller]
fn assert_all_ends(world: &World) {
    world.end_all();
    assert_eq!(world.entries(), [0; 4]);
    assert_eq!(world.tables.guests.entries().len(), 0);
}

/// Asserts that two packets of one flow leave in the same way in every order.
#[track_caller]
fn assert_one_session(world: impl Fn() -> World, operation: Operation<'_>, entries: usize) {
    assert_outcomes(world, [operation, operation], |world, fates| {
        let [first, second] = fates.map(|fate| left(fate.unwrap()));
        assert_eq!(first, second, "one flow has left in two ways");
        assert_eq!(world.entries()[0], entries);
        assert!(!is_answered(world), "neither packet answers the other");
        let opened: u64 = (1..20).map(|rule| world.counters(rule).opened).sum();
        assert_eq!(opened, 1, "one session was counted twice");
    });
}

/// Whether any session has been answered.
fn is_answered(world: &World) -> bool {
    let sessions = world.tables.sessions.entries();
    let mut states = sessions.iter().map(|(_, session)| session.state.load());
    states.any(|state| state & tracking::REPLIED != 0)
}

#[test]
fn two_first_packets_of_a_guest_share_one_session() {
    for protocol in [UDP, TCP, GRE] {
        let send = guest_sends(request(protocol, GUEST, REMOTE).bytes());
        assert_one_session(World::new, &send, 2);
    }
}

#[test]
fn two_first_packets_of_a_guest_share_one_session_where_ports_are_shared() {
    let world = || World::with_mapping(mapping::ADDRESS_AND_PORT_DEPENDENT);
    assert_one_session(world, &guest_sends(udp(GUEST, REMOTE).bytes()), 2);
    let taken = || {
        let world = world();
        world
            .guest_sends(&udp(At(C2, 5000), REMOTE).bytes())
            .uplink();
        world
    };
    let send = guest_sends(udp(GUEST, REMOTE).bytes());
    assert_outcomes(taken, [&send, &send], |world, fates| {
        let [first, second] = fates.map(|fate| left(fate.unwrap()));
        assert_eq!(first, second);
        assert_ne!(first.0, PUBLIC_END);
        assert_eq!(world.entries()[0], 4);
    });
}

/// The port of the guest's own is another guest's, so that each packet tries another one.
#[test]
fn two_first_packets_share_one_session_where_the_port_is_taken() {
    let world = || {
        let world = World::new();
        world
            .guest_sends(&udp(At(C2, 5000), REMOTE).bytes())
            .uplink();
        world
    };
    let send = guest_sends(udp(GUEST, REMOTE).bytes());
    assert_outcomes(world, [&send, &send], |world, fates| {
        let [first, second] = fates.map(|fate| left(fate.unwrap()));
        assert_eq!(first, second);
        assert_eq!(world.entries(), [4, 2, 2, 2]);
    });
}

#[test]
fn two_first_packets_share_the_last_session_and_port_that_the_guest_may_have() {
    let world = || {
        let mut world = World::new();
        world.caps(1, 1);
        world
    };
    assert_one_session(world, &guest_sends(udp(GUEST, REMOTE).bytes()), 2);
}

#[test]
fn two_first_packets_share_the_only_port_of_a_range() {
    let world = || {
        let mut world = World::new();
        world.snat(|snat| (snat.first_port, snat.last_port) = (6000, 6000));
        world
    };
    assert_one_session(world, &guest_sends(udp(GUEST, REMOTE).bytes()), 2);
}

/// A question takes no port: the session itself is the claim.
#[test]
fn two_packets_of_one_question_share_one_session() {
    let ask = guest_sends(udp(GUEST, At(S1A, 53)).bytes());
    assert_one_session(World::new, &ask, 2);
    let taken = || {
        let world = World::new();
        world
            .guest_sends(&udp(At(C2, 5000), At(S1A, 53)).bytes())
            .uplink();
        world
    };
    assert_nothing_is_lost(taken, [&ask, &ask]);
    let others = guest_sends(udp(At(C2, 5000), At(S1A, 53)).bytes());
    assert_outcomes(World::new, [&ask, &others], |_, fates| {
        let [one, other] = fates.map(|fate| left(fate.unwrap()));
        assert_ne!(one.0, other.0, "answers cannot be told apart");
    });
}

/// The two claim the mapping of their endpoint at the same time.
#[test]
fn packets_of_one_endpoint_to_two_remotes_get_one_external_port() {
    for range in [(1024, 65535), (6000, 6000)] {
        let world = || {
            let mut world = World::new();
            world.snat(|snat| (snat.first_port, snat.last_port) = range);
            world.caps(0, 1);
            world
        };
        for other in [At(S2, 7000), At(S1A, 7001)] {
            let first = guest_sends(udp(GUEST, REMOTE).bytes());
            let second = guest_sends(udp(GUEST, other).bytes());
            assert_outcomes(world, [&first, &second], |world, fates| {
                let [first, second] = fates.map(|fate| left(fate.unwrap()));
                assert_eq!(first.0, second.0);
                assert_eq!(world.entries()[1..3], [1, 1]);
            });
        }
    }
}

#[test]
fn two_first_packets_by_a_forward_share_one_session() {
    for protocol in [UDP, TCP] {
        let world = || {
            let mut world = World::new();
            world.forward(protocol, 10_000..=10_000, At(C1, 80));
            world
        };
        let packet = request(protocol, REMOTE, At(PUBLIC, 10_000)).bytes();
        assert_one_session(world, &outside_sends(packet), 2);
    }
}

/// The guest talks to the remote's endpoint already, so that it must see another port of it: the
/// same one for both packets.
#[test]
fn two_first_packets_by_a_forward_share_the_port_that_the_guest_sees() {
    let world = || {
        let mut world = World::new();
        world.forward_to_one(UDP, 10_000..=10_001, At(C1, 80));
        let other = udp(REMOTE, At(PUBLIC, 10_001)).bytes();
        world.outside_sends(&other).guest();
        world
    };
    let send = outside_sends(udp(REMOTE, At(PUBLIC, 10_000)).bytes());
    assert_outcomes(world, [&send, &send], |world, fates| {
        let [first, second] = fates.map(|fate| left(fate.unwrap()));
        assert_eq!(first, second);
        assert_ne!(first.0, REMOTE);
        assert_eq!(world.entries()[0], 4);
    });
}

#[test]
fn two_first_packets_to_a_mapping_share_one_session() {
    let world = || {
        let world = World::new();
        world.guest_sends(&udp(GUEST, REMOTE).bytes()).uplink();
        world
    };
    let send = outside_sends(udp(At(S1A, 7001), PUBLIC_END).bytes());
    assert_outcomes(world, [&send, &send], |world, fates| {
        for fate in fates {
            assert_eq!(left(fate.unwrap()), (At(S1A, 7001), GUEST));
        }
        assert_eq!(world.entries(), [4, 1, 1, 1]);
    });
}

/// Both ends of one flow send their first packet at the same time.
#[test]
fn packets_from_both_ends_open_one_session() {
    let mapped = || {
        let world = World::new();
        world
            .guest_sends(&tcp(GUEST, At(S1A, 9), SYN).bytes())
            .uplink();
        world
    };
    let out = guest_sends(tcp(GUEST, REMOTE, SYN).bytes());
    let back = outside_sends(tcp(REMOTE, PUBLIC_END, SYN).bytes());
    assert_outcomes(mapped, [&out, &back], |world, fates| {
        let [out, back] = fates.map(|fate| left(fate.unwrap()));
        assert_eq!((out, back), ((PUBLIC_END, REMOTE), (REMOTE, GUEST)));
        assert_eq!(world.entries()[0], 4);
        assert!(is_answered(world), "the later one answers the other");
    });
}

/// A guest asks another by its external address.
#[test]
fn two_first_packets_between_guests_share_one_session() {
    let forwarding = || {
        let mut world = World::new();
        world.forward(UDP, 10_000..=10_000, At(C2, 80));
        world
    };
    let send = guest_sends(udp(GUEST, At(PUBLIC, 10_000)).bytes());
    assert_one_session(forwarding, &send, 4);
    let mapped = || {
        let world = World::new();
        world
            .guest_sends(&udp(At(C3, 6000), REMOTE).bytes())
            .uplink();
        world
    };
    let send = guest_sends(udp(GUEST, At(PUBLIC, 6000)).bytes());
    assert_outcomes(mapped, [&send, &send], |world, fates| {
        let [first, second] = fates.map(|fate| left(fate.unwrap()));
        assert_eq!(first, second);
        assert_eq!(world.entries()[0], 6);
    });
}

/// Two guests that know each other's mapping send at the same time, as hole punching does.
#[test]
fn packets_of_two_guests_to_each_other_open_one_session() {
    let world = || {
        let world = World::new();
        world.guest_sends(&udp(GUEST, REMOTE).bytes()).uplink();
        world
            .guest_sends(&udp(At(C3, 6000), REMOTE).bytes())
            .uplink();
        world
    };
    let there = guest_sends(udp(GUEST, At(PUBLIC, 6000)).bytes());
    let back = guest_sends(udp(At(C3, 6000), PUBLIC_END).bytes());
    assert_outcomes(world, [&there, &back], |world, fates| {
        let [there, back] = fates.map(|fate| left(fate.unwrap()));
        assert_eq!(there, (PUBLIC_END, At(C3, 6000)));
        assert_eq!(back, (At(PUBLIC, 6000), GUEST));
        assert_eq!(world.entries()[0], 8);
    });
}

/// An untranslated flow has a session if a policy applies to it.
#[test]
fn two_first_packets_by_a_policy_share_one_session() {
    let world = || {
        let mut world = World::new();
        world.chain(side::ANY, side::ANY, &[accept(), drop_by_default()]);
        world
    };
    let send = guest_sends(udp(GUEST, At(C3, 80)).bytes());
    assert_nothing_is_lost(world, [&send, &send]);
    let back = guest_sends(udp(At(C3, 80), GUEST).bytes());
    assert_nothing_is_lost(world, [&send, &back]);
}

/// The daemon, or a change of rules, ends the session of a flow that continues at the same moment.
#[test]
fn a_packet_whose_session_is_being_ended_reopens_it() {
    for protocol in [UDP, TCP, GRE] {
        let packet = request(protocol, GUEST, REMOTE).bytes();
        let world = || {
            let world = World::new();
            world.guest_sends(&packet).uplink();
            world
        };
        assert_nothing_is_lost(world, [&guest_sends(packet.clone()), &ends_all]);
    }
    let forwarded = udp(REMOTE, At(PUBLIC, 10_000)).bytes();
    let world = || {
        let mut world = World::new();
        world.forward(UDP, 10_000..=10_000, At(C1, 80));
        world.outside_sends(&forwarded).guest();
        world
    };
    assert_nothing_is_lost(world, [&outside_sends(forwarded.clone()), &ends_all]);
    let hairpinned = udp(At(C2, 5000), At(PUBLIC, 10_000)).bytes();
    let world = || {
        let mut world = World::new();
        world.forward(UDP, 10_000..=10_000, At(C1, 80));
        world.guest_sends(&hairpinned).guest();
        world
    };
    assert_nothing_is_lost(world, [&guest_sends(hairpinned.clone()), &ends_all]);
    let plain = udp(GUEST, At(C3, 80)).bytes();
    let world = || {
        let mut world = World::new();
        world.chain(side::ANY, side::ANY, &[accept(), drop_by_default()]);
        world.guest_sends(&plain).guest();
        world
    };
    assert_nothing_is_lost(world, [&guest_sends(plain.clone()), &ends_all]);
}

/// The last session of a mapping ends while the guest opens another by it.
#[test]
fn a_packet_that_meets_the_end_of_its_mapping_gets_another() {
    for mode in MAPPINGS {
        for range in [(1024, 65535), (6000, 6000)] {
            let world = || {
                let mut world = World::new();
                world.snat(|snat| {
                    snat.mapping = mode;
                    (snat.first_port, snat.last_port) = range;
                });
                world.caps(2, 1);
                world.guest_sends(&udp(GUEST, REMOTE).bytes()).uplink();
                world.advance(301);
                world
            };
            for other in [REMOTE, At(S1A, 7001), At(S1B, 7000)] {
                let send = guest_sends(udp(GUEST, other).bytes());
                assert_nothing_is_lost(world, [&send, &expires]);
            }
        }
    }
}

/// A packet of each direction meets the end of its session by idleness.
#[test]
fn an_answer_that_meets_the_end_of_its_session_is_let_in_or_late() {
    let world = || {
        let mut world = World::new();
        world.guest_sends(&udp(GUEST, REMOTE).bytes()).uplink();
        world.advance(301);
        world
    };
    let back = outside_sends(udp(REMOTE, PUBLIC_END).bytes());
    assert_outcomes(world, [&back, &expires], |_, [fate, _]| match fate {
        Some(Fate::Network(_, packet)) => assert_eq!(ends(&packet), (REMOTE, GUEST)),
        Some(Fate::Host(_) | Fate::Dropped(DropReason::Filtered | DropReason::Ending)) => {}
        other => panic!("{other:?}"),
    });
}

/// A remote sends to a mapping that ends: whatever the packet's outcome, no entry is left.
#[test]
fn a_session_to_a_mapping_that_ends_leaves_nothing() {
    let world = || {
        let mut world = World::new();
        world.guest_sends(&udp(GUEST, REMOTE).bytes()).uplink();
        world.advance(301);
        world
    };
    let send = outside_sends(udp(At(S1A, 7001), PUBLIC_END).bytes());
    assert_outcomes(world, [&send, &expires], |_, _| {});
    let asked = guest_sends(udp(At(C2, 6000), PUBLIC_END).bytes());
    assert_outcomes(world, [&asked, &expires], |_, _| {});
}

/// One guest's last session on a port ends while another guest looks for one.
#[test]
fn a_port_that_is_given_back_is_anothers_or_not_yet() {
    let world = || {
        let mut world = World::new();
        world.snat(|snat| (snat.first_port, snat.last_port) = (6000, 6000));
        world
            .guest_sends(&udp(At(C2, 5000), REMOTE).bytes())
            .uplink();
        world.advance(301);
        world
    };
    let send = guest_sends(udp(GUEST, REMOTE).bytes());
    assert_outcomes(world, [&send, &expires], |_, [fate, _]| match fate {
        Some(Fate::Uplink(packet)) => assert_eq!(ends(&packet).0, At(PUBLIC, 6000)),
        Some(Fate::Dropped(DropReason::PortsExhausted)) => {}
        other => panic!("{other:?}"),
    });
}

/// Two guests need the last port: one gets it, the other is refused.
#[test]
fn of_two_guests_that_want_the_last_port_one_gets_it() {
    let world = || {
        let mut world = World::new();
        world.snat(|snat| (snat.first_port, snat.last_port) = (6000, 6000));
        world
    };
    let [first, second] = [C1, C2].map(|guest| guest_sends(udp(At(guest, 5000), REMOTE).bytes()));
    assert_outcomes(world, [&first, &second], |world, fates| {
        let refused = fates
            .into_iter()
            .flatten()
            .filter(|fate| *fate == Fate::Dropped(DropReason::PortsExhausted));
        assert_eq!(refused.count(), 1);
        assert_eq!(world.entries(), [2, 1, 1, 1]);
    });
}

/// A segment in the middle of a connection meets the end of its session.
#[test]
fn a_connection_whose_session_is_ended_goes_on() {
    let world = || {
        let world = World::new();
        world.guest_sends(&tcp(GUEST, REMOTE, SYN).bytes()).uplink();
        world
            .outside_sends(&tcp(REMOTE, PUBLIC_END, SYN | ACK).bytes())
            .guest();
        world
    };
    let send = guest_sends(tcp(GUEST, REMOTE, ACK).bytes());
    assert_nothing_is_lost(world, [&send, &ends_all]);
}

/// Two ends of one session at once: it ends once.
#[test]
fn a_session_ended_twice_at_once_releases_references_once() {
    let world = || {
        let world = World::new();
        world.guest_sends(&udp(GUEST, REMOTE).bytes()).uplink();
        world
            .guest_sends(&udp(GUEST, At(S2, 7000)).bytes())
            .uplink();
        world
    };
    let end = |world: &World| {
        let key = world.tables.sessions.entries();
        let key = key
            .iter()
            .find(|(key, _)| key.view == View::Inside as u8 && key.destination == addr(S1A));
        if let Some((key, _)) = key
            && let Some(session) = world.tables.session(key)
        {
            ending::end(&world.tables, key, session);
        }
        None
    };
    assert_outcomes(world, [&end, &end], |world, _| {
        let port = PortKey::new(Endpoint::new(addr(PUBLIC), Port::new(5000)), UDP);
        assert_eq!(world.tables.port(&port).unwrap().references.count(), 1);
    });
}
