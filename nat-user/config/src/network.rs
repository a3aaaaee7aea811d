//! `[network.NAME]`.

use std::net::Ipv4Addr;

use super::{
    diagnostic::{Fault, Report},
    model::{Action, Network},
    parse::{Key, Section, key, quote},
    policy, service,
    tables::Item,
    values,
};

/// The keys of `[network.NAME]`.
pub(super) const KEYS: &[Key] = &[
    key("interface", "\"vmbr1\""),
    key("address", "\"172.22.161.254/24\""),
    key("create", "true"),
    key("ports", "[\"tap1\"]"),
    key("anti_spoof", "true"),
    key("isolated", "true"),
    key("policy", "\"drop\""),
    key("host", "[\"dhcp\", \"dns\", \"ping\"]"),
    key("dhcp", ""),
    key("dns", ""),
];

pub(super) fn read_network(section: &Section<'_>, report: &mut Report<'_>) -> Option<Network> {
    report.errors(section.unknown_keys());
    let interface = report.keep(section.required("interface", values::interface));
    let address = report.keep(section.required("address", values::address_in_prefix));
    let create = report.keep(section.optional("create", |field| field.boolean()));
    // A duplicate is found together with all other uses of interfaces.
    let ports = section.optional("ports", |field| {
        field.items().into_iter().map(values::interface).collect()
    });
    let ports = report.keep(ports);
    let anti_spoof = report.keep(section.optional("anti_spoof", |field| field.boolean()));
    let isolated = report.keep(section.optional("isolated", |field| field.boolean()));
    let policy = report.keep(section.optional("policy", policy::action));
    let policy = policy.flatten().unwrap_or(Action::Accept);
    let host = report.keep(policy::host(section, policy));
    let prefix = address.as_ref().copied();
    let served = service::read_services(section, prefix, report);
    if (served.dhcp.is_some() || served.dns.is_some())
        && let Some(fault) = section.field("interface").and_then(service::unservable)
    {
        report.error(fault);
    }
    let network = Network {
        name: section.name.to_string(),
        interface: interface?,
        address: address?,
        create: create?.unwrap_or(false),
        ports: ports?.unwrap_or_default(),
        anti_spoof: anti_spoof?.unwrap_or(false),
        isolated: isolated?.unwrap_or(false),
        policy,
        host: host?,
        dhcp: served.dhcp,
        dns: served.dns,
    };
    if !network.create && !network.ports.is_empty() {
        let problem = "has no effect, because natbpf attaches ports only to a bridge that it \
            creates";
        report.warn(section.fault("ports", problem, "add create = true, or leave ports out"));
    }
    Some(network)
}

/// Networks must not share addresses: a guest is found by its address alone.
pub(super) fn overlaps(networks: &[Item<'_, Network>], report: &mut Report<'_>) {
    let mut by_start: Vec<_> = networks.iter().collect();
    by_start.sort_by_key(|network| network.value.address.network());
    let mut reaches_furthest: Option<&Item<'_, Network>> = None;
    for network in by_start {
        let (range, before) = (network.value.address, reaches_furthest);
        if let Some(before) =
            before.filter(|before| before.value.address.contains(&range.network()))
        {
            let in_file = if before.section.at < network.section.at {
                (before, network)
            } else {
                (network, before)
            };
            report.error(overlap(in_file));
        }
        if before.is_none_or(|before| before.value.address.broadcast() < range.broadcast()) {
            reaches_furthest = Some(network);
        }
    }
}

fn overlap((first, second): (&Item<'_, Network>, &Item<'_, Network>)) -> Fault {
    let problem = format!(
        "{} overlaps {} of network {}",
        second.value.address.trunc(),
        first.value.address.trunc(),
        quote(&first.value.name),
    );
    let remedy = "give each network its own prefix";
    second
        .section
        .fault("address", &problem, remedy)
        .see(first.section.at)
}

/// The networks, for a search by address.
#[derive(Debug)]
pub(super) struct ByAddress<'n> {
    sorted: Vec<&'n Network>,
}

impl<'n> ByAddress<'n> {
    /// Networks that overlap are an error anyway, so one of them is enough of an answer.
    pub(super) fn new(networks: &'n [Item<'_, Network>]) -> Self {
        let mut sorted: Vec<_> = networks.iter().map(|network| &network.value).collect();
        sorted.sort_by_key(|network| network.address.network());
        Self { sorted }
    }

    pub(super) fn find(&self, address: Ipv4Addr) -> Option<&'n Network> {
        let after = self
            .sorted
            .partition_point(|network| network.address.network() <= address);
        let network = self.sorted[..after].last()?;
        network.address.contains(&address).then_some(*network)
    }
}
