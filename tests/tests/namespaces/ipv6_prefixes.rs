//! Guests with unique local IPv6 addresses, whose prefix becomes another (NPTv6).

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};

use anyhow::{Context as _, Result, ensure};
use kit::packets::{At, error, fragments, raw, udp as datagram};
use lab::service::{self, Service};
use lab::topology::{Ipv6, Options, Proxmox};
use lab::{Host, Natbpf};
use tests::{exchange, hears};

const NET: Ipv6 = Ipv6::ROUTED;
const FIRST: Ipv6Addr = Ipv6::LOCAL_VM1;
const SECOND: Ipv6Addr = Ipv6::LOCAL_VM2;
const EXTERNAL: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0x150, 0, 0, 0, 0);
const OTHER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0x151, 0, 0, 0, 0);

const ESP: u8 = 50;
/// Where a frame made by the kit has its IP header.
const ETHERNET: usize = 14;
const UNREACHABLE: u8 = 1;
const QUOTED: usize = 1200;

fn at(address: Ipv6Addr, port: u16) -> SocketAddr {
    SocketAddrV6::new(address, port, 0, 0).into()
}

fn udp(host: &Host, address: Ipv6Addr, port: u16) -> Result<UdpSocket> {
    host.udp(&at(address, port).to_string())
}

/// What stands for an address of a guest behind a prefix of 64 bits, as RFC 6296 computes it: the
/// word behind the prefix makes up for the difference. (All of them are 0 in these guests.)
fn outside(prefix: Ipv6Addr, guest: Ipv6Addr) -> Ipv6Addr {
    let sum = |segments: &[u16]| segments.iter().map(|word| u32::from(*word)).sum::<u32>() % 0xffff;
    let (prefix, mut words) = (prefix.segments(), guest.segments());
    let less = 0xffff - sum(&prefix[..4]);
    let word = (sum(&words[..4]) + less) % 0xffff;
    words[..4].copy_from_slice(&prefix[..4]);
    words[4] = word as u16;
    words.into()
}

fn config(prefix: Ipv6Addr, lan: &str, tables: &str) -> String {
    format!(
        "[uplink.wan]\ninterface = \"vmbr0\"\n\n[network.lan]\ninterface = \"vmbr1\"\naddress = \
         [\"172.22.161.254/24\", \"fd00:18::1/64\"]\n{lan}\n\n[[nat]]\nname = \"lan6\"\nuplink = \
         \"wan\"\naddress = \"{prefix}/64\"\nto = \"fd00:18::/64\"\n\n{tables}\n"
    )
}

fn world(lan: &str, tables: &str) -> Result<(Proxmox, Natbpf)> {
    let net = Proxmox::with(&Options {
        ipv6: Some(NET),
        ..Options::default()
    })?;
    for guest in [(&net.vm1, NET.vm1), (&net.vm2, NET.vm2)] {
        guest.0.ip(&format!(
            "address del {}/64 dev eth0\nroute replace default via {}",
            guest.1,
            Ipv6::LOCAL_GATEWAY
        ))?;
    }
    let natbpf = net.natbpf(&config(EXTERNAL, lan, tables))?;
    Ok((net, natbpf))
}

#[test]
fn the_hosts_own_address_in_the_external_prefix_stays_its_own() -> Result<()> {
    let (net, natbpf) = world("", "")?;
    let own = Ipv6Addr::from(u128::from(EXTERNAL) | 1);
    net.host
        .ip(&format!("address add {own}/128 dev vmbr1 nodad"))?;
    // (The daemon hears of it by itself; a reload is done when it returns.)
    natbpf.reload(&config(EXTERNAL, "", ""))?;
    net.cli.ping(own)?;
    net.vm1.ping(Ipv6::CLI)?;
    Ok(())
}

const OPEN: &str = "inbound = \"accept\"";

