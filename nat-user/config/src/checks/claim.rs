//! Pools whose addresses an interface has to hold.

use crate::{
    model::{Claim, Family, SnatRule, SnatTarget, Uplink},
    syntax::Report,
    tables::Item,
    text::words::quote,
};

/// How many addresses of a pool natbpf may add to an interface.
const LARGEST_POOL: u128 = 256;

/// Refuses large pools whose addresses an interface would all have to hold.
pub(super) fn check_claims<A: Family>(
    rules: &[Item<'_, SnatRule<A>>],
    uplinks: &[Item<'_, Uplink>],
    report: &mut Report<'_>,
) {
    for rule in rules {
        let uplink = uplinks.get(rule.value.uplink.0).map(|item| &item.value);
        let Some(uplink) = uplink.filter(|uplink| uplink.claim == Claim::Add) else {
            continue;
        };
        let SnatTarget::Pool { first, last } = rule.value.to else {
            continue;
        };
        let count = first.count_to(last);
        if count > LARGEST_POOL {
            let problem = format!(
                "uplink {} cannot add {count} addresses to {}",
                quote(&uplink.name),
                uplink.interface
            );
            let remedy =
                format!("write a pool of at most {LARGEST_POOL}, or claim = \"arp\" in the uplink");
            report.error(rule.section.fault("to", &problem, &remedy));
        }
    }
}
