//! The time that BPF programs themselves take, by the kernel's own count of it, and how many
//! instructions they have, with all that they call.
//!
//! While packets of established flows pass, the kernel adds up each program's run time and runs.
//! `BPF_PROG_TEST_RUN` with a repeat would be quieter, but the second run gets the packet that the
//! first one has changed, which for a NAT is another packet.

use std::collections::HashMap;

use anyhow::{Context, Result};
use aya::programs::loaded_programs;
use aya::sys::{Stats, enable_stats};

use super::extent::{Extent, progress};
use super::lanes::Lanes;
use super::packets;
use super::paths::{Direction, Path, Variant};
use super::report::Table;
use super::statistics::Figures;

/// The paths that have programs.
const PATHS: [Path; 4] = [
    Path::RedirectXdp,
    Path::RedirectTc,
    Path::NatbpfTc,
    Path::NatbpfXdp,
];
/// The programs that belong to measuring, by the names that the kernel keeps.
const OURS: [&str; 3] = ["generate", "generate6", "sink"];
/// Length of `struct bpf_insn`.
const INSTRUCTION_BYTES: u32 = 8;
/// A program is on the path if it runs for one packet in this many.
const RARE: u64 = 10;

/// Nanoseconds and runs of each program so far, by its number.
type Runs = HashMap<u32, (String, u64, u64)>;

/// Nanoseconds that the programs of each path take for a packet.
///
/// # Errors
/// When the kernel does not count, or a path does not work.
pub(crate) fn measure(lanes: &mut Lanes, extent: &Extent) -> Result<Vec<Table>> {
    let variants = PATHS.map(Variant::new);
    let (programs, lanes, _sinks) = lanes.with_sinks(&variants)?;
    packets::warm_up(programs, &lanes, &Direction::BOTH)?;
    let _counting = enable_stats(Stats::RunTime).context("let the kernel count run times")?;
    let mut tables = Vec::new();
    for direction in Direction::BOTH {
        let mut rows: Vec<(String, Figures)> = Vec::new();
        for round in 1..=extent.rounds {
            progress(
                &format!("{}, programs", direction.name()),
                round,
                extent.rounds,
            );
            for lane in &lanes {
                let before = runs()?;
                let shot = packets::measure(programs, lane, direction)?;
                for (program, cost_ns) in costs(&before, &runs()?, shot.arrived) {
                    let name = format!("{}: {program}", lane.variant.name());
                    match rows.iter_mut().find(|(row, _)| *row == name) {
                        Some((_, figures)) => figures.push(cost_ns),
                        None => rows.push((name, [cost_ns].into_iter().collect())),
                    }
                }
            }
        }
        rows.sort_by(|(a, _), (b, _)| a.cmp(b));
        tables.push(Table {
            title: format!("{}, run time of programs", direction.name()),
            unit: "ns/run",
            less_is_better: true,
            rows,
            bases: Vec::new(),
        });
    }
    Ok(tables)
}

/// What the kernel has counted until now.
fn runs() -> Result<Runs> {
    let mut runs = Runs::new();
    for program in loaded_programs() {
        // One may go while the list is read.
        let Ok(program) = program else { continue };
        let mut name = program.name_as_str().unwrap_or("unnamed").to_owned();
        if OURS.contains(&name.as_str()) {
            continue;
        }
        // As the kernel runs them: with what the verifier has put in.
        if let Some(bytes) = program.size_translated() {
            name += &format!(", {} instructions", bytes / INSTRUCTION_BYTES);
        }
        let time_ns = program.run_time().as_nanos() as u64;
        runs.insert(program.id(), (name, time_ns, program.run_count()));
    }
    Ok(runs)
}

/// Names and nanoseconds a run of those that ran for the packets.
fn costs(before: &Runs, after: &Runs, packets: u64) -> Vec<(String, f64)> {
    let mut costs = Vec::new();
    for (id, (name, time_ns, count)) in after {
        let (time_before_ns, count_before) = before
            .get(id)
            .map_or((0, 0), |(_, time, count)| (*time, *count));
        let count = count - count_before;
        if count * RARE >= packets {
            costs.push((
                name.clone(),
                (time_ns - time_before_ns) as f64 / count as f64,
            ));
        }
    }
    costs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_programs_on_the_path_are_listed() {
        let of = |inbound, rare| {
            Runs::from([
                (1, ("nat_inbound".to_owned(), 1000 + 90 * inbound, inbound)),
                (2, ("end_sessions".to_owned(), 500 * rare, rare)),
            ])
        };
        let costs = costs(&of(10, 0), &of(1010, 3), 1000);
        assert_eq!(costs, [("nat_inbound".to_owned(), 90.0)]);
    }
}
