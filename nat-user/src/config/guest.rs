//! `[[guest]]`.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::net::Ipv4Addr;

use super::diagnostic::{Fault, Report};
use super::model::{Guest, Network};
use super::parse::{Field, Key, Section, key, quote};
use super::tables::{Item, Names};
use super::values;

/// The keys of `[[guest]]`.
pub(super) const KEYS: &[Key] = &[
    key("name", "\"web1\""),
    key("network", "\"lan\""),
    key("address", "\"172.22.161.170\""),
    key("mac", "\"52:54:00:12:34:56\""),
];

pub(super) fn read(
    section: &Section<'_>,
    names: &Names<'_>,
    report: &mut Report<'_>,
) -> Option<Guest> {
    report.errors(section.unknown_keys());
    let network = report.keep(section.required("network", |field| names.network(field)));
    let address = report.keep(address(section));
    let mac = report.keep(section.required("mac", mac));
    Some(Guest {
        name: section.name.to_string(),
        network: network?,
        address: address?,
        mac: mac?,
    })
}

/// A guest's address, which rules that name the guest ask for as well.
pub(super) fn address(section: &Section<'_>) -> Result<Ipv4Addr, Fault> {
    section.required("address", values::host_address)
}

/// An Ethernet address that one interface can have.
fn mac(field: Field<'_>) -> Result<[u8; 6], Fault> {
    let text = field.string()?;
    let is_byte = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
    let parts: Vec<_> = text.split(':').collect();
    let bytes = parts
        .iter()
        .filter(|part| is_byte(part))
        .filter_map(|part| u8::from_str_radix(part, 16).ok());
    let bytes: Vec<u8> = bytes.collect();
    let problem = match <[u8; 6]>::try_from(bytes) {
        Ok(mac) if parts.len() == mac.len() && mac == [0; 6] => "is not that of an interface",
        Ok(mac) if parts.len() == mac.len() && mac[0] & 1 != 0 => "is a multicast address",
        Ok(mac) if parts.len() == mac.len() => return Ok(mac),
        _ => "is not an Ethernet address",
    };
    let remedy = "write six bytes as the guest's interface has them, as in \"52:54:00:12:34:56\"";
    Err(field.fault(format!("{} {problem}", quote(text)), remedy))
}

/// Refuses guests that are not where they say they are, and addresses that two of them have.
pub(super) fn check(
    guests: &[Item<'_, Guest>],
    networks: &[Item<'_, Network>],
    report: &mut Report<'_>,
) {
    for guest in guests {
        let network = network_of(guest, networks);
        if let Some(fault) = network.and_then(|network| misplaced(guest, network)) {
            report.error(fault);
        }
    }
    report.errors(repeated(
        guests,
        "address",
        |guest| guest.address,
        |guest| guest.address.to_string(),
    ));
    let in_network = |guest: &Guest| (guest.network, guest.mac);
    report.errors(repeated(guests, "mac", in_network, |guest| {
        mac_text(guest.mac)
    }));
}

/// By name: a network with a mistake in it is not among them.
fn network_of<'n>(
    guest: &Item<'_, Guest>,
    networks: &'n [Item<'_, Network>],
) -> Option<&'n Network> {
    let name = guest.section.field("network")?.string().ok()?;
    let found = networks.iter().find(|network| network.section.name == name);
    found.map(|network| &network.value)
}

fn misplaced(guest: &Item<'_, Guest>, network: &Network) -> Option<Fault> {
    let (address, name) = (guest.value.address, quote(&network.name));
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

/// What two guests have in common and should not.
fn repeated<K: Eq + Hash>(
    guests: &[Item<'_, Guest>],
    name: &str,
    key: impl Fn(&Guest) -> K,
    shown: impl Fn(&Guest) -> String,
) -> Vec<Fault> {
    let mut first = HashMap::new();
    let mut faults = Vec::new();
    for guest in guests {
        match first.entry(key(&guest.value)) {
            Entry::Vacant(free) => _ = free.insert(guest),
            Entry::Occupied(taken) => {
                let before: &Item<'_, Guest> = taken.get();
                let (shown, other) = (shown(&guest.value), quote(&before.value.name));
                let problem = format!("{shown} is that of guest {other} already");
                let fault = guest
                    .section
                    .fault(name, &problem, "give each guest its own");
                faults.push(fault.see(before.section.at));
            }
        }
    }
    faults
}

/// An Ethernet address as people write it.
fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
