//! What rules say: M2, M3, M4, P4.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use kit::craft::Ip;
use lab::service::{self, Service};
use lab::topology::{Options, Proxmox};
use lab::{Capture, Host};
use tests::{Nat, Watch, at, exchange, hears};

/// A forward, in the words of the configuration.
fn forward(protocol: &str, ports: &str, to: Ipv4Addr, to_ports: &str) -> String {
    let to_ports = match to_ports {
        "" => String::new(),
        some => format!("to_ports = {some}\n"),
    };
    let name = format!("{protocol} {ports}").replace('"', "");
    format!(
        "[[forward]]\nname = \"{name}\"\nuplink = \"wan\"\nprotocol = \"{protocol}\"\n\
         ports = {ports}\nto = \"{to}\"\n{to_ports}"
    )
}

/// Sends one datagram to a port of the public address, and sees where it lands. Each comes from its
/// own port, so that those which arrive at one port stay distinct.
fn lands_at(net: &Proxmox, guest: &Capture, port: u16, should: u16) -> Result<()> {
    let payload = format!("to {port}").into_bytes();
    let client = 7000 + port % 100;
    let packet = Ip::new(Proxmox::CLI, Proxmox::PUBLIC).udp(client, port, &payload)?;
    net.inject_from_internet(&packet)?;
    let (frame, got) = guest
        .wait_for(|_, packet| packet.payload() == payload)
        .with_context(|| format!("port {port}"))?;
    frame.checksums()?;
    ensure!(
        got.ports() == Some((client, should)),
        "port {port} should land at {should}: {got}"
    );
    Ok(())
}

#[test]
fn m2_each_port_lands_where_it_should() -> Result<()> {
    let net = Proxmox::new()?;
    let rules = [
        forward("udp", "\"2000-2099\"", Proxmox::VM1, ""),
        forward("udp", "\"3000-3099\"", Proxmox::VM2, "\"53000-53099\""),
        forward("udp", "[53, \"4000-4001\", 4444]", Proxmox::VM1, ""),
        forward("udp", "\"6000-6009\"", Proxmox::VM2, "80"),
        forward("udp", "1", Proxmox::VM1, "65535"),
        forward("udp", "65535", Proxmox::VM2, "1"),
    ];
    let _nat = Nat::proxmox(&net, &(net.config_head() + &rules.concat()))?;
    let (vm1, vm2) = (net.vm1.capture("eth0")?, net.vm2.capture("eth0")?);
    for (port, should) in [(2000, 2000), (2050, 2050), (2099, 2099)] {
        lands_at(&net, &vm1, port, should).context("a range")?;
    }
    for (port, should) in [(3000, 53000), (3001, 53001), (3063, 53063), (3099, 53099)] {
        lands_at(&net, &vm2, port, should).context("a shifted range")?;
    }
    for port in [53, 4000, 4001, 4444] {
        lands_at(&net, &vm1, port, port).context("a list")?;
    }
    for port in [6000, 6005, 6009] {
        lands_at(&net, &vm2, port, 80).context("many to one")?;
    }
    lands_at(&net, &vm1, 1, 65535)?;
    lands_at(&net, &vm2, 65535, 1)?;
    // Just beside the rules: unused.
    for port in [1999, 2100, 2999, 3100, 52, 54, 3999, 4002, 5999, 6010, 2] {
        let packet = Ip::new(Proxmox::CLI, Proxmox::PUBLIC).udp(7000, port, b"beside")?;
        net.inject_from_internet(&packet)?;
    }
    lands_at(&net, &vm1, 2042, 2042)?;
    lands_at(&net, &vm2, 3042, 53042)?;
    for (_, packet) in vm1.packets().into_iter().chain(vm2.packets()) {
        ensure!(packet.payload() != b"beside", "{packet}");
    }
    Ok(())
}

#[test]
fn m2_answers_come_from_the_port_that_was_asked() -> Result<()> {
    let net = Proxmox::new()?;
    let rules = [
        forward("udp", "\"3000-3099\"", Proxmox::VM2, "\"53000-53099\""),
        forward("udp", "\"6000-6009\"", Proxmox::VM1, "80"),
    ];
    let _nat = Nat::proxmox(&net, &(net.config_head() + &rules.concat()))?;
    let (shifted, many) = (net.vm2.udp("0.0.0.0:53007")?, net.vm1.udp("0.0.0.0:80")?);
    let client = net.cli.udp("198.51.100.2:7000")?;
    exchange(&client, at(Proxmox::PUBLIC, 3007), &shifted, b"shifted")?;
    let first = exchange(&client, at(Proxmox::PUBLIC, 6000), &many, b"many to one")?;
    ensure!(first == at(Proxmox::CLI, 7000), "{first}");
    // One client at two ports that lead to one: nothing tells the answers apart. Whatever the
    // outcome of the second, no answer may come from a port that was not asked.
    client.send_to(b"the same client", at(Proxmox::PUBLIC, 6001))?;
    if let Some((_, from)) = hears(&many)? {
        many.send_to(b"answer", from)?;
        let answered = hears(&client)?;
        let right = answered
            .as_ref()
            .is_none_or(|(_, f)| *f == at(Proxmox::PUBLIC, 6001).into());
        ensure!(right, "asked 6001, answered by {answered:?}");
    }
    exchange(
        &client,
        at(Proxmox::PUBLIC, 6000),
        &many,
        b"the first session goes on",
    )?;
    Ok(())
}

