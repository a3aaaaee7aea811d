//! `cargo xtask setup`: everything that building and testing need, installed where it may be.
//!
//! The other commands call [`ensure`] before they begin, so users need not run it.

mod needs;
mod tools;

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use bpf_toolchain::apt::{Apt, Refusal};
use bpf_toolchain::process::{SYSTEM_DIRS, capture, find_program, line, show};
use bpf_toolchain::unpack::Unpacked;
use bpf_toolchain::{OBJECT_VARIABLE, Toolchain, Workspace};

use crate::command::workspace;

pub(crate) use needs::Needs;
pub(crate) use tools::lab_programs;
use tools::{BUNDLES, Bundle, Tool, needed};

/// Packages whose installation starts an unwanted service: the tests run the program themselves.
const SERVICES: &[(&str, &str)] = &[("coturn", "coturn.service")];

/// The command itself: prints what is installed in the end.
pub(crate) fn run() -> Result<()> {
    ensure(Needs::Tests)?;
    match env::var(OBJECT_VARIABLE) {
        Ok(object) => println!("BPF object: {object}, named by {OBJECT_VARIABLE}"),
        Err(_) => println!("BPF toolchain: {}", Toolchain::find(&workspace()?)?),
    }
    println!("everything is set up");
    Ok(())
}

/// `PATH` for this program and all that it starts: what set-up has unpacked comes first, and
/// administration programs are found by users whose `PATH` lacks them.
///
/// # Errors
/// When a directory's name cannot stand in `PATH`.
pub(crate) fn path() -> Result<OsString> {
    let mut dirs = vec![workspace()?.unpacked().bin()];
    dirs.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    dirs.extend(SYSTEM_DIRS.map(PathBuf::from));
    let mut kept: Vec<PathBuf> = Vec::new();
    for dir in dirs {
        if !kept.contains(&dir) {
            kept.push(dir);
        }
    }
    env::join_paths(kept).context("put PATH together")
}

/// Installs what is missing for `needs`; silent and quick if nothing is.
///
/// What apt refuses because of something that is installed is unpacked below the target directory.
///
/// # Errors
/// Where something may not or cannot be installed, with the command to type.
pub(crate) fn ensure(needs: Needs) -> Result<()> {
    let workspace = workspace()?;
    let missing = missing_packages(&workspace, needs);
    if !missing.is_empty() {
        install_packages(&workspace, &missing, needs)?;
    }
    if needs_toolchain() {
        Toolchain::install(&workspace)?;
    }
    if needs == Needs::Tests {
        for bundle in BUNDLES {
            ensure_bundle(&workspace, bundle)?;
        }
        ensure_components()?;
    }
    Ok(())
}

/// Unpacks packages that are never installed, with the libraries that this system lacks. This needs
/// no root, unless apt's lists are missing or out of date.
fn ensure_bundle(workspace: &Workspace, bundle: &Bundle) -> Result<()> {
    let unpacked = workspace.unpacked();
    if bundle.is_here(&unpacked) {
        return Ok(());
    }
    let (root, packages) = (unpacked.root(bundle.name), bundle.packages.join(" "));
    let Some(apt) = Apt::find() else {
        bail!(
            "there is no apt-get here, so please unpack Debian's packages {packages}, which {}, \
             each by\n    dpkg-deb -x FILE.deb {}",
            bundle.why,
            root.display()
        );
    };
    eprintln!(
        "setup: unpacking {packages} below target/tools, not installing them: \
         installing them would change this host's network"
    );
    let add = || unpacked.add(&apt, bundle.name, bundle.packages);
    let added = add().or_else(|_| {
        // The lists may be missing, or name files that the archive has replaced.
        apt.update();
        add()
    });
    added.with_context(|| format!("unpack {packages}, which {}", bundle.why))?;
    if !bundle.is_here(&unpacked) {
        bail!("{packages}, unpacked in {}, do not work", root.display());
    }
    Ok(())
}

/// Whether the BPF object is built here, not named by a packager.
fn needs_toolchain() -> bool {
    env::var_os(OBJECT_VARIABLE).is_none()
}

/// The Debian packages that are missing, each once.
fn missing_packages(workspace: &Workspace, needs: Needs) -> Vec<String> {
    let mut packages = Vec::new();
    if needs_toolchain() {
        packages = Toolchain::missing_packages(workspace, needs == Needs::Tests);
    }
    packages.extend(missing_tools(workspace, needs).map(|tool| tool.package.to_owned()));
    packages.sort();
    packages.dedup();
    packages
}

fn missing_tools(workspace: &Workspace, needs: Needs) -> impl Iterator<Item = &'static Tool> {
    let unpacked = workspace.unpacked();
    needed(needs).filter(move |tool| !tool.is_here(&unpacked))
}

fn install_packages(workspace: &Workspace, packages: &[String], needs: Needs) -> Result<()> {
    let Some(apt) = Apt::find() else {
        bail!("{}", to_do_by_hand(workspace, packages)?);
    };
    mask_services(packages)?;
    let names: Vec<&str> = packages.iter().map(String::as_str).collect();
    let refusals = apt.install(&names)?;
    let mut problems = unpack_tools(workspace, &apt, needs, &refusals);
    let with_clippy = needs == Needs::Tests;
    let missing_for_bpf = match needs_toolchain() {
        true => Toolchain::missing_packages(workspace, with_clippy),
        false => Vec::new(),
    };
    if !missing_for_bpf.is_empty() {
        say_unpacking(&missing_for_bpf, &refusals);
        let failed = Toolchain::unpack(workspace, &apt, with_clippy).err();
        let left = Toolchain::missing_packages(workspace, with_clippy);
        if let Some(problem) = failed {
            problems.push(format!("{}, for building BPF: {problem:#}", left.join(" ")));
        } else if !left.is_empty() {
            problems.push(format!("{}, for building BPF", left.join(" ")));
        }
    }
    if !problems.is_empty() {
        bail!("these are missing:\n    {}", problems.join("\n    "));
    }
    Ok(())
}

