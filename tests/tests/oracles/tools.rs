//! Tools that administrators use: mtr, ping with large payloads, nping.
//!
//! `sctp_test` is not among them: the kernel of the test machine has no SCTP sockets. SCTP is tried
//! with packets made by hand, as `p1_sctp_…` of the namespace tests.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use lab::service::Service;
use lab::topology::{Options, Proxmox};
use lab::{Host, Natbpf};
use serde_json::Value;
use tests::{Watch, at, exchange};

/// The hops that mtr shows.
fn mtr(from: &Host, options: &[&str], to: &str) -> Result<Vec<String>> {
    let mut words = vec![
        "mtr", "--json", "--no-dns", "-c", "2", "-i", "0.3", "-G", "1",
    ];
    words.extend(options);
    words.push(to);
    let said = from.check(words)?;
    let report: Value = serde_json::from_str(&said).with_context(|| said.clone())?;
    let hubs = report["report"]["hubs"].as_array().context("no hops")?;
    let hosts = hubs.iter().map(|hub| {
        ensure!(hub["Loss%"].as_f64() == Some(0.0), "{said}");
        Ok(hub["host"].as_str().unwrap_or_default().to_owned())
    });
    hosts.collect()
}

#[test]
fn i8_mtr_shows_every_hop_from_inside_and_to_a_forwarded_service() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = net.natbpf(&net.config())?;
    let _outside = Service::http(&net.cli, "198.51.100.2:80")?;
    let _inside = Service::http(&net.vm1, "0.0.0.0:10080")?;
    let watch = Watch::proxmox(&net)?;
    for options in [&[][..], &["--udp"], &["--tcp", "--port", "80"]] {
        let hops = mtr(&net.vm1, options, "198.51.100.2")?;
        ensure!(
            hops == ["172.22.161.254", "19.19.8.1", "198.51.100.2"],
            "{options:?}: {hops:?}"
        );
    }
    for options in [&[][..], &["--tcp", "--port", "10080"]] {
        let hops = mtr(&net.cli, options, "19.19.8.10")?;
        // mtr ends at the first hop that has the address of its target, which the VM host shows
        // as a router.
        ensure!(
            hops.first().map(String::as_str) == Some("198.51.100.1")
                && hops[1..].iter().all(|hop| hop == "19.19.8.10"),
            "{options:?}: {hops:?}"
        );
    }
    watch.finish().map(drop)
}

#[test]
fn f1_pings_of_every_size_are_answered() -> Result<()> {
    let net = Proxmox::new()?;
    let nat = net.natbpf(&net.config())?;
    for size in ["0", "1472", "1473", "4000", "8000", "65000"] {
        for (from, to) in [
            (&net.vm1, "198.51.100.2"),
            (&net.cli, "19.19.8.10"),
            (&net.vm2, "19.19.8.10"),
        ] {
            let words = [
                "ping", "-n", "-c", "3", "-i", "0.2", "-W", "2", "-s", size, to,
            ];
            let said = from.check(words)?;
            ensure!(said.contains("3 received"), "{size} to {to}: {said}");
        }
    }
    let drops = drops(&nat)?;
    let of_fragments = drops
        .iter()
        .filter(|(name, _)| name.starts_with("fragment"));
    let lost: u64 = of_fragments.map(|(_, count)| count).sum();
    ensure!(lost == 0, "{drops:?}");
    Ok(())
}

#[test]
fn f9_ping_learns_the_mtu_of_a_hop() -> Result<()> {
    let net = Proxmox::with(&Options {
        uplink_mtu: Some(1400),
        ..Options::default()
    })?;
    let _nat = net.natbpf(&net.config())?;
    net.isp.ip("link set out mtu 1300")?;
    for (size, mtu) in [("1450", "mtu = 1400"), ("1350", "mtu = 1300")] {
        let words = [
            "ping",
            "-n",
            "-c",
            "1",
            "-W",
            "2",
            "-M",
            "do",
            "-s",
            size,
            "198.51.100.2",
        ];
        let output = net.vm1.run(words)?;
        let said = output.stdout + &output.stderr;
        ensure!(said.contains(mtu), "{size}: {said}");
    }
    Ok(())
}

fn drops(natbpf: &Natbpf) -> Result<BTreeMap<String, u64>> {
    let stats = natbpf.stats()?;
    let drops = stats["drops"].as_object().context("no drops")?;
    let counts = drops
        .iter()
        .map(|(name, count)| (name.clone(), count.as_u64().unwrap_or(0)));
    Ok(counts.collect())
}

/// How many warnings the kernel has logged.
fn kernel_warnings(host: &Host) -> Result<usize> {
    let log = host.check(["dmesg"])?;
    let is_warning = |line: &&str| line.contains("WARNING:") || line.contains("BUG:");
    Ok(log.lines().filter(is_warning).count())
}

