//! `cargo xtask bench`: natbpf against nftables, in one run, in turns.
//!
//! Two cores that others use as well give no absolute figure: everything is a ratio of two medians
//! of one run, with the spread beside it.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use lab::topology::Proxmox;
use lab::{Host, Natbpf};

use crate::build;
use crate::setup::{self, Needs};

/// How much to measure
#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    /// Times that everything is measured
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Length of one measurement with iperf3
    #[arg(long, default_value_t = 3)]
    seconds: u32,
}

/// Forwarded port of the guest's iperf3, and that of the internet host.
const GUEST_PORT: u16 = 10_001;
const INTERNET_PORT: u16 = 5201;
/// Source ports of the packets that open sessions.
const FLOWS: std::ops::Range<u16> = 16_384..49_152;

/// What iperf3 is asked for: name, whether a guest is the client, further arguments.
const STREAMS: [(&str, bool, &[&str]); 6] = [
    ("TCP in by a forward", false, &[]),
    ("TCP out by a forward", false, &["-R"]),
    ("TCP out by masquerade", true, &[]),
    ("TCP in by masquerade", true, &["-R"]),
    ("small UDP in by a forward", false, SMALL_UDP),
    ("small UDP out by masquerade", true, SMALL_UDP),
];
const SMALL_UDP: &[&str] = &["-u", "-b", "0", "-l", "18"];

/// Measures and prints the table.
///
/// # Errors
/// When something cannot be measured; a figure that is missed is none.
pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    setup::ensure(Needs::Lab)?;
    let binary = build::natbpf(true)?;
    let net = Proxmox::new()?;
    net.host.set_sysctl("net.ipv4.ip_forward", "1")?;
    let config = bench_config(&net);
    let (mut ours, mut theirs) = (
        vec![Vec::new(); STREAMS.len()],
        vec![Vec::new(); STREAMS.len()],
    );
    for round in 1..=args.rounds {
        eprintln!("round {round} of {}", args.rounds);
        let mut natbpf = Natbpf::prepare(&net.host, net.lab().place(), binary.clone(), &config)?;
        natbpf.launch()?;
        streams(&net, args, &mut ours).context("natbpf")?;
        natbpf.down()?;
        nft(&net.host, &nft_rules())?;
        streams(&net, args, &mut theirs).context("nftables")?;
        nft(&net.host, "flush ruleset")?;
    }
    println!("| natbpf / nftables | ratio | natbpf: median (least to most) | nftables |");
    println!("| --- | --- | --- | --- |");
    for ((name, _, options), (ours, theirs)) in STREAMS.iter().zip(ours.iter().zip(&theirs)) {
        let unit = if options.contains(&"-u") {
            "Mpps"
        } else {
            "Gbit/s"
        };
        let ratio = median(ours) / median(theirs);
        println!(
            "| {name} | {ratio:.2} | {} {unit} | {} |",
            spread(ours),
            spread(theirs)
        );
    }
    new_flows(&net, &binary, args.rounds)
}

/// The scenario's configuration with every forwarded port at one guest.
fn bench_config(net: &Proxmox) -> String {
    net.config().replace("172.22.161.171", "172.22.161.170")
}

/// The same in nftables.
fn nft_rules() -> String {
    format!(
        "table ip bench {{\n\
         chain before {{\ntype nat hook prerouting priority dstnat;\n\
         ip daddr {public} tcp dport 10000-10999 dnat to {guest}\n\
         ip daddr {public} udp dport 10000-10999 dnat to {guest}\n}}\n\
         chain after {{\ntype nat hook postrouting priority srcnat;\n\
         oifname \"vmbr0\" ip saddr 172.22.161.0/24 masquerade\n}}\n}}\n",
        public = Proxmox::PUBLIC,
        guest = Proxmox::VM1,
    )
}

fn nft(host: &Host, rules: &str) -> Result<()> {
    host.run_with_input(["nft", "-f", "-"], rules.as_bytes())?
        .expect_ok()
        .map(|_| ())
}

fn streams(net: &Proxmox, args: &BenchArgs, results: &mut [Vec<f64>]) -> Result<()> {
    for ((name, guest_is_client, options), results) in STREAMS.iter().zip(results) {
        let (client, server, address, port) = match guest_is_client {
            true => (&net.vm1, &net.cli, Proxmox::CLI, INTERNET_PORT),
            false => (&net.cli, &net.vm1, Proxmox::PUBLIC, GUEST_PORT),
        };
        let (address, port, seconds) = (
            address.to_string(),
            port.to_string(),
            args.seconds.to_string(),
        );
        // A server for each: one that has lost a client may wait for it for long.
        let _server = server.spawn(["iperf3", "-s", "-1", "-p", &port])?;
        std::thread::sleep(Duration::from_millis(300));
        let mut words = vec!["iperf3", "-J", "-c", &address, "-p", &port, "-t", &seconds];
        words.extend(*options);
        let report = client.check(words).with_context(|| (*name).to_owned())?;
        results.push(figure(&report, options.contains(&"-u")).with_context(|| report.clone())?);
    }
    Ok(())
}

