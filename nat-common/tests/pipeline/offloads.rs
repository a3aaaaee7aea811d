//! What the kernel leaves to a device: checksums and segmentation, of tunnels too.

use nat_common::{
    drop_reason::DropReason,
    pipeline::{self, Place, Verdict},
    tables::interfaces::InterfaceFlags,
    wire::{
        offload::Offload,
        packet::{Frames, SlicePacket},
        protocol::{TCP, UDP},
    },
    work::Work,
};

use super::fast::{
    BRIDGE_MAC, CLIENT, EXTERNAL, MTU, PORT, REMOTE, UPLINK_MAC, establish, run_offloaded, to,
    world,
};
use crate::family::{
    Addr, C1, C2, DESTINATION, HEADER, ICMP, Ip, Make, PUBLIC, S1A, SOURCE, World, ends, host,
};
use kit::{
    packets::{ACK, At, ETHERNET, GRE, request, tcp, udp},
    world::{FORWARD_RULE, Hook, LAN, SNAT_RULE, UPLINK},
};

/// Bytes of an IP header, and of a UDP and a TCP header without options.
const IP: usize = HEADER;
const UDP_HEADER: usize = 8;
const TCP_HEADER: usize = 20;
/// Bytes of a VXLAN header with the Ethernet header inside.
const VXLAN: usize = 8 + ETHERNET;

/// A packet of a session that is open.
fn open_packet(protocol: u8, from: At<Ip>, destination: At<Ip>) -> Make {
    match protocol {
        TCP => tcp(from, destination, ACK).payload(b"some data"),
        _ => request(protocol, from, destination),
    }
}

/// A TCP segment in VXLAN, with a checksum of the tunnel or without.
fn tunnelled(from: At<Ip>, destination: At<Ip>, len: usize, is_summed: bool) -> Make {
    let inside = tcp(
        At(host([10, 77, 0, 1]), 9),
        At(host([10, 77, 0, 2]), 9),
        ACK,
    );
    let inside = inside.payload(&vec![0x5a; len]).bytes();
    let payload = [&[8, 0, 0, 0, 0, 0, 7, 0][..], &inside].concat();
    let outer = udp(from, destination).payload(&payload);
    match is_summed {
        true => outer,
        false => outer.unsummed(),
    }
}

/// Where the checksum of the packet in [`tunnelled`] stands behind the outer network header.
const INNER_FIELD: i16 = (IP + UDP_HEADER + VXLAN + IP + 16) as i16;

/// Of a packet as [`tunnelled`] makes it, whose segments are still to be made.
fn tunnel(field: i16) -> Offload {
    let network = (IP + UDP_HEADER + VXLAN) as u16;
    Offload::unfinished(field).and_encapsulated(network, network + IP as u16)
}

