//! What docs/rfc-compliance.md claims and no case of the behaviour list says.

use anyhow::{Context, Result, ensure};
use lab::topology::Proxmox;
use lab::{Host, Packet};
use tests::{Watch, at, connect_from, exchange, hears};

/// The port from which a remote sees a TCP connection of a guest's port 5000.
fn tcp_seen_by(guest: &Host, net: &Proxmox, remote: std::net::Ipv4Addr) -> Result<u16> {
    let listener = net.cli.tcp_listen(&at(remote, 7000).to_string())?;
    let _near = connect_from(guest, 5000, at(remote, 7000))?;
    let (_, peer) = listener.accept()?;
    ensure!(peer.ip() == Proxmox::PUBLIC, "seen as {peer}");
    Ok(peer.port())
}

#[test]
fn u2_u4_tcp_ports_have_one_external_port_each() -> Result<()> {
    let net = Proxmox::new()?;
    let _natbpf = net.natbpf(&net.config())?;
    let other = tcp_seen_by(&net.vm2, &net, Proxmox::CLI)?;
    let first = tcp_seen_by(&net.vm1, &net, Proxmox::CLI)?;
    let second = tcp_seen_by(&net.vm1, &net, Proxmox::CLI_B)?;
    ensure!(other == 5000, "the port was free, but {other} was taken");
    ensure!(first != other, "two guests share {first}");
    ensure!(first == second, "one port has two: {first} and {second}");
    Ok(())
}

#[test]
fn u2_u3_mappings_and_filters_are_those_of_one_protocol() -> Result<()> {
    let net = Proxmox::new()?;
    let rule = "to = \"masquerade\"\nfiltering = \"endpoint-independent\"";
    let _natbpf = net.natbpf(&net.config().replace("to = \"masquerade\"", rule))?;
    tcp_seen_by(&net.vm2, &net, Proxmox::CLI)?;
    let tcp = tcp_seen_by(&net.vm1, &net, Proxmox::CLI)?;
    ensure!(tcp != 5000, "two guests share {tcp}");
    let (client, guest) = (
        net.cli.udp("198.51.100.2:7001")?,
        net.vm1.udp("0.0.0.0:5000")?,
    );
    // Nobody has a UDP mapping at the port of vm1's TCP mapping.
    client.send_to(b"to TCP's port", at(Proxmox::PUBLIC, tcp))?;
    let heard = hears(&guest)?;
    ensure!(heard.is_none(), "let in: {heard:?}");
    let seen = exchange(&guest, at(Proxmox::CLI, 7001), &client, b"udp")?;
    ensure!(seen == at(Proxmox::PUBLIC, 5000), "seen as {seen}");
    Ok(())
}

#[test]
fn i1_an_identifier_has_one_external_identifier_for_all_remotes() -> Result<()> {
    let net = Proxmox::new()?;
    let _natbpf = net.natbpf(&net.config())?;
    let ping = |guest: &Host, to: &str| {
        guest
            .check(["ping", "-n", "-c1", "-W2", "-e4242", to])
            .map(drop)
    };
    ping(&net.vm2, "198.51.100.2")?;
    let watch = Watch::proxmox(&net)?;
    let mut seen = Vec::new();
    for remote in [Proxmox::CLI, Proxmox::CLI_B, Proxmox::SRV2] {
        ping(&net.vm1, &remote.to_string())?;
        let is_ours =
            |packet: &Packet| packet.icmp() == Some((8, 0)) && packet.destination == remote;
        let (identifier, _) = watch.sent(is_ours)?.ports().context("an identifier")?;
        seen.push(identifier);
    }
    ensure!(seen[0] != 4242, "two guests share {}", seen[0]);
    ensure!(seen.iter().all(|one| *one == seen[0]), "{seen:?}");
    Ok(())
}

#[test]
fn the_log_holds_no_addresses_of_remotes() -> Result<()> {
    let net = Proxmox::new()?;
    let natbpf = net.natbpf(&net.config())?;
    let server = net.cli.udp("198.51.100.2:7000")?;
    for port in 5000..5010 {
        let guest = net.vm1.udp(&format!("0.0.0.0:{port}"))?;
        exchange(&guest, at(Proxmox::CLI, 7000), &server, b"logged?")?;
    }
    natbpf.reload(&net.config())?;
    let log = natbpf.log();
    ensure!(log.contains("packets are translated"), "no log: {log}");
    ensure!(!log.contains("198.51.100."), "{log}");
    Ok(())
}
