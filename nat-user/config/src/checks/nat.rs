//! `[[nat]]` beside the other tables.

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    hash::Hash,
    net::{Ipv4Addr, Ipv6Addr},
};

use super::{
    index::{Surroundings, Written, overlaps},
    target,
};
use crate::{
    model::{NatRule, PrefixRule, SnatRule, SnatTarget, UplinkAddresses, UplinkId},
    syntax::{Fault, Report},
    tables::Item,
    text::words::quote,
};

/// Refuses rules that are not one to one, and external addresses that are inside.
pub(super) fn check_nats(around: &Surroundings<'_, Ipv4Addr>, report: &mut Report<'_>) {
    let rules = around.nats;
    for (rule, before) in repeated(rules, |rule| rule.address) {
        let problem = format!(
            "{} already belongs to the guest of {}",
            rule.value.address,
            quote(&before.value.name)
        );
        let remedy = "give each guest its own address";
        let fault = rule.section.fault("address", &problem, remedy);
        report.error(fault.see(before.section.at));
    }
    for (rule, before) in repeated(rules, |rule| (rule.uplink, rule.to.clone())) {
        let problem = format!(
            "{} already has an address of this uplink, from {}",
            rule.value.to,
            quote(&before.value.name)
        );
        let remedy = "remove one of the two; a [[forward]] with protocol = \"all\" adds an address";
        let fault = rule.section.fault("to", &problem, remedy);
        report.error(fault.see(before.section.at));
    }
    for rule in rules {
        if let Some((_, network)) = around.networks.find(rule.value.address) {
            let (address, name) = (rule.value.address, quote(&network.name));
            let problem = format!("{address} is an inside address, in network {name}");
            let remedy = "write the guest's external address";
            report.error(rule.section.fault("address", &problem, remedy));
        }
    }
}

/// Refuses prefixes that two rules translate.
pub(super) fn check_prefixes(rules: &[Item<'_, PrefixRule>], report: &mut Report<'_>) {
    let external = rules.iter().map(|rule| (rule.value.external, rule));
    let external = overlaps::<Ipv6Addr, _>(external.collect());
    report.errors(
        external
            .into_iter()
            .map(|pair| shared_prefix("address", pair)),
    );
    let uplinks: BTreeSet<UplinkId> = rules.iter().map(|rule| rule.value.uplink).collect();
    for uplink in uplinks {
        let rules = rules.iter().filter(|rule| rule.value.uplink == uplink);
        let internal = rules.map(|rule| (rule.value.internal, rule));
        let internal = overlaps::<Ipv6Addr, _>(internal.collect());
        report.errors(internal.into_iter().map(|pair| shared_prefix("to", pair)));
    }
}

/// Refuses external prefixes of a network, and warns of inside prefixes that are in none.
pub(super) fn check_places(
    rules: &[Item<'_, PrefixRule>],
    around: &Surroundings<'_, Ipv6Addr>,
    report: &mut Report<'_>,
) {
    for rule in rules {
        let PrefixRule {
            external, internal, ..
        } = rule.value;
        if let Some(network) = around.networks.overlapping(external) {
            let name = quote(&network.name);
            let problem = format!("{external} is an inside prefix, in network {name}");
            let remedy = "write the prefix that the provider routes to the host";
            report.error(rule.section.fault("address", &problem, remedy));
        }
        let is_routed = around.routes.overlapping(internal).next().is_some();
        if around.networks.overlapping(internal).is_none() && !is_routed {
            let problem = format!("{internal} is in no [network]");
            let remedy = "write the prefix of a network, or add a [[route]] for it";
            report.warn(rule.section.fault("to", &problem, remedy));
        }
    }
}

fn shared_prefix(
    key: &str,
    [(before, first), (prefix, second)]: [Written<'_, Ipv6Addr, PrefixRule>; 2],
) -> Fault {
    let name = quote(&first.value.name);
    let problem = format!("{prefix} overlaps {before} of {name}");
    let fault = second
        .section
        .fault(key, &problem, "translate each prefix once");
    fault.see(first.section.at)
}

/// Rules that share a key with an earlier one, each with the first such rule.
fn repeated<'r, 'a, K: Eq + Hash>(
    rules: &'r [Item<'a, NatRule>],
    key: impl Fn(&NatRule) -> K,
) -> Vec<(&'r Item<'a, NatRule>, &'r Item<'a, NatRule>)> {
    let mut first = HashMap::new();
    let mut found = Vec::new();
    for rule in rules {
        match first.entry(key(&rule.value)) {
            Entry::Vacant(free) => _ = free.insert(rule),
            Entry::Occupied(before) => found.push((rule, *before.get())),
        }
    }
    found
}

/// Warns about valid but probably unintended settings.
pub(super) fn nat_doubts(around: &Surroundings<'_, Ipv4Addr>, report: &mut Report<'_>) {
    for rule in around.nats {
        let (section, to) = (&rule.section, &rule.value.to);
        let faults = [
            target::doubt(section, to, around),
            shared_address(rule, around),
        ];
        faults
            .into_iter()
            .flatten()
            .for_each(|fault| report.warn(fault));
    }
}

/// A `[[snat]]` rule also uses the address for other guests, but every port there belongs to this
/// guest.
fn shared_address(rule: &Item<'_, NatRule>, around: &Surroundings<'_, Ipv4Addr>) -> Option<Fault> {
    let address = rule.value.address;
    let holds = |snat: &&Item<'_, SnatRule>| {
        snat.value.uplink == rule.value.uplink
            && match snat.value.to {
                SnatTarget::Pool { first, last } => (first..=last).contains(&address),
                SnatTarget::Masquerade => masqueraded(rule, around) == Some(address),
            }
    };
    let snat = around.snat.iter().find(holds)?;
    let name = quote(&snat.value.name);
    let problem = format!("snat {name} also uses {address}, but has no port there");
    let remedy = "write an address that only this guest uses";
    Some(
        rule.section
            .fault("address", &problem, remedy)
            .see(snat.section.at),
    )
}

/// What masquerade uses at the rule's uplink, as far as the file tells.
fn masqueraded(rule: &Item<'_, NatRule>, around: &Surroundings<'_, Ipv4Addr>) -> Option<Ipv4Addr> {
    match &around.uplinks.get(rule.value.uplink.0)?.value.addresses {
        UplinkAddresses::Fixed(addresses) => addresses.first().copied(),
        UplinkAddresses::Interface => None,
    }
}
