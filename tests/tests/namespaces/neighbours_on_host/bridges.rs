//! Netfilter on bridges (`bridge-nf-call-iptables`), with rules that look at connections:
//! connection tracking sees each packet on the bridge, before it is translated, and must see it
//! again after that.

use anyhow::{Context, Result, ensure};
use lab::Natbpf;
use lab::service::{Service, http_get};
use lab::topology::{Options, Proxmox};
use tests::bulk::{Sender, transfer};
use tests::following::soon;
use tests::{at, exchange};

use super::{Pages, back_in, both_pass, load, no_findings, out};

const SETTING: &str = "net.bridge.bridge-nf-call-iptables";

/// Rules that accept established flows and allowed new ones, and nothing else.
const STRICT: &str = "*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A FORWARD -m conntrack --ctstate INVALID -j DROP
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -i vmbr1 -m conntrack --ctstate NEW -j ACCEPT
-A FORWARD -i vmbr0 -d 172.22.161.0/24 -m conntrack --ctstate NEW -j ACCEPT
COMMIT
";

/// The same by `nft`.
const STRICT_NFT: &str = "table ip strict {
    chain through {
        type filter hook forward priority filter; policy drop;
        ct state invalid drop
        ct state established,related accept
        ct state new iifname vmbr1 accept
        ct state new iifname vmbr0 ip daddr 172.22.161.0/24 accept
    }
}
";

fn on_bridges() -> Result<Proxmox> {
    Proxmox::with(&Options {
        bridge_netfilter: true,
        ..Options::default()
    })
}

/// Every allowed flow works: by TCP, UDP and ICMP, out, in, and between guests by the public
/// address.
fn all_passes(net: &Proxmox) -> Result<()> {
    both_pass(net)?;
    for guest in [&net.vm2, &net.vm1] {
        let page = http_get(guest, at(Proxmox::PUBLIC, 10080)).context("hairpin")?;
        ensure!(page.starts_with("vm1 sees 19.19.8.10:"), "{page}");
    }
    let service = net.vm2.udp("0.0.0.0:10500")?;
    let outside = net.cli.udp("198.51.100.2:7000")?;
    let (to, question) = (at(Proxmox::PUBLIC, 10500), [7; 1400]);
    exchange(&outside, to, &service, &question).context("udp in")?;
    exchange(&net.vm1.udp("0.0.0.0:7001")?, to, &service, &question).context("udp hairpin")?;
    let out = at(Proxmox::CLI, 7000);
    exchange(&net.vm1.udp("0.0.0.0:7002")?, out, &outside, &question).context("udp out")?;
    let ping = |to: &str| ["ping", "-n", "-c1", "-W2", "-s3000", to].map(str::to_owned);
    net.cli.check(ping("19.19.8.10")).context("ping in")?;
    net.vm2.check(ping("19.19.8.10")).context("ping hairpin")?;
    net.vm2.check(ping("198.51.100.2")).context("ping out")?;
    for sender in [Sender::Client, Sender::Server] {
        let outside = at(Proxmox::CLI, 7100);
        transfer(&net.vm1, outside, &net.cli, 7100, sender, 3_000_000).context("out")?;
        let forwarded = at(Proxmox::PUBLIC, 10100);
        transfer(&net.cli, forwarded, &net.vm1, 10100, sender, 3_000_000).context("in")?;
        transfer(&net.vm2, forwarded, &net.vm1, 10100, sender, 3_000_000).context("hairpin")?;
    }
    Ok(())
}

#[test]
fn stateful_rules_pass_all_that_is_established() -> Result<()> {
    for (tool, rules) in [
        (&["iptables-legacy-restore"][..], STRICT),
        (&["iptables-nft-restore"], STRICT),
        (&["nft", "-f", "-"], STRICT_NFT),
    ] {
        let net = on_bridges()?;
        load(&net.host, tool, rules)?;
        let natbpf = net.natbpf(&net.config())?;
        let _pages = Pages::open(&net)?;
        all_passes(&net).with_context(|| tool.join(" "))?;
        no_findings(&natbpf)?;
    }
    Ok(())
}

#[test]
fn stateful_rules_pass_packets_of_the_slow_path() -> Result<()> {
    let net = on_bridges()?;
    load(&net.host, &["iptables-nft-restore"], STRICT)?;
    let config = format!("forwarding = \"kernel\"\n{}", net.config());
    let _natbpf = net.natbpf(&config)?;
    let _pages = Pages::open(&net)?;
    all_passes(&net)
}

