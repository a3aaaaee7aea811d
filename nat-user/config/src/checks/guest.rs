//! Guests beside each other and in their networks.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
    net::Ipv6Addr,
};

use crate::{
    model::{Guest, GuestAddress, Network, NetworkId, mac_text},
    syntax::{Fault, Report},
    tables::Item,
    text::words::quote,
    values,
};

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
        report.errors(misplaced6(guest, network));
        if guest.value.port.is_some() && !network.anti_spoof {
            let name = quote(&network.name);
            let problem = format!("has no effect, because network {name} has no anti_spoof");
            let remedy = "set anti_spoof = true in the network, or leave port out";
            report.warn(guest.section.fault("port", &problem, remedy));
        }
    }
    let address = |guest: &Guest| fixed(&guest.address);
    report.errors(repeated(guests, "address", address, ToString::to_string));
    let addresses6 = |guest: &Guest| fixed(&guest.addresses6);
    report.errors(repeated(guests, "address", addresses6, ToString::to_string));
    let in_network = |guest: &Guest| vec![(guest.network, guest.mac)];
    let shown = |(_, mac): &(NetworkId, [u8; 6])| mac_text(*mac);
    report.errors(repeated(guests, "mac", in_network, shown));
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
    let address = guest.value.address.as_ref()?.fixed()?;
    let name = quote(&network.name);
    let Some(own) = network.address else {
        let problem = format!("{address} is not in network {name}, which has only IPv6");
        let remedy = "write an IPv6 address, or add an IPv4 address to the network";
        return Some(guest.section.fault("address", &problem, remedy));
    };
    let problem = if !own.contains(&address) {
        format!("{address} is not in network {name}")
    } else if address == own.addr() {
        format!("{address} is the host's own address in network {name}")
    } else {
        let what = values::reserved_in(own, address)?;
        format!("{address} is {what} in network {name}")
    };
    let remedy = format!("write a guest's address in {}", own.trunc());
    Some(guest.section.fault("address", &problem, &remedy))
}

/// The same for its IPv6 addresses.
fn misplaced6(guest: &Item<'_, Guest>, network: &Network) -> Option<Fault> {
    let name = quote(&network.name);
    let own = &network.addresses6;
    let fault = |address: &Ipv6Addr| {
        let problem = match own.iter().find(|own| own.contains(address)) {
            None => format!("{address} is not in network {name}"),
            Some(own) if own.addr() == *address => {
                format!("{address} is the host's own address in network {name}")
            }
            Some(own) if values::is_anycast(*own, *address) => {
                format!("{address} is the routers' anycast address in network {name}")
            }
            Some(_) => return None,
        };
        let remedy = match own.first() {
            Some(own) => format!("write a guest's address in {}", own.trunc()),
            None => "add an IPv6 address to the network".to_owned(),
        };
        Some(guest.section.fault("address", &problem, &remedy))
    };
    fixed(&guest.value.addresses6).iter().find_map(fault)
}

fn fixed<'g, A: Copy + 'g>(addresses: impl IntoIterator<Item = &'g GuestAddress<A>>) -> Vec<A> {
    let addresses = addresses.into_iter();
    addresses.filter_map(GuestAddress::fixed).collect()
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

/// Properties that two guests must not share.
fn repeated<K: Eq + Hash>(
    guests: &[Item<'_, Guest>],
    name: &str,
    keys: impl Fn(&Guest) -> Vec<K>,
    shown: impl Fn(&K) -> String,
) -> Vec<Fault> {
    let mut first = HashMap::new();
    let mut faults = Vec::new();
    for guest in guests {
        for key in keys(&guest.value) {
            let text = shown(&key);
            match first.entry(key) {
                Entry::Vacant(free) => _ = free.insert(guest),
                Entry::Occupied(taken) => {
                    let before: &Item<'_, Guest> = taken.get();
                    let problem = format!("guest {} already has {text}", quote(&before.value.name));
                    let remedy = "give each guest its own";
                    let fault = guest.section.fault(name, &problem, remedy);
                    faults.push(fault.see(before.section.at));
                }
            }
        }
    }
    faults
}
