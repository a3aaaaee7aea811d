//! Policies: who may open flows to whom, and what answers them.

use nat_common::{
    drop_reason::DropReason,
    tables::policies::{DEFAULTS, Policy, action, side},
    wire::protocol::{TCP, UDP},
};

use crate::family::{
    Addr, C1, C2, C3, HEADER, ICMP, Ip, POOL, PUBLIC, S1A, S2, TIME_EXCEEDED, UNREACHABLE, World,
    addr, ends, fragments, host, mask,
};
use kit::{
    packets::{ACK, At, SYN, answer, error, ping, pong, raw, request, tcp, udp},
    world::{ELSEWHERE, FORWARD_RULE, Fate, Hook, LAN, SNAT_RULE},
};

/// The first network, in which C1 and C2 are; C3 is in the other one.
const LAN_SIDE: u16 = 1;
const DMZ_SIDE: u16 = 2;
const WAN_SIDE: u16 = side::UPLINKS | 1;

const POLICY: u32 = 11;
const OTHER: u32 = 12;
const DEFAULT: u32 = 13;

/// The gateway of the first network.
const GATEWAY: Ip = host([172, 22, 161, 254]);
/// Behind an interface that is neither uplink nor network.
const MANAGEMENT: Ip = host([192, 168, 7, 7]);

/// What all that policies match: any address and port of any protocol.
pub(crate) fn any(action: u8, rule: u32, order: u32) -> Policy<Addr> {
    Policy {
        source: addr(host([0; 4])),
        source_mask: addr(host([0; 4])),
        destination: addr(host([0; 4])),
        destination_mask: addr(host([0; 4])),
        first_port: 0,
        last_port: u16::MAX,
        protocol: 0,
        action,
        reserved: 0,
        rule,
        order,
    }
}

pub(super) fn accept() -> Policy<Addr> {
    any(action::ACCEPT, POLICY, 1)
}

fn accept_port(protocol: u8, port: u16) -> Policy<Addr> {
    Policy {
        protocol,
        first_port: port,
        last_port: port,
        ..accept()
    }
}

fn to(guest: Ip, policy: Policy<Addr>) -> Policy<Addr> {
    Policy {
        destination: addr(guest),
        destination_mask: mask(32),
        ..policy
    }
}

pub(super) fn drop_by_default() -> Policy<Addr> {
    any(action::DROP, DEFAULT, DEFAULTS)
}

/// What a network's `policy = "drop"` is compiled to.
fn closed(world: &mut World, network: u16) {
    world.chain(network, side::ANY, &[drop_by_default()]);
    world.chain(side::ANY, network, &[drop_by_default()]);
}

/// Two closed networks.
fn world() -> World {
    let mut world = World::new();
    closed(&mut world, LAN_SIDE);
    closed(&mut world, DMZ_SIDE);
    world
}

const PROTOCOLS: [u8; 4] = [TCP, UDP, ICMP, 47];

fn end(address: Ip, port: u16, protocol: u8) -> At<Ip> {
    At(address, if protocol == 47 { 0 } else { port })
}

/// A request of a protocol, as it is first sent.
fn ask(protocol: u8, from: Ip, to: Ip) -> Vec<u8> {
    let at = |address, port| end(address, port, protocol);
    let to = match protocol {
        ICMP => At(to, 0),
        _ => at(to, 80),
    };
    match protocol {
        TCP => tcp(at(from, 4000), to, SYN).bytes(),
        _ => request(protocol, at(from, 4000), to).bytes(),
    }
}

#[test]
fn flows_without_an_accepting_policy_are_dropped_and_counted() {
    for protocol in PROTOCOLS {
        let world = world();
        for (from, destination) in [(C1, S1A), (C1, C3), (C3, C1), (C1, MANAGEMENT)] {
            let fate = world.guest_sends(&ask(protocol, from, destination));
            assert_eq!(fate.reason(), DropReason::Policy, "{protocol}");
        }
        let counted = world.counters(DEFAULT);
        assert_eq!(counted.packets_out, 4);
        assert_eq!(world.entries()[0], 0);
    }
}

