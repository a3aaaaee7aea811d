//! `cargo xtask build`: the shipped program, with its BPF object inside.

use std::io::{BufReader, Read};
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use bpf_toolchain::process::line;
use clap::Args;

use crate::command::{cargo, workspace};
use crate::setup::{self, Needs};

/// How to build.
#[derive(Args, Debug)]
pub(crate) struct BuildArgs {
    /// Optimise, as for a release
    #[arg(long)]
    release: bool,
}

/// The command itself.
pub(crate) fn run(args: &BuildArgs) -> Result<()> {
    println!("{}", natbpf(args.release)?.display());
    Ok(())
}

/// Builds natbpf, after setting up what that needs, and returns the program's path.
///
/// # Errors
/// When set-up or compilation fail; cargo's messages are shown by then.
pub(crate) fn natbpf(release: bool) -> Result<PathBuf> {
    setup::ensure(Needs::Build)?;
    let mut command = cargo(&workspace()?, "build");
    command.args(["--package", "nat-user", "--bin", "natbpf"]);
    command.arg("--message-format=json-render-diagnostics");
    if release {
        command.arg("--release");
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start `{}`", line(&command)))?;
    let messages = BufReader::new(child.stdout.take().context("cargo's messages")?);
    let program = executable(messages)?;
    if !child.wait()?.success() {
        bail!("natbpf does not build; the messages are above");
    }
    program.context("cargo built no program")
}

/// The last program that cargo says it made.
fn executable(messages: impl Read) -> Result<Option<PathBuf>> {
    let mut found = None;
    for message in serde_json::Deserializer::from_reader(messages).into_iter() {
        let message: serde_json::Value = message.context("read cargo's messages")?;
        if let Some(path) = message
            .get("executable")
            .and_then(serde_json::Value::as_str)
        {
            found = Some(PathBuf::from(path));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_read_from_cargos_messages() {
        let messages = br#"{"reason":"compiler-artifact","executable":null}
            {"reason":"compiler-artifact","executable":"/t/debug/natbpf"}
            {"reason":"build-finished","success":true}"#;
        assert_eq!(
            executable(&messages[..]).unwrap(),
            Some(PathBuf::from("/t/debug/natbpf"))
        );
    }

    #[test]
    fn a_failed_build_has_no_program() {
        let messages = br#"{"reason":"build-finished","success":false}"#;
        assert_eq!(executable(&messages[..]).unwrap(), None);
    }
}
