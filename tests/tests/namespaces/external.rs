//! External addresses that no interface holds: answered by ARP, or added to the uplink.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use lab::service::{self, Service};
use lab::topology::{Options, Proxmox};
use lab::{Host, Lab, Natbpf};
use serde_json::{Value, json};
use tests::{at, exchange, snapshot};

/// In the provider's subnet; the host holds none of them.
const WEB: Ipv4Addr = Ipv4Addr::new(19, 19, 8, 77);
const MAIL: Ipv4Addr = Ipv4Addr::new(19, 19, 8, 78);
/// The operator has put it on the uplink.
const HELD: Ipv4Addr = Ipv4Addr::new(19, 19, 8, 90);
/// The provider routes it to the host.
const ROUTED: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 16);

fn network() -> Result<Proxmox> {
    Proxmox::with(&Options {
        routed: vec![format!("{ROUTED}/32")],
        ..Options::default()
    })
}

fn forward(name: &str, address: Ipv4Addr, port: u16, to: Ipv4Addr) -> String {
    format!(
        "\n[[forward]]\nname = \"{name}\"\nuplink = \"wan\"\nprotocol = \"tcp\"\n\
         address = \"{address}\"\nports = {port}\nto = \"{to}\"\n"
    )
}

/// The external addresses of the uplink, as `natbpf status` has them.
fn external(natbpf: &Natbpf) -> Result<Value> {
    let status = natbpf.status()?;
    let interfaces = status["interfaces"].as_array().context("no interfaces")?;
    let uplink = interfaces.iter().find(|one| one["role"] == "uplink");
    Ok(uplink.context("no uplink")?["external"].clone())
}

fn held(first: Ipv4Addr, last: Ipv4Addr, held: &str) -> Value {
    json!({"first": first.to_string(), "last": last.to_string(), "held": held})
}

/// The addresses of the host's uplink, as `ip` shows them.
fn addresses(net: &Proxmox) -> Result<Vec<String>> {
    let said = net
        .host
        .check(["ip", "-4", "-o", "address", "show", "dev", net.uplink])?;
    // 3: vmbr0    inet 19.19.8.10/24 scope global vmbr0 …
    let text = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().skip(3).collect();
        let shown = words.split(|word| *word == "scope").next();
        shown.unwrap_or_default().join(" ")
    };
    Ok(said.lines().map(text).collect())
}

#[test]
fn o5_a_forward_of_an_unheld_address_is_reached() -> Result<()> {
    let net = network()?;
    let rules = forward("web", WEB, 80, Proxmox::VM1) + &forward("far", ROUTED, 80, Proxmox::VM2);
    let mut natbpf = net.natbpf(&(net.config() + &rules))?;
    let _first = Service::http(&net.vm1, "0.0.0.0:80")?;
    let _second = Service::http(&net.vm2, "0.0.0.0:80")?;
    for (address, guest) in [(WEB, "vm1"), (ROUTED, "vm2")] {
        for (client, seen) in [
            (&net.cli, Proxmox::CLI),
            (&net.isp, Proxmox::ISP),
            (&net.vm2, Proxmox::PUBLIC),
            (&net.host, Proxmox::GATEWAY),
        ] {
            let page = service::http_get(client, at(address, 80))
                .with_context(|| format!("{address} from {}", client.name()))?;
            let expected = format!("{guest} sees {seen}:");
            ensure!(page.starts_with(&expected), "{page}");
        }
    }
    // Nothing else is behind it, and no error is sent.
    let other = net.cli.tcp(at(WEB, 81));
    ensure!(other.is_err(), "{other:?}");
    let expected = json!([
        held(Proxmox::PUBLIC, Proxmox::PUBLIC, "host"),
        held(WEB, WEB, "arp"),
        held(ROUTED, ROUTED, "arp"),
    ]);
    let external = external(&natbpf)?;
    ensure!(external == expected, "{external}");
    let text = natbpf.cli(&["status"])?.expect_ok()?;
    let line = "external addresses that no interface holds, answered by ARP on vmbr0: 19.19.8.77, \
                203.0.113.16\n";
    ensure!(text.contains(line), "{text}");
    natbpf.stop()?;
    natbpf.down()?;
    net.isp.ip("neighbour flush dev wan0")?;
    let gone = net.isp.tcp(at(WEB, 80));
    ensure!(gone.is_err(), "answered after natbpf down");
    Ok(())
}

