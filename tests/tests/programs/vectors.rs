//! Packet vectors. They cover what the tests with hosts cannot send or distinguish.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use etherparse::{PacketBuilder, PacketHeaders, TransportHeader};
use nat_common::tables::interfaces::role;

use super::harness::{HOOK, PUBLIC, Plane};

pub(super) const GUEST: [u8; 4] = [172, 22, 161, 170];
pub(super) const REMOTE: [u8; 4] = [198, 51, 100, 2];
pub(super) const GO_ON: i32 = -1;
pub(super) const DROP: i32 = 2;
pub(super) const REDIRECT: i32 = 7;

pub(super) fn udp(
    source: [u8; 4],
    destination: [u8; 4],
    ports: (u16, u16),
    payload: &[u8],
) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4(source, destination, 64)
        .udp(ports.0, ports.1);
    let mut packet = Vec::new();
    builder.write(&mut packet, payload).unwrap();
    packet
}

fn tcp(source: [u8; 4], destination: [u8; 4], ports: (u16, u16)) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4(source, destination, 64)
        .tcp(ports.0, ports.1, 1, 1024)
        .syn();
    let mut packet = Vec::new();
    builder.write(&mut packet, b"").unwrap();
    packet
}

/// Addresses and ports, once all checksums were found right.
pub(super) fn flow(packet: &[u8]) -> Result<(Ipv4Addr, u16, Ipv4Addr, u16)> {
    let headers = PacketHeaders::from_ethernet_slice(packet)?;
    let Some(etherparse::NetHeaders::Ipv4(ip, _)) = &headers.net else {
        anyhow::bail!("not IPv4");
    };
    ensure!(
        ip.header_checksum == ip.calc_header_checksum(),
        "IP checksum"
    );
    let payload = headers.payload.slice();
    let (source, destination) = match &headers.transport {
        Some(TransportHeader::Udp(udp)) => {
            let right = udp.calc_checksum_ipv4(ip, payload)?;
            ensure!(udp.checksum == 0 || udp.checksum == right, "UDP checksum");
            (udp.source_port, udp.destination_port)
        }
        Some(TransportHeader::Tcp(tcp)) => {
            ensure!(
                tcp.checksum == tcp.calc_checksum_ipv4(ip, payload)?,
                "TCP checksum"
            );
            (tcp.source_port, tcp.destination_port)
        }
        other => anyhow::bail!("transport {other:?}"),
    };
    Ok((ip.source.into(), source, ip.destination.into(), destination))
}

/// Out by masquerade with the port kept, and the answer back to the guest.
#[test]
fn u1_masquerade_translates_out_and_back() -> Result<()> {
    let mut plane = Plane::new()?;
    let out = plane.outbound(&udp(GUEST, REMOTE, (5000, 7000), b"question"))?;
    ensure!(out.verdict == GO_ON, "verdict {}", out.verdict);
    ensure!(flow(&out.packet)? == (PUBLIC, 5000, REMOTE.into(), 7000));
    let back = plane.inbound(&udp(REMOTE, PUBLIC.octets(), (7000, 5000), b"answer"))?;
    ensure!(flow(&back.packet)? == (REMOTE.into(), 7000, GUEST.into(), 5000));
    Ok(())
}

/// In by a forward, first and last port, and the answer with the public address.
#[test]
fn m2_forwards_translate_first_and_last_port_and_the_answer() -> Result<()> {
    let mut plane = Plane::new()?;
    for port in [10000, 10999] {
        let request = plane.inbound(&tcp(REMOTE, PUBLIC.octets(), (40000, port)))?;
        ensure!(flow(&request.packet)? == (REMOTE.into(), 40000, GUEST.into(), port));
        let answer = plane.outbound(&tcp(GUEST, REMOTE, (port, 40000)))?;
        ensure!(flow(&answer.packet)? == (PUBLIC, port, REMOTE.into(), 40000));
    }
    for port in [9999, 11000] {
        let packet = tcp(REMOTE, PUBLIC.octets(), (40000, port));
        let other = plane.inbound(&packet)?;
        ensure!(
            (other.verdict, &other.packet) == (GO_ON, &packet),
            "port {port}"
        );
    }
    Ok(())
}

/// A UDP checksum of 0 means none, and stays so.
#[test]
fn u6_udp_without_checksum_stays_without() -> Result<()> {
    let mut plane = Plane::new()?;
    let mut packet = udp(GUEST, REMOTE, (5000, 7000), b"unsummed");
    packet[40..42].fill(0);
    let out = plane.outbound(&packet)?;
    ensure!(flow(&out.packet)?.0 == PUBLIC);
    ensure!(out.packet[40..42] == [0, 0]);
    Ok(())
}

