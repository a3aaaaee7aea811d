//! Who may talk to whom: `[[policy]]`, and `policy` and `host` of networks.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::service::{self, Service};
use lab::topology::{Options, Proxmox};
use lab::{Host, Natbpf};
use serde_json::Value;
use tests::{Watch, at, exchange, hears};

/// The second network's guest, with an address that the provider routes to the VM host.
const DB: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 18);
/// A machine on an interface that natbpf knows nothing of.
const ADMIN: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 2);

/// Two closed networks, and what is let through.
const POLICIES: &str = r#"
[network.dmz]
interface = "dmz0"
address = "203.0.113.17/28"
policy = "drop"
host = "all"

[[snat]]
name = "lan-out"
network = "lan"
uplink = "wan"
to = "masquerade"

[[forward]]
name = "published"
uplink = "wan"
protocol = ["tcp", "udp"]
ports = "10000-10999"
to = "172.22.161.170"

[[policy]]
name = "lan-out"
from = "lan"
to = "wan"
action = "accept"

[[policy]]
name = "db-in"
from = "wan"
to = "203.0.113.18"
protocol = "tcp"
ports = 443
action = "accept"

[[policy]]
name = "lan-db"
from = "lan"
to = "dmz"
protocol = ["udp"]
ports = 53
action = "accept"

[[policy]]
name = "lan-db-ping"
from = "172.22.161.170"
to = "dmz"
protocol = "icmp"
action = "accept"
"#;

/// Scenario `proxmox` with a second network, and a machine elsewhere.
struct World {
    net: Proxmox,
    db: Host,
    admin: Host,
}

impl World {
    fn new() -> Result<Self> {
        let net = Proxmox::with(&Options {
            routed: vec!["203.0.113.16/28".to_owned()],
            ..Options::default()
        })?;
        let (db, admin) = (net.lab().host("db")?, net.lab().host("admin")?);
        net.lab().veth((&net.host, "dmz0"), (&db, "eth0"))?;
        net.lab().veth((&net.host, "adm0"), (&admin, "eth0"))?;
        net.host.ip("address add 10.8.0.1/24 dev adm0")?;
        db.ip("address add 203.0.113.18/28 dev eth0\nroute add default via 203.0.113.17")?;
        admin.ip("address add 10.8.0.2/24 dev eth0\nroute add default via 10.8.0.1")?;
        Ok(Self { net, db, admin })
    }

    /// The configuration: `lan` closed, with these lines, and [`POLICIES`].
    fn config(&self, lan: &str) -> String {
        let head = self.net.config_head();
        format!("{head}policy = \"drop\"\n{lan}\n{POLICIES}")
    }

    fn natbpf(&self) -> Result<Natbpf> {
        self.net.natbpf(&self.config(""))
    }
}

/// What curl's end says of a port: 28 without an answer, 7 if it is refused.
fn asked_for_a_page(client: &Host, address: Ipv4Addr, port: u16) -> Result<Option<i32>> {
    // A SYN goes out again after a second.
    let url = format!("http://{address}:{port}/");
    let said = client.run(["curl", "-sS", "-m", "2", &url])?;
    Ok(said.status.code())
}

/// Nobody answers by TCP.
fn refused(client: &Host, address: Ipv4Addr, port: u16) -> Result<()> {
    let code = asked_for_a_page(client, address, port)?;
    let name = client.name();
    ensure!(code == Some(28), "{name} asks {address}:{port}: {code:?}");
    Ok(())
}

/// A datagram does not arrive at `server`.
fn unheard(client: &Host, to: (Ipv4Addr, u16), server: &UdpSocket) -> Result<()> {
    let socket = client.udp("0.0.0.0:0")?;
    socket.send_to(b"knock", at(to.0, to.1))?;
    let heard = hears(server)?;
    ensure!(heard.is_none(), "{} is heard: {heard:?}", client.name());
    Ok(())
}

