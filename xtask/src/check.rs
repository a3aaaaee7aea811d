//! `cargo xtask check`: format, dependencies, lints for the host and for the BPF target, and
//! documentation.

use std::process::{Command, ExitCode};

use anyhow::Result;
use bpf_toolchain::process::show;
use bpf_toolchain::{ObjectBuild, Toolchain, Workspace};

use crate::cargo_tool::CargoTool;
use crate::command::{cargo, workspace};
use crate::setup::{self, Needs};

/// One thing that is checked: its name, and how.
pub(crate) type Check = (&'static str, fn(&Workspace) -> Result<()>);

/// All checks. rustdoc comes last, because it uses what clippy has built.
pub(crate) const CHECKS: [Check; 5] = [
    ("fmt", format),
    ("dependencies", dependencies),
    ("clippy for the host", clippy_host),
    ("clippy for BPF", clippy_bpf),
    ("rustdoc", documentation),
];

const DENY: CargoTool = CargoTool {
    subcommand: "deny",
    version: "0.20.2",
    unoptimised: true,
};

/// The command itself: every check runs, even after a failure.
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

/// Licences, duplicates and sources of all dependencies; `deny.toml` says what is accepted.
/// Advisories need RustSec's database from the network, so the CI workflow checks them.
fn dependencies(workspace: &Workspace) -> Result<()> {
    let mut deny = Command::new(DENY.install(workspace)?);
    deny.current_dir(workspace.root());
    show(deny.args(["--locked", "check", "licenses", "bans", "sources"]))
}

fn clippy_host(workspace: &Workspace) -> Result<()> {
    show(cargo(workspace, "clippy").args(["--all-targets", "--", "--deny", "warnings"]))
}

fn clippy_bpf(workspace: &Workspace) -> Result<()> {
    let toolchain = Toolchain::find(workspace)?;
    for (package, program) in [
        ("nat-ebpf", "nat-ebpf"),
        ("nat-ebpf", "nat-ebpf6"),
        ("bench-ebpf", "bench-ebpf"),
    ] {
        let build = ObjectBuild {
            workspace,
            package,
            program,
            toolchain: &toolchain,
            target_dir: workspace.bpf_target(),
        };
        build.clippy()?;
    }
    Ok(())
}

/// The documentation of every crate for the host, private items included.
fn documentation(workspace: &Workspace) -> Result<()> {
    let mut doc = cargo(workspace, "doc");
    doc.args(["--no-deps", "--document-private-items"]);
    show(doc.env("RUSTDOCFLAGS", "--deny warnings"))
}