#[test]
fn m6_a_forwards_target_leaves_from_the_forwarded_port() -> Result<()> {
    let net = Proxmox::new()?;
    let masquerade = "[[snat]]\nnetwork = \"lan\"\nuplink = \"wan\"\nto = \"masquerade\"\n";
    let rules = [
        masquerade.to_owned(),
        forward("udp", "27015", Proxmox::VM1, ""),
        forward("udp", "5060", Proxmox::VM2, "5070"),
        forward("tcp", "\"3000-3009\"", Proxmox::VM1, "\"4000-4009\""),
    ];
    let _nat = Nat::proxmox(&net, &(net.config_head() + &rules.concat()))?;
    let provider = net.cli.udp("198.51.100.2:5060")?;
    let (game, phone) = (net.vm1.udp("0.0.0.0:27015")?, net.vm2.udp("0.0.0.0:5070")?);
    for (guest, port) in [(&game, 27015), (&phone, 5060)] {
        let seen = exchange(guest, at(Proxmox::CLI, 5060), &provider, b"register")?;
        ensure!(seen == at(Proxmox::PUBLIC, port), "seen as {seen}");
        // A call from the port that the guest has registered at.
        let from = exchange(&provider, at(Proxmox::PUBLIC, port), guest, b"call")?;
        ensure!(from == at(Proxmox::CLI, 5060), "called by {from}");
    }
    // Another guest with the same port is a different client.
    let other = net.vm2.udp("0.0.0.0:27015")?;
    let seen = exchange(&other, at(Proxmox::CLI, 5060), &provider, b"heartbeat")?;
    ensure!(seen != at(Proxmox::PUBLIC, 27015), "seen as {seen}");
    exchange(&game, at(Proxmox::CLI, 5060), &provider, b"heartbeat")?;
    Ok(())
}

#[test]
fn m2_protocols_on_one_port_go_to_different_guests() -> Result<()> {
    let net = Proxmox::new()?;
    let rules = [
        forward("tcp", "53", Proxmox::VM1, ""),
        forward("udp", "53", Proxmox::VM2, ""),
    ];
    let _nat = Nat::proxmox(&net, &(net.config_head() + &rules.concat()))?;
    let _web = Service::http(&net.vm1, "0.0.0.0:53")?;
    let server = net.vm2.udp("0.0.0.0:53")?;
    let page = service::http_get(&net.cli, at(Proxmox::PUBLIC, 53))?;
    ensure!(page.starts_with("vm1 sees 198.51.100.2:"), "{page}");
    exchange(
        &net.cli.udp("198.51.100.2:7000")?,
        at(Proxmox::PUBLIC, 53),
        &server,
        b"udp",
    )?;
    Ok(())
}

#[test]
fn m3_excluded_destinations_are_left_alone() -> Result<()> {
    let net = Proxmox::new()?;
    let masquerade = "to = \"masquerade\"\n";
    let exclude = format!("{masquerade}exclude = [\"198.51.100.4/31\", \"192.0.2.0/24\"]\n");
    let _nat = Nat::proxmox(&net, &net.config().replace(masquerade, &exclude))?;
    // The provider has a route to the guests, for example over a private link to a partner.
    net.isp.ip("route add 172.22.161.0/24 via 19.19.8.10")?;
    let guest = net.vm1.udp("0.0.0.0:5000")?;
    for (address, should) in [
        (Proxmox::SRV2, at(Proxmox::VM1, 5000)),
        (Proxmox::SRV2_B, at(Proxmox::VM1, 5000)),
        (Proxmox::CLI, at(Proxmox::PUBLIC, 5000)),
        (Proxmox::CLI_B, at(Proxmox::PUBLIC, 5000)),
    ] {
        let host = if address.octets()[3] > 3 {
            &net.srv2
        } else {
            &net.cli
        };
        let server = host.udp(&at(address, 7000).to_string())?;
        let seen = exchange(&guest, at(address, 7000), &server, b"question")?;
        ensure!(seen == should, "{address} sees {seen}, should see {should}");
    }
    Ok(())
}

