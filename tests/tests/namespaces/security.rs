//! What must not pass: S1, S2, and leaks.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use lab::topology::Proxmox;
use tests::craft::Ip;
use tests::{Nat, at, exchange, hears};

/// Sends to a forwarded port from a source that nobody in the internet can have.
fn is_not_delivered(net: &Proxmox, sources: &[Ipv4Addr]) -> Result<()> {
    let service = net.vm2.udp("0.0.0.0:10500")?;
    for source in sources {
        let packet = Ip::new(*source, Proxmox::PUBLIC).udp(7000, 10500, b"bad source")?;
        net.inject_from_internet(&packet)?;
    }
    let heard = hears(&service)?;
    ensure!(heard.is_none(), "delivered: {heard:?}");
    // It was the source, and not the way, that did not fit.
    let client = net.cli.udp("198.51.100.2:7000")?;
    exchange(
        &client,
        at(Proxmox::PUBLIC, 10500),
        &service,
        b"good source",
    )?;
    Ok(())
}

#[test]
fn s1_impossible_sources_are_dropped() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = Nat::proxmox(&net, &net.config())?;
    is_not_delivered(
        &net,
        &[
            Ipv4Addr::UNSPECIFIED,
            Ipv4Addr::LOCALHOST,
            Ipv4Addr::BROADCAST,
            Ipv4Addr::new(224, 0, 0, 1),
            Ipv4Addr::new(239, 255, 255, 250),
        ],
    )
}

#[test]
fn s1_impossible_sources_of_a_guest_do_not_leave() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = Nat::proxmox(&net, &net.config())?;
    let wire = net.isp.capture(Proxmox::WAN)?;
    for source in [
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::LOCALHOST,
        Ipv4Addr::BROADCAST,
    ] {
        let packet = Ip::new(source, Proxmox::CLI).udp(5000, 7000, b"bad source")?;
        net.inject_from_guest(&net.vm1, &packet)?;
    }
    let server = net.cli.udp("198.51.100.2:7000")?;
    exchange(
        &net.vm1.udp("0.0.0.0:5000")?,
        at(Proxmox::CLI, 7000),
        &server,
        b"good source",
    )?;
    for (_, packet) in wire.packets() {
        ensure!(packet.payload() != b"bad source", "on the uplink: {packet}");
    }
    Ok(())
}

#[test]
fn s2_an_internal_source_from_outside_is_dropped() -> Result<()> {
    let net = Proxmox::new()?;
    let natbpf = net.natbpf(&net.config())?;
    is_not_delivered(
        &net,
        &[Proxmox::VM1, Proxmox::VM2, Ipv4Addr::new(172, 22, 161, 7)],
    )?;
    let stats = natbpf.stats()?;
    let counts = stats["drops"]
        .as_object()
        .into_iter()
        .flat_map(|drops| drops.values());
    let dropped: u64 = counts.filter_map(serde_json::Value::as_u64).sum();
    ensure!(dropped >= 3, "not counted: {stats}");
    Ok(())
}

#[test]
fn segments_of_no_connection_leave_translated_or_not_at_all() -> Result<()> {
    let net = Proxmox::new()?;
    let _natbpf = net.natbpf(&net.config())?;
    let wire = net.isp.capture(Proxmox::WAN)?;
    // What netfilter calls INVALID and lets pass as it is: an ACK of no connection (made from a
    // SYN's header), and an ICMP error about nothing.
    let mut ack = Ip::new(Proxmox::VM1, Proxmox::CLI).syn(5000, 7000, &[])?;
    ack[33] = 0x10;
    // SYN became ACK in the same word of the checksum.
    let checksum = u16::from_be_bytes([ack[36], ack[37]]) - 0x0e;
    ack[36..38].copy_from_slice(&checksum.to_be_bytes());
    net.inject_from_guest(&net.vm1, &ack)?;
    let quoted = Ip::new(Proxmox::CLI, Proxmox::VM1).udp(7000, 5000, b"never sent")?;
    let error = Ip::new(Proxmox::VM1, Proxmox::CLI).icmp(3, 3, [0; 4], &quoted)?;
    net.inject_from_guest(&net.vm1, &error)?;
    let server = net.cli.udp("198.51.100.2:7000")?;
    exchange(
        &net.vm1.udp("0.0.0.0:5001")?,
        at(Proxmox::CLI, 7000),
        &server,
        b"last",
    )?;
    for (_, packet) in wire.packets() {
        ensure!(
            packet.source.octets()[..3] != [172, 22, 161],
            "on the uplink: {packet}"
        );
    }
    Ok(())
}