fn counted(natbpf: &Natbpf, kind: &str, name: &str, what: &str) -> Result<u64> {
    let stats = natbpf.stats()?;
    let rules = stats["rules"].as_array().context("rules")?.iter();
    let mut rules = rules.filter(|rule| rule["kind"] == kind && rule["name"] == name);
    let rule = rules
        .next()
        .with_context(|| format!("{kind} {name} in {stats}"))?;
    rule[what]
        .as_u64()
        .with_context(|| format!("{what} in {rule}"))
}

#[test]
fn accepted_flows_and_their_answers_pass() -> Result<()> {
    let world = World::new()?;
    let World { net, db, .. } = &world;
    let natbpf = world.natbpf()?;
    let watch = Watch::proxmox(net)?;
    let outside = Service::http(&net.cli, "198.51.100.2:80")?;
    let page = service::http_get(&net.vm1, at(Proxmox::CLI, 80))?;
    ensure!(page.starts_with("cli sees 19.19.8.10:"), "{page}");
    let _web = Service::http(db, "203.0.113.18:443")?;
    let page = service::http_get(&net.cli, at(DB, 443))?;
    ensure!(page.starts_with("db sees 198.51.100.2:"), "{page}");
    let names = db.udp("203.0.113.18:53")?;
    let guest = net.vm2.udp("0.0.0.0:4000")?;
    let seen = exchange(&guest, at(DB, 53), &names, b"who is it?")?;
    ensure!(seen == at(Proxmox::VM2, 4000), "{seen}");
    let _published = Service::http(&net.vm1, "172.22.161.170:10000")?;
    for client in [&net.cli, db] {
        let page = service::http_get(client, at(Proxmox::PUBLIC, 10000))?;
        ensure!(page.starts_with("vm1 sees "), "{page}");
    }
    // In fragments, too.
    for size in ["56", "4000"] {
        let said = net.vm1.check([
            "ping",
            "-n",
            "-c2",
            "-i0.2",
            "-W2",
            "-s",
            size,
            "203.0.113.18",
        ])?;
        ensure!(said.contains("2 received"), "{said}");
    }
    ensure!(outside.peers().len() == 1, "{:?}", outside.peers());
    ensure!(
        counted(&natbpf, "policy", "lan-out", "connections")? == 1,
        "counters"
    );
    ensure!(
        counted(&natbpf, "policy", "lan-db", "packets_out")? == 1,
        "counters"
    );
    ensure!(
        counted(&natbpf, "policy", "lan-db", "packets_in")? == 1,
        "counters"
    );
    ensure!(
        counted(&natbpf, "policy", "db-in", "packets_in")? > 3,
        "counters"
    );
    let sessions = natbpf.conntrack(&["--rule", "lan-db"])?;
    ensure!(sessions.len() == 1, "{sessions:?}");
    ensure!(
        sessions[0]["external"]["address"] == "172.22.161.171",
        "{sessions:?}"
    );
    watch.finish().map(drop)
}

#[test]
fn unaccepted_flows_are_dropped() -> Result<()> {
    let world = World::new()?;
    let World { net, db, admin } = &world;
    let natbpf = world.natbpf()?;
    let _services = [
        Service::http(&net.cli, "198.51.100.2:80")?,
        Service::http(db, "203.0.113.18:80")?,
        Service::http(&net.vm1, "172.22.161.170:80")?,
        Service::http(admin, "10.8.0.2:80")?,
    ];
    for (client, to) in [
        (db, Proxmox::CLI),
        (&net.cli, DB),
        (db, Proxmox::VM1),
        (&net.vm1, DB),
        (admin, Proxmox::VM1),
        (&net.vm1, ADMIN),
    ] {
        refused(client, to, 80)?;
    }
    let (at_db, at_vm1) = (db.udp("203.0.113.18:54")?, net.vm1.udp("0.0.0.0:54")?);
    unheard(&net.vm1, (DB, 54), &at_db)?;
    unheard(&net.cli, (DB, 54), &at_db)?;
    unheard(db, (Proxmox::VM1, 54), &at_vm1)?;
    for (client, to) in [(&net.vm2, "203.0.113.18"), (&net.cli, "203.0.113.18")] {
        let said = client.run(["ping", "-n", "-c1", "-W1", to])?;
        ensure!(!said.ok(), "{} pings {to}", client.name());
    }
    let drops = natbpf.stats()?["drops"]["policy"].as_u64();
    ensure!(drops > Some(8), "{drops:?}");
    ensure!(
        counted(&natbpf, "default", "lan", "packets_out")? > 0,
        "counters"
    );
    ensure!(
        counted(&natbpf, "default", "dmz", "packets_in")? > 0,
        "counters"
    );
    Ok(())
}

