//! Rules of POSTROUTING: from SNAT and MASQUERADE to `[[snat]]`, and the inside half of forwards.

mod nat;
mod parts;

use ipnet::IpNet;

use super::{
    condition::Condition,
    destination::foreign,
    family::is_unique_local,
    findings::Findings,
    flatten::Step,
    forward::{numbers, set},
    plan::{Forward, Origin, Plan, Snat, Source},
    ranges::{Addresses, Protocols},
    rule::{Action, Choice, ICMP, TCP, UDP},
    topology::Topology,
};

/// The complement of a few prefixes has at most this many; more is no rule but a list.
const MOST_PREFIXES: usize = 64;
const MOST_OF_NETMAP: u128 = 256;
/// The ports that natbpf uses by default.
const USUAL_PORTS: (u16, u16) = (1024, 65535);

pub(super) struct Sources<'a, 'd> {
    pub(super) topology: &'a Topology,
    /// The steps of POSTROUTING that can match.
    pub(super) steps: &'a [Step],
    pub(super) findings: &'a mut Findings<'d>,
    pub(super) plan: &'a mut Plan,
}

/// A rule that gives packets another source.
struct Translation<'s> {
    step: &'s Step,
    condition: Condition,
    choice: Choice,
    /// Rules that are a part of this one.
    parts: Vec<usize>,
}

/// The translation of rules that differ only in the source prefix.
struct Part {
    prefixes: Vec<IpNet>,
    /// Whether these are all sources.
    is_of_all: bool,
    /// Excluded destinations.
    exclude: Vec<IpNet>,
    /// Whether the original excludes multicast and broadcast explicitly.
    multicast: bool,
    /// Rules of the original that exclude these.
    used: Vec<usize>,
}

impl Translation<'_> {
    fn same_target(&self, other: &Self) -> bool {
        self.choice.addresses == other.choice.addresses
    }
}

impl Sources<'_, '_> {
    pub(super) fn translate(&mut self) {
        let mut outbound = Vec::new();
        for step in self.steps {
            match &step.action {
                Action::Accept => outbound.push(step),
                // The part of a [[nat]] with prefixes.
                Action::Netmap(_) if self.plan.is_nat(step.rule) => {}
                Action::Snat(_) | Action::Masquerade(_) | Action::Netmap(_) => {
                    if self.stays_inside(step) {
                        self.inside(step);
                    } else {
                        outbound.push(step);
                    }
                }
                _ => {}
            }
        }
        for uplink in 0..self.topology.uplinks.len() {
            self.uplink(uplink, &outbound);
        }
        self.no_uplink(&outbound);
        self.pair();
    }

    /// Whether a rule applies only to packets to guests.
    fn stays_inside(&self, step: &Step) -> bool {
        let Condition {
            destinations,
            output,
            is_translated,
            ..
        } = &step.condition;
        let is_network = |name: &str| {
            self.topology
                .networks
                .iter()
                .any(|network| network.interface == name)
        };
        let leaves = self
            .topology
            .uplinks
            .iter()
            .any(|up| output.matches(&up.interface));
        (!destinations.is_full() && self.topology.inside().covers(destinations))
            || output.named().is_some_and(is_network)
            || (*is_translated == Some(true) && (!leaves || output.is_any()))
    }