#[test]
fn p6_2_every_protocol_passes_both_ways_with_its_checksum() -> Result<()> {
    let (net, natbpf) = world(OPEN, "")?;
    let first = outside(EXTERNAL, FIRST);
    net.vm1.ping(Ipv6::CLI)?;
    net.cli.ping(first)?;

    let server = udp(&net.cli, Ipv6::CLI, 7000)?;
    let client = udp(&net.vm1, FIRST, 5000)?;
    let seen = exchange(&client, at(Ipv6::CLI, 7000), &server, b"question")?;
    ensure!(seen == at(first, 5000), "seen as {seen}");
    let seen = exchange(&server, at(first, 5000), &client, b"question")?;
    ensure!(seen == at(Ipv6::CLI, 7000), "seen as {seen}");

    let _web = Service::http(&net.cli, &at(Ipv6::CLI, 80).to_string())?;
    let page = service::http_get(&net.vm1, at(Ipv6::CLI, 80))?;
    ensure!(page.contains(&first.to_string()), "{page}");
    let _own = Service::http(&net.vm1, &at(FIRST, 80).to_string())?;
    let page = service::http_get(&net.cli, at(first, 80))?;
    ensure!(page.contains(&Ipv6::CLI.to_string()), "{page}");

    // The bytes behind the header are those that the guest has sent.
    let wire = net.cli.capture("eth0")?;
    for sent in [
        datagram(At(FIRST.octets(), 5001), At(Ipv6::CLI.octets(), 7001)).payload(b"bytes"),
        raw(ESP, FIRST.octets(), Ipv6::CLI.octets()).payload(&[0x5a; 64]),
    ] {
        let sent = sent.bytes();
        net.inject_from_guest(&net.vm1, &sent[ETHERNET..])?;
        wire.wait_for6(|_, seen| {
            seen.source == first && seen.bytes[40..] == sent[ETHERNET + 40..]
        })?;
    }
    let stats = natbpf.stats()?;
    let mut rules = stats["rules"].as_array().context("no rules")?.iter();
    let rule = rules.find(|rule| rule["name"] == "lan6");
    let rule = rule.with_context(|| format!("no lan6 in {stats}"))?;
    for direction in ["packets_in", "packets_out"] {
        ensure!(rule[direction].as_u64() > Some(10), "{rule}");
    }
    Ok(())
}

#[test]
fn p6_4_fragments_pass_in_both_orders_both_ways() -> Result<()> {
    let (net, _natbpf) = world(OPEN, "")?;
    let first = outside(EXTERNAL, FIRST);
    net.vm1.ping(Ipv6::CLI)?;
    for is_reversed in [false, true] {
        let mut parts = fragments::<[u8; 16]>(
            &datagram(At(FIRST.octets(), 5002), At(Ipv6::CLI.octets(), 7002))
                .payload(&[0x5a; 3000])
                .id(1 + u16::from(is_reversed))
                .bytes(),
            1200,
        );
        let mut back = fragments::<[u8; 16]>(
            &datagram(At(Ipv6::CLI.octets(), 7002), At(first.octets(), 5002))
                .payload(&[0xa5; 3000])
                .id(3 + u16::from(is_reversed))
                .bytes(),
            1200,
        );
        if is_reversed {
            parts.reverse();
            back.reverse();
        }
        let there = udp(&net.cli, Ipv6::CLI, 7002)?;
        for part in &parts {
            net.inject_from_guest(&net.vm1, &part[ETHERNET..])?;
        }
        let mut buffer = [0; 4000];
        let (len, from) = there.recv_from(&mut buffer).context("to the outside")?;
        ensure!((len, from) == (3000, at(first, 5002)), "{len} from {from}");
        let here = udp(&net.vm1, FIRST, 5002)?;
        for part in &back {
            net.inject_from_internet(&part[ETHERNET..])?;
        }
        let (len, from) = here.recv_from(&mut buffer).context("to the guest")?;
        ensure!(
            (len, from) == (3000, at(Ipv6::CLI, 7002)),
            "{len} from {from}"
        );
    }
    Ok(())
}

