//! The tables of a file, read one after the other.
//!
//! A table's file reads what the table itself says. [`crate::checks`] compares it with the others.

mod addresses;
pub(crate) mod dhcp;
pub(crate) mod forward;
pub(crate) mod guest;
mod interfaces;
mod item;
pub(crate) mod limits;
mod names;
pub(crate) mod nat;
pub(crate) mod nat64;
pub(crate) mod network;
mod parts;
pub(crate) mod policy;
pub(crate) mod ra;
pub(crate) mod route;
pub(crate) mod service;
pub(crate) mod snat;
pub(crate) mod uplink;

use self::names::Names;
pub(crate) use self::{item::Item, parts::Parts, policy::BothFamilies, uplink::SSH};
use crate::{
    model::{Forwarding, Nat64, Network},
    syntax::{Fault, Key, Report, Section, key},
    values,
};

/// The tables of a file.
pub(crate) const KEYS: &[Key] = &[
    key("forwarding", "\"fast\""),
    key("template", ""),
    key("uplink", ""),
    key("network", ""),
    key("guest", ""),
    key("route", ""),
    key("snat", ""),
    key("forward", ""),
    key("nat", ""),
    key("nat64", ""),
    key("policy", ""),
    key("limits", ""),
    key("timeouts", ""),
];

/// Applies `read` to each table. A failure leaves an error in the report.
fn read_each<'a, T, N>(
    sections: Vec<Section<'a>>,
    names: &N,
    report: &mut Report<'_>,
    read: impl Fn(&Section<'a>, &N, &mut Report<'_>) -> Option<T>,
) -> Vec<Item<'a, T>> {
    let read_one =
        |section: Section<'a>| read(&section, names, report).map(|value| Item::new(section, value));
    sections.into_iter().filter_map(read_one).collect()
}

/// Reads all tables.
///
/// `end` is the length of the text.
pub(crate) fn read<'a>(root: &Section<'a>, end: usize, report: &mut Report<'_>) -> Parts<'a> {
    report.errors(root.unknown_keys());
    let uplinks = root.named_tables("uplink", uplink::KEYS, report);
    let networks = root.named_tables("network", network::KEYS, report);
    if uplinks.is_empty() {
        report.error(no_uplink(root, end));
    }
    interfaces::roles(&uplinks, &networks, report);

    let guests = root.rules("guest", guest::KEYS, report);
    let mut nat64 = read_nat64(root, &networks, report);
    let names = Names::new(&uplinks, &networks, &guests, nat64.as_ref());
    if let Some(Item { section, value, .. }) = &mut nat64 {
        value.networks = report.keep(nat64::users(section, &names)).flatten();
        value.uplink = report.keep(nat64::way_out(section, &names)).flatten();
    }
    let mut rules = |key, keys| root.rules(key, keys, report);
    let routes = rules("route", route::KEYS);
    let snat = rules("snat", snat::KEYS);
    let forwards = rules("forward", forward::KEYS);
    let (prefixes, nats) = rules("nat", nat::KEYS)
        .into_iter()
        .partition(nat::is_of_prefixes);
    let policies = rules("policy", policy::KEYS);
    let guests = read_each(guests.clone(), &names, report, guest::read_guest);
    let routes = read_each(routes, &names, report, route::read_route);
    let (snat, snat6) = item::by_family(read_each(snat, &names, report, snat::read_snat));
    let forwards = read_each(forwards, &names, report, forward::read_forward);
    let translating = nat64.as_mut().map(|nat64| &mut nat64.value);
    let (forwards, forwards6) = forward::by_family(forwards, translating, report);
    let prefixes = read_each(prefixes, &names, report, nat::read_prefixes);
    let nats = read_each(nats, &names, report, nat::read_nat);
    let policies = read_each(policies, &names, report, policy::read_policy);
    let limits = root.table("limits", limits::LIMITS, report);
    let limits = limits.and_then(|section| limits::limits(&section, report));
    let timeouts = root.table("timeouts", limits::TIMEOUTS, report);
    let timeouts = timeouts.and_then(|section| limits::timeouts(&section, report));
    let forwarding = report.keep(root.optional("forwarding", values::forwarding));
    let networks = read_networks(networks.clone(), nat64.as_ref(), &names, report);
    Parts {
        forwarding: forwarding.flatten().unwrap_or(Forwarding::Fast),
        uplinks: read_each(uplinks.clone(), &(), report, |section, (), report| {
            uplink::read_uplink(section, report)
        }),
        networks,
        guests,
        routes,
        snat,
        snat6,
        forwards,
        forwards6,
        nats,
        prefixes,
        policies,
        nat64: nat64.map(|nat64| nat64.value),
        limits: limits.unwrap_or_default(),
        timeouts: timeouts.unwrap_or_default(),
    }
}

fn read_nat64<'a>(
    root: &Section<'a>,
    networks: &[Section<'_>],
    report: &mut Report<'_>,
) -> Option<Item<'a, Nat64>> {
    let section = root.table("nat64", nat64::KEYS, report)?;
    let read = nat64::read_nat64(&section, networks, report)?;
    Some(Item::new(section, read))
}

/// The networks of the file, and NAT64's.
fn read_networks<'a>(
    sections: Vec<Section<'a>>,
    nat64: Option<&Item<'a, Nat64>>,
    names: &Names<'_>,
    report: &mut Report<'_>,
) -> Vec<Item<'a, Network>> {
    let mut networks = read_each(sections, names, report, network::read_network);
    // (It comes last, so its place is right only if all others have been read. Otherwise there is
    // an error.)
    let own =
        |nat64: &Item<'a, Nat64>| Item::new(nat64.section.clone(), nat64::network(&nat64.value));
    networks.extend(nat64.map(own));
    networks
}

fn no_uplink(root: &Section<'_>, end: usize) -> Fault {
    let problem = "there is no uplink";
    let remedy = "add [uplink.NAME] with interface = \"vmbr0\", for example";
    let missing = root.fault_here("uplink", problem, remedy);
    root.mistyped("uplink")
        .unwrap_or(Fault { at: end, ..missing })
}