    /// A rule for packets to guests: the second half of a hairpin, or a rule without equivalent.
    fn inside(&mut self, step: &Step) {
        if let Some(reasons) = foreign(&step.condition) {
            return self.findings.untranslated(step.rule, reasons);
        }
        let inside = self.topology.inside();
        let Condition {
            sources, output, ..
        } = &step.condition;
        let from_guests = inside.covers(sources);
        let reaches = |forward: &&mut Forward| {
            let network = self.topology.network_of(forward.to);
            let leaves = network.is_none_or(|network| output.matches(&network.interface));
            let condition = Condition {
                destinations: Addresses::address(forward.to),
                protocols: numbers(&forward.protocols),
                ports: set(forward.inside_ports()),
                ..Condition::default()
            };
            let mut rule = step.condition.clone();
            rule.output = Default::default();
            rule.is_translated = None;
            leaves && rule.meets(&condition)
        };
        let mut names = Vec::new();
        for forward in self.plan.forwards.iter_mut().filter(reaches) {
            if from_guests {
                forward.origin.add(step.rule);
            }
            names.push(forward.to);
        }
        if !from_guests {
            let warning = "hides the clients' addresses from the guests, including those of \
                outside clients";
            self.findings.warning(step.rule, warning);
            let reason = "natbpf shows guests the addresses of outside clients; leave it in \
                          netfilter only if the guest's default route does not lead here";
            self.findings.untranslated(step.rule, reason);
        } else if names.is_empty() {
            let warning = "translates packets between guests, and no forward needs it";
            self.findings.warning(step.rule, warning);
            let reason = "natbpf translates no packets between guests: leave it in netfilter if it \
                          is intended";
            self.findings.untranslated(step.rule, reason);
        } else {
            let whole = step.condition.is_translated.is_none() && step.condition.ports.is_full();
            let more = if whole {
                ", also in direct connections to each other"
            } else {
                ""
            };
            let warning = format!(
                "hides guests from each other: behind a forward all of them look like this \
                 host{more}; natbpf's hairpin needs no such rule, and shows the external address"
            );
            // A guest that reaches itself needs no hiding.
            if sources.hosts(self.topology.family) > 1 {
                self.findings.warning(step.rule, warning);
            }
            self.findings.done(step.rule);
        }
    }

