//! `[nat64]`.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use super::network::NetworkId;

/// How IPv6-only guests reach IPv4.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nat64 {
    /// The IPv6 prefix of 96 bits whose addresses stand for IPv4 addresses.
    pub prefix: Ipv6Net,
    /// The IPv4 addresses that guests have inside the host.
    pub pool: Ipv4Net,
    /// The network that stands for the guests in rules of IPv4.
    pub network: NetworkId,
}

impl Nat64 {
    /// The name of that network.
    pub const NETWORK: &str = "nat64";

    /// The name of its device.
    pub const INTERFACE: &str = "natbpf64";

    /// The well-known prefix (RFC 6052 section 2.1).
    pub const WELL_KNOWN: Ipv6Net =
        Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);

    /// Addresses that are shared between a provider and its customers (RFC 6598), and so the least
    /// likely to be a guests' network.
    pub const POOL: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 46, 0), 24);

    /// The host's own address in a pool, the first.
    #[must_use]
    pub fn host_address(pool: Ipv4Net) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(pool.network()) + 1)
    }

    /// The address in a prefix that stands for an IPv4 address.
    #[must_use]
    pub fn address_of(prefix: Ipv6Net, address: Ipv4Addr) -> Ipv6Addr {
        Ipv6Addr::from(u128::from(prefix.network()) | u128::from(u32::from(address)))
    }
}
