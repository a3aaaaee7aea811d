//! Guests that hold public addresses themselves (`[[route]]`), as scenario `hetzner` has them.

mod hosts;

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hosts::{FIRST, HOST, Hetzner, LAST, OUT, Provider, SINGLE};
use kit::craft::Ip;
use lab::patience::patience;
use lab::service::{self, Service};
use lab::{Capture, Host, Natbpf};
use tests::{Load, at, exchange, hears, snapshot};

/// The daemon follows a change within a tenth of a second, once the kernel lets it: the removal of
/// another test's namespace with hundreds of interfaces holds the kernel's lock of all routes and
/// interfaces (`rtnl_mutex`) for up to four seconds.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(10);

/// Exchanges datagrams, and says from where the server must have seen them.
fn reaches(
    (client, from): (&Host, Ipv4Addr),
    (server, to): (&Host, Ipv4Addr),
    seen_as: Ipv4Addr,
) -> Result<()> {
    let client_socket = client.udp(&format!("{from}:6000"))?;
    let server_socket = server.udp("0.0.0.0:7000")?;
    let seen = exchange(&client_socket, at(to, 7000), &server_socket, b"hello")
        .with_context(|| format!("{from} on {} to {to}", client.name()))?;
    ensure!(
        *seen.ip() == seen_as && (seen_as == HOST || seen.port() == 6000),
        "{to} has seen {from} as {seen}, not as {seen_as}"
    );
    Ok(())
}

/// What the provider's port lets in: frames of one Ethernet address, and no private IP address.
fn is_clean(net: &Hetzner, wire: Capture) -> Result<()> {
    let own = net.host.mac("eth0")?;
    let mut count = 0;
    for frame in wire.stop().into_iter().filter(|frame| !frame.outgoing) {
        ensure!(
            frame.bytes[6..12] == own,
            "a frame of another than the host: {:02x?}",
            &frame.bytes[..14]
        );
        if let Some(packet) = frame.packet() {
            frame.checksums()?;
            ensure!(packet.source.octets()[0] == 123, "on the wire: {packet}");
            count += 1;
        }
    }
    ensure!(count > 0, "nothing was sent to the provider");
    Ok(())
}

#[test]
fn routed_guests_reach_all_and_are_reached_by_their_own_addresses() -> Result<()> {
    let net = Hetzner::new(Provider::Routes)?;
    let _natbpf = net.natbpf(Hetzner::CONFIG)?;
    let wire = net.wire()?;
    let guests = [(&net.vm112, FIRST), (&net.vm119, LAST), (&net.vm11, SINGLE)];
    for (guest, address) in guests {
        let ping = |to: &str| ["ping", "-n", "-c1", "-W2", to].map(str::to_owned);
        guest.check(ping("123.45.12.48")).context("the host")?;
        guest.check(ping("198.51.100.2")).context("the internet")?;
        reaches((guest, address), (&net.out, OUT), address)?;
        reaches((&net.out, OUT), (guest, address), OUT)?;
        reaches((&net.host, HOST), (guest, address), HOST)?;
        for (other, to) in guests.into_iter().filter(|(_, to)| *to != address) {
            reaches((guest, address), (other, to), address)?;
        }
    }
    // Nobody has told the host by which address to speak to them.
    let _web = Service::http(&net.vm112, "0.0.0.0:80")?;
    for (client, seen) in [(&net.host, HOST), (&net.out, OUT), (&net.vm11, SINGLE)] {
        let page = service::http_get(client, at(FIRST, 80))?;
        ensure!(page.starts_with(&format!("vm112 sees {seen}:")), "{page}");
    }
    is_clean(&net, wire)
}

