//! QEMU's NAT network, with DHCP and DNS.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use lab::{Background, Host, Lab};

use super::super::dhcp::{Told, lease_in, resolve_at};
use super::matrix::Service::{Ping, Tcp, Udp};
use super::matrix::{Difference, Matrix, Questions, compare};
use super::world::World;
use super::{by_hand, configuration};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 122, 1);
const WEB: Ipv4Addr = Ipv4Addr::new(192, 168, 122, 140);
/// The address whose port is forwarded by the rules: another of the host's.
const PUBLIC: Ipv4Addr = Ipv4Addr::new(192, 168, 82, 0);

/// The host before its first guest starts: no bridge, and unattached taps.
fn world() -> Result<World> {
    let net = World::new(["web", "other"], "192.168.122.0/24")?;
    net.host.ip("address add 192.168.82.0/32 dev eth0")?;
    net.gw.ip("route add 192.168.82.0/32 via 10.10.10.190")?;
    for (guest, last) in net.guests.iter().zip(["56", "57"]) {
        guest.ip(&format!("link set eth0 address 52:54:00:12:34:{last}"))?;
    }
    Ok(net)
}

/// As the scripts that QEMU calls do it: the bridge, its address, dnsmasq, and the taps.
fn attach_by_hand(host: &Host, lab: &Lab) -> Result<Background> {
    host.ip("link add virbr0 type bridge forward_delay 0 stp_state 0\n\
             address add 192.168.122.1/24 dev virbr0\nlink set virbr0 up\n\
             link set tap0 master virbr0\nlink set tap1 master virbr0")?;
    let leases = format!("--dhcp-leasefile={}", lab.folder().join("leases").display());
    host.spawn([
        "dnsmasq",
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--bind-interfaces",
        "--interface=virbr0",
        "--except-interface=lo",
        "--dhcp-range=192.168.122.10,192.168.122.200,3600",
        "--dhcp-host=52:54:00:12:34:56,web,192.168.122.140",
        "--dhcp-authoritative",
        "--pid-file",
        &leases,
    ])
}

/// Both guests get their addresses.
fn leases(net: &World) -> Result<[Told; 2]> {
    let [web, other] = &net.guests;
    let told = [
        lease_in(&net.lab, web, "web")?,
        lease_in(&net.lab, other, "other")?,
    ];
    let found = resolve_at(GATEWAY, other, "web")?;
    ensure!(found == Some(WEB), "web is {found:?}");
    Ok(told)
}

fn matrix(net: &World, other: Ipv4Addr) -> Result<Matrix> {
    let [web, second] = &net.guests;
    Questions {
        machines: &[&net.out, &net.host, web, second],
        addresses: &[World::OUT, World::HOST, PUBLIC, GATEWAY, WEB, other],
        own: &[Ipv4Addr::LOCALHOST],
        services: &[Tcp(80), Tcp(22), Udp(80), Ping],
        forwarded: &[Tcp(80)],
    }
    .ask()
}

fn compare_with(original: &Matrix, natbpf: &Matrix, other: Ipv4Addr) -> Result<()> {
    let row = |probes, by_hand, natbpf, why| Difference {
        probes,
        by_hand,
        natbpf,
        why,
    };
    let any_address =
        "every address of the host is forwarded, not only the one that the rule names";
    let hairpin = "half a hairpin: the guest answers the other one directly, or itself, by an \
        address that nobody has asked";
    let local = "the host itself reaches what it forwards";
    let not_outside = "no inside address is seen outside, not even by who has a route to it";
    let inside = format!("192.168.122.1|192.168.122.140|{other}");
    let [tcp, udp, ping] = [
        format!("out tcp {inside} 80|22"),
        format!("out udp {inside} 80"),
        format!("out ping {inside}"),
    ];
    let table = [
        row(
            "out tcp 10.10.10.190 80",
            "refused",
            "web sees 198.51.100.2",
            any_address,
        ),
        row(
            "web|other tcp 10.10.10.190 80",
            "refused",
            "web sees 10.10.10.190",
            any_address,
        ),
        row(
            "web|other tcp 192.168.82.0 80",
            "nothing",
            "web sees 10.10.10.190",
            hairpin,
        ),
        row(
            "host tcp 10.10.10.190|192.168.82.0|127.0.0.1 80",
            "refused",
            "web sees 192.168.122.1",
            local,
        ),
        row(&tcp, "*", "nothing", not_outside),
        row(&udp, "*", "nothing", not_outside),
        row(&ping, "*", "nothing", not_outside),
    ];
    compare(original, natbpf, &table)
}

#[test]
fn recipe_kvm_matches_the_rules() -> Result<()> {
    let (original, told_by_hand) = {
        let net = world()?;
        by_hand(&net.host, "kvm", &[])?;
        let _dnsmasq = attach_by_hand(&net.host, &net.lab)?;
        let told = leases(&net)?;
        (matrix(&net, told[1].address)?, told)
    };
    let net = world()?;
    let natbpf = net.natbpf(&configuration("kvm")?)?;
    for tap in ["tap0", "tap1"] {
        natbpf.cli(&["port", "add", tap])?.expect_ok()?;
    }
    let told = leases(&net)?;
    ensure!(
        told == told_by_hand,
        "guests were told {told_by_hand:?}, and are told {told:?}"
    );
    ensure!(told[0].address == WEB, "{told:?}");
    let other = told[1].address;
    compare_with(&original, &matrix(&net, other)?, other)?;
    // The last guest goes.
    for tap in ["tap0", "tap1"] {
        natbpf.cli(&["port", "del", tap])?.expect_ok()?;
    }
    let ports = net.host.check(["ip", "link", "show", "master", "virbr0"])?;
    ensure!(ports.is_empty(), "{ports}");
    Ok(())
}
