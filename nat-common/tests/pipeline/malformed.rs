//! Packets that are cut off or lie about their lengths: S5.

use std::slice;

use nat_common::wire::protocol::{TCP, UDP};

use crate::family::{
    C1, C2, HEADER, ICMP, IS_IPV6, LENGTH, PUBLIC, S1A, TIME_EXCEEDED, UNREACHABLE, World,
    fragments, host,
};
use kit::{
    packets::{ACK, At, ETHERNET, GRE, SYN, error, ping, raw, request, tcp, udp},
    world::{DMZ, Hook, LAN},
};

/// A host with sessions of all kinds, and packets that belong to them or open others.
fn busy() -> (World, Vec<Vec<u8>>) {
    let mut world = World::new();
    let remote = At(S1A, 7000);
    let mut packets = Vec::new();
    for protocol in [UDP, TCP, ICMP, GRE] {
        world.forward(protocol, 0..=0, At(C2, 0));
        world.forward(protocol, 10_000..=10_000, At(C2, 80));
        let sent = request(protocol, At(C1, 5000), remote).bytes();
        let out = world.guest_sends(&sent).uplink();
        packets.push(error(host([100, 64, 0, 1]), &out, UNREACHABLE, 1000).bytes());
        let asked = request(protocol, At(S1A, 7001), At(PUBLIC, 10_000)).bytes();
        if protocol != GRE {
            let received = world.outside_sends(&asked).guest();
            packets.push(error(C2, &received, TIME_EXCEEDED, HEADER + 8).bytes());
        }
        let hairpin = request(protocol, At(C1, 5000), At(PUBLIC, 10_000)).bytes();
        packets.extend([sent, asked, hairpin]);
    }
    packets.push(tcp(At(C1, 5000), remote, ACK).payload(&[1; 40]).bytes());
    packets.push(udp(At(C1, 5000), remote).options(&[1; 40]).bytes());
    packets.push(ping(At(S1A, 1), PUBLIC).options(&[1; 4]).bytes());
    packets.extend(fragments(
        &udp(At(C1, 5000), remote).payload(&[1; 64]).bytes(),
        24,
    ));
    packets.push(raw(136, C1, S1A).bytes());
    (world, packets)
}

/// Runs a packet through all hooks from all sides: it must come out untouched or not at all, and
/// leave no session.
#[track_caller]
fn assert_no_harm(world: &World, packet: &[u8], what: &str) {
    let before = world.entries();
    for hook in Hook::ALL {
        for (interface, ingress) in [(1, 1), (1, LAN), (1, 0), (LAN, LAN), (LAN, DMZ), (LAN, 0)] {
            if let Ok((_, after)) = world.run(hook, packet, interface, ingress) {
                assert_eq!(after, packet, "{hook:?}, {what}");
            }
        }
    }
    assert_eq!(world.entries(), before, "{what}");
}

/// A truncated packet is dropped or passes unchanged, and opens no session.
#[test]
fn s5_truncated_packets_are_never_half_translated() {
    let (world, packets) = busy();
    for packet in packets {
        for len in 0..packet.len() {
            let what = format!("{len} bytes of {packet:02x?}");
            assert_no_harm(&world, &packet[..len], &what);
        }
    }
}

/// Lengths that contradict each other.
#[test]
fn s5_lying_lengths_do_no_harm() {
    let (world, _) = busy();
    let (client, public) = (At(S1A, 9), At(PUBLIC, 10_000));
    let another_version = if IS_IPV6 { 0x45 } else { 0x65 };
    let (udp_length, data_offset) = (ETHERNET + HEADER + 4, ETHERNET + HEADER + 12);
    let mut lies: Vec<(u8, usize, &[u8])> = vec![
        (UDP, ETHERNET, slice::from_ref(&another_version)),
        (UDP, LENGTH, &[0xff]),      // length beyond the packet
        (UDP, LENGTH, &[0, 0]),      // no length
        (UDP, udp_length, &[0xff]),  // UDP length beyond the packet
        (UDP, udp_length, &[0, 7]),  // UDP length below its header
        (TCP, data_offset, &[0x40]), // data offset below 20 bytes
        (TCP, data_offset, &[0xf0]), // data offset beyond the packet
    ];
    if !IS_IPV6 {
        lies.push((UDP, ETHERNET, &[0x44])); // header length below 20 bytes
        lies.push((UDP, ETHERNET, &[0x4f])); // header length beyond the packet
    }
    for (protocol, offset, bytes) in lies {
        let mut packet = match protocol {
            UDP => udp(client, public).bytes(),
            _ => tcp(client, public, SYN).bytes(),
        };
        packet[offset..][..bytes.len()].copy_from_slice(bytes);
        assert_no_harm(&world, &packet, &format!("{bytes:02x?} at {offset}"));
    }
}

/// A first fragment that is too short for the transport header has no ports to translate.
#[test]
fn s5_tiny_first_fragments_are_dropped() {
    let (world, _) = busy();
    let segment = tcp(At(C1, 5000), At(S1A, 7000), ACK)
        .payload(&[1; 40])
        .bytes();
    let parts = fragments(&segment, 8);
    assert_no_harm(&world, &parts[0], "8 bytes of TCP");
}
