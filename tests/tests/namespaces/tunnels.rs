//! Tunnels through translated UDP, whose packets have unfinished checksums and segmentation, and
//! guests that leave the wrong things to devices.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kit::craft::Ip;
use lab::patience::patience;
use lab::topology::{Options, Proxmox, Uplink};
use lab::{Natbpf, Offload};
use serde_json::Value;
use tests::bulk::{Sender, transfer};
use tests::{at, hears};

use super::wire::{bad_checksums, counted};

/// Ends of the tunnel.
const GUEST: &str = "10.77.0.1";
const OUTSIDE: std::net::Ipv4Addr = std::net::Ipv4Addr::new(10, 77, 0, 2);

const FORWARD: &str = "[[forward]]\nname = \"vxlan\"\nuplink = \"wan\"\nprotocol = \"udp\"\n\
                       ports = 4789\nto = \"172.22.161.170\"\n";

fn started(mode: &str) -> Result<(Proxmox, Natbpf)> {
    let net = Proxmox::with(&Options {
        uplink: Uplink::Nic,
        ..Options::default()
    })?;
    let with_mode = format!("mode = \"{mode}\"\n[network.lan]");
    let config = net.config().replace("[network.lan]", &with_mode);
    let natbpf = net.natbpf(&format!("{config}\n{FORWARD}"))?;
    Ok((net, natbpf))
}

/// Connects the first guest and the host outside by VXLAN, with or without its own checksums.
fn join(net: &Proxmox, sum: &str, mtu: u32) -> Result<()> {
    for (host, remote, address) in [
        (&net.vm1, Proxmox::CLI, GUEST.to_owned()),
        (&net.cli, Proxmox::PUBLIC, OUTSIDE.to_string()),
    ] {
        host.ip(&format!(
            "link add vx type vxlan id 7 remote {remote} dstport 4789 {sum}\n\
             address add {address}/24 dev vx\nlink set vx mtu {mtu} up"
        ))?;
    }
    Ok(())
}

/// A connection through the tunnel that each end sends by. The first packets teach the fast path.
fn talk(net: &Proxmox, bytes: usize) -> Result<()> {
    let to = at(OUTSIDE, 9000);
    transfer(&net.vm1, to, &net.cli, 9000, Sender::Client, 1000)?;
    thread::sleep(patience(Duration::from_secs(1)));
    for sender in [Sender::Client, Sender::Server] {
        transfer(&net.vm1, to, &net.cli, 9000, sender, bytes)
            .with_context(|| format!("{sender:?} sends"))?;
    }
    Ok(())
}

#[test]
fn o8_tcp_in_a_tunnel_arrives_without_a_wrong_checksum_by_tc_and_xdp() -> Result<()> {
    for mode in ["tc", "xdp"] {
        let (net, _natbpf) = started(mode)?;
        for host in [&net.vm1, &net.cli, &net.host] {
            let interface = if host.name() == net.host.name() {
                net.wire
            } else {
                "eth0"
            };
            host.set_offload(interface, Offload::Gro, true)?;
        }
        for sum in ["noudpcsum", "udpcsum"] {
            join(&net, sum, 1400)?;
            talk(&net, 500_000).with_context(|| format!("{mode}, {sum}"))?;
            for host in [&net.vm1, &net.cli] {
                host.ip("link delete vx")?;
            }
        }
        for host in [&net.vm1, &net.cli] {
            let bad = bad_checksums(host)?;
            ensure!(bad == 0, "{mode}: {} threw {bad} packets away", host.name());
        }
    }
    Ok(())
}

#[test]
fn o9_segments_in_a_tunnel_that_do_not_fit_the_uplink_are_fragmented() -> Result<()> {
    let (net, _natbpf) = started("tc")?;
    for (host, interface) in [(&net.host, net.wire), (&net.isp, Proxmox::WAN)] {
        host.ip(&format!("link set {interface} mtu 1450"))?;
    }
    for offload in [Offload::Tso, Offload::Gso] {
        net.host.set_offload(net.wire, offload, false)?;
    }
    // Without inner headers a segment would be small enough: 1,430 bytes and those of the tunnel.
    join(&net, "noudpcsum", 1430)?;
    talk(&net, 500_000)?;
    // What is lost as one of many segments is sent again alone, which is measured as a packet.
    let again = counted(&net.vm1, "RetransSegs")?;
    ensure!(again < 50, "{again} of 360 segments were sent again");
    Ok(())
}

fn rule(natbpf: &Natbpf, name: &str) -> Result<Value> {
    let stats = natbpf.stats()?;
    let rules = stats["rules"].as_array().context("no rules")?;
    let rule = rules.iter().find(|rule| rule["name"] == name);
    rule.cloned().with_context(|| format!("no rule {name}"))
}

