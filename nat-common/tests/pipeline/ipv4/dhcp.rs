//! DHCP of the host itself on its uplink: S8.

use nat_common::{drop_reason::DropReason, session::lease, wire::protocol::UDP};

use kit::ipv4::{C1, C2, Ip, POOL, PUBLIC, S1A, S2, World, ends, host};
use kit::{
    packets::{At, udp},
    world::{ELSEWHERE, Hook, LAN, UPLINK},
};

const SERVER: At<Ip> = At(S1A, 67);
const OFFERED: Ip = POOL[0];

/// Offers and acknowledgements reach the host, also at an address that it does not hold yet,
/// whatever the rules say about the address, and from a server with a private address.
#[test]
fn s8_packets_of_a_dhcp_server_to_a_client_are_the_hosts() {
    for is_forwarded in [false, true] {
        let mut world = World::new();
        if is_forwarded {
            world.forward_all(C1);
            world.one_to_one(OFFERED, C1);
        } else {
            world.external(OFFERED, false);
        }
        for server in [SERVER, At(host([172, 22, 161, 9]), 67)] {
            for address in [OFFERED, PUBLIC, [255; 4]] {
                let offer = udp(server, At(address, 68)).bytes();
                let (_, packet) = world.run(Hook::Inbound, &offer, UPLINK, UPLINK).unwrap();
                assert_eq!(packet, offer, "{address:?}");
            }
        }
        assert_eq!(world.entries(), [0; 4]);
    }
}

/// Only that: packets to an unheld address by other ports are still dropped.
#[test]
fn s8_other_packets_do_not_pass_as_dhcp_answers() {
    let mut world = World::new();
    world.external(OFFERED, false);
    for (from, to) in [(68, 67), (67, 67), (67, 69), (1067, 68)] {
        let bytes = udp(At(S1A, from), At(OFFERED, to)).bytes();
        let fate = world.run(Hook::Inbound, &bytes, UPLINK, UPLINK);
        assert_eq!(fate, Err(DropReason::Unsolicited), "{from} to {to}");
    }
}

/// A host that renews its lease has an address, and what asks from none by other ports asks for
/// none: neither opens the host to answers for any address.
#[test]
fn s8_other_packets_do_not_make_the_host_wait_for_an_address() {
    let world = World::new();
    let unset = [0; 4];
    for (from, to) in [
        (At(PUBLIC, 68), SERVER),
        (At(unset, 1068), SERVER),
        (At(unset, 68), At(S1A, 69)),
    ] {
        let _ = world.run(Hook::Outbound, &udp(from, to).bytes(), UPLINK, 0);
        assert!(!lease::is_acquiring(&world.tables, 1), "{from:?} to {to:?}");
    }
}

/// An offer that the kernel would route back out, since the host does not hold the address, does
/// not leave.
#[test]
fn s8_an_offer_is_not_sent_back_out() {
    let mut world = World::new();
    world.external(OFFERED, false);
    let offer = udp(SERVER, At(OFFERED, 68)).bytes();
    let fate = world.run(Hook::Outbound, &offer, UPLINK, UPLINK);
    assert_eq!(fate, Err(DropReason::Unsolicited));
    // A packet for another host behind this one is not ours.
    let other = udp(SERVER, At(S2, 68)).bytes();
    let fate = world.run(Hook::Outbound, &other, UPLINK, ELSEWHERE);
    assert_eq!(fate.map(|(_, packet)| packet), Ok(other));
}

/// A host that has no address yet asks for one, although a rule is for sources of any address, and
/// that is known for a while; a guest's packet with that source does not leave.
#[test]
fn s8_a_host_without_an_address_asks_for_one() {
    let mut world = World::new();
    world.snat_of_everything();
    assert!(!lease::is_acquiring(&world.tables, 1));
    for to in [[255; 4], S1A] {
        let discover = udp(At(host([0; 4]), 68), At(to, 67)).bytes();
        assert_eq!(world.host_sends(&discover).uplink(), discover);
        let fate = world.run(Hook::Outbound, &discover, UPLINK, LAN);
        assert_ne!(fate.map(|(_, packet)| packet), Ok(discover));
    }
    assert!(lease::is_acquiring(&world.tables, 1));
    assert!(!lease::is_acquiring(&world.tables, 2));
    world.check();
    world.advance(lease::ACQUIRING_S - 1);
    assert!(lease::is_acquiring(&world.tables, 1));
    world.advance(1);
    assert!(!lease::is_acquiring(&world.tables, 1));
    world.wait(400);
    assert_eq!(world.entries(), [0; 4]);
}

/// No guest gets the answers to the host's renewals, whatever its port and the ports of its rule.
#[test]
fn s8_no_guest_leaves_as_a_dhcp_client() {
    let mut world = World::new();
    world.snat(|snat| snat.first_port = 1);
    let out = world.guest_sends(&udp(At(C1, 68), SERVER).bytes()).uplink();
    assert_ne!(ends(&out).0.1, 68);
    assert!(ends(&out).0.1 < 1024);
    world.check();

    let mut world = World::new();
    world.forward(UDP, 68..=68, At(C1, 68));
    let out = world.guest_sends(&udp(At(C1, 68), SERVER).bytes()).uplink();
    assert_ne!(ends(&out).0.1, 68);

    let mut world = World::new();
    world.one_to_one(OFFERED, C1);
    let fate = world.guest_sends(&udp(At(C1, 68), SERVER).bytes());
    assert_eq!(fate.reason(), DropReason::RemoteInUse);
    world.check();
}

/// Relays are no clients: a guest's DHCP relay talks to a server outside, port 67 on both sides.
#[test]
fn s8_a_relay_among_the_guests_reaches_its_server() {
    let mut world = World::new();
    world.snat(|snat| snat.first_port = 1);
    let relay = At(C1, 67);
    let out = world.guest_sends(&udp(relay, SERVER).bytes()).uplink();
    let back = world.outside_sends(&udp(SERVER, ends(&out).0).bytes());
    assert_eq!(ends(&back.guest()), (SERVER, relay));
}

/// A client among the guests keeps its port towards a server among them: the answer is not the
/// host's.
#[test]
fn s8_a_client_among_the_guests_reaches_a_forwarded_server_from_its_port() {
    let mut world = World::new();
    world.snat(|snat| snat.first_port = 1);
    world.forward(UDP, 67..=67, At(C2, 67));
    let asked = udp(At(C1, 68), At(PUBLIC, 67)).bytes();
    let seen = world.guest_sends(&asked).guest();
    assert_eq!(ends(&seen), (At(PUBLIC, 68), At(C2, 67)));
}
