//! The layout of maps, which outlive the daemon.

use nat_common::tables::{
    interfaces::interface_flags, next_hops, policies, routes, rules, sessions,
};

/// Their meaning changes with the version of the layout alone.
#[test]
fn bits_in_maps_keep_their_meaning_within_a_layout() {
    use interface_flags as interface;
    let interfaces = [
        interface::ANTI_SPOOF,
        interface::NO_BRIDGE,
        interface::ONE_OF_SEVERAL,
        interface::POLICED,
        interface::NETFILTER_FIRST,
        interface::MAY_BE_UNFINISHED,
        interface::GUARDED,
        interface::CARRIES,
        interface::SLOW,
        interface::SERVED,
    ];
    assert_eq!(interfaces, core::array::from_fn(|bit| 1 << bit));
    use sessions::flags as session;
    let sessions = [
        session::PRIMARY,
        session::FROM_INITIATOR,
        session::IN,
        session::REFS_PORT,
        session::REFS_PERMIT,
        session::HAIRPIN,
        session::HOST,
        session::REFS_SERVER,
    ];
    assert_eq!(sessions, core::array::from_fn(|bit| 1 << bit));
    let hops = [next_hops::flags::HAS_EGRESS, next_hops::flags::TAKES_FRAMES];
    assert_eq!(hops, [1, 2]);
    assert_eq!((rules::rule_flags::KERNEL, next_hops::SLOTS), (1, 0x4000));
    let sides = [policies::side::UPLINKS, policies::side::ELSEWHERE];
    assert_eq!(sides, [0x8000, 0xfffe]);
    assert_eq!(
        (policies::DEFAULTS, policies::MAX_POLICIES),
        (0x8000_0000, 0x4000)
    );
    assert_eq!(routes::target::TUNNEL, 0xffff_fffe);
    assert_eq!((sessions::DEAD, sessions::OPENING), (u32::MAX, 0xffff_fffe));
    assert_eq!(sessions::PASSED_NS, 1024);
}
