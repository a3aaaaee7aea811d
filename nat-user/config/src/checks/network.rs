//! Networks beside each other.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::{
    model::{Action, Address, Network, Prefix as _},
    syntax::{Fault, Report},
    tables::{Item, Parts},
    text::words::quote,
};

/// A prefix of a network.
type Of<'n, A> = (<A as Address>::Prefix, &'n Item<'n, Network>);

/// Networks must not share addresses: a guest is found by its address alone.
pub(super) fn overlaps(networks: &[Item<'_, Network>], report: &mut Report<'_>) {
    let of_ipv4 = networks
        .iter()
        .map(|network| (network.value.address, network));
    report.errors(shared::<Ipv4Addr>(of_ipv4));
    let of_ipv6 = networks.iter().flat_map(|network| {
        let prefixes = network.value.addresses6.iter();
        prefixes.map(move |prefix| (*prefix, network))
    });
    report.errors(shared::<Ipv6Addr>(of_ipv6));
}

/// The prefixes of one family that have an address in common.
fn shared<'n, A: Address>(prefixes: impl Iterator<Item = Of<'n, A>>) -> Vec<Fault> {
    let mut by_start: Vec<_> = prefixes.collect();
    by_start.sort_by_key(|(prefix, _)| prefix.network());
    let mut reaches_furthest: Option<Of<'_, A>> = None;
    let mut faults = Vec::new();
    for one in by_start {
        let before = reaches_furthest;
        if let Some(before) = before.filter(|(before, _)| before.holds(one.0.network())) {
            let mut in_file = [before, one];
            in_file.sort_by_key(|(_, network)| network.section.at);
            faults.push(overlap::<A>(in_file));
        }
        if before.is_none_or(|(before, _)| before.last() < one.0.last()) {
            reaches_furthest = Some(one);
        }
    }
    faults
}

fn overlap<A: Address>([(before, first), (prefix, second)]: [Of<'_, A>; 2]) -> Fault {
    let problem = format!(
        "{} overlaps {} of network {}",
        prefix.trunc(),
        before.trunc(),
        quote(&first.value.name),
    );
    let remedy = "give each network its own prefix";
    second
        .section
        .fault("address", &problem, remedy)
        .see(first.section.at)
}

/// Guests with public addresses that uplinks may reach, and no policy that limits it.
pub(super) fn published(parts: &Parts<'_>, report: &mut Report<'_>) {
    for network in parts.networks.iter().filter(|_| parts.policies.is_empty()) {
        let mut prefixes = network.value.addresses6.iter();
        let public = prefixes.find(|prefix| !prefix.addr().is_unique_local());
        if let Some(prefix) = public.filter(|_| network.value.inbound.ipv6 == Action::Accept) {
            let prefix = prefix.trunc();
            let problem = format!("publishes every port of every guest in {prefix}");
            let remedy = "leave inbound out, and accept what is needed with [[policy]]";
            report.warn(network.section.fault("inbound", &problem, remedy));
        }
    }
}
