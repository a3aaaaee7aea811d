//! The external ports that natbpf picks, and those that it must not: S6, and the host's own
//! traffic.

use anyhow::{Context, Result, ensure};
use lab::service::{self, Service};
use lab::topology::Proxmox;
use tests::{Nat, at, exchange};

#[test]
fn s6_a_service_of_the_host_keeps_its_port() -> Result<()> {
    let net = Proxmox::new()?;
    let _natbpf = net.natbpf(&net.config())?;
    let own = net.host.udp("0.0.0.0:5000")?;
    let _web = Service::http(&net.host, "0.0.0.0:5000")?;
    let client = net.cli.udp("198.51.100.2:7000")?;
    // The guest would get this very port, towards the very host that talks to the service.
    let seen = exchange(
        &net.vm1.udp("0.0.0.0:5000")?,
        at(Proxmox::CLI, 7000),
        &client,
        b"from the guest",
    )?;
    ensure!(
        seen != at(Proxmox::PUBLIC, 5000),
        "the service's port was taken"
    );
    exchange(&client, at(Proxmox::PUBLIC, 5000), &own, b"to the host")?;
    let page = service::http_get(&net.cli, at(Proxmox::PUBLIC, 5000))?;
    ensure!(page.starts_with("host sees 198.51.100.2:"), "{page}");
    Ok(())
}

#[test]
fn s6_a_service_that_starts_later_is_reached_by_everybody_else() -> Result<()> {
    let net = Proxmox::new()?;
    let _natbpf = net.natbpf(&net.config())?;
    let server = net.cli.udp("198.51.100.2:7000")?;
    let guest = net.vm1.udp("0.0.0.0:5000")?;
    let seen = exchange(
        &guest,
        at(Proxmox::CLI, 7000),
        &server,
        b"the guest was first",
    )?;
    ensure!(seen == at(Proxmox::PUBLIC, 5000), "seen as {seen}");
    let own = net.host.udp("0.0.0.0:5000")?;
    let other = net.srv2.udp("198.51.100.4:7000")?;
    exchange(&other, at(Proxmox::PUBLIC, 5000), &own, b"to the host")?;
    exchange(
        &guest,
        at(Proxmox::CLI, 7000),
        &server,
        b"and the guest goes on",
    )?;
    // The guest has sent to this host: what comes from another port of it is the service's all the
    // same.
    let other = net.cli.udp("198.51.100.2:7001")?;
    exchange(&other, at(Proxmox::PUBLIC, 5000), &own, b"to the host")?;
    Ok(())
}

/// Any user may bind a forwarded port and connect the socket to whom he likes.
#[test]
fn s12_a_socket_that_has_sent_nothing_takes_no_packet_of_a_forward() -> Result<()> {
    let net = Proxmox::new()?;
    let _natbpf = net.natbpf(&net.config())?;
    let users = net.host.udp("0.0.0.0:10500")?;
    users.connect(at(Proxmox::CLI, 7000))?;
    let guest = net.vm2.udp("0.0.0.0:10500")?;
    let remote = net.cli.udp("198.51.100.2:7000")?;
    exchange(&remote, at(Proxmox::PUBLIC, 10500), &guest, b"to the guest")?;
    // Once it has sent, it has its answers; others reach the guest as before.
    users.connect(at(Proxmox::SRV2, 7000))?;
    let server = net.srv2.udp("198.51.100.4:7000")?;
    let seen = exchange(&users, at(Proxmox::SRV2, 7000), &server, b"from the host")?;
    ensure!(seen == at(Proxmox::PUBLIC, 10500), "seen as {seen}");
    let other = net.srv2.udp("198.51.100.5:7000")?;
    exchange(&other, at(Proxmox::PUBLIC, 10500), &guest, b"to the guest")?;
    Ok(())
}

#[test]
fn the_hosts_own_traffic_is_untouched() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = Nat::proxmox(&net, &net.config())?;
    // Out, from the public address; in, to services at both of its addresses; and from a guest.
    let server = net.cli.udp("198.51.100.2:7000")?;
    let own = net.host.udp("0.0.0.0:22")?;
    let seen = exchange(&own, at(Proxmox::CLI, 7000), &server, b"out")?;
    ensure!(seen == at(Proxmox::PUBLIC, 22), "seen as {seen}");
    let _ssh = Service::http(&net.host, "0.0.0.0:22")?;
    let page = service::http_get(&net.cli, at(Proxmox::PUBLIC, 22)).context("from outside")?;
    ensure!(page.starts_with("host sees 198.51.100.2:"), "{page}");
    for address in [Proxmox::GATEWAY, Proxmox::PUBLIC] {
        let page = service::http_get(&net.vm1, at(address, 22))
            .with_context(|| format!("from a guest to {address}"))?;
        ensure!(page.starts_with("host sees 172.22.161.170:"), "{page}");
    }
    net.host
        .check(["ping", "-n", "-c1", "-W2", "198.51.100.2"])?;
    net.host
        .check(["ping", "-n", "-c1", "-W2", "172.22.161.170"])?;
    Ok(())
}

#[test]
fn a_rule_is_about_the_public_address_and_hides_no_other() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = Nat::proxmox(&net, &net.config())?;
    // The forwarded port, at every address that is not the public one.
    let _hosts = Service::http(&net.host, "172.22.161.254:10080")?;
    let _outside = Service::http(&net.cli, "198.51.100.2:10080")?;
    let _guest = Service::http(&net.vm2, "0.0.0.0:10080")?;
    for (address, name) in [
        (Proxmox::GATEWAY, "host"),
        (Proxmox::CLI, "cli"),
        (Proxmox::VM2, "vm2"),
    ] {
        let page = service::http_get(&net.vm1, at(address, 10080))?;
        ensure!(
            page.starts_with(&format!("{name} sees ")),
            "{address}: {page}"
        );
    }
    Ok(())
}
