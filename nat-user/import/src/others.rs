//! Tables that natbpf leaves to netfilter, and what nevertheless changes for their rules.

use std::collections::BTreeSet;

use super::{
    condition::Condition,
    dump::Dump,
    findings::{Findings, Kind},
    flatten::{self, Step},
    forward,
    plan::{Origin, Plan},
    ranges::Addresses,
    rule::Action,
    topology::Topology,
};

/// The hint for rules that `--policies` converts.
const POLICIES: &str = ", or import it with --policies";

const FILTER: &str = "filter rule, natbpf leaves netfilter's filter rules in force: keep it";

/// Lists every rule of the tables other than nat.
pub(super) fn note(dump: &Dump, topology: &Topology, findings: &mut Findings<'_>, plan: &mut Plan) {
    let forwarded: BTreeSet<usize> = flatten::steps(dump, "filter", "FORWARD")
        .unwrap_or_default()
        .iter()
        .map(|step| step.rule)
        .collect();
    for (name, table) in &dump.tables {
        if name == "nat" {
            continue;
        }
        for (line, text) in &table.policies {
            if findings.is_line_done(*line) {
                continue;
            }
            let reason = format!("policy of the {name} table, natbpf leaves it in force: keep it");
            findings.line(*line, text, Kind::Note, reason);
        }
        for rule in dump.rules_of(name) {
            if name == "mangle" && clamps_mss(dump, rule, topology, plan) {
                findings.done(rule);
                continue;
            }
            if findings.is_done(rule) {
                translated_state(dump, rule, findings);
                continue;
            }
            let reason = match name.as_str() {
                "filter" if forwarded.contains(&rule) => format!("{FILTER}{POLICIES}"),
                "filter" => FILTER.to_owned(),
                other => format!("{other} rule, natbpf leaves it in force: keep it"),
            };
            findings.note(rule, reason + &per_packet(dump, rule));
            translated_state(dump, rule, findings);
        }
    }
    for table in ["raw", "mangle"] {
        let steps = flatten::steps(dump, table, "PREROUTING").unwrap_or_default();
        for step in steps
            .iter()
            .filter(|step| step.action != Action::Count && !plan.is_nat(step.rule))
        {
            before_translation(step, findings, plan);
        }
    }
}

/// Targets and matches that must see each packet, which the fast path bypasses.
fn per_packet(dump: &Dump, rule: usize) -> String {
    let rule = &dump.rules[rule];
    let counts = rule
        .condition
        .foreign
        .iter()
        .any(|foreign| foreign.reason.contains("count"));
    let marks = matches!(&rule.action, Action::Pass(target)
        if ["MARK", "CONNMARK", "DSCP", "TOS", "CLASSIFY"].contains(&target.as_str()));
    if counts || marks {
        " (if it must see each packet of a connection, write forwarding = \"kernel\")".to_owned()
    } else {
        String::new()
    }
}

/// `mss_clamp` of the uplinks of a TCPMSS rule.
fn clamps_mss(dump: &Dump, rule: usize, topology: &Topology, plan: &mut Plan) -> bool {
    let Action::ClampMss(size) = dump.rules[rule].action else {
        return false;
    };
    if size.is_some_and(|size| size < SMALLEST_MSS) {
        return false;
    }
    let condition = &dump.rules[rule].condition;
    let uplinks = (0..).zip(&topology.uplinks);
    let about: Vec<usize> = uplinks
        .filter(|(_, up)| {
            condition.output.matches(&up.interface) && condition.input.matches(&up.interface)
                || condition.output.is.contains(&up.interface)
                || condition.input.is.contains(&up.interface)
        })
        .map(|(number, _)| number)
        .collect();
    for uplink in &about {
        match plan
            .mss_clamp
            .iter_mut()
            .find(|(known, ..)| known == uplink)
        {
            Some((_, known, origin)) if *known == size => origin.add(rule),
            Some(_) => return false,
            None => {
                let mut origin = Origin::default();
                origin.add(rule);
                plan.mss_clamp.push((*uplink, size, origin));
            }
        }
    }
    !about.is_empty()
}

/// The least value of `mss_clamp`.
const SMALLEST_MSS: u16 = 88;

/// netfilter does not mark connections that natbpf translates.
fn translated_state(dump: &Dump, rule: usize, findings: &mut Findings<'_>) {
    let Condition {
        is_translated,
        foreign,
        ..
    } = &dump.rules[rule].condition;
    let asks = |text: &str| {
        ["--ctorig", "--ctrepl", "DNAT", "SNAT"]
            .iter()
            .any(|word| text.contains(word))
    };
    if is_translated.is_some() || foreign.iter().any(|foreign| asks(&foreign.text)) {
        let warning = "matches connections that netfilter has translated, but netfilter does not \
                       know natbpf's connections: name the guests' addresses and ports in it \
                       instead";
        findings.warning(rule, warning);
    }
}

/// Rules before netfilter's own translation now see packets after natbpf's.
fn before_translation(step: &Step, findings: &mut Findings<'_>, plan: &Plan) {
    let condition = &step.condition;
    if condition.destinations.is_full() && condition.ports.is_full() {
        return;
    }
    let external = |forward: &&super::plan::Forward| {
        let external = Condition {
            destinations: forward
                .address
                .map_or_else(Addresses::full, Addresses::address),
            protocols: forward::numbers(&forward.protocols),
            ports: forward::set(&forward.ports),
            ..Condition::default()
        };
        condition.meets(&external)
    };
    if let Some(forward) = plan.forwards.iter().find(external) {
        let warning = format!(
            "runs before netfilter's translation but after natbpf's: packets of a forward to {} \
             have the guest's address and port here",
            forward.to
        );
        findings.warning(step.rule, warning);
    }
}
