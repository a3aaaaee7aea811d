//! What a packet costs when the tables are fuller.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::extent::{Extent, progress};
use super::flows;
use super::generator::{Amount, Arrival, Flows, Shot, shoot};
use super::lanes::Lanes;
use super::packets::{self, FLOWS};
use super::paths::{Direction, Lane, Path, Variant};
use super::programs::Programs;
use super::report::{Table, count_of};
use super::statistics::Figures;

/// The paths whose curves are drawn.
const PATHS: [Path; 2] = [Path::NatbpfTc, Path::NatbpfXdp];
/// The first source address of the filling sessions: the shared address space (RFC 6598), where the
/// lab has no host.
const CROWD: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 1);
/// All of them.
const CROWD_PREFIX: &str = "100.64.0.0/10";
/// Source ports of each of them.
const CROWD_PORTS: u32 = 32_768;
/// Room in the table besides, for the hash tables' own needs and the other direction's flows.
const SPARE: u32 = 4096;
/// The most that natbpf makes room for.
const MOST_SESSIONS: u32 = 4_194_304;
/// Length of one measurement.
const MEASURE: Duration = Duration::from_millis(200);

/// Established and new flows with few and many forward rules.
///
/// # Errors
/// When a path does not work.
pub(crate) fn forwards(lanes: &mut Lanes, extent: &Extent) -> Result<Vec<Table>> {
    let mut tables = Vec::new();
    for path in PATHS {
        let variant = |count: &u32| Variant::new(path).with_forwards(*count);
        let variants: Vec<_> = extent.forwards.iter().map(variant).collect();
        let (programs, lanes, _sinks) = lanes.with_sinks(&variants)?;
        packets::warm_up(programs, &lanes, &[Direction::Inbound])?;
        let mut established = vec![Figures::default(); lanes.len()];
        let mut new = established.clone();
        for round in 1..=extent.rounds {
            progress(&format!("{}, forwards", path.name()), round, extent.rounds);
            for (lane, figures) in lanes.iter().zip(&mut established) {
                figures.push(packets::measure(programs, lane, Direction::Inbound)?.mpps());
            }
        }
        for round in 1..=extent.rounds {
            progress(
                &format!("{}, forwards, new flows", path.name()),
                round,
                extent.rounds,
            );
            for (lane, figures) in lanes.iter().zip(&mut new) {
                figures.push(flows::measure(programs, lane)?);
            }
        }
        let names = || {
            extent
                .forwards
                .iter()
                .map(|count| count_of(*count, "forward"))
        };
        tables.push(curve(
            path,
            "forwards, established flows",
            names().zip(established),
        ));
        tables.push(curve(path, "forwards, new flows", names().zip(new)));
    }
    Ok(tables)
}

/// Established flows with few and many sessions in the table: some of them again and again, and
/// all of them in turn.
///
/// # Errors
/// When a path does not work or the table cannot be filled.
pub(crate) fn sessions(lanes: &mut Lanes, extent: &Extent) -> Result<Vec<Table>> {
    let mut tables = Vec::new();
    let least = extent.sessions[0];
    for path in PATHS {
        let (mut few, mut all) = (Vec::new(), Vec::new());
        let base = room(path, least);
        for count in &extent.sessions[1..] {
            let variants = [base, room(path, *count)];
            let (programs, pair, _sinks) = lanes.with_sinks(&variants)?;
            fill(programs, pair[0], least)?;
            fill(programs, pair[1], *count)?;
            let [of_few, of_all] = compare(programs, (pair[0], least), (pair[1], *count), extent)?;
            few.push((count_of(*count, "session"), of_few));
            all.push((count_of(*count, "session"), of_all));
            lanes.remove(&variants[1..]);
        }
        lanes.remove(&[base]);
        tables.push(ratios(path, "of 512 among all sessions", few, extent));
        tables.push(ratios(path, "of all sessions in turn", all, extent));
    }
    Ok(tables)
}

