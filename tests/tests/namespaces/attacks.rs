//! What a guest tries against the others and against the host: docs/security.md, "Attacks from a
//! guest".

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kit::craft::Ip;
use lab::Host;
use lab::topology::Proxmox;
use tests::following::{soon, soon_seen};
use tests::{at, exchange, hears};

/// A frame to all from the source of this number, of a type that nothing on the host takes.
fn stranger(number: u32) -> [u8; 60] {
    let mut frame = [0; 60];
    frame[..6].fill(0xff);
    frame[6] = 0x02;
    frame[8..12].copy_from_slice(&number.to_be_bytes());
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    frame
}

#[test]
fn forged_ethernet_sources_keep_the_daemon_from_nothing() -> Result<()> {
    let net = Proxmox::new()?;
    let mut natbpf = net.natbpf(&net.config())?;
    let (server, guest) = (
        net.cli.udp("198.51.100.2:7000")?,
        net.vm1.udp("0.0.0.0:5000")?,
    );
    let to = at(Proxmox::CLI, 7000);
    let seen_as = |address: Ipv4Addr| {
        soon_seen(&guest, to, &server, |seen| seen.ip() == address)
            .with_context(|| format!("not seen as {address}"))
    };
    seen_as(Proxmox::PUBLIC)?;
    let other = Ipv4Addr::new(19, 19, 8, 77);
    let socket = net.vm2.raw("eth0")?;
    let (is_over, sent) = (AtomicBool::new(false), AtomicU32::new(0));
    let last = thread::scope(|scope| -> Result<()> {
        let flood = || {
            while !is_over.load(Ordering::Relaxed) {
                for _ in 0..50 {
                    let _lost = socket.send(&stranger(sent.fetch_add(1, Ordering::Relaxed)));
                }
                // 12,000 a second, and as many as are learned between two looks.
                if sent.load(Ordering::Relaxed) > 200_000 {
                    thread::sleep(Duration::from_micros(4_166));
                }
            }
        };
        scope.spawn(flood);
        let during = || -> Result<()> {
            let patience = Instant::now() + Duration::from_secs(20);
            while sent.load(Ordering::Relaxed) < 220_000 && Instant::now() < patience {
                thread::sleep(Duration::from_millis(20));
            }
            net.exchange_address(Proxmox::PUBLIC, other)?;
            seen_as(other)?;
            natbpf.cli(&["reload"])?.expect_ok()?;
            Ok(())
        };
        let result = during();
        is_over.store(true, Ordering::Relaxed);
        result
    });
    last?;
    let learned = net.host.check(["bridge", "fdb", "show", "br", "vmbr1"])?;
    ensure!(
        learned.lines().count() > 150_000,
        "the bridge has not learned"
    );
    let lines = natbpf.log().lines().count();
    ensure!(lines < 100, "{lines} lines in the log");
    natbpf.kill()?;
    // (It waits for some seconds, and no longer.)
    natbpf.launch()?;
    seen_as(other).map(drop)
}

/// The configuration with `anti_spoof`, and vm1 as a `[[guest]]`.
fn strict(net: &Proxmox) -> Result<String> {
    let mac = net.vm1.mac("eth0")?.map(|byte| format!("{byte:02x}"));
    let lan = "[network.lan]\n";
    let config = net.config();
    Ok(format!(
        "{}[[guest]]\nname = \"vm1\"\nnetwork = \"lan\"\naddress = \"{}\"\nmac = \"{}\"\n",
        config.replace(lan, &format!("{lan}anti_spoof = true\n")),
        Proxmox::VM1,
        mac.join(":")
    ))
}

/// An answer by ARP to all, with these senders.
fn says_by_arp(guest: &Host, source: [u8; 6], sender: [u8; 6], address: Ipv4Addr) -> Result<()> {
    guest.inject("eth0", &arp(source, sender, address))
}

fn arp(source: [u8; 6], sender: [u8; 6], address: Ipv4Addr) -> [u8; 60] {
    let mut frame = [0; 60];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&source);
    frame[12..22].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
    frame[22..28].copy_from_slice(&sender);
    frame[28..32].copy_from_slice(&address.octets());
    frame[38..42].copy_from_slice(&Proxmox::GATEWAY.octets());
    frame
}

/// What a guest knows of the gateway.
fn gateway_seen(guest: &Host) -> Result<String> {
    let gateway = Proxmox::GATEWAY.to_string();
    guest.check(["ip", "neigh", "show", "to", &gateway])
}

#[test]
fn priority_tags_hide_no_arp_from_the_guard() -> Result<()> {
    let net = Proxmox::new()?;
    let natbpf = net.natbpf(&strict(&net)?)?;
    let server = net.cli.udp("198.51.100.2:7000")?;
    let service = net.vm1.udp("0.0.0.0:5000")?;
    exchange(&service, at(Proxmox::CLI, 7000), &server, b"before")?;
    let forger = net.vm2.mac("eth0")?;
    for tags in 0..3 {
        let mut frame = arp(forger, forger, Proxmox::GATEWAY).to_vec();
        for _ in 0..tags {
            frame.splice(12..12, [0x81, 0, 0xe0, 0]);
        }
        net.vm2.inject("eth0", &frame)?;
    }
    soon("all are dropped", || {
        Ok(natbpf.stats()?["drops"]["spoofed"] == 3)
    })?;
    let forger = forger.map(|byte| format!("{byte:02x}")).join(":");
    let seen = gateway_seen(&net.vm1)?;
    ensure!(!seen.contains(&forger), "{seen}");
    Ok(())
}

