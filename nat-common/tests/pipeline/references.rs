//! References of sessions to ports and permits: claims after a change of the rules, ends of half
//! sessions, timeouts.

use nat_common::{
    drop_reason::DropReason,
    session::ending,
    tables::{
        forwards::{FORWARD_FIXED_BITS, Forward, ForwardFlags, ForwardKey},
        guests::GuestKey,
        sessions::{SessionFlags, Sessions, View},
        snats::{filtering, mapping},
    },
    wire::{
        address::Port,
        protocol::{TCP, UDP},
    },
};

use crate::family::{ADDRESS_BITS, C1, C2, C3, Ip, POOL, PUBLIC, S1A, S2, World, addr, ends, host};
use kit::{
    packets::{ACK, At, GRE, RST, SYN, ping, raw, request, tcp, udp},
    world::{Hook, LAN, MAPPINGS, UPLINK},
};

const GUEST: At<Ip> = At(C1, 5000);
const REMOTE: At<Ip> = At(S1A, 7000);
const EXTERNAL: At<Ip> = At(PUBLIC, 5000);

#[test]
fn u3_permits_are_held_where_the_filter_asks_for_them_and_nowhere_else() {
    let modes = [
        (
            filtering::ENDPOINT_INDEPENDENT,
            mapping::ENDPOINT_INDEPENDENT,
            0,
        ),
        (
            filtering::ADDRESS_DEPENDENT,
            mapping::ENDPOINT_INDEPENDENT,
            1,
        ),
        (
            filtering::ADDRESS_AND_PORT_DEPENDENT,
            mapping::ENDPOINT_INDEPENDENT,
            0,
        ),
        (
            filtering::ADDRESS_DEPENDENT,
            mapping::ADDRESS_AND_PORT_DEPENDENT,
            0,
        ),
    ];
    for (filtering, mapping, permits) in modes {
        let mut world = World::new();
        world.snat(|snat| (snat.filtering, snat.mapping) = (filtering, mapping));
        world.guest_sends(&udp(GUEST, REMOTE).bytes()).uplink();
        assert_eq!(world.entries()[3], permits, "{filtering} {mapping}");
        world.check();
    }
}

/// A session that a remote has opened holds its own permit: what the guest once sent may end.
#[test]
fn u3_a_remote_that_came_in_keeps_its_address_permitted() {
    let mut world = World::new();
    world.guest_sends(&udp(GUEST, At(S1A, 1)).bytes()).uplink();
    world.advance(200);
    world
        .outside_sends(&udp(At(S1A, 2), EXTERNAL).bytes())
        .guest();
    world.guest_sends(&udp(GUEST, At(S1A, 2)).bytes()).uplink();
    assert_eq!(world.wait(100), 1, "what the guest has opened");
    let third = world.outside_sends(&udp(At(S1A, 3), EXTERNAL).bytes());
    assert_eq!(ends(&third.guest()).1, GUEST);
    world.check();
    let mut world = World::new();
    world.snat(|snat| snat.filtering = filtering::ENDPOINT_INDEPENDENT);
    world.guest_sends(&udp(GUEST, At(S1A, 1)).bytes()).uplink();
    world
        .outside_sends(&udp(At(S1A, 2), EXTERNAL).bytes())
        .guest();
    assert_eq!(world.entries()[3], 0);
}

/// Once the guest has answered, a remote that keeps sending keeps the session, however often both
/// send.
#[test]
fn u8_a_remote_that_was_answered_keeps_the_session() {
    for answers in [1, 2] {
        let mut world = World::new();
        world.snat(|snat| snat.filtering = filtering::ENDPOINT_INDEPENDENT);
        world.guest_sends(&udp(GUEST, REMOTE).bytes()).uplink();
        let stranger = At(S2, 1);
        world
            .outside_sends(&udp(stranger, EXTERNAL).bytes())
            .guest();
        for _ in 0..answers {
            world.guest_sends(&udp(GUEST, stranger).bytes()).uplink();
        }
        let mut ended = 0;
        for _ in 0..4 {
            ended += world.wait(200);
            world
                .outside_sends(&udp(stranger, EXTERNAL).bytes())
                .guest();
        }
        assert_eq!(ended, 1, "the guest's own, after {answers} answers");
    }
}

/// A port of one guest is not shared, whatever the rule says now, and a shared port goes to no
/// single guest.
#[test]
fn u4_a_port_keeps_its_kind_when_the_rule_changes() {
    let kinds = [
        mapping::ENDPOINT_INDEPENDENT,
        mapping::ADDRESS_AND_PORT_DEPENDENT,
    ];
    for (before, after) in [(kinds[0], kinds[1]), (kinds[1], kinds[0])] {
        let mut world = World::with_mapping(before);
        world.guest_sends(&udp(GUEST, REMOTE).bytes()).uplink();
        world.snat(|snat| snat.mapping = after);
        let out = world.guest_sends(&udp(At(C2, 5000), At(S2, 1)).bytes());
        assert_ne!(ends(&out.uplink()).0, EXTERNAL);
        world.check();
        world.wait(10_000);
        assert_eq!(world.entries(), [0; 4]);
    }
}

