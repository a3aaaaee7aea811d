//! Guests that reach a forward by its external address.

use super::{Destinations, MOST_ADDRESSES, seen};
use crate::{
    condition::Condition,
    flatten::Step,
    forward::{external, forward_of, leads_to, numbers, set},
    plan::Forward,
    ranges::Addresses,
    rule::Action,
};

impl Destinations<'_, '_> {
    /// Whether guests reach a forward by the external address, and whether the answers return
    /// through the host.
    pub(super) fn hairpin(&mut self, index: usize) {
        let forward = self.plan.forwards[index].clone();
        let network = self.topology.network_of(forward.to);
        let neighbours = Addresses::prefix(self.topology.neighbourhood(forward.to));
        let interface = network.map_or("", |network| network.interface.as_str());
        let external = external(&forward);
        let mut reached_by = None;
        let ends = |step: &&Step| step.ends() && step.condition.ports.meets(&external.ports);
        for step in self.steps.iter().filter(ends) {
            let Some(seen) = seen(&step.condition, interface, &neighbours) else {
                continue;
            };
            let (mut seen, mut external) = (seen, external.clone());
            if forward.address.is_none() {
                // Of the uplink's addresses, which are never inside.
                let inside = self.topology.inside();
                external.destinations = self.own_addresses(&forward, &seen);
                seen.destinations = seen.destinations.or(&inside);
                seen.is_local = None;
            } else if seen.is_local == Some(true) {
                seen.is_local = None;
            }
            if !seen.meets(&external) {
                continue;
            }
            if leads_to(step, &forward) && seen.covers(&external) {
                reached_by = Some(step.rule);
            }
            break;
        }
        let Some(rule) = reached_by else {
            let remark = "No rule of the original sends guests there: with hairpin = true they \
                          would reach it by the external address too";
            return self.plan.forwards[index].origin.remark(remark);
        };
        self.findings.done(rule);
        let is_whole = self.answers_return(&forward, interface, &neighbours);
        let forward = &mut self.plan.forwards[index];
        forward.hairpin = true;
        forward.origin.add(rule);
        if !is_whole {
            let warning = "half a hairpin: it takes guests' connections to the external address \
                           as well, but no SNAT or MASQUERADE makes the answers return through \
                           this host; natbpf translates both ways (hairpin = true)";
            self.findings.warning(rule, warning);
        }
    }

    /// The addresses by which guests reach a forward that names none: those of its uplink. If they
    /// are unknown, single addresses of a rule for guests are used.
    pub(super) fn own_addresses(&self, forward: &Forward, seen: &Condition) -> Addresses {
        let outside = self.topology.inside().complement();
        let own = &self.topology.uplinks[forward.uplink].addresses;
        let named = seen.destinations.and(&outside);
        match own.is_empty() {
            false => own.iter().fold(Addresses::empty(), |all, address| {
                all.or(&Addresses::address(*address))
            }),
            true if (1..=MOST_ADDRESSES).contains(&named.hosts(self.topology.family)) => named,
            true => outside,
        }
    }

    /// Whether packets from guests to the forward's guest get another source.
    pub(super) fn answers_return(
        &self,
        forward: &Forward,
        interface: &str,
        guests: &Addresses,
    ) -> bool {
        let inside = Condition {
            sources: guests.clone(),
            destinations: Addresses::address(forward.to),
            protocols: numbers(&forward.protocols),
            ports: set(forward.inside_ports()),
            ..Condition::default()
        };
        let ends = |step: &&Step| step.ends() && step.condition.output.matches(interface);
        let first = self.after.iter().filter(ends).find(|step| {
            let mut condition = step.condition.clone();
            condition.output = Default::default();
            condition.meets(&inside)
        });
        first.is_some_and(|step| matches!(step.action, Action::Snat(_) | Action::Masquerade(_)))
    }

    /// Rules that apply only to guests' connections: the inside half of a forward, or a rule
    /// without equivalent.
    pub(super) fn guests_only(&mut self) {
        for step in self.steps {
            if !matches!(step.action, Action::Dnat(_)) || self.findings.is_done(step.rule) {
                continue;
            }
            if let Some(forward) = forward_of(step, self.plan) {
                forward.origin.add(step.rule);
                self.findings.done(step.rule);
            } else {
                let reason = "takes only connections of guests, but natbpf's forwards take packets \
                              that arrive by an uplink: leave it in netfilter";
                self.findings.untranslated(step.rule, reason);
            }
        }
    }
}
