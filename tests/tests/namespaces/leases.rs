//! A guest that has leases of both families: rules that name it follow both.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lab::patience::patience;
use lab::service::{self, Service};
use lab::topology::{Ipv6, Options, Proxmox};
use lab::{Host, Natbpf};
use tests::following::soon;
use tests::{exchange, hears};

const NET: Ipv6 = Ipv6::ROUTED;

/// How long Debian's DHCP client may take for both families.
const LEASING: Duration = Duration::from_secs(30);

/// A forward and a policy that name the guest by its name, and a policy by its Ethernet address.
fn config(mac: &str, ranges: &str) -> String {
    format!(
        r#"
[uplink.wan]
interface = "vmbr0"
[network.lan]
interface = "vmbr1"
address = ["172.22.161.254/24", "2001:db8:0:101::1/64"]
inbound = "accept"
[network.lan.dhcp]
{ranges}
[[guest]]
name = "web1"
network = "lan"
mac = "{mac}"
[[snat]]
network = "lan"
uplink = "wan"
to = "masquerade"
[[forward]]
name = "web"
uplink = "wan"
protocol = ["tcp", "udp"]
ports = 8000
to = "web1"
[[forward]]
name = "by-mac"
uplink = "wan"
protocol = "udp"
ports = 8001
to = "{mac}"
[[policy]]
from = "web1"
to = "wan"
protocol = "udp"
ports = 9000
action = "drop"
"#
    )
}

const FIRST: &str = "range = \"172.22.161.10-172.22.161.19\"\nrange6 = \"::1:0-::1:ff\"";
const SECOND: &str = "range = \"172.22.161.30-172.22.161.39\"\nrange6 = \"::2:0-::2:ff\"";

/// The addresses that a guest has leased.
type Leased = (Ipv4Addr, Ipv6Addr);

/// Leases addresses of both families anew, with Debian's DHCP client and files of its own.
fn lease(guest: &Host) -> Result<Leased> {
    guest.ip("address flush dev eth0 scope global")?;
    let command = "mount -t tmpfs tmpfs /var/lib/dhcpcd && mount -t tmpfs tmpfs /run/dhcpcd && \
                   exec dhcpcd --config /dev/null --script /bin/true --nobackground --persistent \
                   --noarp --waitip=4 --waitip=6 eth0";
    let client = guest.spawn(["unshare", "--mount", "sh", "-c", command])?;
    let deadline = Instant::now() + patience(LEASING);
    loop {
        let shown = guest.check([
            "ip", "-oneline", "address", "show", "dev", "eth0", "scope", "global",
        ])?;
        let fitting = shown.lines().filter(|line| !line.contains("tentative"));
        let words = fitting.filter_map(|line| line.split_whitespace().nth(3));
        let addresses = words.filter_map(|word| word.split('/').next()?.parse().ok());
        let (mut ipv4, mut ipv6) = (None, None);
        for address in addresses {
            match address {
                IpAddr::V4(address) => ipv4 = Some(address),
                IpAddr::V6(address) => ipv6 = Some(address),
            }
        }
        if let (Some(ipv4), Some(ipv6)) = (ipv4, ipv6) {
            return Ok((ipv4, ipv6));
        }
        ensure!(Instant::now() < deadline, "{shown}\n{}", client.said());
        thread::sleep(Duration::from_millis(100));
    }
}

/// Where each family's uplink has the forwards, where the remote is, and what the guest has.
fn families((ipv4, ipv6): Leased) -> [(IpAddr, IpAddr, IpAddr); 2] {
    [
        (Proxmox::PUBLIC.into(), Proxmox::CLI.into(), ipv4.into()),
        (NET.public.into(), Ipv6::CLI.into(), ipv6.into()),
    ]
}

fn at(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}

/// Rules name the guest, whose addresses these are.
fn rules_follow(net: &Proxmox, leased: Leased) -> Result<()> {
    let guest = &net.vm1;
    for (public, remote, own) in families(leased) {
        let _web = Service::http(guest, &at(own, 8000).to_string())?;
        soon("the forward to the lease", || {
            Ok(service::http_get(&net.cli, at(public, 8000)).is_ok())
        })
        .with_context(|| own.to_string())?;
        let client = net.cli.udp(&at(remote, 7000).to_string())?;
        let service = guest.udp(&at(own, 8001).to_string())?;
        exchange(&client, at(public, 8001), &service, b"by mac")?;
        // What the policy closes, and what it does not.
        let (closed, open) = (at(remote, 9000), at(remote, 9001));
        let [refusing, answering] = [closed, open].map(|end| net.cli.udp(&end.to_string()));
        let (refusing, answering) = (refusing?, answering?);
        let socket = guest.udp(&at(own, 5000).to_string())?;
        exchange(&socket, open, &answering, b"open")?;
        socket.send_to(b"closed", closed)?;
        ensure!(hears(&refusing)?.is_none(), "the policy passes {own}");
    }
    Ok(())
}

fn inactive(natbpf: &Natbpf) -> Result<bool> {
    let status = natbpf.status()?;
    Ok(status["warnings"].to_string().contains("inactive"))
}

#[test]
fn m6_5_rules_follow_the_leases_of_a_guest_in_both_families() -> Result<()> {
    let net = Proxmox::with(&Options {
        ipv6: Some(NET),
        ..Options::default()
    })?;
    let mac = net.vm1.mac("eth0")?.map(|byte| format!("{byte:02x}"));
    let mac = mac.join(":");
    let natbpf = net.natbpf(&config(&mac, FIRST))?;
    soon("the warning", || inactive(&natbpf))?;
    let first = lease(&net.vm1)?;
    rules_follow(&net, first).context("the first leases")?;
    soon("no warning", || Ok(!inactive(&natbpf)?))?;
    // Sessions to the addresses that the guest will not have.
    let clients = families(first).map(|(public, remote, own)| {
        let client = net.cli.udp(&at(remote, 7001).to_string())?;
        let guest = net.vm1.udp(&at(own, 8000).to_string())?;
        exchange(&client, at(public, 8000), &guest, b"before")?;
        Ok::<_, anyhow::Error>((client, public))
    });
    // The guest loses all that it knows of them, and gets others.
    natbpf.reload(&config(&mac, SECOND))?;
    let second = lease(&net.vm1)?;
    ensure!(first.0 != second.0 && first.1 != second.1, "{second:?}");
    rules_follow(&net, second).context("the second leases")?;
    let shown = natbpf.cli(&["leases"])?.expect_ok()?;
    for own in [second.0.to_string(), second.1.to_string()] {
        ensure!(shown.contains(&own), "no {own} in {shown}");
    }
    for (client, (_, _, own)) in clients.into_iter().zip(families(second)) {
        let (client, public) = client?;
        let guest = net.vm1.udp(&at(own, 8000).to_string())?;
        exchange(&client, at(public, 8000), &guest, b"after").context("a session follows")?;
    }
    Ok(())
}