#[test]
fn private_addresses_on_the_same_bridge_are_translated() -> Result<()> {
    let net = Hetzner::new(Provider::Routes)?;
    // A rule that covers everything does not cover routed addresses.
    let config = Hetzner::CONFIG.replace("172.30.0.0/16", "0.0.0.0/0");
    for config in [Hetzner::CONFIG, &config] {
        let natbpf = net.natbpf(config)?;
        // The bridges are new ones, with other Ethernet addresses.
        net.vm112.ip("neigh flush dev eth0")?;
        net.vm119.ip("neigh flush dev eth0")?;
        let wire = net.wire()?;
        let private = Ipv4Addr::new(172, 30, 112, 10);
        reaches((&net.vm112, private), (&net.out, OUT), HOST)?;
        reaches((&net.vm112, FIRST), (&net.out, OUT), FIRST)?;
        reaches((&net.vm112, private), (&net.vm119, LAST), private)?;
        let sessions = natbpf.conntrack(&[])?;
        ensure!(sessions.len() == 1, "{sessions:?}");
        is_clean(&net, wire)?;
    }
    Ok(())
}

#[test]
fn packets_with_a_forged_source_do_not_leave() -> Result<()> {
    let net = Hetzner::new(Provider::Routes)?;
    let natbpf = net.natbpf(Hetzner::CONFIG)?;
    let server = net.out.udp(&format!("{OUT}:7000"))?;
    let neighbour = net.vm11.udp(&format!("{SINGLE}:7000"))?;
    let foreign = [
        LAST,
        SINGLE,
        HOST,
        OUT,
        Ipv4Addr::new(172, 30, 119, 10),
        Ipv4Addr::new(8, 8, 8, 8),
    ];
    for source in foreign {
        for to in [OUT, SINGLE].into_iter().filter(|to| *to != source) {
            let packet = Ip::new(source, to).udp(6000, 7000, b"not mine")?;
            net.inject(&net.vm112, "br112", &packet)?;
        }
    }
    for socket in [&server, &neighbour] {
        let heard = hears(socket)?;
        ensure!(heard.is_none(), "delivered: {heard:?}");
    }
    // It was the source that did not fit.
    let packet = Ip::new(FIRST, OUT).udp(6000, 7000, b"mine")?;
    net.inject(&net.vm112, "br112", &packet)?;
    ensure!(hears(&server)?.is_some(), "its own address does not leave");
    let stats = natbpf.stats()?;
    ensure!(stats["drops"]["spoofed"] == 10, "{stats}");
    Ok(())
}

#[test]
fn routed_guests_reach_forwards() -> Result<()> {
    let net = Hetzner::new(Provider::Routes)?;
    let forward = "[[forward]]\nname = \"web\"\nuplink = \"wan\"\nprotocol = \"tcp\"\nports = \
                   8080\n\
                   to = \"123.45.53.11\"\nto_ports = 80\n";
    let natbpf = net.natbpf(&format!("{}{forward}", Hetzner::CONFIG))?;
    ensure!(
        !natbpf.log().contains("is in no [network]"),
        "{}",
        natbpf.log()
    );
    let _web = Service::http(&net.vm11, "0.0.0.0:80")?;
    let page = service::http_get(&net.out, at(HOST, 8080))?;
    ensure!(page.starts_with("vm11 sees 198.51.100.2:"), "{page}");
    for client in [&net.vm112, &net.vm11, &net.host] {
        let page = service::http_get(client, at(HOST, 8080))
            .with_context(|| format!("from {}", client.name()))?;
        ensure!(page.starts_with("vm11 sees 123.45.12.48:"), "{page}");
    }
    Ok(())
}

