//! Conflicts with other software on this host, such as rules that drop or translate natbpf's
//! packets, and their remedies.
//!
//! This crate reads and changes nothing: rules belong to their owners. It reads netfilter's rules
//! with the tools that show them; without these tools, or without the rights to run them, it finds
//! nothing. It reports only what is certain: see `rules`.

mod bridges;
mod fits;
mod flows;
mod forwarding;
mod iptables;
mod ipv6;
mod listeners;
mod nft;
mod programs;
mod reverse_path;
mod rules;
mod tools;
mod translation;
mod walk;

#[cfg(test)]
mod tests;

use std::{
    collections::HashSet,
    fmt, fs,
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
    thread,
};

use anyhow::{Context as _, Result};
use nat_config::{model::Config, visible::visible};
use nat_sys::netlink::{Address, Link, Netlink};
use serde::Serialize;

pub use self::programs::{foreign_xdp, refuse_another};
use self::{
    flows::Way,
    reverse_path::Detour,
    rules::{Family, Ruleset, Source},
    tools::Outcome,
    walk::{Budget, Place},
};

/// Something on this host that conflicts with natbpf.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Its kind.
    pub kind: Kind,
    /// Where it is: the chain, the interface, the setting.
    pub place: String,
    /// What it does.
    pub what: String,
    /// Why that matters.
    pub why: String,
    /// What to do, in words.
    pub remedy: String,
    /// What to do, as commands; none if they depend on unknown facts.
    pub commands: Vec<String>,
}

/// Kinds of findings, as `natbpf status --json` names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A FORWARD chain drops what natbpf translates.
    ForwardDrop,
    /// Netfilter translates what natbpf translates.
    OtherNat,
    /// Packets are dropped because the host would answer by another interface.
    ReversePath,
    /// A foreign BPF program.
    BpfProgram,
    /// A forward takes a port on which the host listens.
    HiddenListener,
    /// A bridge that is no network, whose guests do not reach forwards.
    UnnamedBridge,
    /// A network whose rules IPv6 packets pass.
    UnfilteredIpv6,
    /// An interface without IPv6 whose network has it.
    DisabledIpv6,
    /// A bridge that keeps solicitations for guests back.
    MulticastSnooping,
    /// Rules could not be checked.
    Unread,
}

/// One line.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            place,
            what,
            why,
            remedy,
            commands,
            ..
        } = self;
        let mut text = format!("{place}: {what}; {why}; {remedy}");
        if !commands.is_empty() {
            text += ": ";
            text += &commands.join(" ; ");
        }
        f.write_str(&visible(&text))
    }
}

/// Checks the host for conflicts with a configuration. `bpffs` distinguishes natbpf's own programs
/// from foreign ones.
///
/// # Errors
/// When the kernel does not answer.
pub async fn look(netlink: &Netlink, config: &Config, bpffs: &Path) -> Result<Vec<Finding>> {
    let mut host = Host {
        links: netlink.links().await?,
        addresses: netlink.addresses().await?,
        addresses6: netlink.addresses_in().await?,
        detours: Vec::new(),
    };
    let ways = flows::ways(config, &|interface| host.addresses_of(interface));
    host.detours = reverse_path::detours(netlink, &host.links, &ways).await?;
    let (config, bpffs) = (config.clone(), bpffs.to_owned());
    // Waiting for the tools may take long, and updates of next hops must not wait.
    let judging = tokio::task::spawn_blocking(move || judge(&host, &config, &bpffs));
    judging.await.context("look at the host")
}

/// The host's state from the kernel.
struct Host {
    links: Vec<Link>,
    addresses: Vec<Address>,
    addresses6: Vec<Address<Ipv6Addr>>,
    detours: Vec<Detour>,
}

impl Host {
    fn addresses_of(&self, interface: &str) -> Vec<Ipv4Addr> {
        let link = self.links.iter().find(|link| link.name == interface);
        let own = |address: &&Address| link.is_some_and(|link| link.index == address.ifindex);
        let own = self.addresses.iter().filter(own);
        own.map(|address| address.net.addr()).collect()
    }

