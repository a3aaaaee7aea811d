//! What must not pass: S1, S2, S5, and leaks.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt, chown, symlink};

use anyhow::{Context, Result, ensure};
use kit::craft::Ip;
use lab::Natbpf;
use lab::topology::Proxmox;
use tests::{Nat, at, exchange, hears};

/// Sends to a forwarded port from a source that no host in the internet can have.
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

/// A neighbour on the uplink's link sends to guests and to their gateway, as a router of theirs
/// would.
#[test]
fn s10_a_neighbour_does_not_reach_translated_addresses_directly() -> Result<()> {
    let net = Proxmox::new()?;
    let natbpf = net.natbpf(&net.config())?;
    net.isp.ip("route add 172.22.161.0/24 via 19.19.8.10\n")?;
    let guest = net.vm1.udp("0.0.0.0:5353")?;
    let own = net.host.udp("172.22.161.254:5353")?;
    let neighbour = net.isp.udp("19.19.8.1:7000")?;
    let refused = || -> Result<u64> {
        let count = &natbpf.stats()?["drops"]["direct_to_inside"];
        Ok(count.as_u64().unwrap_or_default())
    };
    for to in [Proxmox::VM1, Proxmox::GATEWAY] {
        neighbour.send_to(b"directly", at(to, 5353))?;
    }
    ensure!(hears(&guest)?.is_none(), "the guest was reached");
    ensure!(hears(&own)?.is_none(), "the gateway was reached");
    ensure!(refused()? == 2, "{}", natbpf.stats()?);
    // What the rule excludes is routed, both ways.
    let excluding = net.config().replace(
        "to = \"masquerade\"",
        "to = \"masquerade\"\nexclude = [\"19.19.8.0/24\"]",
    );
    natbpf.reload(&excluding)?;
    exchange(&neighbour, at(Proxmox::VM1, 5353), &guest, b"routed")?;
    exchange(&guest, at(Proxmox::ISP, 7000), &neighbour, b"and back")?;
    ensure!(refused()? == 2, "{}", natbpf.stats()?);
    Ok(())
}

/// What docs/install.md asks for is enough, for packets both ways and to go again.
#[test]
fn three_capabilities_are_enough_for_packets() -> Result<()> {
    let net = Proxmox::new()?;
    let script = net.lab().folder().join("natbpf-with-three");
    let text = format!(
        "#!/bin/sh\nexec setpriv --no-new-privs --bounding-set=-all,+net_admin,+bpf,+perfmon {} \
         \"$@\"\n",
        Natbpf::binary()?.display()
    );
    fs::write(&script, text).context("write a script")?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).context("its mode")?;
    let mut natbpf = Natbpf::prepare(&net.host, net.lab().place(), script, &net.config())?;
    natbpf.launch()?;
    let (server, guest) = (
        net.cli.udp("198.51.100.2:7000")?,
        net.vm1.udp("0.0.0.0:5000")?,
    );
    let seen = exchange(&guest, at(Proxmox::CLI, 7000), &server, b"out")?;
    ensure!(seen == at(Proxmox::PUBLIC, 5000), "seen as {seen}");
    let forwarded = net.vm2.udp("0.0.0.0:10500")?;
    exchange(&server, at(Proxmox::PUBLIC, 10500), &forwarded, b"in")?;
    natbpf.reload(&net.config().replace("lan-out", "out"))?;
    natbpf.stop()?;
    natbpf.down()
}

