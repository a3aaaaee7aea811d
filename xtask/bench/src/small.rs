//! Small packets of established sessions, inbound through a forward and outbound by masquerade.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::generator::{Generator, Traffic};
use crate::net::{BRIDGE, CLI, ETH, Net, PORT, PUBLIC, Tools, UPLINK, VM1};
use crate::path::Way;
use crate::stats::Samples;

/// Flows that take turns.
const FLOWS: u32 = 512;
/// Frames before a measurement, and in it.
const WARM_UP: u32 = 100_000;
const FRAMES: u32 = 600_000;
/// Between two warm-ups: what has been learned is in use by then.
const PAUSE: Duration = Duration::from_millis(1100);

/// From outside to a guest, or the other way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Direction {
    Inbound,
    Outbound,
}

/// Packets by way and direction, in millions a second.
pub(crate) fn run(tools: &Tools, rounds: usize) -> Result<()> {
    let mut results: BTreeMap<(Direction, Way), Samples> = BTreeMap::new();
    for round in 1..=rounds {
        eprintln!("small packets, round {round} of {rounds}");
        for direction in [Direction::Inbound, Direction::Outbound] {
            for way in Way::ALL.into_iter().filter(|way| {
                std::env::var("WAYS")
                    .map_or(true, |w| w.split(',').any(|n| format!("{way:?}") == n))
            }) {
                let rate = measure(tools, way, direction)
                    .with_context(|| format!("{direction:?}, {}", way.name()))?;
                eprintln!("{direction:?} {}: {rate:.3}", way.name());
                results.entry((direction, way)).or_default().push(rate);
            }
        }
    }
    for ((direction, way), samples) in &results {
        let of = |way| {
            results
                .get(&(*direction, way))
                .map_or(f64::NAN, Samples::median)
        };
        let (nft, tc, xdp) = (of(Way::Nftables), of(Way::BareTc), of(Way::BareXdp));
        let median = samples.median();
        println!(
            "{direction:?} {}: {samples} Mpps, {:.2} nft, {:.2} bare tc, {:.2} bare xdp",
            way.name(),
            median / nft,
            median / tc,
            median / xdp
        );
    }
    Ok(())
}

fn measure(tools: &Tools, way: Way, direction: Direction) -> Result<f64> {
    let net = Net::new()?;
    let (sender, receiver) = match direction {
        Direction::Inbound => (&net.cli, &net.vm1),
        Direction::Outbound => (&net.vm1, &net.cli),
    };
    let mut generator = Generator::new(&tools.object, sender, receiver)?;
    let _open = way.open(&net, tools)?;
    let traffic = traffic(&net, way, direction)?;
    for _ in 0..3 {
        generator.send(&traffic, WARM_UP)?;
        thread::sleep(PAUSE);
    }
    generator.send(&traffic, FRAMES)
}

fn traffic(net: &Net, way: Way, direction: Direction) -> Result<Traffic> {
    let any = Ipv4Addr::UNSPECIFIED;
    Ok(match direction {
        Direction::Inbound => Traffic {
            from_mac: net.cli.mac(ETH)?,
            to_mac: net.host.mac(UPLINK)?,
            source: (CLI, 20_000),
            destination: (if way.translates() { PUBLIC } else { VM1 }, PORT),
            flows: FLOWS,
            ports: FLOWS,
            arrives: (any, VM1),
        },
        Direction::Outbound => Traffic {
            from_mac: net.vm1.mac(ETH)?,
            to_mac: net.host.mac(BRIDGE)?,
            source: (VM1, 20_000),
            destination: (CLI, PORT),
            flows: FLOWS,
            ports: FLOWS,
            arrives: (if way.translates() { PUBLIC } else { VM1 }, CLI),
        },
    })
}
