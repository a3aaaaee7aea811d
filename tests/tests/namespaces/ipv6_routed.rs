//! Guests with IPv6 addresses of a prefix that the provider routes to the VM host: nothing is
//! translated, and what uplinks may open is up to `inbound` and policies.

use std::io::ErrorKind;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use kit::packets::{At, error, icmp, raw, udp};
use lab::service::{self, Service};
use lab::topology::{Ipv6, Options, Proxmox};
use lab::{Host, Natbpf};
use serde_json::json;
use tests::following::soon;
use tests::{exchange, hears, snapshot};

const NET: Ipv6 = Ipv6::ROUTED;
const GUEST: Ipv6Addr = NET.vm1;
const OTHER: Ipv6Addr = NET.vm2;

/// A network of another /64 of the routed prefix, its gateway and its guest.
const DMZ: &str = "2001:db8:0:102::1/64";
const DB: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0x102, 0, 0, 0, 0x10);

/// The protocol numbers of ESP and SCTP.
const ESP: u8 = 50;
const SCTP: u8 = 132;

/// Types of ICMPv6 errors (RFC 4443), and how much of a packet they may quote.
const ERRORS: [u8; 4] = [1, 2, 3, 4];
const QUOTED: usize = 1232;

/// Where a frame made by the kit has its IP header.
const ETHERNET: usize = 14;

fn at(address: Ipv6Addr, port: u16) -> SocketAddr {
    SocketAddrV6::new(address, port, 0, 0).into()
}

fn world() -> Result<Proxmox> {
    Proxmox::with(&Options {
        ipv6: Some(NET),
        ..Options::default()
    })
}

/// The uplink and the guests' network, with more keys of the network and further tables.
fn config(network: &str, tables: &str) -> String {
    format!(
        "[uplink.wan]\ninterface = \"vmbr0\"\n\n[network.lan]\ninterface = \"vmbr1\"\naddress = \
         [\"172.22.161.254/24\", \"2001:db8:0:101::1/64\"]\n{network}\n\n[[snat]]\nname = \
         \"lan-out\"\nnetwork = \"lan\"\nuplink = \"wan\"\nto = \"masquerade\"\n\n{tables}\n"
    )
}

/// The same without IPv6.
fn config_of_ipv4() -> String {
    config("", "").replace(", \"2001:db8:0:101::1/64\"", "")
}

/// Exchanges datagrams between two hosts, whose addresses must be seen as they are.
fn reaches((client, from): (&Host, Ipv6Addr), (server, to): (&Host, Ipv6Addr)) -> Result<()> {
    let client_socket = client.udp(&at(from, 6000).to_string())?;
    let server_socket = server.udp(&at(to, 7000).to_string())?;
    let seen = exchange(&client_socket, at(to, 7000), &server_socket, b"question")
        .with_context(|| format!("{from} on {} to {to}", client.name()))?;
    ensure!(seen == at(from, 6000), "{from} was seen as {seen}");
    Ok(())
}

/// How many packets were dropped because of policies.
fn dropped(natbpf: &Natbpf) -> Result<u64> {
    let stats = natbpf.stats()?;
    stats["drops"]["policy"].as_u64().context("no such reason")
}

/// The hooks of an uplink or network in the status.
fn hooks(natbpf: &Natbpf, owner: &str) -> Result<Vec<String>> {
    let status = natbpf.status()?;
    let interfaces = status["interfaces"].as_array().context("no interfaces")?;
    let one = interfaces.iter().find(|one| one["owner"] == owner);
    let hooks = one.and_then(|one| one["hooks"].as_array());
    let hooks = hooks.context("no hooks")?.iter();
    Ok(hooks
        .filter_map(|hook| Some(hook.as_str()?.to_owned()))
        .collect())
}

const HOOKS_OF_IPV4: [&str; 2] = ["tc-ingress", "tc-egress"];

