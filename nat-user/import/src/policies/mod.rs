//! Rules of the filter table: from FORWARD to `[[policy]]`, and from INPUT to `host` of networks.
//!
//! A policy's end is an interface or addresses, not both. Addresses of a network therefore imply
//! its interface, and other addresses apply at every interface; a warning says so if it matters.

mod chain;
mod ends;
mod services;

use self::{
    chain::{Chain, End, Living},
    services::{service, services},
};
use super::{
    condition::{Condition, Interfaces},
    dump::Dump,
    findings::{Findings, Kind},
    flatten::Step,
    forward::{numbers, set},
    plan::{Origin, Plan, Policy, Services},
    ranges::Addresses,
    rule::Action,
    topology::Topology,
};

/// A rule with more prefixes than this, of both ends together, is not converted.
const MOST_PAIRS: usize = 1024;

const ANSWERS: &str = "natbpf lets answers pass without a rule, and errors about accepted packets";
const NOTHING_DROPPED: &str = "accepts packets that no rule drops: no policy is needed for it";
const NOT_ASKED: &str = "applies to packets that neither come from nor go to natbpf's networks, \
    and policies do not apply to them: keep it";
const NO_NETWORK: &str = "nothing says which guests are behind this host, and policies need a \
    [network]; give --host, or --address";
const SPOOFED: &str = "these addresses belong to a network behind another interface, and policies \
    match the addresses of a network only at its interface: leave it in netfilter";
const BY_ADDRESS: &str = "a policy names an interface or addresses that are in no network, not \
    both: it applies to these addresses at every interface";
const HOMELESS: &str = "no network contains these addresses, so the policy applies to them at \
    every interface; write a [[route]] for guests that have them";
const NOT_HERE: &str = "matches addresses at an interface whose network does not contain them, but \
    a policy would apply to them at every interface: write anti_spoof = true, or a [[route]] for \
    guests that have them";
const REST_ACCEPTED: &str = "accepts all remaining packets, as natbpf does without a policy";
const UNANSWERED: &str = "REJECT becomes drop: no RST or ICMP error is sent";
const ICMP_TYPES: [&str; 2] = ["--icmp-type", "--icmpv6-type"];
const NEIGHBOURS: &str = "accepts messages of one link, which no host forwards: nothing is needed \
    for it";
const ALL_QUERIES: &str = "icmp in a policy matches every query, not only an echo request";

/// Converts FORWARD to policies, and reports what cannot be converted.
pub(super) fn translate<'d>(
    dump: &'d Dump,
    topology: &Topology,
    findings: &mut Findings<'d>,
    plan: &mut Plan,
) {
    let chain = Chain::read(dump, "FORWARD");
    let mut policies = Policies {
        dump,
        topology,
        chain: &chain,
        findings,
        plan,
    };
    policies.forwarded();
    policies.hosts();
}

/// An interface that the configuration names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Uplink(usize),
    Network(usize),
}

/// One end of a policy.
#[derive(Default)]
struct PolicyEnd {
    /// Its name; empty for any.
    names: Vec<String>,
    remarks: Vec<String>,
    warnings: Vec<&'static str>,
}

struct Policies<'a, 'd> {
    dump: &'d Dump,
    topology: &'a Topology,
    chain: &'a Chain,
    findings: &'a mut Findings<'d>,
    plan: &'a mut Plan,
}

impl Policies<'_, '_> {
    fn forwarded(&mut self) {
        let chain = self.chain;
        let mut drops = chain.living.iter().map(|living| living.accepts);
        let drops = !chain.end.accepts || drops.any(|accepts| accepts == Some(false));
        if drops && self.topology.networks.is_empty() {
            return self.without_networks();
        }
        for place in 0..chain.living.len() {
            let Living { step, accepts } = &chain.living[place];
            match accepts {
                None => self.undecided(step),
                Some(true) if !drops => self.findings.note(step.rule, NOTHING_DROPPED),
                Some(accepts) => self.decides(place, step, *accepts),
            }
        }
        self.end();
        if !chain.end.accepts {
            self.unaccepted_forwards();
        }
        for (rule, why) in &chain.dead {
            if !self.findings.is_done(*rule) {
                let note = format!("can never match: {why}; left out");
                self.findings.note(*rule, note);
            }
        }
    }

    /// Nothing becomes a policy: policies are about the guests of networks.
    fn without_networks(&mut self) {
        for living in &self.chain.living {
            if living.accepts.is_some() {
                self.findings.untranslated(living.step.rule, NO_NETWORK);
            }
        }
        if let Some((line, text)) = &self.chain.end.line {
            let reason = NO_NETWORK.to_owned();
            self.findings.line(*line, text, Kind::Untranslated, reason);
        }
    }

