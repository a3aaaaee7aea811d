//! `[network.NAME]`.

use ipnet::Ipv6Net;

use super::{addresses::addresses_of, names::Names, service};
use crate::{
    model::{Action, ForwardProtocol, HostService, Inbound, Network},
    syntax::{Fault, Field, Key, Report, Section, key},
    text::words::quote,
    values,
};

/// The keys of `[network.NAME]`.
pub(crate) const KEYS: &[Key] = &[
    key("interface", "\"vmbr1\""),
    key("address", "\"172.22.161.254/24\""),
    key("ndp", "\"wan\""),
    key("follow", "true"),
    key("create", "true"),
    key("ports", "[\"tap1\"]"),
    key("anti_spoof", "true"),
    key("isolated", "true"),
    key("policy", "\"drop\""),
    key("inbound", "\"accept\""),
    key("host", "[\"dhcp\", \"dns\", \"ping\"]"),
    key("dhcp", ""),
    key("ra", ""),
    key("dns", ""),
];

pub(crate) fn read_network(
    section: &Section<'_>,
    names: &Names<'_>,
    report: &mut Report<'_>,
) -> Option<Network> {
    report.errors(section.unknown_keys());
    let interface = report.keep(section.required("interface", values::interface));
    report.errors(section.optional("follow", |field| field.boolean()).err());
    let ndp = report.keep(section.optional("ndp", |field| names.uplink(field)));
    let addresses = report.keep(addresses_of(section));
    let create = report.keep(section.optional("create", |field| field.boolean()));
    // A duplicate is found together with all other uses of interfaces.
    let ports = section.optional("ports", |field| {
        field.items().into_iter().map(values::interface).collect()
    });
    let ports = report.keep(ports);
    let anti_spoof = report.keep(section.optional("anti_spoof", |field| field.boolean()));
    let isolated = report.keep(section.optional("isolated", |field| field.boolean()));
    let policy = report.keep(section.optional("policy", values::action));
    let policy = policy.flatten().unwrap_or(Action::Accept);
    let host = report.keep(host(section, policy));
    let inbound = report.keep(section.optional("inbound", values::action));
    let served = service::read_services(section, addresses.as_ref(), report);
    let is_served = served.dhcp.is_some() || served.dhcp6.is_some() || served.ra.is_some();
    if (is_served || served.dns.is_some())
        && let Some(fault) = section.field("interface").and_then(service::unservable)
    {
        report.error(fault);
    }
    let addresses = addresses?;
    let network = Network {
        name: section.name.to_string(),
        interface: interface?,
        address: addresses.ipv4,
        addresses6: addresses.ipv6,
        ndp: ndp?,
        follow: addresses.follows,
        followed: 0,
        create: create?.unwrap_or(false),
        is_nat64: false,
        ports: ports?.unwrap_or_default(),
        anti_spoof: anti_spoof?.unwrap_or(false),
        isolated: isolated?.unwrap_or(false),
        policy,
        inbound: inbound?.map_or_else(Inbound::default, |ipv4| Inbound { ipv4, ipv6: ipv4 }),
        host: host?,
        dhcp: served.dhcp,
        dhcp6: served.dhcp6,
        ra: served.ra,
        dns: served.dns,
    };
    if !network.create && !network.ports.is_empty() {
        let problem = "has no effect, because natbpf attaches ports only to a bridge that it \
            creates";
        report.warn(section.fault("ports", problem, "add create = true, or leave ports out"));
    }
    if let Some(fault) = without_prefix(&network, section) {
        report.warn(fault);
    }
    Some(network)
}

/// There is nothing for which the host could answer.
fn without_prefix(network: &Network, section: &Section<'_>) -> Option<Fault> {
    let is_global = |own: &Ipv6Net| !own.addr().is_unique_local();
    if network.ndp.is_none() || network.follow || network.addresses6.iter().any(is_global) {
        return None;
    }
    let problem = "has no effect, because the network has no public IPv6 prefix";
    let remedy = "add the host's IPv6 address in the provider's prefix, or leave ndp out";
    Some(section.fault("ndp", problem, remedy))
}

/// The services of the host for a network's guests: all, unless the network says otherwise or drops
/// by default.
pub(crate) fn host(
    section: &Section<'_>,
    policy: Action,
) -> Result<Option<Vec<HostService>>, Fault> {
    let Some(field) = section.field("host") else {
        return Ok(match policy {
            Action::Accept => None,
            Action::Drop => Some(vec![HostService::Dhcp, HostService::Dns, HostService::Ping]),
        });
    };
    if field.string() == Ok("all") {
        return Ok(None);
    }
    values::distinct(field.items(), service).map(Some)
}

fn service(field: Field<'_>) -> Result<HostService, Fault> {
    let text = field.string()?;
    let protocol = match text.split_once('/') {
        Some(("tcp", _)) => ForwardProtocol::Tcp,
        Some(("udp", _)) => ForwardProtocol::Udp,
        _ => {
            let words = [
                ("dhcp", HostService::Dhcp),
                ("dns", HostService::Dns),
                ("ping", HostService::Ping),
            ];
            return field.choice(&words).map_err(|fault| Fault {
                remedy: "write \"dhcp\", \"dns\", \"ping\", a port such as \"tcp/22\", or host = \
                         \"all\""
                    .to_owned(),
                ..fault
            });
        }
    };
    let port = text[4..].parse().ok().filter(|port| *port != 0);
    port.map(|port| HostService::Port(protocol, port))
        .ok_or_else(|| {
            let problem = format!("{} names no port", quote(text));
            field.fault(problem, "write a port from 1 to 65535, as in \"tcp/22\"")
        })
}