/// What arrived: millions of packets or gigabits a second.
fn figure(report: &str, is_packets: bool) -> Result<f64> {
    let report: serde_json::Value = serde_json::from_str(report)?;
    let end = &report["end"];
    if is_packets {
        let sum = &end["sum"];
        let number = |name: &str| sum[name].as_f64().with_context(|| format!("no {name}"));
        return Ok((number("packets")? - number("lost_packets")?) / number("seconds")? / 1e6);
    }
    let bits = end["sum_received"]["bits_per_second"]
        .as_f64()
        .context("no bits_per_second")?;
    Ok(bits / 1e9)
}

/// The cost of a packet that opens a session, with one forward and with ten thousand, and how long
/// these take to load and to check.
fn new_flows(net: &Proxmox, binary: &std::path::Path, rounds: usize) -> Result<()> {
    let one = net.config_head() + &forward(GUEST_PORT, GUEST_PORT);
    // The one that the packets match comes last.
    let mut many = net.config_head();
    for port in 20_000..29_999 {
        many += &forward(port, port);
    }
    many += &forward(GUEST_PORT, GUEST_PORT);
    let (mut cost, mut load) = ([Vec::new(), Vec::new()], Vec::new());
    let mut check = Vec::new();
    for _ in 0..rounds {
        for (config, cost) in [&one, &many].into_iter().zip(&mut cost) {
            let place = net.lab().place();
            let mut natbpf = Natbpf::prepare(&net.host, place, binary.to_owned(), config)?;
            let begun = Instant::now();
            natbpf.launch()?;
            if config.len() > one.len() {
                load.push(begun.elapsed().as_secs_f64());
            } else {
                check.push(check_seconds(&natbpf)?);
            }
            cost.push(flow_nanoseconds(net, &natbpf)?);
            natbpf.down()?;
        }
    }
    let ratio = median(&cost[1]) / median(&cost[0]);
    println!("\n| new flows | |\n| --- | --- |");
    println!("| cost with 10,000 forwards / with one | {ratio:.2} |");
    println!(
        "| with one forward | {} ns a packet, its way through three hosts included |",
        spread(&cost[0])
    );
    println!("| with 10,000 forwards | {} ns |", spread(&cost[1]));
    println!("| start with 10,000 forwards | {} s |", spread(&load));
    println!("| natbpf check of one forward | {} s |", spread(&check));
    Ok(())
}

fn forward(external: u16, internal: u16) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "[[forward]]\nname = \"f{external}\"\nuplink = \"wan\"\nprotocol = \"udp\"\n\
         ports = {external}\nto = \"172.22.161.170\"\nto_ports = {internal}"
    );
    text
}

fn check_seconds(natbpf: &Natbpf) -> Result<f64> {
    let begun = Instant::now();
    natbpf.cli(&["check"])?.expect_ok()?;
    Ok(begun.elapsed().as_secs_f64())
}

/// Sends a packet of every flow and gives the time that one took: all hosts work on the sender's
/// core, one packet after the other.
fn flow_nanoseconds(net: &Proxmox, natbpf: &Natbpf) -> Result<f64> {
    let socket = net.isp.raw(Proxmox::WAN)?;
    let (to, from) = (net.host.mac("vmbr0")?, net.isp.mac(Proxmox::WAN)?);
    let frames: Vec<Vec<u8>> = FLOWS.map(|port| frame(to, from, port)).collect();
    let begun = Instant::now();
    for frame in &frames {
        socket.send(frame)?;
    }
    let elapsed = begun.elapsed();
    std::thread::sleep(Duration::from_millis(200));
    let stats = natbpf.stats()?;
    let rules = stats["rules"].as_array().context("no rules")?;
    let opened: u64 = rules
        .iter()
        .filter_map(|rule| rule["connections"].as_u64())
        .sum();
    ensure!(
        opened == frames.len() as u64,
        "{opened} of {} flows were opened",
        frames.len()
    );
    Ok(elapsed.as_nanos() as f64 / frames.len() as f64)
}

/// A UDP packet of 64 bytes from the internet host to the forwarded port, without UDP checksum.
fn frame(to: [u8; 6], from: [u8; 6], source_port: u16) -> Vec<u8> {
    let mut ip = vec![0x45, 0, 0, 50, 0, 0, 0x40, 0, 64, 17, 0, 0];
    ip.extend(Proxmox::CLI.octets());
    ip.extend(Proxmox::PUBLIC.octets());
    let sum: u32 = ip
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]))
        .sum();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    let mut frame = [to, from].concat();
    frame.extend([0x08, 0x00]);
    frame.extend(ip);
    for word in [source_port, GUEST_PORT, 30, 0] {
        frame.extend(word.to_be_bytes());
    }
    frame.resize(64, 0);
    frame
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn spread(values: &[f64]) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(0.0, f64::max);
    format!("{:.3} ({least:.3} to {most:.3})", median(values))
}
