//! A built-in chain of the filter table: its rules in order, and the outcome for packets.

use crate::{
    condition::{Condition, Rest},
    dump::Dump,
    flatten::{self, Step},
    ranges::Addresses,
    rule::Action,
};

/// What a built-in chain does.
pub(super) struct Chain {
    /// The steps that packets reach.
    pub(super) living: Vec<Living>,
    /// Rules that no packet reaches, and why.
    pub(super) dead: Vec<(usize, String)>,
    /// The outcome for packets that no step takes.
    pub(super) end: End,
}

pub(super) struct Living {
    pub(super) step: Step,
    /// Whether it accepts or drops, if it decides.
    pub(super) accepts: Option<bool>,
}

pub(super) struct End {
    pub(super) accepts: bool,
    /// The rule that decides, if there is one.
    pub(super) rule: Option<usize>,
    /// The line, if it drops.
    pub(super) line: Option<(usize, String)>,
}

impl Chain {
    pub(super) fn read(dump: &Dump, hook: &str) -> Self {
        let own = format!(":{hook} ");
        let policies = dump.tables.get("filter").map(|table| &table.policies);
        let mut dropping = policies.into_iter().flatten();
        let line = dropping.rfind(|(_, text)| text.starts_with(&own));
        let mut chain = Self {
            living: Vec::new(),
            dead: Vec::new(),
            end: End {
                accepts: line.is_none(),
                rule: None,
                line: line.cloned(),
            },
        };
        let is_input = hook == "INPUT";
        let mut comparisons = 0;
        let mut before = Vec::new();
        for mut step in flatten::steps(dump, "filter", hook).unwrap_or_default() {
            // Every packet here is for the host, or none.
            match step.condition.is_local.take() {
                Some(is) if is != is_input => step.condition.destinations = Addresses::empty(),
                _ => {}
            }
            let death = match chain.end.rule {
                Some(rule) => Some(taken_by(dump, rule)),
                // Otherwise it stays, after the rules that take its packets.
                None if comparisons > crate::MOST_COMPARISONS => None,
                None => crate::death(dump, &step, &before, &mut comparisons),
            };
            if let Some(reason) = death {
                chain.dead.push((step.rule, reason));
                continue;
            }
            before.push(step.clone());
            chain.add(dump, step);
        }
        chain
    }

    fn add(&mut self, dump: &Dump, step: Step) {
        let accepts = match step.action {
            // RETURN in a built-in chain leaves it to the chain's policy.
            Action::Accept if dump.rules[step.rule].action == Action::Return => {
                Some(self.end.accepts)
            }
            Action::Accept => Some(true),
            Action::Drop { .. } => Some(false),
            _ => None,
        };
        match accepts.filter(|_| step.condition == Condition::default()) {
            Some(accepts) => {
                let rule = &dump.rules[step.rule];
                self.end = End {
                    accepts,
                    rule: Some(step.rule),
                    line: (!accepts).then(|| (rule.line, rule.text.clone())),
                };
            }
            None => self.living.push(Living { step, accepts }),
        }
    }

    /// Whether all packets of a condition that a step at this place leaves are accepted. Nothing if
    /// their outcomes differ.
    pub(super) fn fate(&self, condition: &Condition, place: Option<(usize, bool)>) -> Option<bool> {
        let mut rest = condition.clone();
        if rest.is_nothing() {
            return place.map(|(_, accepts)| accepts);
        }
        let wanted = place.map(|(_, accepts)| accepts);
        let mut fate = wanted;
        for (index, living) in self.living.iter().enumerate() {
            let Some(accepts) = living.accepts else {
                continue;
            };
            let is_before = place.is_some_and(|(place, _)| index < place);
            let is_other = place.is_none_or(|(place, _)| index != place);
            if !is_other || living.step.condition.is_about_answers() {
                continue;
            }
            let next = rest.without(&living.step.condition);
            if next == Rest::All {
                continue;
            }
            // Packets taken before the place do not matter.
            if !is_before && *fate.get_or_insert(accepts) != accepts {
                return None;
            }
            match next {
                Rest::Nothing => return fate.or(wanted),
                Rest::Some(some) => rest = *some,
                Rest::All => {}
                // (The packets that it takes have the right outcome, and the rest does not grow.)
                Rest::Unclear if is_before => return None,
                Rest::Unclear => {}
            }
        }
        (*fate.get_or_insert(self.end.accepts) == self.end.accepts).then_some(self.end.accepts)
    }

    /// The rule that drops answers to packets that a step accepts: netfilter's rules also see
    /// answers.
    pub(super) fn drops_answers(&self, dump: &Dump, step: &Step) -> Option<String> {
        let there = &step.condition;
        let mut rest = Condition {
            sources: there.destinations.clone(),
            destinations: there.sources.clone(),
            source_ports: there.ports.clone(),
            ports: there.source_ports.clone(),
            input: there.output.clone(),
            output: there.input.clone(),
            ..there.clone()
        };
        for living in &self.living {
            let Some(accepts) = living.accepts else {
                continue;
            };
            let mut condition = living.step.condition.clone();
            condition.foreign.retain(|foreign| !foreign.is_answer());
            match (rest.without(&condition), accepts) {
                (Rest::Nothing, true) => return None,
                (Rest::Nothing, false) => {
                    return Some(format!("line {}", dump.rules[living.step.rule].line));
                }
                (Rest::Some(some), _) => rest = *some,
                (Rest::All | Rest::Unclear, _) => {}
            }
        }
        let end = self.end.line.as_ref();
        end.map(|(line, _)| format!("line {line}"))
    }
}

fn taken_by(dump: &Dump, rule: usize) -> String {
    format!("line {} takes all its packets", dump.rules[rule].line)
}