#[test]
fn a_guest_does_not_become_the_root_of_the_bridges() -> Result<()> {
    let net = Proxmox::new()?;
    net.host
        .ip("link set vmbr1 type bridge stp_state 1 forward_delay 0")?;
    let natbpf = net.natbpf(&strict(&net)?)?;
    // A configuration message with the best priority: IEEE 802.1D section 9.3.1.
    let mut offer = [0; 60];
    offer[..6].copy_from_slice(&[0x01, 0x80, 0xc2, 0, 0, 0]);
    offer[6..12].copy_from_slice(&net.vm2.mac("eth0")?);
    offer[12..17].copy_from_slice(&[0, 38, 0x42, 0x42, 3]);
    offer[24..30].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    offer[36..42].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    offer[42..52].copy_from_slice(&[0x80, 1, 0, 0, 20, 0, 2, 0, 15, 0]);
    net.vm2.inject("eth0", &offer)?;
    soon("the offer is dropped", || {
        Ok(natbpf.stats()?["drops"]["spoofed"] == 1)
    })?;
    let bridge = net.host.check(["ip", "-d", "link", "show", "vmbr1"])?;
    ensure!(bridge.contains("root_port 0"), "{bridge}");
    Ok(())
}

#[test]
fn a_guest_is_bound_to_its_port() -> Result<()> {
    let net = Proxmox::new()?;
    let (first, second) = (net.vm1.mac("eth0")?, net.vm2.mac("eth0")?);
    // The bridge knows the guest, natbpf has not seen it yet.
    let service = net.vm1.udp("0.0.0.0:5000")?;
    let _unheard = service.send_to(b"hello", at(Proxmox::GATEWAY, 9));
    let natbpf = net.natbpf(&strict(&net)?)?;
    let gateway = net.host.mac("vmbr1")?;
    let server = net.cli.udp("198.51.100.2:7000")?;
    // With the address of the other, and with both of its addresses.
    let packet = Ip::new(Proxmox::VM1, Proxmox::CLI).udp(5000, 7000, b"another's")?;
    for source in [second, first] {
        let frame = [&gateway[..], &source[..], &[8, 0], &packet[..]].concat();
        net.vm2.inject("eth0", &frame)?;
    }
    ensure!(hears(&server)?.is_none(), "a spoofed packet has left");
    for (source, sender, address) in [
        (second, second, Proxmox::VM1),
        (second, first, Proxmox::VM1),
        (first, first, Proxmox::VM1),
        (second, second, Proxmox::GATEWAY),
    ] {
        says_by_arp(&net.vm2, source, sender, address)?;
    }
    let to = at(Proxmox::CLI, 7000);
    let seen = exchange(&service, to, &server, b"its own")?;
    exchange(&server, seen, &service, b"and it is answered")?;
    exchange(
        &net.vm2.udp("0.0.0.0:5000")?,
        to,
        &server,
        b"the other's own",
    )?;
    let learned = net.host.check(["bridge", "fdb", "show", "dev", "tap2"])?;
    let mac = first.map(|byte| format!("{byte:02x}")).join(":");
    ensure!(!learned.contains(&mac), "{learned}");
    let spoofed = natbpf.stats()?["drops"]["spoofed"].clone();
    ensure!(spoofed == 6, "{spoofed} frames counted as spoofed");
    Ok(())
}

#[test]
fn a_guest_that_moves_takes_its_names_along() -> Result<()> {
    let net = Proxmox::new()?;
    let _natbpf = net.natbpf(&strict(&net)?)?;
    let (server, to) = (net.cli.udp("198.51.100.2:7000")?, at(Proxmox::CLI, 7000));
    exchange(&net.vm1.udp("0.0.0.0:5000")?, to, &server, b"before")?;
    // Its tap is recreated under another name.
    let mac = net
        .vm1
        .mac("eth0")?
        .map(|byte| format!("{byte:02x}"))
        .join(":");
    net.host.ip("link del tap1")?;
    net.lab().veth((&net.host, "tap9"), (&net.vm1, "eth0"))?;
    net.host.ip("link set tap9 master vmbr1")?;
    net.vm1.ip(&format!(
        "link set eth0 address {mac}\naddress add {}/24 dev eth0\nroute add default via {}",
        Proxmox::VM1,
        Proxmox::GATEWAY
    ))?;
    let socket = net.vm1.udp("0.0.0.0:5000")?;
    soon("the guest at its new port", || {
        let _lost = socket.send_to(b"after", to);
        server.set_read_timeout(Some(Duration::from_millis(50)))?;
        Ok(server.recv(&mut [0; 16]).is_ok())
    })
}

#[test]
fn one_guest_does_not_take_all_ports() -> Result<()> {
    let net = Proxmox::new()?;
    let natbpf = net.natbpf(&net.config())?;
    let gateway = net.host.mac("vmbr1")?;
    let source = net.vm1.mac("eth0")?;
    let socket = net.vm1.raw("eth0")?;
    for port in 1024..=u16::MAX {
        let packet = Ip::new(Proxmox::VM1, Proxmox::CLI).udp_unsummed(port, 9, b"x")?;
        let frame = [&gateway[..], &source[..], &[8, 0], &packet[..]].concat();
        while socket.send(&frame).is_err() {
            thread::sleep(Duration::from_millis(1));
        }
    }
    soon("the limit", || {
        Ok(natbpf.stats()?["drops"]["guest_ports"].as_u64() > Some(0))
    })?;
    let server = net.cli.udp("198.51.100.2:7000")?;
    for port in 5000..5010 {
        let guest = net.vm2.udp(&format!("0.0.0.0:{port}"))?;
        exchange(&guest, at(Proxmox::CLI, 7000), &server, b"the other's")?;
    }
    Ok(())
}
