//! `cargo xtask bench`: natbpf, nftables, iptables and bare redirects in one run, in turns.
//!
//! Cores that others use as well give no absolute figure: what counts is ratios of what was
//! measured in the same round, their median over all rounds, and how far they spread.

mod bed;
mod bulk;
mod cost;
mod curves;
mod extent;
mod families;
mod flows;
mod generator;
mod lanes;
mod latency;
mod packets;
mod paths;
mod picture;
mod programs;
mod report;
mod statistics;

use std::path::{Path as File, PathBuf};

use anyhow::{Context, Result, ensure};
use bulk::Transfer;
use clap::{Args, ValueEnum};
use extent::{Extent, progress};
use lanes::Lanes;
use latency::Protocol;
use paths::{Direction, PATHS, Path, Variant};
use programs::Programs;
use report::Table;
use serde_json::json;
use statistics::Figures;

use crate::build;
use crate::command::workspace;
use crate::setup::{self, Needs};

/// How much to measure
#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    /// Measure less, in under three minutes
    #[arg(long)]
    quick: bool,
    /// Times that everything is measured [default: 9, with --quick 3]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Measure only these
    #[arg(long, value_delimiter = ',')]
    only: Vec<Stage>,
    /// Measure this program, for instance one of another revision [default: this revision's]
    #[arg(long, value_name = "PROGRAM")]
    natbpf: Option<PathBuf>,
    /// Where the figures go [default: bench.json in the target directory]
    #[arg(long)]
    json: Option<PathBuf>,
    /// Draw the picture of the small packets to this file
    #[arg(long)]
    svg: Option<PathBuf>,
}

impl BenchArgs {
    fn measures(&self, stage: Stage) -> bool {
        self.only.is_empty() || self.only.contains(&stage)
    }
}

/// One part of the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Stage {
    /// Small packets from the client to the guest
    Inbound,
    /// Small packets from the guest to the client
    Outbound,
    /// Small packets of IPv6 beside those of IPv4
    Families,
    /// Packets that open sessions
    Flows,
    /// Requests and answers, one at a time
    Latency,
    /// TCP by iperf3
    Bulk,
    /// natbpf with few and many forwards
    Forwards,
    /// natbpf with few and many sessions
    Sessions,
    /// Run time of BPF programs
    Cost,
}

/// How the titles of the tables end that the picture shows.
const SMALL_PACKETS: &str = "small packets";

impl Extent {
    fn of(args: &BenchArgs) -> Self {
        if args.quick {
            let rounds = args.rounds.unwrap_or(3);
            return Self {
                rounds,
                bulk_rounds: rounds.min(2),
                downloads: false,
                exchanges: 4_000,
                forwards: vec![1, 10_000],
                sessions: vec![1_000, 100_000],
            };
        }
        let rounds = args.rounds.unwrap_or(9);
        Self {
            rounds,
            bulk_rounds: rounds.min(5),
            downloads: true,
            exchanges: 20_000,
            forwards: vec![1, 100, 10_000, 100_000],
            sessions: vec![1_000, 100_000, 1_000_000, 4_000_000],
        }
    }
}

/// Measures, prints the tables and writes the files.
///
/// # Errors
/// When something cannot be measured; a figure that is missed is none.
pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "measuring loads BPF programs and makes network namespaces: run it as root or with sudo"
    );
    ensure!(
        args.svg.is_none() || args.measures(Stage::Inbound) || args.measures(Stage::Outbound),
        "the picture (--svg) is of inbound and outbound small packets: add them to --only"
    );
    setup::ensure(Needs::Bench)?;
    let binary = match &args.natbpf {
        Some(program) => program
            .canonicalize()
            .with_context(|| format!("find {}", program.display()))?,
        None => build::natbpf(true)?,
    };
    let mut lanes = Lanes::new(Programs::load()?, binary);
    let extent = Extent::of(args);
    let mut tables = Vec::new();
    for stage in Stage::value_variants() {
        if args.measures(*stage) {
            for table in measure(*stage, &mut lanes, &extent)? {
                println!("\n{}", table.text().trim_end());
                tables.push(table);
            }
        }
    }
    write_json(args, &tables)?;
    match &args.svg {
        Some(file) => write_picture(file, &tables),
        None => Ok(()),
    }
}

fn measure(stage: Stage, lanes: &mut Lanes, extent: &Extent) -> Result<Vec<Table>> {
    match stage {
        Stage::Inbound => small_packets(lanes, extent, Direction::Inbound),
        Stage::Outbound => small_packets(lanes, extent, Direction::Outbound),
        Stage::Families => families::measure(lanes, extent),
        Stage::Flows => new_flows(lanes, extent),
        Stage::Latency => latencies(lanes, extent),
        Stage::Bulk => transfers(lanes, extent),
        Stage::Forwards => curves::forwards(lanes, extent),
        Stage::Sessions => curves::sessions(lanes, extent),
        Stage::Cost => cost::measure(lanes, extent),
    }
}

