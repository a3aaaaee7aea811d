//! The daemon and its commands, on a host with packets.

use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::Natbpf;
use lab::topology::{Inside, Options, Proxmox, Uplink};
use serde_json::{Value, json};
use tests::snapshot;
use tests::{at, deliver, exchange, hears};

/// The counters of a rule.
fn rule<'a>(stats: &'a Value, name: &str) -> Result<&'a Value> {
    let rules = stats["rules"].as_array().context("no rules")?;
    rules
        .iter()
        .find(|rule| rule["name"] == name)
        .with_context(|| format!("no {name} in {stats}"))
}

#[test]
fn stats_count_sent_packets_exactly() -> Result<()> {
    let net = Proxmox::new()?;
    let natbpf = net.natbpf(&net.config())?;
    let server = net.cli.udp("198.51.100.2:7000")?;
    let guest = net.vm1.udp("0.0.0.0:5000")?;
    for _ in 0..100 {
        exchange(&guest, at(Proxmox::CLI, 7000), &server, &[1; 72])?;
    }
    for _ in 0..50 {
        deliver(&guest, at(Proxmox::CLI, 7000), &server, &[2; 22])?;
    }
    let service = net.vm2.udp("0.0.0.0:10000")?;
    for port in 8000..8010 {
        let client = net.cli.udp(&at(Proxmox::CLI, port).to_string())?;
        exchange(&client, at(Proxmox::PUBLIC, 10000), &service, &[3; 172])?;
    }
    exchange(&guest, at(Proxmox::PUBLIC, 10000), &service, &[4; 272])?;
    net.cli
        .check(["ping", "-n", "-c3", "-i0.2", "-s28", "-W2", "19.19.8.10"])?;

    let stats = natbpf.stats()?;
    // An IPv4 and a UDP or ICMP header are 28 bytes.
    for (name, kind, packets_in, bytes_in, packets_out, bytes_out, connections) in [
        (
            "lan-out",
            "snat",
            100,
            100 * 100,
            150,
            100 * 100 + 50 * 50,
            1,
        ),
        (
            "vm2-udp",
            "forward",
            11,
            10 * 200 + 300,
            11,
            10 * 200 + 300,
            11,
        ),
        ("vm1-ping", "forward", 3, 3 * 56, 3, 3 * 56, 1),
        ("vm1-tcp", "forward", 0, 0, 0, 0, 0),
    ] {
        let should = json!({
            "name": name, "kind": kind, "packets_in": packets_in, "bytes_in": bytes_in,
            "packets_out": packets_out, "bytes_out": bytes_out, "connections": connections,
            "active": connections,
        });
        let is = rule(&stats, name)?;
        for (key, value) in should.as_object().context("an object")? {
            ensure!(
                is[key] == *value,
                "{name}: {key} is {}, should be {value}: {is}",
                is[key]
            );
        }
    }
    ensure!(stats["sessions"]["active"] == 13, "{}", stats["sessions"]);
    ensure!(stats["sessions"]["max"] == 262_144, "{}", stats["sessions"]);
    Ok(())
}

#[test]
fn conntrack_lists_the_sessions() -> Result<()> {
    let net = Proxmox::new()?;
    let natbpf = net.natbpf(&net.config())?;
    let server = net.cli.udp("198.51.100.2:7000")?;
    exchange(
        &net.vm1.udp("0.0.0.0:5000")?,
        at(Proxmox::CLI, 7000),
        &server,
        b"out",
    )?;
    let service = net.vm2.udp("0.0.0.0:10000")?;
    exchange(&server, at(Proxmox::PUBLIC, 10000), &service, b"in")?;
    net.vm1
        .check(["ping", "-n", "-c1", "-W2", "-e4242", "198.51.100.3"])?;

    let sessions = natbpf.conntrack(&[])?;
    ensure!(sessions.len() == 3, "{sessions:?}");
    for (protocol, internal, external, remote, rule) in [
        (
            "udp",
            (Proxmox::VM1, 5000),
            5000,
            (Proxmox::CLI, 7000),
            "lan-out",
        ),
        (
            "udp",
            (Proxmox::VM2, 10000),
            10000,
            (Proxmox::CLI, 7000),
            "vm2-udp",
        ),
        (
            "icmp",
            (Proxmox::VM1, 4242),
            4242,
            (Proxmox::CLI_B, 4242),
            "lan-out",
        ),
    ] {
        let end = |(address, port): (Ipv4Addr, u16)| {
            let address = address.to_string();
            json!({"address": address, "port": port})
        };
        let found = sessions.iter().find(|session| {
            session["internal"] == end(internal) && session["protocol"] == protocol
        });
        let session = found.with_context(|| format!("{internal:?} not in {sessions:?}"))?;
        ensure!(
            session["external"] == end((Proxmox::PUBLIC, external)),
            "{session}"
        );
        ensure!(session["remote"] == end(remote), "{session}");
        ensure!(session["rule"] == rule, "{session}");
        ensure!(session["state"].is_string(), "{session}");
        ensure!(session["idle_s"].as_u64() <= Some(10), "{session}");
        let limit = if protocol == "icmp" { 60 } else { 300 };
        let left = session["expires_s"].as_u64().context("expires_s")?;
        ensure!((limit - 20..=limit).contains(&left), "{session}");
    }
    filters_choose_among_three_sessions(&natbpf)?;
    ensure!(
        natbpf
            .cli(&["conntrack", "count"])?
            .expect_ok()?
            .contains('3')
    );
    natbpf.cli(&["conntrack", "flush"])?.expect_ok()?;
    ensure!(natbpf.conntrack(&[])?.is_empty(), "left after flush");
    Ok(())
}

