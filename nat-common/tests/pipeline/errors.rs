//! ICMP errors that are no guest's, or say what they should not: the host's own, of routers,
//! forged.

use nat_common::{
    drop_reason::DropReason,
    pipeline::Verdict,
    tables::inside::InsideFlags,
    wire::protocol::{TCP, UDP},
};

use crate::family::{
    C1, C2, HEADER, Ip, PUBLIC, S1A, S2, TIME_EXCEEDED, UNREACHABLE, World, ends, host, read,
};
use kit::{
    packets::{At, ETHERNET, answer, error, ping, request, udp},
    world::{ELSEWHERE, Hook, LAN, UPLINK},
};

const ROUTER: Ip = host([100, 64, 0, 1]);
const GUEST: At<Ip> = At(C1, 5000);
const REMOTE: At<Ip> = At(S1A, 7000);

/// An error about a ping of the host's own is the host's, as it came, right or not.
#[test]
fn i5_an_error_about_a_ping_of_the_host_is_left_as_it_is() {
    let world = World::new();
    let sent = world
        .host_sends(&ping(At(PUBLIC, 77), S1A).bytes())
        .uplink();
    let mut damaged = error(ROUTER, &sent, UNREACHABLE, HEADER + 8).bytes();
    *damaged.last_mut().unwrap() ^= 1;
    assert_eq!(world.outside_sends(&damaged).host(), damaged);
}

/// An error about one that had to get another identifier shows the host its own.
#[test]
fn i2_an_error_about_a_moved_ping_of_the_host_quotes_what_it_sent() {
    let world = World::new();
    world.guest_sends(&ping(At(C1, 77), S1A).bytes()).uplink();
    let own = ping(At(PUBLIC, 77), S1A).bytes();
    let sent = world.host_sends(&own).uplink();
    assert_ne!(ends(&sent).0, At(PUBLIC, 77));
    let seen = world.outside_sends(&error(ROUTER, &sent, UNREACHABLE, HEADER + 8).bytes());
    let seen = read(&seen.host());
    assert_eq!(seen.payload, own[ETHERNET..][..seen.payload.len()]);
}

/// A guest's error goes to the source of the quoted packet, not to another address.
#[test]
fn i5_an_error_of_a_guest_to_another_than_it_quotes_does_not_leave() {
    let world = World::new();
    world.guest_sends(&udp(GUEST, REMOTE).bytes()).uplink();
    let back = world.outside_sends(&udp(REMOTE, At(PUBLIC, 5000)).bytes());
    let forged = error(C1, &back.guest(), UNREACHABLE, HEADER + 8);
    let forged = forged.to(S2).bytes();
    assert_eq!(world.guest_sends(&forged).reason(), DropReason::NoSession);
}

/// Where guests are known by their ports, one cannot end what another has open: neither outside nor
/// by hairpin. Who is behind a router has the router's errors.
#[test]
fn i5_an_error_of_another_guest_does_not_leave() {
    for flag in [
        InsideFlags::ON_LINK,
        InsideFlags::HAS_MAC,
        InsideFlags::empty(),
    ] {
        let mut world = World::new();
        world.known_by(C1, flag, [0; 6]);
        world.guest_sends(&udp(GUEST, REMOTE).bytes()).uplink();
        let back = world.outside_sends(&udp(REMOTE, At(PUBLIC, 5000)).bytes());
        let back = back.guest();
        let others = world.guest_sends(&error(C2, &back, UNREACHABLE, HEADER + 8).bytes());
        match flag {
            flag if flag.is_empty() => drop(others.uplink()),
            _ => assert_eq!(others.reason(), DropReason::NoSession),
        }
        world
            .guest_sends(&error(C1, &back, UNREACHABLE, HEADER + 8).bytes())
            .uplink();
    }
}

/// A routed guest has nothing to hide: its errors leave as they are.
#[test]
fn i5_an_error_of_a_guest_that_is_not_translated_leaves_as_it_is() {
    let mut world = World::new();
    world.without_snat(C1);
    let received = udp(REMOTE, GUEST).bytes();
    let packet = error(C1, &received, UNREACHABLE, HEADER + 8).bytes();
    assert_eq!(world.guest_sends(&packet).uplink(), packet);
}

/// The target of a forward may be in no network: its errors show its external address too.
#[test]
fn i3_an_error_of_a_target_in_no_network_hides_it() {
    const TARGET: At<Ip> = At(host([10, 99, 0, 5]), 80);
    for protocol in [UDP, TCP] {
        let mut world = World::new();
        world.forward(protocol, 10_000..=10_000, TARGET);
        let asked = request(protocol, REMOTE, At(PUBLIC, 10_000)).bytes();
        let (_, received) = world.run(Hook::Inbound, &asked, UPLINK, UPLINK).unwrap();
        assert_eq!(ends(&received), (REMOTE, TARGET));
        let packet = error(TARGET.0, &received, UNREACHABLE, HEADER + 8).bytes();
        let (_, seen) = world
            .run(Hook::Outbound, &packet, UPLINK, ELSEWHERE)
            .unwrap();
        let seen = read(&seen);
        assert_eq!(seen.source.0, PUBLIC);
        assert_eq!(seen.payload, asked[ETHERNET..][..seen.payload.len()]);
    }
}

/// An error between guests is translated if it is about a hairpinned session, and about no other:
/// to an external address, and from a router behind the other guest.
#[test]
fn i4_an_error_about_a_session_with_the_outside_is_no_hairpins() {
    let world = World::new();
    world.guest_sends(&udp(GUEST, REMOTE).bytes()).uplink();
    let back = answer(UDP, REMOTE, GUEST).bytes();
    // The guest's error, at the hook of its network, on its way to the remote.
    let packet = error(C1, &back, UNREACHABLE, HEADER + 8).bytes();
    let (verdict, after) = world.run(Hook::FromGuest, &packet, LAN, LAN).unwrap();
    assert_eq!((verdict, after), (Verdict::Untouched, packet));
    // One of another guest about what this one has sent to the remote.
    let sent = udp(GUEST, REMOTE).bytes();
    let packet = error(host([10, 50, 0, 9]), &sent, TIME_EXCEEDED, HEADER + 8).bytes();
    let (verdict, after) = world
        .run(Hook::ToGuest, &packet, LAN, kit::world::DMZ)
        .unwrap();
    assert_eq!((verdict, after), (Verdict::Untouched, packet));
}
