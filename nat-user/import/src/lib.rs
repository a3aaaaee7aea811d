//! `natbpf import iptables`: from the rules of iptables to a configuration.
//!
//! `script` and `shell` read a file into tables (`dump`) of rules (`rule`), whose
//! conditions are sets (`condition`, `ranges`). `flatten` turns chains that jump to each
//! other into one list for each hook. `topology` derives from the rules which interface leads
//! where. Then each rule of the nat table becomes a part of the configuration (`destination`,
//! `source`, `local`), or a remark about its line (`findings`), or both. `write` writes
//! the result.
//!
//! Nothing here looks at the host.

mod condition;
mod destination;
mod dump;
mod family;
mod findings;
mod flatten;
mod forward;
mod local;
mod merge;
mod names;
mod options;
mod others;
mod part;
mod plan;
mod policies;
mod prefixes;
mod ranges;
mod rule;
mod script;
mod shell;
mod source;
mod spent;
mod topology;
mod write;

#[cfg(test)]
mod tests;

use std::{
    io::{self, Read as _},
    path::Path,
};

use anyhow::{Context as _, Result, anyhow, bail};
use ipnet::IpNet;
use nat_config::input;

pub use self::findings::{Finding, Kind};
use self::{
    destination::Destinations, dump::Dump, findings::Findings, flatten::Step, local::Locals,
    part::Part, plan::Plan, prefixes::Prefixes, rule::Action, source::Sources, topology::Topology,
};

/// What is known about the host besides its rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Interfaces with an address and its prefix.
    pub addresses: Vec<(String, IpNet)>,
    /// The interface of the default route of IPv4.
    pub default_route: Option<String>,
    /// The interface of the default route of IPv6.
    pub default_route6: Option<String>,
    /// Whether rules of the filter table become policies.
    pub policies: bool,
}

/// The result of an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// The configuration, with comments.
    pub toml: String,
    /// Remarks about lines, in the order of the file.
    pub findings: Vec<Finding>,
    /// Why natbpf would refuse the configuration, if it would.
    pub problem: Option<String>,
}

impl Import {
    /// Whether the configuration expresses every rule of the nat table.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let is_left = |finding: &Finding| finding.kind == Kind::Untranslated;
        self.problem.is_none() && !self.findings.iter().any(is_left)
    }
}

/// No dump is larger than this; `/dev/zero` is.
const LARGEST_FILE: u64 = 16 << 20;

/// Reads a file, or standard input if it is called `-`.
///
/// # Errors
/// When it cannot be read, is too large or not UTF-8.
pub fn read(file: &Path) -> Result<String> {
    let source: Box<dyn io::Read> = if file == Path::new("-") {
        Box::new(io::stdin())
    } else {
        let opened = input::open(file);
        opened.with_context(|| format!("open {}", file.display()))?
    };
    let mut bytes = Vec::new();
    let read = source.take(LARGEST_FILE + 1).read_to_end(&mut bytes);
    read.with_context(|| format!("read {}", file.display()))?;
    if bytes.len() as u64 > LARGEST_FILE {
        bail!(
            "{} is larger than 16 MiB; give the output of iptables-save",
            file.display()
        );
    }
    String::from_utf8(bytes).map_err(|_| {
        anyhow!(
            "{} is not UTF-8; give the output of iptables-save",
            file.display()
        )
    })
}

/// Converts output of `iptables-save` or `ip6tables-save`. `file` is its name in messages.
///
/// # Errors
/// When a line is not a line of iptables-save, there is no table, or the rules are of both
/// families.
pub fn iptables(text: &str, file: &str, options: &Options) -> Result<Import> {
    together(&[(text, file)], options)
}

/// Converts one file of each family, or only one, to one configuration. Each is a text and its
/// name in messages.
///
/// # Errors
/// As [`iptables`], and when two files are of one family, or cannot be said in one configuration.
pub fn together(files: &[(&str, &str)], options: &Options) -> Result<Import> {
    let dumps: Vec<(&str, Dump)> = files.iter().map(read_file).collect::<Result<_>>()?;
    if let Some((_, first)) = dumps.first()
        && dumps[1..]
            .iter()
            .any(|(_, other)| other.family == first.family)
    {
        bail!(
            "all files have rules of {}: give one file of iptables-save and one of ip6tables-save",
            first.family.name()
        );
    }
    let begun = dumps
        .iter()
        .map(|(file, dump)| Begun::new(dump, file, options));
    let mut begun: Vec<Begun<'_>> = begun.collect::<Result<_>>()?;
    if let [first, second] = &mut begun[..] {
        if options.policies {
            bail!("{POLICIES_OF_ONE}");
        }
        let named = [&*first.file, &*second.file];
        let topologies = [&mut first.topology, &mut second.topology];
        merge::topologies(topologies, named).map_err(|problem| anyhow!(problem))?;
    }
    let mut parts: Vec<Part<'_>> = begun.into_iter().map(|one| one.finish(options)).collect();
    if let [first, second] = &mut parts[..] {
        merge::plans(first, second).map_err(|problem| anyhow!(problem))?;
    }
    names::name(&mut parts);
    let toml = write::configuration(&parts);
    let problem = nat_config::parse(&toml, Path::new("configuration")).err();
    let findings = parts.into_iter().enumerate();
    let findings = findings.flat_map(|(number, part)| part.findings.finish(number));
    Ok(Import {
        toml,
        findings: findings.collect(),
        problem: problem.map(|error| error.to_string()),
    })
}