    /// A step that lets packets continue, or whose effect is unknown.
    fn undecided(&mut self, step: &Step) {
        let rule = step.rule;
        match &step.action {
            Action::Count => match &self.dump.rules[rule].action {
                Action::Count => {
                    self.findings.note(
                        rule,
                        "has no target: it only counts packets, as natbpf stats does",
                    );
                }
                // Its effect is in the conditions of other rules.
                _ => self.findings.done(rule),
            },
            Action::Pass(target) => {
                let note = format!(
                    "{target} decides nothing: not converted, it may stay in \
                    netfilter"
                );
                self.findings.note(rule, note);
            }
            Action::Unknown(reason) => self.findings.untranslated(rule, reason.clone()),
            _ => {
                let reason = "has a target that does not belong to the filter table";
                self.findings.untranslated(rule, reason);
            }
        }
    }

    fn decides(&mut self, place: usize, step: &Step, accepts: bool) {
        let condition = &step.condition;
        if condition.is_about_answers() && accepts {
            self.plan.defaults.implied.add(step.rule);
            self.plan.defaults.implied.remark(ANSWERS);
            return self.findings.done(step.rule);
        }
        if condition.is_about_neighbours() && accepts {
            return self.findings.note(step.rule, NEIGHBOURS);
        }
        if self.is_not_asked(condition) {
            return self.findings.note(step.rule, NOT_ASKED);
        }
        if let Err(reason) = self.policy(place, step, accepts) {
            let left = match accepts {
                true => "netfilter cannot accept what natbpf drops",
                false => "leave it in netfilter",
            };
            let reason = match reason.contains(left) {
                true => reason,
                false => format!("{reason}: {left}"),
            };
            self.findings.untranslated(step.rule, reason);
        }
    }

    /// Whether neither end can be a network.
    fn is_not_asked(&self, condition: &Condition) -> bool {
        let has_network = |interfaces: &Interfaces| {
            let sides = self.sides(interfaces);
            interfaces.is_any() || sides.iter().any(|side| matches!(side, Side::Network(_)))
        };
        !has_network(&condition.input) && !has_network(&condition.output)
    }

    fn policy(&mut self, place: usize, step: &Step, accepts: bool) -> Result<(), String> {
        let condition = &step.condition;
        if let Some(foreign) = condition.foreign.first() {
            return Err(format!("{}: {}", foreign.text, foreign.reason));
        }
        if condition.is_translated.is_some() {
            return Err("netfilter translates nothing that natbpf does".to_owned());
        }
        if !condition.source_ports.is_full() {
            return Err("policies do not look at source ports".to_owned());
        }
        let (protocols, ports) = service(condition)?;
        let (input, output) = self.widened(place, condition, accepts);
        let from = self.ends(&input, &condition.sources, accepts)?;
        let to = self.ends(&output, &condition.destinations, accepts)?;
        if from.names.len().max(1) * to.names.len().max(1) > MOST_PAIRS {
            return Err("needs more pairs of prefixes than natbpf accepts".to_owned());
        }
        let mut origin = Origin::default();
        origin.add(step.rule);
        if step.action == (Action::Drop { is_answered: true }) {
            origin.remark(UNANSWERED);
        }
        let text = &self.dump.rules[step.rule].text;
        if protocols == ["icmp"]
            && ICMP_TYPES.iter().any(|option| text.contains(option))
            && !text.contains("-type any")
        {
            origin.remark(ALL_QUERIES);
        }
        let ends = [from, to];
        for remark in ends.iter().flat_map(|end| &end.remarks) {
            origin.remark(remark.clone());
        }
        for warning in ends.iter().flat_map(|end| &end.warnings) {
            self.findings.warning(step.rule, *warning);
        }
        if accepts && let Some(by) = self.chain.drops_answers(self.dump, step) {
            let warning = format!(
                "{by} drops answers to packets that this rule accepts, because no earlier rule \
                 accepts RELATED and ESTABLISHED; natbpf lets them pass"
            );
            self.findings.warning(step.rule, warning);
        }
        let [from, to] = ends.map(|end| end.names);
        let names_nothing = from.is_empty() && to.is_empty() && protocols.is_empty();
        self.plan.policies.push(Policy {
            name: format!("line-{}", self.dump.rules[step.rule].line),
            from,
            to,
            protocols: if names_nothing {
                vec!["all"]
            } else {
                protocols
            },
            ports,
            is_accept: accepts,
            origin,
        });
        self.findings.done(step.rule);
        Ok(())
    }

