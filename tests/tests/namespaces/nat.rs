//! One external address for one guest: M1; and ARP for it: O5.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use kit::craft::Ip;
use lab::service::{self, Service};
use lab::topology::Proxmox;
use tests::{Watch, at, exchange};

/// An address in the provider's subnet that no interface holds.
const OWN: Ipv4Addr = Ipv4Addr::new(19, 19, 8, 77);
const GRE: u8 = 47;

fn config(net: &Proxmox) -> String {
    format!(
        "{}\n[[nat]]\nname = \"vm1\"\nuplink = \"wan\"\naddress = \"{OWN}\"\nto = \"{}\"\n",
        net.config(),
        Proxmox::VM1
    )
}

#[test]
fn m1_a_guest_with_an_address_of_its_own_is_reached_by_every_protocol() -> Result<()> {
    let net = Proxmox::new()?;
    let nat = net.natbpf(&config(&net))?;
    let watch = Watch::proxmox(&net)?;
    let client = net.cli.udp("198.51.100.2:7000")?;
    for port in [1, 53, 10500, 65535] {
        let server = net.vm1.udp(&format!("0.0.0.0:{port}"))?;
        let seen = exchange(&client, at(OWN, port), &server, b"in")?;
        ensure!(seen == at(Proxmox::CLI, 7000), "seen as {seen}");
    }
    // ssh goes to the guest as well: the host has another address to be reached by.
    for port in [22, 80] {
        let _web = Service::http(&net.vm1, &format!("0.0.0.0:{port}"))?;
        let page = service::http_get(&net.cli, at(OWN, port))?;
        ensure!(page.starts_with("vm1 sees 198.51.100.2:"), "{page}");
    }
    net.cli
        .check(["ping", "-c", "1", "-W", "3", &OWN.to_string()])?;
    let inside = net.vm1.capture("eth0")?;
    net.inject_from_internet(&Ip::new(Proxmox::CLI, OWN).raw(GRE, b"tunnel")?)?;
    let (_, packet) = inside.wait_for(|_, packet| packet.protocol == GRE)?;
    ensure!(packet.destination == Proxmox::VM1, "{packet}");
    let rule = nat.stats()?["rules"]
        .as_array()
        .and_then(|rules| rules.iter().find(|rule| rule["name"] == "vm1").cloned())
        .context("no counters of the rule")?;
    ensure!(rule["kind"] == "nat", "{rule}");
    ensure!(rule["connections"].as_u64().unwrap_or(0) >= 8, "{rule}");
    watch.finish().map(drop)
}

#[test]
fn m1_a_guest_with_an_address_of_its_own_sends_from_it_with_its_ports() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = net.natbpf(&config(&net))?;
    let watch = Watch::proxmox(&net)?;
    let server = net.cli.udp("198.51.100.2:7000")?;
    for port in [22, 5000, 65535] {
        let guest = net.vm1.udp(&format!("0.0.0.0:{port}"))?;
        let seen = exchange(&guest, at(Proxmox::CLI, 7000), &server, b"out")?;
        ensure!(seen == at(OWN, port), "seen as {seen}");
    }
    // The other guest still hides behind the host's address.
    let other = net.vm2.udp("0.0.0.0:5000")?;
    let seen = exchange(&other, at(Proxmox::CLI, 7000), &server, b"out")?;
    ensure!(seen == at(Proxmox::PUBLIC, 5000), "seen as {seen}");
    net.vm1
        .check(["ping", "-c", "1", "-W", "3", "198.51.100.2"])?;
    let outside = net.cli.capture("eth0")?;
    net.inject_from_guest(
        &net.vm1,
        &Ip::new(Proxmox::VM1, Proxmox::CLI).raw(GRE, b"tunnel")?,
    )?;
    let (_, packet) = outside.wait_for(|_, packet| packet.protocol == GRE)?;
    ensure!(packet.source == OWN, "{packet}");
    watch.finish().map(drop)
}

#[test]
fn m1_guests_reach_it_by_its_external_address() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = net.natbpf(&config(&net))?;
    let server = net.vm1.udp("0.0.0.0:7000")?;
    for (guest, external) in [(&net.vm2, Proxmox::PUBLIC), (&net.vm1, OWN)] {
        let client = guest.udp("0.0.0.0:5000")?;
        let seen = exchange(&client, at(OWN, 7000), &server, b"between")?;
        ensure!(seen == at(external, 5000), "seen as {seen}");
    }
    Ok(())
}

/// Asks for an address by ARP, afresh; whether it was answered.
fn arp(net: &Proxmox, address: Ipv4Addr) -> Result<bool> {
    let device = Proxmox::WAN;
    let address = address.to_string();
    // (No entry yet is as good.)
    net.isp
        .run(["ip", "neighbour", "del", &address, "dev", device])?;
    net.isp.run(["ping", "-c", "1", "-W", "1", &address])?;
    let entry = net
        .isp
        .check(["ip", "neighbour", "show", &address, "dev", device])?;
    Ok(entry.contains("lladdr"))
}

#[test]
fn o5_arp_is_answered_for_external_addresses_that_no_interface_holds() -> Result<()> {
    let net = Proxmox::new()?;
    let pool = config(&net).replace("\"masquerade\"", "\"19.19.8.80-19.19.8.83\"");
    let mut nat = net.natbpf(&pool)?;
    for last in [77, 80, 83] {
        let address = Ipv4Addr::new(19, 19, 8, last);
        ensure!(arp(&net, address)?, "{address} is not answered");
    }
    for last in [76, 79, 84] {
        let address = Ipv4Addr::new(19, 19, 8, last);
        ensure!(!arp(&net, address)?, "{address} is answered");
    }
    // The host's own address is answered by the kernel, once.
    ensure!(arp(&net, Proxmox::PUBLIC)?, "the host's own");
    let server = net.cli.udp("198.51.100.2:7000")?;
    let guest = net.vm2.udp("0.0.0.0:5000")?;
    let seen = exchange(&guest, at(Proxmox::CLI, 7000), &server, b"out")?;
    ensure!(seen.ip().octets()[3] >= 80, "seen as {seen}");
    nat.down()?;
    ensure!(!arp(&net, OWN)?, "answered after natbpf down");
    Ok(())
}
