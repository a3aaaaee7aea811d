//! `cargo xtask lab`: the lab's hosts, kept for playing with them.
//!
//! A file under `target/` records the lab, because every command is a separate process.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use lab::topology::{Options, Proxmox};
use lab::{Host, Natbpf, Place};
use serde_json::{Value, json};

use crate::build;
use crate::command::workspace;
use crate::setup::{self, Needs};

/// What to do with the lab.
#[derive(Debug, Subcommand)]
pub(crate) enum LabCommand {
    /// Make the hosts of the scenario proxmox, and leave them standing
    Up {
        /// Build natbpf and run it on the VM host
        #[arg(long)]
        natbpf: bool,
    },
    /// Take everything down
    Down,
    /// Open a shell on a host, or run a command there
    Shell {
        /// cli, srv2, isp, host, vm1 or vm2
        host: String,
        /// The command with its arguments; a shell if there is none
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// List the hosts with their addresses
    List,
}

/// The command itself.
///
/// # Errors
/// When a lab exists where none should, or the reverse, or the hosts cannot be created.
pub(crate) fn run(command: LabCommand) -> Result<()> {
    match command {
        LabCommand::Up { natbpf } => up(natbpf),
        LabCommand::Down => down(),
        LabCommand::Shell { host, command } => shell(&standing()?, &host, &command),
        LabCommand::List => list(&standing()?),
    }
}

/// An existing lab.
struct Standing {
    place: Place,
    /// The binary of the natbpf that runs on the VM host.
    natbpf: Option<PathBuf>,
}

fn state_file() -> Result<PathBuf> {
    Ok(workspace()?.target().join("lab.json"))
}

/// The lab that `up` has created, if it still exists.
fn find() -> Result<Option<Standing>> {
    let file = state_file()?;
    let Ok(text) = fs::read_to_string(&file) else {
        return Ok(None);
    };
    let state: Value =
        serde_json::from_str(&text).with_context(|| format!("read {}", file.display()))?;
    let prefix = state["prefix"].as_str();
    let prefix = prefix.with_context(|| format!("no prefix in {}", file.display()))?;
    let place = Place::from_prefix(prefix);
    let natbpf = state["natbpf"].as_str().map(PathBuf::from);
    Ok(place.exists().then_some(Standing { place, natbpf }))
}

fn standing() -> Result<Standing> {
    find()?.context("no lab is running; start one with: cargo xtask lab up")
}

fn up(with_natbpf: bool) -> Result<()> {
    if find()?.is_some() {
        bail!("a lab is already running; remove it with: cargo xtask lab down");
    }
    setup::ensure(Needs::Lab)?;
    let binary = if with_natbpf {
        Some(build::natbpf(false)?)
    } else {
        None
    };
    let net = Proxmox::with(&Options {
        lasting: true,
        ..Options::default()
    })?;
    let state = json!({"prefix": net.lab().place().prefix(), "natbpf": binary});
    let file = state_file()?;
    fs::write(&file, state.to_string()).with_context(|| format!("write {}", file.display()))?;
    if let Some(binary) = &binary {
        let (host, place) = (&net.host, net.lab().place());
        let mut natbpf = Natbpf::prepare(host, place, binary.clone(), &net.config())?;
        natbpf.launch()?;
        write_wrapper(place, binary, &natbpf.options())?;
        natbpf.keep();
    }
    let place = net.keep()?;
    list(&Standing {
        place,
        natbpf: binary,
    })?;
    println!("\ncargo xtask lab shell NAME   to look around; lab down   when done");
    Ok(())
}

/// A `natbpf` for shells on the VM host, which names this lab's files.
fn write_wrapper(place: &Place, binary: &Path, options: &[String]) -> Result<()> {
    let folder = tools(place);
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let file = folder.join("natbpf");
    let quoted = |word: &str| format!("'{}'", word.replace('\'', r"'\''"));
    let words: Vec<String> = std::iter::once(binary.display().to_string())
        .chain(options.iter().cloned())
        .map(|word| quoted(&word))
        .collect();
    fs::write(
        &file,
        format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" ")),
    )
    .with_context(|| format!("write {}", file.display()))?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("make {} executable", file.display()))
}

fn tools(place: &Place) -> PathBuf {
    place.folder().join("bin")
}

fn down() -> Result<()> {
    let file = state_file()?;
    if let Some(standing) = find()? {
        if let Some(binary) = &standing.natbpf {
            stop(&standing.place, binary);
        }
        standing.place.remove()?;
        println!("taken down");
    } else {
        println!("no lab is running");
    }
    match fs::remove_file(&file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", file.display()))
        }
        _ => Ok(()),
    }
}

/// Undoes what natbpf did. Whatever goes wrong here goes away with the namespaces.
fn stop(place: &Place, binary: &Path) {
    let said = Host::find(place, "host")
        .and_then(|host| Natbpf::find(&host, place, binary.to_owned()).cli(&["down"]));
    match said {
        Ok(output) if output.ok() => {}
        Ok(output) => eprintln!("natbpf down: {}", output.stderr.trim()),
        Err(error) => eprintln!("{error:#}"),
    }
}

/// Becomes a shell on the host, through `ip netns exec`: this shows the host's own interfaces in
/// `/sys` too.
fn shell(standing: &Standing, name: &str, words: &[String]) -> Result<()> {
    let place = &standing.place;
    let names: Vec<String> = place
        .namespaces()
        .into_iter()
        .map(|(host, _)| host)
        .collect();
    if !names.iter().any(|known| known == name) {
        bail!("no host {name}; there are {}", names.join(", "));
    }
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &place.namespace(name)]);
    if words.is_empty() {
        // Without the user's own start files, which would set another prompt.
        command
            .args(["bash", "--norc", "--noprofile"])
            .env("PS1", format!("[{name}] \\w # "));
    } else {
        command.args(words);
    }
    if name == "host" && standing.natbpf.is_some() {
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", tools(place).display()));
    }
    Err(command.exec()).context("start ip netns exec")
}

fn list(standing: &Standing) -> Result<()> {
    for (name, namespace) in standing.place.namespaces() {
        let host = Host::find(&standing.place, &name)?;
        let said = host.check(["ip", "-brief", "-4", "address", "show", "scope", "global"])?;
        let runs = if name == "host" && standing.natbpf.is_some() {
            ", runs natbpf"
        } else {
            ""
        };
        println!("{name} (namespace {namespace}{runs})");
        for line in said.lines() {
            println!(
                "  {}",
                line.split_whitespace().collect::<Vec<_>>().join(" ")
            );
        }
    }
    Ok(())
}
