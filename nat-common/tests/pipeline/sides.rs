//! Policies by the sides of a flow: what the other network asks, what the host and others send to
//! guests, groups, exclusions, and what is left when policies are taken away.

use nat_common::{
    drop_reason::DropReason,
    pipeline::Verdict,
    tables::{
        interfaces::{Interface, InterfaceFlags, role},
        policies::{Policy, side, side_of},
    },
    wire::protocol::{TCP, UDP},
};

use super::policy::{accept, drop_by_default};
use crate::family::{
    Addr, C1, C3, HEADER, Ip, PUBLIC, S1A, S2, UNREACHABLE, World, ends, fragments, host,
};
use kit::{
    packets::{ACK, At, SYN, error, request, tcp, udp},
    world::{ELSEWHERE, Fate, Hook, LAN},
};

const LAN_SIDE: u16 = 1;
const DMZ_SIDE: u16 = 2;
const WAN_SIDE: u16 = side::UPLINKS | 1;
const POLICY: u32 = 11;
const GATEWAY: Ip = host([172, 22, 161, 254]);
const MANAGEMENT: Ip = host([192, 168, 7, 7]);
const GROUP: Ip = host([224, 0, 0, 251]);

fn accept_port(port: u16) -> Policy<Addr> {
    Policy {
        protocol: UDP,
        first_port: port,
        last_port: port,
        ..accept()
    }
}

/// Two closed networks.
fn world() -> World {
    let mut world = World::new();
    for network in [LAN_SIDE, DMZ_SIDE] {
        world.chain(network, side::ANY, &[drop_by_default()]);
        world.chain(side::ANY, network, &[drop_by_default()]);
    }
    world
}

#[test]
fn only_uplinks_and_networks_have_separate_sides() {
    let interface = |role| Interface {
        role,
        number: 3,
        ..Interface::default()
    };
    assert_eq!(side_of(Some(&interface(role::NETWORK))), 3);
    assert_eq!(side_of(Some(&interface(role::UPLINK))), side::UPLINKS + 3);
    for other in [Some(interface(role::PORT)), Some(interface(0)), None] {
        assert_eq!(side_of(other.as_ref()), side::ELSEWHERE);
    }
}

/// Whichever network has the number of an uplink.
#[test]
fn each_network_may_ask_the_other_and_gets_its_answers() {
    for (from, to, client, server) in [(LAN_SIDE, DMZ_SIDE, C1, C3), (DMZ_SIDE, LAN_SIDE, C3, C1)] {
        let mut world = world();
        world.chain(from, to, &[accept()]);
        let (client, server) = (At(client, 4000), At(server, 80));
        world.guest_sends(&udp(client, server).bytes()).guest();
        world.guest_sends(&udp(server, client).bytes()).guest();
        world.check();
    }
}

/// An established flow between networks is counted packet by packet, and followed.
#[test]
fn a_flow_between_networks_is_counted_and_lives_as_long_as_its_connection() {
    let mut world = world();
    world.chain(LAN_SIDE, DMZ_SIDE, &[accept()]);
    let (client, server) = (At(C1, 4000), At(C3, 80));
    world.guest_sends(&tcp(client, server, SYN).bytes()).guest();
    world
        .guest_sends(&tcp(server, client, SYN | ACK).bytes())
        .guest();
    for _ in 0..3 {
        world.guest_sends(&tcp(client, server, ACK).bytes()).guest();
    }
    let counted = world.counters(POLICY);
    assert_eq!((counted.packets_out, counted.packets_in), (4, 1));
    assert_eq!(world.wait(7439), 0);
    assert_eq!(world.wait(1), 1);
}

/// A chain ends where it ends: the entry behind it is another's.
#[test]
fn a_policy_of_another_chain_decides_nothing() {
    let mut world = world();
    world.chain(LAN_SIDE, DMZ_SIDE, &[accept_port(53)]);
    world.chain(DMZ_SIDE, WAN_SIDE, &[accept()]);
    let refused = world.guest_sends(&udp(At(C1, 4000), At(C3, 54)).bytes());
    assert_eq!(refused.reason(), DropReason::Policy);
    assert_eq!(world.counters(POLICY), Default::default());
}

