//! Rules of OUTPUT: the host's own connections to what forwards send to guests.

use std::collections::BTreeSet;

use super::{
    condition::Condition,
    destination::seen,
    findings::Findings,
    flatten::Step,
    forward::{external, forward_of, leads_to},
    plan::{Forward, Plan},
    ranges::{Addresses, Protocols},
    rule::{Action, TCP, UDP},
    topology::Topology,
};

pub(super) struct Locals<'a, 'd> {
    pub(super) topology: &'a Topology,
    /// The steps of OUTPUT that can match.
    pub(super) steps: &'a [Step],
    pub(super) findings: &'a mut Findings<'d>,
    pub(super) plan: &'a mut Plan,
}

impl Locals<'_, '_> {
    pub(super) fn translate(&mut self) {
        let mut expressed = BTreeSet::new();
        for index in 0..self.plan.forwards.len() {
            if let Some(step) = self.step_for(&self.plan.forwards[index]) {
                expressed.insert(step);
                self.express(index, step);
            }
        }
        for index in 0..self.steps.len() {
            if !expressed.contains(&index) {
                self.leave(&self.steps[index]);
            }
        }
    }

    /// The step that sends all of the host's own connections to the guest of a forward.
    fn step_for(&self, forward: &Forward) -> Option<usize> {
        let wanted = self.own(forward)?;
        let ends = |step: &Step| step.ends() && step.condition.ports.meets(&wanted.ports);
        let steps = self.steps.iter().enumerate();
        for (index, step) in steps.filter(|(_, step)| ends(step)) {
            // The host's own packets come in by no interface.
            let Some(mut seen) = seen(&step.condition, "", &Addresses::full()) else {
                continue;
            };
            if seen.is_local == Some(true) {
                seen.is_local = None;
            }
            if seen.meets(&wanted) {
                return (leads_to(step, forward) && seen.covers(&wanted)).then_some(index);
            }
        }
        None
    }

    /// The host's own connections to a forward: `local` covers tcp and udp, by the uplink's
    /// addresses.
    fn own(&self, forward: &Forward) -> Option<Condition> {
        let mut own = external(forward);
        let with_ports = Protocols::one(TCP).or(&Protocols::one(UDP));
        own.protocols = own.protocols.and(&with_ports);
        let known = &self.topology.uplinks[forward.uplink].addresses;
        if forward.address.is_none() {
            own.destinations = match known.is_empty() {
                false => known.iter().fold(Addresses::empty(), |all, address| {
                    all.or(&Addresses::address(*address))
                }),
                true => {
                    let loopback = Addresses::loopback(self.topology.family);
                    self.topology.inside().complement().without(&loopback)
                }
            };
        }
        (!own.protocols.is_empty()).then_some(own)
    }

    fn express(&mut self, forward: usize, step: usize) {
        let step = &self.steps[step];
        self.plan.forwards[forward].local = true;
        let origin = &mut self.plan.forwards[forward].origin;
        origin.add(step.rule);
        self.findings.done(step.rule);
        let Condition {
            destinations,
            is_local,
            ..
        } = &step.condition;
        if is_local.is_some() {
            origin.remark(super::destination::ALSO_OTHERS);
        } else if destinations.is_full() {
            self.findings.warning(step.rule, ANYWHERE);
        }
    }

    /// A step without a forward.
    fn leave(&mut self, step: &Step) {
        match &step.action {
            Action::Dnat(_) | Action::Redirect | Action::Netmap(_) => {
                let mut nats = self.plan.nats.iter();
                let is_nat = nats.any(|nat| nat.origin.rules.contains(&step.rule));
                let reason = match is_nat {
                    true => OF_NAT,
                    false if forward_of(step, self.plan).is_some() => IN_PART,
                    false => OTHERS,
                };
                // If connections of others come here too, the jump is the part for the host.
                let about = match self.findings.is_done(step.rule) {
                    true => step.through,
                    false => step.rule,
                };
                self.findings.untranslated(about, reason);
            }
            Action::Accept if !self.findings.is_done(step.rule) => {
                self.findings.note(step.rule, super::NO_MATTER);
            }
            _ => {}
        }
    }
}

const ANYWHERE: &str = "names no destination address, so it also takes the host's own connections \
    to this port of any remote; natbpf takes only packets for the uplink's addresses and 127.0.0.1";
const OF_NAT: &str = "sends the host's own connections to the guest of a [[nat]], and only \
    forwards have `local`: leave it in netfilter";
const IN_PART: &str = "sends only some of the host's own connections to the guest of a forward, \
    and `local` covers all of them: leave it in netfilter";
const OTHERS: &str = "applies to the host's own connections, and natbpf translates only those to \
    forwarded ports: leave it in netfilter";
