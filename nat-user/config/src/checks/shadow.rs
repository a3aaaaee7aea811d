//! Forwards that can never match, because earlier ones take everything.
//!
//! One pass over the rules in order. Per uplink, address and protocol, it stores the taken ports as
//! disjoint ranges, so a rule costs one lookup, however many rules are before it.

use std::collections::{BTreeMap, HashMap};

use super::half::never;

use crate::{
    model::{
        Family, ForwardMatch, ForwardProtocol, ForwardRule, PortRange, Uplink, UplinkAddresses,
        UplinkId,
    },
    syntax::{Fault, Report},
    tables::Item,
    text::words::quote,
};

type Rule<'r, A> = Item<'r, ForwardRule<A>>;

/// The taken ports on one address of an uplink, or on all of them (`None`).
type Scope<A> = (UplinkId, Option<A>);

const EVERY_PORT: PortRange = PortRange {
    first: 1,
    last: u16::MAX,
};

/// Refuses rules that are written twice, and warns of others that can never match.
pub(super) fn check_shadows<A: Family>(
    rules: &[Rule<'_, A>],
    uplinks: &[Item<'_, Uplink>],
    report: &mut Report<'_>,
) {
    let mut written = Written {
        by_ports: HashMap::new(),
        count: 0,
    };
    let mut taken = Taken::new(uplinks);
    for (index, rule) in rules.iter().enumerate() {
        let parts = parts(&rule.value);
        // A rule that is written twice is covered by the first one, so only these are compared.
        if let Some(owner) = taken.owner_of_all(&rule.value, &parts) {
            written.add_up_to(rules, index);
            match written.same(rule) {
                Some(before) => report.error(twice(rule, before, uplinks)),
                None => report.warn(shadowed(rule, &rules[owner])),
            }
        } else if let Some((common, owner)) = taken.cut_off(&rule.value, &parts) {
            report.warn(overlapping(rule, &rules[owner], common));
        }
        taken.add(&rule.value, &parts, index);
    }
}

fn twice<A: Family>(
    rule: &Rule<'_, A>,
    before: &Rule<'_, A>,
    uplinks: &[Item<'_, Uplink>],
) -> Fault {
    let ForwardMatch { protocols, ports } = &rule.value.matches;
    let protocols: Vec<_> = protocols.iter().map(|protocol| word(*protocol)).collect();
    let protocols = protocols.join(" and ");
    let (key, what) = match ports[..] {
        [] => ("protocol", protocols),
        [one] if one.external.count() == 1 => {
            ("ports", format!("{protocols} port {}", one.external))
        }
        [one] => ("ports", format!("{protocols} ports {}", one.external)),
        _ => ("ports", format!("each of these {protocols} ports")),
    };
    let address = match (rule.value.address, uplinks.get(rule.value.uplink.0)) {
        (Some(address), _) => address.to_string(),
        (None, Some(uplink)) => format!("uplink {}", quote(&uplink.value.name)),
        (None, None) => "the same uplink".to_owned(),
    };
    let name = quote(&before.value.name);
    let problem = format!("{name} already forwards {what} of {address}");
    let remedy = "remove one of the two, or make them different";
    rule.section
        .fault(key, &problem, remedy)
        .see(before.section.at)
}

fn word(protocol: ForwardProtocol) -> &'static str {
    match protocol {
        ForwardProtocol::Tcp => "tcp",
        ForwardProtocol::Udp => "udp",
        ForwardProtocol::Icmp => "icmp",
        ForwardProtocol::All => "everything",
    }
}

fn shadowed<A: Family>(rule: &Rule<'_, A>, before: &Rule<'_, A>) -> Fault {
    let name = quote(&before.value.name);
    let what = never::<A>(rule.is_half);
    let problem = format!("{what}: shadowed by earlier rules, beginning with {name}");
    let remedy = "put it before them, or remove it";
    rule.section
        .fault_here("", &problem, remedy)
        .see(before.section.at)
}

/// An exception comes first and lies within a later range. Any other overlap is probably a mistake.
fn overlapping<A: Family>(rule: &Rule<'_, A>, before: &Rule<'_, A>, common: PortRange) -> Fault {
    let name = quote(&before.value.name);
    let problem = format!(
        "shares ports {common} with {name}, which comes first and takes them; neither range \
         contains the other"
    );
    let remedy = "make the ranges disjoint, or put a rule for the shared ports before both";
    rule.section
        .fault("ports", &problem, remedy)
        .see(before.section.at)
}

/// The ports of a rule.
type Ports<A> = (Scope<A>, Vec<PortRange>);

/// The rules so far, by their text.
struct Written<'r, A: Family> {
    by_ports: HashMap<Ports<A>, Vec<&'r Rule<'r, A>>>,
    /// How many of the rules are in it.
    count: usize,
}

impl<'r, A: Family> Written<'r, A> {
    fn key(rule: &Rule<'_, A>, address: Option<A>) -> Ports<A> {
        let ports = rule.value.matches.ports.iter();
        let mut ranges: Vec<_> = ports.map(|ports| ports.external).collect();
        ranges.sort_unstable();
        ((rule.value.uplink, address), ranges)
    }

    /// An earlier rule with the same ports whose protocols and address contain those of `rule`.
    fn same(&self, rule: &Rule<'_, A>) -> Option<&'r Rule<'r, A>> {
        let protocols = &rule.value.matches.protocols;
        let contains = |before: &&&'r Rule<'r, A>| {
            protocols
                .iter()
                .all(|one| before.value.matches.protocols.contains(one))
        };
        let of_all = self.by_ports.get(&Self::key(rule, None));
        let of_one = rule
            .value
            .address
            .and_then(|_| self.by_ports.get(&Self::key(rule, rule.value.address)));
        let mut before = [of_all, of_one].into_iter().flatten().flatten();
        before.find(|one| contains(one)).copied()
    }

    /// Adds those of the first `end` rules that are still missing.
    fn add_up_to(&mut self, rules: &'r [Rule<'r, A>], end: usize) {
        for rule in &rules[self.count..end] {
            let key = Self::key(rule, rule.value.address);
            self.by_ports.entry(key).or_default().push(rule);
        }
        self.count = end;
    }
}

