//! The names to which rules refer.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr},
};

use ipnet::Ipv6Net;

use super::network;

use crate::{
    model::{GuestAddress, Identity, NetworkId, UplinkId, mac_text},
    syntax::{Fault, Field, Section},
    text::{suggest, words::quote},
    values,
};

/// The names of uplinks, networks and guests, which rules refer to.
#[derive(Debug)]
pub(crate) struct Names<'n> {
    uplinks: BTreeMap<&'n str, usize>,
    networks: BTreeMap<&'n str, usize>,
    guests: BTreeMap<&'n str, usize>,
    /// The guests' names, in the order of the file.
    addresses: Vec<Result<GuestAddresses, Fault>>,
    macs: BTreeMap<[u8; 6], usize>,
    /// The networks in which addresses are leased.
    leasing: BTreeSet<usize>,
    /// The networks' IPv6 prefixes.
    prefixes: Vec<Vec<Ipv6Net>>,
}

/// What has a name.
#[derive(Debug, Clone)]
pub(super) enum Named {
    Uplink(UplinkId),
    Network(NetworkId),
    /// Its address, and its IPv6 addresses.
    Guest(GuestAddress, Vec<Ipv6Addr>),
}

/// A guest's address, and its IPv6 addresses.
pub(super) type GuestAddresses = (GuestAddress, Vec<Ipv6Addr>);

impl<'n> Names<'n> {
    pub(super) fn new(
        uplinks: &'n [Section<'_>],
        networks: &'n [Section<'_>],
        guests: &'n [Section<'_>],
    ) -> Self {
        let by_name = |sections: &'n [Section<'_>]| {
            let names = sections.iter().map(|section| &*section.name);
            names.zip(0..).collect()
        };
        let leasing = networks.iter().enumerate();
        let leasing = leasing.filter(|(_, section)| section.field("dhcp").is_some());
        let prefixes = networks.iter().map(|section| {
            let addresses = section.field("address").map(network::addresses);
            let addresses = addresses.and_then(Result::ok);
            addresses.map(|(_, ipv6)| ipv6).unwrap_or_default()
        });
        let macs = guests.iter().zip(0..);
        let macs = macs.filter_map(|(section, index)| {
            Some((section.field("mac").map(values::mac)?.ok()?, index))
        });
        let mut names = Self {
            uplinks: by_name(uplinks),
            networks: by_name(networks),
            guests: by_name(guests),
            addresses: Vec::new(),
            macs: macs.collect(),
            leasing: leasing.map(|(index, _)| index).collect(),
            prefixes: prefixes.collect(),
        };
        let addresses = guests.iter().map(|section| names.addresses_of(section));
        names.addresses = addresses.collect();
        names
    }

    /// The addresses of a `[[guest]]`, also for rules that name the guest. The IPv4 address is
    /// optional where addresses are leased.
    pub(super) fn addresses_of(&self, section: &Section<'_>) -> Result<GuestAddresses, Fault> {
        let network = section.field("network").map(|field| self.network(field));
        let network = network.and_then(Result::ok);
        let leasing = network.filter(|id| self.leasing.contains(&id.0));
        let is_leased = section.field("address").is_none() && section.mistyped("address").is_none();
        let leased = |network| {
            let mac = section.required("mac", values::mac)?;
            Ok(GuestAddress::leased(Some(network), Identity::Mac(mac)))
        };
        match (leasing, section.field("address")) {
            (Some(network), _) if is_leased => Ok((leased(network)?, Vec::new())),
            (_, Some(field)) if field.allows_ipv6() => {
                let (ipv4, ipv6) = self.written(field, network)?;
                match (ipv4, leasing) {
                    (Some(address), _) => Ok((GuestAddress::Fixed(address), ipv6)),
                    (None, Some(network)) => Ok((leased(network)?, ipv6)),
                    (None, None) => Err(field.fault(
                        "has no IPv4 address",
                        "add one, as in [\"172.22.161.170\", \"::10\"]",
                    )),
                }
            }
            _ => {
                let address = section.required("address", values::host_address)?;
                Ok((GuestAddress::Fixed(address), Vec::new()))
            }
        }
    }

    /// One address of each family. An IPv6 suffix stands for an address in every prefix of the
    /// network.
    fn written(
        &self,
        field: Field<'_>,
        network: Option<NetworkId>,
    ) -> Result<(Option<Ipv4Addr>, Vec<Ipv6Addr>), Fault> {
        let items = field.required_items()?;
        let (ipv4, ipv6) =
            values::by_family(items, values::host_address, values::address_or_suffix)?;
        if ipv4.len() > 1 || ipv6.len() > 1 {
            let remedy = "write one of each family; an IPv6 suffix such as \"::10\" stands for an \
                          address in every prefix of the network";
            return Err(field.fault("has two addresses of one family", remedy));
        }
        let ipv6 = match ipv6[..] {
            [suffix] if values::is_suffix(suffix) => self.with_suffix(field, network, suffix)?,
            _ => ipv6,
        };
        Ok((ipv4.first().copied(), ipv6))
    }

    fn with_suffix(
        &self,
        field: Field<'_>,
        network: Option<NetworkId>,
        suffix: Ipv6Addr,
    ) -> Result<Vec<Ipv6Addr>, Fault> {
        let Some(NetworkId(network)) = network else {
            return Ok(Vec::new()); // (That is a fault of its own.)
        };
        let prefixes = &self.prefixes[network];
        if prefixes.is_empty() {
            let problem = format!("{suffix} is a suffix, but the network has no IPv6 prefix");
            let remedy = "write the whole address, or add an IPv6 address to the network";
            return Err(field.fault(problem, remedy));
        }
        let joined = prefixes.iter().map(|prefix| {
            values::join(*prefix, suffix).ok_or_else(|| {
                let problem = format!("{suffix} is longer than the rest of {}", prefix.trunc());
                field.fault(problem, "write a shorter suffix, or the whole address")
            })
        });
        joined.collect()
    }

    pub(super) fn uplink(&self, field: Field<'_>) -> Result<UplinkId, Fault> {
        find("uplink", &self.uplinks, field).map(UplinkId)
    }

    pub(super) fn network(&self, field: Field<'_>) -> Result<NetworkId, Fault> {
        find("network", &self.networks, field).map(NetworkId)
    }

    /// A guest's address: literal, by the guest's name, or by the owner of a lease. A fault in the
    /// address of a guest is reported only once.
    pub(super) fn guest(&self, field: Field<'_>) -> Result<GuestAddress, Fault> {
        let text = field.string()?;
        if text.trim().parse::<Ipv4Addr>().is_ok() {
            return values::host_address(field).map(GuestAddress::Fixed);
        }
        if let Some(index) = self.guests.get(text) {
            return self.addresses[*index].clone().map(|(ipv4, _)| ipv4);
        }
        if let Ok(mac) = values::mac(field) {
            return self.by_mac(field, mac);
        }
        let looks_like_address =
            text.starts_with(|c: char| c.is_ascii_digit()) || text.contains(':');
        let may_be_leased = !self.leasing.is_empty() && is_host_name(text);
        if looks_like_address && !may_be_leased {
            return values::host_address(field).map(GuestAddress::Fixed);
        }
        if may_be_leased {
            let name = Identity::Name(text.to_ascii_lowercase());
            return Ok(GuestAddress::leased(None, name));
        }
        if self.guests.is_empty() {
            let problem = format!("{} is not an address", quote(text));
            let remedy = "write one such as \"172.22.161.170\", or add a [[guest]] of that name";
            return Err(field.fault(problem, remedy));
        }
        let index = find("guest", &self.guests, field)?;
        self.addresses[index].clone().map(|(ipv4, _)| ipv4)
    }

    /// The kinds of objects with this name; none, or more than one.
    pub(super) fn named(&self, name: &str) -> Vec<(&'static str, Named)> {
        let uplink = self.uplinks.get(name);
        let uplink = uplink.map(|index| ("uplink", Named::Uplink(UplinkId(*index))));
        let network = self.networks.get(name);
        let network = network.map(|index| ("network", Named::Network(NetworkId(*index))));
        let guest = self.guests.get(name);
        let guest = guest.and_then(|index| self.addresses[*index].clone().ok());
        let guest = guest.map(|(ipv4, ipv6)| ("guest", Named::Guest(ipv4, ipv6)));
        uplink.into_iter().chain(network).chain(guest).collect()
    }

    /// All names of uplinks, networks and guests.
    pub(super) fn all(&self) -> impl Iterator<Item = &'n str> + Clone {
        let names = self.uplinks.keys().chain(self.networks.keys());
        names.chain(self.guests.keys()).copied()
    }

    /// The guest with an Ethernet address, or the owner of a lease with it.
    fn by_mac(&self, field: Field<'_>, mac: [u8; 6]) -> Result<GuestAddress, Fault> {
        if let Some(index) = self.macs.get(&mac) {
            return self.addresses[*index].clone().map(|(ipv4, _)| ipv4);
        }
        if self.leasing.is_empty() {
            let problem = format!("there is no guest with {}", mac_text(mac));
            let remedy = "add a [[guest]] with this mac, or add [network.NAME.dhcp] to a network";
            return Err(field.fault(problem, remedy));
        }
        Ok(GuestAddress::leased(None, Identity::Mac(mac)))
    }
}

