//! 1,000 connections and 1,000 sessions of datagrams through 100 reloads and 20 kills of the
//! daemon: no reset, no changed mapping, no lost datagram, and counters that are exact. Needs root.
//!
//! `NATBPF_UPHEAVAL_RELOADS` and `NATBPF_UPHEAVAL_KILLS` name other numbers.

use std::collections::BTreeMap;
use std::env;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::Natbpf;
use lab::topology::Proxmox;
use tests::traffic::{self, Options, RULES, Traffic};

/// Sessions of each protocol, and datagrams a second with their answers.
const EACH: usize = 1000;
const PACKETS_PER_SECOND: u32 = 10_000;
/// The least of that which a busy machine must manage, or the test has shown too little.
const LEAST_SHARE: f64 = 0.9;
/// How long all sessions may take to get something through.
const WORK_LIMIT: Duration = Duration::from_secs(10);
/// How long no daemon follows the host after a kill: both longer and shorter than the five-second
/// lease of the fast path.
const ABSENCES: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_millis(5500),
];

fn number(variable: &str, default: usize) -> Result<usize> {
    let Ok(text) = env::var(variable) else {
        return Ok(default);
    };
    text.parse()
        .with_context(|| format!("{variable} is {text:?}, not a number"))
}

/// The configuration of the reload with this number: none of its changes affects existing sessions.
fn configuration(net: &Proxmox, reload: usize) -> String {
    let config = traffic::config(net);
    let another = |port: usize| {
        format!(
            "[[forward]]\nname = \"added-{port}\"\nuplink = \"wan\"\nprotocol = \"udp\"\n\
             ports = {port}\nto = \"{}\"\n",
            Proxmox::VM1
        )
    };
    match reload % 5 {
        0 => config + &another(2000 + reload),
        1 => format!("forwarding = \"kernel\"\n{config}"),
        2 => config + "[timeouts]\nudp = 200\n[limits]\nsessions_per_guest = 4000\n",
        3 => format!(
            "{config}[[snat]]\nname = \"others-{reload}\"\nsource = \"10.99.0.0/16\"\nuplink = \
             \"wan\"\n\
             to = \"masquerade\"\n"
        ),
        _ => config,
    }
}

/// Packets in and out, and connections, of each rule.
type Counters = BTreeMap<String, [u64; 3]>;

fn counters(natbpf: &Natbpf) -> Result<Counters> {
    let stats = natbpf.stats()?;
    let rules = stats["rules"].as_array().context("no rules")?;
    let of = |rule: &serde_json::Value| {
        let name = rule["name"].as_str().context("a rule without name")?;
        let count = |field: &str| rule[field].as_u64().context(format!("{name}: no {field}"));
        let counts = [
            count("packets_in")?,
            count("packets_out")?,
            count("connections")?,
        ];
        Ok((name.to_owned(), counts))
    };
    rules.iter().map(of).collect()
}

/// The counters of the rules that have sessions have not decreased; returns the current ones.
fn not_back(before: &Counters, natbpf: &Natbpf) -> Result<Counters> {
    let now = counters(natbpf)?;
    for rule in RULES {
        let (before, now) = (before[rule], now.get(rule).copied().unwrap_or_default());
        let back = before.iter().zip(now).any(|(before, now)| now < *before);
        ensure!(!back, "counters of {rule} went from {before:?} to {now:?}");
    }
    Ok(now)
}

#[test]
fn l2_two_thousand_sessions_lose_nothing_by_reloads_and_kills() -> Result<()> {
    let reloads = number("NATBPF_UPHEAVAL_RELOADS", 100)?;
    let kills = number("NATBPF_UPHEAVAL_KILLS", 20)?;
    let net = Proxmox::new()?;
    traffic::add_kept_address(&net)?;
    let mut natbpf = net.natbpf(&traffic::config(&net))?;
    let options = Options {
        each: EACH,
        with_spare: false,
        packets_per_second: PACKETS_PER_SECOND,
        first: Proxmox::PUBLIC,
    };
    let traffic = Traffic::start(&net, &options)?;
    let (begun, answered) = (Instant::now(), traffic.totals().answers);
    let mut counts = counters(&natbpf)?;
    for n in 0..reloads.max(kills) {
        if n < reloads {
            traffic.name_operation(&format!("reload {n}"));
            let said = natbpf.reload(&configuration(&net, n))?;
            ensure!(said.contains("; 0 sessions ended"), "reload {n}: {said}");
        }
        if n * kills / reloads.max(1) != (n + 1) * kills / reloads.max(1) || n >= reloads {
            traffic.name_operation(&format!("kill after reload {n}"));
            natbpf.kill()?;
            thread::sleep(ABSENCES[n / 5 % ABSENCES.len()]);
            natbpf.launch()?;
            traffic.all_work(Instant::now(), WORK_LIMIT)?;
        }
        traffic.is_well()?;
        counts = not_back(&counts, &natbpf)?;
    }
    let took = begun.elapsed().as_secs_f64();
    let rate = (traffic.totals().answers - answered) as f64 * 2.0 / took;
    traffic.name_operation("the end");
    traffic.all_work(Instant::now(), WORK_LIMIT)?;
    are_exact(&traffic, &natbpf)?;
    let totals = traffic.totals();
    println!(
        "{reloads} reloads and {kills} kills in {took:.0} s: {} answered datagrams, {rate:.0} \
         packets \
         a second, {} bytes in connections",
        totals.answers, totals.bytes
    );
    let least = LEAST_SHARE * f64::from(PACKETS_PER_SECOND);
    ensure!(
        rate > least,
        "nothing went wrong, but the machine is too busy: {rate:.0} packets a second, wanted are \
         {least:.0}"
    );
    Ok(())
}

/// natbpf has counted exactly what was sent, and knows exactly the sessions that there are.
fn are_exact(traffic: &Traffic, natbpf: &Natbpf) -> Result<()> {
    traffic.pause(&traffic.all())?;
    // Acknowledgements may take 200 ms.
    thread::sleep(Duration::from_secs(1));
    let (sent, opened) = (traffic.packets()?, traffic.opened());
    let counted = counters(natbpf)?;
    for rule in RULES {
        let [into, out] = sent[rule];
        let expected = [into, out, opened[rule]];
        println!("{rule}: {expected:?} packets in, packets out, connections");
        ensure!(
            counted[rule] == expected,
            "{rule}: natbpf counts {:?} packets in and out and connections, sent were {expected:?}",
            counted[rule]
        );
    }
    let known = natbpf.conntrack(&[])?.len();
    let are = traffic.keys().len();
    ensure!(
        known == are && are == 2 * EACH,
        "{known} sessions known of {are}"
    );
    Ok(())
}
