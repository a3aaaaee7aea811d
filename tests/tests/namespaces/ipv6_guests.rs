//! What IPv6 guests, and those who look for them, notice of the host in between.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream};
use std::thread;

use anyhow::{Context, Result, ensure};
use kit::packets::{At, SYN, icmp, ping, tcp, udp};
use lab::service::{self, Service};
use lab::topology::{Ipv6, Options, Proxmox};
use lab::{Host, Natbpf};
use tests::exchange;

const NET: Ipv6 = Ipv6::ROUTED;

/// How many addresses of the guests' /64 a stranger tries.
const SCANNED: u32 = 100_000;

/// Where a frame made by the kit has its IP header, that header's hop limit and destination, and
/// what follows the header.
const ETHERNET: usize = 14;
const HOPS: usize = 7;
const DESTINATION: usize = ETHERNET + 24;
const BEHIND: usize = ETHERNET + 40;

const TIME_EXCEEDED: u8 = 3;

fn at(address: Ipv6Addr, port: u16) -> SocketAddr {
    SocketAddrV6::new(address, port, 0, 0).into()
}

fn world() -> Result<Proxmox> {
    Proxmox::with(&Options {
        ipv6: Some(NET),
        ..Options::default()
    })
}

/// The guests' network with public and unique local addresses, and more keys of it.
fn config(network: &str) -> String {
    format!(
        r#"
[uplink.wan]
interface = "vmbr0"
[network.lan]
interface = "vmbr1"
address = ["172.22.161.254/24", "2001:db8:0:101::1/64", "fd00:18::1/64"]
{network}
[[snat]]
network = "lan"
uplink = "wan"
to = "masquerade"
"#
    )
}

/// How many packets were dropped because of policies.
fn dropped(natbpf: &Natbpf) -> Result<u64> {
    let stats = natbpf.stats()?;
    stats["drops"]["policy"].as_u64().context("no such reason")
}

fn neighbours(net: &Proxmox) -> Result<usize> {
    let shown = net
        .host
        .check(["ip", "-6", "neigh", "show", "dev", "vmbr1"])?;
    Ok(shown.lines().count())
}

/// A router that looked for each of them would have no room for its own neighbours (RFC 6583).
#[test]
fn f6_4_a_scan_of_the_prefix_fills_no_table_of_neighbours() -> Result<()> {
    let net = world()?;
    let natbpf = net.natbpf(&config(""))?;
    net.vm1.ping(Ipv6::CLI)?;
    net.host.ping(NET.vm1)?;
    let before = (neighbours(&net)?, dropped(&natbpf)?);
    let [a, b, ..] = NET.vm1.segments();
    let prefix = Ipv6Addr::new(a, b, 0, 0x101, 0, 0, 0, 0);
    ensure!(NET.vm1.octets()[..8] == prefix.octets()[..8]);
    let probe = udp(At(Ipv6::CLI.octets(), 6000), At(prefix.octets(), 7000));
    let mut frame = probe.payload(b"anybody?").bytes();
    frame[..6].copy_from_slice(&net.host.mac(net.uplink)?);
    frame[6..12].copy_from_slice(&net.isp.mac(Proxmox::WAN)?);
    let wire = net.isp.raw(Proxmox::WAN)?;
    for number in 0..SCANNED {
        // The words of the address add up to the same, so the checksum stays right.
        let [first, second, third, last] = number.to_be_bytes();
        let words = [first, second, third, last, !first, !second, !third, !last];
        frame[DESTINATION + 8..DESTINATION + 16].copy_from_slice(&words);
        wire.send(&frame)?;
        if number == SCANNED / 2 {
            // In the middle of it.
            net.host.ping(NET.vm2).context("the host to a guest")?;
            net.vm2.ping(Ipv6::CLI).context("a guest to the internet")?;
            net.host.ping(Ipv6::CLI).context("the host's own")?;
        }
    }
    net.host.ping(NET.vm1)?;
    let known = neighbours(&net)?;
    // (The second guest, by both of its kinds of addresses.)
    ensure!(
        known <= before.0 + 3,
        "{known} neighbours, {} before",
        before.0
    );
    let refused = dropped(&natbpf)? - before.1;
    ensure!(refused > u64::from(SCANNED) / 2, "{refused} were dropped");
    Ok(())
}