/// A user of the host has been there first: with a directory of his own, or with a link to other
/// files.
#[test]
fn a_directory_of_pins_that_is_another_users_is_refused() -> Result<()> {
    const NOBODY: u32 = 65534;
    let net = Proxmox::new()?;
    let mut natbpf = net.natbpf(&net.config())?;
    natbpf.stop()?;
    natbpf.down()?;
    // As the kernel makes a bpffs that is mounted without a word on its mode.
    let bpffs = natbpf.bpffs().to_owned();
    fs::create_dir_all(&bpffs)?;
    fs::set_permissions(&bpffs, fs::Permissions::from_mode(0o1777))?;
    let refused = |word: &str, why: &str| -> Result<()> {
        let output = natbpf.cli(&[word])?;
        let is_refused = output.status.code() == Some(1) && output.stderr.contains(why);
        ensure!(is_refused, "{word}: {output:?}");
        Ok(())
    };
    for name in ["v1", "v4", "v999-next"] {
        let theirs = bpffs.join(name);
        fs::create_dir(&theirs)?;
        chown(&theirs, Some(NOBODY), None)?;
        refused("run", "belongs to user 65534")?;
        fs::remove_dir(&theirs)?;
    }
    let kept = net.lab().folder().join("kept");
    fs::create_dir(&kept)?;
    fs::write(kept.join("file"), "")?;
    symlink(&kept, bpffs.join("v4")).context("link")?;
    for word in ["run", "down"] {
        refused(word, "is not a directory")?;
    }
    ensure!(
        kept.join("file").exists(),
        "what the link leads to was removed"
    );
    fs::remove_file(bpffs.join("v4"))?;
    fs::set_permissions(natbpf.run_dir(), fs::Permissions::from_mode(0o777))?;
    refused("run", "others may write")?;
    fs::set_permissions(natbpf.run_dir(), fs::Permissions::from_mode(0o755))?;
    natbpf.launch()
}

