//! IPv6-only guests and servers of IPv4, by NAT64.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use anyhow::{Context, Result, ensure};
use lab::service::{self, Service};
use lab::topology::{Ipv6, Options, Proxmox};
use lab::{Background, Host};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::following::soon;
use tests::{exchange, hears};

use super::dhcp::name_server_of;
use super::local::is_refused;

const NET: Ipv6 = Ipv6::ROUTED;
const CLI: Ipv4Addr = Proxmox::CLI;
const PUBLIC: Ipv4Addr = Proxmox::PUBLIC;

/// The longest datagram that NAT64's device takes whole: its MTU without the headers of IPv6 and
/// UDP.
const LONGEST: usize = 1472 - 40 - 8;

fn world() -> Result<Proxmox> {
    Proxmox::with(&Options {
        ipv6: Some(NET),
        ..Options::default()
    })
}

const CONFIG: &str = "[uplink.wan]\ninterface = \"vmbr0\"\n\n[network.lan]\ninterface = \"vmbr1\"\n\
                      address = \"2001:db8:0:101::1/64\"\n\n[nat64]\n\n[[snat]]\nname = \"four\"\n\
                      network = \"nat64\"\nuplink = \"wan\"\nto = \"masquerade\"\n";

/// The address that stands for one of IPv4.
fn of_ipv4(address: Ipv4Addr) -> Ipv6Addr {
    let prefix = u128::from(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0));
    Ipv6Addr::from(prefix | u128::from(u32::from(address)))
}

#[test]
fn x6_1_a_guest_of_ipv6_alone_reaches_servers_of_ipv4() -> Result<()> {
    let net = world()?;
    let _natbpf = net.natbpf(CONFIG)?;
    let server = of_ipv4(CLI);
    net.vm1.ping(server)?;

    let _web = Service::http(&net.cli, &SocketAddr::from((CLI, 80)).to_string())?;
    let page = service::http_get(&net.vm1, SocketAddr::from((server, 80)))?;
    ensure!(page.contains(&PUBLIC.to_string()), "{page}");

    let there = net.cli.udp(&SocketAddr::from((CLI, 7000)).to_string())?;
    let here = net
        .vm1
        .udp(&SocketAddr::from((NET.vm1, 6000)).to_string())?;
    let service = SocketAddr::from((server, 7000));
    for len in [1, 1400, LONGEST] {
        let seen = exchange(&here, service, &there, &vec![0x5a; len])?;
        ensure!(seen.ip() == PUBLIC, "{len}: {seen}");
    }

    // In fragments that are shorter than those of the server.
    let seen = exchange(&here, service, &there, b"more")?;
    there.send_to(&[0xa5; 3000], seen)?;
    let mut buffer = [0; 4000];
    let (length, _) = here.recv_from(&mut buffer).context("no fragments")?;
    ensure!(buffer[..length] == [0xa5; 3000]);
    Ok(())
}

/// Whether a guest's datagram arrives at a server, which answers.
fn reaches(guest: &UdpSocket, server: &UdpSocket) -> Result<bool> {
    guest.send_to(b"ask", (of_ipv4(CLI), 7000))?;
    let Some((_, from)) = hears(server)? else {
        return Ok(false);
    };
    server.send_to(b"answer", from)?;
    guest.recv(&mut [0; 16]).context("no answer")?;
    Ok(true)
}

