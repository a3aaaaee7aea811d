//! Other software on the host: natbpf reports conflicts and remedies, and packets behave as
//! reported. Each test builds the situation, and sees finding and packets agree.

mod bridges;
mod forwarding;
mod ipv6;
mod owners;
mod programs;
mod routing;
mod translation;

use anyhow::{Context, Result, ensure};
use lab::service::{Service, http_get};
use lab::topology::Proxmox;
use lab::{Host, Natbpf};
use serde_json::Value;
use tests::at;

/// Guests that reach a page outside, and one whose page is reached from outside.
struct Pages {
    _outside: Service,
    _inside: Service,
}

impl Pages {
    fn open(net: &Proxmox) -> Result<Self> {
        Ok(Self {
            _outside: Service::http(&net.cli, "198.51.100.2:80")?,
            _inside: Service::http(&net.vm1, "0.0.0.0:10080")?,
        })
    }
}

/// A guest reads a page outside; returns the client's address as the page sees it.
fn out(net: &Proxmox) -> Result<String> {
    http_get(&net.vm1, at(Proxmox::CLI, 80))
}

/// A remote reads a guest's page by a forwarded port; returns the client's address as the page sees
/// it.
fn back_in(net: &Proxmox) -> Result<String> {
    http_get(&net.cli, at(Proxmox::PUBLIC, 10080))
}

fn both_pass(net: &Proxmox) -> Result<()> {
    let seen = out(net).context("out")?;
    ensure!(seen.contains("cli sees 19.19.8.10:"), "{seen}");
    let seen = back_in(net).context("in")?;
    ensure!(seen.contains("vm1 sees 198.51.100.2:"), "{seen}");
    Ok(())
}

fn both_are_blocked(net: &Proxmox) -> Result<()> {
    ensure!(out(net).is_err(), "a guest gets out");
    ensure!(back_in(net).is_err(), "somebody gets in");
    Ok(())
}

/// The findings of one kind, as `natbpf status --json` has them.
fn findings(natbpf: &Natbpf, kind: &str) -> Result<Vec<Value>> {
    let status = natbpf.status()?;
    let all = status["conflicts"].as_array().context("no conflicts")?;
    let of_kind = all.iter().filter(|one| one["kind"] == kind);
    Ok(of_kind.cloned().collect())
}

/// The only finding of that kind.
fn finding(natbpf: &Natbpf, kind: &str) -> Result<Value> {
    let mut found = findings(natbpf, kind)?;
    ensure!(found.len() == 1, "{} of {kind}: {found:#?}", found.len());
    Ok(found.remove(0))
}

fn no_findings(natbpf: &Natbpf) -> Result<()> {
    let status = natbpf.status()?;
    let found = &status["conflicts"];
    ensure!(found == &Value::Array(Vec::new()), "{found:#}");
    Ok(())
}

/// Connections that a rule of natbpf's has translated.
fn counted(natbpf: &Natbpf, rule: &str) -> Result<u64> {
    let stats = natbpf.stats()?;
    let rules = stats["rules"].as_array();
    let rule = rules.and_then(|rules| rules.iter().find(|one| one["name"] == rule));
    Ok(rule.map_or(0, |rule| rule["connections"].as_u64().unwrap_or(0)))
}

/// Does what a finding says is to be done.
fn follow(host: &Host, finding: &Value) -> Result<()> {
    let commands = finding["commands"].as_array().context("no commands")?;
    ensure!(!commands.is_empty(), "nothing to do: {finding:#}");
    for command in commands {
        let command = command.as_str().context("no command")?;
        host.check(["sh", "-c", command])?;
    }
    Ok(())
}

/// Loads rules by a tool that reads them from its standard input.
fn load(host: &Host, tool: &[&str], rules: &str) -> Result<()> {
    let output = host.run_with_input(tool, rules.as_bytes())?;
    output.expect_ok().with_context(|| rules.to_owned())?;
    Ok(())
}