    /// The interfaces of a step, without exceptions that have the same outcome or are decided
    /// before.
    fn widened(
        &self,
        place: usize,
        condition: &Condition,
        accepts: bool,
    ) -> (Interfaces, Interfaces) {
        let is_alike = |exception: Condition| {
            let fate = self.chain.fate(&exception, Some((place, accepts)));
            fate == Some(accepts)
        };
        let without = |interfaces: &Interfaces, with: &dyn Fn(Interfaces) -> Condition| {
            let mut exceptions = interfaces.is_not.iter();
            let all_alike =
                exceptions.all(|pattern| is_alike(with(Interfaces::one(true, pattern))));
            match interfaces.is.is_empty() && all_alike {
                true => Interfaces::default(),
                false => interfaces.clone(),
            }
        };
        let input = without(&condition.input, &|input| Condition {
            input,
            ..condition.clone()
        });
        let output = without(&condition.output, &|output| Condition {
            input: input.clone(),
            output,
            ..condition.clone()
        });
        (input, output)
    }

    /// The default if no rule matches.
    fn end(&mut self) {
        let End {
            accepts,
            rule,
            line,
        } = &self.chain.end;
        match rule {
            Some(rule) if *accepts => self.findings.note(*rule, REST_ACCEPTED),
            Some(rule) => self.findings.done(*rule),
            None => {}
        }
        let (false, Some((line, text))) = (accepts, line) else {
            return;
        };
        self.plan.defaults.drops = Some((*line, text.clone()));
        if rule.is_none() {
            let note = "becomes policy = \"drop\" of each network; netfilter still decides about \
                        packets of other interfaces";
            self.findings.line(*line, text, Kind::Note, note.to_owned());
        }
    }

    /// natbpf accepts forwarded packets by default, netfilter does not.
    fn unaccepted_forwards(&mut self) {
        for forward in &self.plan.forwards {
            let ports = forward.inside_ports();
            let flow = Condition {
                destinations: Addresses::address(forward.to),
                protocols: numbers(&forward.protocols),
                ports: set(ports),
                ..Condition::default()
            };
            let networks = &self.topology.networks;
            let output = self.topology.network_of(forward.to);
            let mut inputs = vec![&self.topology.uplinks[forward.uplink].interface];
            if forward.hairpin {
                inputs.extend(networks.iter().map(|network| &network.interface));
            }
            let is_accepted = inputs.iter().all(|input| {
                let flow = Condition {
                    input: Interfaces::one(true, input),
                    output: output.map_or_else(Interfaces::default, |network| {
                        Interfaces::one(true, &network.interface)
                    }),
                    ..flow.clone()
                };
                self.chain.fate(&flow, None) == Some(true)
            });
            if is_accepted {
                continue;
            }
            let mut origin = Origin::default();
            origin.remark(
                "The rules drop packets of this forward unless an earlier rule accepts them; \
                 natbpf would accept them",
            );
            let is_all = forward.is_all();
            self.plan.policies.push(Policy {
                name: format!("unaccepted-{}", forward.to),
                from: Vec::new(),
                to: vec![forward.to.to_string()],
                protocols: if is_all {
                    Vec::new()
                } else {
                    forward.protocols.clone()
                },
                ports: ports.to_vec(),
                is_accept: false,
                origin,
            });
        }
    }

    /// The services of the host for guests, if the rules express exactly that.
    fn hosts(&mut self) {
        let chain = Chain::read(self.dump, "INPUT");
        let networks = self.topology.networks.iter();
        let hosts: Vec<Option<Services>> = networks
            .map(|network| services(self.topology.family, &chain, &network.interface))
            .collect();
        let lists = |rule: &usize| {
            let mut all = hosts.iter().flatten();
            all.any(|services| services.origin.rules.contains(rule))
        };
        for rule in (0..self.dump.rules.len()).filter(lists) {
            let note = "is also in `host` of a network; keep it while netfilter drops other \
                        incoming packets";
            self.findings.note(rule, note);
        }
        self.plan.defaults.hosts = hosts;
    }
}

/// Interfaces without an uplink or network.
fn unknown(interfaces: &Interfaces) -> String {
    format!(
        "{} is not the interface of a known [uplink] or [network]; give --host, or --address, or \
         name addresses",
        written(interfaces)
    )
}

/// The remark about a wildcard or an exception: it may cover more than natbpf knows.
fn not_all(interfaces: &Interfaces) -> Option<String> {
    if interfaces.named().is_some() {
        return None;
    }
    Some(format!(
        "check: {} also matches other interfaces; these are all that natbpf knows",
        written(interfaces)
    ))
}

fn written(interfaces: &Interfaces) -> String {
    let is = interfaces.is.iter().cloned();
    let is_not = interfaces
        .is_not
        .iter()
        .map(|pattern| format!("! {pattern}"));
    is.chain(is_not).collect::<Vec<_>>().join(" and ")
}
