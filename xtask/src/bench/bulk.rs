//! TCP as fast as it goes, by iperf3.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};

use super::generator::cores;
use super::paths::{Direction, Lane, PORT};

/// Length of a transfer in seconds: rather more rounds than longer ones.
const SECONDS: &str = "1";
/// How long iperf3's server takes to listen.
const START: Duration = Duration::from_millis(250);

/// One kind of transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transfer {
    /// From where the connection is opened: by a forward, or by masquerade.
    pub(crate) direction: Direction,
    /// Whether the data go against that direction.
    pub(crate) is_download: bool,
    /// Connections at once.
    pub(crate) streams: u8,
}

impl Transfer {
    /// All kinds; without downloads only those whose data go the way that they were opened.
    pub(crate) fn kinds(downloads: bool) -> Vec<Self> {
        let mut kinds = Vec::new();
        for direction in Direction::BOTH {
            for is_download in [false, true] {
                for streams in [1, 8] {
                    if downloads || !is_download {
                        kinds.push(Self {
                            direction,
                            is_download,
                            streams,
                        });
                    }
                }
            }
        }
        kinds
    }

    /// As tables name it.
    pub(crate) fn name(self) -> String {
        let by = match self.direction {
            Direction::Inbound => "a forward",
            Direction::Outbound => "masquerade",
        };
        let is_inward = (self.direction == Direction::Inbound) != self.is_download;
        let way = if is_inward { "in" } else { "out" };
        let plural = if self.streams == 1 { "" } else { "s" };
        format!("TCP {way} by {by}, {} stream{plural}", self.streams)
    }
}

/// Gigabits a second that were received, with nothing attached that ends packets.
///
/// # Errors
/// When iperf3 cannot be run or fails.
pub(crate) fn measure(lane: &Lane, transfer: Transfer) -> Result<f64> {
    let (client, server) = lane.ends(transfer.direction);
    let to = lane.destination(transfer.direction).to_string();
    let port = PORT.to_string();
    let streams = transfer.streams.to_string();
    // A server for each: one that has lost a client may wait for it for long.
    let _server = server.spawn(["nice", "-n", "-20", "iperf3", "-s", "-1", "-p", &port])?;
    sleep(START);
    let mut words = vec!["nice", "-n", "-20", "iperf3", "-J", "-c", &to];
    words.extend(["-p", &port, "-t", SECONDS]);
    // Both ends on one core, and before all others there: with two, what else the machine does
    // decides, up to threefold.
    let (_, last) = cores()?;
    let places = format!("{last},{last}");
    words.extend(["-P", &streams, "-A", &places]);
    if transfer.is_download {
        words.push("-R");
    }
    let context = || format!("{}, {}", lane.variant.name(), transfer.name());
    let report = client.check(words).with_context(context)?;
    let report: serde_json::Value = serde_json::from_str(&report).with_context(context)?;
    let bits = report["end"]["sum_received"]["bits_per_second"].as_f64();
    Ok(bits.with_context(|| format!("{}: no bits_per_second", context()))? / 1e9)
}
