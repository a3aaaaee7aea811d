//! The guests to which rules send packets.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use super::index::Surroundings;
use crate::{
    model::{Family, GuestAddress, Prefix as _, SnatRule, SnatSource, Uplink, UplinkAddresses},
    syntax::{Fault, Report, Section},
    tables::Item,
    text::words::quote,
    values,
};

/// Refuses targets that are not hosts of their network.
pub(super) fn check_targets<A: Reserved>(around: &Surroundings<'_, A>, report: &mut Report<'_>) {
    let forwards = around.forwards.iter();
    let forwards = forwards.map(|rule| (&rule.section, &rule.value.to));
    let nats = around.nats.iter();
    let nats = nats.map(|rule| (&rule.section, &rule.value.to));
    for (section, to) in forwards.chain(nats) {
        let Some(to) = to.fixed() else {
            continue; // Leased addresses are in their network.
        };
        let Some((own, network)) = around.networks.find(to) else {
            continue;
        };
        if let Some((what, remedy)) = A::reserved(own, to) {
            let problem = format!("{to} is {what} in network {}", quote(&network.name));
            report.error(section.fault("to", &problem, &remedy));
        }
    }
}

/// Addresses of a network that are no host's.
pub(super) trait Reserved: Family {
    /// What an address is if it is one of them, and what to write instead.
    fn reserved(own: Self::Prefix, address: Self) -> Option<(&'static str, String)>;
}

impl Reserved for Ipv4Addr {
    fn reserved(own: Ipv4Net, address: Self) -> Option<(&'static str, String)> {
        let what = values::reserved_in(own, address)?;
        Some((what, values::hosts_of(own)))
    }
}

impl Reserved for Ipv6Addr {
    fn reserved(own: Ipv6Net, address: Self) -> Option<(&'static str, String)> {
        let remedy = format!("write a guest's address in {}", own.trunc());
        values::is_anycast(own, address).then_some(("the routers' anycast address", remedy))
    }
}

/// The target is not where guests are; a routed guest may be anywhere.
pub(super) fn doubt<A: Family>(
    section: &Section<'_>,
    to: &GuestAddress<A>,
    around: &Surroundings<'_, A>,
) -> Option<Fault> {
    let to = to.fixed()?;
    if let Some((own, network)) = around.networks.find(to) {
        return (own.addr() == to).then(|| {
            let name = quote(&network.name);
            let problem = format!("{to} is the host's own address in network {name}");
            section.fault("to", &problem, "write a guest's address")
        });
    }
    let is_inside = |rule: &Item<'_, SnatRule<A>>| match rule.value.source {
        SnatSource::Prefix(prefix) => prefix.holds(to),
        SnatSource::Network(_) => false,
    };
    if around.snat.iter().any(is_inside) || around.routes.find(to).is_some() {
        return None;
    }
    let is_own = |uplink: &&Item<'_, Uplink>| match A::of_uplink(&uplink.value) {
        UplinkAddresses::Fixed(addresses) => addresses.contains(&to),
        UplinkAddresses::Interface => false,
    };
    if let Some(uplink) = around.uplinks.iter().find(is_own) {
        let problem = format!(
            "{to} is the host's own address, of uplink {}",
            quote(&uplink.value.name)
        );
        let remedy = "write a guest's address; the host's own services need no forward";
        return Some(section.fault("to", &problem, remedy));
    }
    let problem = format!("{to} is in no [network]");
    let remedy =
        "write a guest's address, add a [[route]] for it, or ignore this if others route it";
    Some(section.fault("to", &problem, remedy))
}
