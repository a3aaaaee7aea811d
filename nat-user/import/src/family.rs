//! The family of a file's rules: what differs between IPv4 and IPv6.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// The family of all addresses of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Family {
    #[default]
    V4,
    V6,
}

impl Family {
    pub(super) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// What prints its rules.
    pub(super) fn program(self) -> &'static str {
        match self {
            Self::V4 => "iptables-save",
            Self::V6 => "ip6tables-save",
        }
    }

    /// The length of an address.
    pub(super) fn bits(self) -> u32 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// The address whose bits are the first ones of a number.
    pub(super) fn address(self, bits: u128) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::from_bits((bits >> 96) as u32).into(),
            Self::V6 => Ipv6Addr::from_bits(bits).into(),
        }
    }

    /// The length of most prefixes of guests.
    pub(super) fn usual_length(self) -> u8 {
        match self {
            Self::V4 => 24,
            Self::V6 => 64,
        }
    }

    /// Shorter prefixes mean "everything private" rather than one bridge.
    pub(super) fn shortest_guess(self) -> u8 {
        match self {
            Self::V4 => 16,
            Self::V6 => 48,
        }
    }

    /// Longer prefixes are too small for a network of guests.
    pub(super) fn longest_network(self) -> u8 {
        match self {
            Self::V4 => 30,
            Self::V6 => 126,
        }
    }
}

/// Whether guests could have its addresses: not the host's own ones (loopback), nor those of
/// groups or of one link.
pub(super) fn has_hosts(prefix: &IpNet) -> bool {
    let is_possible = match prefix.network() {
        IpAddr::V4(first) => !matches!(first.octets()[0], 0 | 127 | 224..),
        IpAddr::V6(first) => {
            !(first.is_multicast() || is_of_link(first.into()) || first.is_loopback())
        }
    };
    prefix.prefix_len() >= 8 && is_possible
}

/// Whether an address is valid on one link only.
pub(super) fn is_of_link(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// Whether these are unique local addresses, which a rule for their network translates.
pub(super) fn is_unique_local(prefix: &IpNet) -> bool {
    matches!(prefix, IpNet::V6(prefix) if prefix.addr().is_unique_local())
}

/// A prefix, or the address that it is.
pub(super) fn short(prefix: &IpNet) -> String {
    match prefix.prefix_len() == prefix.max_prefix_len() {
        true => prefix.addr().to_string(),
        false => prefix.to_string(),
    }
}
