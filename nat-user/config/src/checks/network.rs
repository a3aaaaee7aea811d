//! Networks beside each other.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::index::{Surroundings, Written, overlaps};
use crate::{
    model::{Action, Address, Family, Network, NetworkId, Prefix as _, UplinkAddresses, UplinkId},
    syntax::{Fault, Report},
    tables::{Item, Parts},
    text::words::quote,
};

/// Networks must not share addresses: a guest is found by its address alone.
pub(super) fn check_prefixes(networks: &[Item<'_, Network>], report: &mut Report<'_>) {
    check_family::<Ipv4Addr>(networks, report);
    check_family::<Ipv6Addr>(networks, report);
}

fn check_family<A: Family>(networks: &[Item<'_, Network>], report: &mut Report<'_>) {
    let prefixes = networks.iter().flat_map(|network| {
        let own = A::of_network(&network.value).iter();
        own.map(move |own| (*own, network))
    });
    let pairs = overlaps::<A, _>(prefixes.collect());
    report.errors(pairs.into_iter().map(overlap::<A>));
}

/// Refuses IPv6 prefixes of networks in which an uplink has an address, unless the network says
/// that its guests are on that uplink's link.
pub(super) fn check_links(around: &Surroundings<'_, Ipv6Addr>, report: &mut Report<'_>) {
    let uplinks = around.uplinks.iter().zip((0..).map(UplinkId));
    for (uplink, id) in uplinks {
        let UplinkAddresses::Fixed(own) = &uplink.value.addresses6 else {
            continue;
        };
        let shared = own.iter().find_map(|address| {
            let (prefix, network) = around.networks.find(*address)?;
            (network.ndp != Some(id)).then_some((address, prefix.trunc(), network))
        });
        if let Some((address, prefix, network)) = shared {
            let (uplink_name, name) = (&uplink.value.name, quote(&network.name));
            let problem = format!("{address} is in {prefix} of network {name}");
            let remedy = format!(
                "write ndp = \"{uplink_name}\" in the network if the provider has the prefix on \
                 this link; otherwise give the network another prefix"
            );
            report.error(uplink.section.fault("addresses", &problem, &remedy));
        }
    }
}

/// Refuses DNS64 for guests without NAT64: nothing would carry their packets.
pub(super) fn check_dns64(parts: &Parts<'_>, report: &mut Report<'_>) {
    let count = parts.networks.len();
    let nat64 = parts.nat64.as_ref();
    // (Its own network is the last one, unless another one has an error.)
    let users = nat64.map(|one| one.networks.as_ref().filter(|_| one.network.0 + 1 == count));
    for (index, network) in parts.networks.iter().enumerate() {
        let has_dns64 = network.value.dns.as_ref().is_some_and(|dns| dns.dns64);
        let (problem, remedy) = match users {
            _ if !has_dns64 => continue,
            None => (
                "dns64 needs NAT64, which is not configured",
                "add a table [nat64], or leave dns64 out",
            ),
            Some(Some(users)) if !users.contains(&NetworkId(index)) => (
                "dns64 needs NAT64, which is not for this network",
                "add the network to networks in [nat64], or leave dns64 out",
            ),
            Some(_) => continue,
        };
        report.error(network.section.fault("dns", problem, remedy));
    }
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