#[test]
fn o9_a_tunnels_packets_count_as_on_the_wire() -> Result<()> {
    let (net, natbpf) = started("tc")?;
    join(&net, "noudpcsum", 1400)?;
    talk(&net, 1000)?;
    // The last device cuts segments: what leaves the host is counted by the wire's other end.
    for offload in [Offload::Tso, Offload::Gso] {
        net.host.set_offload(net.wire, offload, false)?;
    }
    let on_wire = || -> Result<(u64, u64)> {
        let text = net
            .isp
            .check(["ip", "-s", "-j", "link", "show", Proxmox::WAN])?;
        let links: Value = serde_json::from_str(&text)?;
        let received = &links[0]["stats64"]["rx"];
        let count = |name: &str| received[name].as_u64().context("no counter");
        Ok((count("packets")?, count("bytes")?))
    };
    let by_rules = || -> Result<(u64, u64)> {
        let mut total = (0, 0);
        for name in ["vxlan", "lan-out"] {
            let rule = rule(&natbpf, name)?;
            total.0 += rule["packets_out"].as_u64().context("packets_out")?;
            total.1 += rule["bytes_out"].as_u64().context("bytes_out")?;
        }
        Ok(total)
    };
    let (wire, own) = (on_wire()?, by_rules()?);
    talk(&net, 300_000)?;
    thread::sleep(Duration::from_millis(300));
    let (wire_after, own_after) = (on_wire()?, by_rules()?);
    let packets = (wire_after.0 - wire.0, own_after.0 - own.0);
    let bytes = (wire_after.1 - wire.1, own_after.1 - own.1);
    // ARP and the like are on the wire as well.
    ensure!(
        packets.1 <= packets.0 && packets.0 - packets.1 <= 10,
        "packets on the wire and counted: {packets:?}"
    );
    let with_headers = bytes.1 + 14 * packets.1;
    ensure!(
        with_headers <= bytes.0 && bytes.0 - with_headers <= 1000,
        "bytes on the wire and counted, with Ethernet headers: {bytes:?}"
    );
    Ok(())
}

#[test]
fn o10_a_guest_gets_no_port_or_address_of_its_choice_by_a_false_place_for_a_checksum() -> Result<()>
{
    let (net, natbpf) = started("tc")?;
    // Packets that leave the host have all checksums.
    net.host.set_offload(net.wire, Offload::Checksum, false)?;
    let server = net.cli.udp("0.0.0.0:7000")?;
    let packet = Ip::new(Proxmox::VM1, Proxmox::CLI).udp_unsummed(5000, 7000, b"payload!")?;
    let frame = [
        &net.host.mac("vmbr1")?[..],
        &net.vm1.mac("eth0")?,
        &[0x08, 0x00],
        &packet,
    ]
    .concat();
    let socket = net.vm1.raw("eth0")?;
    socket.set_virtio_header()?;
    let send = |place: Option<(u16, u16)>| {
        let mut header = [0; 10];
        if let Some((start, offset)) = place {
            header[0] = 1;
            header[6..8].copy_from_slice(&start.to_le_bytes());
            header[8..10].copy_from_slice(&offset.to_le_bytes());
        }
        socket.send(&[&header[..], &frame].concat())
    };
    let ports = |count: usize| -> Result<Vec<u16>> {
        (0..count)
            .map(|_| Ok(hears(&server)?.context("lost")?.1.port()))
            .collect()
    };
    for round in ["slow path", "fast path"] {
        send(None)?;
        let port = ports(1)?[0];
        let before = natbpf.stats()?["drops"]["false_offload"].as_u64();
        // Source and destination address, source and destination port, and the Ethernet header.
        let false_places = [(34, 0), (34, 2), (14, 12), (14, 16), (26, 8), (0, 6)];
        // (Newer kernels refuse a place that is no transport header's themselves.)
        let is_taken = |place: &&(u16, u16)| send(Some(**place)).is_ok();
        let taken = false_places.iter().filter(is_taken).count() as u64;
        ensure!(taken >= 2, "{round}: the kernel takes {taken} false places");
        ensure!(hears(&server)?.is_none(), "{round}: arrived");
        let after = natbpf.stats()?["drops"]["false_offload"].as_u64();
        let dropped = after.zip(before).map(|(after, before)| after - before);
        ensure!(
            dropped == Some(taken),
            "{round}: {dropped:?} counted of {taken}"
        );
        // Within the payload a guest may have written what it likes.
        send(None)?;
        send(Some((34, 8)))?;
        let seen = ports(2)?;
        ensure!(seen.iter().all(|seen| *seen == port), "{round}: {seen:?}");
        thread::sleep(patience(Duration::from_secs(1)));
    }
    Ok(())
}
