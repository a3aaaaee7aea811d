//! `cargo xtask soak`: the test `tests/tests/soak.rs` for as long as one likes, with a seed of your
//! choice, and prints its progress.

use anyhow::Result;
use bpf_toolchain::process::show;
use clap::Args;

use crate::command::{cargo, workspace};
use crate::setup::{self, Needs};

/// The test itself; those beside it test what it finds.
const SOAK: &str = "whatever_happens_to_the_host_no_session_suffers";

/// How long, and what.
#[derive(Args, Debug)]
pub(crate) struct SoakArgs {
    /// How long operations follow each other
    #[arg(long, default_value_t = 5.0)]
    minutes: f64,
    /// Repeats the operations of a run before; drawn if it is not said
    #[arg(long)]
    seed: Option<u64>,
    /// Ends after so many operations
    #[arg(long)]
    steps: Option<usize>,
}

/// The command itself.
pub(crate) fn run(args: &SoakArgs) -> Result<()> {
    setup::ensure(Needs::Tests)?;
    let workspace = workspace()?;
    // natbpf itself, which the test runs.
    show(cargo(&workspace, "build").args(["--bin", "natbpf"]))?;
    let mut command = cargo(&workspace, "test");
    command.args(["--package", "tests", "--test", "soak", "--"]);
    command.args(["--exact", SOAK, "--nocapture"]);
    command.env("NATBPF_SOAK_MINUTES", args.minutes.to_string());
    for (variable, value) in [
        ("NATBPF_SOAK_SEED", args.seed.map(|seed| seed.to_string())),
        (
            "NATBPF_SOAK_STEPS",
            args.steps.map(|steps| steps.to_string()),
        ),
    ] {
        match value {
            Some(value) => command.env(variable, value),
            None => command.env_remove(variable),
        };
    }
    show(&mut command)
}
