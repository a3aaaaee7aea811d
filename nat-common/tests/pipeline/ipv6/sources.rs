//! Sources that no host has (6F9), and what stays on its link.

use kit::{
    ipv6::{C1, C2, HOPS, PUBLIC, S1A, SOURCE, World, ends},
    packets::{At, ETHERNET, SYN, ping, tcp, udp},
    world::{Hook, LAN, UPLINK},
};
use nat_common::{
    drop_reason::DropReason,
    pipeline::Verdict,
    tables::policies::{DEFAULTS, action, side},
};

use super::ip;
use crate::pipeline::policy::any;

#[test]
fn f6_9_packets_from_outside_with_impossible_sources_are_dropped() {
    let mut world = World::new();
    world.forward(17, 10_000..=10_000, At(C1, 80));
    world.forward(58, 0..=0, At(C1, 0));
    for (source, reason) in [
        ("::1", DropReason::MartianSource),
        ("::", DropReason::MartianSource),
        ("::ffff:198.51.100.2", DropReason::MartianSource),
        ("ff02::1", DropReason::BroadcastSource),
        ("ff0e::1234", DropReason::BroadcastSource),
        ("fd00::ac16:a1aa", DropReason::InternalSource),
    ] {
        let from = At(ip(source), 4000);
        for packet in [
            udp(from, At(PUBLIC, 10_000)),
            tcp(from, At(PUBLIC, 22), SYN),
            ping(from, PUBLIC),
        ] {
            let fate = world.outside_sends(&packet.bytes());
            assert_eq!(fate.reason(), reason, "{source}");
        }
    }
    assert_eq!(world.entries(), [0; 4]);
}

/// What the host forwards from a guest must have a source that can be answered.
#[test]
fn f6_9_guests_packets_with_impossible_sources_are_dropped() {
    let mut everything = World::new();
    everything.snat_of_everything();
    for world in [World::new(), everything] {
        for (source, reason) in [
            ("::1", DropReason::MartianSource),
            ("::", DropReason::MartianSource),
            ("::ffff:172.22.161.170", DropReason::MartianSource),
            ("ff02::1", DropReason::BroadcastSource),
            ("ff0e::1", DropReason::BroadcastSource),
        ] {
            for destination in [S1A, PUBLIC, C2] {
                let packet = udp(At(ip(source), 5000), At(destination, 7000)).bytes();
                let fate = world.network_sends(LAN, &packet);
                assert_eq!(fate.reason(), reason, "{source}");
            }
        }
        assert_eq!(world.entries(), [0; 4]);
    }
}

/// A guest that has no address yet, or only that of its link, reaches the link's groups.
#[test]
fn f6_9_what_a_guest_needs_to_get_an_address_passes() {
    let mut world = World::new();
    world.anti_spoof(C1, [2; 6]);
    for (source, destination) in [
        ("fe80::10", "ff02::1:2"),
        ("fe80::10", "ff02::fb"),
        ("fe80::10", "fe80::1"),
        ("::", "ff02::1:2"),
    ] {
        let packet = udp(At(ip(source), 546), At(ip(destination), 547)).bytes();
        let passed = world.run(Hook::FromGuest, &packet, LAN, LAN);
        assert_eq!(passed, Ok((Verdict::Untouched, packet)), "{source}");
    }
}

/// The kernel forwards nothing from a link-local source; a rule for every source translates none.
#[test]
fn link_local_sources_are_not_translated() {
    let mut world = World::new();
    world.snat_of_everything();
    let packet = udp(At(ip("fe80::10"), 5000), At(S1A, 7000)).bytes();
    let left = world.run(Hook::Outbound, &packet, UPLINK, LAN);
    assert!(
        !matches!(left, Ok((Verdict::Translated | Verdict::Opened, _))),
        "{left:?}"
    );
    assert_eq!(world.entries(), [0; 4]);
}

/// Answers to neighbours on the uplink's link, from and to link-local addresses, are the host's.
#[test]
fn link_local_packets_on_the_uplink_are_the_hosts() {
    let mut world = World::new();
    world.forward_all(C1);
    let (router, host) = (ip("fe80::1"), ip("fe80::2"));
    for packet in [
        ping(At(router, 7), host),
        udp(At(router, 547), At(host, 546)),
    ] {
        let packet = packet.bytes();
        let passed = world.run(Hook::Inbound, &packet, UPLINK, UPLINK);
        assert_eq!(passed, Ok((Verdict::Untouched, packet)));
    }
    for packet in [
        ping(At(host, 7), router),
        udp(At(host, 546), At(ip("ff02::1:2"), 547)),
    ] {
        let packet = packet.bytes();
        let passed = world.run(Hook::Outbound, &packet, UPLINK, 0);
        assert_eq!(passed.map(|(_, after)| after), Ok(packet));
    }
}

/// What a guest sends to the host's link-local address is judged like what it sends to another one
/// of the host's: link-local addresses are no way around a policy.
#[test]
fn f6_a_policy_for_the_host_holds_for_its_link_local_address() {
    for (action, passes) in [(action::DROP, false), (action::ACCEPT, true)] {
        let mut world = World::new();
        let host = ip("fe80::1");
        world.host_address(host);
        world.chain(1, side::HOST, &[any(action, 7, DEFAULTS)]);
        for packet in [
            tcp(At(ip("fe80::10"), 5000), At(host, 22), SYN),
            udp(At(ip("fe80::10"), 5000), At(host, 53)),
            ping(At(ip("fe80::10"), 7), host),
            tcp(At(C1, 5000), At(host, 22), SYN),
        ] {
            let packet = packet.bytes();
            let passed = world.run(Hook::FromGuest, &packet, LAN, LAN);
            match passes {
                true => assert_eq!(passed.map(|(_, after)| after), Ok(packet)),
                false => assert_eq!(passed, Err(DropReason::Policy)),
            }
        }
    }
}

/// A server of DHCPv6 answers the host from one link-local address to another, whatever uplinks may
/// open to guests.
#[test]
fn the_host_gets_its_own_dhcpv6_answers_under_policies() {
    let mut world = World::new();
    let host = ip("fe80::2");
    world.host_address(host);
    world.chain(
        side::UPLINKS | 1,
        side::ANY,
        &[any(action::DROP, 7, DEFAULTS)],
    );
    world.chain(side::ANY, side::ANY, &[any(action::DROP, 8, DEFAULTS)]);
    let answer = udp(At(ip("fe80::1"), 547), At(host, 546)).bytes();
    let passed = world.run(Hook::Inbound, &answer, UPLINK, UPLINK);
    assert_eq!(passed, Ok((Verdict::Untouched, answer)));
}

/// Traffic class and flow label are the guest's (6E5); the hop limit is the kernel's.
#[test]
fn e6_5_flow_label_and_traffic_class_stay() {
    let world = World::new();
    let mut sent = udp(At(C1, 5000), At(S1A, 7000)).bytes();
    sent[ETHERNET..ETHERNET + 4].copy_from_slice(&[0x6b, 0x8c, 0xde, 0xf1]);
    sent[HOPS] = 3;
    let out = world.guest_sends(&sent).uplink();
    assert_eq!(out[ETHERNET..SOURCE.start], sent[ETHERNET..SOURCE.start]);
    let mut answer = udp(At(S1A, 7000), ends(&out).0).bytes();
    answer[ETHERNET..ETHERNET + 4].copy_from_slice(&[0x6f, 0xf1, 0x23, 0x45]);
    let back = world.outside_sends(&answer).guest();
    assert_eq!(back[ETHERNET..SOURCE.start], answer[ETHERNET..SOURCE.start]);
}
