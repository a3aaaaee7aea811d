//! `[nat64]`.

use std::collections::BTreeMap;

use ipnet::{Ipv4Net, Ipv6Net};

use super::{
    addresses::{Addresses, addresses_of_nat64},
    names::Names,
};
use crate::{
    model::{Action, Inbound, Nat64, Network, NetworkId, UplinkId},
    syntax::{Fault, Field, Key, Report, Section, key},
    text::words::quote,
    values,
};

/// The keys of `[nat64]`.
pub(crate) const KEYS: &[Key] = &[
    key("prefix", "\"64:ff9b::/96\""),
    key("pool", "\"100.64.46.0/24\""),
    key("networks", "[\"lan\"]"),
    key("uplink", "\"wan\""),
];

/// Bits of a prefix behind which an IPv4 address has room.
const PREFIX_LEN: u8 = 96;

/// Bits of a pool's prefix, the fewest and the most.
const POOL_LENS: std::ops::RangeInclusive<u8> = 16..=29;

/// Reads the table, as the network that follows the `networks` of the file.
pub(crate) fn read_nat64(
    section: &Section<'_>,
    networks: &[Section<'_>],
    report: &mut Report<'_>,
) -> Option<Nat64> {
    report.errors(section.unknown_keys());
    let prefix = report.keep(section.optional("prefix", prefix));
    let pool = report.keep(section.optional("pool", pool));
    report.errors(networks.iter().filter_map(is_taken));
    Some(Nat64 {
        prefix: prefix?.unwrap_or(Nat64::WELL_KNOWN),
        pool: pool?.unwrap_or(Nat64::POOL),
        network: NetworkId(networks.len()),
        networks: None,
        uplink: None,
        holders: BTreeMap::new(),
    })
}

/// Whose guests may use it.
pub(super) fn users(
    section: &Section<'_>,
    names: &Names<'_>,
) -> Result<Option<Vec<NetworkId>>, Fault> {
    section.optional("networks", |field| {
        let mut users = Vec::new();
        for item in field.some_items()? {
            let network = names.network(item)?;
            if item.string() == Ok(Nat64::NETWORK) {
                let problem = "is NAT64's own network";
                return Err(item.fault(problem, "write the networks of guests"));
            }
            if users.contains(&network) {
                return Err(item.repeated());
            }
            users.push(network);
        }
        Ok(users)
    })
}

/// By which uplink packets leave.
pub(super) fn way_out(section: &Section<'_>, names: &Names<'_>) -> Result<Option<UplinkId>, Fault> {
    section.optional("uplink", |field| names.uplink(field))
}

/// The network that stands for the guests in rules of IPv4.
pub(crate) fn network(nat64: &Nat64) -> Network {
    let Addresses { ipv4, ipv6, .. } = addresses_of_nat64(nat64);
    Network {
        name: Nat64::NETWORK.to_owned(),
        interface: Nat64::INTERFACE.to_owned(),
        address: ipv4,
        addresses6: ipv6,
        ndp: None,
        follow: false,
        followed: 0,
        create: true,
        is_nat64: true,
        ports: Vec::new(),
        anti_spoof: false,
        isolated: false,
        policy: Action::Accept,
        inbound: Inbound::default(),
        host: None,
        dhcp: None,
        dhcp6: None,
        ra: None,
        dns: None,
    }
}

fn prefix(field: Field<'_>) -> Result<Ipv6Net, Fault> {
    let prefix = values::prefix6(field)?;
    let remedy = "write one of 96 bits whose bits 64 to 71 are 0, as in \"64:ff9b::/96\"";
    if prefix.prefix_len() != PREFIX_LEN {
        let problem = format!("has {} bits", prefix.prefix_len());
        return Err(field.fault(problem, remedy));
    }
    // RFC 6052 section 2.2.
    if prefix.network().octets()[8] != 0 {
        return Err(field.fault("has bits 64 to 71 set", remedy));
    }
    Ok(prefix)
}

fn pool(field: Field<'_>) -> Result<Ipv4Net, Fault> {
    let pool = values::prefix(field)?;
    if !POOL_LENS.contains(&pool.prefix_len()) {
        let problem = format!("has {} bits", pool.prefix_len());
        return Err(field.fault(problem, "write a prefix of 16 to 29 bits"));
    }
    Ok(pool)
}

/// A network with a name or an interface that is NAT64's.
fn is_taken(network: &Section<'_>) -> Option<Fault> {
    let interface = network.field("interface");
    let is_device = interface.is_some_and(|field| field.string() == Ok(Nat64::INTERFACE));
    let remedy = "name it otherwise";
    if is_device {
        let problem = format!("{} is NAT64's device", quote(Nat64::INTERFACE));
        return Some(network.fault("interface", &problem, remedy));
    }
    let problem = "is the name of NAT64's own network";
    (network.name == Nat64::NETWORK).then(|| network.fault_here("", problem, remedy))
}