#[test]
fn a_host_that_answers_for_addresses_of_the_interface_alone_has_the_gateway_there() -> Result<()> {
    let net = Hetzner::new(Provider::Routes)?;
    net.host.set_sysctl("net.ipv4.conf.all.arp_ignore", "1")?;
    net.host.set_sysctl("net.ipv4.conf.all.rp_filter", "1")?;
    let before = snapshot::take(&net.host)?;
    let natbpf = net.natbpf(Hetzner::CONFIG)?;
    let ping = ["ping", "-n", "-c1", "-W1", "198.51.100.2"];
    ensure!(!net.vm112.run(ping)?.ok(), "the test's host is not strict");
    let gateway = "addresses = \"{public}\"\ngateway = \"123.45.12.48\"";
    natbpf.reload(&Hetzner::CONFIG.replace("addresses = \"{public}\"", gateway))?;
    net.vm112.check(ping)?;
    reaches((&net.vm112, FIRST), (&net.vm119, LAST), FIRST)?;
    reaches(
        (&net.vm112, Ipv4Addr::new(172, 30, 112, 10)),
        (&net.out, OUT),
        HOST,
    )?;
    leaves_nothing(&net, natbpf, &before)
}

fn leaves_nothing(net: &Hetzner, mut natbpf: lab::Natbpf, before: &[String]) -> Result<()> {
    natbpf.down()?;
    let after = snapshot::take(&net.host)?;
    ensure!(after == before, "{}", snapshot::difference(before, &after));
    Ok(())
}

#[test]
fn guests_with_the_subnets_mask_find_each_other_by_proxy_arp() -> Result<()> {
    let net = Hetzner::new(Provider::Routes)?;
    let before = snapshot::take(&net.host)?;
    // The kernel takes the ends of a subnet for broadcast addresses, so the guests have others.
    for (guest, number) in [(&net.vm112, 113), (&net.vm119, 118)] {
        guest.ip(&format!(
            "address flush dev eth0\naddress add 123.45.90.{number}/29 dev eth0\n\
             route add {HOST} dev eth0\nroute add default via {HOST}"
        ))?;
    }
    let config = |proxy: bool| {
        format!(
            "[uplink.wan]\ninterface = \"eth0\"\n\
             [[template]]\nfor = {{ n = [112, 119], public = [113, 118] }}\n\
             [template.network.\"br{{n}}\"]\ninterface = \"br{{n}}\"\naddress = \
             \"172.30.{{n}}.1/24\"\n\
             create = true\nports = \"tap{{n}}\"\n\
             [[template.route]]\nnetwork = \"br{{n}}\"\naddresses = \"123.45.90.{{public}}\"\n\
             proxy_arp = {proxy}\n"
        )
    };
    let natbpf = net.natbpf(&config(false))?;
    let ping = ["ping", "-n", "-c1", "-W1", "123.45.90.118"];
    ensure!(!net.vm112.run(ping)?.ok(), "they find each other anyway");
    natbpf.reload(&config(true))?;
    let (one, other) = (
        Ipv4Addr::new(123, 45, 90, 113),
        Ipv4Addr::new(123, 45, 90, 118),
    );
    reaches((&net.vm112, one), (&net.vm119, other), one)?;
    reaches((&net.vm119, other), (&net.vm112, one), other)?;
    reaches((&net.vm112, one), (&net.out, OUT), one)?;
    let bridge = net.host.mac("br112")?;
    ensure!(
        who_has(&net.vm112, other)? == Some(bridge),
        "another than the host answers"
    );
    // Nobody is answered for on the bridge that the address is behind.
    for own in [one, Ipv4Addr::new(172, 30, 112, 77)] {
        ensure!(who_has(&net.vm112, own)?.is_none(), "the host claims {own}");
    }
    leaves_nothing(&net, natbpf, &before)
}