/// A forward that names a port owns it, also before the first packet.
#[test]
fn m2_a_guest_does_not_get_a_port_that_is_forwarded_to_another() {
    for protocol in [UDP, TCP] {
        for mode in MAPPINGS {
            let mut world = World::with_mapping(mode);
            world.forward(protocol, 5000..=5000, At(C2, 80));
            let out = world.guest_sends(&request(protocol, GUEST, REMOTE).bytes());
            assert_ne!(ends(&out.uplink()).0, EXTERNAL);
        }
    }
}

/// The port that a guest is shown for a remote whose own one is taken is a high one by chance.
#[test]
fn m2_a_remotes_other_port_is_in_the_upper_half() {
    for chance in [5, 0x8005, 0x1234_8005] {
        let mut world = World::new();
        world.forward_to_one(UDP, 6000..=6001, GUEST);
        world.outside_sends(&udp(REMOTE, At(PUBLIC, 6000)).bytes());
        world.tables.foretold.set(Some(chance));
        let asked = world.outside_sends(&udp(REMOTE, At(PUBLIC, 6001)).bytes());
        assert_eq!(ends(&asked.guest()).0, At(S1A, 0x8005), "{chance:#x}");
    }
}

/// Without ports two flows of one guest with one remote cannot be told apart: the second is
/// refused.
#[test]
fn p4_a_remote_to_which_the_guest_talks_by_another_address_is_refused() {
    let mut world = World::new();
    world.external(POOL[0], false);
    world.snat(|snat| (snat.first, snat.last) = (addr(POOL[0]), addr(POOL[0])));
    world.forward_all(C1);
    let out = world.guest_sends(&raw(GRE, C1, S1A).bytes());
    assert_eq!(ends(&out.uplink()).0.0, POOL[0]);
    let asked = world.outside_sends(&raw(GRE, S1A, PUBLIC).bytes());
    assert_eq!(asked.reason(), DropReason::RemoteInUse);
    world.check();
}

/// A shared port has no owner to whom a stranger could be sent, whatever the filter.
#[test]
fn u3_a_shared_port_without_filter_admits_no_stranger() {
    let mut world = World::new();
    world.snat(|snat| {
        snat.mapping = mapping::ADDRESS_AND_PORT_DEPENDENT;
        snat.filtering = filtering::ENDPOINT_INDEPENDENT;
    });
    world.guest_sends(&udp(GUEST, REMOTE).bytes()).uplink();
    let stranger = world.outside_sends(&udp(At(S2, 1), EXTERNAL).bytes());
    assert_eq!(stranger.reason(), DropReason::Filtered);
    world.check();
}

/// A forward that is not for guests leaves them what they would get without it: the host.
#[test]
fn u5_a_forward_without_hairpin_is_not_for_guests() {
    let mut world = World::new();
    let key = ForwardKey {
        generation: 1,
        protocol: UDP,
        reserved: 0,
        address: addr(PUBLIC),
        port: Port::new(10_000),
        padding: [0; 2],
    };
    let forward = Forward {
        to: addr(C2),
        rule: 2,
        network: 1,
        first_external: 10_000,
        first_internal: 80,
        flags: ForwardFlags::ACCEPTED,
        reserved: 0,
    };
    let forwards = &mut world.tables.forwards;
    forwards.insert(FORWARD_FIXED_BITS + ADDRESS_BITS - 32 + 16, &key, forward);
    let asked = udp(GUEST, At(PUBLIC, 10_000)).bytes();
    assert_eq!(world.guest_sends(&asked).host(), asked);
    let asked = world.outside_sends(&udp(REMOTE, At(PUBLIC, 10_000)).bytes());
    assert_eq!(ends(&asked.guest()).1, At(C2, 80));
}

/// A guest that no rule hides, or that has no address to hide behind, hides behind the one it asks.
#[test]
fn t10_a_guest_without_an_address_hides_behind_the_one_that_it_asks() {
    for has_rule in [false, true] {
        let mut world = World::new();
        world.external(POOL[0], false);
        world.forward(UDP, 10_000..=10_000, At(C2, 80));
        let first = addr(if has_rule { host([0; 4]) } else { POOL[0] });
        world.snat(|snat| (snat.first, snat.last) = (first, first));
        if !has_rule {
            world.without_snat(C1);
        }
        let asked = world.guest_sends(&udp(GUEST, At(PUBLIC, 10_000)).bytes());
        assert_eq!(ends(&asked.guest()).0.0, PUBLIC);
        world.check();
    }
}