/// The full table's rate divided by the other's, round by round: of a few sessions, and of all.
fn compare(
    programs: &mut Programs,
    (base, base_count): (&Lane, u32),
    (full, full_count): (&Lane, u32),
    extent: &Extent,
) -> Result<[Figures; 2]> {
    let [mut few, mut all] = [const { Vec::new() }; 2];
    // Each visit of all sessions continues where the last one ended: one alone does not reach all.
    let mut begin = 0;
    for round in 1..=extent.rounds {
        let what = count_of(full_count, "session");
        let what = format!("{}, {what}", full.variant.path.name());
        progress(&what, round, extent.rounds);
        let base_few = visit(programs, base, FLOWS, 0)?;
        let full_few = visit(programs, full, FLOWS, 0)?;
        let base_all = visit(programs, base, base_count, 0)?;
        let full_all = visit(programs, full, full_count, begin)?;
        begin = ((u64::from(begin) + full_all.made) % u64::from(full_count)) as u32;
        few.push(full_few.mpps() / base_few.mpps());
        all.push(full_all.mpps() / base_all.mpps());
    }
    Ok([few, all].map(|ratios| ratios.into_iter().collect()))
}

/// natbpf with room for so many sessions.
fn room(path: Path, sessions: u32) -> Variant {
    let room = (sessions + sessions / 64 + SPARE).min(MOST_SESSIONS);
    Variant::new(path).with_sessions(room)
}

/// Lets the guest send to all of the crowd, from the port that is forwarded to it: sessions that
/// are opened from outside would end after ten seconds without an answer.
fn fill(programs: &mut Programs, lane: &Lane, count: u32) -> Result<()> {
    let what = || format!("{} with {count} sessions", lane.variant.name());
    let (crowd, guest) = (Direction::Inbound, Direction::Outbound);
    lane.route(CROWD_PREFIX)?;
    let flows = Flows {
        destination: lane.arrival(crowd).destination.context("no guest")?.0,
        is_answer: true,
        ..members(lane, count, 0)
    };
    let arrival = Arrival {
        destination: None,
        ..lane.arrival(guest)
    };
    let amount = Amount::Packets(count);
    shoot(programs, &lane.sender(guest)?, &flows, &arrival, amount).with_context(what)?;
    let natbpf = lane.natbpf.as_ref().context("no natbpf")?;
    let counted = natbpf.cli(&["conntrack", "count"])?.expect_ok()?;
    let counted: u32 = counted.trim().parse().with_context(|| counted.clone())?;
    ensure!(counted >= count, "{}: {counted} were opened", what());
    Ok(())
}

fn visit(programs: &mut Programs, lane: &Lane, count: u32, begin: u32) -> Result<Shot> {
    crowd(programs, lane, count, begin, Amount::Time(MEASURE))
}

/// Sends from many addresses to the forward.
fn crowd(
    programs: &mut Programs,
    lane: &Lane,
    count: u32,
    begin: u32,
    amount: Amount,
) -> Result<Shot> {
    let direction = Direction::Inbound;
    let flows = members(lane, count, begin);
    let arrival = Arrival {
        source: None,
        ..lane.arrival(direction)
    };
    shoot(programs, &lane.sender(direction)?, &flows, &arrival, amount)
}

/// Flows from many addresses to the forward.
fn members(lane: &Lane, count: u32, begin: u32) -> Flows {
    Flows {
        source: CROWD,
        ports: CROWD_PORTS,
        begin,
        ..lane.flows(Direction::Inbound, count)
    }
}

fn curve(path: Path, of: &str, rows: impl Iterator<Item = (String, Figures)>) -> Table {
    let rows: Vec<_> = rows.collect();
    Table {
        title: format!("{}: {of}", path.name()),
        unit: "Mpps",
        less_is_better: false,
        bases: rows
            .first()
            .map(|(name, _)| name.clone())
            .into_iter()
            .collect(),
        rows,
    }
}

fn ratios(path: Path, of: &str, rows: Vec<(String, Figures)>, extent: &Extent) -> Table {
    let base = count_of(extent.sessions[0], "session");
    Table {
        title: format!("{}: packets {of}, / the same of {base}", path.name()),
        unit: "ratio",
        less_is_better: false,
        rows,
        bases: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_room_is_asked_for_than_there_can_be() {
        assert_eq!(room(Path::NatbpfTc, 4_190_000).sessions, MOST_SESSIONS);
    }
}
