//! When there is no room: X1, X2, X3.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::topology::{Options, Proxmox, Uplink};
use lab::{Host, Natbpf};
use nix::sys::socket::{setsockopt, sockopt};
use tests::{at, exchange};

/// The outcome of a guest's first packet to a remote.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Answered,
    /// It was told that the host cannot be reached (ICMP 3/1).
    Refused,
    Lost,
}

/// Sends from a new socket, connected, so that it hears of errors.
fn ask(guest: &Host, to: SocketAddrV4) -> Result<(Fate, UdpSocket)> {
    let socket = guest.udp("0.0.0.0:0")?;
    socket.connect(to).context("connect")?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    // Without this a datagram socket is not told of a host that cannot be reached.
    setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
    socket.send(b"question").context("send")?;
    let fate = match socket.recv(&mut [0; 64]) {
        Ok(_) => Fate::Answered,
        Err(error) if error.kind() == ErrorKind::HostUnreachable => Fate::Refused,
        Err(error) if error.kind() == ErrorKind::WouldBlock => Fate::Lost,
        Err(error) => bail!("receive: {error}"),
    };
    Ok((fate, socket))
}

fn drops(natbpf: &Natbpf, reason: &str) -> Result<u64> {
    Ok(natbpf.stats()?["drops"][reason].as_u64().unwrap_or(0))
}

/// A service outside that answers everybody.
fn service(net: &Proxmox) -> Result<(lab::service::Service, SocketAddrV4)> {
    let service = lab::service::Service::udp_echo(&net.cli, "198.51.100.2:7000")?;
    Ok((service, at(Proxmox::CLI, 7000)))
}

/// Opens sessions until one is refused, and returns the opened ones.
fn fill(guest: &Host, to: SocketAddrV4, expected: usize) -> Result<Vec<UdpSocket>> {
    let mut open = Vec::new();
    for _ in 0..expected {
        let (fate, socket) = ask(guest, to)?;
        ensure!(fate == Fate::Answered, "{fate:?} after {}", open.len());
        open.push(socket);
    }
    let (fate, _) = ask(guest, to)?;
    ensure!(fate == Fate::Refused, "{fate:?} after all {expected}");
    Ok(open)
}

/// Those that were there first are still answered.
fn still_answered(sockets: &[UdpSocket]) -> Result<()> {
    for socket in sockets {
        socket.send(b"again").context("send")?;
        socket.recv(&mut [0; 64]).context("no answer any more")?;
    }
    Ok(())
}

/// A TCP connection is refused at once as well: its first packet leaves the guest with a checksum
/// that a device is to fill in.
fn tcp_is_refused(guest: &Host) -> Result<()> {
    let refused = guest.tcp(at(Proxmox::CLI, 9)).err().context("connected")?;
    let error = refused.downcast_ref::<std::io::Error>();
    ensure!(
        error.is_some_and(|error| error.kind() == ErrorKind::HostUnreachable),
        "{refused:#}"
    );
    Ok(())
}

fn full_table(net: &Proxmox) -> Result<()> {
    let config = format!(
        "{}\n[limits]\nsessions = 20\nsessions_per_guest = 100\n[timeouts]\nudp = 120\n",
        net.config()
    );
    let nat = net.natbpf(&config)?;
    let (_service, to) = service(net)?;
    let open = fill(&net.vm1, to, 20)?;
    tcp_is_refused(&net.vm1)?;
    let (other, _) = ask(&net.vm2, to)?;
    ensure!(other == Fate::Refused, "{other:?}");
    still_answered(&open)?;
    let counted = drops(&nat, "table_full")?;
    ensure!(counted >= 3, "{counted} counted as table_full");
    // There is room again when sessions have ended.
    nat.cli(&[
        "conntrack",
        "flush",
        "--internal",
        &Proxmox::VM1.to_string(),
    ])?;
    let (again, _) = ask(&net.vm2, to)?;
    ensure!(again == Fate::Answered, "{again:?} after there was room");
    Ok(())
}

#[test]
fn x1_a_full_table_refuses_the_new_with_an_error_and_keeps_the_old() -> Result<()> {
    full_table(&Proxmox::new()?)
}

#[test]
fn x1_a_full_table_is_reported_behind_an_uplink_without_ethernet_too() -> Result<()> {
    full_table(&Proxmox::with(&Options {
        uplink: Uplink::Tun,
        ..Options::default()
    })?)
}

#[test]
fn x2_used_up_ports_refuse_the_new_with_an_error_and_keep_the_old() -> Result<()> {
    let net = Proxmox::new()?;
    let config = net.config().replace(
        "to = \"masquerade\"",
        "to = \"masquerade\"\nports = \"20000-20009\"",
    );
    let nat = net.natbpf(&config)?;
    let (_service, to) = service(&net)?;
    let open = fill(&net.vm1, to, 10)?;
    let (other, _) = ask(&net.vm2, to)?;
    ensure!(other == Fate::Refused, "{other:?}");
    still_answered(&open)?;
    let counted = drops(&nat, "ports_exhausted")?;
    ensure!(counted == 2, "{counted} counted as ports_exhausted");
    Ok(())
}

