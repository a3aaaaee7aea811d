//! What all commands share: the workspace, and calls of the cargo that started this one.

use std::env;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use bpf_toolchain::Workspace;

/// The workspace that this command belongs to.
pub(crate) fn workspace() -> Result<Workspace> {
    let member = env::var("CARGO_MANIFEST_DIR");
    let member = member.as_deref().unwrap_or(env!("CARGO_MANIFEST_DIR"));
    let executable = env::current_exe().context("find this program's own file")?;
    Workspace::containing(Path::new(member), &executable)
}

/// A command of the cargo that started this program, in the workspace's root and with the same
/// target directory.
pub(crate) fn cargo(workspace: &Workspace, action: &str) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace.root()).arg(action);
    command
}
