//! Packets that are larger than a hop takes: F1, F4, F5, F8 to F11.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kit::craft::{Ip, fragments};
use lab::topology::{Options, Proxmox};
use lab::{Packet, inner_checksums};
use tests::bulk::{Sender, transfer};
use tests::{Nat, Watch, at, exchange, hears};

/// More than a frame of Ethernet holds, less than two.
const LARGE: usize = 2000;
/// The MTU of the hop that is too small.
const SMALL_MTU: u16 = 1280;

fn large_payload() -> Vec<u8> {
    (0..LARGE).map(|n| (n * 7 % 251) as u8).collect()
}

/// Datagrams that the hosts' own kernels cut up and put together, by masquerade, by a forward and
/// between guests.
fn large_datagrams_arrive(net: &Proxmox) -> Result<()> {
    let (server, guest) = (
        net.cli.udp("198.51.100.2:7000")?,
        net.vm1.udp("0.0.0.0:5000")?,
    );
    let service = net.vm2.udp("0.0.0.0:10000")?;
    let payload = large_payload();
    let seen = exchange(&guest, at(Proxmox::CLI, 7000), &server, &payload).context("masquerade")?;
    ensure!(seen == at(Proxmox::PUBLIC, 5000), "seen as {seen}");
    exchange(&server, at(Proxmox::PUBLIC, 10000), &service, &payload).context("forward")?;
    let seen =
        exchange(&guest, at(Proxmox::PUBLIC, 10000), &service, &payload).context("hairpin")?;
    ensure!(*seen.ip() == Proxmox::PUBLIC, "seen as {seen}");
    Ok(())
}

#[test]
fn f1_fragments_in_order_arrive() -> Result<()> {
    let net = Proxmox::new()?;
    let _natbpf = net.natbpf(&net.config())?;
    let watch = Watch::proxmox(&net)?;
    large_datagrams_arrive(&net)?;
    let sent = watch.finish()?;
    let fragments = sent.iter().filter(|(_, packet)| is_fragment(packet));
    ensure!(fragments.count() >= 4, "not sent in fragments");
    Ok(())
}

fn is_fragment(packet: &Packet) -> bool {
    // More fragments, or an offset.
    packet.bytes[6] & 0x3f != 0 || packet.bytes[7] != 0
}

#[test]
fn f4_without_the_first_fragment_nothing_is_forwarded() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = Nat::proxmox(&net, &net.config())?;
    let (wire, guest) = (net.isp.capture(Proxmox::WAN)?, net.vm2.capture("eth0")?);
    let out = Ip {
        id: 0x0f4f,
        ..Ip::new(Proxmox::VM1, Proxmox::CLI)
    };
    let packet = out.udp(5000, 7000, &large_payload())?;
    for fragment in &fragments(&packet, out.id, 512)?[1..] {
        net.inject_from_guest(&net.vm1, fragment)?;
    }
    let back = Ip {
        id: 0x0f4f,
        ..Ip::new(Proxmox::CLI, Proxmox::PUBLIC)
    };
    let packet = back.udp(7000, 10000, &large_payload())?;
    for fragment in &fragments(&packet, back.id, 512)?[1..] {
        net.inject_from_internet(fragment)?;
    }
    std::thread::sleep(Duration::from_secs(1));
    for (_, packet) in wire
        .packets()
        .into_iter()
        .filter(|(frame, _)| !frame.outgoing)
        .chain(guest.packets())
    {
        ensure!(packet.id != 0x0f4f, "forwarded: {packet}");
    }
    Ok(())
}

#[test]
fn f5_a_packet_in_one_piece_with_an_identification_passes() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = Nat::proxmox(&net, &net.config())?;
    let (watch, guest) = (Watch::proxmox(&net)?, net.vm2.capture("eth0")?);
    for may_fragment in [false, true] {
        let id = 0x0f50 + u16::from(may_fragment);
        let ip = |source, destination| Ip {
            id,
            may_fragment,
            ..Ip::new(source, destination)
        };
        let packet = ip(Proxmox::VM1, Proxmox::CLI).udp(5000, 7000, b"atomic")?;
        net.inject_from_guest(&net.vm1, &packet)?;
        let sent = watch.sent(|packet| packet.id == id)?;
        ensure!(sent.ports() == Some((5000, 7000)), "{sent}");
        ensure!(sent.bytes[6..8] == packet[6..8], "other flags: {sent}");
        let packet = ip(Proxmox::CLI, Proxmox::PUBLIC).udp(7000, 10000, b"atomic")?;
        net.inject_from_internet(&packet)?;
        let (_, got) = guest.wait_for(|_, packet| packet.id == id)?;
        ensure!(got.ports() == Some((7000, 10000)), "{got}");
    }
    watch.finish().map(drop)
}

#[test]
fn f8_a_flood_of_fragments_leaves_room_for_others() -> Result<()> {
    let net = Proxmox::new()?;
    let _natbpf = net.natbpf(&net.config())?;
    let socket = net.vm2.raw("eth0")?;
    let (to, from) = (net.host.mac("vmbr1")?, net.vm2.mac("eth0")?);
    let head = [&to[..], &from, &[0x08, 0x00]].concat();
    // To another remote, whose own memory for them may be used up. Packets that never become whole:
    // first fragments, later ones, and both.
    for n in 0..60_000_u16 {
        let ip = Ip {
            id: n,
            ..Ip::new(Proxmox::VM2, Proxmox::SRV2)
        };
        let packet = ip.udp(4000, 7001, &[0; 48])?;
        let fragments = fragments(&packet, ip.id, 24)?;
        let kinds = [&fragments[..1], &fragments[1..2], &fragments[..2]];
        for fragment in kinds[usize::from(n % 3)] {
            socket.send(&[&head[..], fragment].concat())?;
        }
        if n % 10_000 == 0 {
            large_datagrams_arrive(&net).with_context(|| format!("after {n}"))?;
        }
    }
    large_datagrams_arrive(&net).context("after the flood")
}

