//! ICMP queries other than an echo. (ICMPv6 has none that leaves a link: RFC 4443.)

use kit::{
    ipv4::{C1, HEADER, ICMP, PUBLIC, S1A, S1B, SOURCE, World},
    packets::{At, ETHERNET, ping, pong},
};

/// Two remotes ping by a forward with one identifier, and one of them asks for the time: each
/// exchange is its own.
#[test]
fn i1_queries_of_two_kinds_with_one_identifier_stay_apart() {
    let mut world = World::new();
    world.forward(ICMP, 0..=0, At(C1, 0));
    let time = |packet: Vec<u8>, kind: u8| {
        let mut packet = packet;
        let at = ETHERNET + HEADER;
        let sum = u16::from_be_bytes([packet[at + 2], packet[at + 3]]);
        let change = u32::from(kind - packet[at]) << 8;
        let sum = u32::from(!sum) + change;
        let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
        packet[at] = kind;
        packet[at + 2..at + 4].copy_from_slice(&sum.to_be_bytes());
        packet
    };
    for remote in [S1A, S1B] {
        world
            .outside_sends(&ping(At(remote, 7), PUBLIC).bytes())
            .guest();
        let asked = time(ping(At(remote, 7), PUBLIC).bytes(), 13);
        world.outside_sends(&asked).guest();
        let told = time(pong(C1, At(remote, 7)).bytes(), 14);
        let told = world.guest_sends(&told).uplink();
        assert_eq!(told[SOURCE], PUBLIC);
    }
    assert_eq!(world.entries()[0], 8);
    world.check();
}
