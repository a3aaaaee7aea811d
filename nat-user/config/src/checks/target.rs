//! The guests to which rules send packets.

use super::index::Surroundings;
use crate::{
    model::{GuestAddress, SnatRule, SnatSource, Uplink, UplinkAddresses},
    syntax::{Fault, Report, Section},
    tables::Item,
    text::words::quote,
    values,
};

/// Refuses targets that are not hosts of their network.
pub(super) fn check_targets(around: &Surroundings<'_>, report: &mut Report<'_>) {
    let forwards = around.parts.forwards.iter();
    let forwards = forwards.map(|rule| (&rule.section, &rule.value.to));
    let nats = around.parts.nats.iter();
    let nats = nats.map(|rule| (&rule.section, &rule.value.to));
    for (section, to) in forwards.chain(nats) {
        let Some(to) = to.fixed() else {
            continue; // Leased addresses are in their network.
        };
        let Some(network) = around.networks.find(to) else {
            continue;
        };
        if let Some(what) = values::reserved_in(network.address, to) {
            let problem = format!("{to} is {what} in network {}", quote(&network.name));
            report.error(section.fault("to", &problem, &values::hosts_of(network.address)));
        }
    }
}

/// The target is not where guests are; a routed guest may be anywhere.
pub(super) fn doubt(
    section: &Section<'_>,
    to: &GuestAddress,
    around: &Surroundings<'_>,
) -> Option<Fault> {
    let to = to.fixed()?;
    if let Some(network) = around.networks.find(to) {
        return (network.address.addr() == to).then(|| {
            let name = quote(&network.name);
            let problem = format!("{to} is the host's own address in network {name}");
            section.fault("to", &problem, "write a guest's address")
        });
    }
    let is_inside = |rule: &Item<'_, SnatRule>| match rule.value.source {
        SnatSource::Prefix(prefix) => prefix.contains(&to),
        SnatSource::Network(_) => false,
    };
    if around.parts.snat.iter().any(is_inside) || around.routes.find(to).is_some() {
        return None;
    }
    let is_own = |uplink: &&Item<'_, Uplink>| match &uplink.value.addresses {
        UplinkAddresses::Fixed(addresses) => addresses.contains(&to),
        UplinkAddresses::Interface => false,
    };
    if let Some(uplink) = around.parts.uplinks.iter().find(is_own) {
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