const POLICIES_OF_ONE: &str = "--policies takes one file: a policy is about both families, and the \
    filter rules of two files may differ. Import the files without it; or import each alone with \
    it, and join the policies";

fn read_file<'f>((text, file): &(&str, &'f str)) -> Result<(&'f str, Dump)> {
    let family = script::family(text);
    let family = family.map_err(|(line, problem)| anyhow!("{file}:{line}: {problem}"))?;
    let dump = script::read(family, text, file).map_err(|(line, problem)| match line {
        0 => anyhow!("{file}: {problem}"),
        line => {
            let program = family.program();
            anyhow!("{file}:{line}: {problem}; give the output of {program}")
        }
    })?;
    Ok((file, dump))
}

/// A file whose interfaces are known.
struct Begun<'d> {
    file: String,
    dump: &'d Dump,
    findings: Findings<'d>,
    /// The steps of each hook that can match.
    living: [Vec<Step>; 4],
    npt: [Vec<Step>; 2],
    topology: Topology,
}

impl<'d> Begun<'d> {
    fn new(dump: &'d Dump, file: &str, options: &Options) -> Result<Self> {
        let mut findings = Findings::new(dump);
        for (line, text, reason) in &dump.aside {
            findings.line(*line, text, Kind::Note, reason.clone());
        }
        for (line, text, reason) in &dump.unread {
            findings.line(*line, text, Kind::Untranslated, reason.clone());
        }
        for (rule, doubt) in &dump.doubtful {
            findings.warning(*rule, doubt.clone());
        }
        let hooks = flattened(dump, options).map_err(|problem| anyhow!("{file}: {problem}"))?;
        let [(_, all_before), (_, all_after), ..] = hooks.clone();
        let living = living(dump, hooks, &mut findings);
        let living = living.map_err(|problem| anyhow!("{file}: {problem}"))?;
        let [before, after, ..] = &living;
        let npt = Prefixes::steps(dump);
        let with = |steps: &[Step], more: &[Step]| [steps, more].concat();
        let topology = topology::derive(
            dump,
            [&with(before, &npt[0]), &with(after, &npt[1])],
            [&with(&all_before, &npt[0]), &with(&all_after, &npt[1])],
            options,
        );
        Ok(Self {
            file: file.to_owned(),
            dump,
            findings,
            living,
            npt,
            topology,
        })
    }

    fn finish(self, options: &Options) -> Part<'d> {
        let Self {
            file,
            dump,
            mut findings,
            living: [before, after, output, input],
            npt,
            topology,
        } = self;
        let mut plan = Plan::default();
        let mut prefixes = Prefixes {
            topology: &topology,
            findings: &mut findings,
            plan: &mut plan,
        };
        prefixes.translate([&before, &after], &npt);
        let mut destinations = Destinations {
            topology: &topology,
            steps: &before,
            after: &after,
            findings: &mut findings,
            plan: &mut plan,
        };
        destinations.translate();
        let mut sources = Sources {
            topology: &topology,
            steps: &after,
            findings: &mut findings,
            plan: &mut plan,
        };
        sources.translate();
        destination::keep(&mut plan);
        let mut locals = Locals {
            topology: &topology,
            steps: &output,
            findings: &mut findings,
            plan: &mut plan,
        };
        locals.translate();
        for_the_host(&input, &mut findings);
        the_rest(dump, &mut findings);
        if options.policies {
            policies::translate(dump, &topology, &mut findings, &mut plan);
        }
        others::note(dump, &topology, &mut findings, &mut plan);
        Part {
            file,
            dump,
            topology,
            plan,
            findings,
        }
    }
}