/// Without anti_spoof, a guest may send from any address that it routes.
#[test]
fn s3_without_anti_spoof_any_source_passes() {
    let world = World::new();
    for source in [host([192, 168, 9, 9]), C3] {
        let packet = udp(At(source, 5000), REMOTE).bytes();
        let (_, after) = world.run(Hook::FromGuest, &packet, LAN, LAN).unwrap();
        assert_eq!(after, packet);
    }
}

/// A session without its other entry still ends.
#[test]
fn x1_half_a_session_ends_when_it_is_idle() {
    let mut world = World::new();
    world.guest_sends(&udp(GUEST, REMOTE).bytes()).uplink();
    let sessions = world.tables.sessions.entries();
    let answer = sessions
        .iter()
        .find(|(_, session)| !session.has(SessionFlags::PRIMARY));
    let key = answer.unwrap().0;
    Sessions::remove_session(&world.tables, &key);
    assert_eq!(world.wait(299), 0);
    assert_eq!(world.wait(1), 1);
    assert_eq!(world.entries(), [0; 4]);
}

#[test]
fn u8_each_protocol_has_its_idle_time() {
    for (packet, idle_s) in [
        (udp(GUEST, REMOTE).bytes(), 300),
        (tcp(GUEST, REMOTE, SYN).bytes(), 240),
        (ping(GUEST, S1A).bytes(), 60),
        (raw(GRE, C1, S1A).bytes(), 600),
    ] {
        let mut world = World::new();
        world.guest_sends(&packet).uplink();
        assert_eq!(world.wait(idle_s - 1), 0, "{idle_s}");
        assert_eq!(world.wait(1), 1, "{idle_s}");
    }
    // Clocks hold whole seconds: the last one has not passed yet.
    assert_eq!([0, 1, 1000].map(ending::judged_s), [0, 0, 999]);
}

/// A guest's session counts as its own, whether it or the other side has opened it, also where
/// nothing is translated.
#[test]
fn x3_sessions_without_translation_are_the_guests() {
    use nat_common::session::open_plain::{Plain, open_plain};
    for (view, network, answer_view, answer_network) in [
        (View::Inside, 1, View::Outside, 0),
        (View::Outside, 0, View::Inside, 1),
    ] {
        let world = World::new();
        let (from, to) = match view {
            View::Inside => (GUEST, REMOTE),
            _ => (REMOTE, GUEST),
        };
        let mut bytes = udp(from, to).bytes();
        let mut work = nat_common::work::Work::new();
        let packet = nat_common::wire::packet::SlicePacket::new(&mut bytes, UPLINK);
        nat_common::headers::parsed::parse(&packet, kit::packets::ETHERNET, &mut work.parsed)
            .unwrap();
        let plain = Plain {
            view,
            network,
            answer_view,
            answer_network,
            rule: 11,
        };
        open_plain(&world.tables, &mut work, &plain).unwrap();
        let guests = world.tables.guests.entries();
        let mut counted: Vec<_> = guests.iter().map(|(key, _)| *key).collect();
        counted.retain(|key| *key != GuestKey::outside());
        assert_eq!(counted, [GuestKey::new(addr(C1), 1)]);
        let is_from_outside = view == View::Outside;
        assert_eq!(guests.len(), 1 + usize::from(is_from_outside));
        for (key, session) in world.tables.sessions.entries() {
            let is_guests = key.source == addr(C1);
            assert_eq!(session.has(SessionFlags::PRIMARY), is_guests);
            assert_eq!(session.has(SessionFlags::IN), !is_guests);
            let is_first = key.source == addr(from.0);
            assert_eq!(session.has(SessionFlags::FROM_INITIATOR), is_first);
        }
        world.check();
    }
}

/// Whom a reset does not end answers it with a bare acknowledgement (RFC 5961 section 3.2).
#[test]
fn t5_a_segment_without_data_after_a_reset_revives_the_session() {
    let mut world = World::new();
    world.guest_sends(&tcp(GUEST, REMOTE, SYN).bytes()).uplink();
    let back = |flags| tcp(REMOTE, EXTERNAL, flags).bytes();
    world.outside_sends(&back(SYN | ACK)).guest();
    world.guest_sends(&tcp(GUEST, REMOTE, ACK).bytes()).uplink();
    world.outside_sends(&back(RST | ACK)).guest();
    let mut padded = tcp(GUEST, REMOTE, ACK).bytes();
    padded.extend([0; 6]);
    world.guest_sends(&padded).uplink();
    assert_eq!(world.wait(7439), 0);
    assert_eq!(world.wait(1), 1);
}
