//! `cargo xtask check`: format and lints, for the host and for the BPF target.

use std::process::ExitCode;

use anyhow::Result;
use bpf_toolchain::process::show;
use bpf_toolchain::{ObjectBuild, Toolchain, Workspace};

use crate::command::{cargo, workspace};
use crate::setup::{self, Needs};

/// One thing that is checked: its name, and how.
pub(crate) type Check = (&'static str, fn(&Workspace) -> Result<()>);

/// All checks, the quickest first.
pub(crate) const CHECKS: [Check; 3] = [
    ("fmt", format),
    ("clippy for the host", clippy_host),
    ("clippy for BPF", clippy_bpf),
];

/// The command itself: every check is made, whatever became of those before it.
pub(crate) fn run() -> Result<ExitCode> {
    setup::ensure(Needs::Tests)?;
    let workspace = workspace()?;
    let mut code = ExitCode::SUCCESS;
    for (name, check) in CHECKS {
        match check(&workspace) {
            Ok(()) => println!("{name}: ok"),
            Err(error) => {
                println!("{name}: FAILED: {error:#}");
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

fn format(workspace: &Workspace) -> Result<()> {
    show(cargo(workspace, "fmt").args(["--all", "--", "--check"]))?;
    // Outside of the workspace.
    show(cargo(workspace, "fmt").args(["--manifest-path=tests/fuzz/Cargo.toml", "--", "--check"]))
}

fn clippy_host(workspace: &Workspace) -> Result<()> {
    show(cargo(workspace, "clippy").args(["--all-targets", "--", "--deny", "warnings"]))
}

fn clippy_bpf(workspace: &Workspace) -> Result<()> {
    let toolchain = Toolchain::find(workspace)?;
    for package in ["nat-ebpf", "bench-ebpf"] {
        let build = ObjectBuild {
            workspace,
            package,
            toolchain: &toolchain,
            target_dir: workspace.bpf_target(),
        };
        build.clippy()?;
    }
    Ok(())
}