/// A part of a rule that a set of earlier rules takes or leaves.
#[derive(Clone, Copy)]
enum Part {
    Ports(ForwardProtocol, PortRange),
    Icmp,
    /// Every protocol except tcp, udp and icmp.
    Other,
}

fn parts<A: Family>(rule: &ForwardRule<A>) -> Vec<Part> {
    let mut parts = Vec::new();
    for protocol in &rule.matches.protocols {
        match protocol {
            ForwardProtocol::Icmp => parts.push(Part::Icmp),
            ForwardProtocol::Tcp | ForwardProtocol::Udp if !rule.matches.ports.is_empty() => {
                let ports = rule.matches.ports.iter();
                parts.extend(ports.map(|ports| Part::Ports(*protocol, ports.external)));
            }
            ForwardProtocol::Tcp | ForwardProtocol::Udp => {
                parts.push(Part::Ports(*protocol, EVERY_PORT));
            }
            ForwardProtocol::All => parts.extend([
                Part::Ports(ForwardProtocol::Tcp, EVERY_PORT),
                Part::Ports(ForwardProtocol::Udp, EVERY_PORT),
                Part::Icmp,
                Part::Other,
            ]),
        }
    }
    parts
}

/// What the rules so far take. A rule is identified by its index.
struct Taken<'u, A> {
    uplinks: &'u [Item<'u, Uplink>],
    scopes: BTreeMap<Scope<A>, Protocols>,
}

#[derive(Default)]
struct Protocols {
    tcp: PortSet,
    udp: PortSet,
    icmp: Option<usize>,
    other: Option<usize>,
}