    fn addresses6_of(&self, interface: &str) -> Vec<Ipv6Addr> {
        let link = self.links.iter().find(|link| link.name == interface);
        let own =
            |address: &&Address<Ipv6Addr>| link.is_some_and(|link| link.index == address.ifindex);
        let own = self.addresses6.iter().filter(own);
        own.map(|address| address.net.addr()).collect()
    }
}

fn judge(host: &Host, config: &Config, bpffs: &Path) -> Vec<Finding> {
    let ways = flows::ways(config, &|interface| host.addresses_of(interface));
    let ways6 = flows::ways6(config, &|interface| host.addresses6_of(interface));
    let (rules, rules6, unread) = read_rules(!ways6.is_empty());
    let mut budget = Budget::new();
    let mut findings = in_rules(&[(&rules, &ways), (&rules6, &ways6)], &mut budget);
    let detours = &host.detours;
    findings.extend(reverse_path::find_reverse_path(
        &rules,
        &ways,
        detours,
        &mut budget,
    ));
    findings.extend(programs::find_programs(config, &host.links, bpffs));
    let held = host.addresses.iter().map(|held| held.net.addr()).collect();
    let own = |interface: &str| host.addresses_of(interface);
    findings.extend(listeners::find_listeners(config, &held, &own));
    findings.extend(bridges::find_bridges(config, &host.links, &host.addresses));
    findings.extend(ipv6::find_unfiltered_ipv6(config));
    findings.extend(ipv6::find_disabled(config));
    findings.extend(ipv6::find_snooping(config));
    findings.extend(unread);
    if budget.is_spent() {
        findings.push(too_many());
    }
    findings
}

/// What the rules of each family do with its connections. A rule about both is reported once if it
/// does the same to both.
fn in_rules(families: &[(&Ruleset, &[Way])], budget: &mut Budget) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (rules, ways) in families {
        let drops = forwarding::find_drops(rules, ways, budget);
        let translations = translation::find_translations(rules, ways, budget);
        for finding in drops.into_iter().chain(translations) {
            if !findings.contains(&finding) {
                findings.push(finding);
            }
        }
    }
    findings
}

/// As [`look`]; a failed check of the host is no error, because the caller asked for something
/// else.
pub async fn look_if_possible(config: &Config, bpffs: &Path) -> Vec<Finding> {
    let found = async { look(&Netlink::connect()?, config, bpffs).await };
    found.await.unwrap_or_else(|error| {
        log::debug!("look for conflicts: {error:#}");
        Vec::new()
    })
}

/// The rules that netfilter's tools show, for IPv4 and, if wanted, for IPv6, and what could not be
/// read.
fn read_rules(wants_ipv6: bool) -> (Ruleset, Ruleset, Vec<Finding>) {
    // Each of them may take seconds if there are many rules.
    let (ipv4, ipv6, nft) = thread::scope(|scope| {
        let nft = scope.spawn(|| tools::run("nft", &["--json", "--terse", "list", "ruleset"]));
        let ipv6 = wants_ipv6.then(|| scope.spawn(|| Saved::read(Family::Ipv6)));
        let ipv4 = Saved::read(Family::Ipv4);
        (ipv4, ipv6.map(thread::ScopedJoinHandle::join), nft.join())
    });
    let mut unread = Vec::new();
    let nft = said("nft", ended(nft), &mut unread);
    let rules = ipv4.rules(Family::Ipv4, nft.as_deref(), &mut unread);
    let ipv6 = ipv6.and_then(Result::ok);
    let rules6 = ipv6.map(|saved| saved.rules(Family::Ipv6, nft.as_deref(), &mut unread));
    (rules, rules6.unwrap_or_default(), unread)
}

/// What the tools of iptables show of a family.
struct Saved {
    over_nft: Outcome,
    legacy: Option<Outcome>,
}

impl Saved {
    fn read(family: Family) -> Self {
        let save = |source: Source| tools::run(&saver(source, family), &[]);
        thread::scope(|scope| {
            let over_nft = scope.spawn(|| save(Source::IptablesNft));
            // The tool would load a kernel module, which is a change.
            let legacy = has_legacy_tables(family).then(|| save(Source::IptablesLegacy));
            Self {
                over_nft: ended(over_nft.join()),
                legacy,
            }
        })
    }

