//! Small packets of established flows: how many a second one core carries.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};

use super::generator::{Amount, Shot, shoot};
use super::paths::{Direction, Lane};
use super::programs::Programs;

/// Flows that take turns.
pub(crate) const FLOWS: u32 = 512;
/// Length of one measurement.
pub(crate) const MEASURE: Duration = Duration::from_millis(200);
/// Packets in a burst that opens sessions.
pub(crate) const BURST: u32 = 32 * FLOWS;
/// Between two bursts: a session's clock runs in seconds, so that after this one the next packet of
/// each belongs to an established session.
pub(crate) const PAUSE: Duration = Duration::from_millis(2100);

/// Opens the sessions of some directions on all lanes, with what ends packets attached.
///
/// # Errors
/// When packets do not arrive as they should.
pub(crate) fn warm_up(
    programs: &mut Programs,
    lanes: &[&Lane],
    directions: &[Direction],
) -> Result<()> {
    for pause in [PAUSE, Duration::ZERO] {
        for lane in lanes {
            for direction in directions {
                send(programs, lane, *direction, Amount::Packets(BURST))?;
            }
        }
        sleep(pause);
    }
    Ok(())
}

/// Measures one direction of a path, with what ends its packets attached.
///
/// # Errors
/// When packets do not arrive as they should.
pub(crate) fn measure(programs: &mut Programs, lane: &Lane, direction: Direction) -> Result<Shot> {
    let shot = send(programs, lane, direction, Amount::Time(MEASURE))?;
    if shot.lost() > 0.01 {
        let percent = 100.0 * shot.lost();
        eprintln!(
            "{}: {percent:.1} % of the packets were lost",
            lane.variant.name()
        );
    }
    Ok(shot)
}

fn send(
    programs: &mut Programs,
    lane: &Lane,
    direction: Direction,
    amount: Amount,
) -> Result<Shot> {
    lane.select(programs)?;
    shoot(
        programs,
        &lane.sender(direction)?,
        &lane.flows(direction, FLOWS),
        &lane.arrival(direction),
        amount,
    )
    .with_context(|| format!("{}, {}", lane.variant.name(), direction.name()))
}
