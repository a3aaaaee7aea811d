//! Packets that open sessions: what a rule list and the making of a session cost.

use anyhow::{Context, Result};

use super::generator::{Amount, shoot};
use super::paths::{Direction, Lane, Path, Variant};
use super::programs::Programs;

/// Source ports, each a separate session.
const SOURCE_PORTS: u32 = 32_768;
/// Packets of one measurement: the first of each flow, and a second one of most.
const PACKETS: u32 = 60_000;

/// What is compared: each NAT with one rule, and with many before the one that matches. nftables
/// would use a map for many, as no rule list.
pub(crate) const VARIANTS: [Variant; 7] = [
    Variant::new(Path::Nftables),
    Variant::new(Path::Iptables),
    Variant::new(Path::Iptables).with_forwards(1000),
    Variant::new(Path::NatbpfTc),
    Variant::new(Path::NatbpfTc).with_forwards(10_000),
    Variant::new(Path::NatbpfXdp),
    Variant::new(Path::NatbpfXdp).with_forwards(10_000),
];

/// Millions of packets a second, beginning without sessions, with what ends packets attached.
///
/// # Errors
/// When sessions cannot be removed, or packets do not arrive as they should.
pub(crate) fn measure(programs: &mut Programs, lane: &Lane) -> Result<f64> {
    lane.forget_sessions()?;
    let direction = Direction::Inbound;
    let shot = shoot(
        programs,
        &lane.sender(direction)?,
        &lane.flows(direction, SOURCE_PORTS),
        &lane.arrival(direction),
        Amount::Packets(PACKETS),
    )
    .with_context(|| format!("{}, new flows", lane.variant.name()))?;
    Ok(shot.mpps())
}