#[test]
fn p6_4_an_error_quotes_what_its_receiver_has_sent() -> Result<()> {
    let (net, _natbpf) = world(OPEN, "")?;
    let first = outside(EXTERNAL, FIRST);
    net.vm1.ping(Ipv6::CLI)?;
    let router: Ipv6Addr = "2001:db8:fe::1".parse()?;
    let client = udp(&net.vm1, FIRST, 5003)?;
    let server = udp(&net.cli, Ipv6::CLI, 7003)?;
    exchange(&client, at(Ipv6::CLI, 7003), &server, b"question")?;
    let about = |source: Ipv6Addr, destination: Ipv6Addr, ports: (u16, u16)| {
        let ends = (
            At(source.octets(), ports.0),
            At(destination.octets(), ports.1),
        );
        datagram(ends.0, ends.1).payload(b"question").bytes()
    };
    let wire = net.vm1.capture("eth0")?;
    let outer = error(
        router.octets(),
        &about(first, Ipv6::CLI, (5003, 7003)),
        UNREACHABLE,
        QUOTED,
    );
    net.inject_from_internet(&outer.bytes()[ETHERNET..])?;
    let (_, seen) = wire.wait_for6(|_, seen| seen.source == router && seen.destination == FIRST)?;
    let own = about(FIRST, Ipv6::CLI, (5003, 7003));
    ensure!(seen.quoted() == Some(&own[ETHERNET..]), "{seen:?}");
    let closed = udp(&net.cli, Ipv6::CLI, 7004)?;
    closed.connect(at(first, 5999))?;
    closed.send(b"is anybody there?")?;
    let refused = closed.recv(&mut [0; 8]).err().map(|error| error.kind());
    ensure!(
        refused == Some(std::io::ErrorKind::ConnectionRefused),
        "{refused:?}"
    );
    Ok(())
}

#[test]
fn p6_4_guests_reach_each_other_by_their_external_addresses() -> Result<()> {
    let (net, _natbpf) = world(OPEN, "")?;
    let (first, second) = (outside(EXTERNAL, FIRST), outside(EXTERNAL, SECOND));
    net.vm1.ping(Ipv6::CLI)?;
    net.vm2.ping(Ipv6::CLI)?;
    net.vm2.ping(first)?;
    let service = udp(&net.vm1, FIRST, 5004)?;
    let inside = udp(&net.vm2, SECOND, 6004)?;
    for _ in 0..3 {
        let seen = exchange(&inside, at(first, 5004), &service, b"question")?;
        ensure!(seen == at(second, 6004), "seen as {seen}");
    }
    Ok(())
}

#[test]
fn p6_5_another_prefix_is_in_use_at_once_and_inbound_still_counts() -> Result<()> {
    let (net, natbpf) = world("", "")?;
    let server = udp(&net.cli, Ipv6::CLI, 7000)?;
    let client = udp(&net.vm1, FIRST, 5000)?;
    for prefix in [EXTERNAL, OTHER] {
        natbpf.reload(&config(prefix, "", ""))?;
        let seen = exchange(&client, at(Ipv6::CLI, 7000), &server, b"question")?;
        let first = outside(prefix, FIRST);
        ensure!(seen == at(first, 5000), "seen as {seen}");
        // No flow of the guest expects this packet.
        let stranger = udp(&net.srv2, Ipv6::SRV2, 7000)?;
        stranger.send_to(b"hello", at(first, 5000))?;
        ensure!(hears(&client)?.is_none(), "a stranger reached the guest");
    }
    // The former one leads nowhere.
    server.send_to(b"late", at(outside(EXTERNAL, FIRST), 5000))?;
    ensure!(hears(&client)?.is_none(), "the former prefix leads in");
    // Packets to internal addresses do not pass, nor do packets from them.
    for (source, destination) in [(Ipv6::CLI, FIRST), (SECOND, outside(OTHER, FIRST))] {
        let ends = (At(source.octets(), 7000), At(destination.octets(), 5000));
        let packet = datagram(ends.0, ends.1).payload(b"past").bytes();
        net.inject_from_internet(&packet[ETHERNET..])?;
        ensure!(hears(&client)?.is_none(), "from {source} to {destination}");
    }
    // Without the rule nothing of it is left.
    let without = config(OTHER, "", "");
    let (head, _) = without.split_once("[[nat]]").context("a rule")?;
    natbpf.reload(head)?;
    client.send_to(b"question", at(Ipv6::CLI, 7000))?;
    let seen = hears(&server)?.map(|(_, from)| from.ip());
    ensure!(
        seen.is_none_or(|from| from == FIRST),
        "still translated: {seen:?}"
    );
    // A rule that comes to a running daemon: its programs are in their places among the others.
    natbpf.reload(&config(OTHER, "", ""))?;
    let seen = exchange(&client, at(Ipv6::CLI, 7000), &server, b"question")?;
    ensure!(seen == at(outside(OTHER, FIRST), 5000), "seen as {seen}");
    let stranger = udp(&net.srv2, Ipv6::SRV2, 7001)?;
    stranger.send_to(b"hello", at(outside(OTHER, FIRST), 5000))?;
    ensure!(hears(&client)?.is_none(), "a stranger reached the guest");
    Ok(())
}

