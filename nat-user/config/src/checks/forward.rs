//! `[[forward]]` beside the other tables.

use std::collections::HashSet;

use super::{index::Surroundings, target};
use crate::{
    model::{
        Family, ForwardProtocol, ForwardRule, NatRule, PortRange, SnatRule, SnatTarget, Uplink,
        UplinkAddresses, UplinkId,
    },
    syntax::{Fault, Report},
    tables::{Item, SSH},
    text::words::quote,
};

/// Warns about valid but probably unintended settings.
pub(super) fn forward_doubts<A: Family>(around: &Surroundings<'_, A>, report: &mut Report<'_>) {
    let rules = around.forwards;
    let named_ssh: HashSet<_> = rules
        .iter()
        .filter(|rule| names_ssh(&rule.value))
        .map(scope)
        .collect();
    for rule in rules {
        let faults = [
            target::doubt(&rule.section, &rule.value.to, around),
            foreign_address(rule, around),
            kept_ssh(rule, around.uplinks, &named_ssh),
            no_ports_left(rule, around),
        ];
        faults
            .into_iter()
            .flatten()
            .for_each(|fault| report.warn(fault));
    }
}

type Scope<A> = (UplinkId, Option<A>);

fn scope<A: Family>(rule: &Item<'_, ForwardRule<A>>) -> Scope<A> {
    (rule.value.uplink, rule.value.address)
}

/// The external address is not a known address of the uplink.
fn foreign_address<A: Family>(
    rule: &Item<'_, ForwardRule<A>>,
    around: &Surroundings<'_, A>,
) -> Option<Fault> {
    let address = rule.value.address?;
    let uplink = &around.uplinks.get(rule.value.uplink.0)?.value;
    let UplinkAddresses::Fixed(addresses) = A::of_uplink(uplink) else {
        return None;
    };
    let in_pool = |snat: &Item<'_, SnatRule<A>>| match snat.value.to {
        SnatTarget::Pool { first, last } => {
            snat.value.uplink == rule.value.uplink && (first..=last).contains(&address)
        }
        SnatTarget::Masquerade => false,
    };
    let of_guest = |nat: &Item<'_, NatRule<A>>| {
        nat.value.uplink == rule.value.uplink && nat.value.address == address
    };
    if addresses.contains(&address)
        || around.snat.iter().any(in_pool)
        || around.nats.iter().any(of_guest)
    {
        return None;
    }
    let problem = format!(
        "{address} is not an address of uplink {}",
        quote(&uplink.name)
    );
    let remedy = "add it to the uplink's addresses, unless it is routed to the host";
    Some(rule.section.fault("address", &problem, remedy))
}

/// The rule names every port by which guests could leave with the same address.
fn no_ports_left<A: Family>(
    rule: &Item<'_, ForwardRule<A>>,
    around: &Surroundings<'_, A>,
) -> Option<Fault> {
    let leaves_nothing = |snat: &&Item<'_, SnatRule<A>>| {
        let ports = snat.value.ports;
        let mut named = rule.value.matches.ports.iter();
        let is_whole = named.any(|named| {
            named.external.first <= ports.first.max(FIRST_FREE) && ports.last <= named.external.last
        });
        let is_same = rule
            .value
            .address
            .is_none_or(|address| match snat.value.to {
                SnatTarget::Pool { first, last } => first == address && last == address,
                SnatTarget::Masquerade => {
                    first_address(snat, around).is_none_or(|own| own == address)
                }
            });
        snat.value.uplink == rule.value.uplink && is_whole && is_same
    };
    let snat = around.snat.iter().find(leaves_nothing)?;
    let problem = format!(
        "takes every port that snat {} could use on the same address",
        quote(&snat.value.name)
    );
    let remedy = "leave ports out, so that guests share the remaining ports; or use two different \
        addresses";
    let fault = rule.section.fault("ports", &problem, remedy);
    Some(fault.see(snat.section.at))
}

/// What masquerade uses, as far as the file tells.
fn first_address<A: Family>(
    snat: &Item<'_, SnatRule<A>>,
    around: &Surroundings<'_, A>,
) -> Option<A> {
    match A::of_uplink(&around.uplinks.get(snat.value.uplink.0)?.value) {
        UplinkAddresses::Fixed(addresses) => addresses.first().copied(),
        UplinkAddresses::Interface => None,
    }
}

/// Almost all ports of guests are at or above this one.
const FIRST_FREE: u16 = 1024;

fn names_ssh<A: Family>(rule: &ForwardRule<A>) -> bool {
    let single = PortRange {
        first: SSH.1,
        last: SSH.1,
    };
    rule.matches.protocols.contains(&SSH.0)
        && rule
            .matches
            .ports
            .iter()
            .any(|ports| ports.external == single)
}

/// The range of the rule includes tcp/22, which nevertheless stays with the host. No warning if
/// `keep` is set.
fn kept_ssh<A: Family>(
    rule: &Item<'_, ForwardRule<A>>,
    uplinks: &[Item<'_, Uplink>],
    named: &HashSet<Scope<A>>,
) -> Option<Fault> {
    let reason = takes_ssh(&rule.value)?;
    let uplink = uplinks.get(rule.value.uplink.0)?;
    let by_default = uplink.section.field("keep").is_none();
    // It is not known here whether the host holds an address that only the rule names; usually it
    // does not.
    let own_address = match (A::of_uplink(&uplink.value), rule.value.address) {
        (UplinkAddresses::Fixed(addresses), Some(address)) => addresses.contains(&address),
        (UplinkAddresses::Interface, Some(_)) => false,
        (_, None) => true,
    };
    let named = named.contains(&(rule.value.uplink, None)) || named.contains(&scope(rule));
    if !by_default || !own_address || named {
        return None;
    }
    // It is not known here whether the host holds an address that the uplink lists.
    let holds = match rule.value.address {
        Some(address) => format!(" where that holds {address}"),
        None => String::new(),
    };
    let problem = format!("tcp port 22 stays with the host{holds}, although {reason} includes it");
    let remedy = format!(
        "name port 22 by itself to forward it, or set {}.keep to the host's ports",
        uplink.section.path()
    );
    let key = if rule.value.matches.ports.is_empty() {
        "protocol"
    } else {
        "ports"
    };
    Some(rule.section.fault(key, &problem, &remedy))
}

/// The part of a rule that includes the host's ssh port without naming it.
fn takes_ssh<A: Family>(rule: &ForwardRule<A>) -> Option<String> {
    let matches = &rule.matches;
    let all = matches.protocols.contains(&ForwardProtocol::All);
    let tcp = matches.protocols.contains(&SSH.0);
    if matches.ports.is_empty() {
        return (all || tcp).then(|| if all { "`all`" } else { "tcp without ports" }.to_owned());
    }
    let ranges = matches.ports.iter().map(|ports| ports.external);
    let mut wide = ranges.filter(|range| range.count() > 1);
    let range = wide.find(|range| (range.first..=range.last).contains(&SSH.1))?;
    tcp.then(|| range.to_string())
}
