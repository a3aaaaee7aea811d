//! Installing Debian packages, or saying how to.

use std::process::Command;

use anyhow::{Result, bail};

use crate::process::{capture, find_program, show};

/// Installs `packages` as root and checks with `satisfied` that they brought what was wanted.
///
/// Package lists are fetched only if the packages are unknown, or too old to satisfy. Nothing is
/// ever removed to make room.
///
/// # Errors
/// Without apt, without root, when apt fails, or when the packages do not satisfy: each with the
/// command to type.
pub fn install<S: AsRef<str>>(packages: &[S], satisfied: impl Fn() -> bool) -> Result<()> {
    let packages: Vec<&str> = packages.iter().map(AsRef::as_ref).collect();
    if !is_root() {
        bail!(
            "packages are missing, and only root may install them. Type\n\n    sudo {}\n",
            typed(&packages)
        );
    }
    eprintln!("setup: installing with apt: {}", packages.join(" "));
    let known = capture(apt_get("install").arg("--simulate").args(&packages)).is_ok();
    if known {
        show(apt_get("install").args(&packages))?;
        if satisfied() {
            return Ok(());
        }
    }
    show(&mut apt_get("update"))?;
    show(apt_get("install").args(&packages))?;
    if !satisfied() {
        bail!(
            "apt installed {}, but something is still missing or too old",
            packages.join(" ")
        );
    }
    Ok(())
}

/// Whether this system has apt.
#[must_use]
pub fn is_here() -> bool {
    find_program("apt-get").is_some()
}

/// The command that installs `packages`, as root would type it.
pub(crate) fn typed(packages: &[&str]) -> String {
    format!(
        "apt-get install --yes --no-install-recommends {}",
        packages.join(" ")
    )
}

fn apt_get(action: &str) -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args([
            "-q",
            "-o",
            "Dpkg::Use-Pty=0",
            "-o",
            "DPkg::Lock::Timeout=300",
        ])
        .arg(action);
    if action == "install" {
        command.args(["--yes", "--no-install-recommends", "--no-remove"]);
    }
    command
}

/// Whether this process may install packages.
fn is_root() -> bool {
    capture(Command::new("id").arg("-u")).is_ok_and(|uid| uid.trim() == "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_removed_and_nothing_is_asked() {
        let command = apt_get("install");
        let args: Vec<_> = command.get_args().collect();
        assert!(args.contains(&"--no-remove".as_ref()) && args.contains(&"--yes".as_ref()));
    }

    #[test]
    fn the_typed_command_names_the_packages() {
        let line = typed(&["gcc", "make"]);
        assert_eq!(
            line,
            "apt-get install --yes --no-install-recommends gcc make"
        );
    }
}
