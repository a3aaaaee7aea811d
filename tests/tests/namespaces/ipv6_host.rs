//! IPv6 on the host: its settings, addresses and routes, while guests use them.

use std::net::Ipv6Addr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::patience::patience;
use lab::topology::{Ipv6, Options, Proxmox, Uplink};
use lab::{Host, Natbpf, ones_complement_sum};
use tests::{at6, exchange};

/// How long the daemon may take to follow a change.
const FOLLOWED: Duration = Duration::from_secs(10);

/// What may go through the kernel of many packets of a session: the first ones, and one in 16 s
/// each way.
const FEW: u64 = 12;
/// Packets that a session sends each way when the test checks whether it bypasses the kernel.
const MANY: usize = 60;

/// The scenario with IPv6, and a natbpf whose network has these IPv6 addresses.
fn start(options: &Options, lines: &str) -> Result<(Proxmox, Natbpf)> {
    let net = Proxmox::with(options)?;
    let natbpf = net.natbpf(&config(&net, lines))?;
    Ok((net, natbpf))
}

/// The network's addresses are those that the host has; more lines are about it.
fn config(net: &Proxmox, lines: &str) -> String {
    let uplink = net.uplink;
    format!(
        r#"
[uplink.wan]
interface = "{uplink}"
[network.lan]
interface = "vmbr1"
inbound = "accept"
{lines}
[[snat]]
network = "lan"
uplink = "wan"
to = "masquerade"
"#
    )
}

fn options(ipv6: Ipv6) -> Options {
    Options {
        uplink: Uplink::Nic,
        ipv6: Some(ipv6),
        ..Options::default()
    }
}

const ROUTED: &str = r#"address = ["172.22.161.254/24", "2001:db8:0:101::1/64", "fd00:18::1/64"]"#;

/// Exchanges datagrams; returns from where the server saw them.
fn reaches((client, from): (&Host, Ipv6Addr), (server, to): (&Host, Ipv6Addr)) -> Result<Ipv6Addr> {
    let client_socket = client.udp(&format!("[{from}]:0"))?;
    let server_socket = server.udp(&format!("[{to}]:7000"))?;
    let seen = exchange(&client_socket, at6(to, 7000), &server_socket, b"hello")
        .with_context(|| format!("{from} on {} to {to}", client.name()))?;
    Ok(*seen.ip())
}