/// Whom an address is given to says nothing about who may use it: neither outside nor inside.
#[test]
fn an_address_of_a_closed_networks_guest_opens_nothing() -> Result<()> {
    const OWN: Ipv4Addr = Ipv4Addr::new(19, 19, 8, 78);
    let world = World::new()?;
    let World { net, db, .. } = &world;
    let nat = format!(
        "\n[[nat]]\nname = \"own\"\nuplink = \"wan\"\naddress = \"{OWN}\"\nto = \"{}\"\n",
        Proxmox::VM2
    );
    let natbpf = world.net.natbpf(&(world.config("") + &nat))?;
    let server = net.vm2.udp("0.0.0.0:54")?;
    for client in [&net.cli, &net.vm1, db] {
        unheard(client, (OWN, 54), &server)?;
    }
    let drops = natbpf.stats()?["drops"]["policy"].as_u64();
    ensure!(drops >= Some(3), "{drops:?}");
    Ok(())
}

#[test]
fn errors_about_accepted_flows_return() -> Result<()> {
    let world = World::new()?;
    let World { net, .. } = &world;
    let _natbpf = world.natbpf()?;
    let told = |client: &Host, to, port| -> Result<bool> {
        let socket = client.udp("0.0.0.0:0")?;
        client.enter(|| socket.connect(at(to, port)))??;
        socket.send(b"anybody there?")?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        let error = socket.recv(&mut [0; 16]).err();
        Ok(error.is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused))
    };
    ensure!(
        told(&net.vm1, DB, 53)?,
        "nobody listens at the port, and that must be said"
    );
    ensure!(told(&net.vm1, Proxmox::CLI, 5353)?, "the same outside");
    ensure!(!told(&net.vm1, DB, 54)?, "a port that nobody may ask");
    // A service that is not there: the guest's own kernel says so by a reset.
    ensure!(asked_for_a_page(&net.cli, DB, 443)? == Some(7), "a reset");
    Ok(())
}

#[test]
fn guests_reach_only_the_networks_services_of_the_host() -> Result<()> {
    let world = World::new()?;
    let World { net, db, .. } = &world;
    let natbpf = world.natbpf()?;
    let _ssh = Service::http(&net.host, "0.0.0.0:22")?;
    let names = net.host.udp("172.22.161.254:53")?;
    let gateway = Proxmox::GATEWAY.to_string();
    let ping = |guest: &Host| guest.run(["ping", "-n", "-c1", "-W1", &gateway]);
    // DHCP, names and pings, and nothing else, by any address.
    ensure!(ping(&net.vm1)?.ok(), "a ping");
    exchange(
        &net.vm1.udp("0.0.0.0:4000")?,
        at(Proxmox::GATEWAY, 53),
        &names,
        b"name?",
    )?;
    for address in [
        Proxmox::GATEWAY,
        Proxmox::PUBLIC,
        Ipv4Addr::new(10, 8, 0, 1),
    ] {
        refused(&net.vm1, address, 22)?;
    }
    // The other network says that the host is open; and outside it is the host's own affair.
    service::http_get(db, at(Ipv4Addr::new(203, 0, 113, 17), 22))?;
    service::http_get(&net.cli, at(Proxmox::PUBLIC, 22))?;
    // The host itself reaches its guests, and gets its answers.
    let _inner = Service::http(&net.vm1, "172.22.161.170:80")?;
    let page = service::http_get(&net.host, at(Proxmox::VM1, 80))?;
    ensure!(page.starts_with("vm1 sees 172.22.161.254:"), "{page}");
    let said = net
        .host
        .check(["ping", "-n", "-c1", "-W2", "172.22.161.171"])?;
    ensure!(said.contains("1 received"), "{said}");
    natbpf.reload(&world.config("host = [\"tcp/22\"]"))?;
    service::http_get(&net.vm1, at(Proxmox::GATEWAY, 22))?;
    ensure!(!ping(&net.vm1)?.ok(), "no ping any more");
    Ok(())
}