#[test]
fn packets_from_outside_to_the_gateway_address_are_the_hosts() {
    let mut world = world();
    world.host_address(GATEWAY);
    let asked = udp(At(S1A, 4000), At(GATEWAY, 53)).bytes();
    let refused = world.outside_sends(&asked);
    assert_eq!(refused.reason(), DropReason::DirectToInside);
    // Where its network is not translated.
    world.without_snat(GATEWAY);
    assert_eq!(world.outside_sends(&asked).host(), asked);
    let refused = world.outside_sends(&udp(At(S1A, 4000), At(C1, 53)).bytes());
    assert_eq!(refused.reason(), DropReason::Policy);
}

/// Messages to a group, and errors about accepted flows, need no policy.
#[test]
fn groups_and_errors_from_elsewhere_pass_to_a_closed_network() {
    let mut world = world();
    world.chain(LAN_SIDE, side::ANY, &[accept_port(53), drop_by_default()]);
    let comes = |packet: &[u8]| world.run(Hook::ToGuest, packet, LAN, ELSEWHERE);
    let group = udp(At(MANAGEMENT, 5353), At(GROUP, 5353)).bytes();
    assert_eq!(comes(&group), Ok((Verdict::Untouched, group.clone())));
    let asked = udp(At(C1, 4000), At(MANAGEMENT, 53)).bytes();
    assert!(matches!(world.guest_sends(&asked), Fate::Elsewhere(_)));
    let about = error(MANAGEMENT, &asked, UNREACHABLE, HEADER + 8).bytes();
    assert_eq!(comes(&about), Ok((Verdict::Untouched, about.clone())));
    let other = udp(At(C1, 4000), At(MANAGEMENT, 54)).bytes();
    let about = error(MANAGEMENT, &other, UNREACHABLE, HEADER + 8).bytes();
    assert_eq!(comes(&about), Err(DropReason::Policy));
}

#[test]
fn a_full_table_refuses_others_but_not_the_host() {
    let mut world = world();
    world.chain(side::ANY, LAN_SIDE, &[accept()]);
    world.chain(side::HOST, LAN_SIDE, &[accept()]);
    world.tables.sessions.capacity = 0;
    let from = |source| udp(At(source, 4000), At(C1, 53)).bytes();
    let own = from(GATEWAY);
    assert_eq!(world.host_sends(&own).guest(), own);
    let refused = world.run(Hook::ToGuest, &from(MANAGEMENT), LAN, ELSEWHERE);
    assert_eq!(refused, Err(DropReason::TableFull));
}

/// An error about what the host itself has sent is the host's, right or not.
#[test]
fn an_error_of_a_guest_about_the_hosts_own_packet_is_left_as_it_is() {
    let mut world = world();
    world.chain(side::HOST, LAN_SIDE, &[accept()]);
    let own = udp(At(PUBLIC, 4000), At(C1, 53)).bytes();
    let received = world.host_sends(&own).guest();
    let mut damaged = error(C1, &received, UNREACHABLE, HEADER + 8).bytes();
    *damaged.last_mut().unwrap() ^= 1;
    assert_eq!(world.guest_sends(&damaged).host(), damaged);
}

/// Fragments to a group have their ports asked about, all of them; they open no session.
#[test]
fn fragments_to_a_group_pass_as_their_first_one_does() {
    let mut world = world();
    let answers = [accept_port(5353), drop_by_default()];
    world.chain(LAN_SIDE, side::HOST, &answers);
    for (port, passes) in [(5353, true), (5354, false)] {
        let whole = udp(At(C1, 5353), At(GROUP, port)).payload(&[7; 600]);
        for part in fragments(&whole.id(port).bytes(), 256) {
            let outcome = world.run(Hook::FromGuest, &part, LAN, LAN);
            match passes {
                true => assert_eq!(outcome, Ok((Verdict::Untouched, part))),
                false => assert_eq!(outcome, Err(DropReason::Policy)),
            }
        }
    }
    assert_eq!(world.entries()[0], 0);
    // Without its first one a fragment says nothing: the host makes nothing of it, guests do not
    // get it.
    let late = |from, to| {
        let whole = udp(At(from, 1), At(to, 9)).payload(&[7; 600]).id(99);
        fragments(&whole.bytes(), 256)[1].clone()
    };
    let part = late(C1, GROUP);
    let outcome = world.run(Hook::FromGuest, &part, LAN, LAN);
    assert_eq!(outcome, Ok((Verdict::Untouched, part)));
    let outcome = world.run(Hook::ToGuest, &late(MANAGEMENT, C1), LAN, ELSEWHERE);
    assert_eq!(outcome, Err(DropReason::FragmentUnknown));
}

