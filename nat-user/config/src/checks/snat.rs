//! `[[snat]]` rules that can never match.

use std::collections::{BTreeSet, HashMap};

use ipnet::Ipv4Net;

use crate::{
    model::{Network, NetworkId, SnatRule, SnatSource, UplinkId},
    syntax::Report,
    tables::Item,
    text::words::quote,
};

/// Warns of rules that can never match, because an earlier one takes every packet.
pub(super) fn shadowed(
    rules: &[Item<'_, SnatRule>],
    networks: &[Item<'_, Network>],
    report: &mut Report<'_>,
) {
    let mut earlier = Earlier::default();
    for rule in rules {
        let prefix = match rule.value.source {
            SnatSource::Prefix(prefix) => Some(prefix),
            SnatSource::Network(NetworkId(id)) => networks
                .get(id)
                .map(|network| network.value.address.trunc()),
        };
        let before = earlier.covering(&rule.value, prefix).or_else(|| {
            let around = networks.iter().zip((0..).map(NetworkId));
            let mut around = around.filter(|(network, _)| {
                prefix.is_some_and(|prefix| network.value.address.contains(&prefix))
            });
            around.find_map(|(_, id)| earlier.of_network(&rule.value, id))
        });
        if let Some(before) = before {
            let problem = format!("can never match: shadowed by {}", quote(&before.value.name));
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

/// The rules so far, by what they match.
#[derive(Default)]
struct Earlier<'r> {
    by_network: HashMap<(UplinkId, NetworkId), Vec<&'r Item<'r, SnatRule>>>,
    by_prefix: HashMap<(UplinkId, Ipv4Net), Vec<&'r Item<'r, SnatRule>>>,
    /// The existing prefix lengths, so that others need no lookup.
    lengths: BTreeSet<u8>,
}

impl<'r> Earlier<'r> {
    fn add(&mut self, rule: &'r Item<'r, SnatRule>) {
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
    fn of_network(&self, rule: &SnatRule, id: NetworkId) -> Option<&'r Item<'r, SnatRule>> {
        let rules = self.by_network.get(&(rule.uplink, id))?;
        let covers = |before: &&&'r Item<'r, SnatRule>| excludes_no_more(&before.value, rule);
        rules.iter().find(covers).copied()
    }

    /// A rule that takes all that `rule`, whose sources are within `prefix`, would match.
    fn covering(&self, rule: &SnatRule, prefix: Option<Ipv4Net>) -> Option<&'r Item<'r, SnatRule>> {
        let covers = |before: &&&'r Item<'r, SnatRule>| excludes_no_more(&before.value, rule);
        let prefix = prefix?;
        let lengths = self.lengths.range(..=prefix.prefix_len());
        let wider = lengths.filter_map(|length| Ipv4Net::new(prefix.addr(), *length).ok());
        let mut rules = wider.filter_map(|wider| self.by_prefix.get(&(rule.uplink, wider.trunc())));
        rules.find_map(|rules| rules.iter().find(covers)).copied()
    }
}

/// Whether `rule` also excludes everything that `before` excludes.
fn excludes_no_more(before: &SnatRule, rule: &SnatRule) -> bool {
    before
        .exclude
        .iter()
        .all(|prefix| rule.exclude.iter().any(|wider| wider.contains(prefix)))
}
