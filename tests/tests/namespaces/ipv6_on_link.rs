//! Networks whose IPv6 prefix is on the uplink's link (`ndp`): the router asks for each address.

use std::net::Ipv6Addr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::patience::patience;
use lab::topology::{Ipv6, Options, Proxmox, Uplink};
use lab::{Host, Natbpf, Packet6, ones_complement_sum};
use tests::{at6, exchange};

/// How long an answer to a neighbour may take.
const ANSWERED: Duration = Duration::from_millis(5);
const SOLICITATION: (u8, u8) = (135, 0);
const ADVERTISEMENT: (u8, u8) = (136, 0);
const GUEST: Ipv6Addr = Ipv6::ON_LINK.vm1;

fn net(uplink: Uplink) -> Result<Proxmox> {
    Proxmox::with(&Options {
        uplink,
        ipv6: Some(Ipv6::ON_LINK),
        ..Options::default()
    })
}

/// The first guest is named, the other one is not.
fn config(net: &Proxmox) -> Result<String> {
    let mac = net.vm1.mac("eth0")?.map(|byte| format!("{byte:02x}"));
    let (uplink, mac) = (net.uplink, mac.join(":"));
    Ok(format!(
        r#"
[uplink.wan]
interface = "{uplink}"
[network.lan]
interface = "vmbr1"
address = ["172.22.161.254/24", "2001:db8:1:2::1:1/64", "fd00:18::1/64"]
ndp = "wan"
inbound = "accept"
[[guest]]
name = "vm1"
network = "lan"
mac = "{mac}"
address = "{GUEST}"
[[snat]]
network = "lan"
uplink = "wan"
to = "masquerade"
"#
    ))
}

fn started(uplink: Uplink) -> Result<(Proxmox, Natbpf)> {
    let net = net(uplink)?;
    let natbpf = net.natbpf(&config(&net)?)?;
    Ok((net, natbpf))
}

/// Exchanges datagrams; returns from where the server saw them.
fn reaches((client, from): (&Host, Ipv6Addr), (server, to): (&Host, Ipv6Addr)) -> Result<Ipv6Addr> {
    let client_socket = client.udp(&format!("[{from}]:0"))?;
    let server_socket = server.udp(&format!("[{to}]:7000"))?;
    let seen = exchange(&client_socket, at6(to, 7000), &server_socket, b"hello")
        .with_context(|| format!("{from} on {} to {to}", client.name()))?;
    Ok(*seen.ip())
}

