//! Networks beside each other.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::index::{Written, overlaps};
use crate::{
    model::{Action, Address, Network, Prefix as _},
    syntax::{Fault, Report},
    tables::{Item, Parts},
    text::words::quote,
};

/// Networks must not share addresses: a guest is found by its address alone.
pub(super) fn check_prefixes(networks: &[Item<'_, Network>], report: &mut Report<'_>) {
    let of_ipv4 = networks.iter();
    let of_ipv4 = of_ipv4.map(|network| (network.value.address, network));
    let pairs = overlaps::<Ipv4Addr, _>(of_ipv4.collect());
    report.errors(pairs.into_iter().map(overlap::<Ipv4Addr>));
    let of_ipv6 = networks.iter().flat_map(|network| {
        let prefixes = network.value.addresses6.iter();
        prefixes.map(move |prefix| (*prefix, network))
    });
    let pairs = overlaps::<Ipv6Addr, _>(of_ipv6.collect());
    report.errors(pairs.into_iter().map(overlap::<Ipv6Addr>));
}

fn overlap<A: Address>([(before, first), (prefix, second)]: [Written<'_, A, Network>; 2]) -> Fault {
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
