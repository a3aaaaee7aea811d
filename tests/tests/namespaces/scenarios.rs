//! The scenarios `proxmox` and `snat`, whole.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::service::{self, Service};
use lab::topology::{Inside, Options, Proxmox, Snat};
use lab::{Capture, Host, Packet};
use tests::{Nat, Watch, at, exchange};

/// Everything that scenario `proxmox` asks for.
fn proxmox_reaches_everything(net: &Proxmox) -> Result<()> {
    let watch = Watch::proxmox(net)?;
    let ping = |to: &str| ["ping", "-n", "-c1", "-W2", to].map(str::to_owned);
    for guest in [&net.vm1, &net.vm2] {
        for to in [
            "198.51.100.2",
            "198.51.100.5",
            "19.19.8.1",
            "172.22.161.254",
        ] {
            guest
                .check(ping(to))
                .context("guests reach the internet and their gateway")?;
        }
    }
    net.cli
        .check(ping("19.19.8.10"))
        .context("pings are forwarded")?;
    let _web = Service::http(&net.vm1, "0.0.0.0:10000")?;
    let _last = Service::http(&net.vm1, "0.0.0.0:10999")?;
    for client in [&net.cli, &net.srv2, &net.vm2, &net.vm1] {
        for port in [10000, 10999] {
            let page = service::http_get(client, at(Proxmox::PUBLIC, port))
                .with_context(|| format!("port {port} from {}", client.name()))?;
            ensure!(page.starts_with("vm1 sees "), "{page}");
        }
    }
    // The same ports of another protocol are another guest's.
    let service = net.vm2.udp("0.0.0.0:10000")?;
    exchange(
        &net.cli.udp("198.51.100.2:7000")?,
        at(Proxmox::PUBLIC, 10000),
        &service,
        b"in",
    )?;
    exchange(
        &net.vm1.udp("0.0.0.0:7000")?,
        at(Proxmox::PUBLIC, 10000),
        &service,
        b"hairpin",
    )?;
    let _outside = Service::http(&net.srv2, "198.51.100.4:80")?;
    let page = service::http_get(&net.vm2, at(Proxmox::SRV2, 80))?;
    ensure!(page.starts_with("srv2 sees 19.19.8.10:"), "{page}");
    watch.finish().map(drop)
}

#[test]
fn scenario_proxmox() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = Nat::proxmox(&net, &net.config())?;
    proxmox_reaches_everything(&net)
}

#[test]
fn scenario_proxmox_while_netfilter_sees_the_bridges() -> Result<()> {
    let net = Proxmox::with(&Options {
        bridge_netfilter: true,
        ..Options::default()
    })?;
    let rules = "table ip strict {
    chain through {
        type filter hook forward priority filter; policy drop;
        ct state established,related accept
        ct state new accept
    }
}
";
    let loaded = net
        .host
        .run_with_input(["nft", "-f", "-"], rules.as_bytes())?;
    loaded.expect_ok()?;
    // The kernel's own NAT fails here: a guest does not reach itself.
    let _natbpf = net.natbpf(&net.config())?;
    proxmox_reaches_everything(&net)
}

#[test]
fn scenario_proxmox_on_a_bridge_that_natbpf_makes() -> Result<()> {
    let net = Proxmox::with(&Options {
        inside: Inside::OnlyPorts,
        ..Options::default()
    })?;
    let address = "address = \"172.22.161.254/24\"\n";
    let make = format!("{address}create = true\nports = [\"tap1\", \"tap2\"]\n");
    let _natbpf = net.natbpf(&net.config().replace(address, &make))?;
    proxmox_reaches_everything(&net)
}

#[test]
fn scenario_proxmox_on_a_host_with_strict_settings() -> Result<()> {
    let net = Proxmox::new()?;
    // As a hardened distribution has them: natbpf changes what the datapath needs.
    for scope in ["all", "default"] {
        net.host
            .set_sysctl(&format!("net.ipv4.conf.{scope}.rp_filter"), "1")?;
        net.host
            .set_sysctl(&format!("net.ipv4.conf.{scope}.log_martians"), "1")?;
    }
    for interface in ["vmbr0", "vmbr1"] {
        net.host
            .set_sysctl(&format!("net.ipv4.conf.{interface}.rp_filter"), "1")?;
    }
    let _nat = Nat::proxmox(&net, &net.config())?;
    proxmox_reaches_everything(&net)
}