/// A solicitation from the router for an address, in a frame to its group.
fn solicitation(net: &Proxmox, target: Ipv6Addr) -> Result<Vec<u8>> {
    let [.., a, b, c] = target.octets();
    let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c];
    let own = net.isp.mac(Proxmox::WAN)?;
    let from = Ipv6::ROUTER.octets();
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    message.extend([1, 1]);
    message.extend(own);
    let length = u8::try_from(message.len())?;
    let sum = !ones_complement_sum(&[&from, &group, &[0, 0, 0, length, 0, 0, 0, 58], &message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let header = [0x60, 0, 0, 0, 0, length, 58, 255];
    let group_mac = [0x33, 0x33, 0xff, a, b, c];
    Ok([
        &group_mac[..],
        &own,
        &[0x86, 0xdd],
        &header,
        &from,
        &group,
        &message,
    ]
    .concat())
}

/// The answer to a solicitation, and how long it took; none after a second.
fn answer(net: &Proxmox, target: Ipv6Addr) -> Result<Option<(Packet6, Duration)>> {
    let capture = net.isp.capture(Proxmox::WAN)?;
    net.isp.inject(Proxmox::WAN, &solicitation(net, target)?)?;
    let deadline = Instant::now() + patience(Duration::from_secs(1));
    while Instant::now() < deadline {
        let packets = capture.packets6();
        let is =
            |packet: &Packet6, kind| packet.icmp() == Some(kind) && packet.target() == Some(target);
        let asked = packets.iter().find(|(_, packet)| is(packet, SOLICITATION));
        // (Announcements go to all nodes.)
        let answered = packets.iter().find(|(frame, packet)| {
            let is_to_router = packet.destination == Ipv6::ROUTER;
            !frame.outgoing && is_to_router && is(packet, ADVERTISEMENT)
        });
        if let (Some((asked, _)), Some((frame, packet))) = (asked, answered) {
            frame.checksums()?;
            let taken = frame.at.duration_since(asked.at).unwrap_or_default();
            return Ok(Some((packet.clone(), taken)));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(None)
}

/// That the uplink answers for an address, as a router must.
fn is_answered(net: &Proxmox, target: Ipv6Addr) -> Result<()> {
    let (packet, taken) = answer(net, target)?.with_context(|| format!("{target}: no answer"))?;
    let mac = net.host.mac(net.uplink)?;
    ensure!(packet.source == target, "{packet}");
    ensure!(packet.destination == Ipv6::ROUTER, "{packet}");
    // Router, solicited, no override; then the target's Ethernet address.
    ensure!(packet.bytes[44] == 0xc0, "flags {:#x}", packet.bytes[44]);
    ensure!(
        packet.bytes[64..] == [&[2, 1][..], &mac].concat(),
        "{packet}"
    );
    ensure!(taken < patience(ANSWERED), "after {taken:?}");
    Ok(())
}

#[test]
fn n6_1_n6_8_guests_on_the_uplinks_link_are_reached_and_the_router_too() -> Result<()> {
    for uplink in [Uplink::Nic, Uplink::Bridge] {
        let (net, _natbpf) = started(uplink)?;
        for guest in [(&net.vm1, GUEST), (&net.vm2, Ipv6::ON_LINK.vm2)] {
            is_answered(&net, guest.1)?;
            ensure!(reaches((&net.cli, Ipv6::CLI), guest)? == Ipv6::CLI);
            ensure!(reaches(guest, (&net.cli, Ipv6::CLI))? == guest.1);
            ensure!(reaches((&net.host, Ipv6::ON_LINK.gateway), guest)? == Ipv6::ON_LINK.gateway);
        }
        // The host itself has the same prefix on both sides.
        net.host.ping(Ipv6::CLI)?;
        net.srv2.ping(Ipv6::ON_LINK.public)?;
    }
    Ok(())
}

#[test]
fn n6_2_others_on_the_link_and_other_prefixes_are_not_answered_for() -> Result<()> {
    let net = net(Uplink::Nic)?;
    let neighbour: Ipv6Addr = "2001:db8:1:2::77".parse()?;
    net.host
        .ip(&format!("route add {neighbour}/128 dev eno1"))?;
    let _natbpf = net.natbpf(&config(&net)?)?;
    is_answered(&net, GUEST)?;
    for other in [neighbour, Ipv6::LOCAL_VM1, "2001:db8:1:3::1".parse()?] {
        ensure!(answer(&net, other)?.is_none(), "{other} is answered");
    }
    // The kernel answers for the host's own address, from that address or its link-local one.
    let (own, _) = answer(&net, Ipv6::ON_LINK.public)?.context("the host's own address")?;
    ensure!(
        own.bytes[44] & 0x20 != 0,
        "the kernel's answers override: {own}"
    );
    // A route that comes later is followed.
    let deadline = Instant::now() + patience(Duration::from_secs(10));
    net.host
        .ip(&format!("route del {neighbour}/128 dev eno1"))?;
    while answer(&net, neighbour)?.is_none() {
        ensure!(Instant::now() < deadline, "not answered again");
    }
    Ok(())
}

/// A guest's duplicate address detection happens on the bridge, where natbpf answers no
/// solicitations.
#[test]
fn n6_4_guests_get_their_addresses_on_the_bridge() -> Result<()> {
    let (net, _natbpf) = started(Uplink::Bridge)?;
    let address: Ipv6Addr = "2001:db8:1:2::d0d".parse()?;
    for setting in ["accept_dad", "dad_transmits"] {
        let name = format!("net.ipv6.conf.eth0.{setting}");
        net.vm1.set_sysctl(&name, "1")?;
    }
    net.vm1.ip(&format!("address add {address}/64 dev eth0"))?;
    let deadline = Instant::now() + patience(Duration::from_secs(10));
    loop {
        let shown = net
            .vm1
            .check(["ip", "-6", "address", "show", "dev", "eth0"])?;
        let line = shown.lines().find(|line| line.contains("::d0d/64"));
        let line = line.with_context(|| format!("it is gone: {shown}"))?;
        ensure!(!line.contains("dadfailed"), "{line}");
        if !line.contains("tentative") {
            break;
        }
        ensure!(Instant::now() < deadline, "{line}");
        thread::sleep(Duration::from_millis(50));
    }
    ensure!(reaches((&net.vm1, address), (&net.cli, Ipv6::CLI))? == address);
    Ok(())
}

#[test]
fn n6_6_neighbours_are_answered_without_the_daemon() -> Result<()> {
    let (net, mut natbpf) = started(Uplink::Nic)?;
    natbpf.kill()?;
    is_answered(&net, GUEST)?;
    let groups = net.host.check(["ip", "maddr", "show", "dev", "eno1"])?;
    let link = net.host.check(["ip", "link", "show", "eno1"])?;
    ensure!(groups.contains("ff02::1:ff00:170"), "{groups}");
    ensure!(link.contains("ALLMULTI"), "{link}");
    natbpf.down()?;
    let groups = net.host.check(["ip", "maddr", "show", "dev", "eno1"])?;
    ensure!(!groups.contains("ff02::1:ff00:170"), "{groups}");
    ensure!(answer(&net, GUEST)?.is_none());
    Ok(())
}

#[test]
fn n6_7_guests_are_announced_at_the_start_and_from_another_ethernet_address() -> Result<()> {
    let net = net(Uplink::Nic)?;
    let capture = net.isp.capture(Proxmox::WAN)?;
    let _natbpf = net.natbpf(&config(&net)?)?;
    let announced = |mac: [u8; 6]| {
        capture.wait_for6(|frame, packet| {
            let is_it = packet.icmp() == Some(ADVERTISEMENT) && packet.target() == Some(GUEST);
            is_it && !frame.outgoing && packet.bytes.ends_with(&mac)
        })
    };
    let (frame, packet) = announced(net.host.mac("eno1")?)?;
    frame.checksums()?;
    ensure!(
        packet.source == GUEST && packet.hop_limit == 255,
        "{packet}"
    );
    // Router and override: whoever knows another Ethernet address forgets that.
    ensure!(packet.bytes[44] == 0xa0, "flags {:#x}", packet.bytes[44]);
    reaches((&net.cli, Ipv6::CLI), (&net.vm1, GUEST))?;
    net.host.ip("link set eno1 address 02:00:00:00:77:01")?;
    announced([2, 0, 0, 0, 0x77, 1])?;
    reaches((&net.cli, Ipv6::CLI), (&net.vm1, GUEST))?;
    is_answered(&net, GUEST)
}

#[test]
fn n6_10_an_uplink_with_a_link_local_address_alone_is_usable_but_for_masquerade() -> Result<()> {
    let net = Proxmox::with(&Options {
        uplink: Uplink::Nic,
        ipv6: Some(Ipv6::ROUTED),
        ..Options::default()
    })?;
    let (public, gateway) = (Ipv6::ROUTED.public, Ipv6::ROUTED.gateway);
    net.host.ip(&format!("address del {public}/64 dev eno1"))?;
    // The provider's next hop is the host's link-local address.
    let text = net
        .host
        .check(["ip", "-6", "-o", "addr", "show", "dev", "eno1"])?;
    let mut words = text.split_whitespace().skip_while(|word| *word != "inet6");
    let local = words.nth(1).and_then(|word| word.split('/').next());
    let local = local.context("no link-local address")?;
    net.isp.ip(&format!(
        "route replace 2001:db8:0:100::/56 via {local} dev wan0"
    ))?;
    let natbpf = net.natbpf(
        r#"
[uplink.wan]
interface = "eno1"
[network.lan]
interface = "vmbr1"
address = ["172.22.161.254/24", "2001:db8:0:101::1/64", "fd00:18::1/64"]
inbound = "accept"
[[snat]]
network = "lan"
uplink = "wan"
to = "masquerade"
"#,
    )?;
    net.host.ip("neigh flush dev eno1")?;
    let guest = (&net.vm1, Ipv6::ROUTED.vm1);
    ensure!(reaches(guest, (&net.cli, Ipv6::CLI))? == guest.1);
    ensure!(reaches((&net.cli, Ipv6::CLI), (&net.host, gateway))? == Ipv6::CLI);
    let local = net.vm1.udp(&format!("[{}]:0", Ipv6::LOCAL_VM1))?;
    let wire = net.isp.capture(Proxmox::WAN)?;
    local.send_to(b"hello", at6(Ipv6::CLI, 7000))?;
    thread::sleep(patience(Duration::from_millis(300)));
    let leaked = wire.packets6();
    let leaked = leaked
        .iter()
        .find(|(_, packet)| packet.source == Ipv6::LOCAL_VM1);
    ensure!(leaked.is_none(), "{leaked:?}");
    let drops = natbpf.stats()?["drops"]["no_address"].as_u64();
    ensure!(drops.is_some_and(|count| count > 0), "{}", natbpf.stats()?);
    Ok(())
}

#[test]
fn external_addresses_that_no_interface_has_are_answered_and_announced() -> Result<()> {
    let net = net(Uplink::Nic)?;
    let external: Ipv6Addr = "2001:db8:1:2::80".parse()?;
    let capture = net.isp.capture(Proxmox::WAN)?;
    let config = |claim: &str| {
        format!(
            r#"
[uplink.wan]
interface = "eno1"
claim = "{claim}"
[network.lan]
interface = "vmbr1"
address = ["172.22.161.254/24", "fd00:18::1/64"]
[[forward]]
name = "web"
uplink = "wan"
protocol = "udp"
ports = 7000
address = "{external}"
to = "{}"
"#,
            Ipv6::LOCAL_VM1
        )
    };
    let natbpf = net.natbpf(&config("arp"))?;
    capture.wait_for6(|frame, packet| {
        let is_it = packet.icmp() == Some(ADVERTISEMENT) && packet.target() == Some(external);
        is_it && !frame.outgoing
    })?;
    is_answered(&net, external)?;
    let client = net.cli.udp(&format!("[{}]:0", Ipv6::CLI))?;
    let server = net.vm1.udp(&format!("[{}]:7000", Ipv6::LOCAL_VM1))?;
    exchange(&client, at6(external, 7000), &server, b"by the program")?;
    // On the interface, the kernel answers for it.
    natbpf.reload(&config("add"))?;
    let own = net
        .host
        .check(["ip", "-6", "addr", "show", "dev", "eno1"])?;
    ensure!(own.contains("2001:db8:1:2::80/128"), "{own}");
    exchange(&client, at6(external, 7000), &server, b"by the kernel")?;
    natbpf.reload(&config("none"))?;
    ensure!(answer(&net, external)?.is_none(), "others handle it");
    Ok(())
}
