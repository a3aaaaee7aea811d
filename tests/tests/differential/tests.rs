//! The tests themselves.

use anyhow::{Context, Result};

use crate::differential::run::{Plan, run};
use crate::differential::twin::Manner;

/// Packets of each test, unless it is said otherwise.
const PACKETS: usize = 6000;

fn number(name: &str, otherwise: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name} is {text:?}")),
        Err(_) => Ok(otherwise),
    }
}

fn compare(manner: Manner) -> Result<()> {
    run(Plan {
        manner,
        seed: number("NATBPF_DIFF_SEED", 1)?,
        packets: number("NATBPF_DIFF_PACKETS", PACKETS as u64)? as usize,
    })
}

#[test]
fn as_netfilter() -> Result<()> {
    compare(Manner::Netfilter)
}

#[test]
fn by_default() -> Result<()> {
    compare(Manner::Default)
}
