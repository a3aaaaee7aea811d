//! The prefixes of guests that a rule translates, apart from those that other rules take.

use super::{Part, Sources, Translation};
use crate::{
    condition::Condition,
    destination::foreign,
    flatten::Step,
    plan::Snat,
    ranges::{Addresses, Ports},
};

impl Sources<'_, '_> {
    /// The destinations outside that a condition does not match.
    pub(super) fn others_outside(&self, condition: &Condition) -> Addresses {
        let inside = self.topology.inside();
        condition.destinations.complement().without(&inside)
    }

    /// Whether packets of the same sources get several addresses, by where they go.
    pub(super) fn is_by_destination(
        &self,
        uplink: usize,
        translation: &Translation<'_>,
        later: &[&Translation<'_>],
    ) -> bool {
        let condition = &translation.condition;
        let not_these = self.others_outside(condition);
        let meets_later = later.iter().any(|other| {
            other.condition.sources.meets(&condition.sources)
                && other.condition.destinations.meets(&not_these)
        });
        let is_positive = condition.destinations.are_few();
        let is_taken = |snat: &Snat| {
            snat.uplink == uplink
                && !snat.exclude.is_empty()
                && Addresses::prefix(snat.prefix).covers(&condition.sources)
                && !snat.origin.rules.contains(&translation.step.rule)
        };
        meets_later && is_positive || self.plan.snats.iter().any(is_taken)
    }

    /// The translations, by sources with the same exclusions.
    pub(super) fn parts(&mut self, condition: &Condition, left_alone: &[&Step]) -> Vec<Part> {
        let mut exclude = self.others_outside(condition);
        let mut narrower: Vec<(Addresses, &Step)> = Vec::new();
        let mut used = Vec::new();
        for step in left_alone {
            let left = &step.condition;
            if !left.meets(condition) {
                continue;
            }
            if !leaves_by_destination(left) {
                let reason = foreign(left).unwrap_or_else(|| {
                    "natbpf exempts packets by source and destination only".to_owned()
                });
                self.findings.untranslated(step.rule, reason);
            } else if left.sources.covers(&condition.sources) {
                exclude = exclude.or(&left.destinations);
                used.push(step.rule);
            } else {
                narrower.push((left.sources.and(&condition.sources), step));
            }
        }
        let narrow = narrower.iter().map(|(sources, step)| {
            // Exclusions of a wider set also count for these.
            let wider = narrower.iter().filter(|(other, _)| other.covers(sources));
            let left = wider.fold(exclude.clone(), |all, (_, step)| {
                all.or(&step.condition.destinations)
            });
            self.part(sources, &left, vec![step.rule])
        });
        let whole = self.part(&condition.sources, &exclude, used);
        narrow.chain([whole]).collect()
    }

    /// The translation of some sources, except to `left`.
    pub(super) fn part(&self, sources: &Addresses, left: &Addresses, used: Vec<usize>) -> Part {
        let family = self.topology.family;
        // Packets within a network do not leave by an uplink.
        let stays = self
            .topology
            .networks
            .iter()
            .map(|net| Addresses::prefix(net.address.trunc()));
        let stays = stays.fold(Addresses::empty(), |all, prefix| all.or(&prefix));
        let everything = left.or(&Addresses::never_translated(family)).is_full();
        let exclude = match everything {
            true => Addresses::full(),
            false => left.without(&Addresses::never_translated(family)),
        };
        Part {
            prefixes: sources.prefixes(family),
            is_of_all: sources.is_full(),
            exclude: if stays.covers(&exclude) {
                Vec::new()
            } else {
                exclude.prefixes(family)
            },
            multicast: left.meets(&Addresses::never_translated(family)) && !stays.covers(left),
            used,
        }
    }
}

/// Whether an excluding rule matches only source and destination.
fn leaves_by_destination(condition: &Condition) -> bool {
    condition.foreign.is_empty()
        && condition.protocols.is_full()
        && condition.source_ports == Ports::full()
        && condition.ports.is_full()
        && condition.is_local.is_none()
        && condition.is_translated.is_none()
}