#[test]
fn m3_multicast_and_broadcast_are_left_alone() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = Nat::proxmox(&net, &net.config())?;
    let (wire, host) = (
        net.isp.capture(Proxmox::WAN)?,
        net.host.udp("0.0.0.0:10500")?,
    );
    let everybody = [Ipv4Addr::new(224, 0, 0, 251), Ipv4Addr::new(239, 1, 2, 3)];
    for group in everybody {
        let packet = Ip::new(Proxmox::VM1, group).udp(5000, 7000, b"to a group")?;
        net.inject_from_guest(&net.vm1, &packet)?;
        net.inject_from_internet(&Ip::new(Proxmox::ISP, group).udp(7000, 10500, b"to a group")?)?;
    }
    // The host itself hears a broadcast, from whom it came, though the port is forwarded.
    for (from, port) in [(Proxmox::VM1, 5000), (Proxmox::ISP, 7000)] {
        let payload = format!("to all, from {from}").into_bytes();
        let packet = Ip::new(from, Ipv4Addr::BROADCAST).udp(port, 10500, &payload)?;
        if from == Proxmox::VM1 {
            net.inject_from_guest(&net.vm1, &packet)?;
        } else {
            net.inject_from_internet(&packet)?;
        }
        let mut buffer = [0; 64];
        let (length, seen) = host.recv_from(&mut buffer)?;
        ensure!(
            seen == at(from, port).into() && buffer[..length] == payload,
            "from {seen}"
        );
    }
    for (frame, packet) in wire.packets() {
        let ours = packet.payload() == b"to a group" || packet.destination == Ipv4Addr::BROADCAST;
        ensure!(frame.outgoing || !ours, "on the uplink: {packet}");
    }
    Ok(())
}

const POOL: [&str; 2] = ["203.0.113.16", "203.0.113.19"];

/// The addresses under which a guest is seen by UDP, TCP and ICMP.
fn seen_addresses(net: &Proxmox, guest: &Host, port: u16) -> Result<Vec<Ipv4Addr>> {
    let watch = Watch::proxmox(net)?;
    let mut seen = Vec::new();
    for address in [Proxmox::CLI, Proxmox::CLI_B] {
        let server = net.cli.udp(&at(address, port).to_string())?;
        let socket = guest.udp("0.0.0.0:0")?;
        seen.push(*exchange(&socket, at(address, port), &server, b"udp")?.ip());
    }
    let web = Service::http(&net.cli, &at(Proxmox::CLI, port).to_string())?;
    service::http_get(guest, at(Proxmox::CLI, port))?;
    seen.extend(web.peers().iter().filter_map(|peer| match peer.ip() {
        std::net::IpAddr::V4(ip) => Some(ip),
        std::net::IpAddr::V6(_) => None,
    }));
    guest.check(["ping", "-n", "-c1", "-W2", "198.51.100.3"])?;
    seen.push(watch.sent(|packet| packet.icmp() == Some((8, 0)))?.source);
    watch.finish()?;
    Ok(seen)
}

#[test]
fn m4_a_guest_keeps_one_address_of_the_pool() -> Result<()> {
    let options = Options {
        routed: vec!["203.0.113.16/30".to_owned()],
        ..Options::default()
    };
    let net = Proxmox::with(&options)?;
    let pool = format!("to = \"{}-{}\"", POOL[0], POOL[1]);
    let _natbpf = net.natbpf(&net.config().replace("to = \"masquerade\"", &pool))?;
    for guest in [&net.vm1, &net.vm2] {
        let seen = seen_addresses(&net, guest, 7000)?;
        ensure!(
            seen.len() == 4 && seen.iter().all(|one| *one == seen[0]),
            "{seen:?}"
        );
        let last = seen[0].octets()[3];
        ensure!(
            seen[0].octets()[..3] == [203, 0, 113] && (16..20).contains(&last),
            "{seen:?}"
        );
    }
    Ok(())
}

/// "Use for experimentation and testing" (RFC 3692).
const EXPERIMENTAL: u8 = 253;

