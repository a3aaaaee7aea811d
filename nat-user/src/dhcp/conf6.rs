//! The part of a dnsmasq's configuration that is about IPv6: router advertisements and DHCPv6.

use std::{collections::BTreeSet, fmt::Write as _, net::Ipv6Addr};

use ipnet::Ipv6Net;
use nat_config::model::{
    Address as _, Dhcp6, Guest, GuestAddress, Identity, Network, Preference, Ra, RaMode,
};

/// The prefixes are those of the interface: dnsmasq follows them, and says of one that goes that it
/// is deprecated (RFC 7084 L-13).
const PREFIXES: &str = "constructor:";

/// The line without which dnsmasq is no router.
pub(super) const ENABLE_RA: &str = "enable-ra";

/// dnsmasq's limit on the leases of a prefix, whatever its size.
const MOST_LEASES: u128 = 65_536;

/// How often routers speak at most by default, in seconds: three times in a lifetime.
const INTERVAL_S: u32 = 600;
/// dnsmasq's least interval, in seconds.
const LEAST_INTERVAL_S: u32 = 4;

/// For how long prefixes without leases are valid, in seconds: a day, as routers do. An address
/// whose prefix goes is deprecated at once.
const VALID_S: u32 = 86_400;

/// The lines of a network.
pub(super) fn options(text: &mut String, network: &Network) {
    let Some(ra) = &network.ra else {
        return;
    };
    if ra.mode != RaMode::Off {
        let interface = &network.interface;
        let mtu = ra.mtu.map(|mtu| format!("mtu:{mtu},")).unwrap_or_default();
        let preference = match ra.preference {
            Preference::Low => "low,",
            Preference::Medium => "",
            Preference::High => "high,",
        };
        let lifetime_s = ra.lifetime_s;
        let interval_s = match lifetime_s {
            0 => INTERVAL_S,
            lifetime_s => (lifetime_s / 3).clamp(LEAST_INTERVAL_S, INTERVAL_S),
        };
        *text += &format!("{ENABLE_RA}\n");
        let line = format!("ra-param={interface},{mtu}{preference}{interval_s},{lifetime_s}");
        *text += &(line + "\n");
    }
    ranges(text, network, ra);
    if is_managed(network) {
        // Only a `[[guest]]` has a name: dnsmasq would give it to any client that claims it.
        *text += "dhcp-ignore-names=tag:dhcpv6\n";
    }
    if let Some(dns) = &ra.dns {
        // Without a value, guests receive none.
        let dns: Vec<String> = dns.iter().map(|server| format!(",[{server}]")).collect();
        *text += &format!("dhcp-option=option6:dns-server{}\n", dns.concat());
    }
    if let Some(domain) = &ra.domain {
        *text += &format!("dhcp-option=option6:domain-search,{domain}\n");
    }
}

fn ranges(text: &mut String, network: &Network, ra: &Ra) {
    let prefixes = format!("{PREFIXES}{}", network.interface);
    // dnsmasq makes a range in those prefixes that have its length.
    let written = network.written6().iter();
    let mut lengths: Vec<u8> = written.map(Ipv6Net::prefix_len).collect();
    if network.follow {
        lengths.push(64);
    }
    lengths.sort_unstable();
    lengths.dedup();
    let slaac = match ra.mode {
        RaMode::Slaac => "slaac,",
        _ => "",
    };
    for length in lengths {
        let range = match (&network.dhcp6, ra.mode) {
            (Some(dhcp), _) if dhcp.is_of_suffixes() => {
                let Dhcp6 {
                    first,
                    last,
                    lease_time_s,
                    ..
                } = dhcp;
                format!("{first},{last},{prefixes},{slaac}{length},{lease_time_s}")
            }
            (Some(_), RaMode::Slaac) | (None, RaMode::Slaac) => {
                format!("::,{prefixes},ra-only,{length},{VALID_S}")
            }
            (None, RaMode::Stateless) => {
                format!("::,{prefixes},ra-stateless,{length},{VALID_S}")
            }
            (None, RaMode::Managed) => format!("::,{prefixes},static,{length},{VALID_S}"),
            (Some(_), _) | (None, RaMode::Off) => continue,
        };
        let _ = writeln!(text, "dhcp-range={range}");
    }
    if let Some(dhcp) = network.dhcp6.as_ref().filter(|dhcp| !dhcp.is_of_suffixes()) {
        let Dhcp6 {
            first,
            last,
            lease_time_s,
            ..
        } = dhcp;
        let mut own = network.addresses6.iter();
        let length = own
            .find(|own| own.contains(first))
            .map_or(64, |own| own.prefix_len());
        let _ = writeln!(text, "dhcp-range={first},{last},{length},{lease_time_s}");
    }
}

/// Whether guests ask by DHCPv6 for their addresses.
pub(super) fn is_managed(network: &Network) -> bool {
    let is_managed = |ra: &Ra| ra.mode == RaMode::Managed;
    network.dhcp6.is_some() || network.ra.as_ref().is_some_and(is_managed)
}

/// How many addresses of the ranges may be leased.
pub(super) fn lease_count(network: &Network) -> u128 {
    let Some(dhcp) = &network.dhcp6 else {
        return 0;
    };
    let prefixes = match dhcp.is_of_suffixes() {
        true => prefix_count(network),
        false => 1,
    };
    let each = dhcp.first.count_to(dhcp.last).min(MOST_LEASES);
    prefixes * each
}

/// How many prefixes a network may have. A prefix that comes or goes must not restart dnsmasq,
/// which would forget the ones that went.
pub(super) fn prefix_count(network: &Network) -> u128 {
    let followed = match network.follow {
        true => MOST_FOLLOWED,
        false => 0,
    };
    network.written6().len() as u128 + followed
}

/// Prefixes that others put on an interface at the same time.
const MOST_FOLLOWED: u128 = 8;

/// By which a guest is known besides its link-layer address.
pub(super) fn duid(guest: &Guest) -> String {
    let Some(duid) = &guest.duid else {
        return String::new();
    };
    let bytes: Vec<String> = duid.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(",id:{}", bytes.join(":"))
}

/// A guest's addresses: the part behind the prefix if it is the same in every prefix of the
/// network, so that the text stays when a prefix becomes another.
pub(super) fn addresses(network: &Network, guest: &Guest) -> String {
    let fixed = guest.addresses6.iter().filter_map(GuestAddress::fixed);
    let fixed: BTreeSet<Ipv6Addr> = fixed.collect();
    let behind = |own: &Ipv6Net| {
        let address = fixed.iter().find(|address| own.contains(*address))?;
        let suffix = u128::from(*address) & !u128::from(own.netmask());
        Some(Ipv6Addr::from(suffix))
    };
    let suffixes: Option<BTreeSet<Ipv6Addr>> = network.written6().iter().map(behind).collect();
    let suffixes = suffixes.filter(|suffixes| suffixes.len() == 1);
    let followed = guest.addresses6.iter().find_map(|own| match own {
        GuestAddress::Leased { tenant, .. } => match tenant.identity {
            Identity::Suffix(suffix) => Some(suffix),
            _ => None,
        },
        GuestAddress::Fixed(_) => None,
    });
    let mut own = suffixes.unwrap_or(fixed);
    own.extend(followed);
    own.iter().map(|address| format!(",[{address}]")).collect()
}