impl<'u, A: Family> Taken<'u, A> {
    fn new(uplinks: &'u [Item<'u, Uplink>]) -> Self {
        Self {
            uplinks,
            scopes: BTreeMap::new(),
        }
    }

    fn add(&mut self, rule: &ForwardRule<A>, parts: &[Part], index: usize) {
        let taken = self.scopes.entry((rule.uplink, rule.address)).or_default();
        for part in parts {
            match *part {
                Part::Ports(ForwardProtocol::Udp, range) => taken.udp.insert(range, index),
                Part::Ports(_, range) => taken.tcp.insert(range, index),
                Part::Icmp => _ = taken.icmp.get_or_insert(index),
                Part::Other => _ = taken.other.get_or_insert(index),
            }
        }
    }

    /// If earlier rules take all `parts` of `rule`: one of them.
    fn owner_of_all(&self, rule: &ForwardRule<A>, parts: &[Part]) -> Option<usize> {
        if let Some(owner) = self.owner_at(rule, rule.address, parts) {
            return Some(owner);
        }
        // A rule about every address is also covered by rules about each of them.
        let UplinkAddresses::Fixed(addresses) = A::of_uplink(self.uplink(rule)?) else {
            return None;
        };
        if rule.address.is_some() {
            return None;
        }
        let mut owners = addresses
            .iter()
            .map(|address| self.owner_at(rule, Some(*address), parts));
        owners.try_fold(usize::MAX, |least, owner| Some(least.min(owner?)))
    }

    /// Ports at one end of a range of `rule` that an earlier rule has, with others beyond that end,
    /// and that rule.
    fn cut_off(&self, rule: &ForwardRule<A>, parts: &[Part]) -> Option<(PortRange, usize)> {
        let of_all = self.scopes.get(&(rule.uplink, None));
        let of_one = rule
            .address
            .and_then(|_| self.scopes.get(&(rule.uplink, rule.address)));
        let sets = [of_all, of_one].into_iter().flatten();
        let mut found = sets.flat_map(|set| {
            parts.iter().filter_map(|part| match *part {
                Part::Ports(ForwardProtocol::Udp, range) => set.udp.cuts_off(range),
                Part::Ports(_, range) => set.tcp.cuts_off(range),
                Part::Icmp | Part::Other => None,
            })
        });
        found.next()
    }

    fn uplink(&self, rule: &ForwardRule<A>) -> Option<&'u Uplink> {
        Some(&self.uplinks.get(rule.uplink.0)?.value)
    }

    /// The same for one address.
    fn owner_at(&self, rule: &ForwardRule<A>, address: Option<A>, parts: &[Part]) -> Option<usize> {
        let of_all = self.scopes.get(&(rule.uplink, None));
        let of_one = address.and_then(|_| self.scopes.get(&(rule.uplink, address)));
        let sets: Vec<_> = [of_all, of_one].into_iter().flatten().collect();
        let reserved = self
            .uplink(rule)
            .map_or(&[][..], |uplink| &uplink.reserved_ports);
        let mut owners = parts.iter().map(|part| owner_of(*part, &sets, reserved));
        let first = owners.next()??;
        owners.try_fold(first, |least, owner| Some(least.min(owner?)))
    }
}

/// Which rule takes a part, if the rules of `sets` together take all of it.
fn owner_of(part: Part, sets: &[&Protocols], reserved: &[(ForwardProtocol, u16)]) -> Option<usize> {
    match part {
        Part::Icmp => sets.iter().filter_map(|set| set.icmp).min(),
        Part::Other => sets.iter().filter_map(|set| set.other).min(),
        Part::Ports(protocol, range) => {
            let ports = sets.iter().map(|set| match protocol {
                ForwardProtocol::Udp => &set.udp,
                _ => &set.tcp,
            });
            // A reserved port goes only to a rule that names it individually; ranges exclude it.
            if range.count() == 1 && reserved.contains(&(protocol, range.first)) {
                return ports
                    .filter_map(|set| set.named.get(&range.first))
                    .copied()
                    .min();
            }
            let ports: Vec<_> = ports.collect();
            let owner = ports.iter().filter_map(|set| set.owner(range.first)).min();
            owner.filter(|_| cover(&ports, range))
        }
    }
}

/// Whether several sets together hold every port of a range.
fn cover(sets: &[&PortSet], range: PortRange) -> bool {
    let mut port = range.first;
    loop {
        let Some(last) = sets.iter().filter_map(|set| set.reach(port)).max() else {
            return false;
        };
        if last >= range.last {
            return true;
        }
        port = last + 1;
    }
}

/// Ports, each with the rule that took it first.
#[derive(Default)]
struct PortSet {
    /// First to last port of ranges that neither overlap nor touch.
    merged: BTreeMap<u16, u16>,
    /// The same ports: first port to last port and owner.
    owners: BTreeMap<u16, (u16, usize)>,
    /// Ports that a rule names individually.
    named: BTreeMap<u16, usize>,
}