/// Waits until something is so.
fn within(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + patience(FOLLOWED);
    while !is_so()? {
        ensure!(Instant::now() < deadline, "not within {FOLLOWED:?}: {what}");
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

#[test]
fn guests_of_a_routed_prefix_keep_their_addresses_both_ways() -> Result<()> {
    let ipv6 = Ipv6::ROUTED;
    let (net, _natbpf) = start(&options(ipv6), ROUTED)?;
    for guest in [(&net.vm1, ipv6.vm1), (&net.vm2, ipv6.vm2)] {
        guest.0.ping(Ipv6::CLI)?;
        ensure!(reaches(guest, (&net.cli, Ipv6::CLI))? == guest.1);
        ensure!(reaches((&net.cli, Ipv6::CLI), guest)? == Ipv6::CLI);
        ensure!(reaches((&net.host, ipv6.gateway), guest)? == ipv6.gateway);
    }
    Ok(())
}

/// Sends a router advertisement on the uplink's link (RFC 4861 section 4.2), as the provider does.
fn advertise(net: &Proxmox) -> Result<()> {
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let mut message = vec![134, 0, 0, 0, 64, 0];
    message.extend(1800_u16.to_be_bytes());
    message.extend([0; 8]);
    let (from, to) = (Ipv6::ROUTER.octets(), all_nodes.octets());
    let length = u8::try_from(message.len())?;
    let sum = !ones_complement_sum(&[&from, &to, &[0, 0, 0, length, 0, 0, 0, 58], &message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let header = [0x60, 0, 0, 0, 0, length, 58, 255];
    let mac = [&[0x33, 0x33][..], &all_nodes.octets()[12..]].concat();
    let own = net.isp.mac(Proxmox::WAN)?;
    let frame = [&mac[..], &own, &[0x86, 0xdd], &header, &from, &to, &message].concat();
    net.isp.inject(Proxmox::WAN, &frame)
}

#[test]
fn d6_3_a_host_with_routes_from_advertisements_keeps_them() -> Result<()> {
    let net = Proxmox::with(&options(Ipv6::ROUTED))?;
    net.host.ip("route del default via fe80::1 dev eno1")?;
    let default_route = || net.host.check(["ip", "-6", "route", "show", "default"]);
    let settings = || -> Result<Vec<String>> {
        let names = ["all", "default", "eno1", "vmbr1"];
        let all = names.iter().flat_map(|name| {
            let of = |setting| format!("net.ipv6.conf.{name}.{setting}");
            [of("forwarding"), of("accept_ra")]
        });
        all.map(|name| net.host.sysctl(&name)).collect()
    };
    let before = settings()?;
    advertise(&net)?;
    within("a default route", || {
        Ok(default_route()?.contains("proto ra"))
    })?;
    let mut natbpf = net.natbpf(&config(&net, ROUTED))?;
    ensure!(
        default_route()?.contains("proto ra"),
        "{}",
        default_route()?
    );
    ensure!(net.host.sysctl("net.ipv6.conf.eno1.accept_ra")? == "2");
    net.vm1.ping(Ipv6::CLI)?;
    // What comes later is taken too.
    net.host.ip("route del default via fe80::1 dev eno1")?;
    advertise(&net)?;
    within("a default route", || {
        Ok(default_route()?.contains("proto ra"))
    })?;
    natbpf.down()?;
    ensure!(
        settings()? == before,
        "{:?} instead of {before:?}",
        settings()?
    );
    ensure!(
        default_route()?.contains("proto ra"),
        "{}",
        default_route()?
    );
    Ok(())
}

#[test]
fn r6_3_a_routed_address_outside_of_the_networks_prefix_is_reached() -> Result<()> {
    let net = Proxmox::with(&options(Ipv6::ROUTED))?;
    let single: Ipv6Addr = "2001:db8:0:1ff::7".parse()?;
    net.vm1.ip(&format!("address add {single}/128 dev eth0"))?;
    let route = format!(
        "{}[[route]]\nnetwork = \"lan\"\nuplink = \"wan\"\naddresses = \"{single}\"\n",
        config(&net, &format!("anti_spoof = true\n{ROUTED}"))
    );
    let _natbpf = net.natbpf(&route)?;
    ensure!(reaches((&net.vm1, single), (&net.cli, Ipv6::CLI))? == single);
    ensure!(reaches((&net.cli, Ipv6::CLI), (&net.vm1, single))? == Ipv6::CLI);
    // Routes that others delete are made again.
    net.host.ip(&format!("route del {single} dev vmbr1"))?;
    within("the route", || {
        Ok(reaches((&net.cli, Ipv6::CLI), (&net.vm1, single)).is_ok())
    })
}

#[test]
fn what_others_take_away_comes_back_while_natbpf_runs() -> Result<()> {
    let ipv6 = Ipv6::ROUTED;
    let (net, _natbpf) = start(&options(ipv6), &format!("create = true\n{ROUTED}"))?;
    net.host.set_sysctl("net.ipv6.conf.all.forwarding", "0")?;
    within("forwarding", || Ok(net.vm1.ping(Ipv6::CLI).is_ok()))?;
    net.host
        .ip(&format!("address del {}/64 dev vmbr1", ipv6.gateway))?;
    within("the gateway", || Ok(net.vm1.ping(ipv6.gateway).is_ok()))
}

#[test]
fn m6_2_m6_3_masquerade_uses_an_address_that_stays_and_follows_its_end() -> Result<()> {
    let net = Proxmox::with(&options(Ipv6::ROUTED))?;
    let (old, new): (Ipv6Addr, Ipv6Addr) = ("2001:db8:fe::10".parse()?, "2001:db8:fe::20".parse()?);
    // Newer addresses, which are not there to stay; the kernel lists the newest first.
    net.host
        .set_sysctl("net.ipv6.conf.eno1.use_tempaddr", "2")?;
    net.host.ip(
        "address add 2001:db8:fe::31/64 dev eno1 nodad preferred_lft 0\n\
         address add 2001:db8:fe::32/64 dev eno1 nodad mngtmpaddr\n\
         address change 2001:db8:fe::32/64 dev eno1 nodad preferred_lft 0",
    )?;
    let _natbpf = net.natbpf(&config(&net, ROUTED))?;
    let local = (&net.vm1, Ipv6::LOCAL_VM1);
    ensure!(reaches(local, (&net.cli, Ipv6::CLI))? == old);
    // Another one of the same kind changes nothing.
    net.host
        .ip(&format!("address add {new}/64 dev eno1 nodad"))?;
    thread::sleep(patience(Duration::from_secs(1)));
    ensure!(reaches(local, (&net.cli, Ipv6::CLI))? == old);
    let deprecated = format!("address change {old}/64 dev eno1 preferred_lft 0");
    net.host.ip(&deprecated)?;
    within("another address", || {
        Ok(reaches(local, (&net.cli, Ipv6::CLI)).is_ok_and(|seen| seen == new))
    })?;
    net.host.ip(&format!("address del {old}/64 dev eno1"))?;
    ensure!(reaches(local, (&net.cli, Ipv6::CLI))? == new);
    Ok(())
}

/// Packets that the host has forwarded by the kernel.
fn forwarded(host: &Host) -> Result<u64> {
    let text = host.enter(|| std::fs::read_to_string("/proc/thread-self/net/snmp6"))??;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Ip6OutForwDatagrams"));
    Ok(line
        .context("no count of forwarded packets")?
        .trim()
        .parse()?)
}

#[test]
fn established_ipv6_sessions_bypass_the_kernel() -> Result<()> {
    for bridge in [Uplink::Bridge, Uplink::Nic] {
        let net = Proxmox::with(&Options {
            uplink: bridge,
            ..options(Ipv6::ROUTED)
        })?;
        let natbpf = net.natbpf(&config(&net, ROUTED))?;
        let guest = net.vm1.udp(&format!("[{}]:5000", Ipv6::LOCAL_VM1))?;
        let server = net.cli.udp(&format!("[{}]:7000", Ipv6::CLI))?;
        let talk = |times| -> Result<()> {
            (0..times).try_for_each(|_| {
                exchange(&guest, at6(Ipv6::CLI, 7000), &server, b"to and fro").map(drop)
            })
        };
        talk(4)?;
        // The daemon sees where both are, and the session learns it by its next packets.
        thread::sleep(patience(Duration::from_secs(1)));
        talk(4)?;
        let wire = net.isp.capture(Proxmox::WAN)?;
        let before = forwarded(&net.host)?;
        talk(MANY)?;
        let slow = forwarded(&net.host)? - before;
        ensure!(
            slow <= FEW,
            "{slow} of {} packets went through the kernel",
            2 * MANY
        );
        for (frame, packet) in wire.packets6() {
            frame.checksums().with_context(|| packet.to_string())?;
            let is_ours = packet.ports().is_some_and(|(a, b)| a == 7000 || b == 7000);
            // One router before the wire in each direction.
            ensure!(!is_ours || packet.hop_limit == 63, "{packet}");
        }
        natbpf.reload(&format!(
            "forwarding = \"kernel\"\n{}",
            config(&net, ROUTED)
        ))?;
        let before = forwarded(&net.host)?;
        talk(MANY)?;
        let slow = forwarded(&net.host)? - before;
        ensure!(
            slow >= 2 * MANY as u64,
            "{slow} packets went through the kernel"
        );
    }
    Ok(())
}