/// nping's options for a packet that no application sends, and the reason under which it is
/// counted, if natbpf drops it.
const ODD: &[(&[&str], Option<&str>)] = &[
    (&["--udp", "-g", "7001", "-p", "10500", "--badsum"], None),
    (&["--tcp", "-g", "7001", "-p", "10001", "--badsum"], None),
    (&["--icmp", "--badsum"], None),
    (&["--udp", "-g", "7002", "-p", "10500", "--badsum-ip"], None),
    (
        &["--udp", "-g", "7003", "-p", "10500", "--ip-options", "R"],
        None,
    ),
    (
        &["--udp", "-g", "7004", "-p", "10500", "--ip-options", "T"],
        None,
    ),
    (&["--udp", "-g", "0", "-p", "10500"], Some("port_zero")),
    (&["--udp", "-g", "7005", "-p", "0"], Some("port_zero")),
    (
        &["--tcp", "-g", "0", "-p", "10001", "--flags", "syn"],
        Some("port_zero"),
    ),
    (
        &["--udp", "-g", "7006", "-p", "10500", "-S", "19.19.8.10"],
        Some("same_endpoints"),
    ),
    (
        &[
            "--udp",
            "-g",
            "7007",
            "-p",
            "10500",
            "-S",
            "255.255.255.255",
        ],
        Some("broadcast_source"),
    ),
    (
        &["--udp", "-g", "7008", "-p", "10500", "-S", "224.0.0.1"],
        Some("broadcast_source"),
    ),
    (
        &["--udp", "-g", "7009", "-p", "10500", "-S", "127.0.0.1"],
        Some("martian_source"),
    ),
    (
        &["--udp", "-g", "7010", "-p", "10500", "-S", "172.22.161.170"],
        Some("internal_source"),
    ),
    (
        &["--tcp", "-g", "7011", "-p", "10001", "--flags", "rst"],
        None,
    ),
    (
        &["--tcp", "-g", "7012", "-p", "10001", "--flags", "none"],
        None,
    ),
    (
        &[
            "--tcp",
            "-g",
            "7013",
            "-p",
            "10001",
            "--flags",
            "syn,fin,rst,psh,ack,urg",
        ],
        None,
    ),
    (
        &["--tcp", "-g", "7014", "-p", "80", "--flags", "syn,fin"],
        None,
    ),
    (
        &[
            "--icmp",
            "--icmp-type",
            "5",
            "--icmp-redirect-addr",
            "1.2.3.4",
        ],
        None,
    ),
    (&["--icmp", "--icmp-type", "13"], None),
    (
        &[
            "--udp",
            "-g",
            "7015",
            "-p",
            "10500",
            "--mtu",
            "24",
            "--data-length",
            "300",
        ],
        None,
    ),
];

/// Lets nping send its one packet. On a busy machine it may end before it has sent any, and says
/// so.
fn send_once(host: &Host, words: &[&str]) -> Result<()> {
    let mut said = String::new();
    for _ in 0..5 {
        said = host.check(words)?;
        if said.contains("packets sent: 1") {
            return Ok(());
        }
        ensure!(said.contains("packets sent: 0"), "{words:?}: {said}");
    }
    bail!("{words:?}: {said}")
}

/// Packets that no application sends do no harm: what follows them is served, and those that are
/// dropped are counted by their reason.
#[test]
fn s5_odd_packets_of_nping_do_no_harm() -> Result<()> {
    let net = Proxmox::new()?;
    let nat = net.natbpf(&net.config())?;
    let warnings = kernel_warnings(&net.host)?;
    let watch = Watch::proxmox(&net)?;
    let service = net.vm2.udp("0.0.0.0:10500")?;
    let client = net.cli.udp("198.51.100.2:7000")?;
    let mac = net
        .host
        .mac("vmbr0")?
        .map(|byte| format!("{byte:02x}"))
        .join(":");
    for (options, reason) in ODD {
        let before = drops(&nat)?;
        // From the provider's router, past its own checks.
        let mut words = vec!["nping", "-c", "1", "--send-eth", "-e", Proxmox::WAN, "-N"];
        words.extend(["--dest-mac", &mac]);
        if !options.contains(&"-S") {
            words.extend(["-S", "198.51.100.2"]);
        }
        words.extend(*options);
        words.push("19.19.8.10");
        send_once(&net.isp, &words)?;
        if let Some(reason) = reason {
            let counted = drops(&nat)?[*reason] - before[*reason];
            ensure!(counted == 1, "{options:?}: {counted} counted as {reason}");
        }
    }
    drop(service);
    let service = net.vm2.udp("0.0.0.0:10500")?;
    exchange(
        &client,
        at(Proxmox::PUBLIC, 10500),
        &service,
        b"after all that",
    )?;
    let guest = net.vm1.udp("0.0.0.0:5000")?;
    exchange(&guest, at(Proxmox::CLI, 7000), &client, b"and outwards")?;
    ensure!(
        kernel_warnings(&net.host)? == warnings,
        "the kernel has warned"
    );
    watch.finish().map(drop)
}
