//! `[network.NAME.dhcp]`.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use super::addresses::Addresses;
use crate::{
    model::{Dhcp, Dhcp6},
    syntax::{Fault, Key, Report, Section, key},
    text::words::quote,
    values,
};

/// The keys of `[network.NAME.dhcp]`.
pub(crate) const DHCP: &[Key] = &[
    key("range", "\"172.22.161.10-172.22.161.200\""),
    key("range6", "\"::100-::1ff\""),
    key("lease_time_s", "3600"),
    key("gateway", "\"172.22.161.254\""),
    key("dns", "[\"172.22.161.254\"]"),
    key("domain", "\"lan\""),
];

/// An hour: short enough to reuse addresses, long enough to cause little traffic.
const LEASE_TIME_S: u32 = 3600;
/// dnsmasq uses two minutes for anything less.
const LEAST_LEASE_TIME_S: u32 = 120;
/// Some 68 years. (The protocol has 32 bits; all ones mean "forever".)
const MOST_LEASE_TIME_S: u32 = i32::MAX.unsigned_abs();

/// What `[network.NAME.dhcp]` says.
#[derive(Debug, Default)]
pub(super) struct Leased {
    pub(super) dhcp: Option<Dhcp>,
    pub(super) dhcp6: Option<Dhcp6>,
    pub(super) domain: Option<String>,
    /// The IPv6 name servers, if it names any server or none at all.
    pub(super) dns: Option<Vec<Ipv6Addr>>,
}

pub(super) fn dhcp_of(
    section: &Section<'_>,
    network: &Section<'_>,
    own: Option<&Addresses>,
    report: &mut Report<'_>,
) -> Leased {
    report.errors(section.unknown_keys());
    let written6 = section.field("range6");
    let range6 = report.keep(written6.map(values::address_range6).transpose());
    let range = match written6 {
        Some(_) => section.optional("range", values::address_range),
        None => section.required("range", values::address_range).map(Some),
    };
    let range = report.keep(range);
    let lease_time_s = section.optional("lease_time_s", |field| {
        field.integer(LEAST_LEASE_TIME_S, MOST_LEASE_TIME_S)
    });
    let lease_time_s = report.keep(lease_time_s);
    let gateway = report.keep(section.optional("gateway", values::host_address));
    let dns = section.optional("dns", |field| {
        values::by_family(field.items(), values::host_address, values::host_address6)
    });
    let dns = report.keep(dns);
    let domain = report.keep(section.optional("domain", values::domain));
    let lease_time_s = lease_time_s.flatten().unwrap_or(LEASE_TIME_S);
    let (dns, dns6) = dns.flatten().unzip();
    let leased = Leased {
        dhcp: None,
        dhcp6: range6.flatten().map(|(first, last)| Dhcp6 {
            first,
            last,
            lease_time_s,
            domain: domain.clone().flatten(),
        }),
        domain: domain.flatten(),
        dns: dns6,
    };
    if let (Some(own), Some(dhcp)) = (own, &leased.dhcp6) {
        report.errors(misplaced(section, network, &own.ipv6, dhcp));
    }
    let (Some(own), Some(Some((first, last))), Some(gateway)) = (own, range, gateway) else {
        return leased;
    };
    let Some(host) = own.ipv4 else {
        let remedy = "add an IPv4 address to the network, or write range6";
        report.error(section.fault("range", "the network has no IPv4 address", remedy));
        return leased;
    };
    let gateway = gateway.unwrap_or(host.addr());
    let place = Place {
        section,
        network,
        host,
    };
    let faults = [place.gateway(gateway), place.range(first, last, gateway)];
    report.errors(faults.into_iter().flatten());
    let dhcp = Dhcp {
        first,
        last,
        lease_time_s,
        gateway,
        dns: dns.unwrap_or_else(|| vec![host.addr()]),
        domain: leased.domain.clone(),
    };
    Leased {
        dhcp: Some(dhcp),
        ..leased
    }
}

/// The range of DHCPv6 is not one of guests' addresses.
fn misplaced(
    section: &Section<'_>,
    network: &Section<'_>,
    own: &[Ipv6Net],
    dhcp: &Dhcp6,
) -> Option<Fault> {
    let (first, last) = (dhcp.first, dhcp.last);
    let (problem, remedy) = match dhcp.is_of_suffixes() {
        true => own.iter().find_map(|own| {
            let whole = values::join(*own, first).zip(values::join(*own, last));
            let Some((first, last)) = whole else {
                let problem = format!("{last} is longer than the rest of {}", own.trunc());
                return Some((problem, "write a shorter part".to_owned()));
            };
            contains(first, last, own.addr())
        }),
        false => {
            let holds = |own: &&Ipv6Net| own.contains(&first) && own.contains(&last);
            match own.iter().find(holds) {
                Some(own) => contains(first, last, own.addr()),
                None => {
                    let name = quote(&network.name);
                    let problem = format!("{first}-{last} is not in a prefix of network {name}");
                    let remedy = "write addresses of one prefix of the network, or only the \
                                      part behind the prefix, as in \"::100-::1ff\"";
                    Some((problem, remedy.to_owned()))
                }
            }
        }
    }?;
    Some(section.fault("range6", &problem, &remedy))
}

fn contains(first: Ipv6Addr, last: Ipv6Addr, host: Ipv6Addr) -> Option<(String, String)> {
    (first..=last).contains(&host).then(|| {
        let problem = format!("the range {first}-{last} contains {host}, the host's own address");
        (problem, "write a range without it".to_owned())
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