/// A datagram with DF that is too large for a hop: the one error that its sender gets.
fn too_large(net: &Proxmox, packet: &[u8], capture: &lab::Capture, sender: &str) -> Result<Packet> {
    match sender {
        "guest" => net.inject_from_guest(&net.vm1, packet)?,
        _ => net.inject_from_internet(packet)?,
    }
    let (frame, error) = capture.wait_for(|_, packet| packet.icmp() == Some((3, 4)))?;
    frame.checksums()?;
    inner_checksums(&error.bytes)?;
    // The next hop's MTU (RFC 1191).
    ensure!(
        error.bytes[26..28] == SMALL_MTU.to_be_bytes(),
        "another MTU: {error}"
    );
    let quoted = error.quoted().context("nothing quoted")?;
    ensure!(
        quoted[12..28] == packet[12..28],
        "another packet is quoted: {error}"
    );
    Ok(error)
}

#[test]
fn f9_a_guest_learns_the_mtu_of_the_uplink() -> Result<()> {
    let net = Proxmox::with(&Options {
        uplink_mtu: Some(SMALL_MTU),
        ..Options::default()
    })?;
    let _nat = Nat::proxmox(&net, &net.config())?;
    let guest = net.vm1.capture("eth0")?;
    let packet = Ip::new(Proxmox::VM1, Proxmox::CLI).udp(5000, 7000, &[9; 1400])?;
    let error = too_large(&net, &packet, &guest, "guest")?;
    ensure!(error.source == Proxmox::GATEWAY, "{error}");
    Ok(())
}

#[test]
fn f9_a_guest_learns_the_mtu_of_a_hop_in_the_internet() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = Nat::proxmox(&net, &net.config())?;
    net.isp.ip(&format!("link set out mtu {SMALL_MTU}"))?;
    let (guest, watch) = (net.vm1.capture("eth0")?, Watch::proxmox(&net)?);
    let packet = Ip::new(Proxmox::VM1, Proxmox::CLI).udp(5000, 7000, &[9; 1400])?;
    let error = too_large(&net, &packet, &guest, "guest")?;
    ensure!(error.source == Proxmox::ISP, "{error}");
    watch.finish().map(drop)
}

#[test]
fn f9_a_client_learns_the_mtu_of_the_guests_network() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = Nat::proxmox(&net, &net.config())?;
    net.host.ip(&format!("link set vmbr1 mtu {SMALL_MTU}"))?;
    let (wire, watch) = (net.isp.capture(Proxmox::WAN)?, Watch::proxmox(&net)?);
    let packet = Ip::new(Proxmox::CLI, Proxmox::PUBLIC).udp(7000, 10000, &[9; 1400])?;
    let error = too_large(&net, &packet, &wire, "internet")?;
    ensure!(error.source == Proxmox::PUBLIC, "{error}");
    watch.finish().map(drop)
}

#[test]
fn f10_without_df_a_large_packet_is_fragmented() -> Result<()> {
    let net = Proxmox::with(&Options {
        uplink_mtu: Some(SMALL_MTU),
        ..Options::default()
    })?;
    let _natbpf = net.natbpf(&net.config())?;
    let watch = Watch::proxmox(&net)?;
    let server = net.cli.udp("198.51.100.2:7000")?;
    let ip = Ip {
        id: 0x0f10,
        may_fragment: true,
        ..Ip::new(Proxmox::VM1, Proxmox::CLI)
    };
    net.inject_from_guest(&net.vm1, &ip.udp(5000, 7000, &[10; 1400])?)?;
    let arrived = hears(&server)?;
    ensure!(
        arrived == Some((vec![10; 1400], at(Proxmox::PUBLIC, 5000).into())),
        "{arrived:?}"
    );
    let sent = watch.finish()?;
    ensure!(
        sent.iter()
            .all(|(_, packet)| packet.bytes.len() <= SMALL_MTU.into()),
        "more than the MTU on the wire"
    );
    // In order (RFC 4787 REQ-13a).
    let offsets: Vec<u8> = sent
        .iter()
        .filter(|(_, packet)| packet.id == 0x0f10)
        .map(|(_, packet)| packet.bytes[7])
        .collect();
    ensure!(
        offsets.len() == 2 && offsets.is_sorted(),
        "fragments at {offsets:?}"
    );
    Ok(())
}

#[test]
fn f11_tcp_finds_its_way_through_a_hop_with_a_small_mtu() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = Nat::proxmox(&net, &net.config())?;
    // The small hop is in the middle: neither end's own interface says so.
    net.isp.ip(&format!("link set wan0 mtu {SMALL_MTU}"))?;
    net.host.ip(&format!(
        "link set {} mtu {SMALL_MTU}\nlink set {} mtu {SMALL_MTU}",
        net.wire, net.uplink
    ))?;
    for sender in [Sender::Client, Sender::Server] {
        let forwarded = at(Proxmox::PUBLIC, 10001);
        transfer(&net.cli, forwarded, &net.vm1, 10001, sender, 1_000_000)
            .with_context(|| format!("forward, {sender:?} sends"))?;
        let outside = at(Proxmox::CLI, 7000);
        transfer(&net.vm1, outside, &net.cli, 7000, sender, 1_000_000)
            .with_context(|| format!("masquerade, {sender:?} sends"))?;
    }
    Ok(())
}
