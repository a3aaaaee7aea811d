//! FORWARD chains of others.

use anyhow::{Context, Result, ensure};
use lab::Natbpf;
use lab::topology::Proxmox;
use tests::at;
use tests::bulk::{Sender, transfer};

use super::{
    Pages, back_in, both_are_blocked, both_pass, finding, findings, follow, load, no_findings, out,
};

const LEGACY: &[&str] = &["iptables-legacy-restore"];
const OVER_NFT: &[&str] = &["iptables-nft-restore"];
const NFT: &[&str] = &["nft", "-f", "-"];

/// As Docker has it since its version 28.
const DOCKER: &str = "*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
:DOCKER-BRIDGE - [0:0]
:DOCKER-CT - [0:0]
:DOCKER-FORWARD - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER ! -i docker0 -o docker0 -j DROP
-A DOCKER-BRIDGE -o docker0 -j DOCKER
-A DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-FORWARD -j DOCKER-CT
-A DOCKER-FORWARD -j DOCKER-ISOLATION-STAGE-1
-A DOCKER-FORWARD -j DOCKER-BRIDGE
-A DOCKER-FORWARD -i docker0 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
COMMIT
";

/// As Docker had it for years.
const OLDER_DOCKER: &str = "*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
COMMIT
";

const UFW: &str = "*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:ufw-after-forward - [0:0]
:ufw-after-logging-forward - [0:0]
:ufw-before-forward - [0:0]
:ufw-before-logging-forward - [0:0]
:ufw-reject-forward - [0:0]
:ufw-track-forward - [0:0]
:ufw-user-forward - [0:0]
-A INPUT -p icmp -j ACCEPT
-A FORWARD -j ufw-before-logging-forward
-A FORWARD -j ufw-before-forward
-A FORWARD -j ufw-after-forward
-A FORWARD -j ufw-after-logging-forward
-A FORWARD -j ufw-reject-forward
-A FORWARD -j ufw-track-forward
-A ufw-after-logging-forward -m limit --limit 3/min --limit-burst 10 \
    -j LOG --log-prefix \"[UFW BLOCK] \"
-A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-forward -p icmp -m icmp --icmp-type 3 -j ACCEPT
-A ufw-before-forward -p icmp -m icmp --icmp-type 11 -j ACCEPT
-A ufw-before-forward -p icmp -m icmp --icmp-type 12 -j ACCEPT
-A ufw-before-forward -p icmp -m icmp --icmp-type 8 -j ACCEPT
-A ufw-before-forward -j ufw-user-forward
COMMIT
";

/// pve-firewall's own chain, which leaves packets alone that the host routes.
const PVE: &str = "*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:PVEFW-Drop - [0:0]
:PVEFW-DropBroadcast - [0:0]
:PVEFW-FORWARD - [0:0]
:PVEFW-FWBR-IN - [0:0]
:PVEFW-FWBR-OUT - [0:0]
-A FORWARD -j PVEFW-FORWARD
-A PVEFW-Drop -j PVEFW-DropBroadcast
-A PVEFW-Drop -m conntrack --ctstate INVALID -j DROP
-A PVEFW-DropBroadcast -m addrtype --dst-type BROADCAST -j DROP
-A PVEFW-DropBroadcast -d 224.0.0.0/4 -j DROP
-A PVEFW-FORWARD -m conntrack --ctstate INVALID -j DROP
-A PVEFW-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A PVEFW-FORWARD -m physdev --physdev-in fwln+ --physdev-is-bridged -j PVEFW-FWBR-IN
-A PVEFW-FORWARD -m physdev --physdev-out fwln+ --physdev-is-bridged -j PVEFW-FWBR-OUT
-A PVEFW-FORWARD -m comment --comment \"PVESIG:qnNexOcGa+y+jebd4dAUqFSp5nw\"
COMMIT
";

const FIREWALLD: &str = "table inet firewalld {
    chain filter_PREROUTING {
        type filter hook prerouting priority filter + 10; policy accept;
        icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept
        meta nfproto ipv6 fib saddr . mark . iif oif missing drop
    }
    chain filter_FORWARD {
        type filter hook forward priority filter + 10; policy accept;
        ct state { established, related } accept
        ct status dnat accept
        iifname \"lo\" accept
        ct state invalid drop
        ip6 daddr { ::/96, ::ffff:0.0.0.0/96 } reject with icmpv6 type addr-unreachable
        jump filter_FORWARD_ZONES
        reject with icmpx type admin-prohibited
    }
    chain filter_FORWARD_ZONES {
        iifname \"vmbr1\" goto filter_FWD_trusted
        iifname \"vmbr0\" goto filter_FWD_public
        goto filter_FWD_public
    }
    chain filter_FORWARD_POLICIES_pre {
    }
    chain filter_FWD_public {
        jump filter_FORWARD_POLICIES_pre
        jump filter_FWD_public_allow
        reject with icmpx type admin-prohibited
    }
    chain filter_FWD_public_allow {
        oifname \"vmbr0\" accept
    }
    chain filter_FWD_trusted {
        jump filter_FORWARD_POLICIES_pre
        reject with icmpx type admin-prohibited
    }
}
";