/// The steps of each built-in chain of the nat table.
///
/// # Errors
/// When there are too many, or too many in the filter table if its rules must become policies.
fn flattened(dump: &Dump, options: &Options) -> Result<[(&'static str, Vec<Step>); 4], String> {
    if options.policies {
        for hook in ["FORWARD", "INPUT"] {
            flatten::steps(dump, "filter", hook)?;
        }
    }
    let steps = |hook| flatten::steps(dump, "nat", hook).map(|steps| (hook, steps));
    let [before, after, output, input] = HOOKS;
    Ok([steps(before)?, steps(after)?, steps(output)?, steps(input)?])
}

/// The built-in chains of the nat table.
const HOOKS: [&str; 4] = ["PREROUTING", "POSTROUTING", "OUTPUT", "INPUT"];

/// How often two overlapping rules may be compared, weighted by the size of their conditions.
const MOST_COMPARISONS: usize = 40_000_000;

/// Removes steps that no packet reaches, and warns about rules without remaining steps.
///
/// # Errors
/// When too many rules overlap.
fn living(
    dump: &Dump,
    hooks: [(&str, Vec<Step>); 4],
    findings: &mut Findings<'_>,
) -> Result<[Vec<Step>; 4], String> {
    let mut comparisons = 0;
    let mut why_dead = vec![None; dump.rules.len()];
    let mut is_alive = vec![false; dump.rules.len()];
    let living = hooks.map(|(hook, steps)| {
        let mut living: Vec<Step> = Vec::new();
        for mut step in steps {
            if comparisons > MOST_COMPARISONS {
                break;
            }
            let reason = blind(hook, &mut step);
            match reason.or_else(|| death(dump, &step, &living, &mut comparisons)) {
                Some(reason) => {
                    why_dead[step.rule].get_or_insert(reason);
                }
                None => {
                    is_alive[step.rule] = true;
                    living.push(step);
                }
            }
        }
        living
    });
    if comparisons > MOST_COMPARISONS {
        return Err(
            "too many rules of a chain overlap, so natbpf cannot tell which one takes a packet: \
             import the rules in parts"
                .to_owned(),
        );
    }
    let foreign = dump.in_foreign_chains();
    for rule in dump.rules_of("nat") {
        if is_alive[rule] {
            continue;
        }
        if let (Some(chain), None) = (foreign.get(&rule), &why_dead[rule]) {
            let reason = format!(
                "is in the chain {chain}, which another program creates and jumps to: give the \
                 output of iptables-save"
            );
            findings.untranslated(rule, reason);
            continue;
        }
        let unreached = || "is in a chain to which no rule jumps".to_owned();
        let why = why_dead[rule].take().unwrap_or_else(unreached);
        findings.warning(rule, format!("can never match: {why}; left out"));
        findings.done(rule);
    }
    Ok(living)
}

/// Why a step of a nat hook can never match: it names an interface that packets there do not have.
/// A negated interface always matches.
fn blind(hook: &str, step: &mut Step) -> Option<String> {
    let condition = &mut step.condition;
    let (interface, way) = match hook {
        "PREROUTING" | "INPUT" => (&mut condition.output, "leaves by"),
        _ => (&mut condition.input, "came in by"),
    };
    let asked = std::mem::take(interface);
    asked.names_some().then(|| {
        format!(
            "a packet in {hook} has no interface that it {way}, and iptables refuses such a rule"
        )
    })
}

/// Why earlier steps leave no packet for a step.
fn death(dump: &Dump, step: &Step, before: &[Step], comparisons: &mut usize) -> Option<String> {
    let mut rest = step.condition.clone();
    if rest.is_nothing() {
        let reason = "its conditions contradict each other, or those of the jumps to it";
        return Some(reason.to_owned());
    }
    for earlier in before.iter().filter(|earlier| earlier.ends()) {
        let left = rest.without(&earlier.condition);
        if !matches!(left, condition::Rest::All) {
            *comparisons += rest.parts() + earlier.condition.parts();
        }
        match left {
            condition::Rest::Nothing => {
                let line = dump.rules[earlier.rule].line;
                return Some(format!("line {line} takes all its packets"));
            }
            condition::Rest::Some(some) => rest = *some,
            condition::Rest::All | condition::Rest::Unclear => {}
        }
    }
    None
}

/// What the rules do with packets for the host itself.
fn for_the_host(input: &[Step], findings: &mut Findings<'_>) {
    for step in input {
        if matches!(step.action, Action::Snat(_) | Action::Netmap(_)) {
            let reason = "applies to packets for the host itself, but natbpf's rules apply to \
                          guests: leave it in netfilter";
            findings.untranslated(step.rule, reason);
        } else if step.action == Action::Accept && !findings.is_done(step.rule) {
            findings.note(step.rule, NO_MATTER);
        }
    }
}

const NO_MATTER: &str = "applies to the host's own packets, which natbpf does not touch: nothing \
    is needed for it";

/// Every rule of the nat table has an outcome.
fn the_rest(dump: &Dump, findings: &mut Findings<'_>) {
    for rule in dump.rules_of("nat") {
        if findings.is_done(rule) {
            continue;
        }
        match &dump.rules[rule].action {
            // Their effect is in the conditions of other rules.
            Action::Run { chain, .. } if dump.tables["nat"].chains.contains_key(chain) => {
                findings.done(rule);
            }
            Action::Return => findings.done(rule),
            Action::Count => findings.note(
                rule,
                "has no target: it only counts packets, as natbpf \
                stats does",
            ),
            Action::Pass(target) => {
                let note = format!(
                    "{target} stays in netfilter, which sees packets after natbpf translates their \
                     destination and before natbpf translates their source"
                );
                findings.note(rule, note);
            }
            Action::Unknown(reason) => findings.untranslated(rule, reason.clone()),
            Action::Drop { .. } => {
                findings.untranslated(rule, "drops packets, which is the task of the filter table");
            }
            Action::Run { chain, .. } => {
                let reason =
                    format!("the file has no chain {chain}, and it is no target that natbpf knows");
                findings.untranslated(rule, reason);
            }
            _ => findings.untranslated(
                rule,
                "an earlier rule takes all packets that arrive by an \
                uplink",
            ),
        }
    }
}