fn filters_choose_among_three_sessions(natbpf: &Natbpf) -> Result<()> {
    for (filters, count) in [
        (&["--protocol", "icmp"][..], 1),
        (&["--internal", "172.22.161.170"], 2),
        (&["--remote", "198.51.100.3"], 1),
        (&["--rule", "vm2-udp"], 1),
        (&["--rule", "vm2-udp", "--protocol", "icmp"], 0),
    ] {
        let found = natbpf.conntrack(filters)?;
        ensure!(found.len() == count, "{filters:?}: {found:?}");
    }
    Ok(())
}

#[test]
fn status_shows_interfaces_and_hooks() -> Result<()> {
    let net = Proxmox::new()?;
    let natbpf = net.natbpf(&net.config())?;
    let status = natbpf.status()?;
    ensure!(
        status["version"].is_string() && status["generation"].is_u64(),
        "{status}"
    );
    ensure!(status["uptime_s"].as_u64() <= Some(60), "{status}");
    let interfaces = status["interfaces"].as_array().context("interfaces")?;
    for (name, address) in [("vmbr0", "19.19.8.10"), ("vmbr1", "172.22.161.254")] {
        let found = interfaces
            .iter()
            .find(|interface| interface["name"] == name);
        let interface = found.with_context(|| format!("no {name} in {status}"))?;
        let hooks = interface["hooks"].as_array().context("hooks")?;
        ensure!(hooks.contains(&json!("tc-ingress")), "{interface}");
        ensure!(hooks.contains(&json!("tc-egress")), "{interface}");
        ensure!(
            interface["addresses"].to_string().contains(address),
            "{interface}"
        );
    }
    Ok(())
}

/// A forward of one UDP port to vm1.
fn another_forward(port: u16) -> String {
    format!(
        "\n[[forward]]\nname = \"added\"\nuplink = \"wan\"\nprotocol = \"udp\"\nports = {port}\n\
         to = \"{}\"\n",
        Proxmox::VM1
    )
}

#[test]
fn reload_adds_and_removes_a_rule() -> Result<()> {
    let net = Proxmox::new()?;
    let natbpf = net.natbpf(&net.config())?;
    let client = net.cli.udp("198.51.100.2:7000")?;
    let (lasting, added) = (net.vm2.udp("0.0.0.0:10000")?, net.vm1.udp("0.0.0.0:2000")?);
    exchange(&client, at(Proxmox::PUBLIC, 10000), &lasting, b"before")?;
    client.send_to(b"too early", at(Proxmox::PUBLIC, 2000))?;
    ensure!(hears(&added)?.is_none(), "forwarded without a rule");

    let said = natbpf.reload(&(net.config() + &another_forward(2000)))?;
    ensure!(
        said.contains("added"),
        "reload does not say what changed: {said}"
    );
    exchange(&client, at(Proxmox::PUBLIC, 2000), &added, b"now")?;
    exchange(&client, at(Proxmox::PUBLIC, 10000), &lasting, b"in between")?;

    let said = natbpf.reload(&net.config())?;
    ensure!(
        said.contains("added"),
        "reload does not say what changed: {said}"
    );
    let other = net.cli.udp("198.51.100.2:7001")?;
    other.send_to(b"too late", at(Proxmox::PUBLIC, 2000))?;
    ensure!(hears(&added)?.is_none(), "forwarded without a rule");
    exchange(&client, at(Proxmox::PUBLIC, 10000), &lasting, b"after")?;
    let count = rule(&natbpf.stats()?, "vm2-udp")?["packets_in"].clone();
    ensure!(count == 3, "a reload must keep counters: {count}");
    Ok(())
}

