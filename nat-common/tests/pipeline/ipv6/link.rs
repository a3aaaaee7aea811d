//! Messages that concern one link: neighbours, routers, groups (6N9).

use kit::{
    ipv6::{C1, C2, HOPS, Ip, PUBLIC, S1A, World},
    octets::HOP_BY_HOP,
    packets::{ETHERNET, icmp},
    world::{Hook, LAN, UPLINK},
};
use nat_common::{
    pipeline::Verdict,
    tables::{
        interfaces::InterfaceFlags,
        policies::{DEFAULTS, action, side},
    },
};

use super::ip;
use crate::pipeline::policy::any;

/// The option that asks routers to read the packet (RFC 2711), and one that pads.
const ROUTER_ALERT: [u8; 6] = [5, 2, 0, 0, 1, 0];

/// Every message of the link by its type, from and to addresses that it has.
fn messages() -> Vec<(String, Vec<u8>)> {
    let (guest, router) = (ip("fe80::10"), ip("fe80::1"));
    let (all_nodes, all_routers) = (ip("ff02::1"), ip("ff02::2"));
    let solicited = ip("ff02::1:ff00:10");
    let unspecified = ip("::");
    let neighbours = [
        ("router solicitation", 133, guest, all_routers),
        (
            "router solicitation before an address",
            133,
            unspecified,
            all_routers,
        ),
        ("router advertisement", 134, router, all_nodes),
        ("router advertisement to one", 134, router, guest),
        ("neighbour solicitation", 135, guest, solicited),
        ("neighbour solicitation to one", 135, S1A, PUBLIC),
        ("neighbour solicitation of a guest", 135, C1, solicited),
        ("duplicate address detection", 135, unspecified, solicited),
        ("neighbour advertisement", 136, router, guest),
        ("neighbour advertisement of a guest", 136, C1, C2),
        ("neighbour advertisement to all", 136, guest, all_nodes),
        ("redirect", 137, router, guest),
        ("inverse solicitation", 141, guest, all_nodes),
        ("inverse advertisement", 142, guest, router),
        ("certification path solicitation", 148, guest, all_routers),
        ("certification path advertisement", 149, router, all_nodes),
    ];
    let groups = [
        ("listener query", 130, router, all_nodes),
        ("listener report", 131, guest, ip("ff02::1:3")),
        ("listener done", 132, guest, all_routers),
        ("listener report, version 2", 143, guest, ip("ff02::16")),
        (
            "listener report before an address",
            143,
            unspecified,
            ip("ff02::16"),
        ),
        (
            "multicast router advertisement",
            151,
            router,
            ip("ff02::6a"),
        ),
        ("multicast router solicitation", 152, router, all_routers),
        ("multicast router termination", 153, router, ip("ff02::6a")),
    ];
    let frame = |kind: u8, from: Ip, to: Ip, is_of_group: bool| {
        let message = icmp(from, to, [kind, 0, 0, 0, 0, 0]).payload(&[0; 24]);
        let message = match is_of_group {
            true => message.extension(HOP_BY_HOP, &ROUTER_ALERT),
            false => message,
        };
        let mut frame = message.bytes();
        frame[HOPS] = if is_of_group { 1 } else { 255 };
        frame
    };
    let mut all = Vec::new();
    for (name, kind, from, to) in neighbours {
        all.push((name.to_owned(), frame(kind, from, to, false)));
    }
    for (name, kind, from, to) in groups {
        all.push((name.to_owned(), frame(kind, from, to, true)));
    }
    all
}

/// Hosts with the rules that could take such a message for one of their flows.
fn worlds() -> [(&'static str, World); 5] {
    let mut everything_forwarded = World::new();
    everything_forwarded.forward_all(C1);
    let mut everything_translated = World::new();
    everything_translated.snat_of_everything();
    let mut policed = World::new();
    policed.chain(side::ANY, side::ANY, &[any(action::DROP, 7, DEFAULTS)]);
    policed.chain(1, side::HOST, &[any(action::DROP, 8, DEFAULTS)]);
    let mut guarded = World::new();
    guarded.anti_spoof(C1, [2; 6]);
    [
        ("plain", World::new()),
        ("everything forwarded", everything_forwarded),
        ("everything translated", everything_translated),
        ("everything dropped by policy", policed),
        ("anti-spoofing", guarded),
    ]
}

#[test]
fn n6_9_messages_of_a_link_pass_each_hook_untouched_and_open_nothing() {
    for (rules, world) in worlds() {
        for (name, frame) in messages() {
            for hook in Hook::ALL {
                let (interface, ingress) = match hook {
                    Hook::Inbound => (UPLINK, UPLINK),
                    Hook::FromGuest => (LAN, LAN),
                    // The host's own: such a message is never forwarded.
                    Hook::Outbound => (UPLINK, 0),
                    Hook::ToGuest => (LAN, 0),
                };
                let result = world.run(hook, &frame, interface, ingress);
                let expected = Ok((Verdict::Untouched, frame.clone()));
                assert_eq!(result, expected, "{name} at {hook:?}, {rules}");
            }
        }
        assert_eq!(world.entries(), [0; 4], "{rules}");
        assert!(world.tables.drops.borrow().is_empty(), "{rules}");
    }
}

/// One that a guest with a session sends is none of the session's.
#[test]
fn n6_9_messages_of_a_link_do_not_touch_sessions() {
    let mut world = World::new();
    let (guest, remote) = (kit::packets::At(C1, 5000), kit::packets::At(S1A, 7000));
    world
        .guest_sends(&kit::packets::udp(guest, remote).bytes())
        .uplink();
    world.wait(299);
    for (name, frame) in messages() {
        let (verdict, after) = world.run(Hook::FromGuest, &frame, LAN, LAN).unwrap();
        assert_eq!((verdict, after), (Verdict::Untouched, frame), "{name}");
    }
    assert_eq!(world.wait(1), 1);
}

/// The fast path looks at no message of the link either.
#[test]
fn n6_9_the_ports_of_a_bridge_let_messages_of_the_link_pass() {
    use nat_common::{
        pipeline::{Place, from_port},
        wire::packet::SlicePacket,
        work::Work,
    };
    let mut world = World::new();
    world.tables.is_fast_path_on = true;
    for flags in [InterfaceFlags::empty(), InterfaceFlags::ANTI_SPOOF] {
        world.tables.interfaces.get_mut(&LAN).unwrap().flags = flags;
        for (name, frame) in messages() {
            let mut bytes = frame.clone();
            let mut packet = SlicePacket::new(&mut bytes, LAN);
            let place = Place {
                l3: ETHERNET,
                interface: LAN,
                is_to_host: true,
            };
            let verdict = from_port(&mut packet, &world.tables, place, &mut Work::new());
            assert_eq!(verdict, Verdict::Untouched, "{name}");
            assert_eq!(bytes, frame, "{name}");
        }
    }
}
