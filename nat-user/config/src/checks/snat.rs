//! `[[snat]]` rules that can never match.

use std::{
    collections::{BTreeSet, HashMap},
    net::Ipv6Addr,
};

use ipnet::Ipv6Net;

use super::half::never;
use crate::{
    model::{Family, Network, NetworkId, Prefix as _, SnatRule, SnatSource, UplinkId},
    syntax::Report,
    tables::Item,
    text::words::quote,
};

/// Warns of rules that can never match, because an earlier one takes every packet.
pub(super) fn shadowed<A: Family>(
    rules: &[Item<'_, SnatRule<A>>],
    networks: &[Item<'_, Network>],
    report: &mut Report<'_>,
) {
    let mut earlier = Earlier::default();
    for rule in rules {
        let prefixes = match rule.value.source {
            SnatSource::Prefix(prefix) => vec![prefix],
            SnatSource::Network(NetworkId(id)) => {
                let network = networks.get(id);
                network.map_or_else(Vec::new, |network| A::translated(&network.value))
            }
        };
        let taken = prefixes.iter().map(|prefix| {
            let around = networks.iter().zip((0..).map(NetworkId));
            let mut around = around.filter(|(network, _)| {
                let own = A::translated(&network.value);
                own.iter().any(|own| own.covers(prefix))
            });
            let by_prefix = earlier.covering(&rule.value, *prefix);
            by_prefix.or_else(|| around.find_map(|(_, id)| earlier.of_network(&rule.value, id)))
        });
        let taken: Option<Vec<_>> = taken.collect();
        let before = taken.and_then(|taken| taken.first().copied());
        if let Some(before) = before {
            let problem = format!(
                "{}: shadowed by {}",
                never::<A>(rule.is_half),
                quote(&before.value.name)
            );
            let remedy = "put it before that rule, or remove it";
            report.warn(
                rule.section
                    .fault_here("", &problem, remedy)
                    .see(before.section.at),
            );
        } else {
            earlier.add(rule);
        }
    }
}

/// Warns of rules that hide public addresses behind another.
pub(super) fn public(rules: &[Item<'_, SnatRule<Ipv6Addr>>], report: &mut Report<'_>) {
    for rule in rules {
        let SnatSource::Prefix(prefix) = rule.value.source else {
            continue; // (Only unique local ones.)
        };
        if !UNIQUE_LOCAL.contains(&prefix) {
            let problem =
                "translates public IPv6 addresses, by which their owners could be reached";
            let remedy = "write network instead of source to translate only unique local \
                          addresses, or ignore this if the provider does not route the prefix";
            report.warn(rule.section.fault("source", problem, remedy));
        }
    }
}

/// RFC 4193.
const UNIQUE_LOCAL: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7);

type Rule<'r, A> = &'r Item<'r, SnatRule<A>>;

/// The rules so far, by what they match.
struct Earlier<'r, A: Family> {
    by_network: HashMap<(UplinkId, NetworkId), Vec<Rule<'r, A>>>,
    by_prefix: HashMap<(UplinkId, A::Prefix), Vec<Rule<'r, A>>>,
    /// The existing prefix lengths, so that others need no lookup.
    lengths: BTreeSet<u8>,
}

impl<A: Family> Default for Earlier<'_, A> {
    fn default() -> Self {
        Self {
            by_network: HashMap::new(),
            by_prefix: HashMap::new(),
            lengths: BTreeSet::new(),
        }
    }
}

impl<'r, A: Family> Earlier<'r, A> {
    fn add(&mut self, rule: &'r Item<'r, SnatRule<A>>) {
        let uplink = rule.value.uplink;
        match rule.value.source {
            SnatSource::Network(id) => self.by_network.entry((uplink, id)).or_default().push(rule),
            SnatSource::Prefix(prefix) => {
                self.lengths.insert(prefix.prefix_len());
                self.by_prefix
                    .entry((uplink, prefix))
                    .or_default()
                    .push(rule);
            }
        }
    }

    /// A rule for a whole network that takes what `rule` would match of it.
    fn of_network(&self, rule: &SnatRule<A>, id: NetworkId) -> Option<&'r Item<'r, SnatRule<A>>> {
        let rules = self.by_network.get(&(rule.uplink, id))?;
        let covers = |before: &&&'r Item<'r, SnatRule<A>>| excludes_no_more(&before.value, rule);
        rules.iter().find(covers).copied()
    }

    /// A rule that takes all that `rule`, whose sources are within `prefix`, would match.
    fn covering(&self, rule: &SnatRule<A>, prefix: A::Prefix) -> Option<&'r Item<'r, SnatRule<A>>> {
        let covers = |before: &&&'r Item<'r, SnatRule<A>>| excludes_no_more(&before.value, rule);
        let lengths = self.lengths.range(..=prefix.prefix_len());
        let wider = lengths.filter_map(|length| prefix.widened(*length));
        let mut rules = wider.filter_map(|wider| self.by_prefix.get(&(rule.uplink, wider)));
        rules.find_map(|rules| rules.iter().find(covers)).copied()
    }
}

/// Whether `rule` also excludes everything that `before` excludes.
fn excludes_no_more<A: Family>(before: &SnatRule<A>, rule: &SnatRule<A>) -> bool {
    before
        .exclude
        .iter()
        .all(|prefix| rule.exclude.iter().any(|wider| wider.covers(prefix)))
}