/// What a link needs to work is in no list.
#[test]
fn f6_6_the_list_of_the_hosts_services_holds_and_the_link_works() -> Result<()> {
    let net = world()?;
    let natbpf = net.natbpf(&config("host = [\"dhcp\", \"dns\", \"ping\"]"))?;
    let gateway = NET.gateway;
    let [dhcp, dns] = [547, 53].map(|port| net.host.udp(&at(gateway, port).to_string()));
    let (dhcp, dns) = (dhcp?, dns?);
    let _ssh = Service::http(&net.host, "[::]:22")?;
    let client = net.vm1.udp(&at(NET.vm1, 4000).to_string())?;
    let asks = |server: &std::net::UdpSocket, port| {
        exchange(&client, at(gateway, port), server, b"question")
    };
    asks(&dhcp, 547).context("DHCPv6")?;
    asks(&dns, 53).context("DNS")?;
    net.vm1.ping(gateway)?;
    ensure!(service::http_get(&net.vm1, at(gateway, 22)).is_err());
    ensure!(service::http_get(&net.vm1, at(NET.public, 22)).is_err());

    natbpf.reload(&config("host = [\"tcp/22\"]"))?;
    service::http_get(&net.vm1, at(gateway, 22))?;
    ensure!(net.vm1.ping(gateway).is_err(), "a ping");
    // (From another port: the flows above go on until they end.)
    let client = net.vm1.udp(&at(NET.vm1, 4001).to_string())?;
    for (server, port) in [(&dhcp, 547), (&dns, 53)] {
        let answer = exchange(&client, at(gateway, port), server, b"question");
        ensure!(answer.is_err(), "port {port}");
    }
    // Neighbours are found, and solicitations and reports of listeners are not counted.
    for (host, interface) in [(&net.vm1, "eth0"), (&net.host, "vmbr1")] {
        host.check(["ip", "-6", "neigh", "flush", "dev", interface])?;
    }
    service::http_get(&net.vm1, at(gateway, 22))?;
    let drops = || Ok::<_, anyhow::Error>(natbpf.stats()?["drops"].clone());
    let before = drops()?;
    let own: Ipv6Addr = "fe80::170".parse()?;
    for (kind, group, hops) in [
        (133, "ff02::2", 255),
        (131, "ff02::1:3", 1),
        (143, "ff02::16", 1),
    ] {
        let group: Ipv6Addr = group.parse()?;
        let message = icmp(own.octets(), group.octets(), [kind, 0, 0, 0, 0, 0]);
        let mut message = message.payload(&[0; 16]).bytes();
        message[ETHERNET + HOPS] = hops;
        net.inject_from_guest(&net.vm1, &message[ETHERNET..])?;
    }
    service::http_get(&net.vm1, at(gateway, 22))?;
    let after = drops()?;
    ensure!(after == before, "{after:?} after {before:?}");
    Ok(())
}

/// Sends a packet of a guest with so few hops, and returns who says that they were too few.
fn ends_at(net: &Proxmox, packet: &[u8], hops: u8) -> Result<Ipv6Addr> {
    let mut packet = packet[ETHERNET..].to_vec();
    packet[HOPS] = hops;
    let wire = net.vm1.capture("eth0")?;
    net.inject_from_guest(&net.vm1, &packet)?;
    let (frame, seen) = wire.wait_for6(|frame, seen| {
        !frame.outgoing && seen.icmp().is_some_and(|(kind, _)| kind == TIME_EXCEEDED)
    })?;
    frame.checksums()?;
    // It quotes the guest's own packet, whose hops have run out on the way.
    let quoted = seen.quoted().context("no quotation")?;
    ensure!(quoted[..HOPS] == packet[..HOPS], "{seen}");
    ensure!(quoted[HOPS + 1..] == packet[HOPS + 1..], "{seen}");
    net.vm1.ping(NET.gateway)?;
    let all = wire.packets6();
    let errors = all.iter().filter(|(frame, seen)| {
        !frame.outgoing && seen.icmp().is_some_and(|(kind, _)| kind == TIME_EXCEEDED)
    });
    ensure!(errors.count() == 1, "{all:?}");
    Ok(seen.source)
}

/// A traceroute shows the host and the routers behind it, by whatever it sends.
#[test]
fn e6_6_every_hop_tells_the_guest_that_its_hops_ran_out() -> Result<()> {
    let net = world()?;
    let _natbpf = net.natbpf(&config(""))?;
    // (Errors are limited, by the address that they go to.)
    for host in [&net.host, &net.isp] {
        host.set_sysctl("net.ipv6.icmp.ratelimit", "0")?;
    }
    let remote = Ipv6::CLI.octets();
    for (guest, port) in [(NET.vm1, 5000), (Ipv6::LOCAL_VM1, 5001)] {
        let client = At(guest.octets(), port);
        // One flow is established, so its packets take the shortest way that there is.
        let server = net.cli.udp(&at(Ipv6::CLI, 7000).to_string())?;
        let own = net.vm1.udp(&at(guest, port).to_string())?;
        for _ in 0..4 {
            exchange(&own, at(Ipv6::CLI, 7000), &server, b"question")?;
        }
        for packet in [
            udp(client, At(remote, 7000))
                .payload(b"established")
                .bytes(),
            udp(client, At(remote, 33_434)).payload(b"trace").bytes(),
            tcp(At(guest.octets(), 5003), At(remote, 80), SYN).bytes(),
            ping(At(guest.octets(), 5004), remote)
                .payload(b"trace")
                .bytes(),
        ] {
            let protocol = packet[ETHERNET + 6];
            let what = format!(
                "{guest}, protocol {protocol}, {} bytes",
                packet.len() - BEHIND
            );
            let first = ends_at(&net, &packet, 1).context(what.clone())?;
            let second = ends_at(&net, &packet, 2).context(what.clone())?;
            let is_hosts = [NET.gateway, Ipv6::LOCAL_GATEWAY].contains(&first);
            ensure!(is_hosts, "{what}: {first}");
            ensure!(
                second != first && second.segments()[0] == 0x2001,
                "{what}: {second}"
            );
        }
    }
    Ok(())
}

