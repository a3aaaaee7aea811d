//! `cargo xtask setup`: everything that building and testing need, installed where it may be.
//!
//! The other commands call [`ensure`] before they begin, so nobody has to type it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use bpf_toolchain::process::{capture, find_program, line, show};
use bpf_toolchain::{OBJECT_VARIABLE, Toolchain, Workspace, apt};

use crate::command::workspace;
use crate::kernels;

/// A program that the lab or the tests run, and the Debian package that has it.
struct Tool {
    program: &'static str,
    package: &'static str,
    /// What for; shown when it cannot be installed.
    why: &'static str,
}

/// Everything that the lab and the tests run, besides natbpf.
const TOOLS: [Tool; 7] = [
    Tool {
        program: "ip",
        package: "iproute2",
        why: "makes namespaces, links and routes",
    },
    Tool {
        program: "tc",
        package: "iproute2",
        why: "shows and damages what passes an interface",
    },
    Tool {
        program: "nft",
        package: "nftables",
        why: "is the NAT to compare with, and a firewall",
    },
    Tool {
        program: "ping",
        package: "iputils-ping",
        why: "tests ICMP echo and path MTU",
    },
    Tool {
        program: "traceroute",
        package: "traceroute",
        why: "tests ICMP errors",
    },
    Tool {
        program: "iperf3",
        package: "iperf3",
        why: "measures throughput",
    },
    Tool {
        program: "curl",
        package: "curl",
        why: "is the HTTP client behind or before the NAT",
    },
];

/// What measuring needs besides.
const BENCH_TOOLS: &[Tool] = &[
    Tool {
        program: "iptables-restore",
        package: "iptables",
        why: "is the other NAT to compare with",
    },
    Tool {
        program: "conntrack",
        package: "conntrack",
        why: "empties the kernel's table of connections",
    },
    Tool {
        program: "bridge",
        package: "iproute2",
        why: "tells a bridge where a guest is",
    },
];

/// What tests need besides.
const TEST_TOOLS: &[Tool] = &[
    Tool {
        program: kernels::QEMU,
        package: "qemu-system-x86",
        why: "runs older kernels, and guests",
    },
    Tool {
        program: "busybox",
        package: "busybox-static",
        why: "is all that the tests' virtual machines have, and asks name servers",
    },
    Tool {
        program: "depmod",
        package: "kmod",
        why: "says which modules a kernel needs for what",
    },
    Tool {
        program: "cpio",
        package: "cpio",
        why: "packs what a kernel boots into",
    },
    Tool {
        program: "c++",
        package: "g++",
        why: "compiles libFuzzer",
    },
    Tool {
        program: "turnserver",
        package: "coturn",
        why: "finds out how the NAT behaves",
    },
    Tool {
        program: "dnsmasq",
        package: "dnsmasq-base",
        why: "serves DHCP and DNS to guests",
    },
    Tool {
        program: "udhcpc",
        package: "udhcpc",
        why: "gets a guest its address",
    },
    Tool {
        program: "mtr",
        package: "mtr-tiny",
        why: "shows the hops of a way",
    },
    Tool {
        program: "nping",
        package: "nmap",
        why: "sends packets that no application sends",
    },
];

/// The programs that the lab and the tests of whole hosts run.
pub(crate) fn lab_programs() -> impl Iterator<Item = &'static str> {
    TOOLS.iter().map(|tool| tool.program)
}

/// Packages whose installation starts a service, which nobody has asked for: the tests run the
/// program themselves.
const SERVICES: &[(&str, &str)] = &[("coturn", "coturn.service")];

/// What a command is about to do, and so what it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Needs {
    /// The BPF toolchain.
    Build,
    /// Also the programs that the lab runs.
    Lab,
    /// Also the other NATs that natbpf is measured against.
    Bench,
    /// Also the formatter and clippy, for the host and for BPF, and what fuzzing needs.
    Tests,
}

/// The command itself: says what is there when all is done.
pub(crate) fn run() -> Result<()> {
    ensure(Needs::Tests)?;
    match env::var(OBJECT_VARIABLE) {
        Ok(object) => println!("BPF object: {object}, named by {OBJECT_VARIABLE}"),
        Err(_) => println!("BPF toolchain: {}", Toolchain::find(&workspace()?)?),
    }
    println!("everything is set up");
    Ok(())
}

/// Installs what is missing for `needs`; silent and quick when nothing is.
///
/// # Errors
/// Where something may not or cannot be installed, with the command to type.
pub(crate) fn ensure(needs: Needs) -> Result<()> {
    let workspace = workspace()?;
    let missing = missing_packages(&workspace, needs);
    if !missing.is_empty() {
        install_packages(&missing, || missing_packages(&workspace, needs).is_empty())?;
    }
    if needs_toolchain() {
        Toolchain::install(&workspace)?;
    }
    if needs == Needs::Tests {
        ensure_components()?;
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
    packages.extend(missing_tools(needs).map(|tool| tool.package.to_owned()));
    packages.sort();
    packages.dedup();
    packages
}

fn missing_tools(needs: Needs) -> impl Iterator<Item = &'static Tool> {
    let lab = TOOLS.iter().filter(move |_| needs >= Needs::Lab);
    let bench = BENCH_TOOLS.iter().filter(move |_| needs >= Needs::Bench);
    let tests = TEST_TOOLS.iter().filter(move |_| needs == Needs::Tests);
    lab.chain(bench)
        .chain(tests)
        .filter(|tool| find_program(tool.program).is_none())
}

fn install_packages(packages: &[String], satisfied: impl Fn() -> bool) -> Result<()> {
    if apt::is_here() {
        mask_services(packages)?;
        return apt::install(packages, satisfied);
    }
    bail!("{}", to_do_by_hand(packages)?)
}

/// Keeps systemd, where it runs, from starting the services of packages that are to be installed.
fn mask_services(packages: &[String]) -> Result<()> {
    if !Path::new("/run/systemd/system").exists() {
        return Ok(());
    }
    for (package, service) in SERVICES {
        if packages.iter().any(|name| name == package) {
            eprintln!("setup: {package} is not to serve anybody here: masking {service}");
            show(Command::new("systemctl").args(["mask", service]))?;
        }
    }
    Ok(())
}

/// What to install on a system without apt.
fn to_do_by_hand(packages: &[String]) -> Result<String> {
    let mut text = String::from("there is no apt-get here, so please install:\n");
    for tool in
        missing_tools(Needs::Tests).filter(|tool| packages.iter().any(|name| name == tool.package))
    {
        text += &format!("  {}, which {}\n", tool.program, tool.why);
    }
    if needs_toolchain()
        && let Err(missing) = Toolchain::find(&workspace()?)
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
    fn every_tool_says_what_it_is_for() {
        for tool in TOOLS.iter().chain(BENCH_TOOLS).chain(TEST_TOOLS) {
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
