//! Where the host's routes lead: guests behind guests, and the address by which a destination is
//! reached.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::Host;
use lab::patience::patience;
use lab::topology::Proxmox;
use tests::{at, exchange};

fn forward_behind(net: &Proxmox) -> String {
    format!(
        "{}\n[[snat]]\nnetwork = \"lan\"\nuplink = \"wan\"\nto = \"masquerade\"\n\
         [[forward]]\nuplink = \"wan\"\nprotocol = [\"tcp\", \"udp\"]\nports = 8080\nto = \
         \"10.200.0.5\"\n",
        net.config_head()
    )
}

/// A guest behind vm2: vm2 itself has its address.
fn behind_vm2(net: &Proxmox) -> Result<()> {
    net.vm2.ip("address add 10.200.0.5/24 dev lo")
}

fn route(host: &Host) -> Result<()> {
    host.ip("route add 10.200.0.0/24 via 172.22.161.171")
}

#[test]
fn guest_behind_a_router_guest_is_reached_and_reaches_others() -> Result<()> {
    let net = Proxmox::new()?;
    behind_vm2(&net)?;
    route(&net.host)?;
    let _natbpf = net.natbpf(&forward_behind(&net))?;
    let service = net.vm2.udp("10.200.0.5:8080")?;
    let forwarded = at(Proxmox::PUBLIC, 8080);
    let outside = net.cli.udp("198.51.100.2:7000")?;
    for payload in [b"first", b"again"] {
        exchange(&outside, forwarded, &service, payload).context("from outside")?;
    }
    exchange(
        &net.vm1.udp("0.0.0.0:7001")?,
        forwarded,
        &service,
        b"hairpin",
    )?;
    let own = net.vm2.udp("10.200.0.5:5000")?;
    let seen = exchange(&own, at(Proxmox::CLI, 7000), &outside, b"out")?;
    ensure!(*seen.ip() == Proxmox::PUBLIC, "seen as {seen}");
    Ok(())
}

#[test]
fn l16_a_route_to_a_target_that_comes_later_is_followed() -> Result<()> {
    let net = Proxmox::new()?;
    behind_vm2(&net)?;
    let natbpf = net.natbpf(&forward_behind(&net))?;
    ensure!(
        natbpf
            .log()
            .contains("10.200.0.5 is reached by uplink \"wan\""),
        "{}",
        natbpf.log()
    );
    let service = net.vm2.udp("10.200.0.5:8080")?;
    let outside = net.cli.udp("198.51.100.2:7000")?;
    let forwarded = at(Proxmox::PUBLIC, 8080);
    let followed = || natbpf.log().matches("followed a change").count();
    let before = followed();
    // The kernel follows it at once, so the first packets open a session by the rules before.
    route(&net.host)?;
    let deadline = Instant::now() + patience(Duration::from_secs(10));
    while followed() == before {
        ensure!(Instant::now() < deadline, "not followed: {}", natbpf.log());
        exchange(&outside, forwarded, &service, b"meanwhile")?;
    }
    exchange(&outside, forwarded, &service, b"both ways")?;
    let own = net.vm2.udp("10.200.0.5:5000")?;
    let seen = exchange(&own, at(Proxmox::CLI, 7000), &outside, b"out")?;
    ensure!(*seen.ip() == Proxmox::PUBLIC, "seen as {seen}");
    Ok(())
}

#[test]
fn targets_that_no_packet_can_reach_are_refused() -> Result<()> {
    let net = Proxmox::new()?;
    let natbpf = net.natbpf(&net.config())?;
    net.host.ip("route add blackhole 10.201.0.0/24")?;
    for (to, why) in [
        ("10.200.0.5", "10.200.0.5 is reached by uplink \"wan\""),
        ("10.201.0.5", "the host drops packets for 10.201.0.5"),
        ("19.19.8.10", "19.19.8.10 is the host's own address"),
    ] {
        let config = forward_behind(&net).replace("10.200.0.5", to);
        natbpf.configure(&config)?;
        for command in ["check", "reload"] {
            let said = natbpf.cli(&[command])?;
            ensure!(
                !said.ok() && said.stderr.contains(why),
                "{command}: {}{}",
                said.stdout,
                said.stderr
            );
        }
    }
    Ok(())
}

#[test]
fn masquerade_uses_the_address_by_which_the_destination_is_reached() -> Result<()> {
    let net = Proxmox::new()?;
    // A modem beside the provider's router, and the address towards it the first of the uplink's.
    net.host.ip("address flush dev vmbr0\n\
         address add 169.254.10.7/16 scope link dev vmbr0\n\
         address add 192.168.100.2/24 dev vmbr0\n\
         address add 19.19.8.10/24 dev vmbr0\n\
         route add default via 19.19.8.1 dev vmbr0")?;
    net.isp.ip("address add 192.168.100.1/24 dev wan0")?;
    let _natbpf = net.natbpf(&net.config())?;
    let modem = net.isp.udp("192.168.100.1:7000")?;
    let outside = net.cli.udp("198.51.100.2:7000")?;
    // From one port to both, and again.
    let guest = net.vm1.udp("0.0.0.0:5000")?;
    for _ in 0..2 {
        let seen = exchange(
            &guest,
            at([192, 168, 100, 1].into(), 7000),
            &modem,
            b"modem",
        )?;
        ensure!(seen.ip().octets() == [192, 168, 100, 2], "seen as {seen}");
        let seen = exchange(&guest, at(Proxmox::CLI, 7000), &outside, b"out")?;
        ensure!(*seen.ip() == Proxmox::PUBLIC, "seen as {seen}");
    }
    Ok(())
}