/// Runs iperf3 against a server that may still be starting.
fn iperf3(client: &Host, options: &str, to: &str) -> Result<()> {
    let words = format!("iperf3 -c {to} --connect-timeout 1000 {options}");
    let mut said = client.run(words.split(' '))?;
    for _ in 0..20 {
        if !said.stdout.contains("Connection refused") && !said.stderr.contains("refused") {
            break;
        }
        thread::sleep(Duration::from_millis(100));
        said = client.run(words.split(' '))?;
    }
    said.expect_ok()
        .map(drop)
        .with_context(|| format!("{words} on {}", client.name()))
}

#[test]
fn scenario_proxmox_with_the_tools_that_people_use() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = Nat::proxmox(&net, &net.config())?;
    let watch = Watch::proxmox(&net)?;
    let _web = Service::http(&net.vm1, "0.0.0.0:10080")?;
    let page = net
        .cli
        .check(["curl", "-sS", "-m5", "http://19.19.8.10:10080/"])?;
    ensure!(page.starts_with("vm1 sees 198.51.100.2:"), "{page}");
    let _forwarded = net.vm1.spawn(["iperf3", "-s", "-p", "10001"])?;
    let _outside = net.cli.spawn(["iperf3", "-s", "-p", "7000"])?;
    for direction in ["-n 20M", "-n 20M -R", "-n 5M -P 4 --bidir"] {
        iperf3(&net.cli, &format!("-p 10001 {direction}"), "19.19.8.10")?;
        iperf3(&net.vm2, &format!("-p 7000 {direction}"), "198.51.100.2")?;
    }
    iperf3(&net.vm2, "-p 7000 -u -b 100M -n 2M", "198.51.100.2")?;
    iperf3(&net.vm2, "-p 7000 -u -b 100M -n 2M -R", "198.51.100.2")?;
    watch.finish().map(drop)
}

/// Source, destination and identifier with sequence number of the echoes that a capture holds.
fn echoes(capture: &Capture, kind: u8) -> Vec<(String, String, [u8; 2])> {
    let packets = capture.packets().into_iter().map(|(_, packet)| packet);
    let echoes = packets.filter(|packet| packet.icmp() == Some((kind, 0)));
    let shown = |packet: Packet| {
        let sequence = [packet.bytes[26], packet.bytes[27]];
        (
            packet.source.to_string(),
            packet.destination.to_string(),
            sequence,
        )
    };
    echoes.map(shown).collect()
}

/// Pings from the tenant, and looks at the three places that the scenario names.
fn snat_shows_the_right_addresses(net: &Snat) -> Result<()> {
    let watch = Watch::snat(net)?;
    let inner = net.guest.capture("veth1")?;
    let outer = net.host.capture("veth0")?;
    let uplink = net.host.capture("eth0")?;
    let said = net
        .guest
        .check(["ping", "-n", "-c3", "-i0.2", "-W2", "198.51.100.2"])?;
    ensure!(said.contains("3 received"), "{said}");
    let (guest, public, out) = ("1.1.1.2", "192.168.38.116", "198.51.100.2");
    for (place, capture, address) in [
        ("inner veth", &inner, guest),
        ("outer veth", &outer, guest),
        ("uplink", &uplink, public),
    ] {
        let rows = |from: &str, to: &str| -> Vec<_> {
            (1..=3)
                .map(|n| (from.to_owned(), to.to_owned(), [0, n]))
                .collect()
        };
        let (requests, replies) = (echoes(capture, 8), echoes(capture, 0));
        ensure!(requests == rows(address, out), "{place}: {requests:?}");
        ensure!(replies == rows(out, address), "{place}: {replies:?}");
    }
    let web = Service::http(&net.out, "198.51.100.2:80")?;
    let page = service::http_get(&net.guest, at(Snat::OUT, 80))?;
    ensure!(
        page.starts_with("out sees 192.168.38.116:") && web.peers().len() == 1,
        "{page}"
    );
    watch.finish().map(drop)
}

#[test]
fn scenario_snat_to_a_fixed_address() -> Result<()> {
    let net = Snat::new()?;
    let nat = Nat::snat(&net, Snat::CONFIG)?;
    snat_shows_the_right_addresses(&net)?;
    if let Some(natbpf) = nat.natbpf() {
        let stats = natbpf.stats()?;
        let rule = &stats["rules"][0];
        ensure!(
            rule["name"] == "tenant" && rule["kind"] == "snat",
            "{stats}"
        );
        ensure!(rule["packets_out"].as_u64() > Some(3), "{stats}");
    }
    Ok(())
}

#[test]
fn scenario_snat_by_masquerade() -> Result<()> {
    let net = Snat::new()?;
    let _nat = Nat::snat(&net, &Snat::CONFIG.replace("192.168.38.116", "masquerade"))?;
    snat_shows_the_right_addresses(&net)
}