#[test]
fn it_is_for_the_networks_and_the_uplink_of_the_file() -> Result<()> {
    let net = world()?;
    // The second guest moves to a network of its own, and the host has a second uplink.
    net.lab().veth((&net.host, "wan1"), (&net.isp, "wan1"))?;
    net.host.ip(
        "link add vmbr3 type bridge forward_delay 0\nlink set vmbr3 up\n\
         link set tap2 master vmbr3\naddress add 2001:db8:0:102::1/64 dev vmbr3 nodad\n\
         address add 19.19.9.10/24 dev wan1",
    )?;
    net.isp.ip("address add 19.19.9.1/24 dev wan1")?;
    net.vm2
        .ip("address add 2001:db8:0:102::171/64 dev eth0 nodad\n\
         route replace default via 2001:db8:0:102::1 src 2001:db8:0:102::171")?;
    let more = "[uplink.other]\ninterface = \"wan1\"\n\n[network.more]\ninterface = \"vmbr3\"\n\
                address = \"2001:db8:0:102::1/64\"\n\n[[snat]]\nname = \"other\"\n\
                network = \"nat64\"\nuplink = \"other\"\nto = \"masquerade\"\n\n";
    let with = |keys: &str| format!("{more}{}", CONFIG.replace("[nat64]", keys));
    let natbpf = net.natbpf(&with("[nat64]"))?;
    let server = net.cli.udp(&SocketAddr::from((CLI, 7000)).to_string())?;
    let one = net.vm1.udp(&format!("[{}]:6000", NET.vm1))?;
    let two = net.vm2.udp("[2001:db8:0:102::171]:6000")?;
    ensure!(reaches(&one, &server)? && reaches(&two, &server)?);

    natbpf.reload(&with("[nat64]\nnetworks = [\"lan\"]\nuplink = \"wan\""))?;
    ensure!(reaches(&one, &server)? && !reaches(&two, &server)?);
    let drops = &natbpf.stats()?["drops"]["policy"];
    ensure!(drops.as_u64() == Some(1), "{drops}");

    let by_other = format!("route add {CLI}/32 via 19.19.9.1 dev wan1");
    net.host.ip(&by_other)?;
    let new = net.vm1.udp(&format!("[{}]:6001", NET.vm1))?;
    ensure!(!reaches(&new, &server)?);
    natbpf.reload(&with("[nat64]\nnetworks = [\"lan\"]"))?;
    ensure!(reaches(&new, &server)?);
    Ok(())
}

/// A rule to the guest, for one address and for all of the uplink.
fn forwards() -> String {
    let to = NET.vm1;
    format!(
        "{CONFIG}\n[[forward]]\nname = \"web\"\nuplink = \"wan\"\nprotocol = \"tcp\"\n\
         address = \"{PUBLIC}\"\nports = 8080\nto = \"{to}\"\nto_ports = 80\n\n[[forward]]\n\
         name = \"talk\"\nuplink = \"wan\"\nprotocol = \"udp\"\nports = 7000\nto = \"{to}\"\n"
    )
}

#[test]
fn x6_7_clients_of_ipv4_reach_a_guest_of_ipv6_alone_by_a_forward() -> Result<()> {
    let net = world()?;
    let natbpf = net.natbpf(&forwards())?;
    let _web = Service::http(&net.vm1, &SocketAddr::from((NET.vm1, 80)).to_string())?;
    // Before the guest has sent anything.
    let page = service::http_get(&net.cli, SocketAddr::from((PUBLIC, 8080)))?;
    ensure!(page.contains(&of_ipv4(CLI).to_string()), "{page}");

    let here = net.cli.udp(&SocketAddr::from((CLI, 6000)).to_string())?;
    let there = net
        .vm1
        .udp(&SocketAddr::from((NET.vm1, 7000)).to_string())?;
    let service = SocketAddr::from((PUBLIC, 7000));
    let seen = exchange(&here, service, &there, b"hello")?;
    ensure!(seen == SocketAddr::from((of_ipv4(CLI), 6000)), "{seen}");

    // A further rule for another guest leaves the flow alone.
    let more = format!(
        "{}\n[[forward]]\nname = \"more\"\nuplink = \"wan\"\nprotocol = \"udp\"\nports = 7001\n\
         address = \"{PUBLIC}\"\nto = \"{}\"\n",
        forwards(),
        NET.vm2
    );
    natbpf.reload(&more)?;
    let seen = exchange(&here, service, &there, b"again")?;
    ensure!(seen == SocketAddr::from((of_ipv4(CLI), 6000)), "{seen}");
    let there = net
        .vm2
        .udp(&SocketAddr::from((NET.vm2, 7001)).to_string())?;
    let seen = exchange(&here, SocketAddr::from((PUBLIC, 7001)), &there, b"more")?;
    ensure!(seen.ip() == of_ipv4(CLI), "{seen}");
    Ok(())
}

/// NAT64 would not see the answers to the host, so the host's programs are not led there.
#[test]
fn x6_7_the_host_itself_reaches_a_guest_of_ipv6_alone_by_ipv6() -> Result<()> {
    let net = world()?;
    let _natbpf = net.natbpf(&forwards())?;
    let service = SocketAddr::from((NET.vm1, 7000)).to_string();
    let there = net.vm1.udp(&service)?;
    let here = net.host.udp("[::]:0")?;
    for address in [NET.public, Ipv6Addr::LOCALHOST] {
        exchange(&here, SocketAddr::from((address, 7000)), &there, b"hello")?;
    }
    for address in [PUBLIC, Ipv4Addr::LOCALHOST] {
        is_refused(&net.host, SocketAddr::from((address, 8080)))?;
    }
    Ok(())
}