#[test]
fn p4_other_protocols_under_all_get_another_address_only() -> Result<()> {
    let net = Proxmox::new()?;
    let rules = format!(
        "[[forward]]\nname = \"dmz\"\nuplink = \"wan\"\nprotocol = \"all\"\nto = \"{}\"\n",
        Proxmox::VM1
    );
    let _nat = Nat::proxmox(&net, &(net.config() + &rules))?;
    let (watch, guest) = (Watch::proxmox(&net)?, net.vm1.capture("eth0")?);
    let packet = Ip::new(Proxmox::CLI, Proxmox::PUBLIC).raw(EXPERIMENTAL, b"inbound")?;
    net.inject_from_internet(&packet)?;
    let (frame, got) = guest.wait_for(|_, packet| packet.payload() == b"inbound")?;
    ensure!(
        (got.source, got.destination) == (Proxmox::CLI, Proxmox::VM1),
        "{got}"
    );
    frame.checksums()?;

    let packet = Ip::new(Proxmox::VM1, Proxmox::CLI).raw(EXPERIMENTAL, b"outbound")?;
    net.inject_from_guest(&net.vm1, &packet)?;
    let sent = watch.sent(|packet| packet.payload() == b"outbound")?;
    ensure!(
        (sent.source, sent.destination) == (Proxmox::PUBLIC, Proxmox::CLI),
        "{sent}"
    );
    watch.finish().map(drop)
}

/// A guest's own external address, in the words of the configuration.
fn nat(external: Ipv4Addr, to: &str) -> String {
    format!("[[nat]]\nuplink = \"wan\"\naddress = \"{external}\"\nto = \"{to}\"\n")
}

#[test]
fn m1_a_guests_own_address_works_from_both_sides() -> Result<()> {
    let options = Options {
        routed: vec!["203.0.113.16/32".to_owned()],
        ..Options::default()
    };
    let net = Proxmox::with(&options)?;
    // An address in the uplink's subnet, which needs ARP answers, and a routed one.
    let (in_subnet, routed) = (Ipv4Addr::new(19, 19, 8, 11), Ipv4Addr::new(203, 0, 113, 16));
    let rules = nat(in_subnet, &Proxmox::VM1.to_string()) + &nat(routed, &Proxmox::VM2.to_string());
    let natbpf = net.natbpf(&(net.config() + &rules))?;
    let server = net.cli.udp(&at(Proxmox::CLI, 7000).to_string())?;
    let stranger = net.cli.udp(&at(Proxmox::CLI_B, 7001).to_string())?;
    for (guest, other, external) in [
        (&net.vm1, &net.vm2, in_subnet),
        (&net.vm2, &net.vm1, routed),
    ] {
        let socket = guest.udp("0.0.0.0:500")?;
        let seen = exchange(&socket, at(Proxmox::CLI, 7000), &server, b"out")?;
        ensure!(seen == at(external, 500), "seen as {seen}");
        let service = guest.udp("0.0.0.0:3000")?;
        let from = exchange(&stranger, at(external, 3000), &service, b"in")?;
        ensure!(from == at(Proxmox::CLI_B, 7001), "came from {from}");
        exchange(
            &other.udp("0.0.0.0:0")?,
            at(external, 3000),
            &service,
            b"hairpin",
        )?;
        let _web = Service::http(guest, "0.0.0.0:80")?;
        service::http_get(&net.cli, at(external, 80))?;
        let ping = ["ping", "-n", "-c1", "-W2", &external.to_string()];
        net.cli.check(ping)?;
    }
    let sessions = natbpf.conntrack(&["--rule", "nat-1"])?;
    ensure!(
        !sessions.is_empty() && sessions.iter().all(|one| one["rule_kind"] == "nat"),
        "{sessions:?}"
    );
    Ok(())
}

#[test]
fn s3_a_guest_keeps_to_its_own_address_where_it_must() -> Result<()> {
    let net = Proxmox::new()?;
    let mac = net.vm1.mac("eth0")?.map(|byte| format!("{byte:02x}"));
    let guest = format!(
        "[[guest]]\nname = \"vm1\"\nnetwork = \"lan\"\naddress = \"{}\"\nmac = \"{}\"\n",
        Proxmox::VM1,
        mac.join(":")
    );
    let lan = "[network.lan]\n";
    let strict = net
        .config()
        .replace(lan, &format!("{lan}anti_spoof = true\n"));
    let natbpf = net.natbpf(&(strict + &guest))?;
    let server = net.cli.udp(&at(Proxmox::CLI, 7000).to_string())?;
    for guest in [&net.vm1, &net.vm2] {
        let socket = guest.udp("0.0.0.0:0")?;
        exchange(&socket, at(Proxmox::CLI, 7000), &server, b"its own")?;
    }
    for source in [Proxmox::VM1, Ipv4Addr::new(172, 22, 162, 1)] {
        let packet = Ip::new(source, Proxmox::CLI).udp(5000, 7000, b"another's")?;
        net.inject_from_guest(&net.vm2, &packet)?;
    }
    ensure!(hears(&server)?.is_none(), "a spoofed packet has left");
    let spoofed = natbpf.stats()?["drops"]["spoofed"].clone();
    ensure!(spoofed == 2, "{spoofed} packets counted as spoofed");
    Ok(())
}
