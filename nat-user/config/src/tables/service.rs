//! What the host does for the guests of a network besides translation, and `[network.NAME.dns]`.

use std::net::Ipv6Addr;

use super::{
    addresses::Addresses,
    dhcp::{self, Leased},
    ra,
};
use crate::{
    model::{Dhcp, Dhcp6, Dns, Forwarders, Ra},
    syntax::{Fault, Field, Key, Report, Section, key},
    text::words::quote,
    values,
};

/// The keys of `[network.NAME.dns]`.
pub(crate) const DNS: &[Key] = &[
    key("forwarders", "[\"192.0.2.53\"]"),
    key("private_answers", "false"),
    key("dns64", "true"),
];

/// What this host does for the guests of a network besides translation.
#[derive(Debug, Default)]
pub(super) struct Served {
    pub(super) dhcp: Option<Dhcp>,
    pub(super) dhcp6: Option<Dhcp6>,
    pub(super) ra: Option<Ra>,
    pub(super) dns: Option<Dns>,
}

/// Reads the tables of a network in which the host has the addresses `own`, unless there is a
/// mistake in them.
pub(super) fn read_services(
    network: &Section<'_>,
    own: Option<&Addresses>,
    report: &mut Report<'_>,
) -> Served {
    let both = network.part("dhcp", dhcp::DHCP, report);
    let both = both.map_or_else(Leased::default, |section| {
        dhcp::dhcp_of(&section, network, own, report)
    });
    let ra = ra::read_ra(network, &both, own, report);
    let dns = network.part("dns", DNS, report);
    let dns = dns.and_then(|section| dns_of(&section, report));
    // Guests that receive this host as their name server get answers.
    let own = own.cloned().unwrap_or_default();
    let is_own = |server: &Ipv6Addr| own.ipv6.iter().any(|own| own.addr() == *server);
    let mut named = both.dhcp.iter().flat_map(|dhcp| &dhcp.dns);
    let is_named = named.any(|server| own.ipv4.is_some_and(|own| own.addr() == *server));
    let named6 = ra.as_ref().map(|ra| &ra.dns);
    let is_named6 = named6.is_some_and(|dns| dns.as_ref().is_none_or(|dns| dns.iter().any(is_own)));
    let by_default = (is_named || is_named6).then_some(Dns {
        forwarders: Forwarders::Host,
        private_answers: false,
        dns64: false,
    });
    Served {
        dns: dns.or(by_default),
        dhcp: both.dhcp,
        dhcp6: both.dhcp6,
        ra,
    }
}

fn dns_of(section: &Section<'_>, report: &mut Report<'_>) -> Option<Dns> {
    report.errors(section.unknown_keys());
    let forwarders = section.optional("forwarders", |field| {
        values::distinct(field.items(), values::any_address)
    });
    let forwarders = report.keep(forwarders);
    let private_answers = report.keep(section.optional("private_answers", |field| field.boolean()));
    let dns64 = report.keep(section.optional("dns64", |field| field.boolean()));
    let forwarders = forwarders?;
    let dns64 = dns64?.unwrap_or(false);
    if dns64 && forwarders.as_ref().is_some_and(Vec::is_empty) {
        let remedy = "name one, or leave forwarders out";
        report.error(section.fault("forwarders", "is empty, but dns64 asks forwarders", remedy));
    }
    Some(Dns {
        dns64,
        forwarders: forwarders.map_or(Forwarders::Host, Forwarders::Fixed),
        private_answers: private_answers?.unwrap_or(false),
    })
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
