//! Nothing with an inside address leaves while natbpf starts, stops, reloads, is killed or removed,
//! and while interfaces are recreated. A guest sends all the time, packets of every kind.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kit::craft::{Ip, Segment};
use lab::patience::patience;
use lab::topology::{Inside, Options, Proxmox};
use lab::{Capture, Host, Natbpf, RawSocket};
use nix::sys::signal::Signal;

/// Between two packets of the guest.
const PAUSE: Duration = Duration::from_micros(300);
/// Long enough for some hundred packets.
const A_WHILE: Duration = Duration::from_millis(150);
/// How many packets are sent to one Ethernet address before the gateway's is looked at again.
const BATCH: usize = 64;

/// What a guest sends: what opens a session, what cannot open one, and what has no ports.
fn packets(n: u16) -> Result<Vec<Vec<u8>>> {
    let ip = Ip::new(Proxmox::VM1, Proxmox::CLI);
    let segment = Segment {
        flags: 16,
        sequence: 77,
        payload: b"in the middle",
    };
    let echo = [8, 0, 0xf7, 0xff - n as u8, 0, 0, 0, n as u8];
    Ok(vec![
        ip.udp(5000, 7000, b"known")?,
        ip.udp(20_000 + n, 7000, b"new")?,
        ip.syn(20_000 + n, 80, &[])?,
        ip.tcp(30_000 + n, 80, &segment)?,
        ip.raw(1, &echo)?,
        ip.raw(47, &[0; 16])?,
    ])
}

/// The frame of an IPv4 packet.
fn frame(to: [u8; 6], from: [u8; 6], packet: &[u8]) -> Vec<u8> {
    [&to[..], &from, &[8, 0], packet].concat()
}

/// Has the first guest send for as long as `work` takes; nothing of it may leave untranslated.
/// Gives how many packets have left translated.
fn nothing_leaks(net: &Proxmox, work: impl FnOnce() -> Result<()>) -> Result<usize> {
    let capture = net.isp.capture(Proxmox::WAN)?;
    let done = AtomicBool::new(false);
    let outcome = thread::scope(|scope| {
        let sender = scope.spawn(|| send(net, &done));
        let outcome = work();
        thread::sleep(A_WHILE);
        done.store(true, Ordering::Relaxed);
        let sent = sender.join().expect("the sender does not panic")?;
        ensure!(sent > 0, "the guest has sent nothing");
        outcome
    });
    outcome?;
    judge(capture)
}

fn send(net: &Proxmox, done: &AtomicBool) -> Result<usize> {
    let socket = net.vm1.raw("eth0")?;
    let own = net.vm1.mac("eth0")?;
    let mut sent = 0;
    for n in (0..200).cycle() {
        if done.load(Ordering::Relaxed) {
            break;
        }
        // The bridge may be away just now.
        let Ok(gateway) = net.host.mac("vmbr1") else {
            thread::sleep(PAUSE);
            continue;
        };
        let batch = packets(n)?;
        for packet in batch.iter().cycle().take(BATCH) {
            send_one(&socket, &frame(gateway, own, packet));
            sent += 1;
            thread::sleep(PAUSE);
        }
    }
    Ok(sent)
}

/// A wire that is taken away takes no frame, which is no fault.
fn send_one(socket: &RawSocket, frame: &[u8]) {
    let _lost = socket.send(frame);
}

fn judge(capture: Capture) -> Result<usize> {
    let is_inside = |address: Ipv4Addr| address.octets()[..3] == [172, 22, 161];
    let frames = capture.stop();
    let packets = frames.iter().filter(|frame| !frame.outgoing);
    let packets = packets.filter_map(lab::Frame::packet);
    let (inside, outside): (Vec<_>, Vec<_>) = packets.partition(|one| is_inside(one.source));
    ensure!(
        inside.is_empty(),
        "{} packets with an inside address have left, {} by {}; the first: {}",
        inside.len(),
        outside.len(),
        Proxmox::PUBLIC,
        inside[0]
    );
    let translated = outside.iter().filter(|one| one.source == Proxmox::PUBLIC);
    Ok(translated
        .filter(|one| one.destination == Proxmox::CLI)
        .count())
}

/// As natbpf is told, but not started.
fn prepared(net: &Proxmox, config: &str) -> Result<Natbpf> {
    Natbpf::prepare(&net.host, net.lab().place(), Natbpf::binary()?, config)
}

fn created(config: &str) -> String {
    let address = "address = \"172.22.161.254/24\"";
    config.replace(
        address,
        &format!("{address}\ncreate = true\nports = [\"tap1\", \"tap2\"]"),
    )
}

fn starts_and_ends(net: &Proxmox, config: &str) -> Result<()> {
    let mut natbpf = prepared(net, config)?;
    let translated = nothing_leaks(net, || {
        for _ in 0..2 {
            natbpf.launch()?;
            thread::sleep(A_WHILE);
            natbpf.stop()?;
            natbpf.launch()?;
            natbpf.down()?;
        }
        Ok(())
    })?;
    ensure!(translated > 0, "nothing was translated meanwhile");
    Ok(())
}