/// Whatever the payload, the sum on the wire is right: among 70,000 there is every sum, and one
/// that computes to 0 is sent as 0xffff.
#[test]
fn u7_a_sum_that_computes_to_zero_is_sent_as_ffff() -> Result<()> {
    let mut plane = Plane::new()?;
    let mut seen = false;
    for word in 0..=u16::MAX {
        let packet = udp(GUEST, REMOTE, (5000, 7000), &word.to_be_bytes());
        let out = plane.outbound(&packet)?.packet;
        ensure!(
            out[40..42] != [0, 0],
            "payload {word:04x} lost its checksum"
        );
        if out[40..42] == [0xff, 0xff] {
            flow(&out)?;
            seen = true;
        }
    }
    ensure!(seen, "no payload made a sum of 0");
    Ok(())
}

/// Options between the addresses and the ports stay where they are.
#[test]
fn ip_options_are_kept() -> Result<()> {
    let mut plane = Plane::new()?;
    let mut packet = udp(GUEST, REMOTE, (5000, 7000), b"with options");
    // Four bytes of "no operation" (RFC 791), counted in both lengths.
    packet.splice(34..34, [1, 1, 1, 1]);
    packet[14] = 0x46;
    packet[17] += 4;
    let (mut ip, _) = etherparse::Ipv4Header::from_slice(&packet[14..])?;
    ip.header_checksum = ip.calc_header_checksum();
    packet[24..26].copy_from_slice(&ip.header_checksum.to_be_bytes());
    let out = plane.outbound(&packet)?;
    ensure!(flow(&out.packet)? == (PUBLIC, 5000, REMOTE.into(), 7000));
    ensure!(out.packet[34..38] == [1, 1, 1, 1]);
    Ok(())
}

/// A packet with a VLAN tag belongs to an interface on top of this one.
#[test]
fn o3_tagged_packets_on_the_parent_device_are_left_alone() -> Result<()> {
    let mut plane = Plane::new()?;
    let mut packet = udp(GUEST, REMOTE, (5000, 7000), b"tagged");
    packet.splice(12..12, [0x81, 0x00, 0x00, 0x64]);
    let out = plane.outbound(&packet)?;
    ensure!((out.verdict, out.packet) == (GO_ON, packet));
    Ok(())
}

/// Excluded destinations keep the guest's address; multicast does not leave with it.
#[test]
fn m3_excluded_destinations_and_multicast_are_not_translated() -> Result<()> {
    let mut plane = Plane::new()?;
    let packet = udp(GUEST, [10, 1, 2, 3], (5000, 7000), b"by the tunnel");
    let out = plane.outbound(&packet)?;
    ensure!((out.verdict, out.packet) == (GO_ON, packet));
    let out = plane.outbound(&udp(GUEST, [224, 0, 0, 251], (5353, 5353), b"mdns"))?;
    ensure!(out.verdict == DROP && plane.dropped("no_session")? == 1);
    Ok(())
}

/// Sources that no outside host can have.
#[test]
fn s1_s2_impossible_sources_are_dropped_and_counted() -> Result<()> {
    let mut plane = Plane::new()?;
    for (sources, reason) in [
        ([[127, 0, 0, 1], [0, 0, 0, 0]], "martian_source"),
        ([[224, 0, 0, 1], [255, 255, 255, 255]], "broadcast_source"),
    ] {
        for source in sources {
            let out = plane.inbound(&udp(source, PUBLIC.octets(), (1, 10000), b"martian"))?;
            ensure!(out.verdict == DROP, "{source:?}");
        }
        ensure!(plane.dropped(reason)? == 2, "{reason}");
    }
    let out = plane.inbound(&udp(GUEST, PUBLIC.octets(), (1, 10000), b"from inside?"))?;
    ensure!(out.verdict == DROP && plane.dropped("internal_source")? == 1);
    Ok(())
}

/// A packet truncated at any length is dropped, or passes unchanged.
#[test]
fn s5_truncated_packets_are_never_half_translated() -> Result<()> {
    let mut plane = Plane::new()?;
    let request = udp(REMOTE, PUBLIC.octets(), (4000, 10000), b"whole");
    let syn = tcp(REMOTE, PUBLIC.octets(), (4000, 10000));
    for packet in [request, syn] {
        // The kernel takes no test packet without a whole IPv4 header.
        for len in 34..packet.len() {
            let cut = &packet[..len];
            let out = plane.inbound(cut)?;
            let is_untouched = out.verdict == GO_ON && out.packet == cut;
            ensure!(out.verdict == DROP || is_untouched, "{len} bytes");
        }
    }
    ensure!(plane.dataplane.ipv4.sessions.entries()?.is_empty());
    Ok(())
}