/// Probes an address by ARP, like a host without one.
fn who_has(guest: &Host, address: Ipv4Addr) -> Result<Option<[u8; 6]>> {
    let own = guest.mac("eth0")?;
    let wire = guest.capture("eth0")?;
    let (broadcast, sender) = ([0xff; 6], [123, 45, 90, 116]);
    let head = [0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1];
    let parts: [&[u8]; 7] = [
        &broadcast,
        &own,
        &head,
        &own,
        &sender,
        &[0; 6],
        &address.octets(),
    ];
    guest.inject("eth0", &parts.concat())?;
    thread::sleep(Duration::from_millis(500));
    let frames = wire.stop().into_iter();
    let answers = frames.filter(|frame| {
        let arp = frame.bytes.get(12..42).unwrap_or_default();
        arp.starts_with(&[0x08, 0x06]) && arp[9] == 2 && arp[16..20] == address.octets()
    });
    let mut macs = answers.filter_map(|frame| frame.bytes[22..28].try_into().ok());
    Ok(macs.next())
}

#[test]
fn a_providers_arp_request_gets_the_hosts_address() -> Result<()> {
    let net = Hetzner::new(Provider::Asks)?;
    let before = snapshot::take(&net.host)?;
    let natbpf = net.natbpf(Hetzner::CONFIG)?;
    let ping = ["ping", "-n", "-c1", "-W1", "123.45.90.112"];
    ensure!(!net.out.run(ping)?.ok(), "reached without an answer by ARP");
    let wire = net.wire()?;
    let arp = "addresses = \"{public}\"\narp = true";
    natbpf.reload(&Hetzner::CONFIG.replace("addresses = \"{public}\"", arp))?;
    for (guest, address) in [(&net.vm112, FIRST), (&net.vm119, LAST), (&net.vm11, SINGLE)] {
        reaches((&net.out, OUT), (guest, address), OUT)?;
        reaches((guest, address), (&net.out, OUT), address)?;
    }
    let known = net.gw.check(["ip", "neigh", "show", "dev", "wan0"])?;
    let own = net
        .host
        .mac("eth0")?
        .map(|byte| format!("{byte:02x}"))
        .join(":");
    for address in [FIRST, LAST, SINGLE] {
        let line = format!("{address} lladdr {own}");
        ensure!(known.contains(&line), "{line} is not in\n{known}");
    }
    is_clean(&net, wire)?;
    leaves_nothing(&net, natbpf, &before)
}

#[test]
fn routes_come_and_go_with_reloads_and_cost_others_nothing() -> Result<()> {
    let net = Hetzner::new(Provider::Routes)?;
    let before = snapshot::take(&net.host)?;
    let only = |lists: &str| {
        let all = "n = [\"112-119\", \"11-13\"], public = [\"123.45.90.112/29\", \
            \"123.45.53.11-123.45.53.13\"]";
        Hetzner::CONFIG.replace(all, lists)
    };
    let with = Hetzner::CONFIG.to_owned();
    // vm11 keeps its bridge and loses its address.
    let without = format!(
        "{}[network.br11]\ninterface = \"br11\"\naddress = \"172.30.11.1/24\"\ncreate = true\n\
         ports = \"tap11\"\n",
        only(
            "n = [\"112-119\", \"12-13\"], public = [\"123.45.90.112/29\", \
             \"123.45.53.12-123.45.53.13\"]"
        )
    );
    let natbpf = net.natbpf(&with)?;
    net.vm112
        .ip("route replace default via 123.45.12.48 src 172.30.112.10")?;
    let routed = Load::start(&net.vm119, at(OUT, 7100), &net.out, 7100)?;
    let translated = Load::start(&net.vm112, at(OUT, 7200), &net.out, 7200)?;
    let ping = ["ping", "-n", "-c1", "-W1", "123.45.53.11"];
    for _ in 0..5 {
        net.out.check(ping)?;
        let said = natbpf.reload(&without)?;
        ensure!(said.contains("route public11: removed"), "{said}");
        ensure!(!net.out.run(ping)?.ok(), "still routed");
        let said = natbpf.reload(&with)?;
        ensure!(said.contains("route public11: added"), "{said}");
    }
    let (seen, _) = routed.finish().context("a routed guest's")?;
    ensure!(seen.ip() == LAST, "{seen}");
    let (seen, _) = translated.finish().context("a translated guest's")?;
    ensure!(seen.ip() == HOST, "{seen}");
    leaves_nothing(&net, natbpf, &before)
}

