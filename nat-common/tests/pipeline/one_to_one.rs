//! One external address for one guest: M1.

use nat_common::{
    drop_reason::DropReason,
    wire::protocol::{TCP, UDP},
};

use crate::family::{
    C1, C2, HEADER, ICMP, Ip, POOL, PUBLIC, S1A, S2, UNREACHABLE, World, assert_hidden, ends,
};
use kit::{
    packets::{At, GRE, answer, error, raw, request, udp},
    world::{Fate, NAT_RULE},
};

const OWN: Ip = POOL[0];
const PROTOCOLS: [u8; 5] = [UDP, TCP, ICMP, GRE, 50];

fn world() -> World {
    let mut world = World::new();
    world.one_to_one(OWN, C1);
    world
}

/// Any remote reaches the guest, by every protocol and port, and gets its answer from there.
#[test]
fn m1_everything_that_is_sent_to_the_address_reaches_the_guest() {
    for protocol in PROTOCOLS {
        let world = world();
        for port in [1, 22, 80, 65_535] {
            let has_ports = matches!(protocol, UDP | TCP);
            let port = if has_ports { port } else { 0 };
            let remote = At(
                S1A,
                if protocol == GRE || protocol == 50 {
                    0
                } else {
                    4000
                },
            );
            let asked = request(protocol, remote, At(OWN, port));
            let asked = world.outside_sends(&asked.bytes()).guest();
            assert_eq!(ends(&asked).1.0, C1, "protocol {protocol}");
            let (shown, server) = ends(&asked);
            assert_eq!((shown.0, server.1), (S1A, ends(&asked).1.1));
            let back = answer(protocol, server, shown).bytes();
            let back = world.guest_sends(&back).uplink();
            assert_hidden(&back);
            assert_eq!(ends(&back).0.0, OWN);
        }
        world.check();
    }
}

/// The guest sends from its own external address, with its own ports, to many at once.
#[test]
fn m1_the_guest_sends_from_its_address_with_its_ports() {
    let mut world = world();
    for protocol in PROTOCOLS {
        for remote in [S1A, S2] {
            for port in [53, 5000, 65_535] {
                let port = if matches!(protocol, UDP | TCP | ICMP) {
                    port
                } else {
                    0
                };
                let to = if matches!(protocol, UDP | TCP) {
                    7000
                } else {
                    0
                };
                let sent = request(protocol, At(C1, port), At(remote, to));
                let sent = world.guest_sends(&sent.bytes()).uplink();
                assert_eq!(ends(&sent).0, At(OWN, port), "protocol {protocol}");
                let (shown, remote) = ends(&sent);
                let back = answer(protocol, remote, shown).bytes();
                let back = world.outside_sends(&back).guest();
                assert_eq!(ends(&back).1, At(C1, port));
            }
        }
    }
    // It takes no ports from others: they have none of this address.
    assert_eq!(world.entries()[1..], [0; 3]);
    let other = world.guest_sends(&udp(At(C2, 5000), At(S1A, 7000)).bytes());
    assert_eq!(ends(&other.uplink()).0, At(PUBLIC, 5000));
    world.check();
    assert!(world.counters(NAT_RULE).opened > 0);
    world.wait(10_000);
    assert_eq!(world.entries(), [0; 4]);
}

/// Guests reach it by its external address, itself included, and see external addresses.
#[test]
fn m1_hairpin_by_the_address() {
    let world = world();
    for client in [C1, C2] {
        let asked = udp(At(client, 6000), At(OWN, 80)).bytes();
        let asked = world.guest_sends(&asked).guest();
        let (shown, server) = ends(&asked);
        assert_eq!(server, At(C1, 80));
        assert_eq!(shown.0, if client == C1 { OWN } else { PUBLIC });
        let back = world.guest_sends(&udp(server, shown).bytes()).guest();
        assert_eq!(ends(&back), (At(OWN, 80), At(client, 6000)));
        world.check();
    }
}

/// Errors about what it sent reach it, and its own errors leave from its address.
#[test]
fn m1_errors_pass_both_ways() {
    let world = world();
    let sent = udp(At(C1, 5000), At(S1A, 7000)).bytes();
    let sent = world.guest_sends(&sent).uplink();
    let fate = world.outside_sends(&error(S2, &sent, UNREACHABLE, HEADER + 8).bytes());
    assert!(matches!(fate, Fate::Network(..)), "{fate:?}");
    let asked = udp(At(S1A, 4000), At(OWN, 9)).bytes();
    let asked = world.outside_sends(&asked).guest();
    let fate = world.guest_sends(&error(C1, &asked, UNREACHABLE, HEADER + 8).bytes());
    assert_hidden(&fate.uplink());
}

/// Two of its sessions that could not be told apart are not: a protocol without ports from the
/// guest and from the remote is one session.
#[test]
fn m1_protocols_without_ports_are_one_session_per_remote() {
    let world = world();
    world.guest_sends(&raw(GRE, C1, S1A).bytes()).uplink();
    world.outside_sends(&raw(GRE, S1A, OWN).bytes()).guest();
    assert_eq!(world.entries()[0], 2);
    let spoofed = world.outside_sends(&raw(GRE, C2, OWN).bytes());
    assert_eq!(spoofed.reason(), DropReason::InternalSource);
}
