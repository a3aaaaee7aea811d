//! Offloads, other uplinks, and what a header says beside addresses: O1, O2, O4.

use anyhow::{Context, Result, ensure};
use kit::craft::Ip;
use lab::topology::{Options, Proxmox, Uplink};
use lab::{Host, Offload};
use tests::bulk::{Sender, transfer};
use tests::{Nat, Watch, at, exchange};

const MEGABYTE: usize = 1_000_000;

/// Packets that a host threw away because of their checksum.
pub(super) fn bad_checksums(host: &Host) -> Result<u64> {
    counted(host, "InCsumErrors")
}

/// What a host has counted under this name, in all protocols.
pub(super) fn counted(host: &Host, wanted: &str) -> Result<u64> {
    let text = host.enter(|| std::fs::read_to_string("/proc/thread-self/net/snmp"))??;
    let mut total = 0;
    let rows: Vec<&str> = text.lines().collect();
    for pair in rows.chunks(2) {
        let names = pair[0].split_whitespace();
        let values = pair.get(1).copied().unwrap_or_default().split_whitespace();
        for (name, value) in names.zip(values).filter(|(name, _)| *name == wanted) {
            total += value.parse::<u64>().with_context(|| name.to_owned())?;
        }
    }
    Ok(total)
}

/// One connection through the forward and one through masquerade, each sending both ways.
fn all_ways(net: &Proxmox) -> Result<()> {
    for sender in [Sender::Client, Sender::Server] {
        let forwarded = at(Proxmox::PUBLIC, 10001);
        transfer(&net.cli, forwarded, &net.vm1, 10001, sender, MEGABYTE)
            .with_context(|| format!("forward, {sender:?} sends"))?;
        transfer(
            &net.vm1,
            at(Proxmox::CLI, 7000),
            &net.cli,
            7000,
            sender,
            MEGABYTE,
        )
        .with_context(|| format!("masquerade, {sender:?} sends"))?;
    }
    Ok(())
}

/// Tries something with offloads on and off at each end.
pub(super) fn with_each_offload(net: &Proxmox, tried: impl Fn() -> Result<()>) -> Result<()> {
    for (guest, outside, host) in [
        (true, true, true),
        (false, true, true),
        (true, false, true),
        (true, true, false),
        (false, false, false),
    ] {
        net.vm1.set_offloads("eth0", guest)?;
        net.cli.set_offloads("eth0", outside)?;
        for interface in ["tap1", net.wire] {
            net.host.set_offloads(interface, host)?;
        }
        tried()
            .with_context(|| format!("offloads: guest {guest}, outside {outside}, host {host}"))?;
    }
    Ok(())
}

#[test]
fn o1_offloads_on_and_off_at_each_end() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = Nat::proxmox(&net, &net.config())?;
    let watch = Watch::proxmox(&net)?;
    with_each_offload(&net, || all_ways(&net))?;
    for host in [&net.vm1, &net.cli] {
        let bad = bad_checksums(host)?;
        ensure!(bad == 0, "{} threw {bad} packets away", host.name());
    }
    watch.finish().map(drop)
}

#[test]
fn o2_a_checksum_left_to_the_device_is_right_on_the_wire() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = Nat::proxmox(&net, &net.config())?;
    // The guest leaves its checksums unfinished; this device does not finish them, so that the
    // kernel has to, after the translation.
    net.host.set_offload(net.wire, Offload::Checksum, false)?;
    let watch = Watch::proxmox(&net)?;
    let server = net.cli.udp("198.51.100.2:7000")?;
    exchange(
        &net.vm1.udp("0.0.0.0:5000")?,
        at(Proxmox::CLI, 7000),
        &server,
        b"question",
    )?;
    all_ways(&net)?;
    for (frame, packet) in watch.finish()? {
        ensure!(!frame.checksum_pending, "unfinished: {packet}");
    }
    Ok(())
}

#[test]
fn o2_a_checksum_left_to_the_device_survives_a_hairpin() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = Nat::proxmox(&net, &net.config())?;
    for tap in ["tap1", "tap2"] {
        net.host.set_offload(tap, Offload::Checksum, false)?;
    }
    let captures = [net.vm1.capture("eth0")?, net.vm2.capture("eth0")?];
    let service = net.vm2.udp("0.0.0.0:10000")?;
    let client = net.vm1.udp("0.0.0.0:5000")?;
    exchange(&client, at(Proxmox::PUBLIC, 10000), &service, b"question")?;
    transfer(
        &net.vm2,
        at(Proxmox::PUBLIC, 10001),
        &net.vm1,
        10001,
        Sender::Client,
        MEGABYTE,
    )?;
    for capture in captures {
        for (frame, packet) in capture.packets() {
            frame.checksums().with_context(|| packet.to_string())?;
        }
    }
    Ok(())
}

#[test]
fn an_uplink_that_is_a_plain_nic_works() -> Result<()> {
    on_another_uplink(Uplink::Nic)
}

#[test]
fn an_uplink_without_ethernet_header_works() -> Result<()> {
    on_another_uplink(Uplink::Tun)
}

fn on_another_uplink(uplink: Uplink) -> Result<()> {
    let net = Proxmox::with(&Options {
        uplink,
        ..Options::default()
    })?;
    let _nat = Nat::proxmox(&net, &net.config())?;
    let watch = Watch::proxmox(&net)?;
    net.vm2
        .check(["ping", "-n", "-c2", "-i0.2", "-W2", "198.51.100.2"])?;
    net.cli
        .check(["ping", "-n", "-c2", "-i0.2", "-W2", "19.19.8.10"])?;
    all_ways(&net)?;
    watch.finish().map(drop)
}

#[test]
fn o4_dscp_and_ecn_are_kept() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = Nat::proxmox(&net, &net.config())?;
    let (watch, guest) = (Watch::proxmox(&net)?, net.vm2.capture("eth0")?);
    // Expedited forwarding with each value of ECN, and every bit of DSCP.
    for tos in [0xb8, 0xb9, 0xba, 0xbb, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80] {
        let ip = |source, destination| Ip {
            tos,
            ..Ip::new(source, destination)
        };
        let out = ip(Proxmox::VM1, Proxmox::CLI).udp(5000, 7000, &[tos])?;
        net.inject_from_guest(&net.vm1, &out)?;
        let sent = watch.sent(|packet| packet.payload() == [tos])?;
        ensure!(sent.tos == tos, "{tos:#04x} became {:#04x}", sent.tos);
        let back = ip(Proxmox::CLI, Proxmox::PUBLIC).udp(7000, 10000, &[tos])?;
        net.inject_from_internet(&back)?;
        let (_, got) = guest.wait_for(|_, packet| packet.payload() == [tos])?;
        ensure!(got.tos == tos, "{tos:#04x} became {:#04x}", got.tos);
    }
    watch.finish().map(drop)
}
