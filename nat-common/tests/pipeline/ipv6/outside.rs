//! What comes in by an uplink from addresses that are not out there (6F10), and errors of routers
//! out there about the size of packets (6G5).

use kit::{
    ipv6::{C1, C2, HEADER, Ip, PUBLIC, S1A, TOO_BIG, UNREACHABLE, World, read},
    packets::{ACK, At, ETHERNET, Make, SYN, error, error_with_code, ping, tcp, udp, with_rest},
    world::Fate,
};
use nat_common::{
    drop_reason::DropReason,
    tables::policies::{DEFAULTS, Policy, action, side},
    wire::{
        address::Addr6,
        protocol::{TCP, UDP},
    },
};

use super::ip;
use crate::pipeline::{mss, policy::any};

/// The first network, and what reaches it from uplinks.
const LAN_SIDE: u16 = 1;
const RULE: u32 = 7;

const REMOTE: At<Ip> = At(S1A, 7000);

/// A guest that is not translated, and what its network says about uplinks.
fn untranslated(says: Option<u8>) -> World {
    let mut world = World::new();
    world.without_snat(C1);
    if let Some(action) = says {
        let policy: Policy<Addr6> = any(action, RULE, DEFAULTS);
        world.chain(side::UPLINKS | 1, LAN_SIDE, &[policy]);
    }
    world
}

/// One packet of each kind.
fn packets(source: Ip, to: Ip) -> Vec<Make<Ip>> {
    let from = At(source, 4000);
    vec![
        udp(from, At(to, 10_000)),
        tcp(from, At(to, 10_000), SYN),
        tcp(from, At(to, 10_000), ACK),
        ping(from, to),
    ]
}

/// Whatever policies say: the guests' own addresses are on the other side of the host.
#[test]
fn f6_10_an_inside_source_from_outside_is_dropped() {
    for says in [None, Some(action::ACCEPT), Some(action::DROP)] {
        let mut world = untranslated(says);
        for protocol in [TCP, UDP] {
            world.forward(protocol, 10_000..=10_000, At(C2, 80));
        }
        // (An address of each network, and one that no guest has.)
        for source in [C1, C2, kit::ipv6::C3, ip("fd00::ac16:a1fd")] {
            for to in [PUBLIC, C1, C2] {
                for packet in packets(source, to) {
                    if source != to {
                        let fate = world.outside_sends(&packet.bytes());
                        assert_eq!(fate.reason(), DropReason::InternalSource);
                    }
                }
            }
        }
        assert_eq!(world.entries(), [0; 4]);
    }
}

/// An error about a guest's own flow neither.
#[test]
fn f6_10_an_error_with_an_inside_source_from_outside_is_dropped() {
    let world = World::new();
    let sent = world.guest_sends(&udp(At(C1, 5000), REMOTE).bytes());
    let forged = error(C2, &sent.uplink(), UNREACHABLE, HEADER + 8);
    let fate = world.outside_sends(&forged.bytes());
    assert_eq!(fate.reason(), DropReason::InternalSource);
}

/// An office may have unique local addresses on the uplink's side, as it may have private ones:
/// they are as any other remote, which reaches what policies open and nothing else.
#[test]
fn f6_10_unique_local_sources_from_outside_open_nothing_by_default() {
    let office = ip("fd12:3456:789a::5");
    for packet in packets(office, C1) {
        let closed = untranslated(Some(action::DROP));
        let fate = closed.outside_sends(&packet.bytes());
        assert_eq!(fate.reason(), DropReason::Policy);
        assert_eq!(closed.entries(), [0; 4]);
        let open = untranslated(Some(action::ACCEPT));
        let fate = open.outside_sends(&packet.bytes());
        assert!(matches!(fate, Fate::Network(..)), "{fate:?}");
    }
}

/// The MTU stays as it came, also one that IPv6 does not have (RFC 8201 section 4), and the guest
/// sees the packet that it sent.
#[test]
fn g6_5_a_router_outside_tells_the_guest_how_large_its_packets_may_be() {
    let router = ip("2001:db8:ffff::1");
    let guest = At(C1, 5000);
    let mut closed = untranslated(Some(action::DROP));
    // (So that its answers pass.)
    let accept = any(action::ACCEPT, RULE, DEFAULTS);
    closed.chain(LAN_SIDE, side::UPLINKS | 1, &[accept]);
    for world in [World::new(), closed] {
        for make in [
            udp(guest, REMOTE),
            tcp(guest, REMOTE, SYN),
            ping(guest, S1A),
        ] {
            let sent = make.payload(&[0x5a; 1300]).bytes();
            let out = world.guest_sends(&sent).uplink();
            for mtu in [1280_u32, 1000, 1492, 68] {
                // (As much as fits into 1280 bytes.)
                let error = error_with_code(router, &out, TOO_BIG, 1280 - HEADER - 8);
                let error = with_rest(error, mtu.to_be_bytes()).bytes();
                let seen = world.outside_sends(&error).guest();
                let mtu_at = ETHERNET + HEADER + 4;
                assert_eq!(seen[mtu_at..][..4], mtu.to_be_bytes());
                let seen = read(&seen);
                assert_eq!((seen.source.0, seen.destination.0), (router, C1));
                assert_eq!(seen.payload, sent[ETHERNET..][..seen.payload.len()]);
                assert_eq!(seen.payload.len(), 1280 - HEADER - 8);
            }
        }
    }
}

/// The headers of IPv6 and TCP take 60 bytes of what the uplink carries.
#[test]
fn m6_7_a_segment_size_is_lowered_to_the_mtu_less_60_and_never_raised() {
    const MTU: u16 = 1400;
    let mut world = World::new();
    // (Interfaces have the size behind an IPv4 header.)
    world.mss(MTU - 40);
    let of = |size: u16| [&[2, 4][..], &size.to_be_bytes()].concat();
    for (port, asked, expected) in [
        (5000, 1440, MTU - 60),
        (5001, MTU - 59, MTU - 60),
        (5002, MTU - 60, MTU - 60),
        (5003, 1220, 1220),
        (5004, 536, 536),
    ] {
        let sent = mss::syn(At(C1, port), REMOTE, SYN, &of(asked));
        let out = world.guest_sends(&sent).uplink();
        assert_eq!(mss::options(&out, 4), of(expected));
        let back = mss::syn(REMOTE, At(PUBLIC, port), SYN | ACK, &of(asked));
        let back = world.outside_sends(&back).guest();
        assert_eq!(mss::options(&back, 4), of(expected));
    }
}
