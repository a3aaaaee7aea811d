//! Installing Debian packages, or saying how to.
//!
//! Nothing is ever removed or downgraded to make room, and what is held stays held: such packages are
//! refused, and named with the reason.

use std::fmt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Result, bail};

use crate::process::{capture, find_program, show};

/// A package that was not installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its name.
    pub package: String,
    /// Why, in a few words.
    pub reason: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.package, self.reason)
    }
}

/// Installs as root those of `packages` that apt can install without removing, downgrading or releasing
/// another one; the others are returned.
///
/// Package lists are fetched only if a package is unknown, or its file is not to be had. An archive that
/// cannot be reached is no error here: see what was installed.
///
/// # Errors
/// Without root, with the command to type.
pub fn install(packages: &[&str]) -> Result<Vec<Refusal>> {
    if !is_root() {
        bail!(
            "packages are missing, and only root may install them. Type\n\n    sudo {}\n",
            typed(packages)
        );
    }
    let mut refusals = install_known(packages);
    if refusals.iter().any(|refusal| refusal.reason == UNKNOWN) {
        update();
        let again: Vec<String> = refusals.drain(..).map(|refusal| refusal.package).collect();
        refusals = install_known(&again.iter().map(String::as_str).collect::<Vec<_>>());
    }
    Ok(refusals)
}

/// Why a package is refused of which the lists say nothing, or whose file the archive no longer has.
const UNKNOWN: &str = "apt's lists do not have it, or it cannot be downloaded";

fn install_known(packages: &[&str]) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    let mut possible = packages.to_vec();
    if simulate(packages).is_err() {
        possible.retain(|package| match simulate(&[*package]) {
            Ok(()) => true,
            Err(reason) => {
                refusals.push(Refusal {
                    package: (*package).to_owned(),
                    reason,
                });
                false
            }
        });
    }
    if possible.is_empty() {
        return refusals;
    }
    eprintln!("setup: installing with apt: {}", possible.join(" "));
    if show(apt_get("install").args(&possible)).is_ok() {
        return refusals;
    }
    // They may not go together, or one of them has failed.
    for package in possible {
        let reason = match simulate(&[package]) {
            Ok(()) if show(apt_get("install").arg(package)).is_ok() => continue,
            Ok(()) => UNKNOWN.to_owned(),
            Err(reason) => reason,
        };
        refusals.push(Refusal {
            package: package.to_owned(),
            reason,
        });
    }
    refusals
}

/// Fetches the package lists; where the archive cannot be reached, those that are here stay.
pub fn update() {
    if let Err(error) = show(&mut apt_get("update")) {
        eprintln!("setup: {error:#}");
    }
}

/// Whether apt would install these packages, or why not.
fn simulate(packages: &[&str]) -> Result<(), String> {
    let mut command = apt_get("install");
    command.arg("--simulate").args(packages);
    let output = command.stdin(Stdio::null()).output();
    let Output {
        status,
        stdout,
        stderr,
    } = output.map_err(|error| error.to_string())?;
    if status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&stdout) + String::from_utf8_lossy(&stderr);
    Err(reason(&text))
}

/// Why apt refuses, from what it says.
fn reason(text: &str) -> String {
    const HEADINGS: [(&str, &str); 3] = [
        ("packages will be REMOVED", "remove"),
        ("packages will be DOWNGRADED", "downgrade"),
        ("held packages will be changed", "release what is held:"),
    ];
    for (heading, verb) in HEADINGS {
        let mut lines = text.lines().skip_while(|line| !line.contains(heading));
        if lines.next().is_some() {
            let names = lines.take_while(|line| line.starts_with(' '));
            let names: Vec<&str> = names.flat_map(str::split_whitespace).collect();
            return format!("apt would {verb} {}", names.join(" "));
        }
    }
    let errors: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("E: "))
        .collect();
    let is_unknown = |error: &&str| {
        error.starts_with("Unable to locate package") || error.contains("no installation candidate")
    };
    match errors.first() {
        Some(error) if is_unknown(error) => UNKNOWN.to_owned(),
        Some(error) => format!("apt says: {error}"),
        None => "apt fails".to_owned(),
    }
}

/// An `apt-get install` that knows `status` as what is installed, and keeps all its files in `work`: it
/// changes nothing else, whatever it is asked to do besides downloading.
pub(crate) fn resolve_apart(work: &Path, status: &Path) -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command.args(["-q", "install", "--yes", "--no-install-recommends"]);
    let mut archives = work.join("archives").into_os_string();
    archives.push("/");
    for (option, path) in [
        ("Dir::State::status", status.as_os_str()),
        (
            "Dir::State::extended_states",
            work.join("states").as_os_str(),
        ),
        ("Dir::Cache", work.join("cache").as_os_str()),
        ("Dir::Cache::archives", &archives),
    ] {
        let mut setting = std::ffi::OsString::from(option);
        setting.push("=");
        setting.push(path);
        command.arg("-o").arg(setting);
    }
    // By root, apt's own user would have to be let in there.
    command.args(["-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=1"]);
    command
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
        // Its words are read.
        .env("LC_ALL", "C")
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

    #[test]
    fn a_refusal_names_what_apt_would_do_to_others() {
        let removed = "The following additional packages will be installed:\n  libfdt1 libslirp0\n\
                       The following packages will be REMOVED:\n  qemu-utils\n\
                       The following NEW packages will be installed:\n  libfdt1\n\
                       E: Packages need to be removed but remove is disabled.\n";
        assert_eq!(reason(removed), "apt would remove qemu-utils");
        let held = "The following held packages will be changed:\n  mtr-tiny\n\
                    E: Held packages were changed and -y was used without --allow-change-held-packages.\n";
        assert_eq!(reason(held), "apt would release what is held: mtr-tiny");
        let downgraded = "The following packages will be DOWNGRADED:\n  libbar libfoo\n0 upgraded\n\
                          E: Packages were downgraded and -y was used without --allow-downgrades.\n";
        assert_eq!(reason(downgraded), "apt would downgrade libbar libfoo");
    }

    #[test]
    fn a_package_that_the_lists_do_not_have_is_told_from_one_that_apt_refuses() {
        assert_eq!(reason("E: Unable to locate package nonesuch\n"), UNKNOWN);
        let virtual_only = "E: Package 'x' has no installation candidate\n";
        assert_eq!(reason(virtual_only), UNKNOWN);
        let unmet = "E: Unable to correct problems, you have held broken packages.\n";
        assert_eq!(
            reason(unmet),
            "apt says: Unable to correct problems, you have held broken packages."
        );
    }
}
