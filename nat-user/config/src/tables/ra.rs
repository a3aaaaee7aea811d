//! `[network.NAME.ra]`.

use ipnet::Ipv6Net;

use super::{addresses::Addresses, dhcp::Leased};
use crate::{
    model::{Preference, Ra, RaMode},
    syntax::{Fault, Key, Report, Section, key},
    values,
};

/// The keys of `[network.NAME.ra]`.
pub(crate) const KEYS: &[Key] = &[
    key("mode", "\"slaac\""),
    key("dns", "[\"2001:db8:0:1::1\"]"),
    key("domain", "\"lan\""),
    key("mtu", "1500"),
    key("lifetime_s", "1800"),
    key("preference", "\"medium\""),
    key("default_route", "true"),
];

/// Three times the interval at which routers speak by default (RFC 4861 section 6.2.1).
const LIFETIME_S: u32 = 1800;
/// RFC 4861 section 6.2.1.
const MOST_LIFETIME_S: u32 = 9000;
/// Every IPv6 link takes packets of this size (RFC 8200 section 5), in bytes.
const LEAST_MTU: u32 = 1280;
/// The largest packet without a jumbo option, in bytes.
const MOST_MTU: u32 = 65_575;
/// The prefix in which guests choose addresses (RFC 4862, RFC 4291 section 2.5.1), and the shortest
/// one that dnsmasq serves.
const SLAAC_LEN: u8 = 64;

const MODES: [(&str, RaMode); 4] = [
    ("slaac", RaMode::Slaac),
    ("stateless", RaMode::Stateless),
    ("managed", RaMode::Managed),
    ("off", RaMode::Off),
];

/// Reads the table of a network in which the host has the addresses `own`. DHCPv6 alone makes the
/// host a router too: guests learn routers by no other way.
pub(super) fn read_ra(
    network: &Section<'_>,
    leased: &Leased,
    own: Option<&Addresses>,
    report: &mut Report<'_>,
) -> Option<Ra> {
    let written = network.field("ra");
    let section = written.and_then(|_| network.part("ra", KEYS, report));
    let ra = match &section {
        Some(section) => ra_of(section, leased, report)?,
        None => by_default(leased)?,
    };
    if let Some(own) = own {
        let place = Place {
            network,
            own: &own.ipv6,
            follows: own.follows,
        };
        report.errors(place.faults(&ra, leased, section.as_ref()));
    }
    Some(ra)
}

fn by_default(leased: &Leased) -> Option<Ra> {
    let ra = Ra {
        mode: RaMode::Managed,
        dns: leased.dns.clone(),
        domain: leased.domain.clone(),
        mtu: None,
        lifetime_s: LIFETIME_S,
        preference: Preference::Medium,
    };
    leased.dhcp6.is_some().then_some(ra)
}

fn ra_of(section: &Section<'_>, leased: &Leased, report: &mut Report<'_>) -> Option<Ra> {
    report.errors(section.unknown_keys());
    let mode = report.keep(section.optional("mode", |field| field.choice(&MODES)));
    let dns = section.optional("dns", |field| {
        values::distinct(field.items(), values::host_address6)
    });
    let dns = report.keep(dns);
    let domain = report.keep(section.optional("domain", values::domain));
    let mtu = report.keep(section.optional("mtu", |field| field.integer(LEAST_MTU, MOST_MTU)));
    let lifetime_s = section.optional("lifetime_s", |field| field.integer(0, MOST_LIFETIME_S));
    let lifetime_s = report.keep(lifetime_s);
    let preference = section.optional("preference", |field| {
        field.choice(&[
            ("low", Preference::Low),
            ("medium", Preference::Medium),
            ("high", Preference::High),
        ])
    });
    let preference = report.keep(preference);
    let default_route = report.keep(section.optional("default_route", |field| field.boolean()));
    let by_default = match leased.dhcp6 {
        Some(_) => RaMode::Managed,
        None => RaMode::Slaac,
    };
    let lifetime_s = lifetime_s?.unwrap_or(LIFETIME_S);
    Some(Ra {
        mode: mode?.unwrap_or(by_default),
        dns: dns?.or_else(|| leased.dns.clone()),
        domain: domain?.or_else(|| leased.domain.clone()),
        mtu: mtu?,
        lifetime_s: match default_route? {
            Some(false) => 0,
            _ => lifetime_s,
        },
        preference: preference?.unwrap_or(Preference::Medium),
    })
}

/// A network whose guests learn of IPv6.
struct Place<'s> {
    network: &'s Section<'s>,
    /// The host's addresses there.
    own: &'s [Ipv6Net],
    follows: bool,
}

impl Place<'_> {
    fn faults(&self, ra: &Ra, leased: &Leased, section: Option<&Section<'_>>) -> Option<Fault> {
        if self.own.is_empty() && !self.follows {
            let remedy = "add an IPv6 address to the network, as in \"2001:db8:0:1::1/64\"";
            return Some(self.fault(section, "the network has no IPv6 prefix", remedy));
        }
        let chosen = matches!(ra.mode, RaMode::Slaac | RaMode::Stateless);
        if let Some(prefix) = self.own.iter().find(|own| own.prefix_len() != SLAAC_LEN)
            && chosen
        {
            let problem = format!(
                "guests choose addresses only in a /64, not in {}",
                prefix.trunc()
            );
            let remedy = "give the network a /64, or write mode = \"managed\"";
            return Some(self.fault(section, &problem, remedy));
        }
        if let Some(prefix) = self.own.iter().find(|own| own.prefix_len() < SLAAC_LEN) {
            let problem = format!("dnsmasq serves no prefix as short as {}", prefix.trunc());
            return Some(self.fault(section, &problem, "give the network a /64"));
        }
        let is_idle = ra.mode == RaMode::Stateless && leased.dhcp6.is_some();
        is_idle.then(|| {
            let problem = "has guests choose their addresses, so none is leased from range6";
            let remedy = "write mode = \"managed\" or \"slaac\", or leave range6 out";
            self.fault(section, problem, remedy)
        })
    }

    /// At the table, or at the one that implies it.
    fn fault(&self, section: Option<&Section<'_>>, problem: &str, remedy: &str) -> Fault {
        match section {
            Some(section) => section.fault("mode", problem, remedy),
            None => self.network.fault("dhcp", problem, remedy),
        }
    }
}
