//! The names to which rules refer.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr},
};

use ipnet::Ipv6Net;

use super::{
    addresses::{Addresses, addresses_of, addresses_of_nat64},
    item::Item,
};
use crate::{
    model::{GuestAddress, Identity, Nat64, NetworkId, UplinkId, mac_text},
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
    /// The networks in which IPv4 addresses are leased.
    leasing: BTreeSet<usize>,
    /// The networks in which IPv6 addresses are leased. A lease of DHCPv6 belongs to a `[[guest]]`.
    leasing6: BTreeSet<usize>,
    /// The host's addresses in the networks.
    places: Vec<Addresses>,
}

/// What has a name.
#[derive(Debug, Clone)]
pub(super) enum Named {
    Uplink(UplinkId),
    Network(NetworkId),
    Guest(GuestAddresses),
}

/// The addresses of a guest; not empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct GuestAddresses {
    pub(super) ipv4: Option<GuestAddress>,
    pub(super) ipv6: Vec<GuestAddress<Ipv6Addr>>,
}

impl From<GuestAddress> for GuestAddresses {
    fn from(address: GuestAddress) -> Self {
        Self {
            ipv4: Some(address),
            ipv6: Vec::new(),
        }
    }
}

impl<'n> Names<'n> {
    pub(super) fn new(
        uplinks: &'n [Section<'_>],
        networks: &'n [Section<'_>],
        guests: &'n [Section<'_>],
        nat64: Option<&Item<'_, Nat64>>,
    ) -> Self {
        let by_name = |sections: &'n [Section<'_>]| {
            let names = sections.iter().map(|section| &*section.name);
            names.zip(0..).collect()
        };
        let leasing = |key: &str| {
            let leases = networks
                .iter()
                .map(|section| section.has_in_part("dhcp", key));
            let leases = (0..).zip(leases).filter(|(_, leases)| *leases);
            leases.map(|(index, _)| index).collect()
        };
        let places = networks.iter().map(addresses_of);
        let places = places.map(Result::unwrap_or_default);
        let macs = guests.iter().zip(0..);
        let macs = macs.filter_map(|(section, index)| {
            Some((section.field("mac").map(values::mac)?.ok()?, index))
        });
        let nat64 = nat64.map(|item| &item.value);
        let places = places.chain(nat64.map(addresses_of_nat64));
        let mut names = Self {
            uplinks: by_name(uplinks),
            networks: (by_name(networks).into_iter())
                .chain(nat64.map(|nat64| (Nat64::NETWORK, nat64.network.0)))
                .collect(),
            guests: by_name(guests),
            addresses: Vec::new(),
            macs: macs.collect(),
            leasing: leasing("range"),
            leasing6: leasing("range6"),
            places: places.collect(),
        };
        let addresses = guests.iter().map(|section| names.addresses_of(section));
        names.addresses = addresses.collect();
        names
    }

    /// The addresses of a `[[guest]]`, also for rules that name the guest. None has to be written
    /// where addresses are leased.
    pub(super) fn addresses_of(&self, section: &Section<'_>) -> Result<GuestAddresses, Fault> {
        let network = section.field("network").map(|field| self.network(field));
        let network = network.and_then(Result::ok);
        let leasing = network.filter(|id| self.leasing.contains(&id.0));
        let leasing6 = network.filter(|id| self.leasing6.contains(&id.0));
        let is_leased = leasing.or(leasing6).is_some();
        let mut addresses = match section.field("address") {
            Some(field) => self.written(field, network)?,
            None if section.mistyped("address").is_none() && is_leased => GuestAddresses::default(),
            None => return section.required("address", |_| Ok(GuestAddresses::default())),
        };
        if let Some(network) = leasing
            && addresses.ipv4.is_none()
        {
            let mac = Identity::Mac(section.required("mac", values::mac)?);
            addresses.ipv4 = Some(GuestAddress::leased(Some(network), mac));
        }
        if let Some(network) = leasing6
            && addresses.ipv6.is_empty()
        {
            let mac = Identity::Mac(section.required("mac", values::mac)?);
            addresses.ipv6 = vec![GuestAddress::leased(Some(network), mac)];
        }
        Ok(addresses)
    }

    /// One address of each family. An IPv6 suffix stands for an address in every prefix of the
    /// network.
    fn written(
        &self,
        field: Field<'_>,
        network: Option<NetworkId>,
    ) -> Result<GuestAddresses, Fault> {
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
            _ => ipv6.into_iter().map(GuestAddress::Fixed).collect(),
        };
        let ipv4 = ipv4.first().copied().map(GuestAddress::Fixed);
        Ok(GuestAddresses { ipv4, ipv6 })
    }

    fn with_suffix(
        &self,
        field: Field<'_>,
        network: Option<NetworkId>,
        suffix: Ipv6Addr,
    ) -> Result<Vec<GuestAddress<Ipv6Addr>>, Fault> {
        let Some(NetworkId(id)) = network else {
            return Ok(Vec::new()); // (That is a fault of its own.)
        };
        let Addresses {
            ipv6: prefixes,
            follows,
            ..
        } = &self.places[id];
        if prefixes.is_empty() && !follows {
            let problem = format!("{suffix} is a suffix, but the network has no IPv6 prefix");
            let remedy = "write the whole address, or add an IPv6 address to the network";
            return Err(field.fault(problem, remedy));
        }
        let joined = prefixes.iter().map(|prefix| {
            let address = values::join(*prefix, suffix).ok_or_else(|| {
                let problem = format!("{suffix} is longer than the rest of {}", prefix.trunc());
                field.fault(problem, "write a shorter suffix, or the whole address")
            })?;
            Ok(GuestAddress::Fixed(address))
        });
        let followed = follows.then(|| Ok(GuestAddress::leased(network, Identity::Suffix(suffix))));
        joined.chain(followed).collect()
    }

    /// Whether a network has IPv4, and whether it has unique local IPv6 addresses.
    pub(super) fn translated_in(&self, NetworkId(id): NetworkId) -> (bool, bool) {
        let addresses = &self.places[id];
        let is_local = |own: &Ipv6Net| own.addr().is_unique_local();
        let ipv6 = addresses.follows || addresses.ipv6.iter().any(is_local);
        (addresses.ipv4.is_some(), ipv6)
    }

    pub(super) fn uplink(&self, field: Field<'_>) -> Result<UplinkId, Fault> {
        find("uplink", &self.uplinks, field).map(UplinkId)
    }

    pub(super) fn network(&self, field: Field<'_>) -> Result<NetworkId, Fault> {
        find("network", &self.networks, field).map(NetworkId)
    }

    /// A guest's addresses: literal, by the guest's name, or by the owner of a lease. A fault in
    /// the address of a guest is reported only once.
    pub(super) fn guest(&self, field: Field<'_>) -> Result<GuestAddresses, Fault> {
        let text = field.string()?;
        let fixed = || values::host_address(field).map(|own| GuestAddress::Fixed(own).into());
        if text.trim().parse::<Ipv4Addr>().is_ok() {
            return fixed();
        }
        if let Some(index) = self.guests.get(text) {
            return self.addresses[*index].clone();
        }
        if let Ok(mac) = values::mac(field) {
            return self.by_mac(field, mac);
        }
        if values::looks_like_ipv6(&field) {
            let address = values::host_address6(field)?;
            return Ok(GuestAddresses {
                ipv4: None,
                ipv6: vec![address.into()],
            });
        }
        let looks_like_address =
            text.starts_with(|c: char| c.is_ascii_digit()) || text.contains(':');
        let may_be_leased = !self.leasing.is_empty() && is_host_name(text);
        if looks_like_address && !may_be_leased {
            return fixed();
        }
        if may_be_leased {
            let name = Identity::Name(text.to_ascii_lowercase());
            return Ok(GuestAddress::leased(None, name).into());
        }
        if self.guests.is_empty() {
            let problem = format!("{} is not an address", quote(text));
            let remedy = "write one such as \"172.22.161.170\", or add a [[guest]] of that name";
            return Err(field.fault(problem, remedy));
        }
        let index = find("guest", &self.guests, field)?;
        self.addresses[index].clone()
    }

    /// The same for a rule of IPv4.
    pub(super) fn ipv4_guest(&self, field: Field<'_>) -> Result<GuestAddress, Fault> {
        self.guest(field)?.ipv4.ok_or_else(|| {
            let problem = "has only IPv6, but address is an IPv4 address";
            field.fault(problem, "write a guest with an IPv4 address")
        })
    }

    /// The kinds of objects with this name; none, or more than one.
    pub(super) fn named(&self, name: &str) -> Vec<(&'static str, Named)> {
        let uplink = self.uplinks.get(name);
        let uplink = uplink.map(|index| ("uplink", Named::Uplink(UplinkId(*index))));
        let network = self.networks.get(name);
        let network = network.map(|index| ("network", Named::Network(NetworkId(*index))));
        let guest = self.guests.get(name);
        let guest = guest.and_then(|index| self.addresses[*index].clone().ok());
        let guest = guest.map(|addresses| ("guest", Named::Guest(addresses)));
        uplink.into_iter().chain(network).chain(guest).collect()
    }

    /// All names of uplinks, networks and guests.
    pub(super) fn all(&self) -> impl Iterator<Item = &'n str> + Clone {
        let names = self.uplinks.keys().chain(self.networks.keys());
        names.chain(self.guests.keys()).copied()
    }

    /// The guest with an Ethernet address, or the owner of a lease with it.
    fn by_mac(&self, field: Field<'_>, mac: [u8; 6]) -> Result<GuestAddresses, Fault> {
        if let Some(index) = self.macs.get(&mac) {
            return self.addresses[*index].clone();
        }
        if self.leasing.is_empty() {
            let problem = format!("there is no guest with {}", mac_text(mac));
            let remedy = "add a [[guest]] with this mac, or add [network.NAME.dhcp] to a network";
            return Err(field.fault(problem, remedy));
        }
        Ok(GuestAddress::leased(None, Identity::Mac(mac)).into())
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
