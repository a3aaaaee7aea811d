//! `[nat64]`.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
    ops::Range,
};

use ipnet::{Ipv4Net, Ipv6Net};

use super::{network::NetworkId, uplink::UplinkId};

/// Odd, so that no two words have the same product (that of FNV-1a with 32 bits).
const HASH_FACTOR: u32 = 0x0100_0193;

/// How IPv6-only guests reach IPv4.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nat64 {
    /// The IPv6 prefix of 96 bits whose addresses stand for IPv4 addresses.
    pub prefix: Ipv6Net,
    /// The IPv4 addresses that guests have inside the host.
    pub pool: Ipv4Net,
    /// The network that stands for the guests in rules of IPv4.
    pub network: NetworkId,
    /// The networks whose guests may use it, where no policy says otherwise; `None` if all may.
    pub networks: Option<Vec<NetworkId>>,
    /// The only uplink by which their packets leave, where no policy says otherwise.
    pub uplink: Option<UplinkId>,
    /// The guests to which rules of IPv4 lead, with the address of the pool that each one keeps.
    pub holders: BTreeMap<Ipv4Addr, Ipv6Addr>,
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

    /// The addresses of a pool that guests may have: those between the host's and the last one.
    #[must_use]
    pub fn guest_addresses(pool: Ipv4Net) -> Range<u32> {
        u32::from(Self::host_address(pool)) + 1..u32::from(pool.broadcast())
    }

    /// The address of the pool that a guest keeps; `None` if all are taken. It depends on the
    /// guest's address and not on the rule's place in the file, so that another rule moves it only
    /// where both would have the same one.
    pub(crate) fn hold(&mut self, guest: Ipv6Addr) -> Option<Ipv4Addr> {
        if let Some((own, _)) = self.holders.iter().find(|(_, holder)| **holder == guest) {
            return Some(*own);
        }
        let addresses = Self::guest_addresses(self.pool);
        let count = addresses.end - addresses.start;
        let bits = u128::from(guest);
        let hash = (0..4).fold(0, |hash: u32, word| {
            (hash ^ (bits >> (32 * word)) as u32).wrapping_mul(HASH_FACTOR)
        });
        let mut tried = (0..count).map(|step| {
            let at = (hash.rotate_left(16) % count + step) % count;
            Ipv4Addr::from(addresses.start + at)
        });
        let free = tried.find(|own| !self.holders.contains_key(own))?;
        self.holders.insert(free, guest);
        Some(free)
    }

    /// The address in a prefix that stands for an IPv4 address.
    #[must_use]
    pub fn address_of(prefix: Ipv6Net, address: Ipv4Addr) -> Ipv6Addr {
        Ipv6Addr::from(u128::from(prefix.network()) | u128::from(u32::from(address)))
    }
}
