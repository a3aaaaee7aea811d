//! `[[route]]`: addresses that guests hold themselves, routed to them without translation.

use ipnet::{Ipv4Net, Ipv6Net};

use super::names::Names;
use crate::{
    model::{Route, UplinkId},
    syntax::{Fault, Field, Key, Report, Section, key},
    values,
};

/// The keys of `[[route]]`.
pub(crate) const KEYS: &[Key] = &[
    key("name", "\"web1\""),
    key("network", "\"br112\""),
    key("addresses", "[\"192.0.2.112/29\"]"),
    key("uplink", "\"wan\""),
    key("gateway", "\"192.0.2.10\""),
    key("proxy_arp", "true"),
    key("arp", "true"),
];

/// The kernel has an entry for each address.
const MOST_ARP_ADDRESSES: u32 = 256;

pub(crate) fn read_route(
    section: &Section<'_>,
    names: &Names<'_>,
    report: &mut Report<'_>,
) -> Option<Route> {
    report.errors(section.unknown_keys());
    let network = report.keep(section.required("network", |field| names.network(field)));
    let addresses = section.required("addresses", |field| {
        values::by_family(field.required_items()?, prefix, prefix6)
    });
    let addresses = report.keep(addresses);
    let uplink = report.keep(section.optional("uplink", |field| names.uplink(field)));
    let gateway = report.keep(section.optional("gateway", values::host_address));
    let proxy_arp = report.keep(section.optional("proxy_arp", |field| field.boolean()));
    let arp = report.keep(section.optional("arp", |field| field.boolean()));
    let (addresses, addresses6) = addresses?;
    let route = Route {
        name: section.name.to_string(),
        network: network?,
        addresses,
        addresses6,
        uplink: uplink?.unwrap_or(UplinkId(0)),
        gateway: gateway?,
        proxy_arp: proxy_arp?.unwrap_or(false),
        arp: arp?.unwrap_or(false),
    };
    if let Some(fault) = too_many_for_arp(&route, section) {
        report.error(fault);
    }
    Some(route)
}

/// A prefix of addresses of hosts.
fn prefix(field: Field<'_>) -> Result<Ipv4Net, Fault> {
    let prefix = values::prefix(field)?;
    values::usable(field, prefix.network())?;
    if prefix.prefix_len() < 8 {
        let remedy = "write a length from 8 to 32";
        return Err(field.fault(format!("`{prefix}` is too large for a route"), remedy));
    }
    values::usable(field, prefix.broadcast())?;
    Ok(prefix)
}

/// The same for IPv6.
fn prefix6(field: Field<'_>) -> Result<Ipv6Net, Fault> {
    let prefix = values::prefix6(field)?;
    if prefix.prefix_len() < 16 {
        let remedy = "write a length from 16 to 128";
        return Err(field.fault(format!("`{prefix}` is too large for a route"), remedy));
    }
    Ok(prefix)
}

fn too_many_for_arp(route: &Route, section: &Section<'_>) -> Option<Fault> {
    let sizes = route.addresses.iter();
    let sizes = sizes.map(|prefix| 1_u32 << (32 - prefix.prefix_len()));
    let count: u32 = sizes.fold(0, u32::saturating_add);
    if !route.arp || count <= MOST_ARP_ADDRESSES {
        return None;
    }
    let problem = format!(
        "answers for at most {MOST_ARP_ADDRESSES} addresses of a route, not \
        {count}"
    );
    let remedy = "have the provider route the prefix to the host, or split it into several \
        [[route]]";
    Some(section.fault("arp", &problem, remedy))
}