/// Rules that name addresses of every kind.
fn claiming(net: &Proxmox, claim: &str) -> String {
    let head = "interface = \"vmbr0\"\n";
    net.config()
        .replace(head, &format!("{head}claim = \"{claim}\"\n"))
        .replace("\"masquerade\"", "\"19.19.8.80-19.19.8.83\"")
        + &forward("web", WEB, 80, Proxmox::VM1)
        + &forward("held", HELD, 80, Proxmox::VM1)
        + &format!(
            "\n[[nat]]\nname = \"mail\"\nuplink = \"wan\"\naddress = \"{MAIL}\"\nto = \"{}\"\n",
            Proxmox::VM2
        )
}

/// The addresses of forwards, `[[nat]]` and the pool lead in and out.
fn works(net: &Proxmox, pool: [Ipv4Addr; 2]) -> Result<()> {
    let _web = Service::http(&net.vm1, "0.0.0.0:80")?;
    for address in [WEB, HELD] {
        let page = service::http_get(&net.cli, at(address, 80))?;
        ensure!(page.starts_with("vm1 sees 198.51.100.2:"), "{page}");
    }
    let server = net.cli.udp("198.51.100.2:7000")?;
    let seen = |guest: &Host| {
        let guest = guest.udp("0.0.0.0:0")?;
        exchange(&guest, at(Proxmox::CLI, 7000), &server, b"out")
    };
    let (mail, seen) = (seen(&net.vm2)?, seen(&net.vm1)?);
    ensure!(*mail.ip() == MAIL, "seen as {mail}");
    ensure!((pool[0]..=pool[1]).contains(seen.ip()), "seen as {seen}");
    Ok(())
}

#[test]
fn o5_addresses_are_added_to_the_uplink_and_removed_again() -> Result<()> {
    let net = network()?;
    net.host.ip(&format!("address add {HELD}/32 dev vmbr0"))?;
    let before = snapshot::take(&net.host)?;
    let mut natbpf = net.natbpf(&claiming(&net, "add"))?;
    let mut expected: Vec<String> = ["19.19.8.10/24", "19.19.8.90/32"].map(str::to_owned).into();
    expected.extend([77, 78, 80, 81, 82, 83].map(|last| format!("19.19.8.{last}/32")));
    expected.sort();
    let mut found = addresses(&net)?;
    found.sort();
    ensure!(found == expected, "{found:?}");
    let pool = [80, 83].map(|last| Ipv4Addr::new(19, 19, 8, last));
    let table = json!([
        held(Proxmox::PUBLIC, Proxmox::PUBLIC, "host"),
        held(WEB, MAIL, "added"),
        held(pool[0], pool[1], "added"),
        held(HELD, HELD, "host"),
    ]);
    ensure!(external(&natbpf)? == table, "{}", external(&natbpf)?);
    works(&net, pool)?;
    // An added address is the host's: it answers packets that no rule takes. A rule without an
    // address is about the interface's own ones.
    let _own = Service::http(&net.host, "0.0.0.0:10000")?;
    let page = service::http_get(&net.cli, at(WEB, 10000))?;
    ensure!(page.starts_with("host sees 198.51.100.2:"), "{page}");
    let _forwarded = Service::http(&net.vm1, "0.0.0.0:10000")?;
    let page = service::http_get(&net.cli, at(Proxmox::PUBLIC, 10000))?;
    ensure!(page.starts_with("vm1 sees 198.51.100.2:"), "{page}");
    // They stay when the daemon comes again, go with a reload, and come with another.
    natbpf.kill()?;
    natbpf.launch()?;
    ensure!(external(&natbpf)? == table, "{}", external(&natbpf)?);
    natbpf.reload(&claiming(&net, "arp"))?;
    ensure!(
        addresses(&net)? == ["19.19.8.10/24", "19.19.8.90/32"],
        "{:?}",
        addresses(&net)?
    );
    works(&net, pool)?;
    natbpf.reload(&claiming(&net, "add"))?;
    ensure!(external(&natbpf)? == table, "{}", external(&natbpf)?);
    works(&net, pool)?;
    natbpf.stop()?;
    natbpf.down()?;
    let after = snapshot::take(&net.host)?;
    let difference = snapshot::difference(&before, &after);
    ensure!(difference.is_empty(), "{difference}");
    Ok(())
}