    /// The `[[snat]]` rules of one uplink.
    fn uplink(&mut self, uplink: usize, outbound: &[&Step]) {
        let interface = &self.topology.uplinks[uplink].interface;
        let mut left_alone: Vec<&Step> = Vec::new();
        let steps: Vec<&Step> = outbound
            .iter()
            .filter(|step| step.condition.output.matches(interface))
            .copied()
            .collect();
        let mut translations = Vec::new();
        for step in steps {
            match &step.action {
                Action::Accept if self.is_never_translated(step) => {
                    let note = "natbpf never translates multicast and broadcast";
                    self.findings.note(step.rule, note);
                }
                Action::Accept => left_alone.push(step),
                _ => {
                    self.no_interface(step);
                    let read = self.translations(step);
                    translations.push((left_alone.clone(), read));
                }
            }
        }
        let mut all: Vec<(Vec<&Step>, Translation<'_>)> = Vec::new();
        for (left, read) in translations {
            all.extend(
                read.into_iter()
                    .map(|translation| (left.clone(), translation)),
            );
        }
        self.unite(&mut all);
        for index in 0..all.len() {
            let (left, translation) = &all[index];
            let later: Vec<&Translation<'_>> = all[index + 1..].iter().map(|(_, t)| t).collect();
            self.emit(uplink, translation, left, &later);
        }
    }

    /// Multicast and broadcast, which libvirt excludes explicitly: natbpf never translates them.
    fn is_never_translated(&self, step: &Step) -> bool {
        let never = Addresses::never_translated(self.topology.family);
        never.covers(&step.condition.destinations)
    }

    /// A rule without an interface also takes packets between guests.
    fn no_interface(&mut self, step: &Step) {
        let Condition {
            destinations,
            output,
            ..
        } = &step.condition;
        let unserved = self.topology.unserved.iter();
        let unserved: Vec<&str> = unserved
            .filter(|name| !output.names_some() && output.matches(name))
            .map(String::as_str)
            .collect();
        if !unserved.is_empty() {
            let warning = format!(
                "also translates packets that leave by {}, which is not an uplink here: write an \
                 [uplink] and a rule for it, if guests use it",
                unserved.join(", ")
            );
            self.findings.warning(step.rule, warning);
        }
        let inside = self.topology.inside();
        let others = self.topology.networks.iter().filter(|network| {
            output.matches(&network.interface)
                && destinations.meets(&Addresses::prefix(network.address.trunc()))
        });
        let others: Vec<&str> = others.map(|network| network.interface.as_str()).collect();
        if output.is_any() && destinations.covers(&inside) {
            let warning = "names no output interface, so it also translates packets from one guest \
                           or network to another; natbpf translates only packets that leave by the \
                           uplink";
            self.findings.warning(step.rule, warning);
        } else if !others.is_empty() {
            let warning = format!(
                "also translates packets to the networks behind {}; natbpf translates only packets \
                 that leave by the uplink",
                others.join(", ")
            );
            self.findings.warning(step.rule, warning);
        }
    }

    /// The translations of a rule: several for NETMAP.
    fn translations<'s>(&mut self, step: &'s Step) -> Vec<Translation<'s>> {
        let one = |condition: &Condition, choice: &Choice| Translation {
            step,
            condition: condition.clone(),
            choice: choice.clone(),
            parts: Vec::new(),
        };
        let refusal = refusal(step);
        if let Some(reason) = refusal {
            self.findings.untranslated(step.rule, reason);
            return Vec::new();
        }
        match &step.action {
            Action::Snat(choice) | Action::Masquerade(choice) => {
                vec![one(&step.condition, choice)]
            }
            Action::Netmap(to) => {
                let sources = &step.condition.sources;
                let family = self.topology.family;
                if sources.hosts(family) > MOST_OF_NETMAP
                    || sources.count() != Addresses::prefix(*to).count()
                {
                    let reason = "natbpf needs one rule for each address: this does not map one \
                                  prefix to another of the same size, with at most 256 addresses";
                    self.findings.untranslated(step.rule, reason);
                    return Vec::new();
                }
                let to = Addresses::prefix(*to);
                let pairs = sources.each(family).zip(to.each(family));
                let each = pairs.map(|(source, to)| {
                    let mut condition = step.condition.clone();
                    condition.sources = Addresses::address(source);
                    let choice = Choice {
                        addresses: Some((to, to)),
                        ..Choice::default()
                    };
                    one(&condition, &choice)
                });
                each.collect()
            }
            _ => Vec::new(),
        }
    }

    /// Merges rules for single protocols into the one for all, or with each other.
    fn unite(&mut self, all: &mut Vec<(Vec<&Step>, Translation<'_>)>) {
        let mut index = 0;
        while index < all.len() {
            let part = &all[index].1;
            if part.condition.protocols.is_full() && part.condition.ports.is_full() {
                index += 1;
                continue;
            }
            let rule = part.step.rule;
            if let Some(whole) = self.whole(all, index) {
                let (_, part) = all.remove(index);
                let whole = &mut all[whole - 1].1;
                whole.choice.ports = whole.choice.ports.or(part.choice.ports);
                whole.parts.push(rule);
                self.findings.done(rule);
                continue;
            }
            let mut union = part.condition.protocols.clone();
            let mut same = Vec::new();
            for (other, (_, candidate)) in all.iter().enumerate().skip(index + 1) {
                let mut condition = candidate.condition.clone();
                condition.protocols = part.condition.protocols.clone();
                if condition == part.condition && candidate.same_target(part) {
                    union = union.or(&candidate.condition.protocols);
                    same.push(other);
                }
            }
            let wanted = [TCP, UDP, ICMP];
            if part.condition.ports.is_full() && wanted.iter().all(|p| union.contains(*p)) {
                for other in same.into_iter().rev() {
                    let (_, other) = all.remove(other);
                    self.findings.done(other.step.rule);
                    all[index].1.parts.push(other.step.rule);
                }
                all[index].1.condition.protocols = Protocols::full();
                continue;
            }
            let reason = "natbpf chooses the external address by source and uplink, for all \
                          protocols and ports";
            let (_, part) = all.remove(index);
            self.refuse(&part, reason);
        }
    }

    /// A rule cannot be expressed, and neither can the rules that are parts of it.
    fn refuse(&mut self, translation: &Translation<'_>, reason: &str) {
        self.findings.untranslated(translation.step.rule, reason);
        for part in &translation.parts {
            self.findings.untranslated(*part, reason);
        }
    }

    /// A later rule that does the same with all that a rule matches and more.
    fn whole(&self, all: &[(Vec<&Step>, Translation<'_>)], index: usize) -> Option<usize> {
        let part = &all[index].1;
        let ports = part.choice.ports;
        let found = all
            .iter()
            .enumerate()
            .skip(index + 1)
            .find(|(_, (_, whole))| {
                let usual = ports.is_none_or(|ports| ports == USUAL_PORTS);
                whole.condition.covers(&part.condition)
                    && whole.same_target(part)
                    && (usual || whole.choice.ports == ports)
            });
        found.map(|(position, _)| position)
    }

    /// Adds the rules for a translation, except what earlier rules exclude.
    fn emit(
        &mut self,
        uplink: usize,
        translation: &Translation<'_>,
        left_alone: &[&Step],
        later: &[&Translation<'_>],
    ) {
        let never = Addresses::never_translated(self.topology.family);
        if never.covers(&translation.condition.sources) {
            return self.refuse(translation, OF_LINK);
        }
        if self.is_by_destination(uplink, translation, later) {
            return self.refuse(translation, BY_DESTINATION);
        }
        let parts = self.parts(&translation.condition, left_alone);
        let is_short = |part: &Part| {
            part.prefixes.len() <= MOST_PREFIXES && part.exclude.len() <= MOST_PREFIXES
        };
        if !parts.iter().all(is_short) {
            return self.refuse(translation, "needs more than 64 prefixes");
        }
        for part in parts {
            self.push(uplink, translation, part);
        }
    }

    /// Adds the rules for a set of sources.
    fn push(&mut self, uplink: usize, translation: &Translation<'_>, part: Part) {
        let rule = translation.step.rule;
        for prefix in part.prefixes {
            let networks = self.topology.networks.iter();
            let network = networks
                .clone()
                .position(|net| net.address.trunc() == prefix);
            // A rule for a network leaves its public addresses of IPv6 as they are.
            let network = network.filter(|_| prefix.addr().is_ipv4() || is_unique_local(&prefix));
            let mut origin = Origin::default();
            translation.parts.iter().for_each(|part| origin.add(*part));
            origin.add(rule);
            for rule in &part.used {
                origin.add(*rule);
                self.findings.done(*rule);
            }
            if part.multicast {
                origin.remark("Multicast and broadcast are never translated");
            }
            if part.is_of_all {
                origin.remark(
                    "For every source, as in the original; network = \"NAME\" would limit it to \
                     one network",
                );
            }
            self.plan.snats.push(Snat {
                name: String::new(),
                source: network.map_or(Source::Prefix(prefix), Source::Network),
                prefix,
                uplink,
                to: translation.choice.addresses,
                ports: translation
                    .choice
                    .ports
                    .filter(|ports| *ports != USUAL_PORTS),
                exclude: part.exclude.clone(),
                origin,
            });
        }
        self.findings.done(rule);
    }

    /// Rules whose packets leave by no uplink.
    fn no_uplink(&mut self, outbound: &[&Step]) {
        for step in outbound {
            if self.findings.is_done(step.rule) {
                continue;
            }
            if step.action == Action::Accept {
                let note = "exempts packets that no later rule translates: nothing is needed for \
                            it";
                self.findings.note(step.rule, note);
            } else {
                let reason = "applies to packets that leave by none of the uplinks: leave it in \
                              netfilter, or write an [uplink] for it";
                self.findings.untranslated(step.rule, reason);
            }
        }
    }
}

const OF_LINK: &str = "natbpf does not translate addresses of groups or of one link";
const BY_DESTINATION: &str = "natbpf chooses the external address by source and uplink, and \
    another rule translates these sources for other destinations: leave it in netfilter";

/// The part of a rule that no `[[snat]]` can express.
fn refusal(step: &Step) -> Option<String> {
    let condition = &step.condition;
    if let Some(reasons) = foreign(condition) {
        return Some(reasons);
    }
    if condition.is_local.is_some() || condition.is_translated == Some(true) {
        return Some("natbpf's source rules apply to packets that leave by an uplink".to_owned());
    }
    if !condition.source_ports.is_full() {
        return Some("natbpf's source rules take all ports of a guest".to_owned());
    }
    match &step.action {
        Action::Snat(Choice {
            addresses: None, ..
        }) => Some("names no address".to_owned()),
        Action::Snat(choice) | Action::Masquerade(choice) => {
            let (first, last) = choice.ports?;
            (first == 0 || last < first).then(|| format!("{first}-{last} is not a range of ports"))
        }
        _ => None,
    }
}