#[test]
fn l12_no_inside_address_leaves_while_natbpf_starts_stops_and_goes() -> Result<()> {
    let net = Proxmox::new()?;
    starts_and_ends(&net, &net.config())
}

#[test]
fn l12_a_new_bridge_on_a_forwarding_host_leaks_no_inside_address() -> Result<()> {
    let net = Proxmox::with(&Options {
        inside: Inside::OnlyPorts,
        ..Options::default()
    })?;
    net.host.set_sysctl("net.ipv4.ip_forward", "1")?;
    starts_and_ends(&net, &created(&net.config()))
}

#[test]
fn l12_no_inside_address_leaves_when_natbpf_is_killed_at_any_step() -> Result<()> {
    let net = Proxmox::new()?;
    let mut natbpf = prepared(&net, &net.config())?;
    nothing_leaks(&net, || {
        for words in [["run"], ["down"]] {
            for delay in [10, 40, 80, 160, 320] {
                if words == ["down"] {
                    natbpf.launch()?;
                    natbpf.kill()?;
                }
                let binary = Natbpf::binary()?.display().to_string();
                let options = natbpf.options().into_iter().chain(words.map(str::to_owned));
                let mut process = net.host.spawn(std::iter::once(binary).chain(options))?;
                thread::sleep(Duration::from_millis(delay));
                if process.ended()?.is_none() {
                    process.signal(Signal::SIGKILL)?;
                }
                process.wait(patience(Duration::from_secs(5)))?;
                thread::sleep(A_WHILE / 3);
            }
            natbpf.launch().context("after the kills")?;
            natbpf.down()?;
        }
        Ok(())
    })?;
    Ok(())
}

#[test]
fn l12_no_inside_address_leaves_while_a_reload_adds_the_network_and_takes_it_away() -> Result<()> {
    let net = Proxmox::with(&Options {
        inside: Inside::OnlyPorts,
        ..Options::default()
    })?;
    let without = format!("[uplink.wan]\ninterface = \"{}\"\n", net.uplink);
    let natbpf = net.natbpf(&without)?;
    let translated = nothing_leaks(&net, || {
        for _ in 0..3 {
            natbpf.reload(&created(&net.config()))?;
            thread::sleep(A_WHILE);
            natbpf.reload(&without)?;
        }
        Ok(())
    })?;
    ensure!(translated > 0, "nothing was translated meanwhile");
    Ok(())
}

/// Recreates the guests' bridge, as its owner does.
fn another_bridge(host: &Host) -> Result<()> {
    host.ip("link del vmbr1")?;
    host.ip(&format!(
        "link add vmbr1 type bridge forward_delay 0 stp_state 0\nlink set vmbr1 up\n\
         address add {}/24 dev vmbr1\nlink set tap1 master vmbr1\nlink set tap2 master vmbr1",
        Proxmox::GATEWAY
    ))
}

#[test]
fn l12_no_inside_address_leaves_by_a_recreated_bridge() -> Result<()> {
    let net = Proxmox::new()?;
    let mut natbpf = net.natbpf(&net.config())?;
    nothing_leaks(&net, || {
        for _ in 0..3 {
            another_bridge(&net.host)?;
            thread::sleep(A_WHILE);
        }
        // Nor without a daemon.
        natbpf.kill()?;
        another_bridge(&net.host)?;
        thread::sleep(A_WHILE);
        natbpf.launch()?;
        natbpf.down()
    })?;
    Ok(())
}

/// Recreates the uplink's bridge, as its owner does: at once, with address and route.
fn another_uplink(host: &Host) -> Result<()> {
    host.ip(&format!(
        "link del vmbr0\nlink add vmbr0 type bridge forward_delay 0 stp_state 0\n\
         link set eno1 master vmbr0\nlink set vmbr0 up\naddress add {}/24 dev vmbr0\n\
         route add default via 19.19.8.1 dev vmbr0",
        Proxmox::PUBLIC
    ))
}

#[test]
fn l12_no_inside_address_leaves_by_a_recreated_uplink() -> Result<()> {
    let net = Proxmox::new()?;
    let mut natbpf = net.natbpf(&net.config())?;
    let translated = nothing_leaks(&net, || {
        for _ in 0..20 {
            another_uplink(&net.host)?;
            thread::sleep(A_WHILE / 3);
        }
        thread::sleep(A_WHILE);
        // Nor without a daemon.
        natbpf.kill()?;
        another_uplink(&net.host)?;
        thread::sleep(A_WHILE);
        natbpf.launch()
    })?;
    ensure!(translated > 0, "nothing was translated meanwhile");
    let dropped = natbpf.stats()?["drops"]["uplink_away"].as_u64();
    ensure!(dropped > Some(0), "{dropped:?} were dropped as uplink_away");
    Ok(())
}