#[test]
fn reload_of_a_bad_configuration_changes_nothing() -> Result<()> {
    let net = Proxmox::new()?;
    let natbpf = net.natbpf(&net.config())?;
    natbpf.configure(&(net.config() + &another_forward(2000).replace("2000", "0")))?;
    let refused = natbpf.cli(&["reload"])?;
    ensure!(refused.status.code() == Some(1), "{refused:?}");
    ensure!(refused.stderr.contains("ports"), "{refused:?}");
    let client = net.cli.udp("198.51.100.2:7000")?;
    let service = net.vm2.udp("0.0.0.0:10000")?;
    exchange(&client, at(Proxmox::PUBLIC, 10000), &service, b"as before")?;
    Ok(())
}

/// The kernel refuses the rules; the attachment of XDP after it has taken the rules; and that after
/// it has taken tables of another size.
#[test]
fn a_reload_that_fails_at_any_stage_keeps_rules_tables_and_programs() -> Result<()> {
    let net = Proxmox::with(&Options {
        uplink: Uplink::Nic,
        // Too many for the veth driver to take an XDP program.
        uplink_mtu: Some(9000),
        ..Options::default()
    })?;
    let natbpf = net.natbpf(&net.config())?;
    let (client, other) = (
        net.cli.udp("198.51.100.2:7000")?,
        net.cli.udp("198.51.100.2:7001")?,
    );
    let (service, added) = (net.vm2.udp("0.0.0.0:10000")?, net.vm1.udp("0.0.0.0:2000")?);
    let parts = |status: &Value| {
        (
            status["sessions"]["max"].clone(),
            status["interfaces"].clone(),
        )
    };
    let before = parts(&natbpf.status()?);
    let with_rule = net.config() + &another_forward(2000);
    let smaller = "[limits]\nsessions = 4096\n";
    let with_xdp = with_rule.replace("[network.lan]", "mode = \"xdp\"\n[network.lan]");
    for (bad, named) in [
        (with_rule + &too_many_addresses(), "ADDRESSES is full"),
        (with_xdp.clone(), "attach nat_early to eno1"),
        (with_xdp + smaller, "attach nat_early to eno1"),
    ] {
        let said = match natbpf.reload(&bad) {
            Ok(said) => anyhow::bail!("it took what leads to {named}: {said}"),
            Err(error) => format!("{error:#}"),
        };
        ensure!(said.contains(named), "{named}: {said}");
        let after = parts(&natbpf.status()?);
        ensure!(after == before, "{named}: {after:?}, before {before:?}");
        exchange(&client, at(Proxmox::PUBLIC, 10000), &service, b"as before")?;
        other.send_to(b"no rule", at(Proxmox::PUBLIC, 2000))?;
        ensure!(
            hears(&added)?.is_none(),
            "{named}: forwarded without a rule"
        );
    }
    let count = rule(&natbpf.stats()?, "vm2-udp")?["packets_in"].clone();
    ensure!(count == 3, "counters are lost: {count}");
    Ok(())
}

#[test]
fn down_restores_everything() -> Result<()> {
    let net = Proxmox::with(&Options {
        inside: Inside::OnlyPorts,
        ..Options::default()
    })?;
    // Values that differ from natbpf's and from the kernel's defaults.
    net.host.set_sysctl("net.ipv4.conf.vmbr0.rp_filter", "1")?;
    let before = snapshot::take(&net.host)?;
    let address = "address = \"172.22.161.254/24\"\n";
    let make = format!("{address}create = true\nports = [\"tap1\", \"tap2\"]\n");
    let mut natbpf = net.natbpf(&net.config().replace(address, &make))?;
    let server = net.cli.udp("198.51.100.2:7000")?;
    let guest = net.vm1.udp("0.0.0.0:5000")?;
    exchange(&guest, at(Proxmox::CLI, 7000), &server, b"it works")?;
    natbpf.stop()?;
    exchange(&guest, at(Proxmox::CLI, 7000), &server, b"and goes on")?;
    natbpf.down()?;
    leaves_nothing(&net, &natbpf, &before)
}

#[test]
fn down_keeps_everything_that_natbpf_did_not_create() -> Result<()> {
    let net = Proxmox::new()?;
    net.host.set_sysctl("net.ipv4.ip_forward", "1")?;
    let before = snapshot::take(&net.host)?;
    let mut natbpf = net.natbpf(&net.config())?;
    natbpf.stop()?;
    natbpf.down()?;
    leaves_nothing(&net, &natbpf, &before)
}

fn leaves_nothing(net: &Proxmox, natbpf: &Natbpf, before: &[String]) -> Result<()> {
    let after = snapshot::take(&net.host)?;
    ensure!(
        after == before,
        "changed:\n{}",
        snapshot::difference(before, &after)
    );
    let pins: Vec<_> = fs::read_dir(natbpf.bpffs())
        .into_iter()
        .flatten()
        .flatten()
        .collect();
    ensure!(pins.is_empty(), "pinned: {pins:?}");
    Ok(())
}

