//! TCP: T1 to T10.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kit::craft::{Ip, Segment};
use lab::service::{self, Service};
use lab::topology::Proxmox;
use lab::{L4, Natbpf};
use serde_json::Value;
use tests::bulk::{Sender, transfer};
use tests::following::soon;
use tests::{Nat, Watch, at, connect_from};

const HUNDRED_MEGABYTES: usize = 100_000_000;

#[test]
fn t1_hundred_megabytes_through_a_forward() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = Nat::proxmox(&net, &net.config())?;
    for sender in [Sender::Client, Sender::Server] {
        let to = at(Proxmox::PUBLIC, 10001);
        let seen = transfer(&net.cli, to, &net.vm1, 10001, sender, HUNDRED_MEGABYTES)
            .with_context(|| format!("{sender:?} sends"))?;
        ensure!(*seen.ip() == Proxmox::CLI, "seen as {seen}");
    }
    Ok(())
}

#[test]
fn t1_hundred_megabytes_through_masquerade() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = Nat::proxmox(&net, &net.config())?;
    for sender in [Sender::Client, Sender::Server] {
        let to = at(Proxmox::CLI, 7000);
        let seen = transfer(&net.vm1, to, &net.cli, 7000, sender, HUNDRED_MEGABYTES)
            .with_context(|| format!("{sender:?} sends"))?;
        ensure!(*seen.ip() == Proxmox::PUBLIC, "seen as {seen}");
    }
    Ok(())
}

/// MSS, SACK permitted, timestamps, window scale, a fast open cookie, MPTCP's MP_CAPABLE.
const SYN_OPTIONS: [u8; 36] = [
    2, 4, 0x05, 0xb4, //
    4, 2, 8, 10, 0x11, 0x22, 0x33, 0x44, 0, 0, 0, 0, //
    1, 3, 3, 7, //
    34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1, //
    30, 4, 0x01, 0x01,
];

#[test]
fn t8_options_are_untouched() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = Nat::proxmox(&net, &net.config())?;
    let (watch, guest) = (Watch::proxmox(&net)?, net.vm1.capture("eth0")?);

    let packet = Ip::new(Proxmox::VM1, Proxmox::CLI).syn(5000, 7000, &SYN_OPTIONS)?;
    net.inject_from_guest(&net.vm1, &packet)?;
    let sent = watch.sent(|packet| packet.ports() == Some((5000, 7000)))?;
    ensure!(sent.source == Proxmox::PUBLIC, "{sent}");
    ensure!(
        matches!(&sent.l4, L4::Tcp { options, .. } if *options == SYN_OPTIONS),
        "{sent:?}"
    );

    let packet = Ip::new(Proxmox::CLI, Proxmox::PUBLIC).syn(7000, 10001, &SYN_OPTIONS)?;
    net.inject_from_internet(&packet)?;
    let (frame, got) = guest.wait_for(|_, packet| packet.ports() == Some((7000, 10001)))?;
    ensure!(got.destination == Proxmox::VM1, "{got}");
    ensure!(
        matches!(&got.l4, L4::Tcp { options, .. } if *options == SYN_OPTIONS),
        "{got:?}"
    );
    frame.checksums()?;
    watch.finish().map(drop)
}

/// The segment sizes that both ends announce when a guest and a host outside connect, either way,
/// as the other end sees them. Real connections: what one announces is a checksum left to a device.
fn announced(net: &Proxmox) -> Result<Vec<u16>> {
    let mut sizes = Vec::new();
    let (guest, outside) = (net.vm1.capture("eth0")?, net.cli.capture("eth0")?);
    let listeners = (
        net.cli.tcp_listen("0.0.0.0:7000")?,
        net.vm1.tcp_listen("0.0.0.0:10001")?,
    );
    net.vm1.tcp(at(Proxmox::CLI, 7000))?;
    net.cli.tcp(at(Proxmox::PUBLIC, 10001))?;
    drop(listeners);
    for capture in [guest, outside] {
        let frames = capture.stop();
        for frame in frames.iter().filter(|frame| !frame.outgoing) {
            let Some(packet) = frame.packet() else {
                continue;
            };
            if let L4::Tcp { flags, options, .. } = &packet.l4
                && flags & 2 != 0
            {
                ensure!(options[..2] == [2, 4], "{packet:?}");
                sizes.push(u16::from_be_bytes([options[2], options[3]]));
            }
        }
    }
    ensure!(sizes.len() == 4, "{sizes:?}");
    Ok(sizes)
}

