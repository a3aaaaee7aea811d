//! UDP without a checksum, and sums that compute to 0 (6C3), by every path with sessions. (NPTv6
//! changes no byte of a checksum, see 6P2; NAT64 has tests of its own.)

use kit::{
    ipv6::{C1, C2, Ip, PUBLIC, S1A, UDP_CHECKSUM, World, read},
    packets::{At, udp},
    world::UPLINK,
};
use nat_common::{
    pipeline::Verdict,
    wire::{offload::Offload, protocol::UDP},
};

use crate::pipeline::fast::{
    self, BRIDGE_MAC, CLIENT, EXTERNAL, PORT, REMOTE, UPLINK_MAC, establish, run_offloaded,
};

/// RFC 6935, RFC 6936: a checksum of 0 means none, as tunnels use it, and stays. None becomes one,
/// and one that computes to 0 is sent as 0xffff: of datagrams with every word, at least one does.
fn keep_to_the_rfc(from: At<Ip>, to: At<Ip>, path: impl Fn(&[u8]) -> Vec<u8>) {
    let without = path(&udp(from, to).unsummed().bytes());
    assert_eq!(without[UDP_CHECKSUM], [0, 0]);
    let mut all_ones = 0;
    for word in 0..=u16::MAX {
        let out = path(&udp(from, to).payload(&word.to_be_bytes()).bytes());
        read(&out);
        assert_ne!(out[UDP_CHECKSUM], [0, 0], "{word:#06x}");
        all_ones += u32::from(out[UDP_CHECKSUM] == [0xff, 0xff]);
    }
    assert!(all_ones > 0);
}

#[test]
fn c6_3_a_udp_checksum_of_0_stays_and_none_is_made() {
    let world = World::new();
    let (guest, remote) = (At(C1, 5000), At(S1A, 7000));
    keep_to_the_rfc(guest, remote, |sent| world.guest_sends(sent).uplink());
    keep_to_the_rfc(remote, At(PUBLIC, 5000), |sent| {
        world.outside_sends(sent).guest()
    });
}

#[test]
fn c6_3_a_forward_keeps_a_udp_checksum_of_0_and_makes_none() {
    let mut world = World::new();
    world.forward(UDP, 10_000..=10_000, At(C2, 80));
    let (external, remote) = (At(PUBLIC, 10_000), At(S1A, 7000));
    keep_to_the_rfc(remote, external, |sent| world.outside_sends(sent).guest());
    keep_to_the_rfc(At(C2, 80), remote, |sent| world.guest_sends(sent).uplink());
    // Of another guest, which is seen by an external address itself.
    keep_to_the_rfc(At(C1, 5000), external, |sent| {
        world.guest_sends(sent).guest()
    });
}

#[test]
fn c6_3_the_fast_path_keeps_a_udp_checksum_of_0_and_makes_none() {
    let world = fast::world();
    establish(&world, UDP);
    for (hook, mac, from, to) in [
        (PORT, BRIDGE_MAC, CLIENT, REMOTE),
        (UPLINK, UPLINK_MAC, REMOTE, EXTERNAL),
    ] {
        let first = fast::to(mac, &udp(from, to));
        let run =
            |sent: &[u8], clock| run_offloaded(&world, hook, sent, clock, (Offload::NOTHING, 0));
        run(&first, 1);
        keep_to_the_rfc(from, to, |sent| {
            let mut sent = sent.to_vec();
            sent[..6].copy_from_slice(&mac);
            match run(&sent, 1000) {
                (Verdict::Forwarded, out, _) => out,
                // (It may be one that a device is to finish; the kernel knows.)
                _ => world.outside_sends(&sent).guest(),
            }
        });
    }
}
