//! natbpf against everything that does its job, in one run, in turns.
//!
//! Cores that others use as well give no absolute figure: everything is a ratio of two medians of one
//! run, with the spread beside it. docs/performance.md says how and why.

mod generator;
mod net;
mod path;
mod small;
mod stats;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

/// Measures natbpf, nftables, iptables and the limits of the hooks
#[derive(Parser, Debug)]
#[command(name = "cargo xtask bench --")]
struct Args {
    /// natbpf's program
    #[arg(long, hide = true)]
    natbpf: PathBuf,
    /// The benchmark's own programs
    #[arg(long, hide = true)]
    object: PathBuf,
    /// Times that everything is measured
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let tools = net::Tools {
        natbpf: args.natbpf,
        object: args.object,
    };
    small::run(&tools, args.rounds)
}
