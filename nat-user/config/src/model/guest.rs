//! `[[guest]]`, and how rules name a guest.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

use super::network::NetworkId;

/// A guest with a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// Unique among the `[[guest]]` tables.
    pub name: String,
    /// The network that it is in.
    pub network: NetworkId,
    /// Its address, which no other guest has; a lease only if the network has DHCP. `None` if it
    /// has IPv6 alone.
    pub address: Option<GuestAddress>,
    /// Its IPv6 addresses, which no other guest has: at most one in each prefix of the network.
    pub addresses6: Vec<GuestAddress<Ipv6Addr>>,
    /// Its link-layer address, which no other guest of the network has.
    pub mac: [u8; 6],
    /// By which DHCPv6 knows it besides its link-layer address, as bytes.
    pub duid: Option<Vec<u8>>,
    /// Its port of the network's bridge, if that is known.
    pub port: Option<String>,
}

/// Where a guest is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum GuestAddress<A = Ipv4Addr> {
    /// At a fixed address.
    Fixed(A),
    /// At the address of its lease.
    Leased {
        /// Whose lease it is.
        tenant: Tenant,
        /// The leased address. `None` after the file is read, and while there is no lease.
        now: Option<A>,
    },
}

impl<A: Copy> GuestAddress<A> {
    /// The current address, if there is one.
    #[must_use]
    pub fn now(&self) -> Option<A> {
        match self {
            Self::Fixed(address) => Some(*address),
            Self::Leased { now, .. } => *now,
        }
    }

    /// The address, if it is not leased.
    #[must_use]
    pub fn fixed(&self) -> Option<A> {
        match self {
            Self::Fixed(address) => Some(*address),
            Self::Leased { .. } => None,
        }
    }

    /// At the address of a lease.
    #[must_use]
    pub fn leased(network: Option<NetworkId>, identity: Identity) -> Self {
        let tenant = Tenant { network, identity };
        Self::Leased { tenant, now: None }
    }
}

impl<A> From<A> for GuestAddress<A> {
    fn from(address: A) -> Self {
        Self::Fixed(address)
    }
}

impl<A: fmt::Display> fmt::Display for GuestAddress<A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(address) => address.fmt(formatter),
            Self::Leased { tenant, .. } => tenant.identity.fmt(formatter),
        }
    }
}

/// The owner of a lease.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tenant {
    /// The network in which the lease is; `None` is any.
    pub network: Option<NetworkId>,
    /// How it is identified.
    pub identity: Identity,
}

/// How the owner of a lease is identified.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Identity {
    /// The name that it gives itself, in lower case.
    Name(String),
    /// Its link-layer address.
    Mac([u8; 6]),
    /// The part of its IPv6 address behind a prefix that other software puts on the network.
    Suffix(Ipv6Addr),
}

impl fmt::Display for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => formatter.write_str(name),
            Self::Mac(mac) => formatter.write_str(&mac_text(*mac)),
            Self::Suffix(suffix) => suffix.fmt(formatter),
        }
    }
}

/// A link-layer address as people write it.
#[must_use]
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
