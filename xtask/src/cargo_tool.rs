//! Cargo subcommands that set-up builds below the target directory, each in one fixed version.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use bpf_toolchain::Workspace;
use bpf_toolchain::output::say;
use bpf_toolchain::process::{capture, show};

use crate::command::cargo;

/// A subcommand of cargo, such as cargo-mutants.
pub(crate) struct CargoTool {
    /// The subcommand: `mutants` for the package and program `cargo-mutants`.
    pub(crate) subcommand: &'static str,
    /// The version to install.
    pub(crate) version: &'static str,
    /// Whether it is built without optimisation: quicker to build, slower to run.
    pub(crate) unoptimised: bool,
}

impl CargoTool {
    /// Returns the path of the program, and builds it first unless it is there in this version.
    ///
    /// # Errors
    /// When cargo cannot download or build the package.
    pub(crate) fn install(&self, workspace: &Workspace) -> Result<PathBuf> {
        let package = format!("cargo-{}", self.subcommand);
        let root = workspace.target().join(&package);
        let program = root.join("bin").join(&package);
        let version = capture(Command::new(&program).args([self.subcommand, "--version"]));
        if version.is_ok_and(|version| version.contains(self.version)) {
            return Ok(program);
        }
        say(&format!(
            "setup: building {package} {} (a minute or two)",
            self.version
        ));
        let mut install = cargo(workspace, "install");
        install.args([&package, "--version", self.version, "--locked", "--force"]);
        install.arg("--root").arg(&root);
        install.arg("--target-dir").arg(root.join("build"));
        if self.unoptimised {
            install.arg("--debug").env("CARGO_PROFILE_DEV_DEBUG", "0");
        }
        show(&mut install).with_context(|| format!("build {package}"))?;
        // The intermediate files are large, and not needed again.
        let _ = fs::remove_dir_all(root.join("build"));
        Ok(program)
    }
}
