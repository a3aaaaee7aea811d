//! Hosts with two uplinks, and reverse-path filters.

use anyhow::{Result, ensure};
use lab::Natbpf;
use lab::service::{Service, http_get};
use lab::topology::Proxmox;
use serde_json::Value;
use std::net::Ipv4Addr;
use tests::at;

use super::{Pages, back_in, both_pass, findings, follow, load, no_findings};

/// The host's address at its second provider.
const SECOND: Ipv4Addr = Ipv4Addr::new(19, 19, 9, 10);

/// A second way out by `eno2`, with the rule of routing that hosts with two providers have: what
/// comes from that address leaves by that way.
fn two_providers() -> Result<Proxmox> {
    let net = Proxmox::new()?;
    net.lab().veth((&net.host, "eno2"), (&net.isp, "wan1"))?;
    net.isp.ip("address add 19.19.9.1/24 dev wan1")?;
    net.host.ip("address add 19.19.9.10/24 dev eno2\n\
         route add default via 19.19.9.1 dev eno2 table 100\n\
         rule add from 19.19.9.10 lookup 100")?;
    Ok(net)
}

fn config(net: &Proxmox) -> String {
    let more = r#"
[uplink.second]
interface = "eno2"

[[forward]]
name = "second-tcp"
uplink = "second"
protocol = "tcp"
ports = "10000-10999"
to = "172.22.161.170"
"#;
    net.config() + more
}

fn start(net: &Proxmox) -> Result<(Natbpf, Pages)> {
    Ok((net.natbpf(&config(net))?, Pages::open(net)?))
}

fn by_the_second(net: &Proxmox) -> Result<String> {
    http_get(&net.cli, at(SECOND, 10080))
}

fn reverse_path(natbpf: &Natbpf) -> Result<Vec<Value>> {
    findings(natbpf, "reverse-path")
}

#[test]
fn a_strict_filter_that_drops_the_second_providers_connections_is_found() -> Result<()> {
    let net = two_providers()?;
    let (natbpf, _pages) = start(&net)?;
    // Without a filter they work: the answers leave by the first provider.
    let seen = by_the_second(&net)?;
    ensure!(seen.contains("vm1 sees 198.51.100.2:"), "{seen}");
    no_findings(&natbpf)?;
    for scope in ["all", "eno2"] {
        net.host
            .set_sysctl(&format!("net.ipv4.conf.{scope}.rp_filter"), "1")?;
        ensure!(by_the_second(&net).is_err(), "{scope}: nothing is dropped");
        // What is the host's own gets through, by its rule: the setting was right before natbpf.
        let _own = Service::http(&net.host, "19.19.9.10:8006")?;
        let own = http_get(&net.cli, at(SECOND, 8006))?;
        ensure!(own.contains("host sees"), "{own}");
        both_pass(&net)?;
        let found = reverse_path(&natbpf)?;
        ensure!(found.len() == 1, "{found:#?}");
        let what = found[0]["what"].to_string();
        ensure!(
            what.contains("drops connections of [[forward]] \\\"second-tcp\\\" that come by eno2"),
            "{what}"
        );
        follow(&net.host, &found[0])?;
        no_findings(&natbpf)?;
        by_the_second(&net)?;
        for scope in ["all", "eno2"] {
            net.host
                .set_sysctl(&format!("net.ipv4.conf.{scope}.rp_filter"), "0")?;
        }
    }
    Ok(())
}

#[test]
fn a_route_for_the_guests_answers_satisfies_a_strict_filter() -> Result<()> {
    let net = two_providers()?;
    net.host.set_sysctl("net.ipv4.conf.eno2.rp_filter", "1")?;
    let (natbpf, _pages) = start(&net)?;
    ensure!(by_the_second(&net).is_err(), "nothing is dropped");
    ensure!(reverse_path(&natbpf)?.len() == 1, "not found");
    net.host.ip("rule add from 172.22.161.170 lookup 100")?;
    no_findings(&natbpf)?;
    by_the_second(&net)?;
    Ok(())
}

/// The same question asked by rules.
#[test]
fn rules_that_look_for_the_way_back_are_found_where_they_drop() -> Result<()> {
    let nft = "table inet way {
    chain pre {
        type filter hook prerouting priority raw; policy accept;
        meta nfproto ipv4 fib saddr . iif oif missing drop
    }
}
";
    let iptables = "*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A PREROUTING -m rpfilter --invert -j DROP
COMMIT
";
    for (tool, rules) in [
        (&["nft", "-f", "-"][..], nft),
        (&["iptables-legacy-restore"], iptables),
        (&["iptables-nft-restore"], iptables),
    ] {
        let net = two_providers()?;
        load(&net.host, tool, rules)?;
        let (natbpf, _pages) = start(&net)?;
        ensure!(by_the_second(&net).is_err(), "{tool:?}: nothing is dropped");
        both_pass(&net)?;
        let found = reverse_path(&natbpf)?;
        ensure!(found.len() == 1, "{tool:?}: {found:#?}");
        let place = found[0]["place"].to_string();
        ensure!(
            place.contains("chain pre, rule") || place.contains("chain PREROUTING, rule"),
            "{place}"
        );
        // With the guest's answers by that way, its connections by the other have none.
        net.host.ip("rule add from 172.22.161.170 lookup 100")?;
        by_the_second(&net)?;
        ensure!(back_in(&net).is_err(), "{tool:?}: nothing is dropped");
        let found = reverse_path(&natbpf)?;
        ensure!(found.len() == 1, "{tool:?}: {found:#?}");
        let what = found[0]["what"].as_str().unwrap_or_default();
        let concerned = "[[forward]] \"vm1-tcp\", [[forward]] \"vm1-ping\" that come by vmbr0";
        ensure!(what.contains(concerned), "{what}");
    }
    Ok(())
}

/// With one way out no filter drops anything of natbpf's, hairpinned packets included.
#[test]
fn with_one_provider_no_filter_is_in_the_way() -> Result<()> {
    let net = Proxmox::new()?;
    load(
        &net.host,
        &["nft", "-f", "-"],
        "table inet way {
    chain pre {
        type filter hook prerouting priority raw; policy accept;
        meta nfproto ipv4 fib saddr . iif oif missing drop
    }
}
",
    )?;
    for scope in ["all", "vmbr0", "vmbr1"] {
        net.host
            .set_sysctl(&format!("net.ipv4.conf.{scope}.rp_filter"), "1")?;
    }
    let natbpf = net.natbpf(&net.config())?;
    let _pages = Pages::open(&net)?;
    both_pass(&net)?;
    for guest in [&net.vm1, &net.vm2] {
        let seen = http_get(guest, at(Proxmox::PUBLIC, 10080))?;
        ensure!(seen.contains("vm1 sees 19.19.8.10:"), "{seen}");
    }
    no_findings(&natbpf)
}