#[test]
fn a_translated_accepted_flow_is_judged_once() {
    let mut world = world();
    world.chain(LAN_SIDE, WAN_SIDE, &[accept_port(UDP, 3478)]);
    let question = udp(At(C1, 4000), At(S1A, 3478)).bytes();
    let seen = ends(&world.guest_sends(&question).uplink());
    assert_eq!(seen.0.0, PUBLIC);
    let reply = udp(At(S1A, 3478), seen.0).bytes();
    assert_eq!(ends(&world.outside_sends(&reply).guest()).1, At(C1, 4000));
    for _ in 0..5 {
        world.guest_sends(&question).uplink();
    }
    // Packets count under the rule that translates them.
    let counted = world.counters(POLICY);
    assert_eq!((counted.packets_out, counted.opened), (1, 1));
    assert_eq!(world.counters(SNAT_RULE).packets_out, 6);
    let other = world.guest_sends(&udp(At(C1, 4000), At(S1A, 3479)).bytes());
    assert_eq!(other.reason(), DropReason::Policy);
    // The mapping is open to the remote by the rule's filter, but not by the policies.
    let other = world.outside_sends(&udp(At(S1A, 3479), seen.0).bytes());
    assert_eq!(other.reason(), DropReason::Policy);
    world.check();
}

/// An address of a guest's own says nothing about who may use it.
#[test]
fn a_closed_networks_guest_with_its_own_address_receives_only_accepted_flows() {
    for protocol in PROTOCOLS {
        let mut world = world();
        world.one_to_one(POOL[0], C3);
        let from_outside = world.outside_sends(&ask(protocol, S1A, POOL[0]));
        assert_eq!(from_outside.reason(), DropReason::Policy, "{protocol}");
        // The other network is open: its guests may ask whom they like, who may refuse.
        world.chain(LAN_SIDE, side::ANY, &[]);
        let from_guest = world.guest_sends(&ask(protocol, C1, POOL[0]));
        assert_eq!(from_guest.reason(), DropReason::Policy, "{protocol}");
        assert_eq!(world.entries(), [0; 4]);
        world.chain(LAN_SIDE, DMZ_SIDE, &[accept()]);
        let asked = world.guest_sends(&ask(protocol, C1, POOL[0])).guest();
        assert_eq!(ends(&asked).1.0, C3);
        world.check();
    }
}

#[test]
fn a_guest_that_is_routed_keeps_its_address_and_gets_its_answers() {
    for protocol in PROTOCOLS {
        let mut world = world();
        world.without_snat(C1);
        world.chain(LAN_SIDE, WAN_SIDE, &[accept()]);
        let asked = ask(protocol, C1, S1A);
        assert_eq!(world.guest_sends(&asked).uplink(), asked);
        let (guest, remote) = ends(&asked);
        let back = answer(protocol, remote, guest).bytes();
        assert_eq!(world.outside_sends(&back).guest(), back, "{protocol}");
        let counted = world.counters(POLICY);
        assert_eq!((counted.opened, counted.closed), (1, 0));
        assert!(
            counted.packets_in == 1 && counted.packets_out >= 1,
            "{counted:?}"
        );
        let unasked = world.outside_sends(&ask(protocol, S2, C1));
        assert_eq!(unasked.reason(), DropReason::Policy);
        world.check();
        world.end_all();
        assert_eq!(world.entries(), [0; 4]);
        world.check();
    }
}