#[test]
fn t9_announced_segments_fit_through_the_uplink_and_are_never_raised() -> Result<()> {
    let net = Proxmox::new()?;
    // The hop is in the middle: neither end's own interface says so.
    net.host.ip(&format!(
        "link set {} mtu 1280\nlink set {} mtu 1280",
        net.wire, net.uplink
    ))?;
    let config = net.config();
    let line = "interface = \"vmbr0\"";
    ensure!(config.contains(line), "{config}");
    let with_clamp = |clamp: &str| config.replace(line, &format!("{line}\nmss_clamp = {clamp}"));
    let nat = net.natbpf(&config)?;
    ensure!(
        announced(&net)? == [1240; 4],
        "by itself, since MTUs differ"
    );
    nat.reload(&with_clamp("1000"))?;
    ensure!(announced(&net)? == [1000; 4], "as configured");
    nat.reload(&with_clamp("4000"))?;
    ensure!(announced(&net)? == [1460; 4], "never raised");
    nat.reload(&with_clamp("\"off\""))?;
    ensure!(announced(&net)? == [1460; 4], "switched off");
    Ok(())
}

#[test]
fn t10_hairpin_connects_from_another_guest_and_from_the_server_itself() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = Nat::proxmox(&net, &net.config())?;
    let web = Service::http(&net.vm1, "0.0.0.0:10080")?;
    for guest in [&net.vm2, &net.vm1] {
        let page = service::http_get(guest, at(Proxmox::PUBLIC, 10080))
            .with_context(|| format!("from {}", guest.name()))?;
        ensure!(page.starts_with("vm1 sees "), "{page}");
    }
    // An inside source would have been answered directly, past the NAT.
    for peer in web.peers() {
        ensure!(
            peer.ip() != Proxmox::VM1 && peer.ip() != Proxmox::VM2,
            "seen as {peer}"
        );
    }
    Ok(())
}

#[test]
fn t10_hairpin_carries_data_both_ways() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = Nat::proxmox(&net, &net.config())?;
    for guest in [&net.vm2, &net.vm1] {
        for sender in [Sender::Client, Sender::Server] {
            let to = at(Proxmox::PUBLIC, 10001);
            transfer(guest, to, &net.vm1, 10001, sender, 5_000_000)
                .with_context(|| format!("from {}, {sender:?} sends", guest.name()))?;
        }
    }
    Ok(())
}

/// The flag bits of a segment.
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;

/// The only session that natbpf has.
fn the_session(natbpf: &Natbpf) -> Result<Value> {
    let mut sessions = natbpf.conntrack(&[])?;
    ensure!(sessions.len() == 1, "not one session: {sessions:?}");
    sessions.pop().context("a session")
}

/// A connection of vm1 from port 5000 to cli, and both of its ends.
fn connection(net: &Proxmox) -> Result<(TcpStream, TcpStream)> {
    let listener = net.cli.tcp_listen("198.51.100.2:7000")?;
    let near = connect_from(&net.vm1, 5000, at(Proxmox::CLI, 7000))?;
    let (far, peer) = listener.accept()?;
    ensure!(peer == at(Proxmox::PUBLIC, 5000).into(), "seen as {peer}");
    far.set_read_timeout(Some(Duration::from_secs(3)))?;
    Ok((near, far))
}

/// Sends a word each way.
fn talk(near: &TcpStream, far: &TcpStream) -> Result<()> {
    for (mut from, mut to) in [(near, far), (far, near)] {
        from.write_all(b"word")?;
        let mut word = [0; 4];
        to.read_exact(&mut word).context("no word arrived")?;
        ensure!(word == *b"word", "{word:?}");
    }
    Ok(())
}

#[test]
fn t2_simultaneous_open_completes() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = Nat::proxmox(&net, &net.config())?;
    let wire = net.isp.capture(Proxmox::WAN)?;
    // The guest's first SYN is lost behind the NAT, so that both ends have sent one before either
    // has seen the other's.
    let lose = "table ip lose {\nchain input {\ntype filter hook input priority 0\n\
                tcp dport 7000 tcp flags & (syn | ack) == syn limit rate 1/minute burst 1 packets \
                drop\n}\n}\n";
    net.cli
        .run_with_input(["nft", "-f", "-"], lose.as_bytes())?
        .expect_ok()?;
    let (near, far) = thread::scope(|scope| {
        let near = scope.spawn(|| connect_from(&net.vm1, 5000, at(Proxmox::CLI, 7000)));
        wire.wait_for(|_, packet| packet.ports() == Some((5000, 7000)))?;
        let far = connect_from(&net.cli, 7000, at(Proxmox::PUBLIC, 5000));
        anyhow::Ok((near.join().expect("no panic")?, far?))
    })?;
    talk(&near, &far)?;
    let packets = wire.packets();
    let opening = |ports: (u16, u16)| {
        let mut flags = packets.iter().filter_map(|(_, packet)| match packet.l4 {
            L4::Tcp { flags, .. } if packet.ports() == Some(ports) => Some(flags),
            _ => None,
        });
        flags.next()
    };
    ensure!(
        (opening((5000, 7000)), opening((7000, 5000))) == (Some(SYN), Some(SYN)),
        "not both ends began with SYN"
    );
    Ok(())
}