/// What a policy with the target ACCEPT comes to.
const FIREWALLD_POLICIES: &str =
    "add rule inet firewalld filter_FORWARD_POLICIES_pre iifname vmbr1 oifname vmbr0 accept
add rule inet firewalld filter_FORWARD_POLICIES_pre iifname vmbr0 oifname vmbr1 accept
";

const PVE_NFT: &str = "table inet proxmox-firewall {
    chain forward {
        type filter hook forward priority filter; policy accept;
        jump host-forward
        jump cluster-forward
    }
    chain host-forward {
        ct state vmap { established : accept, related : accept, invalid : drop }
    }
    chain cluster-forward {
        meta l4proto icmp accept
        drop
    }
}
";

/// Somebody's own.
const OWN_NFT: &str = "table inet mine {
    chain through {
        type filter hook forward priority 5; policy drop;
        ct state established,related accept
        iifname \"wg0\" accept
    }
}
";

const OWN_IPTABLES: &str = "*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A FORWARD -i wg0 -j ACCEPT
COMMIT
";

/// With these rules everything is blocked, natbpf says whose they are, and what it says is to be
/// done helps.
fn is_found_and_mended(tool: &[&str], rules: &str, place: &str) -> Result<()> {
    let (net, natbpf, _pages) = started(tool, rules)?;
    both_are_blocked(&net)?;
    let found = finding(&natbpf, "forward-drop")?;
    names(&found, place)?;
    follow(&net.host, &found)?;
    no_findings(&natbpf)?;
    both_pass(&net)
}

fn started(tool: &[&str], rules: &str) -> Result<(Proxmox, Natbpf, Pages)> {
    let net = Proxmox::new()?;
    load(&net.host, tool, rules)?;
    let natbpf = net.natbpf(&net.config())?;
    let pages = Pages::open(&net)?;
    Ok((net, natbpf, pages))
}

fn names(found: &serde_json::Value, place: &str) -> Result<()> {
    let shown = found["place"].as_str().context("no place")?;
    ensure!(shown.contains(place), "{shown:?} is not {place:?}");
    let what = found["what"].as_str().context("nothing")?;
    let rules = ["[[snat]] \"lan-out\"", "[[forward]] \"vm1-tcp\""];
    ensure!(rules.iter().all(|rule| what.contains(rule)), "{what}");
    Ok(())
}

#[test]
fn dockers_drop_policy_is_named_and_mended() -> Result<()> {
    for rules in [DOCKER, OLDER_DOCKER] {
        is_found_and_mended(
            OVER_NFT,
            rules,
            "iptables-nft table filter, chain FORWARD, its policy (Docker)",
        )?;
    }
    Ok(())
}

#[test]
fn dockers_drop_policy_in_legacy_tables_is_named_and_mended() -> Result<()> {
    is_found_and_mended(
        LEGACY,
        DOCKER,
        "iptables-legacy table filter, chain FORWARD, its policy (Docker)",
    )
}

#[test]
fn a_drop_policy_of_iptables_is_named_and_mended() -> Result<()> {
    for (tool, name) in [(LEGACY, "iptables-legacy"), (OVER_NFT, "iptables-nft")] {
        let place = format!("{name} table filter, chain FORWARD, its policy");
        is_found_and_mended(tool, OWN_IPTABLES, &place)?;
    }
    Ok(())
}

#[test]
fn a_drop_policy_of_nftables_is_named_and_mended() -> Result<()> {
    is_found_and_mended(
        NFT,
        OWN_NFT,
        "nftables table inet mine, chain through, its policy",
    )
}

#[test]
fn ufw_is_named_and_its_remedy_works() -> Result<()> {
    let (net, natbpf, _pages) = started(OVER_NFT, UFW)?;
    both_are_blocked(&net)?;
    // Its rules for ICMP are heeded: pings go out.
    net.vm1
        .check(["ping", "-c", "1", "-W", "2", &Proxmox::CLI.to_string()])?;
    let found = finding(&natbpf, "forward-drop")?;
    names(&found, "chain FORWARD, its policy (ufw)")?;
    let commands = found["commands"].to_string();
    for (from, to) in [("vmbr1", "vmbr0"), ("vmbr0", "vmbr1")] {
        let command = format!("ufw route allow in on {from} out on {to}");
        ensure!(commands.contains(&command), "{commands}");
        let rule = format!("-A ufw-user-forward -i {from} -o {to} -j ACCEPT");
        net.host
            .check(["sh", "-c", &format!("iptables-nft {rule}")])?;
    }
    no_findings(&natbpf)?;
    both_pass(&net)
}

