//! NAT of netfilter's beside natbpf.

use anyhow::{Result, ensure};
use lab::Natbpf;
use lab::service::{Service, http_get};
use lab::topology::Proxmox;
use serde_json::Value;
use tests::at;

use super::{
    Pages, back_in, both_pass, counted, finding, findings, follow, load, no_findings, out,
};

/// The rules of a host that was set up by hand.
const BY_HAND: &str = "*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -d 19.19.8.10/32 -i vmbr0 -p tcp -m tcp --dport 10000:10999 \
    -j DNAT --to-destination 172.22.161.170:10000-10999
-A PREROUTING -d 19.19.8.10/32 -i vmbr1 -p tcp -m tcp --dport 10000:10999 \
    -j DNAT --to-destination 172.22.161.170:10000-10999
-A POSTROUTING -s 172.22.161.0/24 -o vmbr0 -j MASQUERADE
COMMIT
";

fn started(tool: &[&str], rules: &str) -> Result<(Proxmox, Natbpf, Pages)> {
    let net = Proxmox::new()?;
    load(&net.host, tool, rules)?;
    let natbpf = net.natbpf(&net.config())?;
    let pages = Pages::open(&net)?;
    Ok((net, natbpf, pages))
}

#[test]
fn rules_set_by_hand_before_are_found_and_packets_are_translated_once() -> Result<()> {
    for tool in ["iptables-legacy", "iptables-nft"] {
        let (net, natbpf, _pages) = started(&[&format!("{tool}-restore")], BY_HAND)?;
        let found = findings(&natbpf, "other-nat")?;
        ensure!(found.len() == 2, "{found:#?}");
        // Both directions work, and what goes out is netfilter's.
        both_pass(&net)?;
        let counts = (counted(&natbpf, "lan-out")?, counted(&natbpf, "vm1-tcp")?);
        ensure!(counts == (0, 1), "{counts:?}");
        let has = |text: &str| {
            found
                .iter()
                .any(|one| one["what"].to_string().contains(text))
        };
        ensure!(
            has("translates the source of connections of [[snat]]")
                && has("is for connections that natbpf translates first, by [[forward]]"),
            "{found:#?}"
        );
        for one in &found {
            ensure!(one["place"].to_string().contains(tool), "{one:#}");
            follow(&net.host, one)?;
        }
        no_findings(&natbpf)?;
        both_pass(&net)?;
        let counts = (counted(&natbpf, "lan-out")?, counted(&natbpf, "vm1-tcp")?);
        ensure!(counts == (1, 2), "{counts:?}");
    }
    Ok(())
}

#[test]
fn a_masquerade_of_nftables_is_found() -> Result<()> {
    let rules = "table inet nat {
    chain post {
        type nat hook postrouting priority srcnat; policy accept;
        oifname vmap { \"vmbr0\" : goto leaving, \"wg0\" : return }
    }
    chain leaving {
        ip saddr { 10.0.0.0/8, 172.16.0.0/12 } masquerade
    }
}
";
    let (net, natbpf, _pages) = started(&["nft", "-f", "-"], rules)?;
    let found = finding(&natbpf, "other-nat")?;
    let place = found["place"].to_string();
    ensure!(
        place.contains("nftables table inet nat, chain leaving, rule handle"),
        "{place}"
    );
    both_pass(&net)?;
    ensure!(counted(&natbpf, "lan-out")? == 0, "natbpf translates it");
    follow(&net.host, &found)?;
    no_findings(&natbpf)?;
    both_pass(&net)?;
    ensure!(counted(&natbpf, "lan-out")? == 1, "nobody translates it");
    Ok(())
}

#[test]
fn a_masquerade_of_everything_that_hides_clients_is_reported() -> Result<()> {
    let rules = "table ip nat {
    chain post {
        type nat hook postrouting priority srcnat; policy accept;
        masquerade
    }
}
";
    let (net, natbpf, _pages) = started(&["nft", "-f", "-"], rules)?;
    let seen = back_in(&net)?;
    ensure!(seen.contains("vm1 sees 172.22.161.254:"), "{seen}");
    let found = findings(&natbpf, "other-nat")?;
    let hides = "changes the source of connections that come by [[forward]]";
    let hiding = found
        .iter()
        .find(|one| one["what"].to_string().contains(hides));
    let Some(hiding) = hiding else {
        anyhow::bail!("{found:#?}");
    };
    follow(&net.host, hiding)?;
    no_findings(&natbpf)?;
    both_pass(&net)
}

#[test]
fn a_destination_that_is_changed_once_more_is_found() -> Result<()> {
    let rules = "table ip nat {
    chain pre {
        type nat hook prerouting priority dstnat; policy accept;
        iifname \"vmbr0\" tcp dport 10000-10999 dnat to 172.22.161.171
    }
}
";
    let (net, natbpf, _pages) = started(&["nft", "-f", "-"], rules)?;
    let _other = Service::http(&net.vm2, "0.0.0.0:10080")?;
    let reached = back_in(&net);
    ensure!(
        !reached.as_ref().is_ok_and(|text| text.contains("vm1 sees")),
        "{reached:?}"
    );
    let found = finding(&natbpf, "other-nat")?;
    let what = found["what"].to_string();
    ensure!(
        what.contains("changes once more the destination of connections of [[forward]]"),
        "{what}"
    );
    follow(&net.host, &found)?;
    no_findings(&natbpf)?;
    both_pass(&net)
}

/// Rules of others for networks of others, as Docker, libvirt and Kubernetes have them.
#[test]
fn nat_of_others_for_others_is_no_finding() -> Result<()> {
    let rules = "*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
:KUBE-POSTROUTING - [0:0]
:LIBVIRT_PRT - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -j KUBE-POSTROUTING
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A POSTROUTING -j LIBVIRT_PRT
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -j MASQUERADE
-A LIBVIRT_PRT -s 192.168.122.0/24 -d 224.0.0.0/24 -j RETURN
-A LIBVIRT_PRT -s 192.168.122.0/24 ! -d 192.168.122.0/24 -p tcp -j MASQUERADE --to-ports 1024-65535
-A LIBVIRT_PRT -s 192.168.122.0/24 ! -d 192.168.122.0/24 -j MASQUERADE
COMMIT
";
    for tool in ["iptables-legacy-restore", "iptables-nft-restore"] {
        let (net, natbpf, _pages) = started(&[tool], rules)?;
        no_findings(&natbpf)?;
        both_pass(&net)?;
        ensure!(counted(&natbpf, "lan-out")? == 1, "{tool}");
    }
    Ok(())
}

/// The real rules of hosts that natbpf replaces.
#[test]
fn a_port_that_natbpf_does_not_forward_stays_netfilters() -> Result<()> {
    let rules = "*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -d 19.19.8.10/32 -i vmbr0 -p tcp -m tcp --dport 9000 \
    -j DNAT --to-destination 172.22.161.170:10080
COMMIT
";
    let (net, natbpf, _pages) = started(&["iptables-nft-restore"], rules)?;
    no_findings(&natbpf)?;
    let seen = http_get(&net.cli, at(Proxmox::PUBLIC, 9000))?;
    ensure!(seen.contains("vm1 sees 198.51.100.2:"), "{seen}");
    let seen = out(&net)?;
    ensure!(seen.contains("cli sees 19.19.8.10:"), "{seen}");
    let status: Value = natbpf.status()?;
    ensure!(status["warnings"] == Value::Array(Vec::new()), "{status}");
    Ok(())
}