#[test]
fn a_routed_guest_receives_accepted_flows() {
    let mut world = world();
    world.without_snat(C1);
    world.chain(WAN_SIDE, LAN_SIDE, &[to(C1, accept_port(TCP, 443))]);
    let opens = tcp(At(S1A, 4000), At(C1, 443), SYN).bytes();
    assert_eq!(world.outside_sends(&opens).guest(), opens);
    let back = tcp(At(C1, 443), At(S1A, 4000), SYN | ACK).bytes();
    assert_eq!(world.guest_sends(&back).uplink(), back);
    for refused in [
        tcp(At(S1A, 4000), At(C1, 22), SYN).bytes(),
        tcp(At(S1A, 4000), At(C2, 443), SYN).bytes(),
        udp(At(S1A, 4000), At(C1, 443)).bytes(),
    ] {
        let fate = world.outside_sends(&refused);
        assert_eq!(fate.reason(), DropReason::Policy);
    }
    // An answer to the guest's own query has no other receiver.
    let own = world.guest_sends(&tcp(At(C1, 443), At(S2, 4000), SYN).bytes());
    assert_eq!(own.reason(), DropReason::Policy);
    world.check();
}

#[test]
fn one_network_may_ask_another_and_not_the_other_way() {
    for protocol in PROTOCOLS {
        let mut world = world();
        world.chain(LAN_SIDE, DMZ_SIDE, &[accept()]);
        let asked = ask(protocol, C1, C3);
        assert_eq!(world.guest_sends(&asked).guest(), asked);
        let (guest, server) = ends(&asked);
        let back = answer(protocol, server, guest).bytes();
        assert_eq!(world.guest_sends(&back).guest(), back);
        let unasked = world.guest_sends(&ask(protocol, C3, C2));
        assert_eq!(unasked.reason(), DropReason::Policy);
        assert_eq!(world.counters(POLICY).opened, 1);
        world.check();
        world.end_all();
        assert_eq!(world.entries(), [0; 4]);
    }
}

#[test]
fn the_first_policy_of_all_chains_decides() {
    let mut world = world();
    // Written in the order of their numbers, each in another chain.
    let rules = [
        (LAN_SIDE, side::ANY, any(action::DROP, POLICY, 4)),
        (side::ANY, WAN_SIDE, any(action::ACCEPT, OTHER, 3)),
    ];
    for (from, to, policy) in rules {
        world.chain(from, to, &[policy]);
    }
    world.guest_sends(&ask(TCP, C1, S1A)).uplink();
    assert_eq!(world.counters(OTHER).opened, 1);
    world.chain(LAN_SIDE, WAN_SIDE, &[to(S2, any(action::DROP, POLICY, 2))]);
    let fate = world.guest_sends(&ask(TCP, C1, S2));
    assert_eq!(fate.reason(), DropReason::Policy);
    world.chain(side::ANY, side::ANY, &[any(action::ACCEPT, OTHER, 1)]);
    world.guest_sends(&ask(UDP, C1, S2)).uplink();
}

#[test]
fn forwards_are_accepted_unless_a_policy_drops_them() {
    let mut world = world();
    world.forward(TCP, 80..=80, At(C3, 8080));
    let opens = |from| tcp(At(from, 4000), At(PUBLIC, 80), SYN).bytes();
    let seen = world.outside_sends(&opens(S1A)).guest();
    assert_eq!(ends(&seen).1, At(C3, 8080));
    // By the external address too, from another network and from the very guest.
    for guest in [C1, C3] {
        assert_eq!(
            ends(&world.guest_sends(&opens(guest)).guest()).1,
            At(C3, 8080)
        );
    }
    // A policy is about the port as the guest has it.
    let refused = Policy {
        action: action::DROP,
        ..to(C3, accept_port(TCP, 8080))
    };
    world.chain(side::ANY, DMZ_SIDE, &[refused, drop_by_default()]);
    let fate = world.outside_sends(&opens(S2));
    assert_eq!(fate.reason(), DropReason::Policy);
    let fate = world.guest_sends(&opens(C2));
    assert_eq!(fate.reason(), DropReason::Policy);
    assert_eq!(world.counters(POLICY).packets_in, 1);
    // Open flows continue.
    let more = tcp(At(S1A, 4000), At(PUBLIC, 80), ACK).bytes();
    world.outside_sends(&more).guest();
    world.check();
}