#[test]
fn errors_about_established_flows_are_related() -> Result<()> {
    let net = on_bridges()?;
    load(&net.host, &["iptables-nft-restore"], STRICT)?;
    let _natbpf = net.natbpf(&net.config())?;
    // A port without a socket: its host says so, and the sender's socket gets the error.
    let refused = |from: &lab::Host, to| -> Result<bool> {
        let socket = from.udp("0.0.0.0:0")?;
        socket.connect(to).context("connect")?;
        socket.send(b"anybody?").context("send")?;
        let answer = socket.recv(&mut [0; 8]);
        Ok(answer.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused))
    };
    ensure!(refused(&net.vm1, at(Proxmox::CLI, 9))?, "out");
    ensure!(refused(&net.cli, at(Proxmox::PUBLIC, 10009))?, "in");
    ensure!(refused(&net.vm1, at(Proxmox::PUBLIC, 10009))?, "hairpin");
    Ok(())
}

/// The server's port is not the one that is forwarded, and the client does not keep its own.
#[test]
fn stateful_rules_pass_hairpins_by_a_shifted_port() -> Result<()> {
    for bridge_netfilter in [false, true] {
        let net = Proxmox::with(&Options {
            bridge_netfilter,
            ..Options::default()
        })?;
        load(&net.host, &["iptables-nft-restore"], STRICT)?;
        let config = net.config().replace(
            "ports = \"10000-10999\"\nto = \"172.22.161.170\"",
            "ports = 8080\nto = \"172.22.161.170\"\nto_ports = 80",
        );
        let _natbpf = net.natbpf(&config)?;
        let _page = Service::http(&net.vm1, "0.0.0.0:80")?;
        let outside = net.cli.tcp_listen("0.0.0.0:7100")?;
        let from = |guest: &lab::Host, to| tests::connect_from(guest, 7100, to);
        let _first = from(&net.vm1, at(Proxmox::CLI, 7100))?;
        outside.accept().context("accept")?;
        from(&net.vm2, at(Proxmox::PUBLIC, 8080)).context("the other's port")?;
        for guest in [&net.vm1, &net.vm2] {
            let page = http_get(guest, at(Proxmox::PUBLIC, 8080))?;
            ensure!(page.starts_with("vm1 sees 19.19.8.10:"), "{page}");
        }
    }
    Ok(())
}

#[test]
fn netfilter_on_bridges_that_is_turned_on_later_is_followed() -> Result<()> {
    let net = Proxmox::new()?;
    load(&net.host, &["iptables-nft-restore"], STRICT)?;
    let natbpf = net.natbpf(&net.config())?;
    let _pages = Pages::open(&net)?;
    both_pass(&net)?;
    net.host.set_sysctl(SETTING, "1")?;
    followed(&natbpf, 1)?;
    both_pass(&net)?;
    net.host.set_sysctl(SETTING, "0")?;
    followed(&natbpf, 2)?;
    both_pass(&net)?;
    net.host
        .ip("link set vmbr0 type bridge nf_call_iptables 1")?;
    followed(&natbpf, 3)?;
    both_pass(&net)
}

/// Waits until natbpf has followed that many changes.
fn followed(natbpf: &Natbpf, times: usize) -> Result<()> {
    soon("the change is followed", || {
        Ok(natbpf.log().matches("followed a change").count() == times)
    })
}

#[test]
fn rules_by_the_ports_of_a_guests_bridge_stay_on() -> Result<()> {
    let net = on_bridges()?;
    // What a guest sends to the outside, and what guests of one bridge send each other.
    let rules = "*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A FORWARD -p tcp -m physdev --physdev-in tap1 -m tcp --dport 80 -j DROP
-A FORWARD -p tcp -m physdev --physdev-is-bridged --physdev-out tap1 -m tcp --dport 10080 -j DROP
COMMIT
";
    load(&net.host, &["iptables-nft-restore"], rules)?;
    let _natbpf = net.natbpf(&net.config())?;
    let _pages = Pages::open(&net)?;
    let _second = Service::http(&net.vm1, "0.0.0.0:10081")?;
    ensure!(out(&net).is_err(), "the guest gets out");
    ensure!(
        http_get(&net.vm2, at(Proxmox::VM1, 10080)).is_err(),
        "the other guest gets in"
    );
    let seen = http_get(&net.vm2, at(Proxmox::VM1, 10081))?;
    ensure!(seen.contains("vm1 sees 172.22.161.171:"), "{seen}");
    let seen = back_in(&net)?;
    ensure!(seen.contains("vm1 sees 198.51.100.2:"), "{seen}");
    Ok(())
}
