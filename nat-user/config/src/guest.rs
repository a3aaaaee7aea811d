//! `[[guest]]`.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
};

use super::{
    diagnostic::{Fault, Report},
    model::{Guest, GuestAddress, Identity, Network, mac_text},
    parse::{Field, Key, Section, key, quote},
    tables::{Item, Names},
    values,
};

/// The keys of `[[guest]]`.
pub(super) const KEYS: &[Key] = &[
    key("name", "\"web1\""),
    key("network", "\"lan\""),
    key("address", "\"172.22.161.170\""),
    key("mac", "\"52:54:00:12:34:56\""),
    key("port", "\"tap1\""),
];

pub(super) fn read_guest(
    section: &Section<'_>,
    names: &Names<'_>,
    report: &mut Report<'_>,
) -> Option<Guest> {
    report.errors(section.unknown_keys());
    let network = report.keep(section.required("network", |field| names.network(field)));
    let address = report.keep(address(section, names));
    let mac = report.keep(section.required("mac", mac));
    let port = report.keep(section.optional("port", values::interface));
    Some(Guest {
        name: section.name.to_string(),
        network: network?,
        address: address?,
        mac: mac?,
        port: port?,
    })
}

/// A guest's address, also for rules that name the guest. It is optional where addresses are
/// leased.
pub(super) fn address(section: &Section<'_>, names: &Names<'_>) -> Result<GuestAddress, Fault> {
    let network = section.field("network").map(|field| names.network(field));
    let leasing = network
        .and_then(Result::ok)
        .filter(|id| names.has_leases(*id));
    let is_leased = section.field("address").is_none() && section.mistyped("address").is_none();
    match leasing {
        Some(network) if is_leased => {
            let mac = section.required("mac", mac)?;
            Ok(GuestAddress::leased(Some(network), Identity::Mac(mac)))
        }
        _ => section
            .required("address", values::host_address)
            .map(GuestAddress::Fixed),
    }
}

/// An Ethernet address that one interface can have.
pub(super) fn mac(field: Field<'_>) -> Result<[u8; 6], Fault> {
    let text = field.string()?;
    let is_byte = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
    let parts: Vec<_> = text.split(':').collect();
    let bytes = parts
        .iter()
        .filter(|part| is_byte(part))
        .filter_map(|part| u8::from_str_radix(part, 16).ok());
    let bytes: Vec<u8> = bytes.collect();
    let problem = match <[u8; 6]>::try_from(bytes) {
        Ok(mac) if parts.len() == mac.len() && mac == [0; 6] => {
            "is not the address of an \
            interface"
        }
        Ok(mac) if parts.len() == mac.len() && mac[0] & 1 != 0 => "is a multicast address",
        Ok(mac) if parts.len() == mac.len() => return Ok(mac),
        _ => "is not an Ethernet address",
    };
    let remedy = "write six bytes as the guest's interface has them, as in \"52:54:00:12:34:56\"";
    Err(field.fault(format!("{} {problem}", quote(text)), remedy))
}

/// Refuses guests outside of their network, and addresses of two guests.
pub(super) fn check_guests(
    guests: &[Item<'_, Guest>],
    networks: &[Item<'_, Network>],
    report: &mut Report<'_>,
) {
    for guest in guests {
        let Some(network) = network_of(guest, networks) else {
            continue;
        };
        let faults = [misplaced(guest, network), unspeakable(guest, network)];
        report.errors(faults.into_iter().flatten());
        if guest.value.port.is_some() && !network.anti_spoof {
            let name = quote(&network.name);
            let problem = format!("has no effect, because network {name} has no anti_spoof");
            let remedy = "set anti_spoof = true in the network, or leave port out";
            report.warn(guest.section.fault("port", &problem, remedy));
        }
    }
    report.errors(repeated(
        guests,
        "address",
        |guest| guest.address.fixed(),
        |guest| guest.address.to_string(),
    ));
    let in_network = |guest: &Guest| Some((guest.network, guest.mac));
    report.errors(repeated(guests, "mac", in_network, |guest| {
        mac_text(guest.mac)
    }));
}

/// By name; a network with a mistake is missing.
fn network_of<'n>(
    guest: &Item<'_, Guest>,
    networks: &'n [Item<'_, Network>],
) -> Option<&'n Network> {
    let name = guest.section.field("network")?.string().ok()?;
    let found = networks.iter().find(|network| network.section.name == name);
    found.map(|network| &network.value)
}

fn misplaced(guest: &Item<'_, Guest>, network: &Network) -> Option<Fault> {
    let (address, name) = (guest.value.address.fixed()?, quote(&network.name));
    let prefix = network.address.trunc();
    let problem = if !prefix.contains(&address) {
        format!("{address} is not in network {name}")
    } else if address == network.address.addr() {
        format!("{address} is the host's own address in network {name}")
    } else {
        let what = values::reserved_in(network.address, address)?;
        format!("{address} is {what} in network {name}")
    };
    let remedy = format!("write a guest's address in {prefix}");
    Some(guest.section.fault("address", &problem, &remedy))
}

/// The network has DHCP or DNS, which publish the name, but the name is not a valid host name.
fn unspeakable(guest: &Item<'_, Guest>, network: &Network) -> Option<Fault> {
    let is_told = network.dhcp.is_some() || network.dns.is_some();
    if !is_told || values::is_label(&guest.value.name) {
        return None;
    }
    let name = quote(&guest.value.name);
    let problem = format!(
        "{name} is not a valid host name, which a network with DHCP or DNS \
        requires"
    );
    let remedy = "write up to 63 letters, digits, hyphens and underscores, such as \"web1\"";
    Some(guest.section.fault("name", &problem, remedy))
}

/// A property that two guests must not share.
fn repeated<K: Eq + Hash>(
    guests: &[Item<'_, Guest>],
    name: &str,
    key: impl Fn(&Guest) -> Option<K>,
    shown: impl Fn(&Guest) -> String,
) -> Vec<Fault> {
    let mut first = HashMap::new();
    let mut faults = Vec::new();
    for guest in guests {
        let Some(key) = key(&guest.value) else {
            continue;
        };
        match first.entry(key) {
            Entry::Vacant(free) => _ = free.insert(guest),
            Entry::Occupied(taken) => {
                let before: &Item<'_, Guest> = taken.get();
                let (shown, other) = (shown(&guest.value), quote(&before.value.name));
                let problem = format!("guest {other} already has {shown}");
                let fault = guest
                    .section
                    .fault(name, &problem, "give each guest its own");
                faults.push(fault.see(before.section.at));
            }
        }
    }
    faults
}
