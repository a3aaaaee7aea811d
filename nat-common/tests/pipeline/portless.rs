//! Protocols that a NAT cannot tell apart by ports: P1 to P4.

use nat_common::{drop_reason::DropReason, wire::protocol::UDP};

use crate::family::{C1, C2, POOL, PUBLIC, S1A, S1B, World, ends, fragments, read, reassemble};
use kit::packets::{At, GRE, raw, udp};

const SCTP: u8 = 132;
const ESP: u8 = 50;

/// One guest per remote: it gets the answers, and a second guest is refused, not mixed in.
#[test]
fn p1_p2_p3_one_guest_per_remote_and_the_second_is_refused() {
    for protocol in [SCTP, GRE, ESP, 99] {
        let mut world = World::new();
        let send =
            |world: &World, guest, remote| world.guest_sends(&raw(protocol, guest, remote).bytes());
        for (guest, remote) in [(C1, S1A), (C2, S1B)] {
            let out = ends(&send(&world, guest, remote).uplink());
            assert_eq!(out, (At(PUBLIC, 0), At(remote, 0)));
            let back = world.outside_sends(&raw(protocol, remote, PUBLIC).bytes());
            assert_eq!(ends(&back.guest()).1, At(guest, 0));
        }
        let refused = send(&world, C2, S1A);
        assert_eq!(refused.reason(), DropReason::RemoteInUse);
        send(&world, C1, S1A).uplink();
        world.check();
        assert_eq!(world.wait(600), 2);
        assert_eq!(world.entries(), [0; 4]);
        send(&world, C2, S1A).uplink();
    }
}

/// Whoever gets what comes to it: what answers the guest finds its session first.
#[test]
fn p4_a_guest_leaves_by_its_own_address_although_a_forward_takes_the_protocol() {
    let mut world = World::new();
    world.one_to_one(POOL[0], C1);
    world.one_to_one(POOL[0], C2);
    let out = world.guest_sends(&raw(GRE, C1, S1A).bytes()).uplink();
    assert_eq!(ends(&out), (At(POOL[0], 0), At(S1A, 0)));
    let back = world.outside_sends(&raw(GRE, S1A, POOL[0]).bytes());
    assert_eq!(ends(&back.guest()).1, At(C1, 0));
    let asked = world.outside_sends(&raw(GRE, S1B, POOL[0]).bytes());
    assert_eq!(ends(&asked.guest()).1, At(C2, 0));
}

/// IPsec over UDP 4500 is UDP like any other.
#[test]
fn p3_two_guests_use_udp_4500_to_one_remote() {
    let world = World::new();
    let remote = At(S1A, 4500);
    for guest in [C1, C2] {
        let out = world.guest_sends(&udp(At(guest, 4500), remote).bytes());
        let external = ends(&out.uplink()).0;
        let back = world.outside_sends(&udp(remote, external).bytes());
        assert_eq!(ends(&back.guest()).1, At(guest, 4500));
    }
}

/// A forward of everything sends other protocols to the guest by the address alone, one remote
/// like another.
#[test]
fn p4_other_protocols_are_forwarded_by_address() {
    let mut world = World::new();
    world.forward_all(C1);
    for remote in [S1A, S1B] {
        let asked = world.outside_sends(&raw(GRE, remote, PUBLIC).bytes());
        let seen = read(&asked.guest());
        assert_eq!(seen.ends(), (At(remote, 0), At(C1, 0)));
        assert_eq!(seen.payload, b"no ports in here");
        let answered = world.guest_sends(&raw(GRE, C1, remote).bytes());
        assert_eq!(ends(&answered.uplink()), (At(PUBLIC, 0), At(remote, 0)));
    }
    world.check();
}

/// Fragments of a protocol without ports need no first one.
#[test]
fn p4_fragments_of_other_protocols_are_translated() {
    let world = World::new();
    let whole = raw(GRE, C1, S1A).payload(&[3; 100]).bytes();
    let parts = fragments(&whole, 48);
    let parts: Vec<_> = parts
        .iter()
        .map(|part| world.guest_sends(part).uplink())
        .collect();
    assert_eq!(ends(&reassemble(&parts)), (At(PUBLIC, 0), At(S1A, 0)));
    let back = fragments(&raw(GRE, S1A, PUBLIC).payload(&[3; 100]).bytes(), 48);
    let back: Vec<_> = back
        .iter()
        .rev()
        .map(|part| world.outside_sends(part).guest())
        .collect();
    assert_eq!(ends(&reassemble(&back)), (At(S1A, 0), At(C1, 0)));
    assert_eq!(world.entries()[0], 2);
    let _ = UDP;
}

/// If a guest gets all packets to the address, others may still leave by it: their answers find
/// their sessions first.
#[test]
fn m1_guests_leave_by_an_address_that_is_forwarded_to_another() {
    let mut world = World::new();
    world.forward_all(C2);
    let (guest, remote) = (At(C1, 5000), At(S1A, 7000));
    let out = world.guest_sends(&udp(guest, remote).bytes());
    let external = ends(&out.uplink()).0;
    assert!(external.0 == PUBLIC && external.1 >= 61_000, "{external:?}");
    let back = world.outside_sends(&udp(remote, external).bytes());
    assert_eq!(ends(&back.guest()), (remote, guest));
    // Packets that the guest has not asked for go to the other one, from that remote too.
    for stranger in [At(S1A, 7001), At(S1B, 7000)] {
        let asked = world.outside_sends(&udp(stranger, external).bytes());
        assert_eq!(ends(&asked.guest()).1, At(C2, external.1));
        // Two flows that could not be told apart get two ports.
        let out = world.guest_sends(&udp(At(C1, 5000), stranger).bytes());
        assert_eq!(out.reason(), DropReason::RemoteInUse);
    }
    let taken = At(S1B, 9);
    for port in (61_000..=65_534).step_by(2) {
        let asked = udp(taken, At(PUBLIC, port)).bytes();
        world.outside_sends(&asked).guest();
    }
    let out = world.guest_sends(&udp(At(C1, 6000), taken).bytes());
    let out = ends(&out.uplink()).0;
    assert!(out.1 >= 61_000 && out.1 % 2 == 1, "{out:?}");
    let back = world.outside_sends(&udp(taken, out).bytes());
    assert_eq!(ends(&back.guest()), (taken, At(C1, 6000)));
    world.check();
}
