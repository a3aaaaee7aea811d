//! Policies that can never match.

use crate::{
    model::{ForwardProtocol, PolicyEnd, PolicyRule, PortRange},
    syntax::Report,
    tables::Item,
    text::words::quote,
};

/// How many ends and ports of policies are compared with each other: enough for some thousand
/// policies.
const MOST_COMPARISONS: usize = 10_000_000;

/// Warns of policies that can never match, because an earlier one takes every flow.
pub(super) fn check_policies(rules: &[Item<'_, PolicyRule>], report: &mut Report<'_>) {
    let (mut before, mut comparisons) = (0, 0);
    for (index, rule) in rules.iter().enumerate() {
        comparisons += before * size(&rule.value);
        before += size(&rule.value);
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
            .find(|before| covers(&before.value, &rule.value));
        if let Some(before) = covering {
            let problem = format!("can never match: shadowed by {}", quote(&before.value.name));
            let remedy = "put it before that policy, or remove it";
            let fault = rule.section.fault_here("", &problem, remedy);
            report.warn(fault.see(before.section.at));
        }
    }
}

/// How much there is to compare in a policy.
fn size(rule: &PolicyRule) -> usize {
    rule.from.len().max(rule.to.len()).max(rule.ports.len())
}

/// Whether everything that `rule` matches is matched by `before`, as far as the rules themselves
/// tell.
fn covers(before: &PolicyRule, rule: &PolicyRule) -> bool {
    let end_covers = |wide: &PolicyEnd, narrow: &PolicyEnd| match (wide, narrow) {
        (PolicyEnd::Any, narrow) => *narrow != PolicyEnd::Host,
        (PolicyEnd::Prefix(wide), PolicyEnd::Prefix(narrow)) => wide.contains(narrow),
        (wide, narrow) => wide == narrow,
    };
    let ends_cover = |wide: &[PolicyEnd], narrow: &[PolicyEnd]| {
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
    ends_cover(&before.from, &rule.from)
        && ends_cover(&before.to, &rule.to)
        && protocols
            .clone()
            .all(|one| before.protocols.contains(one) || before.protocols.contains(&all))
        && (before.ports.is_empty()
            || (!rule.ports.is_empty() && rule.ports.iter().all(ports_cover)))
}