impl PortSet {
    /// The last port of the gapless range that holds `port`.
    fn reach(&self, port: u16) -> Option<u16> {
        let (_, last) = self.merged.range(..=port).next_back()?;
        (*last >= port).then_some(*last)
    }

    fn owner(&self, port: u16) -> Option<usize> {
        let (_, (last, owner)) = self.owners.range(..=port).next_back()?;
        (*last >= port).then_some(*owner)
    }

    /// The ports at one end of a range whose owner also has ports beyond that end, but not the
    /// whole range; with that owner.
    fn cuts_off(&self, range: PortRange) -> Option<(PortRange, usize)> {
        let at = |port: u16| {
            let (first, (last, owner)) = self.owners.range(..=port).next_back()?;
            (*last >= port).then_some((*first, *last, *owner))
        };
        if let Some((first, last, owner)) = at(range.first)
            && first < range.first
            && last < range.last
        {
            let first = range.first;
            return Some((PortRange { first, last }, owner));
        }
        let (first, last, owner) = at(range.last)?;
        let is_cut_off = last > range.last && first > range.first;
        let last = range.last;
        is_cut_off.then_some((PortRange { first, last }, owner))
    }

    /// Gives the ports of `range` that are still free to `owner`. Ranges that this joins are
    /// merged, so that none is walked over twice.
    fn insert(&mut self, range: PortRange, owner: usize) {
        if range.count() == 1 {
            self.named.entry(range.first).or_insert(owner);
        }
        let mut joined = range;
        let mut free = u32::from(range.first);
        for (first, last) in self.touching(range) {
            self.merged.remove(&first);
            self.give(free, u32::from(first), owner);
            free = free.max(u32::from(last) + 1);
            joined = PortRange {
                first: joined.first.min(first),
                last: joined.last.max(last),
            };
        }
        self.give(free, u32::from(range.last) + 1, owner);
        self.merged.insert(joined.first, joined.last);
    }

    /// The merged ranges that overlap or touch `range`, in order.
    fn touching(&self, range: PortRange) -> Vec<(u16, u16)> {
        let below = range.first.saturating_sub(1);
        let start = self
            .merged
            .range(..=below)
            .next_back()
            .map_or(below, |(first, _)| *first);
        let near = self.merged.range(start..=range.last.saturating_add(1));
        near.map(|(first, last)| (*first, *last))
            .filter(|(_, last)| *last >= below)
            .collect()
    }

    /// Records the owner of the ports from `first` up to `end`, exclusive.
    fn give(&mut self, first: u32, end: u32, owner: usize) {
        if let (Ok(first), Ok(last)) = (u16::try_from(first), u16::try_from(end.saturating_sub(1)))
            && first <= last
        {
            self.owners.insert(first, (last, owner));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(a: u16, b: u16) -> PortRange {
        PortRange {
            first: a.min(b),
            last: a.max(b),
        }
    }

    proptest! {
        #[test]
        fn a_port_belongs_to_the_first_rule_that_took_it(
            ranges in prop::collection::vec((1_u16..40, 1_u16..40), 0..12),
            asked in (1_u16..40, 1_u16..40),
        ) {
            let ranges: Vec<_> = ranges.into_iter().map(|(a, b)| range(a, b)).collect();
            let mut set = PortSet::default();
            for (owner, range) in ranges.iter().enumerate() {
                set.insert(*range, owner);
            }
            let holds = |range: &PortRange, port| (range.first..=range.last).contains(&port);
            for port in 0..45 {
                let first = ranges.iter().position(|range| holds(range, port));
                prop_assert_eq!(set.owner(port), first);
            }
            let asked = range(asked.0, asked.1);
            let all = (asked.first..=asked.last).all(|port| ranges.iter().any(|r| holds(r, port)));
            prop_assert_eq!(cover(&[&set], asked), all);
        }
    }

    #[test]
    fn the_highest_port_does_not_overflow() {
        let mut set = PortSet::default();
        set.insert(range(65535, 65535), 0);
        set.insert(EVERY_PORT, 1);
        assert_eq!((set.owner(65535), set.owner(65534)), (Some(0), Some(1)));
        assert!(cover(&[&set], EVERY_PORT));
        assert_eq!(set.merged.len(), 1);
    }
}