#[test]
fn firewalld_is_named_and_its_remedy_works() -> Result<()> {
    let (net, natbpf, _pages) = started(NFT, FIREWALLD)?;
    both_are_blocked(&net)?;
    let found = finding(&natbpf, "forward-drop")?;
    names(&found, "(firewalld)")?;
    let commands = found["commands"].to_string();
    ensure!(
        commands.contains("--policy=natbpf --set-target=ACCEPT"),
        "{commands}"
    );
    load(&net.host, NFT, FIREWALLD_POLICIES)?;
    no_findings(&natbpf)?;
    both_pass(&net)
}

#[test]
fn the_firewall_of_proxmox_is_named_where_it_drops() -> Result<()> {
    let (net, natbpf, _pages) = started(NFT, PVE_NFT)?;
    both_are_blocked(&net)?;
    let found = finding(&natbpf, "forward-drop")?;
    names(&found, "chain cluster-forward, rule handle")?;
    names(&found, "(proxmox-firewall)")?;
    let remedy = found["remedy"].to_string();
    ensure!(remedy.contains("policy_forward: ACCEPT"), "{remedy}");
    net.host.check([
        "nft",
        "flush",
        "chain",
        "inet",
        "proxmox-firewall",
        "cluster-forward",
    ])?;
    no_findings(&natbpf)?;
    both_pass(&net)
}

#[test]
fn pve_firewall_lets_routed_packets_through_and_is_no_finding() -> Result<()> {
    for tool in [LEGACY, OVER_NFT] {
        let (net, natbpf, _pages) = started(tool, PVE)?;
        no_findings(&natbpf)?;
        both_pass(&net)?;
        // If its policy is drop, it is named.
        let program = tool[0].trim_end_matches("-restore");
        net.host
            .check([program, "-A", "PVEFW-FORWARD", "-j", "DROP"])?;
        both_are_blocked(&net)?;
        let found = finding(&natbpf, "forward-drop")?;
        names(&found, "chain PVEFW-FORWARD, rule -j DROP (pve-firewall)")?;
        follow(&net.host, &found)?;
        no_findings(&natbpf)?;
        both_pass(&net)?;
    }
    Ok(())
}

/// The rules of libvirt for its own network: guests get out, and no remote gets in.
#[test]
fn libvirts_closed_network_is_named() -> Result<()> {
    let rules = "*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:LIBVIRT_FWI - [0:0]
:LIBVIRT_FWO - [0:0]
:LIBVIRT_FWX - [0:0]
-A FORWARD -j LIBVIRT_FWX
-A FORWARD -j LIBVIRT_FWI
-A FORWARD -j LIBVIRT_FWO
-A LIBVIRT_FWI -d 172.22.161.0/24 -o vmbr1 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A LIBVIRT_FWI -o vmbr1 -j REJECT --reject-with icmp-port-unreachable
-A LIBVIRT_FWO -s 172.22.161.0/24 -i vmbr1 -j ACCEPT
-A LIBVIRT_FWO -i vmbr1 -j REJECT --reject-with icmp-port-unreachable
-A LIBVIRT_FWX -i vmbr1 -o vmbr1 -j ACCEPT
COMMIT
";
    let (net, natbpf, _pages) = started(OVER_NFT, rules)?;
    out(&net)?;
    ensure!(back_in(&net).is_err(), "somebody gets in");
    let found = finding(&natbpf, "forward-drop")?;
    let (place, what) = (found["place"].to_string(), found["what"].to_string());
    ensure!(
        place.contains("chain LIBVIRT_FWI, rule -o vmbr1 -j REJECT") && place.contains("(libvirt)"),
        "{place}"
    );
    ensure!(
        what.contains("vm1-tcp") && !what.contains("lan-out"),
        "{what}"
    );
    Ok(())
}

#[test]
fn answers_that_are_dropped_are_found_too() -> Result<()> {
    // A common mistake: guests get out, and no answers return.
    let rules = OWN_IPTABLES.replace("-i wg0 -j", "-i vmbr1 -j");
    let (net, natbpf, _pages) = started(OVER_NFT, &rules)?;
    both_are_blocked(&net)?;
    let found = finding(&natbpf, "forward-drop")?;
    let what = found["what"].to_string();
    ensure!(
        what.contains("answers in those of [[snat]] \\\"lan-out\\\""),
        "{what}"
    );
    follow(&net.host, &found)?;
    no_findings(&natbpf)?;
    both_pass(&net)
}