#[test]
fn a_reload_ends_only_sessions_that_it_forbids() -> Result<()> {
    let world = World::new()?;
    let World { net, db, .. } = &world;
    let natbpf = world.natbpf()?;
    let listener = db.tcp_listen("203.0.113.18:443")?;
    let mut client = net.cli.tcp(at(DB, 443))?;
    let (mut server, _) = listener.accept()?;
    let names = db.udp("203.0.113.18:53")?;
    let guest = net.vm1.udp("0.0.0.0:4000")?;
    exchange(&guest, at(DB, 53), &names, b"before")?;
    let mut says = |word: &[u8; 4]| -> Result<()> {
        client.write_all(word)?;
        let mut heard = [0; 4];
        server.read_exact(&mut heard)?;
        ensure!(heard == *word, "{heard:?}");
        Ok(())
    };
    says(b"one ")?;
    // Another size of the session table takes them all along.
    let resized = world.config("") + "[limits]\nsessions = 4096\n";
    natbpf.reload(&resized)?;
    says(b"two ")?;
    exchange(&guest, at(DB, 53), &names, b"resized")?;
    let without = resized.replace(
        "name = \"lan-db\"\nfrom = \"lan\"",
        "name = \"lan-db\"\nfrom = \"10.1.1.1\"",
    );
    ensure!(without != resized, "the policy is there");
    let said = natbpf.reload(&without)?;
    ensure!(said.contains("policy lan-db: changed"), "{said}");
    says(b"tri ")?;
    guest.send_to(b"after", at(DB, 53))?;
    ensure!(hears(&names)?.is_none(), "the guest may not ask any more");
    // Without policies all is as it was.
    let open = without.replace("policy = \"drop\"\n", "");
    let open = open.split("[[policy]]").next().context("a head")?;
    natbpf.reload(open)?;
    exchange(&guest, at(DB, 53), &names, b"open")?;
    says(b"four")
}

#[test]
fn untranslated_flows_take_the_fast_path_too() -> Result<()> {
    let world = World::new()?;
    let World { net, db, .. } = &world;
    let config = world
        .config("")
        .replace("ports = 443", "ports = [443, 5201]");
    let natbpf = net.natbpf(&config)?;
    let watch = Watch::proxmox(net)?;
    let _server = db.spawn(["iperf3", "-s", "-p", "5201"])?;
    let mut received = 0;
    for direction in ["-n 20M", "-n 20M -R"] {
        let words = format!("iperf3 --json -c {DB} -p 5201 --connect-timeout 1000 {direction}");
        let ask = || -> Result<Value> {
            let said = net.cli.run(words.split(' '))?.stdout;
            serde_json::from_str(&said).context(said)
        };
        // The server may still be starting.
        let mut report = ask()?;
        for _ in 0..20 {
            if report["error"].is_null() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
            report = ask()?;
        }
        let sum = report["end"]["sum_received"]["bytes"].as_u64();
        received += sum.with_context(|| format!("what was received: {report}"))?;
    }
    // All that has arrived was counted, and a header with each part of it. (What the sender still
    // has when iperf3 ends it throws away.)
    ensure!(received > 30_000_000, "{received} bytes arrived");
    let bytes = counted(&natbpf, "policy", "db-in", "bytes_in")?
        + counted(&natbpf, "policy", "db-in", "bytes_out")?;
    ensure!(bytes > received, "{bytes} bytes counted of {received}");
    watch.finish().map(drop)
}