/// The one's complement sum of words, folded.
fn sum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let words = bytes.chunks(2).map(|pair| match *pair {
        [high, low] => u32::from(u16::from_be_bytes([high, low])),
        [high] => u32::from(u16::from_be_bytes([high, 0])),
        _ => 0,
    });
    let total: u32 = words.sum();
    let once = (total & 0xffff) + (total >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

/// The sum of a packet's pseudo-header.
fn pseudo(frame: &[u8], protocol: u8) -> u16 {
    let len = (frame.len() - ETHERNET - IP) as u16;
    sum(&[
        &frame[SOURCE],
        &frame[DESTINATION],
        &[0, protocol],
        &len.to_be_bytes(),
    ])
}

#[test]
fn a_checksum_wanted_over_addresses_or_ports_drops_the_packet() {
    for (protocol, first) in [(TCP, IP + 16), (UDP, IP + 6), (ICMP, usize::MAX), (GRE, IP)] {
        let world = world();
        establish(&world, protocol);
        let out = to(BRIDGE_MAC, &open_packet(protocol, CLIENT, REMOTE));
        for field in -14_i16..40 {
            let offload = (Offload::unfinished(field), 0);
            let (decision, after, _) = run_offloaded(&world, PORT, &out, 1, offload);
            let is_sound = field >= 0 && field as usize >= first;
            match is_sound {
                true => assert_eq!(decision, Verdict::Forwarded, "{protocol}: {field}"),
                false => {
                    let reason = DropReason::FalseOffload;
                    assert_eq!(decision, Verdict::Dropped(reason), "{protocol}: {field}");
                    assert_eq!(after, out, "half written");
                }
            }
        }
    }
}

#[test]
fn the_checksum_that_a_device_finishes_follows_the_pseudo_header_alone() {
    for (protocol, field) in [(UDP, 6), (TCP, 16)] {
        let world = world();
        establish(&world, protocol);
        for destination_port in [REMOTE.1, 1] {
            let mut frame = to(BRIDGE_MAC, &open_packet(protocol, CLIENT, REMOTE));
            let at = ETHERNET + IP + field;
            let seed = pseudo(&frame, protocol);
            frame[at..at + 2].copy_from_slice(&seed.to_be_bytes());
            let offload = (Offload::unfinished((IP + field) as i16), 0);
            let (decision, after, _) = run_offloaded(&world, PORT, &frame, 1, offload);
            assert_eq!(decision, Verdict::Forwarded, "{destination_port}");
            assert_eq!(after[at..at + 2], pseudo(&after, protocol).to_be_bytes());
        }
    }
}

#[test]
fn a_tunnels_own_checksum_is_right_while_the_one_inside_is_unfinished() {
    for is_summed in [true, false] {
        let world = world();
        establish(&world, UDP);
        let frame = to(BRIDGE_MAC, &tunnelled(CLIENT, REMOTE, 100, is_summed));
        let offload = (Offload::unfinished(INNER_FIELD), 0);
        let (decision, after, _) = run_offloaded(&world, PORT, &frame, 1, offload);
        assert_eq!(decision, Verdict::Forwarded);
        // (Reading checks the checksum.)
        assert_eq!(ends(&after), (EXTERNAL, REMOTE));
        let is_still_summed = after[ETHERNET + IP + 6..][..2] != [0, 0];
        assert_eq!(is_still_summed, is_summed);
    }
}

/// Before segmentation, a tunnel packet's own checksum is unfinished too.
#[test]
fn the_checksum_of_a_tunnels_segments_follows_the_pseudo_header_alone() {
    let world = world();
    establish(&world, UDP);
    let mut frame = to(BRIDGE_MAC, &tunnelled(CLIENT, REMOTE, 3000, true));
    let at = ETHERNET + IP + 6;
    let seed = pseudo(&frame, UDP);
    frame[at..at + 2].copy_from_slice(&seed.to_be_bytes());
    let (decision, after, _) = run_offloaded(&world, PORT, &frame, 1, (tunnel(INNER_FIELD), 1000));
    assert_eq!(decision, Verdict::Forwarded);
    assert_eq!(after[at..at + 2], pseudo(&after, UDP).to_be_bytes());
}

/// None means none, also where the checksum would be unfinished.
#[test]
fn segments_of_a_tunnel_without_a_checksum_get_none() {
    let world = world();
    establish(&world, UDP);
    let frame = to(BRIDGE_MAC, &tunnelled(CLIENT, REMOTE, 3000, false));
    let offload = (tunnel(INNER_FIELD), 1000);
    let (decision, after, _) = run_offloaded(&world, PORT, &frame, 1, offload);
    assert_eq!(decision, Verdict::Forwarded);
    assert_eq!(after[ETHERNET + IP + 6..][..2], [0, 0]);
}

/// Headers of each segment, and how many bytes of data fit behind them.
#[test]
fn segments_with_all_their_headers_fit_the_path_or_go_through_the_kernel() {
    let tunnelled = |len| tunnelled(CLIENT, REMOTE, len, false);
    let plain = |len| udp(CLIENT, REMOTE).payload(&vec![0x5a; len]);
    type Case<'a> = (&'a dyn Fn(usize) -> Make, Offload, usize);
    let cases: [Case<'_>; 2] = [
        (
            &tunnelled,
            tunnel(INNER_FIELD),
            IP + UDP_HEADER + VXLAN + IP + TCP_HEADER,
        ),
        (&plain, Offload::unfinished(IP as i16 + 6), IP + UDP_HEADER),
    ];
    for (make, offload, headers) in cases {
        let world = world();
        establish(&world, UDP);
        let fits = MTU as usize - headers;
        let len = 10 * fits - 1;
        let frame = to(BRIDGE_MAC, &make(len));
        let before = world.counters(SNAT_RULE);
        let sent = |segment: usize, offload| {
            run_offloaded(&world, PORT, &frame, 1, (offload, segment as u32)).0
        };
        assert_eq!(sent(fits + 1, offload), Verdict::Untouched, "{headers}");
        assert_eq!(
            sent(fits, Offload::UNKNOWN),
            Verdict::Untouched,
            "{headers}"
        );
        assert_eq!(sent(fits, offload), Verdict::Forwarded, "{headers}");
        let after = world.counters(SNAT_RULE);
        assert_eq!(after.packets_out - before.packets_out, 10);
        let bytes = (len + 10 * headers) as u64;
        assert_eq!(after.bytes_out - before.bytes_out, bytes, "{headers}");
    }
}

