//! Guests with unique local IPv6 addresses: masquerade and forwards.

use std::collections::BTreeSet;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};

use anyhow::{Result, ensure};
use kit::packets::raw;
use lab::service::{self, Service};
use lab::topology::{Ipv6, Options, Proxmox};
use lab::{Host, Natbpf};
use tests::{exchange, hears};

const NET: Ipv6 = Ipv6::ROUTED;
const FIRST: Ipv6Addr = Ipv6::LOCAL_VM1;
const SECOND: Ipv6Addr = Ipv6::LOCAL_VM2;

/// The protocol number of ESP.
const ESP: u8 = 50;

/// Where a frame made by the kit has its IP header.
const ETHERNET: usize = 14;

fn at(address: Ipv6Addr, port: u16) -> SocketAddr {
    SocketAddrV6::new(address, port, 0, 0).into()
}

/// Guests with addresses of both kinds, and natbpf with a masquerade and further tables.
fn world(tables: &str) -> Result<(Proxmox, Natbpf)> {
    let net = Proxmox::with(&Options {
        ipv6: Some(NET),
        ..Options::default()
    })?;
    let natbpf = net.natbpf(&config(tables))?;
    Ok((net, natbpf))
}

fn config(tables: &str) -> String {
    format!(
        "[uplink.wan]\ninterface = \"vmbr0\"\n\n[network.lan]\ninterface = \"vmbr1\"\naddress = \
         [\"172.22.161.254/24\", \"2001:db8:0:101::1/64\", \"fd00:18::1/64\"]\n\n[[snat]]\nname = \
         \"lan-out\"\nnetwork = \"lan\"\nuplink = \"wan\"\nto = \"masquerade\"\n\n{tables}\n"
    )
}

/// Ports 10000 to 10099 lead to the first guest.
const FORWARD: &str = "[[forward]]\nname = \"first\"\nuplink = \"wan\"\n\
    protocol = [\"tcp\", \"udp\"]\nports = \"10000-10099\"\nto = \"fd00:18::170\"\n";

fn udp(host: &Host, address: Ipv6Addr, port: u16) -> Result<UdpSocket> {
    host.udp(&at(address, port).to_string())
}

#[test]
fn m6_1_guests_share_the_uplinks_address_in_every_protocol() -> Result<()> {
    let (net, natbpf) = world("")?;
    let server = udp(&net.cli, Ipv6::CLI, 7000)?;
    let mut seen = BTreeSet::new();
    for (guest, address) in [(&net.vm1, FIRST), (&net.vm2, SECOND)] {
        let client = udp(guest, address, 5000)?;
        seen.insert(exchange(
            &client,
            at(Ipv6::CLI, 7000),
            &server,
            b"question",
        )?);
        let ping = format!("ping -n -c1 -W2 -I {address} {}", Ipv6::CLI);
        guest.check(ping.split(' ').map(str::to_owned))?;
    }
    ensure!(seen.len() == 2, "two guests are seen as one: {seen:?}");
    ensure!(seen.iter().all(|from| from.ip() == NET.public), "{seen:?}");
    ensure!(
        seen.contains(&at(NET.public, 5000)),
        "no port was kept: {seen:?}"
    );

    let wire = net.cli.capture("eth0")?;
    let packet = raw(ESP, FIRST.octets(), Ipv6::CLI.octets());
    let packet = packet.payload(&[0x5a; 64]).bytes();
    net.inject_from_guest(&net.vm1, &packet[ETHERNET..])?;
    wire.wait_for6(|_, seen| seen.protocol == ESP && seen.source == NET.public)?;

    // A guest that has both kinds of addresses uses the public one, and it stays.
    let _web = Service::http(&net.cli, &at(Ipv6::CLI, 80).to_string())?;
    let page = service::http_get(&net.vm1, at(Ipv6::CLI, 80))?;
    ensure!(page.contains(&NET.vm1.to_string()), "{page}");
    net.vm1
        .ip(&format!("address del {}/64 dev eth0", NET.vm1))?;
    let page = service::http_get(&net.vm1, at(Ipv6::CLI, 80))?;
    ensure!(page.contains(&NET.public.to_string()), "{page}");
    ensure!(natbpf.conntrack(&["--internal", "fd00:18::/64"])?.len() >= 6);
    Ok(())
}

#[test]
fn r6_4_a_masquerade_leaves_public_addresses_alone() -> Result<()> {
    let (net, _natbpf) = world("")?;
    let server = udp(&net.cli, Ipv6::CLI, 7000)?;
    let mut seen = Vec::new();
    for address in [NET.vm1, FIRST] {
        let client = udp(&net.vm1, address, 5001)?;
        seen.push(exchange(&client, at(Ipv6::CLI, 7000), &server, b"question")?.ip());
    }
    ensure!(seen == [NET.vm1, NET.public], "{seen:?}");
    Ok(())
}

#[test]
fn m6_4_forwards_lead_to_a_guest_from_outside_and_from_inside() -> Result<()> {
    let (net, natbpf) = world(FORWARD)?;
    let service = udp(&net.vm1, FIRST, 10_001)?;
    let outside = udp(&net.cli, Ipv6::CLI, 6000)?;
    let seen = exchange(&outside, at(NET.public, 10_001), &service, b"question")?;
    ensure!(
        seen == at(Ipv6::CLI, 6000),
        "the source was changed to {seen}"
    );
    // Another guest, by the external address.
    let inside = udp(&net.vm2, SECOND, 6000)?;
    let seen = exchange(&inside, at(NET.public, 10_001), &service, b"question")?;
    ensure!(
        seen.ip() == NET.public,
        "a hairpinned flow comes from {seen}"
    );
    // By TCP, both ways.
    let _web = Service::http(&net.vm1, &at(FIRST, 10_080).to_string())?;
    for client in [&net.cli, &net.vm2] {
        let page = service::http_get(client, at(NET.public, 10_080))?;
        ensure!(page.starts_with("vm1 sees"), "{page}");
    }
    // What the guest sends from the forwarded port leaves from the external one.
    let remote = udp(&net.srv2, Ipv6::SRV2, 7000)?;
    let seen = exchange(&service, at(Ipv6::SRV2, 7000), &remote, b"question")?;
    ensure!(seen == at(NET.public, 10_001), "seen as {seen}");
    // A service of the host keeps its port.
    let own = udp(&net.host, NET.public, 9000)?;
    exchange(&outside, at(NET.public, 9000), &own, b"question")?;

    // Without the rule, its sessions end.
    let said = natbpf.reload(&config(""))?;
    ensure!(said.contains("forward first: removed"), "{said}");
    outside.send_to(b"late", at(NET.public, 10_001))?;
    ensure!(
        hears(&service)?.is_none(),
        "the forward still leads to the guest"
    );
    ensure!(
        natbpf
            .conntrack(&["--remote", &at(Ipv6::CLI, 6000).to_string()])?
            .is_empty()
    );
    Ok(())
}