#[test]
fn routes_outlive_the_daemon_and_come_back_with_their_bridge() -> Result<()> {
    let net = Hetzner::new(Provider::Routes)?;
    let before = snapshot::take(&net.host)?;
    let mut natbpf = net.natbpf(Hetzner::CONFIG)?;
    natbpf.kill()?;
    reaches((&net.vm112, FIRST), (&net.out, OUT), FIRST)?;
    natbpf.launch()?;
    reaches((&net.vm112, FIRST), (&net.out, OUT), FIRST)?;
    net.host.ip("link del br112")?;
    comes_back(&net, &natbpf)?;
    net.host.ip("link set br112 down\nlink set br112 up")?;
    comes_back(&net, &natbpf)?;
    net.host.ip("route del 123.45.90.112")?;
    comes_back(&net, &natbpf)?;
    // The address that the host's own packets bear changes, and the kernel drops the route.
    net.host.ip(&format!(
        "address add 123.45.12.49/32 dev eth0\naddress del {HOST}/32 dev eth0"
    ))?;
    net.host
        .ip("route replace 123.45.12.1 dev eth0\nroute replace default via 123.45.12.1")?;
    let deadline = Instant::now() + patience(FOLLOWED_WITHIN);
    while !net
        .host
        .check(["ip", "route", "show", "123.45.90.112"])?
        .contains("src 123.45.12.49")
    {
        ensure!(Instant::now() < deadline, "the source has not followed");
        thread::sleep(Duration::from_millis(50));
    }
    net.host.ip(&format!(
        "address add {HOST}/32 dev eth0\naddress del 123.45.12.49/32 dev eth0"
    ))?;
    net.host
        .ip("route replace 123.45.12.1 dev eth0\nroute replace default via 123.45.12.1")?;
    comes_back(&net, &natbpf)?;
    leaves_nothing(&net, natbpf, &before)
}

fn comes_back(net: &Hetzner, natbpf: &Natbpf) -> Result<()> {
    let deadline = Instant::now() + patience(FOLLOWED_WITHIN);
    let ping = [
        "ping",
        "-n",
        "-c1",
        "-W1",
        "-I",
        "123.45.90.112",
        "198.51.100.2",
    ];
    while !net.vm112.run(ping)?.ok() {
        if Instant::now() < deadline {
            continue;
        }
        let routes = net.host.run(["ip", "-d", "route"])?.stdout;
        let neighbours = net.host.run(["ip", "neigh"])?.stdout;
        let said = natbpf.log();
        bail!("the guest is not reached again\n{routes}{neighbours}{said}");
    }
    reaches((&net.vm112, FIRST), (&net.out, OUT), FIRST)
}

#[test]
fn an_address_that_is_the_hosts_or_routed_elsewhere_is_refused() -> Result<()> {
    let net = Hetzner::new(Provider::Routes)?;
    let natbpf = net.natbpf(Hetzner::CONFIG)?;
    let refused = |config: &str| -> Result<String> {
        natbpf.configure(config)?;
        let said = natbpf.cli(&["reload"])?;
        ensure!(!said.ok(), "not refused");
        Ok(said.stderr)
    };
    let more = |address: &str| {
        format!(
            "{}[[route]]\nname = \"more\"\nnetwork = \"br112\"\naddresses = \"{address}\"\n",
            Hetzner::CONFIG
        )
    };
    net.host.ip("address add 123.45.12.49/32 dev eth0")?;
    let said = refused(&more("123.45.12.49"))?;
    ensure!(
        said.contains(
            "natbpf.toml:28:13: route.more.addresses: 123.45.12.49 is the host's own address, on \
             eth0; remove it from eth0"
        ),
        "{said}"
    );
    net.host.ip("route add 203.0.113.7 dev tap11")?;
    let said = refused(&more("203.0.113.7"))?;
    ensure!(
        said.contains(
            "route.more.addresses: the host already has a route to 203.0.113.7/32 by tap11; \
             remove it (ip route del 203.0.113.7/32)"
        ),
        "{said}"
    );
    let route = net.host.check(["ip", "route", "show", "203.0.113.7"])?;
    ensure!(route.contains("dev tap11"), "{route}");
    reaches((&net.vm112, FIRST), (&net.out, OUT), FIRST)
}