/// An answer from outside at XDP, by an uplink that may hand over unfinished checksums or not.
fn at_xdp(may_be_unfinished: bool, frame: &[u8]) -> Verdict {
    let mut world: World = world();
    if may_be_unfinished {
        let uplink = world.tables.interfaces.get_mut(&UPLINK).unwrap();
        uplink.flags |= InterfaceFlags::MAY_BE_UNFINISHED;
    }
    establish(&world, UDP);
    // The session has paused.
    run_offloaded(&world, UPLINK, frame, 1, (Offload::NOTHING, 0));
    run_offloaded(&world, UPLINK, frame, 100_001, (Offload::NOTHING, 0)).0
}

#[test]
fn xdp_takes_a_datagram_only_if_nothing_in_it_can_be_unfinished() {
    let inbound = |make: Make| to(UPLINK_MAC, &make);
    let summed = inbound(tunnelled(REMOTE, EXTERNAL, 100, true));
    let unsummed = inbound(tunnelled(REMOTE, EXTERNAL, 100, false));
    // What is inside is unfinished: the tunnel's checksum is not yet right.
    let mut unfinished = summed.clone();
    unfinished[ETHERNET + INNER_FIELD as usize] ^= 0x40;
    let short = |len| inbound(udp(REMOTE, EXTERNAL).unsummed().payload(&vec![0; len]));
    for (frame, by_card, by_other) in [
        (&summed, true, true),
        (&unsummed, true, false),
        (&unfinished, true, false),
        (&short(27), true, true),
        (&short(28), true, false),
    ] {
        for (may_be_unfinished, is_taken) in [(false, by_card), (true, by_other)] {
            let expected = match is_taken {
                true => Verdict::Forwarded,
                false => Verdict::Untouched,
            };
            assert_eq!(at_xdp(may_be_unfinished, frame), expected, "{frame:02x?}");
        }
    }
}

/// Runs a frame with unfinished checksum or segmentation at a hook of the slow path.
fn at_hook(
    world: &World,
    hook: Hook,
    frame: &[u8],
    (offload, segment_len): (Offload, u32),
) -> Result<Vec<u8>, DropReason> {
    let mut bytes = frame.to_vec();
    let (interface, from) = match hook {
        Hook::Inbound => (UPLINK, UPLINK),
        Hook::Outbound => (UPLINK, LAN),
        Hook::FromGuest | Hook::ToGuest => (LAN, LAN),
    };
    let mut packet = SlicePacket {
        offload,
        frames: Frames { segment_len },
        ..SlicePacket::new(&mut bytes, from)
    };
    let place = Place {
        l3: ETHERNET,
        interface,
        is_to_host: true,
    };
    let mut work = Work::<Addr>::new();
    let verdict = match hook {
        Hook::Inbound => pipeline::inbound(&mut packet, &world.tables, place, &mut work),
        Hook::Outbound => pipeline::outbound(&mut packet, &world.tables, place, &mut work),
        Hook::FromGuest => pipeline::from_guest(&mut packet, &world.tables, place, &mut work),
        Hook::ToGuest => pipeline::to_guest(&mut packet, &world.tables, place, &mut work),
    };
    match verdict {
        Verdict::Dropped(reason) => Err(reason),
        _ => Ok(bytes),
    }
}

/// A forward of VXLAN from [`FORWARDED`] to [`SERVER`].
fn forwarding() -> World {
    let mut world = World::new();
    world.forward(UDP, 4789..=4789, SERVER);
    world
}

const FORWARDED: At<Ip> = At(PUBLIC, 4789);
const SERVER: At<Ip> = At(C2, 4789);
const GUEST: At<Ip> = At(C1, 5000);
const OUTSIDE: At<Ip> = At(S1A, 7000);

#[test]
fn a_guests_first_packet_with_a_false_place_for_a_checksum_opens_nothing() {
    for destination in [OUTSIDE, FORWARDED, At(PUBLIC, 22), SERVER] {
        for (protocol, place) in [(UDP, IP), (UDP, 12), (TCP, IP + 2), (ICMP, IP + 4)] {
            let world = forwarding();
            let frame = request(protocol, GUEST, destination).bytes();
            let offload = (Offload::unfinished(place as i16), 0);
            let fate = at_hook(&world, Hook::FromGuest, &frame, offload);
            assert_eq!(fate, Err(DropReason::FalseOffload), "{destination:?}");
            assert_eq!(world.entries(), [0; 4], "{destination:?}");
        }
    }
}

