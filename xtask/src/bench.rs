//! `cargo xtask bench`: builds natbpf and the benchmark, and runs it.

use std::ffi::OsString;

use anyhow::Result;
use bpf_toolchain::process::show;
use bpf_toolchain::{ObjectBuild, Toolchain};
use clap::Args;

use crate::build;
use crate::command::{cargo, workspace};
use crate::setup::{self, Needs};

/// The package of the benchmark's own programs.
pub(crate) const BENCH: &str = "bench-ebpf";

/// What to measure.
#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    /// Arguments of the benchmark: `cargo xtask bench -- --help` shows them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// The command itself.
pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    setup::ensure(Needs::Lab)?;
    let natbpf = build::natbpf(true)?;
    let workspace = workspace()?;
    let toolchain = Toolchain::find(&workspace)?;
    let object = ObjectBuild {
        workspace: &workspace,
        package: BENCH,
        toolchain: &toolchain,
        target_dir: workspace.bpf_target(),
    }
    .build()?;
    let mut command = cargo(&workspace, "run");
    command.args(["--release", "--quiet", "--package", "bench", "--"]);
    command.arg("--natbpf").arg(natbpf);
    command.arg("--object").arg(object);
    show(command.args(&args.args))
}