/// Lengths that contradict each other.
#[test]
fn s5_lying_lengths_are_dropped() -> Result<()> {
    let mut plane = Plane::new()?;
    let lies: [(usize, u8); 5] = [
        (14, 0x44), // header length below 20 bytes
        (14, 0x4f), // header length beyond the packet's transport header
        (16, 0xff), // total length beyond the packet
        (38, 0xff), // UDP length beyond the packet
        (39, 0x03), // UDP length below its header
    ];
    for (offset, value) in lies {
        let mut packet = udp(REMOTE, PUBLIC.octets(), (4000, 10000), b"whole");
        packet[offset] = value;
        let out = plane.inbound(&packet)?;
        let is_untouched = out.verdict == GO_ON && out.packet == packet;
        ensure!(
            out.verdict == DROP || is_untouched,
            "byte {offset} = {value:#x}"
        );
    }
    ensure!(plane.dataplane.ipv4.sessions.entries()?.is_empty());
    Ok(())
}

/// The host's own packets leave as they are.
#[test]
fn s6_the_hosts_own_packets_leave_untouched() -> Result<()> {
    let mut plane = Plane::new()?;
    let packet = udp(PUBLIC.octets(), REMOTE, (5000, 7000), b"host");
    let out = plane.host_outbound(&packet)?;
    ensure!((out.verdict, out.packet) == (GO_ON, packet));
    Ok(())
}

/// A connection of the host's that collides with a guest's gets another port, and its answers come
/// back to the one it has.
#[test]
fn s6_a_colliding_connection_of_the_host_keeps_working() -> Result<()> {
    let mut plane = Plane::new()?;
    plane.outbound(&udp(GUEST, REMOTE, (5000, 7000), b"guest"))?;
    let out = plane.host_outbound(&udp(PUBLIC.octets(), REMOTE, (5000, 7000), b"host"))?;
    let (source, port, ..) = flow(&out.packet)?;
    ensure!(source == PUBLIC && port != 5000, "port {port}");
    let back = plane.inbound(&udp(REMOTE, PUBLIC.octets(), (7000, port), b"to the host"))?;
    ensure!(flow(&back.packet)? == (REMOTE.into(), 7000, PUBLIC, 5000));
    let guests = plane.inbound(&udp(REMOTE, PUBLIC.octets(), (7000, 5000), b"to the guest"))?;
    ensure!(flow(&guests.packet)?.2 == Ipv4Addr::from(GUEST));
    Ok(())
}

/// A full table refuses new sessions and keeps serving existing ones.
#[test]
fn x1_a_full_table_loses_no_session() -> Result<()> {
    let mut plane = Plane::new()?;
    let capacity = plane.dataplane.ipv4.sessions.capacity()?;
    let packet = |n: u32| {
        let remote = [198, 51, (n >> 8) as u8, n as u8];
        udp(GUEST, remote, (5000, 7000), b"fill")
    };
    for n in 0..capacity {
        ensure!(
            plane.outbound(&packet(n))?.verdict == GO_ON,
            "session {n} of {capacity}"
        );
    }
    // The guest receives host unreachable (ICMP 3/1).
    let refused = plane.outbound(&packet(capacity))?;
    ensure!(refused.verdict == REDIRECT, "verdict {}", refused.verdict);
    ensure!(refused.packet[23] == 1 && refused.packet[30..34] == GUEST);
    ensure!(refused.packet[34..36] == [3, 1]);
    ensure!(plane.dropped("table_full")? == 1);
    for n in 0..capacity {
        ensure!(
            plane.outbound(&packet(n))?.verdict == GO_ON,
            "session {n} was lost"
        );
    }
    Ok(())
}

/// Devices without Ethernet headers have programs that look for the network header at the start.
#[test]
fn packets_without_a_link_layer_header_are_translated() -> Result<()> {
    let mut plane = Plane::new()?;
    // The test run takes bytes 12 and 13 for the protocol: here they are the source address's
    // first two, which therefore say IPv4.
    let remote = [8, 0, 100, 2];
    let packet = udp(remote, PUBLIC.octets(), (7000, 10000), b"no link layer").split_off(14);
    let out = plane.run("nat_inbound_l3", role::UPLINK, &packet, HOOK)?;
    let mut framed = vec![0; 12];
    framed.extend([8, 0]);
    framed.extend(&out.packet);
    ensure!(flow(&framed)? == (remote.into(), 7000, GUEST.into(), 10000));
    Ok(())
}