    /// Together with the rules of nft that are not iptables'.
    fn rules(self, family: Family, nft: Option<&str>, unread: &mut Vec<Finding>) -> Ruleset {
        let mut rules = Ruleset::new(family);
        let over_nft = saver(Source::IptablesNft, family);
        if let Some(text) = said(&over_nft, self.over_nft, unread) {
            rules = iptables::parse(&text, Source::IptablesNft, family);
        }
        if let Some(text) = nft {
            // iptables' own tool shows its rules in nftables better.
            let is_known = |table: &str| {
                let of_iptables = |name| rules.has_table(Source::IptablesNft, name);
                matches!(table.split_once(' '), Some((of, name))
                    if of == family.of_nft() && of_iptables(name))
            };
            match nft::parse(text, family, is_known) {
                Ok(others) => rules.extend(others),
                Err(error) => log::debug!("{error:#}"),
            }
        }
        let legacy = saver(Source::IptablesLegacy, family);
        if let Some(text) = self
            .legacy
            .and_then(|outcome| said(&legacy, outcome, unread))
        {
            rules.extend(iptables::parse(&text, Source::IptablesLegacy, family));
        }
        rules
    }
}

/// The program that prints all rules of a tool of iptables.
fn saver(source: Source, family: Family) -> String {
    format!("{}-save", source.tool(family))
}

fn ended(outcome: thread::Result<Outcome>) -> Outcome {
    outcome.unwrap_or_else(|_| Outcome::Failed("its reader panicked".to_owned()))
}

/// What a tool printed, if it printed all.
fn said(program: &str, outcome: Outcome, unread: &mut Vec<Finding>) -> Option<String> {
    match outcome {
        Outcome::Said(text) => Some(text),
        Outcome::Absent => {
            log::debug!("{program} is not installed, so its rules are not read");
            None
        }
        Outcome::Failed(why) => {
            log::debug!("{program} shows no rules: {why}");
            None
        }
        Outcome::TooMuch(why) => {
            unread.push(unlooked(program, why));
            None
        }
    }
}

/// Whether tables of `iptables-legacy` are in use in this network namespace.
fn has_legacy_tables(family: Family) -> bool {
    let file = match family {
        Family::Ipv4 => "ip_tables_names",
        Family::Ipv6 => "ip6_tables_names",
    };
    let names = fs::read_to_string(format!("/proc/thread-self/net/{file}"));
    names.is_ok_and(|names| !names.trim().is_empty())
}

fn unlooked(program: &str, why: &str) -> Finding {
    Finding {
        kind: Kind::Unread,
        place: program.to_owned(),
        what: format!("its rules were not checked: {why}"),
        why: "natbpf does not know which packets they drop or translate".to_owned(),
        remedy: "check them yourself".to_owned(),
        commands: Vec::new(),
    }
}

fn too_many() -> Finding {
    Finding {
        place: "netfilter".to_owned(),
        what: "its rules were not all checked: there are too many".to_owned(),
        ..unlooked("", "")
    }
}

/// A rule or a policy, by the names under which its owner finds it.
fn place_name(rules: &Ruleset, place: Place) -> String {
    let chain = &rules.chains[place.chain];
    let tool = match chain.source {
        Source::Nft => "nftables",
        source => source.tool(rules.family),
    };
    let (table, name) = (&chain.table, &chain.name);
    let rule = match place.rule {
        None => "its policy".to_owned(),
        Some(at) => match chain.source {
            Source::Nft => {
                let text = &chain.rules[at].text;
                format!(
                    "rule {}",
                    text.rsplit(name.as_str()).next().unwrap_or(text).trim()
                )
            }
            _ => {
                let text = &chain.rules[at].text;
                let own = text.strip_prefix(&format!("-A {name} "));
                format!("rule {}", own.unwrap_or(text))
            }
        },
    };
    format!("{tool} table {table}, chain {name}, {rule}")
}

/// Names in a sentence, the first few of many.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 3;
    // A rule for both directions appears twice.
    let mut seen = HashSet::new();
    let names: Vec<&str> = (names.iter().map(String::as_str))
        .filter(|name| seen.insert(*name))
        .collect();
    let shown = names.iter().take(SHOWN).copied().collect::<Vec<_>>();
    match names.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        others => format!("{} and {others} others", shown.join(", ")),
    }
}