#[test]
fn a_failed_start_leaves_nothing() -> Result<()> {
    let net = Proxmox::with(&Options {
        inside: Inside::OnlyPorts,
        ..Options::default()
    })?;
    let before = snapshot::take(&net.host)?;
    let address = "address = \"172.22.161.254/24\"\n";
    let make = format!("{address}create = true\nports = [\"tap1\", \"tap2\"]\n");
    let good = net.config().replace(address, &make);
    for (bad, named) in [
        // Found only when the bridge is there and the programs are loaded.
        (good.clone() + &too_many_addresses(), "ADDRESSES is full"),
        (
            // A port, which has no addresses of its own.
            good.replace("interface = \"vmbr0\"", "interface = \"eno1\""),
            "is a port of vmbr0",
        ),
        (
            good.replace("to = \"masquerade\"", "to = \"nonsense\""),
            "nonsense",
        ),
    ] {
        let (host, place) = (&net.host, net.lab().place());
        let mut natbpf = Natbpf::prepare(host, place, Natbpf::binary()?, &bad)?;
        let said = match natbpf.launch() {
            Ok(()) => anyhow::bail!("started with {named}"),
            Err(error) => format!("{error:#}"),
        };
        ensure!(
            said.contains("exit status: 1") && said.contains(named),
            "{named}: {said}"
        );
        leaves_nothing(&net, &natbpf, &before).with_context(|| named.to_owned())?;
    }
    Ok(())
}

/// The largest segment that `status` shows of the uplink, once it is as it should be.
fn shows_mss(natbpf: &Natbpf, wanted: &Value) -> Result<()> {
    let mut shown = Value::Null;
    for _ in 0..50 {
        let status = natbpf.status()?;
        let interfaces = status["interfaces"].as_array().context("interfaces")?;
        let uplink = interfaces.iter().find(|one| one["name"] == "vmbr0");
        shown = uplink.context("no vmbr0")?["mss"].clone();
        if shown == *wanted {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    anyhow::bail!("mss is {shown}, should be {wanted}")
}

#[test]
fn a_change_of_an_mtu_is_followed() -> Result<()> {
    let net = Proxmox::new()?;
    let natbpf = net.natbpf(&net.config())?;
    shows_mss(&natbpf, &Value::Null)?;
    net.host.ip("link set vmbr0 mtu 1492")?;
    shows_mss(&natbpf, &json!(1452))?;
    net.host.ip("link set vmbr0 mtu 1500")?;
    shows_mss(&natbpf, &Value::Null)?;
    let auto = net.config();
    let wan = "[uplink.wan]\n";
    ensure!(auto.contains(wan), "no uplink to change in {auto}");
    natbpf.reload(&auto.replace(wan, &format!("{wan}mss_clamp = 1200\n")))?;
    shows_mss(&natbpf, &json!(1200))
}

#[test]
fn exhausted_resources_are_reported() -> Result<()> {
    let net = Proxmox::new()?;
    let natbpf = net.natbpf(&net.config())?;
    let limited = format!("{}\n[limits]\nsessions_per_guest = 2\n", net.config());
    let said = natbpf.reload(&limited)?;
    ensure!(said.contains("limits per guest: changed"), "{said}");
    // The first look only tells what there was before.
    std::thread::sleep(Duration::from_secs(6));
    let guest = net.vm1.udp("0.0.0.0:5000")?;
    for port in 7000..7005 {
        guest.send_to(b"another one", at(Proxmox::CLI, port))?;
    }
    for _ in 0..100 {
        let warnings = natbpf.status()?["warnings"].to_string();
        if warnings.contains("guest_sessions: packets were refused in the last minute, 3 since") {
            let log = natbpf.log();
            let lines = log.matches("guest_sessions: 3 packets refused").count();
            ensure!(lines == 1, "{log}");
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    anyhow::bail!("no warning in {}", natbpf.status()?)
}

/// Rules with pools of more addresses together than the table holds.
fn too_many_addresses() -> String {
    let pool = |n: u8| {
        format!(
            "[[snat]]\nname = \"pool-{n}\"\nsource = \"10.{n}.0.0/16\"\nuplink = \"wan\"\n\
             to = \"20.{n}.0.0-20.{n}.255.255\"\n"
        )
    };
    (0..3).map(pool).collect()
}

#[test]
fn a_second_instance_is_refused() -> Result<()> {
    let net = Proxmox::new()?;
    let natbpf = net.natbpf(&net.config())?;
    let second = natbpf.cli(&["run"])?;
    ensure!(second.status.code() == Some(1), "{second:?}");
    let client = net.cli.udp("198.51.100.2:7000")?;
    let service = net.vm2.udp("0.0.0.0:10000")?;
    exchange(
        &client,
        at(Proxmox::PUBLIC, 10000),
        &service,
        b"the first goes on",
    )?;
    Ok(())
}