/// Outbound, inbound and from guest to guest: the first packet, and those that follow.
#[test]
fn a_tunnels_checksum_is_right_behind_every_hook() {
    let offload = (Offload::unfinished(INNER_FIELD), 0);
    let world = forwarding();
    let tunnelled = |from, to| tunnelled(from, to, 100, true).bytes();
    let at_hook = |hook, frame: &[u8]| at_hook(&world, hook, frame, offload).unwrap();
    for _ in 0..2 {
        // (Reading checks the checksum.)
        let out = at_hook(Hook::Outbound, &tunnelled(GUEST, OUTSIDE));
        let external = ends(&out).0;
        assert_eq!(external.0, PUBLIC);
        let answer = at_hook(Hook::Inbound, &tunnelled(OUTSIDE, external));
        assert_eq!(ends(&answer), (OUTSIDE, GUEST));
        let asked = at_hook(Hook::Inbound, &tunnelled(OUTSIDE, FORWARDED));
        assert_eq!(ends(&asked), (OUTSIDE, SERVER));
        let between = at_hook(Hook::FromGuest, &tunnelled(GUEST, FORWARDED));
        let arrived = at_hook(Hook::ToGuest, &between);
        assert_eq!(ends(&arrived), (external, SERVER));
    }
}

/// A tunnel packet before segmentation counts as its segments on the wire, at every hook.
#[test]
fn segments_of_a_tunnel_are_counted_with_all_their_headers_on_the_slow_path() {
    let headers = IP + UDP_HEADER + VXLAN + IP + TCP_HEADER;
    let world = forwarding();
    for (hook, from, to, rule) in [
        (Hook::Outbound, GUEST, OUTSIDE, SNAT_RULE),
        (Hook::Inbound, OUTSIDE, FORWARDED, FORWARD_RULE),
    ] {
        for packets in 1..3 {
            let frame = tunnelled(from, to, 3500, false).bytes();
            at_hook(&world, hook, &frame, (tunnel(INNER_FIELD), 1000)).unwrap();
            let counters = world.counters(rule);
            assert_eq!(counters.packets_in + counters.packets_out, 4 * packets);
            let bytes = packets * (3500 + 4 * headers as u64);
            assert_eq!(counters.bytes_in + counters.bytes_out, bytes, "{rule}");
        }
    }
}

/// What a tunnel's payload begins with, and bytes of the headers that each segment repeats.
#[test]
fn segments_of_any_packet_in_a_tunnel_are_measured_with_its_headers() {
    let ipv6 = |protocol| [&[0x60, 0, 0, 0, 0, 0, protocol][..], &[0; 33]].concat();
    let ipv4 = |protocol| [&[0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol][..], &[0; 10]].concat();
    let with_options = [&[0; 12][..], &[0x80], &[0; 2000]].concat();
    const ESP: u8 = 50;
    // Behind a VXLAN header, behind one of GENEVE with options, and without any (FOU).
    for shim in [VXLAN, VXLAN + 12, 0] {
        for (inner, transport, headers) in [
            (ipv4(TCP), 20, Some(20 + 32)),
            (ipv6(TCP), 40, Some(40 + 32)),
            (ipv4(UDP), 20, Some(20 + 8)),
            (ipv6(UDP), 40, Some(40 + 8)),
            (ipv4(ESP), 20, None),
        ] {
            let world = world();
            establish(&world, UDP);
            let payload = [&vec![0; shim][..], &inner, &with_options].concat();
            let make = udp(CLIENT, REMOTE).unsummed().payload(&payload);
            let frame = to(BRIDGE_MAC, &make);
            let network = (IP + UDP_HEADER + shim) as u16;
            let field = (network + transport + 6) as i16;
            let offload = Offload::unfinished(field).and_encapsulated(network, network + transport);
            let sent = |segment| {
                let offload = (offload, segment as u32);
                run_offloaded(&world, PORT, &frame, 1, offload).0 == Verdict::Forwarded
            };
            let fits = headers.map(|headers| MTU as usize - usize::from(network) - headers);
            match fits {
                Some(fits) => assert!(sent(fits) && !sent(fits + 1), "{inner:02x?}"),
                None => assert!(!sent(100), "{inner:02x?}"),
            }
        }
    }
}