#[test]
fn t3_an_unsolicited_syn_is_met_with_silence() -> Result<()> {
    let net = Proxmox::new()?;
    let _natbpf = net.natbpf(&net.config())?;
    let wire = net.isp.capture(Proxmox::WAN)?;
    let (near, far) = connection(&net)?;
    let syn = Ip::new(Proxmox::SRV2, Proxmox::PUBLIC).syn(7000, 5000, &[])?;
    net.inject_from_internet(&syn)?;
    thread::sleep(Duration::from_millis(6500));
    let answer = wire
        .packets()
        .into_iter()
        .find(|(_, packet)| packet.destination == Proxmox::SRV2);
    if let Some((_, answer)) = answer {
        bail!("answered: {answer}");
    }
    talk(&near, &far)
}

#[test]
fn t4_a_reset_is_translated_and_the_session_stays() -> Result<()> {
    let net = Proxmox::new()?;
    let natbpf = net.natbpf(&net.config())?;
    let watch = Watch::proxmox(&net)?;
    let (near, mut far) = connection(&net)?;
    // What is unread when a socket is closed makes a reset of it.
    far.write_all(b"unread")?;
    thread::sleep(Duration::from_millis(200));
    drop(near);
    let reset =
        watch.sent(|packet| matches!(packet.l4, L4::Tcp { flags, .. } if flags & RST != 0))?;
    ensure!(reset.ports() == Some((5000, 7000)), "{reset}");
    let end = far.read(&mut [0; 1]).map_err(|error| error.kind());
    ensure!(end == Err(ErrorKind::ConnectionReset), "{end:?}");
    let session = the_session(&natbpf)?;
    ensure!(session["state"] == "closing", "{session}");
    let left = session["expires_s"].as_u64().context("expires_s")?;
    ensure!((220..=240).contains(&left), "{session}");
    watch.finish().map(drop)
}

#[test]
fn t5_a_reset_that_the_guest_ignores_costs_the_flow_nothing() -> Result<()> {
    let net = Proxmox::new()?;
    let natbpf = net.natbpf(&net.config())?;
    let guest = net.vm1.capture("eth0")?;
    let (near, far) = connection(&net)?;
    talk(&near, &far)?;
    // Where no window can be: one in 65,536 of all sequence numbers lies in it.
    for sequence in [0x1000_0000, 0x6000_0000, 0xb000_0000] {
        let segment = Segment {
            flags: RST,
            sequence,
            payload: b"",
        };
        let reset = Ip::new(Proxmox::CLI, Proxmox::PUBLIC).tcp(7000, 5000, &segment)?;
        net.inject_from_internet(&reset)?;
    }
    guest.wait_for(|_, packet| matches!(packet.l4, L4::Tcp { flags, .. } if flags & RST != 0))?;
    talk(&near, &far)?;
    let session = the_session(&natbpf)?;
    ensure!(session["state"] == "established", "{session}");
    let left = session["expires_s"].as_u64().context("expires_s")?;
    ensure!(left > 7400, "{session}");
    Ok(())
}

#[test]
fn t6_a_closed_connection_opens_again_from_the_same_port() -> Result<()> {
    let net = Proxmox::new()?;
    let natbpf = net.natbpf(&net.config())?;
    let watch = Watch::proxmox(&net)?;
    for _ in 0..2 {
        let (near, far) = connection(&net)?;
        talk(&near, &far)?;
        let session = the_session(&natbpf)?;
        ensure!(session["state"] == "established", "{session}");
        // The server closes first, and it is the guest that is free to use its port again.
        drop(far);
        ensure!((&near).read(&mut [0; 1])? == 0, "no end of the stream");
        drop(near);
        watch.sent(|packet| matches!(packet.l4, L4::Tcp { flags, .. } if flags & FIN != 0))?;
        thread::sleep(Duration::from_millis(200));
        let session = the_session(&natbpf)?;
        ensure!(session["state"] == "closing", "{session}");
    }
    watch.finish().map(drop)
}

#[test]
fn t7_an_established_flow_may_be_silent_for_its_own_timeout() -> Result<()> {
    let net = Proxmox::new()?;
    // In the proportions of the defaults, on a scale of seconds.
    let timeouts = "[timeouts]\ntcp_opening = 1\ntcp_established = 7\ntcp_closing = 1\n";
    let natbpf = net.natbpf(&(net.config() + timeouts))?;
    let (near, far) = connection(&net)?;
    talk(&near, &far)?;
    thread::sleep(Duration::from_millis(5500));
    talk(&near, &far).context("after 5.5 s of 7")?;
    soon("the session ends after its timeout", || {
        Ok(natbpf.conntrack(&[])?.is_empty())
    })
}