/// A bridge, a private network and a public address for each of 200 guests, in 23 lines.
const MANY: &str = r#"
[uplink.wan]
interface = "eth0"

[[template]]
for = { n = "1-200", public = "203.0.113.0-203.0.113.199" }

[template.network."br{n}"]
interface = "br{n}"
address = "10.77.{n}.1/24"
create = true
ports = "tap{n}"

[[template.route]]
name = "guest{n}"
network = "br{n}"
addresses = "{public}"

[[template.snat]]
name = "private{n}"
network = "br{n}"
uplink = "wan"
to = "masquerade"
"#;

#[test]
fn two_hundred_guests_have_a_bridge_each_from_one_template() -> Result<()> {
    let net = Hetzner::new(Provider::Routes)?;
    net.gw.ip("route add 203.0.113.0/24 via 123.45.12.48")?;
    let guests = [(&net.vm112, 112), (&net.vm119, 119), (&net.vm11, 11)];
    for (guest, number) in guests {
        guest.ip(&format!(
            "address add 203.0.113.{0}/32 dev eth0\naddress add 10.77.{number}.10/24 dev eth0\n\
             route replace default via {HOST} src 203.0.113.{0}",
            number - 1
        ))?;
    }
    let before = snapshot::take(&net.host)?;
    let begun = Instant::now();
    let natbpf = net.natbpf(MANY)?;
    println!("200 guests are served after {:?}", begun.elapsed());
    let bridges = || -> Result<usize> {
        let said = net
            .host
            .check(["ip", "-o", "link", "show", "type", "bridge"])?;
        Ok(said.lines().count())
    };
    ensure!(bridges()? == 200, "{} bridges", bridges()?);
    for (guest, number) in guests {
        let public = Ipv4Addr::new(203, 0, 113, number - 1);
        reaches((guest, public), (&net.out, OUT), public)?;
        reaches((&net.out, OUT), (guest, public), OUT)?;
        reaches(
            (guest, Ipv4Addr::new(10, 77, number, 10)),
            (&net.out, OUT),
            HOST,
        )?;
    }
    let stats = natbpf.stats()?;
    let rules = stats["rules"].as_array().context("no rules")?;
    ensure!(rules.len() == 200, "{} rules", rules.len());
    for number in [112, 119, 11] {
        let name = format!("private{number}");
        let rule = rules.iter().find(|rule| rule["name"] == name.as_str());
        ensure!(
            rule.is_some_and(|rule| rule["connections"] == 1),
            "{rule:?}"
        );
    }
    let begun = Instant::now();
    let half = MANY.replace("1-200", "1-100").replace("113.199", "113.99");
    natbpf.reload(&half)?;
    println!("a hundred are gone after {:?}", begun.elapsed());
    ensure!(bridges()? == 100, "{} bridges", bridges()?);
    let begun = Instant::now();
    natbpf.reload(MANY)?;
    println!("and back after {:?}", begun.elapsed());
    // Its bridge is a new one, with another Ethernet address.
    net.vm119.ip("neigh flush dev eth0")?;
    let public = Ipv4Addr::new(203, 0, 113, 118);
    reaches((&net.vm119, public), (&net.out, OUT), public)?;
    let begun = Instant::now();
    leaves_nothing(&net, natbpf, &before)?;
    println!("all are gone after {:?}", begun.elapsed());
    Ok(())
}
