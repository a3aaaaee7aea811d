//! What guests learn of IPv6: router advertisements and DHCPv6.

use std::net::Ipv6Addr;

use anyhow::{Result, ensure};
use lab::topology::{Ipv6, Options, Proxmox, Uplink};
use lab::{Host, Natbpf};
use tests::following::soon;

const ADDRESSES: &str =
    r#"address = ["172.22.161.254/24", "2001:db8:0:101::1/64", "fd00:18::1/64"]"#;

/// A network whose guests have no IPv6 addresses as yet and ask for routers.
fn network() -> Result<Proxmox> {
    let net = Proxmox::with(&Options {
        uplink: Uplink::Nic,
        ipv6: Some(Ipv6::ROUTED),
        ..Options::default()
    })?;
    for guest in [&net.vm1, &net.vm2] {
        guest.check([
            "ip", "-6", "address", "flush", "dev", "eth0", "scope", "global",
        ])?;
        guest.check(["ip", "-6", "route", "flush", "default"])?;
        guest.set_sysctl("net.ipv6.conf.eth0.accept_ra", "2")?;
    }
    Ok(net)
}

fn config(addresses: &str, lines: &str) -> String {
    format!(
        r#"
[uplink.wan]
interface = "eno1"
[network.lan]
interface = "vmbr1"
inbound = "accept"
create = true
{addresses}
{lines}
[[snat]]
network = "lan"
uplink = "wan"
to = "masquerade"
"#
    )
}

fn start(lines: &str) -> Result<(Proxmox, Natbpf)> {
    let net = network()?;
    let natbpf = net.natbpf(&config(ADDRESSES, lines))?;
    Ok((net, natbpf))
}

/// The guest's addresses with a prefix, a line each.
fn addresses(guest: &Host, prefix: &str) -> Result<Vec<String>> {
    let all = guest.check(["ip", "-6", "-oneline", "address", "show", "dev", "eth0"])?;
    let fitting = all.lines().filter(|line| line.contains(prefix));
    Ok(fitting.map(str::to_owned).collect())
}

/// What a router says when it is asked.
fn advertised(guest: &Host) -> Result<String> {
    let mut said = String::new();
    soon("a router's answer", || {
        let output = guest.run(["rdisc6", "-1", "-w", "1000", "eth0"])?;
        said = output.stdout;
        Ok(said.contains("Router lifetime"))
    })?;
    Ok(said)
}

#[track_caller]
fn says(said: &str, key: &str, value: &str) -> Result<()> {
    let mut lines = said.lines();
    let is_it = |line: &str| line.trim_start().starts_with(key) && line.contains(value);
    ensure!(lines.any(is_it), "no {key} {value} in {said}");
    Ok(())
}

#[test]
fn d6_1_guests_choose_addresses_in_each_prefix_and_go_out() -> Result<()> {
    let (net, _natbpf) = start(
        "[network.lan.ra]\nmtu = 1400\nlifetime_s = 1200\npreference = \"high\"\n\
         domain = \"lan\"\n",
    )?;
    let said = advertised(&net.vm1)?;
    for (key, value) in [
        ("Stateful address conf.", "No"),
        ("Router preference", "high"),
        ("Router lifetime", "1200"),
        ("Prefix", "2001:db8:0:101::/64"),
        ("Prefix", "fd00:18::/64"),
        ("Autonomous address conf.", "Yes"),
        ("MTU", "1400"),
        ("DNS search list", "lan"),
        ("Recursive DNS server", "fe80::"),
    ] {
        says(&said, key, value)?;
    }
    soon("addresses of both prefixes", || {
        let public = addresses(&net.vm1, "2001:db8:0:101:")?;
        let local = addresses(&net.vm1, "fd00:18:")?;
        Ok(!public.is_empty() && !local.is_empty())
    })?;
    net.vm1.ping(Ipv6::CLI)?;
    ensure!(
        net.vm1
            .check(["ip", "-6", "route", "show", "default"])?
            .contains("fe80::")
    );
    Ok(())
}

/// Debian's DHCP client in its test mode, with files of its own, prints what it is told.
fn leased(guest: &Host) -> Result<String> {
    let command = "mount -t tmpfs tmpfs /var/lib/dhcpcd && mount -t tmpfs tmpfs /run/dhcpcd && \
                   exec dhcpcd --test --ipv6only --timeout 10 --noarp eth0";
    Ok(guest
        .run(["unshare", "--mount", "sh", "-c", command])?
        .stdout)
}