#[test]
fn rules_that_let_some_packets_through_are_meant() -> Result<()> {
    let rules = "*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -i vmbr1 -o vmbr0 -p tcp -m multiport --dports 80,443 -j ACCEPT
-A FORWARD -d 172.22.161.170/32 -i vmbr0 -p tcp -m tcp --dport 10000:10999 -j ACCEPT
-A FORWARD -d 172.22.161.171/32 -i vmbr0 -o vmbr1 -p udp -m udp --dport 10000:10999 -j ACCEPT
-A FORWARD -p icmp -j ACCEPT
COMMIT
";
    let (net, natbpf, _pages) = started(OVER_NFT, rules)?;
    no_findings(&natbpf)?;
    both_pass(&net)
}

/// Rules as many hosts have them: invalid packets are dropped. The fast path shows netfilter few of
/// a connection's packets.
#[test]
fn dropping_invalid_packets_breaks_no_connection_and_is_no_finding() -> Result<()> {
    let rules = "*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A FORWARD -m conntrack --ctstate INVALID -j DROP
COMMIT
";
    for tool in [LEGACY, OVER_NFT] {
        let (net, natbpf, _pages) = started(tool, rules)?;
        for sender in [Sender::Client, Sender::Server] {
            let outside = at(Proxmox::CLI, 7100);
            transfer(&net.vm1, outside, &net.cli, 7100, sender, 20_000_000)?;
            let forwarded = at(Proxmox::PUBLIC, 10100);
            transfer(&net.cli, forwarded, &net.vm1, 10100, sender, 20_000_000)?;
        }
        let program = tool[0].trim_end_matches("-restore");
        let counted = net.host.check([program, "-vxnL", "FORWARD"])?;
        let dropped = counted.lines().find(|line| line.contains("DROP"));
        let packets = dropped.and_then(|line| line.split_whitespace().next());
        ensure!(packets == Some("0"), "{counted}");
        no_findings(&natbpf)?;
    }
    Ok(())
}

#[test]
fn check_and_the_log_tell_of_it_and_check_fails_for_nothing_of_others() -> Result<()> {
    let net = Proxmox::new()?;
    load(&net.host, OVER_NFT, DOCKER)?;
    let natbpf = net.natbpf(&net.config())?;
    let checked = natbpf.cli(&["check"])?;
    ensure!(checked.ok(), "{}", checked.stderr);
    ensure!(
        checked
            .stderr
            .contains("warning: iptables-nft table filter, chain FORWARD")
            && checked.stdout.ends_with("all right\n"),
        "{}{}",
        checked.stdout,
        checked.stderr
    );
    let alone = natbpf.cli(&["check", "--no-host"])?;
    ensure!(alone.ok() && alone.stderr.is_empty(), "{}", alone.stderr);
    let told = |text: &str| -> Result<usize> {
        // The log is written when the look is done, for which nothing waits.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        loop {
            let count = natbpf.log().matches(text).count();
            if count > 0 || std::time::Instant::now() > deadline {
                return Ok(count);
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    };
    ensure!(told("(Docker): drops new connections")? == 1, "start");
    natbpf.reload(&net.config())?;
    ensure!(told("(Docker): drops new connections")? == 1, "reload");
    for found in findings(&natbpf, "forward-drop")? {
        follow(&net.host, &found)?;
    }
    natbpf.reload(&net.config())?;
    ensure!(told("resolved: iptables-nft table filter")? == 1, "end");
    Ok(())
}

#[test]
fn check_without_privileges_says_nothing_of_the_host() -> Result<()> {
    let net = Proxmox::new()?;
    load(&net.host, OVER_NFT, DOCKER)?;
    let natbpf = net.natbpf(&net.config())?;
    let config = natbpf.config_file().display().to_string();
    let file = std::fs::read_to_string(&config)?;
    let open = tempfile::Builder::new().suffix(".toml").tempfile()?;
    std::fs::write(&open, file)?;
    std::fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    let binary = tempfile::NamedTempFile::new()?;
    std::fs::copy(Natbpf::binary()?, &binary)?;
    std::fs::set_permissions(&binary, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    // A program that is open for writing cannot be run.
    let binary = binary.into_temp_path();
    let words = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    let binary_name = binary.display().to_string();
    let open_name = open.path().display().to_string();
    let own = [binary_name.as_str(), "--config", &open_name, "check"];
    let checked = net.host.run(words.into_iter().chain(own))?;
    ensure!(
        checked.ok() && checked.stderr.is_empty(),
        "{}{}",
        checked.stdout,
        checked.stderr
    );
    Ok(())
}