/// Whether a guest could use this name, and the name cannot be mistaken for an address.
fn is_host_name(text: &str) -> bool {
    values::is_label(text) && text.contains(|c: char| c.is_ascii_alphabetic())
}

/// How many of the names that exist a message lists.
const NAMES_SHOWN: usize = 8;

fn find(kind: &str, names: &BTreeMap<&str, usize>, field: Field<'_>) -> Result<usize, Fault> {
    let name = field.string()?;
    if let Some(index) = names.get(name) {
        return Ok(*index);
    }
    let mut existing: Vec<_> = names.iter().collect();
    existing.sort_by_key(|(_, index)| **index);
    let listed: Vec<_> = existing
        .iter()
        .take(NAMES_SHOWN)
        .map(|(name, _)| quote(name))
        .collect();
    let more = if existing.len() > NAMES_SHOWN {
        ", …"
    } else {
        ""
    };
    let nearest = suggest::nearest(name, existing.iter().map(|(name, _)| **name));
    let remedy = match (nearest, &listed[..]) {
        (_, []) => format!("there is none at all, so add [{kind}.NAME]"),
        (Some(near), [_]) => format!("did you mean {}?", quote(near)),
        (Some(near), _) => format!(
            "did you mean {}? there are {}{more}",
            quote(near),
            listed.join(", ")
        ),
        (None, [only]) => format!("the only {kind} is {only}"),
        (None, _) => format!("the {kind}s are {}{more}", listed.join(", ")),
    };
    Err(field.fault(format!("there is no {kind} {}", quote(name)), remedy))
}