/// Whether there is anything of IPv6 among the pins of a data plane.
fn has_pins(natbpf: &Natbpf) -> Result<bool> {
    let is_ipv6 = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // (A directory among the links is named after an interface's index.)
        name.ends_with('6') && name.parse::<u32>().is_err()
    };
    let plane = natbpf.bpffs().join("v5");
    for directory in [plane.join("programs"), plane.join("links"), plane] {
        for entry in std::fs::read_dir(&directory)? {
            if is_ipv6(&entry?.path()) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

#[test]
fn r6_1_a_guest_and_the_internet_reach_each_other_untranslated() -> Result<()> {
    let net = world()?;
    let natbpf = net.natbpf(&config("inbound = \"accept\"", ""))?;
    let ends = [(&net.vm1, GUEST), (&net.cli, Ipv6::CLI)];
    for (one, other) in [(ends[0], ends[1]), (ends[1], ends[0])] {
        reaches(one, other)?;
        one.0.ping(other.1)?;
        let _web = Service::http(other.0, &at(other.1, 80).to_string())?;
        let page = service::http_get(one.0, at(other.1, 80))?;
        ensure!(page.contains(&one.1.to_string()), "{page}");
        for protocol in [ESP, SCTP] {
            let packet = raw(protocol, one.1.octets(), other.1.octets());
            let packet = packet.payload(&[0x5a; 64]).bytes();
            let wire = other.0.capture("eth0")?;
            match one.0.name() == net.vm1.name() {
                true => net.inject_from_guest(&net.vm1, &packet[ETHERNET..])?,
                false => net.inject_from_internet(&packet[ETHERNET..])?,
            }
            wire.wait_for6(|_, seen| {
                (seen.source, seen.destination, seen.protocol) == (one.1, other.1, protocol)
            })?;
        }
    }
    ensure!(dropped(&natbpf)? == 0, "{:?}", natbpf.stats()?["drops"]);
    Ok(())
}

#[test]
fn f6_1_what_no_guest_has_asked_for_does_not_reach_it() -> Result<()> {
    let net = world()?;
    let natbpf = net.natbpf(&config("", ""))?;
    let (server, client) = (
        net.vm2.udp(&at(OTHER, 7000).to_string())?,
        net.cli.udp(&at(Ipv6::CLI, 6000).to_string())?,
    );
    let bridge = net.vm2.capture("eth0")?;
    client.send_to(b"unsolicited", at(OTHER, 7000))?;
    ensure!(hears(&server)?.is_none(), "the guest has heard it");
    ensure!(net.cli.ping(OTHER).is_err(), "the guest was pinged");
    ensure!(net.cli.tcp(at(OTHER, 80)).is_err(), "the guest was reached");
    ensure!(dropped(&natbpf)? >= 3, "{:?}", natbpf.stats()?["drops"]);
    let asked = bridge.packets6();
    let asked: Vec<_> = (asked.iter())
        .filter(|(_, packet)| packet.target() == Some(OTHER))
        .collect();
    ensure!(asked.is_empty(), "the guest was looked for: {asked:?}");
    let neighbours = net
        .host
        .check(["ip", "-6", "neigh", "show", "dev", "vmbr1"])?;
    ensure!(!neighbours.contains(&OTHER.to_string()), "{neighbours}");
    Ok(())
}

#[test]
fn f6_2_answers_and_errors_about_a_guests_own_flow_reach_it() -> Result<()> {
    let net = world()?;
    let _natbpf = net.natbpf(&config("", ""))?;
    reaches((&net.vm1, GUEST), (&net.cli, Ipv6::CLI))?;
    net.vm1.ping(Ipv6::CLI)?;
    let client = net.vm1.udp(&at(GUEST, 6001).to_string())?;
    let server = net.cli.udp(&at(Ipv6::CLI, 7001).to_string())?;
    exchange(&client, at(Ipv6::CLI, 7001), &server, b"question")?;
    let router: Ipv6Addr = "2001:db8:fe::1".parse()?;
    let sent = udp(At(GUEST.octets(), 6001), At(Ipv6::CLI.octets(), 7001));
    let sent = sent.payload(b"question").bytes();
    for kind in ERRORS {
        let wire = net.vm1.capture("eth0")?;
        let error = error(router.octets(), &sent, kind, QUOTED).bytes();
        net.inject_from_internet(&error[ETHERNET..])?;
        let (_, seen) = wire.wait_for6(|_, seen| {
            seen.source == router && seen.icmp().is_some_and(|(found, _)| found == kind)
        })?;
        ensure!(
            seen.quoted() == Some(&sent[ETHERNET..]),
            "type {kind}: {seen:?}"
        );
    }
    // The kernel of the server refuses a closed port, and the guest's socket hears of it.
    client.connect(at(Ipv6::CLI, 7002))?;
    client.send(b"is anybody there?")?;
    let refused = client.recv(&mut [0; 8]).err().map(|error| error.kind());
    ensure!(refused == Some(ErrorKind::ConnectionRefused), "{refused:?}");
    Ok(())
}

#[test]
fn f6_3_errors_about_no_flow_are_dropped() -> Result<()> {
    let net = world()?;
    let _natbpf = net.natbpf(&config("", ""))?;
    let router: Ipv6Addr = "2001:db8:fe::1".parse()?;
    let never_sent = udp(At(GUEST.octets(), 6002), At(Ipv6::CLI.octets(), 7002));
    let never_sent = never_sent.payload(b"never").bytes();
    // The guest is known on the link.
    net.host.ping(GUEST)?;
    let wire = net.vm1.capture("eth0")?;
    for kind in ERRORS {
        let error = error(router.octets(), &never_sent, kind, QUOTED).bytes();
        net.inject_from_internet(&error[ETHERNET..])?;
    }
    net.host.ping(GUEST)?;
    let seen = wire.packets6();
    let from_router = seen.iter().filter(|(_, packet)| packet.source == router);
    ensure!(from_router.count() == 0, "{seen:?}");
    Ok(())
}

#[test]
fn f6_5_policies_open_ports_prefixes_and_guests() -> Result<()> {
    let net = world()?;
    let policies = "\
        [[guest]]\nname = \"second\"\nnetwork = \"lan\"\nmac = \"MAC\"\n\
        address = [\"172.22.161.171\", \"2001:db8:0:101::171\"]\n\
        [[policy]]\nname = \"web\"\nfrom = \"wan\"\nto = \"2001:db8:0:101::170\"\n\
        protocol = \"udp\"\nports = 7000\naction = \"accept\"\n\
        [[policy]]\nname = \"office\"\nfrom = \"2001:db8:ffff::4/127\"\nto = \"lan\"\n\
        action = \"accept\"\n\
        [[policy]]\nname = \"second\"\nfrom = \"wan\"\nto = \"second\"\nprotocol = \"icmp\"\n\
        action = \"accept\"\n";
    let mac = net
        .vm2
        .mac("eth0")?
        .map(|byte| format!("{byte:02x}"))
        .join(":");
    let natbpf = net.natbpf(&config("", &policies.replace("MAC", &mac)))?;
    let guest = (&net.vm1, GUEST);
    reaches((&net.cli, Ipv6::CLI), guest).context("the open port")?;
    ensure!(reaches((&net.cli, Ipv6::CLI), (&net.vm2, OTHER)).is_err());
    ensure!(net.cli.ping(GUEST).is_err(), "a protocol that is not open");
    net.srv2.ping(GUEST).context("the office")?;
    net.cli.ping(OTHER).context("the guest by its name")?;
    let sessions = natbpf.stats()?;
    let rules = sessions["rules"].as_array().context("no rules")?;
    for rule in ["web", "office", "second"] {
        let one = rules.iter().find(|one| one["name"] == rule);
        let count = one.and_then(|one| one["connections"].as_u64());
        ensure!(count >= Some(1), "{rule}: {one:?}");
    }
    Ok(())
}

#[test]
fn r6_2_two_networks_of_a_prefix_reach_each_other_as_policies_say() -> Result<()> {
    let net = world()?;
    let db = net.lab().dual_host("db")?;
    net.host.ip(
        "link add dmz0 address 52:54:00:16:1b:fe type bridge forward_delay 0 stp_state 0\n\
         link set dmz0 up",
    )?;
    net.lab().veth((&net.host, "tap3"), (&db, "eth0"))?;
    net.host.ip(&format!(
        "link set tap3 master dmz0\naddress add {DMZ} dev dmz0 nodad"
    ))?;
    db.ip(&format!(
        "address add {DB}/64 dev eth0\nroute add default via 2001:db8:0:102::1"
    ))?;
    let dmz = format!(
        "[network.dmz]\ninterface = \"dmz0\"\naddress = [\"10.9.0.1/24\", \"{DMZ}\"]\n\
         policy = \"drop\"\n[[policy]]\nname = \"lan-db\"\nfrom = \"lan\"\nto = \"dmz\"\n\
         protocol = \"udp\"\nports = 7000\naction = \"accept\"\n"
    );
    let natbpf = net.natbpf(&config("", &dmz))?;
    reaches((&net.vm1, GUEST), (&db, DB)).context("by the policy")?;
    let before = dropped(&natbpf)?;
    ensure!(net.vm1.ping(DB).is_err(), "against the policy");
    ensure!(db.ping(GUEST).is_err(), "against the network's default");
    ensure!(dropped(&natbpf)? >= before + 2);
    Ok(())
}

#[test]
fn l6_2_without_ipv6_in_the_file_nothing_of_it_is_loaded() -> Result<()> {
    let net = world()?;
    let before = snapshot::take(&net.host)?;
    let mut natbpf = net.natbpf(&config_of_ipv4())?;
    for owner in ["wan", "lan"] {
        ensure!(hooks(&natbpf, owner)? == HOOKS_OF_IPV4);
    }
    ensure!(!has_pins(&natbpf)?);
    // A reload adds it, with everything that it needs, and another removes it.
    let talk = || net.vm1.ping(Ipv6::CLI);
    for _ in 0..2 {
        natbpf.reload(&config("", ""))?;
        for owner in ["wan", "lan"] {
            let hooks = hooks(&natbpf, owner)?;
            ensure!(
                hooks.iter().any(|hook| hook == "tc-ingress-ipv6"),
                "{hooks:?}"
            );
            ensure!(
                hooks.iter().any(|hook| hook == "tc-egress-ipv6"),
                "{hooks:?}"
            );
        }
        ensure!(has_pins(&natbpf)?);
        soon("a guest reaches the internet", || Ok(talk().is_ok()))?;
        natbpf.reload(&config_of_ipv4())?;
        for owner in ["wan", "lan"] {
            ensure!(hooks(&natbpf, owner)? == HOOKS_OF_IPV4);
        }
        ensure!(!has_pins(&natbpf)?);
    }
    natbpf.reload(&config("", ""))?;
    natbpf.down()?;
    net.host.set_sysctl("net.ipv4.ip_forward", "0")?;
    let after = snapshot::take(&net.host)?;
    ensure!(after == before, "{}", snapshot::difference(&before, &after));
    Ok(())
}

#[test]
fn sessions_of_ipv6_outlive_the_daemon_and_other_sizes() -> Result<()> {
    let net = world()?;
    let mut natbpf = net.natbpf(&config("", ""))?;
    let client = net.vm1.udp(&at(GUEST, 6000).to_string())?;
    let server = net.cli.udp(&at(Ipv6::CLI, 7000).to_string())?;
    exchange(&client, at(Ipv6::CLI, 7000), &server, b"question")?;
    let answered = |what: &str| -> Result<()> {
        server.send_to(b"later", at(GUEST, 6000))?;
        let heard = client.recv(&mut [0; 8]).map(drop);
        heard.with_context(|| format!("after {what}: the session is lost"))
    };
    natbpf.kill()?;
    answered("the daemon's death")?;
    natbpf.launch()?;
    answered("a takeover")?;
    let sized = |ipv4: u32, ipv6: u32| {
        config(
            "",
            &format!("[limits]\nsessions = {ipv4}\nsessions_ipv6 = {ipv6}\n"),
        )
    };
    for (ipv4, ipv6) in [(262_144, 1024), (1024, 1024), (2048, 4096)] {
        natbpf.reload(&sized(ipv4, ipv6))?;
        answered("a reload with other sizes")?;
    }
    natbpf.stop()?;
    natbpf.configure(&sized(4096, 2048))?;
    natbpf.launch()?;
    answered("a start with other sizes")?;
    // A guest that nobody has asked is still not reached.
    let stranger = net.srv2.udp(&at(Ipv6::SRV2, 7000).to_string())?;
    stranger.send_to(b"unsolicited", at(GUEST, 6000))?;
    ensure!(hears(&client)?.is_none());
    natbpf.down()
}

#[test]
fn n6_9_messages_of_the_link_leave_no_session_and_are_not_dropped() -> Result<()> {
    let net = world()?;
    let natbpf = net.natbpf(&config("", ""))?;
    let before = natbpf.stats()?["drops"].clone();
    let all_nodes: Ipv6Addr = "ff02::1".parse()?;
    let own: Ipv6Addr = "fe80::77".parse()?;
    for kind in [133, 134, 135, 136, 137, 143] {
        let message = icmp(own.octets(), all_nodes.octets(), [kind, 0, 0, 0, 0, 0]);
        let mut packet = message.payload(&[0; 16]).bytes();
        packet[ETHERNET + 7] = 255;
        net.inject_from_internet(&packet[ETHERNET..])?;
        net.inject_from_guest(&net.vm1, &packet[ETHERNET..])?;
        net.inject_from_host(&packet[ETHERNET..])?;
    }
    reaches((&net.vm1, GUEST), (&net.cli, Ipv6::CLI))?;
    let after = natbpf.stats()?["drops"].clone();
    ensure!(after == before, "{before} {after}");
    Ok(())
}

#[test]
fn reports_show_sessions_and_addresses_of_ipv6() -> Result<()> {
    let net = world()?;
    let natbpf = net.natbpf(&config("", ""))?;
    reaches((&net.vm1, GUEST), (&net.cli, Ipv6::CLI))?;
    net.vm2.ping(Ipv6::CLI)?;
    let found = |filter: &[&str]| natbpf.conntrack(filter);
    let remote = format!("[{}]:7000", Ipv6::CLI);
    let udp = found(&["--remote", &remote])?;
    ensure!(udp.len() == 1, "{udp:?}");
    ensure!(
        udp[0]["internal"] == json!({"address": GUEST, "port": 6000}),
        "{udp:?}"
    );
    ensure!(udp[0]["external"] == udp[0]["internal"] && udp[0]["state"] == "replied");
    ensure!(found(&["--protocol", "icmp"])?.len() == 1);
    ensure!(found(&["--internal", "2001:db8:0:101::/64"])?.len() == 2);
    ensure!(found(&["--internal", "0.0.0.0/0"])?.is_empty());
    let text = natbpf.cli(&["conntrack", "list"])?.expect_ok()?;
    ensure!(
        text.contains(&format!("[{GUEST}]:6000")) && text.contains("icmpv6"),
        "{text}"
    );
    let used = json!({"active": 2, "max": 65_536});
    ensure!(natbpf.stats()?["sessions_ipv6"] == used);
    let status = natbpf.status()?;
    ensure!(status["tables"]["sessions_ipv6"] == used, "{status}");
    let addresses = status["interfaces"][0]["addresses"].as_array();
    let addresses = addresses.context("no addresses")?;
    ensure!(
        *addresses == [json!(Proxmox::PUBLIC), json!(NET.public)],
        "{addresses:?}"
    );
    let flushed = ["conntrack", "flush", "--internal", "2001:db8:0:101::170"];
    let said = natbpf.cli(&flushed)?.expect_ok()?;
    ensure!(said.trim() == "1 sessions ended", "{said}");
    ensure!(found(&[])?.len() == 1);
    Ok(())
}
