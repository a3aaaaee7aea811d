//! IPv6-only guests and servers of IPv4, by NAT64.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use lab::service::{self, Service};
use lab::topology::{Ipv6, Options, Proxmox};
use tests::exchange;

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