/// Pings in fragments, and too large ones that the host must refuse.
fn ping_of(guest: &Host, from: Ipv6Addr, words: &[&str]) -> Result<lab::Output> {
    let (from, to) = (from.to_string(), Ipv6::CLI.to_string());
    let fixed = ["ping", "-n", "-c1", "-W2", "-I", &from];
    guest.run(fixed.iter().chain(words).copied().chain([to.as_str()]))
}

#[test]
fn g6_1_large_pings_pass_in_fragments() -> Result<()> {
    let net = world()?;
    let _natbpf = net.natbpf(&config("inbound = \"accept\""))?;
    for guest in [NET.vm1, Ipv6::LOCAL_VM1] {
        ping_of(&net.vm1, guest, &["-s", "4000"])?.expect_ok()?;
    }
    let to = NET.vm1.to_string();
    net.cli
        .check(["ping", "-n", "-c1", "-W2", "-s", "4000", &to])?;
    Ok(())
}

#[test]
fn g6_5_a_guest_learns_the_mtu_of_the_uplink() -> Result<()> {
    let net = world()?;
    net.host.ip(&format!("link set {} mtu 1400", net.uplink))?;
    let _natbpf = net.natbpf(&config(""))?;
    for guest in [NET.vm1, Ipv6::LOCAL_VM1] {
        let refused = ping_of(&net.vm1, guest, &["-s", "1400", "-M", "do"])?;
        ensure!(!refused.ok());
        let route = ["ip", "-6", "route", "get", &Ipv6::CLI.to_string(), "from"];
        let guest = guest.to_string();
        let known = net.vm1.check(route.into_iter().chain([guest.as_str()]))?;
        ensure!(known.contains("mtu 1400"), "{guest}: {known}");
        ping_of(&net.vm1, guest.parse()?, &["-s", "1400"])?.expect_ok()?;
    }
    Ok(())
}

/// How much is sent through the narrow hop.
const MUCH: usize = 100 << 20;

/// Sends it all one way and waits until the other end has it.
fn sends(mut from: TcpStream, mut to: TcpStream) -> Result<()> {
    let reader = thread::spawn(move || -> std::io::Result<usize> {
        let mut room = vec![0; 1 << 20];
        let mut total = 0;
        loop {
            match to.read(&mut room)? {
                0 => return Ok(total),
                read => total += read,
            }
        }
    });
    let chunk = vec![0x5a; 1 << 20];
    for _ in 0..MUCH / chunk.len() {
        from.write_all(&chunk)?;
    }
    drop(from);
    let total = reader.join().map_err(|_| anyhow::anyhow!("panicked"))??;
    ensure!(total == MUCH, "{total} bytes arrived");
    Ok(())
}

/// Connects to a listener; both ends.
fn connected(client: &Host, to: SocketAddr, at: &TcpListener) -> Result<(TcpStream, TcpStream)> {
    let one = client.tcp(to)?;
    Ok((one, at.accept()?.0))
}

#[test]
fn g6_6_much_by_tcp_passes_a_hop_of_1280_bytes() -> Result<()> {
    let net = world()?;
    let forward = "[[forward]]\nuplink = \"wan\"\nprotocol = \"tcp\"\nports = 10000\n\
                   to = \"fd00:18::170\"\n";
    let _natbpf = net.natbpf(&(config("") + forward))?;
    net.isp.ip("link set out mtu 1280")?;
    let server = net.cli.tcp_listen(&at(Ipv6::CLI, 7000).to_string())?;
    let service = net
        .vm1
        .tcp_listen(&at(Ipv6::LOCAL_VM1, 10_000).to_string())?;
    let (guest, remote) = connected(&net.vm1, at(Ipv6::CLI, 7000), &server)?;
    sends(guest, remote).context("routed")?;
    let to = Ipv6::CLI.to_string();
    let known = net.vm1.check(["ip", "-6", "route", "get", &to])?;
    ensure!(known.contains("mtu 1280"), "the hop was wide: {known}");
    let (remote, guest) = connected(&net.cli, at(NET.public, 10_000), &service)?;
    sends(guest, remote).context("by a forward")?;
    let own = format!("address del {}/64 dev eth0", NET.vm1);
    net.vm1.ip(&own)?;
    let (guest, remote) = connected(&net.vm1, at(Ipv6::CLI, 7000), &server)?;
    ensure!(remote.peer_addr()?.ip() == NET.public);
    sends(guest, remote).context("by masquerade")
}
