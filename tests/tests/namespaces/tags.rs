//! VLAN tags without a VLAN: priority tags (IEEE 802.1p), and the packets behind them.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use kit::craft::Ip;
use lab::patience::patience;
use lab::topology::{Options, Proxmox, Uplink};
use lab::{Frame, Natbpf};
use tests::{at, exchange, hears};

/// Protocols of the outer and the inner tag of a VLAN.
const Q: [u8; 2] = [0x81, 0x00];
const AD: [u8; 2] = [0x88, 0xa8];
/// Priority 5, and no VLAN.
const PRIORITY: [u8; 2] = [0xa0, 0];

/// An IPv4 packet between two Ethernet addresses, behind these tags.
fn tagged(to: [u8; 6], from: [u8; 6], tags: &[([u8; 2], [u8; 2])], packet: &[u8]) -> Vec<u8> {
    let mut frame = [to, from].concat();
    for (protocol, tci) in tags {
        frame.extend([*protocol, *tci].concat());
    }
    frame.extend([0x08, 0x00]);
    frame.extend(packet);
    frame
}

/// A host without a switch before its uplink.
fn started(mode: &str) -> Result<(Proxmox, Natbpf)> {
    let net = Proxmox::with(&Options {
        uplink: Uplink::Nic,
        ..Options::default()
    })?;
    let config = net.config();
    let with_mode = format!("mode = \"{mode}\"\n[network.lan]");
    let natbpf = net.natbpf(&config.replace("[network.lan]", &with_mode))?;
    Ok((net, natbpf))
}

fn drops(natbpf: &Natbpf, reason: &str) -> Result<u64> {
    let stats = natbpf.stats()?;
    Ok(stats["drops"][reason].as_u64().unwrap_or(0))
}

/// How the packets of a flow bore tags that came in by an interface.
fn tags_of(frames: &[Frame], payload: &[u8]) -> Vec<Option<u16>> {
    let of_it = frames.iter().filter(|frame| {
        !frame.outgoing && frame.bytes.windows(payload.len()).any(|at| at == payload)
    });
    of_it
        .map(|frame| match frame.bytes.get(12..14) {
            Some([0x81, 0x00]) => Some(0),
            _ => frame.vlan,
        })
        .collect()
}

#[test]
fn o7_a_priority_tag_ends_at_the_host_in_both_directions_by_tc_and_xdp() -> Result<()> {
    for mode in ["tc", "xdp"] {
        let (net, _natbpf) = started(mode)?;
        let (guest, server) = (
            net.vm1.udp("0.0.0.0:5000")?,
            net.cli.udp("198.51.100.2:7000")?,
        );
        let talk = || exchange(&guest, at(Proxmox::CLI, 7000), &server, b"to and fro");
        talk()?;
        thread::sleep(patience(Duration::from_secs(1)));
        (0..4).try_for_each(|_| talk().map(drop))?;
        let (inside, outside) = (net.vm1.capture("eth0")?, net.isp.capture(Proxmox::WAN)?);
        let out = Ip::new(Proxmox::VM1, Proxmox::CLI).udp(5000, 7000, b"tagged-out")?;
        let back = Ip::new(Proxmox::CLI, Proxmox::PUBLIC).udp(7000, 5000, b"tagged-in")?;
        let gateway = net.host.mac("vmbr1")?;
        let wan = net.host.mac(net.wire)?;
        for _ in 0..3 {
            let frame = tagged(gateway, net.vm1.mac("eth0")?, &[(Q, PRIORITY)], &out);
            net.vm1.inject("eth0", &frame)?;
            let frame = tagged(wan, net.isp.mac(Proxmox::WAN)?, &[(Q, PRIORITY)], &back);
            net.isp.inject(Proxmox::WAN, &frame)?;
        }
        for _ in 0..3 {
            ensure!(hears(&server)?.is_some(), "{mode}: lost on the way out");
            ensure!(hears(&guest)?.is_some(), "{mode}: lost on the way in");
        }
        let (inside, outside) = (inside.stop(), outside.stop());
        for (frames, payload) in [(inside, &b"tagged-in"[..]), (outside, b"tagged-out")] {
            let tags = tags_of(&frames, payload);
            ensure!(tags == [None; 3], "{mode}: {tags:?}");
        }
    }
    Ok(())
}

#[test]
fn s9_packets_hidden_behind_a_priority_tag_are_dropped_and_counted() -> Result<()> {
    let (net, natbpf) = started("tc")?;
    let host = net.host.udp("0.0.0.0:8006")?;
    let server = net.cli.udp("198.51.100.2:7000")?;
    let to_host = Ip::new(Proxmox::VM1, Proxmox::GATEWAY).udp(5000, 8006, b"x")?;
    let out = Ip::new(Proxmox::VM1, Proxmox::CLI).udp(5000, 7000, b"x")?;
    let to_uplink = Ip::new(Proxmox::CLI, Proxmox::PUBLIC).udp(7000, 8006, b"x")?;
    let gateway = net.host.mac("vmbr1")?;
    let wan = net.host.mac(net.wire)?;
    let vlan = [0, 100];
    let mut hidden = 0;
    for tags in [
        &[(Q, PRIORITY), (Q, PRIORITY)][..],
        &[(Q, [0, 0]), (Q, [0, 0]), (Q, [0, 0])],
        &[(Q, PRIORITY), (Q, vlan)],
        &[(AD, PRIORITY), (Q, PRIORITY)],
        &[(Q, PRIORITY), (AD, vlan)],
    ] {
        for packet in [&to_host, &out] {
            let frame = tagged(gateway, net.vm1.mac("eth0")?, tags, packet);
            net.vm1.inject("eth0", &frame)?;
        }
        let frame = tagged(wan, net.isp.mac(Proxmox::WAN)?, tags, &to_uplink);
        net.isp.inject(Proxmox::WAN, &frame)?;
        hidden += 3;
        for socket in [&host, &server] {
            socket.set_read_timeout(Some(Duration::from_millis(100)))?;
            ensure!(hears(socket)?.is_none(), "passed behind {tags:02x?}");
        }
    }
    let counted = drops(&natbpf, "hidden_by_tags")?;
    ensure!(counted == hidden, "{counted} of {hidden} counted");
    // A packet whose first tag has a VLAN number belongs to that VLAN. A packet without a VLAN is
    // received.
    for tags in [&[(Q, vlan)][..], &[(Q, vlan), (Q, PRIORITY)]] {
        let frame = tagged(gateway, net.vm1.mac("eth0")?, tags, &to_host);
        net.vm1.inject("eth0", &frame)?;
    }
    let frame = tagged(gateway, net.vm1.mac("eth0")?, &[(Q, PRIORITY)], &to_host);
    net.vm1.inject("eth0", &frame)?;
    host.set_read_timeout(Some(patience(Duration::from_secs(3))))?;
    ensure!(hears(&host)?.is_some(), "lost behind a priority tag");
    ensure!(
        drops(&natbpf, "hidden_by_tags")? == hidden,
        "counted too many"
    );
    Ok(())
}