/// Makes the tools that are still missing run from unpacked packages. Returns what is missing after
/// that.
fn unpack_tools(
    workspace: &Workspace,
    apt: &Apt,
    needs: Needs,
    refusals: &[Refusal],
) -> Vec<String> {
    let unpacked = workspace.unpacked();
    let mut missing: BTreeMap<&str, Vec<&Tool>> = BTreeMap::new();
    for tool in missing_tools(workspace, needs) {
        missing.entry(tool.package).or_default().push(tool);
    }
    let mut problems = Vec::new();
    for (package, tools) in missing {
        if let Err(reason) = unpack(&unpacked, apt, package, refusals) {
            problems.extend(
                tools
                    .iter()
                    .map(|tool| format!("{}: {reason}", tool.about())),
            );
            continue;
        }
        for tool in tools {
            let problem = match tool.take_from(&unpacked) {
                Ok(true) => continue,
                Ok(false) => "the one in the package does not work".to_owned(),
                Err(error) => format!("{error:#}"),
            };
            problems.push(format!("{}: {problem}", tool.about()));
        }
    }
    problems
}

/// Unpacks a package that was not installed.
fn unpack(
    unpacked: &Unpacked,
    apt: &Apt,
    package: &str,
    refusals: &[Refusal],
) -> Result<(), String> {
    let refusal = refusals.iter().find(|refusal| refusal.package == package);
    if let Some(refusal) = refusal.filter(|refusal| refusal.is_out_of_reach()) {
        return Err(refusal.reason.clone());
    }
    say_unpacking(&[package], refusals);
    let added = unpacked.add(apt, package, &[package]);
    added.map_err(|error| format!("{error:#}"))
}

/// Says that packages are unpacked below the target directory, and why they are not installed.
fn say_unpacking<S: AsRef<str>>(packages: &[S], refusals: &[Refusal]) {
    for package in packages.iter().map(AsRef::as_ref) {
        let refusal = refusals.iter().find(|refusal| refusal.package == package);
        let reason = refusal.map_or("the installed one does not do", |refusal| &refusal.reason);
        eprintln!("setup: unpacking {package} below target/tools, not installing it: {reason}");
    }
}

/// Keeps systemd, where it runs, from starting the services of packages that are to be installed.
fn mask_services(packages: &[String]) -> Result<()> {
    if !Path::new("/run/systemd/system").exists() {
        return Ok(());
    }
    for (package, service) in SERVICES {
        if packages.iter().any(|name| name == package) {
            eprintln!("setup: {package} needs no running service here: masking {service}");
            show(Command::new("systemctl").args(["mask", service]))?;
        }
    }
    Ok(())
}

/// What to install on a system without apt.
fn to_do_by_hand(workspace: &Workspace, packages: &[String]) -> Result<String> {
    let mut text = String::from("there is no apt-get here, so please install:\n");
    let missing = missing_tools(workspace, Needs::Tests);
    for tool in missing.filter(|tool| packages.iter().any(|name| name == tool.package)) {
        text += &format!("  {}\n", tool.about());
    }
    if needs_toolchain()
        && let Err(missing) = Toolchain::find(workspace)
    {
        text += &format!(
            "  a toolchain for BPF ({missing}), for instance by\n      \
             rustup toolchain install nightly --component rust-src,clippy --no-self-update\n    \
             and a bpf-linker in PATH that is built with the same version of LLVM\n"
        );
    }
    Ok(text + "Debian's packages with all of it: " + &packages.join(" "))
}

/// The formatter and clippy of the toolchain that runs this program.
fn ensure_components() -> Result<()> {
    let programs = ["cargo-fmt", "rustfmt", "cargo-clippy", "clippy-driver"];
    let bin = toolchain_bin()?;
    if programs.iter().all(|program| bin.join(program).is_file()) {
        return Ok(());
    }
    let Some(rustup) = find_program("rustup") else {
        bail!(
            "{} has no rustfmt or no clippy: install them for this toolchain",
            bin.display()
        );
    };
    let mut add = Command::new(rustup);
    add.args(["component", "add", "rustfmt", "clippy"]);
    eprintln!("setup: {}", line(&add));
    show(&mut add).context("rustfmt and clippy are components of the toolchain")
}

/// Where the programs of the toolchain are that runs this program.
fn toolchain_bin() -> Result<PathBuf> {
    let root = capture(Command::new("rustc").args(["--print", "sysroot"]))?;
    Ok(Path::new(root.trim()).join("bin"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tool_states_its_purpose() {
        for tool in needed(Needs::Tests) {
            assert!(!tool.package.is_empty(), "{}", tool.program);
            assert!(
                tool.why.ends_with(char::is_alphanumeric),
                "{}",
                tool.program
            );
        }
    }

    #[test]
    fn tests_need_all_that_a_build_needs() {
        assert!(
            Needs::Build < Needs::Lab && Needs::Lab < Needs::Bench && Needs::Bench < Needs::Tests
        );
    }
}
