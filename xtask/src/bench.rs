//! `cargo xtask bench`: natbpf, nftables, iptables and bare redirects in one run, in turns.
//!
//! Cores that others use as well give no absolute figure: what counts is ratios of what was
//! measured in the same round, their median over all rounds, and how far they spread.

mod bed;
mod generator;
mod packets;
mod paths;
mod programs;
mod statistics;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use crate::build;
use crate::command::workspace;
use crate::setup::{self, Needs};
use paths::{Direction, Lane, PATHS, Path};
use programs::Programs;
use statistics::Figures;

/// How much to measure
#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    /// Times that everything is measured
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Measure only these
    #[arg(long, value_delimiter = ',')]
    only: Vec<Direction>,
    /// Where the figures go [default: bench.json in the target directory]
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Measures, prints the tables and writes the file.
///
/// # Errors
/// When something cannot be measured; a figure that is missed is none.
pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    setup::ensure(Needs::Lab)?;
    let binary = build::natbpf(true)?;
    let mut programs = Programs::load()?;
    let mut lanes = Vec::new();
    for path in PATHS {
        lanes.push(Lane::new(path, &mut programs, &binary)?);
    }
    let directions: Vec<_> = Direction::BOTH
        .into_iter()
        .filter(|direction| args.only.is_empty() || args.only.contains(direction))
        .collect();
    let results = small_packets(&mut programs, &lanes, &directions, args.rounds)?;
    let mut report = serde_json::Map::new();
    for (direction, results) in directions.iter().zip(&results) {
        table(*direction, results);
        let paths = PATHS.iter().zip(results);
        let paths = paths.map(|(path, figures)| (path.name().to_owned(), figures.json()));
        let name = format!("{} Mpps", direction.name());
        report.insert(name, serde_json::Value::Object(paths.collect()));
    }
    let text = serde_json::to_string_pretty(&report)?;
    let file = match &args.json {
        Some(file) => file.clone(),
        None => workspace()?.target().join("bench.json"),
    };
    std::fs::write(&file, text).with_context(|| format!("write {}", file.display()))
}

/// Millions of packets a second, by direction and path.
fn small_packets(
    programs: &mut Programs,
    lanes: &[Lane],
    directions: &[Direction],
    rounds: usize,
) -> Result<Vec<Vec<Figures>>> {
    let mut sinks = Vec::new();
    for lane in lanes {
        sinks.extend(lane.sinks(programs)?);
    }
    packets::warm_up(programs, lanes, directions)?;
    let mut results = vec![vec![Figures::default(); lanes.len()]; directions.len()];
    for round in 1..=rounds {
        eprintln!("small packets, round {round} of {rounds}");
        for (direction, results) in directions.iter().zip(&mut results) {
            for (lane, figures) in lanes.iter().zip(results) {
                let shot = packets::measure(programs, lane, *direction)?;
                if shot.lost() > 0.01 {
                    let (path, lost) = (lane.path.name(), 100.0 * shot.lost());
                    eprintln!("{path}: {lost:.1} % of the packets were lost");
                }
                figures.push(shot.mpps());
            }
        }
    }
    Ok(results)
}

fn table(direction: Direction, results: &[Figures]) {
    let base = |path| PATHS.iter().position(|other| *other == path);
    let (Some(nftables), Some(bare)) = (base(Path::Nftables), base(Path::RedirectXdp)) else {
        return;
    };
    println!(
        "| {}, Mpps | median | least to most | to nftables | to the bare XDP redirect |",
        direction.name()
    );
    println!("| --- | --- | --- | --- | --- |");
    for (path, figures) in PATHS.iter().zip(results) {
        println!(
            "| {} | {:.3} | {:.3} to {:.3} | {:.2} | {:.2} |",
            path.name(),
            figures.median(),
            figures.least(),
            figures.most(),
            figures.ratios(&results[nftables]).median(),
            figures.ratios(&results[bare]).median(),
        );
    }
}