#[test]
fn x3_a_guest_with_all_its_sessions_is_refused_and_others_are_not() -> Result<()> {
    let net = Proxmox::new()?;
    let config = format!("{}\n[limits]\nsessions_per_guest = 5\n", net.config());
    let nat = net.natbpf(&config)?;
    let (_service, to) = service(&net)?;
    let open = fill(&net.vm1, to, 5)?;
    let others = fill(&net.vm2, to, 5)?;
    still_answered(&open)?;
    still_answered(&others)?;
    tcp_is_refused(&net.vm1)?;
    // A session by a forward counts for the forward's guest.
    let asked = net.cli.udp("198.51.100.2:7001")?;
    let served = net.vm2.udp("0.0.0.0:10500")?;
    let result = exchange(&asked, at(Proxmox::PUBLIC, 10500), &served, b"one more");
    ensure!(result.is_err(), "a session more than the guest may have");
    let counted = drops(&nat, "guest_sessions")?;
    ensure!(counted >= 4, "{counted} counted as guest_sessions");
    Ok(())
}

/// The host is no guest: what it asks itself is not limited.
#[test]
fn x3_the_host_pings_as_often_as_it_likes() -> Result<()> {
    let net = Proxmox::new()?;
    let limits = "[limits]\nsessions_per_guest = 1\nports_per_guest = 1\n";
    let nat = net.natbpf(&format!("{}\n{limits}", net.config()))?;
    let (_service, to) = service(&net)?;
    let cli = Proxmox::CLI.to_string();
    for identifier in ["-e71", "-e72", "-e73"] {
        net.host
            .check(["ping", "-n", "-c1", "-W2", identifier, &cli])?;
    }
    // Each is noted: a guest that asks with the same identifier gets another.
    let outside = net.cli.capture("eth0")?;
    net.vm2.check(["ping", "-n", "-c1", "-W2", "-e73", &cli])?;
    let (_, request) = outside.wait_for(|_, packet| packet.icmp() == Some((8, 0)))?;
    let identifier = [request.bytes[24], request.bytes[25]];
    ensure!(identifier != 73_u16.to_be_bytes(), "the host's: {request}");
    let (fate, _socket) = ask(&net.vm1, to)?;
    ensure!(fate == Fate::Answered, "{fate:?}");
    let counted = drops(&nat, "guest_sessions")? + drops(&nat, "guest_ports")?;
    ensure!(counted == 0, "{counted} refused");
    Ok(())
}

#[test]
fn x3_a_guest_with_all_its_ports_is_refused_and_others_are_not() -> Result<()> {
    let net = Proxmox::new()?;
    let config = format!("{}\n[limits]\nports_per_guest = 5\n", net.config());
    let nat = net.natbpf(&config)?;
    let (_service, to) = service(&net)?;
    let open = fill(&net.vm1, to, 5)?;
    fill(&net.vm2, to, 5)?;
    still_answered(&open)?;
    // A port that it has already serves any number of remotes.
    let other = net.srv2.udp("198.51.100.4:7000")?;
    let first = &open[0];
    first.connect(at(Proxmox::SRV2, 7000))?;
    first.send(b"to another")?;
    other.recv(&mut [0; 64]).context("to another remote")?;
    let counted = drops(&nat, "guest_ports")?;
    ensure!(counted == 2, "{counted} counted as guest_ports");
    Ok(())
}

/// With and without checksums left to devices, errors to guests are correct on their wire.
#[test]
fn x1_refusals_are_right_on_the_wire() -> Result<()> {
    let net = Proxmox::new()?;
    let config = format!("{}\n[limits]\nsessions_per_guest = 1\n", net.config());
    let _nat = net.natbpf(&config)?;
    let (_service, to) = service(&net)?;
    let (first, _socket) = ask(&net.vm1, to)?;
    ensure!(first == Fate::Answered, "{first:?}");
    for is_offloaded in [true, false] {
        net.vm1.set_offloads("eth0", is_offloaded)?;
        // Towards the guest nothing may be left unfinished.
        net.host.set_offloads("tap1", false)?;
        let inside = net.vm1.capture("eth0")?;
        let (fate, _) = ask(&net.vm1, to)?;
        ensure!(fate == Fate::Refused, "{fate:?}, offloads {is_offloaded}");
        tcp_is_refused(&net.vm1)?;
        let told: Vec<_> = inside
            .stop()
            .into_iter()
            .filter(|frame| {
                frame
                    .packet()
                    .is_some_and(|packet| packet.icmp() == Some((3, 1)))
            })
            .collect();
        ensure!(told.len() >= 2, "told {} times", told.len());
        for frame in told {
            frame.checksums()?;
        }
    }
    Ok(())
}

/// However often a guest is refused, the number of errors per second is limited.
#[test]
fn x1_errors_about_refusals_are_rate_limited() -> Result<()> {
    let net = Proxmox::new()?;
    let config = format!("{}\n[limits]\nsessions_per_guest = 1\n", net.config());
    let nat = net.natbpf(&config)?;
    let (_service, to) = service(&net)?;
    let (first, _socket) = ask(&net.vm1, to)?;
    ensure!(first == Fate::Answered, "{first:?}");
    let inside = net.vm1.capture("eth0")?;
    let socket = net.vm1.udp("0.0.0.0:0")?;
    let begun = std::time::Instant::now();
    for port in 20_000..21_000 {
        socket.send_to(
            b"question",
            SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 4), port),
        )?;
    }
    let seconds = begun.elapsed().as_secs() + 1;
    let refused = drops(&nat, "guest_sessions")?;
    ensure!(refused == 1000, "{refused} of 1000 refused");
    std::thread::sleep(Duration::from_millis(300));
    let packets = inside.stop();
    let told = packets
        .iter()
        .filter_map(lab::Frame::packet)
        .filter(|packet| packet.icmp() == Some((3, 1)))
        .inspect(|packet| assert_eq!(packet.source, Proxmox::GATEWAY))
        .count() as u64;
    ensure!(
        (1..=8 * (seconds + 1)).contains(&told),
        "told {told} times in {seconds} s"
    );
    Ok(())
}
