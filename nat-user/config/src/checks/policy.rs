//! Policies that can never match.

use crate::{
    model::{Address, ForwardProtocol, PolicyEnd, PolicyRule, PortRange, Prefix as _},
    syntax::Report,
    tables::{BothFamilies, Item},
    text::words::quote,
};

/// How many ends and ports of policies are compared with each other: enough for some thousand
/// policies.
const MOST_COMPARISONS: usize = 10_000_000;

/// Warns of policies that can never match, because an earlier one takes every flow.
pub(super) fn check_policies(rules: &[Item<'_, BothFamilies>], report: &mut Report<'_>) {
    let (mut before, mut comparisons) = (0, 0);
    for (index, rule) in rules.iter().enumerate() {
        comparisons += before * size(rule);
        before += size(rule);
        if comparisons > MOST_COMPARISONS {
            let problem = "has too many policies before it, so natbpf does not check whether they \
                           shadow it or a later policy";
            let remedy = "write prefixes and ranges instead of single addresses and ports";
            report.warn(rule.section.fault_here("", problem, remedy));
            return;
        }
        let before = rules[..index].iter();
        let covering = before
            .rev()
            .find(|before| covers_all(&before.value, &rule.value));
        if let Some(before) = covering {
            let problem = format!(
                "can never match: shadowed by {}",
                quote(&before.value.0.name)
            );
            let remedy = "put it before that policy, or remove it";
            let fault = rule.section.fault_here("", &problem, remedy);
            report.warn(fault.see(before.section.at));
        }
    }
}

/// How much there is to compare in a policy.
fn size(rule: &Item<'_, BothFamilies>) -> usize {
    let (ipv4, ipv6) = &rule.value;
    let ends = [
        &ipv4.from.len(),
        &ipv4.to.len(),
        &ipv6.from.len(),
        &ipv6.to.len(),
    ];
    ends.into_iter().copied().fold(ipv4.ports.len(), usize::max)
}

/// Whether everything that `rule` matches is matched by `before`, as far as the rules themselves
/// tell.
fn covers_all(before: &BothFamilies, rule: &BothFamilies) -> bool {
    covers(&before.0, &rule.0) && covers(&before.1, &rule.1)
}

/// The same for one family.
fn covers<A: Address>(before: &PolicyRule<A>, rule: &PolicyRule<A>) -> bool {
    let end_covers = |wide: &PolicyEnd<A>, narrow: &PolicyEnd<A>| match (wide, narrow) {
        (PolicyEnd::Any, narrow) => *narrow != PolicyEnd::Host,
        (PolicyEnd::Prefix(wide), PolicyEnd::Prefix(narrow)) => wide.covers(narrow),
        (wide, narrow) => wide == narrow,
    };
    let ends_cover = |wide: &[PolicyEnd<A>], narrow: &[PolicyEnd<A>]| {
        narrow
            .iter()
            .all(|narrow| wide.iter().any(|wide| end_covers(wide, narrow)))
    };
    let all = ForwardProtocol::All;
    let protocols = rule.protocols.iter();
    let ports_cover = |narrow: &PortRange| {
        before
            .ports
            .iter()
            .any(|wide| wide.first <= narrow.first && narrow.last <= wide.last)
    };
    if rule.from.is_empty() || rule.to.is_empty() {
        return true; // It is about the other family.
    }
    ends_cover(&before.from, &rule.from)
        && ends_cover(&before.to, &rule.to)
        && protocols
            .clone()
            .all(|one| before.protocols.contains(one) || before.protocols.contains(&all))
        && (before.ports.is_empty()
            || (!rule.ports.is_empty() && rule.ports.iter().all(ports_cover)))
}
