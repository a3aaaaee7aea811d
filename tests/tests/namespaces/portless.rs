//! Protocols whose ports, if they have any, stay as they are: P1, P2, P3.
//!
//! The kernel of the test machine has no SCTP sockets, so an association is made by hand.

use anyhow::{Result, ensure};
use kit::craft::Ip;
use lab::topology::Proxmox;
use lab::{Capture, Natbpf, Packet};
use tests::{Watch, at, exchange};

const SCTP: u8 = 132;
const GRE: u8 = 47;
const ESP: u8 = 50;

/// The checksum of SCTP (RFC 9260 appendix A, RFC 3720 appendix B.4), bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    !crc
}

/// An SCTP packet with one chunk of this type.
fn sctp(source: u16, destination: u16, chunk_type: u8) -> Vec<u8> {
    let mut packet = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    packet.extend(0x0102_0304_u32.to_be_bytes());
    packet.extend([0; 4]);
    packet.extend([chunk_type, 0, 0, 20]);
    packet.extend([7; 16]);
    let sum = crc32c(&packet).to_le_bytes();
    packet[8..12].copy_from_slice(&sum);
    packet
}

/// A packet of a protocol that says nothing of ports to a NAT.
fn opaque(protocol: u8, number: u8) -> Vec<u8> {
    match protocol {
        // Version 0, without options, an Ethernet frame in it.
        GRE => [&[0, 0, 0x65, 0x58][..], &[number; 40]].concat(),
        // A security parameter index and a sequence number.
        _ => [&[1, 2, 3, number][..], &[0, 0, 0, number], &[number; 40]].concat(),
    }
}

/// The payload of the first received packet of a protocol.
fn received(capture: &Capture, protocol: u8, inside: &[u8]) -> Result<Packet> {
    let fits = |packet: &Packet| packet.protocol == protocol && packet.payload() == inside;
    let (frame, packet) = capture.wait_for(|frame, packet| !frame.outgoing && fits(packet))?;
    frame.checksums()?;
    Ok(packet)
}

fn refused(nat: &Natbpf) -> Result<u64> {
    Ok(nat.stats()?["drops"]["remote_in_use"].as_u64().unwrap_or(0))
}

/// One guest and the remote talk; another guest to the same remote is refused; what the remote
/// sends still reaches the first one, and never the other.
fn one_guest_per_remote(protocol: u8, there: [&[u8]; 2], back: [&[u8]; 2]) -> Result<()> {
    let net = Proxmox::new()?;
    let nat = net.natbpf(&net.config())?;
    let watch = Watch::proxmox(&net)?;
    let outside = net.cli.capture("eth0")?;
    let (first, second) = (net.vm1.capture("eth0")?, net.vm2.capture("eth0")?);
    let from_guest = |address, inside: &[u8]| Ip::new(address, Proxmox::CLI).raw(protocol, inside);
    let from_remote = |inside: &[u8]| Ip::new(Proxmox::CLI, Proxmox::PUBLIC).raw(protocol, inside);
    for (request, answer) in there.into_iter().zip(back) {
        net.inject_from_guest(&net.vm1, &from_guest(Proxmox::VM1, request)?)?;
        let packet = received(&outside, protocol, request)?;
        ensure!(packet.source == Proxmox::PUBLIC, "{packet}");
        net.inject_from_internet(&from_remote(answer)?)?;
        let packet = received(&first, protocol, answer)?;
        ensure!(
            packet.source == Proxmox::CLI && packet.destination == Proxmox::VM1,
            "{packet}"
        );
    }
    let before = refused(&nat)?;
    net.inject_from_guest(&net.vm2, &from_guest(Proxmox::VM2, there[0])?)?;
    second.wait_for(|_, packet| packet.icmp() == Some((3, 1)))?;
    ensure!(refused(&nat)? == before + 1, "not counted");
    net.inject_from_internet(&from_remote(back[1])?)?;
    // Another remote is free for it.
    net.inject_from_guest(
        &net.vm2,
        &Ip::new(Proxmox::VM2, Proxmox::SRV2).raw(protocol, there[1])?,
    )?;
    watch.sent(|packet| packet.destination == Proxmox::SRV2 && packet.protocol == protocol)?;
    let mixed = second
        .packets()
        .iter()
        .any(|(frame, packet)| !frame.outgoing && packet.protocol == protocol);
    ensure!(!mixed, "the other guest got what was not its");
    watch.finish().map(drop)
}

#[test]
fn p1_sctp_of_one_guest_per_remote_passes_with_its_checksum() -> Result<()> {
    const INIT: u8 = 1;
    const INIT_ACK: u8 = 2;
    const COOKIE_ECHO: u8 = 10;
    const COOKIE_ACK: u8 = 11;
    ensure!(crc32c(&[0; 32]) == 0x8a91_36aa, "RFC 3720 appendix B.4");
    one_guest_per_remote(
        SCTP,
        [&sctp(5000, 38412, INIT), &sctp(5000, 38412, COOKIE_ECHO)],
        [&sctp(38412, 5000, INIT_ACK), &sctp(38412, 5000, COOKIE_ACK)],
    )
}

#[test]
fn p2_gre_of_one_guest_per_remote_passes() -> Result<()> {
    one_guest_per_remote(
        GRE,
        [&opaque(GRE, 1), &opaque(GRE, 2)],
        [&opaque(GRE, 3), &opaque(GRE, 4)],
    )
}

#[test]
fn p3_esp_of_one_guest_per_remote_passes() -> Result<()> {
    one_guest_per_remote(
        ESP,
        [&opaque(ESP, 1), &opaque(ESP, 2)],
        [&opaque(ESP, 3), &opaque(ESP, 4)],
    )
}

/// ESP in UDP (RFC 3948) has ports: any number of guests talk to one remote.
#[test]
fn p3_esp_in_udp_of_two_guests_passes_to_one_remote() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = net.natbpf(&net.config())?;
    let server = net.cli.udp("198.51.100.2:4500")?;
    let mut seen = Vec::new();
    for guest in [&net.vm1, &net.vm2] {
        let client = guest.udp("0.0.0.0:4500")?;
        let payload = opaque(ESP, 9);
        seen.push((
            exchange(&client, at(Proxmox::CLI, 4500), &server, &payload)?,
            client,
        ));
    }
    ensure!(seen[0].0 != seen[1].0, "{seen:?}");
    Ok(())
}
