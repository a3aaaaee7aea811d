//! `[network.NAME.dhcp]` and `[network.NAME.dns]`.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::{
    model::{Dhcp, Dns, Forwarders},
    syntax::{Fault, Field, Key, Report, Section, key},
    text::words::quote,
    values,
};

/// The keys of `[network.NAME.dhcp]`.
pub(crate) const DHCP: &[Key] = &[
    key("range", "\"172.22.161.10-172.22.161.200\""),
    key("lease_time_s", "3600"),
    key("gateway", "\"172.22.161.254\""),
    key("dns", "[\"172.22.161.254\"]"),
    key("domain", "\"lan\""),
];

/// The keys of `[network.NAME.dns]`.
pub(crate) const DNS: &[Key] = &[
    key("forwarders", "[\"192.0.2.53\"]"),
    key("private_answers", "false"),
];

/// An hour: short enough to reuse addresses, long enough to cause little traffic.
const LEASE_TIME_S: u32 = 3600;
/// dnsmasq uses two minutes for anything less.
const LEAST_LEASE_TIME_S: u32 = 120;
/// Some 68 years. (The protocol has 32 bits; all ones mean "forever".)
const MOST_LEASE_TIME_S: u32 = i32::MAX.unsigned_abs();

/// What this host does for the guests of a network besides translation.
#[derive(Debug, Default)]
pub(crate) struct Served {
    pub(crate) dhcp: Option<Dhcp>,
    pub(crate) dns: Option<Dns>,
}

/// Reads both tables of a network whose address, unless there is a mistake in it, is `host`.
pub(crate) fn read_services(
    network: &Section<'_>,
    host: Option<Ipv4Net>,
    report: &mut Report<'_>,
) -> Served {
    let dhcp = network.part("dhcp", DHCP, report);
    let dhcp = dhcp.and_then(|section| dhcp_of(&section, network, host, report));
    let dns = network.part("dns", DNS, report);
    let dns = dns.and_then(|section| dns_of(&section, report));
    // Guests that receive this host as their name server get answers.
    let is_named = |dhcp: &Dhcp| host.is_some_and(|host| dhcp.dns.contains(&host.addr()));
    let by_default = dhcp.as_ref().is_some_and(is_named).then_some(Dns {
        forwarders: Forwarders::Host,
        private_answers: false,
    });
    Served {
        dns: dns.or(by_default),
        dhcp,
    }
}

fn dhcp_of(
    section: &Section<'_>,
    network: &Section<'_>,
    host: Option<Ipv4Net>,
    report: &mut Report<'_>,
) -> Option<Dhcp> {
    report.errors(section.unknown_keys());
    let range = report.keep(section.required("range", values::address_range));
    let lease_time_s = section.optional("lease_time_s", |field| {
        field.integer(LEAST_LEASE_TIME_S, MOST_LEASE_TIME_S)
    });
    let lease_time_s = report.keep(lease_time_s);
    let gateway = report.keep(section.optional("gateway", values::host_address));
    let dns = section.optional("dns", |field| {
        values::distinct(field.items(), values::host_address)
    });
    let dns = report.keep(dns);
    let domain = report.keep(section.optional("domain", values::domain));
    let host = host?;
    let (first, last) = range?;
    let gateway = gateway?.unwrap_or(host.addr());
    let place = Place {
        section,
        network,
        host,
    };
    let faults = [place.gateway(gateway), place.range(first, last, gateway)];
    report.errors(faults.into_iter().flatten());
    Some(Dhcp {
        first,
        last,
        lease_time_s: lease_time_s?.unwrap_or(LEASE_TIME_S),
        gateway,
        dns: dns?.unwrap_or_else(|| vec![host.addr()]),
        domain: domain?,
    })
}

fn dns_of(section: &Section<'_>, report: &mut Report<'_>) -> Option<Dns> {
    report.errors(section.unknown_keys());
    let forwarders = section.optional("forwarders", |field| {
        values::distinct(field.items(), values::host_address)
    });
    let forwarders = report.keep(forwarders);
    let private_answers = report.keep(section.optional("private_answers", |field| field.boolean()));
    Some(Dns {
        forwarders: forwarders?.map_or(Forwarders::Host, Forwarders::Fixed),
        private_answers: private_answers?.unwrap_or(false),
    })
}

/// A network whose guests get leases.
struct Place<'s> {
    section: &'s Section<'s>,
    network: &'s Section<'s>,
    host: Ipv4Net,
}

impl Place<'_> {
    fn gateway(&self, gateway: Ipv4Addr) -> Option<Fault> {
        let problem = self.not_a_host(gateway)?;
        let remedy = format!("write an address in {}", self.host.trunc());
        Some(self.section.fault("gateway", &problem, &remedy))
    }

    fn range(&self, first: Ipv4Addr, last: Ipv4Addr, gateway: Ipv4Addr) -> Option<Fault> {
        let outside = self.not_a_host(first).or_else(|| self.not_a_host(last));
        let (problem, remedy) = if let Some(problem) = outside {
            let remedy = format!(
                "write a range of guests' addresses in {}",
                self.host.trunc()
            );
            (problem, remedy)
        } else {
            let range = first..=last;
            let (taken, whose) = if range.contains(&self.host.addr()) {
                (self.host.addr(), "the host's own address")
            } else if range.contains(&gateway) {
                (gateway, "the gateway's address")
            } else {
                return None;
            };
            let problem = format!("the range {first}-{last} contains {taken}, {whose}");
            (problem, "write a range without it".to_owned())
        };
        Some(self.section.fault("range", &problem, &remedy))
    }

    /// Why an address is unusable for hosts of the network.
    fn not_a_host(&self, address: Ipv4Addr) -> Option<String> {
        let name = quote(&self.network.name);
        if !self.host.contains(&address) {
            return Some(format!("{address} is not in network {name}"));
        }
        let what = values::reserved_in(self.host, address)?;
        Some(format!("{address} is {what} in network {name}"))
    }
}

/// dnsmasq cannot use an interface of that name, because the character is special to it.
pub(crate) fn unservable(interface: Field<'_>) -> Option<Fault> {
    let name = interface.string().ok()?;
    let special = name
        .chars()
        .find(|c| matches!(c, ',' | '*' | '#' | '"' | '\\'))?;
    let problem = format!(
        "{} holds {special:?}, with which no DHCP and DNS are served",
        quote(name)
    );
    let remedy = "give the interface another name, or leave [network.NAME.dhcp] and .dns out";
    Some(interface.fault(problem, remedy))
}