#[test]
fn an_address_that_comes_and_goes_by_others_is_added_only_while_it_is_missing() -> Result<()> {
    let net = network()?;
    let natbpf = net.natbpf(&claiming(&net, "add"))?;
    let is_so = |wanted: Value| -> Result<()> {
        let deadline = std::time::Instant::now() + lab::patience::patience(SOON);
        while !external(&natbpf)?
            .as_array()
            .is_some_and(|all| all.contains(&wanted))
        {
            ensure!(
                std::time::Instant::now() < deadline,
                "no {wanted}: {}",
                external(&natbpf)?
            );
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        Ok(())
    };
    is_so(held(HELD, HELD, "added"))?;
    net.host.ip(&format!("address add {HELD}/24 dev vmbr0"))?;
    is_so(held(HELD, HELD, "host"))?;
    let shown = addresses(&net)?;
    ensure!(
        shown.contains(&format!("{HELD}/24")) && !shown.contains(&format!("{HELD}/32")),
        "{shown:?}"
    );
    net.host.ip(&format!("address del {HELD}/24 dev vmbr0"))?;
    is_so(held(HELD, HELD, "added"))
}

const SOON: std::time::Duration = std::time::Duration::from_secs(10);

/// Two networks behind one uplink, each with its own external address.
#[test]
fn m1_two_networks_have_an_external_address_each() -> Result<()> {
    let lab = Lab::new()?;
    let (host, out) = (lab.vm_host("host")?, lab.host("out")?);
    lab.veth((&host, "eth0"), (&out, "eth0"))?;
    host.ip(
        "address add 19.19.8.10/24 dev eth0\naddress add 19.19.8.11/24 dev eth0\n\
             route add default via 19.19.8.1",
    )?;
    out.ip("address add 19.19.8.1/24 dev eth0")?;
    let mut guests = Vec::new();
    for (number, name) in ["red", "blue"].iter().enumerate() {
        let guest = lab.host(name)?;
        lab.veth((&host, name), (&guest, "eth0"))?;
        host.ip(&format!("address add 10.{number}.0.1/24 dev {name}"))?;
        guest.ip(&format!(
            "address add 10.{number}.0.2/24 dev eth0\nroute add default via 10.{number}.0.1"
        ))?;
        guests.push(guest);
    }
    let config = r#"
[uplink.wan]
interface = "eth0"

[network.red]
interface = "red"
address = "10.0.0.1/24"

[network.blue]
interface = "blue"
address = "10.1.0.1/24"

[[snat]]
network = "red"
uplink = "wan"
to = "19.19.8.11"

[[snat]]
network = "blue"
uplink = "wan"
to = "19.19.8.12"
"#;
    let natbpf = Natbpf::start(&host, lab.place(), config)?;
    let server = out.udp("19.19.8.1:7000")?;
    let _web = Service::http(&out, "19.19.8.1:80")?;
    // The host holds one, and the other is unheld.
    for (guest, external) in guests.iter().zip([11, 12]) {
        let external = Ipv4Addr::new(19, 19, 8, external);
        let socket = guest.udp("0.0.0.0:5000")?;
        let seen = exchange(&socket, at(Proxmox::ISP, 7000), &server, b"out")?;
        ensure!(seen == at(external, 5000), "seen as {seen}");
        let page = service::http_get(guest, at(Proxmox::ISP, 80))?;
        ensure!(page.starts_with(&format!("out sees {external}:")), "{page}");
        guest.check(["ping", "-n", "-c1", "-W2", "19.19.8.1"])?;
    }
    let stats = natbpf.stats()?;
    let connections = |rule: usize| stats["rules"][rule]["connections"].clone();
    ensure!(
        connections(0) == 3 && connections(1) == 3,
        "each by its own rule: {stats}"
    );
    Ok(())
}