/// A direct fragment between guests waits for its first one only where policies ask for its ports,
/// and one to a group never.
#[test]
fn fragments_wait_for_the_first_one_if_policies_need_ports() {
    let late = |to| {
        let whole = udp(At(C1, 1), At(to, 9)).payload(&[7; 600]);
        fragments(&whole.bytes(), 256)[1].clone()
    };
    for destination in [C3, GROUP] {
        let open = World::new();
        let outcome = open.run(Hook::FromGuest, &late(destination), LAN, LAN);
        assert_eq!(outcome, Ok((Verdict::Untouched, late(destination))));
    }
    let world = world();
    let (verdict, _) = world.run(Hook::FromGuest, &late(C3), LAN, LAN).unwrap();
    assert_eq!(verdict, Verdict::Queued);
}

/// A destination that is excluded from translation is routed: answers come to the guest's own
/// address.
#[test]
fn an_excluded_destination_answers_the_guest_itself() {
    let mut world = world();
    world.exclude(S2, 24);
    world.chain(LAN_SIDE, WAN_SIDE, &[accept()]);
    let (client, server) = (At(C1, 4000), At(S2, 53));
    let asked = udp(client, server).bytes();
    assert_eq!(world.guest_sends(&asked).uplink(), asked);
    let back = udp(server, client).bytes();
    assert_eq!(world.outside_sends(&back).guest(), back);
    // Others are translated, and have one session for that.
    let entries = world.entries()[0];
    let out = world.guest_sends(&udp(client, At(S1A, 53)).bytes());
    assert_eq!(ends(&out.uplink()).0.0, PUBLIC);
    assert_eq!(world.entries()[0], entries + 2);
    world.check();
}

/// A hairpinned packet is counted once, under policies too.
#[test]
fn a_hairpinned_packet_between_closed_networks_is_counted_once() {
    let mut world = world();
    world.forward(TCP, 80..=80, At(C3, 80));
    let (client, public) = (At(C1, 4000), At(PUBLIC, 80));
    let opens = request(TCP, client, public).bytes();
    let shown = ends(&world.guest_sends(&opens).guest()).0;
    let back = tcp(At(C3, 80), shown, SYN | ACK).bytes();
    world.guest_sends(&back).guest();
    for _ in 0..3 {
        let segment = tcp(client, public, ACK).bytes();
        world.guest_sends(&segment).guest();
    }
    let counted = world.counters(kit::world::FORWARD_RULE);
    assert_eq!((counted.packets_in, counted.packets_out), (4, 1));
}

/// After policies are removed, their records are ignored: packets pass, uncounted.
#[test]
fn records_of_removed_policies_are_ignored() {
    let mut world = world();
    world.without_snat(C1);
    world.chain(LAN_SIDE, DMZ_SIDE, &[accept()]);
    world.chain(side::HOST, LAN_SIDE, &[accept()]);
    let asked = udp(At(C1, 4000), At(C3, 80)).bytes();
    let own = udp(At(GATEWAY, 4000), At(C1, 80)).bytes();
    world.guest_sends(&asked).guest();
    world.host_sends(&own).guest();
    let counted = world.counters(POLICY);
    for interface in world.tables.interfaces.values_mut() {
        interface.flags &= !InterfaceFlags::POLICED;
    }
    world.guest_sends(&asked).guest();
    world.host_sends(&own).guest();
    let transit = udp(At(S1A, 4000), At(C1, 80)).bytes();
    assert_eq!(world.outside_sends(&transit).guest(), transit);
    assert_eq!(world.counters(POLICY), counted);
}