fn small_packets(lanes: &mut Lanes, extent: &Extent, direction: Direction) -> Result<Vec<Table>> {
    let variants = PATHS.map(Variant::new);
    let (programs, lanes, _sinks) = lanes.with_sinks(&variants)?;
    packets::warm_up(programs, &lanes, &[direction])?;
    let mut table = table(
        format!("{}, {SMALL_PACKETS}", direction.name()),
        "Mpps",
        &variants,
        &[Path::Nftables, Path::RedirectXdp],
    );
    for round in 1..=extent.rounds {
        progress(&table.title, round, extent.rounds);
        for (lane, (_, figures)) in lanes.iter().zip(&mut table.rows) {
            figures.push(packets::measure(programs, lane, direction)?.mpps());
        }
    }
    Ok(vec![table])
}

fn new_flows(lanes: &mut Lanes, extent: &Extent) -> Result<Vec<Table>> {
    let variants = flows::VARIANTS;
    let (programs, lanes, _sinks) = lanes.with_sinks(&variants)?;
    let title = "inbound, new flows".to_owned();
    let mut table = table(title, "Mpps", &variants, &[Path::Nftables]);
    for round in 1..=extent.rounds {
        progress(&table.title, round, extent.rounds);
        for (lane, (_, figures)) in lanes.iter().zip(&mut table.rows) {
            figures.push(flows::measure(programs, lane)?);
        }
    }
    Ok(vec![table])
}

fn latencies(lanes: &mut Lanes, extent: &Extent) -> Result<Vec<Table>> {
    let variants = PATHS.map(Variant::new);
    let (programs, lanes) = lanes.take(&variants)?;
    let mut tables = Vec::new();
    for direction in Direction::BOTH {
        for protocol in Protocol::BOTH {
            let of = |quantile: &str| Table {
                less_is_better: true,
                ..table(
                    format!(
                        "{}, {} answer, {quantile}",
                        direction.name(),
                        protocol.name()
                    ),
                    "µs",
                    &variants,
                    &[Path::Nftables, Path::RedirectXdp],
                )
            };
            let (mut p50, mut p99) = (of("p50"), of("p99"));
            for round in 1..=extent.rounds {
                progress(&p50.title, round, extent.rounds);
                for (at, lane) in lanes.iter().enumerate() {
                    lane.select(programs)?;
                    let latency = latency::measure(lane, direction, protocol, extent.exchanges)?;
                    p50.rows[at].1.push(latency.p50_us);
                    p99.rows[at].1.push(latency.p99_us);
                }
            }
            tables.extend([p50, p99]);
        }
    }
    Ok(tables)
}

/// TCP's large packets are made and taken apart by the devices, which XDP does not see: without
/// the bare XDP redirect.
fn transfers(lanes: &mut Lanes, extent: &Extent) -> Result<Vec<Table>> {
    let able: Vec<_> = PATHS
        .into_iter()
        .filter(|path| *path != Path::RedirectXdp)
        .map(Variant::new)
        .collect();
    let (programs, lanes) = lanes.take(&able)?;
    let kinds = Transfer::kinds(extent.downloads);
    let of = |kind: &Transfer| {
        table(
            kind.name(),
            "Gbit/s",
            &able,
            &[Path::Nftables, Path::RedirectTc],
        )
    };
    let mut tables: Vec<_> = kinds.iter().map(of).collect();
    for round in 1..=extent.bulk_rounds {
        progress("TCP", round, extent.bulk_rounds);
        for (kind, table) in kinds.iter().zip(&mut tables) {
            for (lane, (_, figures)) in lanes.iter().zip(&mut table.rows) {
                lane.select(programs)?;
                figures.push(bulk::measure(lane, *kind)?);
            }
        }
    }
    Ok(tables)
}

/// A table without figures yet.
fn table(title: String, unit: &'static str, variants: &[Variant], bases: &[Path]) -> Table {
    let row = |variant: &Variant| (variant.name(), Figures::default());
    Table {
        title,
        unit,
        less_is_better: false,
        rows: variants.iter().map(row).collect(),
        bases: bases.iter().map(|path| path.name().to_owned()).collect(),
    }
}

fn write_picture(file: &File, tables: &[Table]) -> Result<()> {
    let small = |table: &&Table| table.title.ends_with(SMALL_PACKETS);
    let small: Vec<_> = tables.iter().filter(small).collect();
    std::fs::write(file, picture::draw(&small)?)
        .with_context(|| format!("write {}", file.display()))?;
    println!("{}", file.display());
    Ok(())
}

fn write_json(args: &BenchArgs, tables: &[Table]) -> Result<()> {
    let file = match &args.json {
        Some(file) => file.clone(),
        None => workspace()?.target().join("bench.json"),
    };
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let tables: Vec<_> = tables.iter().map(Table::json).collect();
    let report = json!({ "kernel": kernel.trim(), "tables": tables });
    let text = serde_json::to_string_pretty(&report)? + "\n";
    std::fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    println!("\n{}", file.display());
    Ok(())
}
