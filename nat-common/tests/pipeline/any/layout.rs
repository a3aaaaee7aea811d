//! The layout of maps, which outlive the daemon.

use nat_common::tables::{
    interfaces::InterfaceFlags, next_hops, policies, routes, rules, sessions,
};

/// Their meaning changes with the version of the layout alone.
#[test]
fn bits_in_maps_keep_their_meaning_within_a_layout() {
    let interfaces = [
        InterfaceFlags::ANTI_SPOOF,
        InterfaceFlags::NO_BRIDGE,
        InterfaceFlags::ONE_OF_SEVERAL,
        InterfaceFlags::POLICED,
        InterfaceFlags::NETFILTER_FIRST,
        InterfaceFlags::MAY_BE_UNFINISHED,
        InterfaceFlags::GUARDED,
        InterfaceFlags::CARRIES,
        InterfaceFlags::SLOW,
        InterfaceFlags::SERVED,
    ];
    let bits = interfaces.map(|flag| flag.bits());
    assert_eq!(bits, core::array::from_fn(|bit| 1 << bit));
    use sessions::SessionFlags;
    let sessions = [
        SessionFlags::PRIMARY,
        SessionFlags::FROM_INITIATOR,
        SessionFlags::IN,
        SessionFlags::REFS_PORT,
        SessionFlags::REFS_PERMIT,
        SessionFlags::HAIRPIN,
        SessionFlags::HOST,
        SessionFlags::REFS_SERVER,
    ];
    let bits = sessions.map(|flag| flag.bits());
    assert_eq!(bits, core::array::from_fn(|bit| 1 << bit));
    let hops = [
        next_hops::NextHopFlags::HAS_EGRESS,
        next_hops::NextHopFlags::TAKES_FRAMES,
    ];
    assert_eq!(hops.map(|flag| flag.bits()), [1, 2]);
    let kernel = rules::RuleFlags::KERNEL.bits();
    assert_eq!((kernel, next_hops::SLOTS), (1, 0x4000));
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