#[test]
fn p6_3_what_has_no_counterpart_is_refused() -> Result<()> {
    let (net, natbpf) = world(OPEN, "")?;
    // All words behind the prefix are 0xffff.
    let last = Ipv6Addr::new(0xfd00, 0x18, 0, 0, 0xffff, 0xffff, 0xffff, 0xffff);
    net.vm1
        .ip(&format!("address add {last}/64 dev eth0 nodad"))?;
    let client = udp(&net.vm1, last, 5000)?;
    let wire = net.vm1.capture("eth0")?;
    client.send_to(b"question", at(Ipv6::CLI, 7000))?;
    let (_, seen) = wire.wait_for6(|_, seen| seen.icmp() == Some((UNREACHABLE, 3)))?;
    ensure!(seen.destination == last, "{seen:?}");
    let stats = natbpf.stats()?.to_string();
    ensure!(stats.contains("\"no_counterpart\":1"), "{stats}");
    // The word that is 0xffff is skipped.
    let skipped = Ipv6Addr::new(0xfd00, 0x18, 0, 0, 0xffff, 0, 0, 0x170);
    net.vm1
        .ip(&format!("address add {skipped}/64 dev eth0 nodad"))?;
    // The guest is known on the link.
    net.host.ping(skipped)?;
    let server = udp(&net.cli, Ipv6::CLI, 7000)?;
    let client = udp(&net.vm1, skipped, 5000)?;
    let seen = exchange(&client, at(Ipv6::CLI, 7000), &server, b"question")?;
    let mut expected = outside(EXTERNAL, skipped).segments();
    (expected[4], expected[5]) = (0xffff, expected[4]);
    ensure!(seen == at(expected.into(), 5000), "seen as {seen}");
    Ok(())
}

/// The fast path would send packets past a bridge that is the uplink, and past its programs.
#[test]
fn p6_1_no_packet_of_a_long_flow_leaves_by_its_internal_address() -> Result<()> {
    let (net, _natbpf) = world("", "")?;
    let server = udp(&net.cli, Ipv6::CLI, 7000)?;
    let _web = Service::http(&net.cli, &at(Ipv6::CLI, 80).to_string())?;
    for (guest, inside) in [(&net.vm1, FIRST), (&net.vm2, SECOND)] {
        let client = udp(guest, inside, 5000)?;
        for _ in 0..40 {
            let seen = exchange(&client, at(Ipv6::CLI, 7000), &server, b"question")?;
            ensure!(seen == at(outside(EXTERNAL, inside), 5000), "{seen}");
        }
        for _ in 0..3 {
            let page = service::http_get(guest, at(Ipv6::CLI, 80))?;
            let own = outside(EXTERNAL, inside).to_string();
            ensure!(page.contains(&own), "{page}");
        }
    }
    Ok(())
}
