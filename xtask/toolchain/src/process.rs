//! Running programs: found without a shell, with the command line in every error.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::output::run_shown;

/// Where administration programs are, also for users whose `PATH` does not say so.
pub const SYSTEM_DIRS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// The path of the program `name`, looked up in `PATH` and in the system's own directories.
#[must_use]
pub fn find_program(name: &str) -> Option<PathBuf> {
    find_programs(name).next()
}

/// All programs of this name, the one first that is called by it.
pub fn find_programs(name: &str) -> impl Iterator<Item = PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs: Vec<PathBuf> = env::split_paths(&path).collect();
    dirs.into_iter()
        .chain(SYSTEM_DIRS.map(PathBuf::from))
        .map(move |dir| dir.join(name))
        .filter(|candidate| candidate.is_file())
}

/// Runs `command` with its output shown as progress on stderr.
///
/// # Errors
/// When the program cannot be started or fails.
pub fn show(command: &mut Command) -> Result<()> {
    command.stdin(Stdio::null());
    let status = run_shown(command).with_context(|| format!("start `{}`", line(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status}); its output is above", line(command));
    }
    Ok(())
}

/// Runs `command` and returns what it wrote to stdout.
///
/// # Errors
/// When the program cannot be started, or when it fails: then with what it wrote to stderr.
pub fn capture(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start `{}`", line(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!(
            "`{}` failed ({}):\n{}",
            line(command),
            output.status,
            stderr.trim_end()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command as one would type it.
#[must_use]
pub fn line(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut words = vec![program.display().to_string()];
    words.extend(
        command
            .get_args()
            .map(|arg| arg.to_string_lossy().into_owned()),
    );
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_by_name() {
        assert!(find_program("sh").is_some());
        assert_eq!(find_program("no-such-program-anywhere"), None);
    }

    #[test]
    fn a_failure_names_the_command_and_repeats_its_stderr() {
        let error =
            capture(Command::new("sh").args(["-c", "echo broken >&2; exit 3"])).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("`sh -c "), "{text}");
        assert!(
            text.contains("exit status: 3") && text.ends_with("broken"),
            "{text}"
        );
    }

    #[test]
    fn a_program_that_does_not_exist_is_named() {
        let error = capture(&mut Command::new("no-such-program-anywhere")).unwrap_err();
        assert_eq!(error.to_string(), "start `no-such-program-anywhere`");
    }
}