#[test]
fn an_address_of_a_guests_own_is_not_accepted_by_itself() {
    let mut world = World::new();
    world.one_to_one(host([19, 19, 8, 12]), C1);
    closed(&mut world, LAN_SIDE);
    let asked = udp(At(S1A, 4000), At(host([19, 19, 8, 12]), 53)).bytes();
    assert_eq!(world.outside_sends(&asked).reason(), DropReason::Policy);
    world.chain(WAN_SIDE, LAN_SIDE, &[accept_port(UDP, 53)]);
    assert_eq!(ends(&world.outside_sends(&asked).guest()).1, At(C1, 53));
}

/// A network whose guests may ask the host for DHCP and names.
fn serving() -> World {
    let mut world = World::new();
    world.host_address(GATEWAY);
    let services = [accept_port(UDP, 67), accept_port(UDP, 53)];
    let dropped = any(action::DROP, DEFAULT, DEFAULTS);
    world.chain(LAN_SIDE, side::HOST, &[services[0], services[1], dropped]);
    let tracked = any(action::ACCEPT, DEFAULT, u32::MAX - 1);
    world.chain(side::HOST, LAN_SIDE, &[tracked]);
    world
}

#[test]
fn guests_reach_accepted_services_of_the_host() {
    let world = serving();
    let question = udp(At(C1, 4000), At(GATEWAY, 53)).bytes();
    world.guest_sends(&question).host();
    let reply = udp(At(GATEWAY, 53), At(C1, 4000)).bytes();
    assert_eq!(world.host_sends(&reply).guest(), reply);
    for refused in [
        tcp(At(C1, 4000), At(GATEWAY, 22), SYN).bytes(),
        tcp(At(C1, 4000), At(PUBLIC, 22), SYN).bytes(),
        ping(At(C1, 7), GATEWAY).bytes(),
        raw(2, C1, host([224, 0, 0, 1])).bytes(),
    ] {
        let fate = world.guest_sends(&refused);
        assert_eq!(fate.reason(), DropReason::Policy);
    }
    // Nothing of that is about the rest of the world.
    world
        .guest_sends(&tcp(At(C1, 4000), At(S1A, 22), SYN).bytes())
        .uplink();
    world.check();
}

#[test]
fn a_guest_without_an_address_asks_for_one() {
    let world = serving();
    let asks = udp(At(host([0; 4]), 68), At(host([255; 4]), 67)).bytes();
    world.network_sends(LAN, &asks);
    assert!(world.tables.drops.borrow().is_empty());
    let fate = world.network_sends(
        LAN,
        &udp(At(host([0; 4]), 68), At(host([255; 4]), 69)).bytes(),
    );
    assert_eq!(fate.reason(), DropReason::Policy);
    assert_eq!(world.entries()[0], 0);
}

#[test]
fn the_host_may_ask_guests_and_gets_answers() {
    for protocol in PROTOCOLS {
        let world = serving();
        let asked = ask(protocol, GATEWAY, C1);
        assert_eq!(world.host_sends(&asked).guest(), asked);
        let (host, guest) = ends(&asked);
        world
            .guest_sends(&answer(protocol, guest, host).bytes())
            .host();
        world.check();
        world.end_all();
        assert_eq!(world.entries(), [0; 4]);
        let late = match protocol {
            ICMP => pong(C1, host).bytes(),
            _ => answer(protocol, guest, host).bytes(),
        };
        assert_eq!(world.guest_sends(&late).reason(), DropReason::Policy);
    }
}