/// Another's name server. It knows a name with an IPv4 address alone, and one with both.
fn name_server(net: &Proxmox) -> Result<Background> {
    let records = [
        "--address=/four.example.net/192.0.2.99",
        "--host-record=both.example.net,203.0.114.98,2001:db8:99::98",
        "--address=/inside.example.net/10.1.2.3",
    ];
    name_server_of(net, &records, ("four.example.net", "192.0.2.99"))
}

/// What the name server of the guests' network says.
fn told(guest: &Host, kind: &str, name: &str) -> Result<String> {
    let (kind, gateway) = (format!("-type={kind}"), NET.gateway.to_string());
    let output = guest.run(["busybox", "nslookup", &kind, name, &gateway])?;
    let answer = output.stdout.split_once("\n\n");
    Ok(answer.map_or_else(String::new, |(_, answer)| answer.to_owned()))
}

const DNS64: &str = "[network.lan.dns]\nforwarders = [\"198.51.100.4\"]\ndns64 = true\n";

#[test]
fn x6_6_names_with_ipv4_alone_have_addresses_of_the_prefix() -> Result<()> {
    let net = world()?;
    let _server = name_server(&net)?;
    let mut natbpf = net.natbpf(&format!("{CONFIG}\n{DNS64}"))?;
    let ask = |kind: &str, name: &str| told(&net.vm1, kind, name);
    let synthesized = of_ipv4(Ipv4Addr::new(192, 0, 2, 99)).to_string();
    soon("names", || {
        Ok(ask("aaaa", "four.example.net")?.contains(&synthesized))
    })?;

    let both = ask("aaaa", "both.example.net")?;
    ensure!(
        both.contains("2001:db8:99::98") && !both.contains("64:ff9b"),
        "{both}"
    );
    let inside = ask("aaaa", "inside.example.net")?;
    ensure!(!inside.contains("64:ff9b"), "a private address: {inside}");
    let both = ask("a", "both.example.net")?;
    ensure!(both.contains("203.0.114.98"), "{both}");
    for last in [170, 171] {
        let known = of_ipv4(Ipv4Addr::new(192, 0, 0, last)).to_string();
        let all = ask("aaaa", "ipv4only.arpa")?;
        ensure!(all.contains(&known), "{known}: {all}");
        let all = ask("a", "ipv4only.arpa")?;
        ensure!(all.contains(&format!("192.0.0.{last}")), "{all}");
    }
    // Of 64:ff9b::203.0.114.98.
    let reversed = "2.6.2.7.0.0.b.c.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.b.9.f.f.4.6.0.0.ip6.arpa";
    let name = ask("ptr", reversed)?;
    ensure!(name.contains("both.example.net"), "{name}");

    let first = unbound(&net.host)?.context("no unbound")?;
    kill(Pid::from_raw(first), Signal::SIGKILL).context("kill it")?;
    soon("another unbound", || {
        Ok(unbound(&net.host)?.is_some_and(|pid| pid != first))
    })?;
    soon("names again", || {
        Ok(ask("aaaa", "four.example.net")?.contains(&synthesized))
    })?;
    // It outlives the daemon, and the next one takes it over.
    let second = unbound(&net.host)?;
    natbpf.stop()?;
    natbpf.launch()?;
    ensure!(
        unbound(&net.host)? == second && ask("aaaa", "four.example.net")?.contains(&synthesized)
    );
    natbpf.reload(&format!("{CONFIG}\n{}", DNS64.replace("true", "false")))?;
    soon("the end of unbound", || Ok(unbound(&net.host)?.is_none()))?;
    let four = ask("aaaa", "four.example.net")?;
    ensure!(!four.contains(&synthesized), "{four}");
    natbpf.reload(&format!("{CONFIG}\n{DNS64}"))?;
    soon("unbound", || Ok(unbound(&net.host)?.is_some()))?;
    natbpf.down()?;
    ensure!(unbound(&net.host)?.is_none(), "unbound is left");
    Ok(())
}

/// The process that serves DNS64 on a host.
fn unbound(host: &Host) -> Result<Option<i32>> {
    let sockets = host.check(["ss", "-Hulnp", "sport = :5364"])?;
    let pid = sockets
        .split_once("pid=")
        .and_then(|(_, rest)| rest.split_once(','));
    pid.map(|(pid, _)| pid.parse().context("a process id"))
        .transpose()
}
