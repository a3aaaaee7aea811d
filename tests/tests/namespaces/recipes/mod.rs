//! The recipes against what they replace: of two hosts that are alike, one has the sysctls, the
//! bridge and the rules that are written by hand, the other natbpf with the configuration in
//! `docs/recipes`. The same machines reach the same addresses of both, and are seen as the same,
//! but for the differences that each test names.

mod docker;
mod hetzner;
mod kvm;
mod matrix;
mod proxmox;
mod snat;
mod world;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use lab::{Host, Lab, Natbpf};

use super::import;

/// The configuration of a recipe.
fn configuration(name: &str) -> Result<String> {
    block(name, "toml")
}

/// The configuration of a recipe with what the page adds to it further down.
fn extended(name: &str) -> Result<String> {
    Ok(configuration(name)? + &block(name, "toml added")?)
}

/// The content of the first block of this kind.
fn block(name: &str, kind: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../docs/recipes/{name}.md"));
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let rest = text.split_once(&format!("```{kind}\n"));
    let block = rest.and_then(|(_, rest)| rest.split_once("```"));
    let (block, _) = block.with_context(|| format!("the recipe {name} has no {kind}"))?;
    Ok(block.to_owned())
}

/// Forwarding and the rules of a scenario, as people set them up; and more rules if there are any.
fn by_hand(host: &Host, scenario: &str, more: &[String]) -> Result<()> {
    host.set_sysctl("net.ipv4.ip_forward", "1")?;
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(format!("../nat-user/tests/fixtures/{scenario}.rules"));
    let rules = fs::read(&path).with_context(|| path.display().to_string())?;
    host.run_with_input(["iptables-restore"], &rules)?
        .expect_ok()?;
    for rule in more {
        let words = ["iptables", "-w"].into_iter().chain(rule.split(' '));
        host.check(words)?;
    }
    Ok(())
}

/// natbpf with what it imports from a scenario's rules on this host, those of FORWARD among them.
/// Netfilter has none of them.
fn with_imported(host: &Host, lab: &Lab, scenario: &str) -> Result<Natbpf> {
    host.set_sysctl("net.ipv4.ip_forward", "1")?;
    let file = import::fixture(scenario);
    let config = import::imported(host, &file, import::Filter::Policies)?.expect_ok()?;
    Natbpf::start(host, lab.place(), &config).context(config)
}