#[test]
fn packets_from_other_interfaces_are_judged_at_the_guests_network() {
    let mut world = world();
    let asked = ask(TCP, MANAGEMENT, C1);
    let comes = |world: &World| world.run(Hook::ToGuest, &asked, LAN, ELSEWHERE);
    assert_eq!(comes(&world), Err(DropReason::Policy));
    let from = Policy {
        source: addr(host([192, 168, 0, 0])),
        source_mask: mask(16),
        ..accept()
    };
    world.chain(side::ANY, LAN_SIDE, &[from, drop_by_default()]);
    assert!(comes(&world).is_ok());
    let (remote, guest) = ends(&asked);
    let back = answer(TCP, guest, remote).bytes();
    assert!(matches!(world.guest_sends(&back), Fate::Elsewhere(_)));
    world.check();
}

#[test]
fn errors_about_accepted_flows_pass() {
    let mut world = world();
    world.without_snat(C1);
    world.chain(LAN_SIDE, WAN_SIDE, &[accept_port(UDP, 53)]);
    world.chain(LAN_SIDE, DMZ_SIDE, &[accept_port(UDP, 53)]);
    for (server, router) in [(S1A, host([203, 0, 113, 9])), (C3, C3)] {
        let asked = udp(At(C1, 4000), At(server, 53)).bytes();
        world.guest_sends(&asked);
        let other = udp(At(C1, 4000), At(server, 54)).bytes();
        let arrive = |about: &[u8]| {
            let said = error(router, about, UNREACHABLE, HEADER + 8).bytes();
            match server {
                C3 => world.guest_sends(&said),
                _ => world.outside_sends(&said),
            }
        };
        arrive(&asked).guest();
        assert_eq!(arrive(&other).reason(), DropReason::Policy);
        // And from the guest about what has come to it.
        let reply = udp(At(server, 53), At(C1, 4000)).bytes();
        let said = error(C1, &reply, UNREACHABLE, HEADER + 8).bytes();
        match world.guest_sends(&said) {
            Fate::Uplink(_) | Fate::Network(..) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// A router on the way to a guest that is not translated is shown, unless a rule hides it.
#[test]
fn errors_about_untranslated_packets_keep_their_source_unless_it_is_hidden() {
    for is_hidden in [false, true] {
        let mut world = world();
        world.without_snat(C1);
        if !is_hidden {
            world.without_snat(C2);
        }
        world.chain(LAN_SIDE, WAN_SIDE, &[accept_port(UDP, 53)]);
        world
            .guest_sends(&udp(At(C1, 4000), At(S1A, 53)).bytes())
            .uplink();
        let reply = udp(At(S1A, 53), At(C1, 4000)).bytes();
        let said = error(C2, &reply, TIME_EXCEEDED, HEADER + 8).bytes();
        let seen = world.guest_sends(&said).uplink();
        assert_eq!(ends(&seen).0.0, if is_hidden { C1 } else { C2 });
    }
}

#[test]
fn fragments_follow_their_first_one_in_any_order() {
    let mut world = world();
    world.chain(LAN_SIDE, DMZ_SIDE, &[accept_port(UDP, 53)]);
    for (port, passes) in [(53, true), (54, false)] {
        let whole = udp(At(C1, 4000), At(C3, port))
            .payload(&[7; 600])
            .id(port)
            .bytes();
        let mut parts = fragments(&whole, 256);
        parts.reverse();
        let fates = parts
            .iter()
            .flat_map(|part| world.fragment(Hook::FromGuest, part));
        let fates: Vec<Fate> = fates.collect();
        let arrived = fates
            .iter()
            .filter(|fate| matches!(fate, Fate::Network(..)));
        assert_eq!(
            arrived.count(),
            if passes { parts.len() } else { 0 },
            "{fates:?}"
        );
    }
}

/// The ports that the first fragment said are asked about, at the host as at guests; without them
/// the host alone may have what comes.
#[test]
fn later_fragments_are_refused_as_their_first_one_is() {
    let mut world = world();
    world.host_address(GATEWAY);
    world.chain(
        LAN_SIDE,
        side::HOST,
        &[accept_port(UDP, 53), drop_by_default()],
    );
    for destination in [GATEWAY, C3] {
        let whole = udp(At(C1, 4000), At(destination, 54)).payload(&[7; 600]);
        for part in fragments(&whole.bytes(), 256) {
            let fates = world.fragment(Hook::FromGuest, &part);
            assert_eq!(fates, [Fate::Dropped(DropReason::Policy)]);
        }
    }
    let whole = udp(At(C1, 4000), At(GATEWAY, 53)).payload(&[7; 600]).id(9);
    for part in fragments(&whole.bytes(), 256) {
        let fates = world.fragment(Hook::FromGuest, &part);
        assert!(matches!(fates[..], [Fate::Host(_)]), "{fates:?}");
    }
}

/// What the rule that forwards accepts is counted there, under no policy.
#[test]
fn a_forward_that_no_policy_is_about_counts_under_none() {
    let mut world = world();
    world.forward(TCP, 80..=80, At(C3, 80));
    world.outside_sends(&ask(TCP, S1A, PUBLIC)).guest();
    world.guest_sends(&ask(TCP, C1, PUBLIC)).guest();
    let mut open = World::new();
    open.chain(LAN_SIDE, LAN_SIDE, &[]);
    open.forward(TCP, 80..=80, At(C3, 80));
    open.outside_sends(&ask(TCP, S1A, PUBLIC)).guest();
    open.guest_sends(&ask(TCP, C1, PUBLIC)).guest();
    for world in [world, open] {
        assert_eq!(world.counters(FORWARD_RULE).opened, 2);
        for rule in [0, DEFAULT] {
            assert_eq!(world.counters(rule), Default::default(), "{rule}");
        }
    }
}

#[test]
fn a_full_table_refuses_flows_that_need_a_record() {
    let mut world = world();
    world.chain(LAN_SIDE, DMZ_SIDE, &[accept()]);
    world.tables.sessions.capacity = 2;
    world.guest_sends(&ask(UDP, C1, C3)).guest();
    let fate = world.guest_sends(&ask(UDP, C2, C3));
    assert_eq!(fate.reason(), DropReason::TableFull);
    // A guest cannot have more of it than it may have.
    world.tables.sessions.capacity = 100;
    world.caps(1, 0);
    let fate = world.guest_sends(&ask(TCP, C1, C3));
    assert_eq!(fate.reason(), DropReason::GuestSessions);
    world.check();
}

#[test]
fn idle_sessions_end_and_their_answers_with_them() {
    let mut world = world();
    world.chain(LAN_SIDE, DMZ_SIDE, &[accept()]);
    world.guest_sends(&ask(UDP, C1, C3)).guest();
    assert_eq!(world.wait(200), 0);
    let back = udp(At(C3, 80), At(C1, 4000)).bytes();
    world.guest_sends(&back).guest();
    assert_eq!(world.wait(200), 0);
    assert_eq!(world.wait(200), 1);
    assert_eq!(world.guest_sends(&back).reason(), DropReason::Policy);
    assert_eq!(world.entries(), [0; 4]);
    let counted = world.counters(POLICY);
    assert_eq!((counted.opened, counted.closed), (1, 1));
}

/// Without policies nothing is different: no lookup, no session.
#[test]
fn where_there_are_no_policies_nothing_is_noted() {
    let mut world = World::new();
    world.without_snat(C1);
    let asked = ask(TCP, C1, S1A);
    assert_eq!(world.guest_sends(&asked).uplink(), asked);
    let asked = ask(TCP, S1A, C1);
    assert_eq!(world.outside_sends(&asked).guest(), asked);
    world.guest_sends(&ask(UDP, C1, C3)).guest();
    assert_eq!(world.entries(), [0; 4]);
}
