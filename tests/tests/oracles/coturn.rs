//! coturn's discovery of NAT behaviour (RFC 5780): a server with two addresses outside, and the
//! client behind the NAT.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use lab::topology::Proxmox;
use lab::{Background, Host, Natbpf};

/// Starts the server on both of its addresses, with the two ports that the tests need.
fn server(net: &Proxmox) -> Result<Background> {
    let server = net.cli.spawn([
        "turnserver",
        "-n",
        "--stun-only",
        "--no-tls",
        "--no-dtls",
        "--no-cli",
        "--log-file=stdout",
        "--simple-log",
        "--pidfile=/dev/null",
        "--listening-ip=198.51.100.2",
        "--listening-ip=198.51.100.3",
        "--listening-port=3478",
        "--alt-listening-port=3479",
    ])?;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(10) {
        // All four sockets, before the first query.
        let sockets = net.cli.check(["ss", "-Hlnu"])?;
        let is_there = |address: &str| sockets.contains(address);
        if [
            "198.51.100.2:3478",
            "198.51.100.2:3479",
            "198.51.100.3:3478",
            "198.51.100.3:3479",
        ]
        .into_iter()
        .all(is_there)
        {
            return Ok(server);
        }
        thread::sleep(Duration::from_millis(50));
    }
    bail!("turnserver does not listen:\n{}", server.said())
}

/// What the client finds out with these options.
fn discover(guest: &Host, options: &[&str]) -> Result<String> {
    let mut words = vec!["turnutils_natdiscovery"];
    words.extend(options);
    words.push("198.51.100.2");
    let output = guest.run(words)?;
    Ok(format!("{}{}", output.stdout, output.stderr))
}

/// The configuration with these modes in its source rule.
fn with(net: &Proxmox, mapping: &str, filtering: &str) -> String {
    let modes =
        format!("to = \"masquerade\"\nmapping = \"{mapping}\"\nfiltering = \"{filtering}\"");
    net.config().replace("to = \"masquerade\"", &modes)
}

fn says(found: &str, verdict: &str) -> Result<()> {
    ensure!(found.contains(verdict), "not {verdict:?}:\n{found}");
    Ok(())
}

#[test]
fn u2_coturn_finds_the_mapping_that_is_configured() -> Result<()> {
    for (mapping, filtering, verdict) in [
        (
            "endpoint-independent",
            "address-dependent",
            "NAT with Endpoint Independent Mapping!",
        ),
        (
            "address-and-port-dependent",
            "address-and-port-dependent",
            "NAT with Address and Port Dependent Mapping!",
        ),
    ] {
        let net = Proxmox::new()?;
        let _nat = net.natbpf(&with(&net, mapping, filtering))?;
        let _server = server(&net)?;
        if mapping == "address-and-port-dependent" {
            // So that the guest's own port is not free, and each remote can see another.
            let _first = discover(&net.vm2, &["-m", "-L", "172.22.161.171", "-l", "5000"])?;
            says(
                &discover(&net.vm1, &["-m", "-L", "172.22.161.170", "-l", "5000"])?,
                verdict,
            )?;
        } else {
            says(&discover(&net.vm1, &["-m"])?, verdict)?;
        }
    }
    Ok(())
}

#[test]
fn u3_coturn_finds_the_filtering_that_is_configured() -> Result<()> {
    for (filtering, verdict) in [
        (
            "endpoint-independent",
            "NAT with Endpoint Independent Filtering!",
        ),
        ("address-dependent", "NAT with Address Dependent Filtering!"),
        (
            "address-and-port-dependent",
            "NAT with Address and Port Dependent Filtering!",
        ),
    ] {
        let net = Proxmox::new()?;
        let _nat = net.natbpf(&with(&net, "endpoint-independent", filtering))?;
        let _server = server(&net)?;
        says(&discover(&net.vm1, &["-f"])?, verdict)?;
    }
    Ok(())
}

#[test]
fn u5_coturn_finds_hairpinning() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = net.natbpf(&net.config())?;
    let _server = server(&net)?;
    let found = discover(&net.vm1, &["-H"])?;
    says(
        &found,
        "Received a request (maybe a successful hairpinning)",
    )
}

/// The addresses under which the server has seen the client, one for each response.
fn reflexive(found: &str) -> Vec<&str> {
    let lines = found.lines();
    lines
        .filter_map(|line| line.split_once("UDP reflexive addr: "))
        .map(|(_, address)| address.trim())
        .collect()
}

#[test]
fn u4_coturn_finds_no_collision_of_two_clients_with_one_port() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = net.natbpf(&net.config())?;
    // The tool is both clients.
    net.vm1.ip("address add 172.22.161.180/24 dev eth0")?;
    let _server = server(&net)?;
    let options = ["-c", "-L", "172.22.161.170", "-A", "172.22.161.180"];
    let found = discover(&net.vm1, &options)?;
    let seen = reflexive(&found);
    ensure!(seen.len() == 2 && seen[0] != seen[1], "{found}");
    Ok(())
}

/// The second response is one to the mapping that the first has shown, if it is still there.
#[test]
fn u8_coturn_finds_the_lifetime_of_a_mapping() -> Result<()> {
    let net = Proxmox::new()?;
    // A second is a minute for sessions: a mapping lasts for five.
    let mut nat = Natbpf::prepare(
        &net.host,
        net.lab().place(),
        Natbpf::binary()?,
        &net.config(),
    )?;
    nat.set_time_scale(60);
    nat.launch()?;
    let _server = server(&net)?;
    for (idle_s, is_there) in [("2", true), ("9", false)] {
        let found = discover(&net.vm1, &["-t", "-T", idle_s])?;
        let is_answered = found.contains("RFC 5780 response 2");
        ensure!(is_answered == is_there, "after {idle_s} s:\n{found}");
    }
    Ok(())
}