#[test]
fn segments_of_no_connection_leave_translated_or_not_at_all() -> Result<()> {
    let net = Proxmox::new()?;
    let _natbpf = net.natbpf(&net.config())?;
    let wire = net.isp.capture(Proxmox::WAN)?;
    // What netfilter calls INVALID and lets pass unchanged: an ACK of no connection (made from a
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

#[test]
fn s5_contradictory_packets_are_dropped_and_counted() -> Result<()> {
    let net = Proxmox::new()?;
    let natbpf = net.natbpf(&net.config())?;
    let (guest, wire) = (net.vm2.capture("eth0")?, net.isp.capture(Proxmox::WAN)?);
    let whole = Ip::new(Proxmox::CLI, Proxmox::PUBLIC).udp(7000, 10500, b"malformed")?;
    let segment = Ip::new(Proxmox::CLI, Proxmox::PUBLIC).syn(7000, 10500, &[])?;
    let with = |packet: &[u8], byte: usize, value: u8| {
        let mut packet = packet.to_vec();
        packet[byte] = value;
        packet
    };
    // Every length that is not the whole, with the total length that the whole had.
    let mut bad: Vec<Vec<u8>> = (0..whole.len()).map(|n| whole[..n].to_vec()).collect();
    bad.extend((0..segment.len()).map(|n| segment[..n].to_vec()));
    // Header length, total length, the lengths of UDP and of TCP's header.
    bad.extend((0x40..0x45).chain(0x48..=0x4f).map(|v| with(&whole, 0, v)));
    bad.extend([0, 19, 27, 38, 255].map(|v| with(&whole, 3, v)));
    bad.extend([0, 7, 18, 255].map(|v| with(&whole, 25, v)));
    bad.extend([0x00, 0x40, 0x60, 0xf0].map(|v| with(&segment, 32, v)));
    for packet in &bad {
        net.inject_from_internet(packet)?;
        // From a guest the kernel refuses most of them before they are routed.
        let mut mirrored = packet.clone();
        if mirrored.len() >= 20 {
            mirrored[12..16].copy_from_slice(&Proxmox::VM1.octets());
            mirrored[16..20].copy_from_slice(&Proxmox::CLI.octets());
        }
        net.inject_from_guest(&net.vm1, &mirrored)?;
    }
    // What is whole passes on, and that nothing else has.
    let service = net.vm2.udp("0.0.0.0:10500")?;
    let client = net.cli.udp("198.51.100.2:7000")?;
    exchange(
        &client,
        at(Proxmox::PUBLIC, 10500),
        &service,
        b"as it should be",
    )?;
    for (_, packet) in guest.packets() {
        ensure!(packet.payload() != b"malformed", "at the guest: {packet}");
    }
    for (frame, packet) in wire.packets() {
        let inside = packet.source.octets()[..3] == [172, 22, 161];
        ensure!(frame.outgoing || !inside, "on the uplink: {packet}");
    }
    let stats = natbpf.stats()?;
    let counted = stats["drops"]["malformed"].as_u64().unwrap_or_default();
    ensure!(counted >= 80, "only {counted} of {} counted", bad.len());
    Ok(())
}

/// What attackers write into the packets of [`s13_packets_that_only_attackers_send_are_dropped`].
const MARK: &[u8] = b"only attackers send this";

/// A packet with IP options, a multiple of four bytes.
fn with_options(packet: &[u8], options: &[u8]) -> Vec<u8> {
    let mut packet = [&packet[..20], options, &packet[20..]].concat();
    let header = 20 + options.len();
    packet[0] = 0x40 | (header / 4) as u8;
    let total = packet.len() as u16;
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    packet[10..12].fill(0);
    let words = packet[..header].chunks(2);
    let sum: u32 = words
        .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let sum = !((folded & 0xffff) + (folded >> 16)) as u16;
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// A route by way of an address, loose or strict (RFC 791 section 3.1).
fn by_way_of(kind: u8, address: Ipv4Addr) -> Vec<u8> {
    [&[1, kind, 7, 4][..], &address.octets()].concat()
}

#[test]
fn s13_packets_that_only_attackers_send_are_dropped() -> Result<()> {
    let net = Proxmox::new()?;
    let _natbpf = net.natbpf(&net.config())?;
    let (guest, client) = (
        net.vm1.udp("0.0.0.0:5000")?,
        net.cli.udp("198.51.100.2:7000")?,
    );
    exchange(&guest, at(Proxmox::CLI, 7000), &client, b"a session")?;
    let captures = [
        net.vm1.capture("eth0")?,
        net.vm2.capture("eth0")?,
        net.isp.capture(Proxmox::WAN)?,
    ];
    let out = Ip::new(Proxmox::VM1, Proxmox::CLI);
    let back = Ip::new(Proxmox::CLI, Proxmox::PUBLIC);
    let (leaves, comes) = (out.udp(5000, 7000, MARK)?, back.udp(7000, 10500, MARK)?);
    // A redirect that quotes a packet of the session (RFC 792).
    let quoted = Ip::new(Proxmox::PUBLIC, Proxmox::CLI).udp(5000, 7000, MARK)?;
    let gateway = Proxmox::VM2.octets();
    for packet in [
        with_options(&comes, &by_way_of(131, Proxmox::VM1)),
        with_options(&comes, &by_way_of(137, Proxmox::VM1)),
        Ip::new(Proxmox::PUBLIC, Proxmox::PUBLIC).udp(10500, 10500, MARK)?,
        Ip::new(Proxmox::CLI, Proxmox::PUBLIC).icmp(5, 1, gateway, &quoted)?,
        Ip::new(Ipv4Addr::new(0, 1, 2, 3), Proxmox::PUBLIC).udp(7000, 10500, MARK)?,
        Ip::new(Ipv4Addr::new(127, 1, 2, 3), Proxmox::PUBLIC).udp(7000, 10500, MARK)?,
        Ip::new(Ipv4Addr::new(240, 1, 2, 3), Proxmox::PUBLIC).udp(7000, 10500, MARK)?,
    ] {
        net.inject_from_internet(&packet)?;
    }
    let received = Ip::new(Proxmox::CLI, Proxmox::VM1).udp(7000, 5000, MARK)?;
    for packet in [
        with_options(&leaves, &by_way_of(131, Proxmox::PUBLIC)),
        with_options(&leaves, &by_way_of(137, Proxmox::PUBLIC)),
        Ip::new(Proxmox::VM1, Proxmox::VM1).udp(5000, 5000, MARK)?,
        Ip::new(Proxmox::PUBLIC, Proxmox::PUBLIC).udp(10500, 10500, MARK)?,
        Ip::new(Proxmox::VM1, Proxmox::CLI).icmp(5, 1, gateway, &received)?,
        Ip::new(Ipv4Addr::new(240, 1, 2, 3), Proxmox::CLI).udp(5000, 7000, MARK)?,
    ] {
        net.inject_from_guest(&net.vm1, &packet)?;
    }
    exchange(&guest, at(Proxmox::CLI, 7000), &client, b"it goes on")?;
    for (capture, place) in captures.into_iter().zip(["vm1", "vm2", "isp"]) {
        let frames = capture.stop();
        let received = frames.iter().filter(|frame| !frame.outgoing);
        let is_marked = |bytes: &[u8]| bytes.windows(MARK.len()).any(|at| at == MARK);
        let passed = received.filter(|frame| is_marked(&frame.bytes));
        let passed: Vec<_> = passed
            .map(|frame| format!("{:02x?}", frame.bytes))
            .collect();
        ensure!(passed.is_empty(), "{place} has received {passed:#?}");
    }
    Ok(())
}