#[test]
fn d6_1_managed_guests_get_leases_by_their_ethernet_address() -> Result<()> {
    let net = network()?;
    let mac = net
        .vm1
        .mac("eth0")?
        .map(|byte| format!("{byte:02x}"))
        .join(":");
    let lines = format!(
        "[network.lan.dhcp]\nrange6 = \"::1:0-::1:ff\"\ndomain = \"lan\"\n\
         [network.lan.ra]\ndns = [\"2001:db8::53\"]\n\
         [[guest]]\nname = \"web1\"\nnetwork = \"lan\"\nmac = \"{mac}\"\n\
         address = [\"172.22.161.170\", \"::170\"]\n"
    );
    let _natbpf = net.natbpf(&config(ADDRESSES, &lines))?;
    let said = advertised(&net.vm1)?;
    says(&said, "Stateful address conf.", "Yes")?;
    says(&said, "Autonomous address conf.", "No")?;
    says(&said, "Recursive DNS server", "2001:db8::53")?;
    let told = leased(&net.vm1)?;
    for line in [
        "'2001:db8:0:101::170'",
        "'fd00:18::170'",
        "new_dhcp6_name_servers='2001:db8::53'",
        "new_dhcp6_domain_search='lan'",
    ] {
        ensure!(told.contains(line), "{line} is not in {told}");
    }
    let other = leased(&net.vm2)?;
    ensure!(other.contains("'2001:db8:0:101::1:"), "{other}");
    Ok(())
}

#[test]
fn d6_2_a_prefix_that_goes_is_deprecated_and_the_new_one_is_used() -> Result<()> {
    let (net, natbpf) = start("[network.lan.ra]\n")?;
    advertised(&net.vm1)?;
    soon("an address", || {
        Ok(!addresses(&net.vm1, "2001:db8:0:101:")?.is_empty())
    })?;
    // The host had the first address before natbpf.
    let other = ADDRESSES.replace("2001:db8:0:101::1/64", "2001:db8:0:102::1/64");
    net.host.ip("address del 2001:db8:0:101::1/64 dev vmbr1")?;
    natbpf.reload(&config(&other, "[network.lan.ra]\n"))?;
    soon("the old address is deprecated", || {
        let old = addresses(&net.vm1, "2001:db8:0:101:")?;
        Ok(old.iter().all(|line| line.contains("deprecated")))
    })?;
    soon("an address of the new prefix", || {
        Ok(!addresses(&net.vm1, "2001:db8:0:102:")?.is_empty())
    })?;
    net.vm1.ping(Ipv6::CLI)
}

#[test]
fn d6_2_rules_follow_prefixes_that_others_put_on_the_interface() -> Result<()> {
    let net = network()?;
    net.host.check([
        "ip", "-6", "address", "flush", "dev", "vmbr1", "scope", "global",
    ])?;
    let own = net
        .vm1
        .mac("eth0")?
        .map(|byte| format!("{byte:02x}"))
        .join(":");
    let config = config(
        "address = \"172.22.161.254/24\"\nfollow = true\n",
        &format!(
            "[network.lan.ra]\n[[guest]]\nname = \"web1\"\nnetwork = \"lan\"\nmac = \"{own}\"\n\
             address = [\"172.22.161.170\", \"::170\"]\n\
             [[policy]]\nfrom = \"wan\"\nto = \"web1\"\naction = \"drop\"\n"
        ),
    );
    let _natbpf = net.natbpf(&config)?;
    net.host.ip("address add 2001:db8:0:103::1/64 dev vmbr1")?;
    let guest: Ipv6Addr = "2001:db8:0:103::170".parse()?;
    let beside: Ipv6Addr = "2001:db8:0:103::171".parse()?;
    net.vm1.ip(&format!(
        "address add {guest}/64 dev eth0\naddress add {beside}/64 dev eth0"
    ))?;
    advertised(&net.vm1)?;
    soon("the policy about the guest", || {
        Ok(net.cli.ping(beside).is_ok() && net.cli.ping(guest).is_err())
    })
}

#[test]
fn guests_lose_the_router_when_natbpf_goes() -> Result<()> {
    let (net, mut natbpf) = start("[network.lan.ra]\n")?;
    advertised(&net.vm1)?;
    let default_route = || net.vm1.check(["ip", "-6", "route", "show", "default"]);
    soon(
        "a default route",
        || Ok(default_route()?.contains("fe80::")),
    )?;
    natbpf.down()?;
    soon("no default route", || {
        Ok(!default_route()?.contains("fe80::"))
    })?;
    let left = addresses(&net.vm1, "2001:db8:0:101:")?;
    ensure!(
        left.iter().all(|line| line.contains("deprecated")),
        "{left:?}"
    );
    Ok(())
}
