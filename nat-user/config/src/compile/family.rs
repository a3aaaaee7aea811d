//! What differs between the families in the tables.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use nat_common::wire::{
    address::{Addr4, Addr6},
    protocol::{ICMP, ICMPV6},
};

use crate::model::{Family, Prefix};

/// A family for which rules are compiled.
pub(super) trait WireFamily: Family {
    /// The address in the tables.
    type Wire: nat_common::wire::address::Address + Ord;

    /// The protocol number of its ICMP.
    const ICMP: u8;
    /// The UDP port of its DHCP servers.
    const DHCP: u16;
    /// Addresses that are inside addresses if they are behind a network: a rule that hides the
    /// network hides them, unless another rule does.
    const PRIVATE: &'static [Self::Prefix];

    /// The address in the tables.
    fn wire(self) -> Self::Wire;

    /// The one of an uplink's own addresses that masquerade uses.
    fn first_of(own: &[Self]) -> Option<Self>;
}

/// In wire order.
pub(super) fn network_of<A: WireFamily>(prefix: A::Prefix) -> A::Wire {
    prefix.network().wire()
}

impl WireFamily for Ipv4Addr {
    type Wire = Addr4;

    const ICMP: u8 = ICMP;
    const DHCP: u16 = 67;
    /// RFC 1918, RFC 6598.
    const PRIVATE: &'static [Ipv4Net] = &[
        Ipv4Net::new_assert(Self::new(10, 0, 0, 0), 8),
        Ipv4Net::new_assert(Self::new(172, 16, 0, 0), 12),
        Ipv4Net::new_assert(Self::new(192, 168, 0, 0), 16),
        Ipv4Net::new_assert(Self::new(100, 64, 0, 0), 10),
    ];

    fn wire(self) -> Addr4 {
        Addr4(self.octets())
    }

    fn first_of(own: &[Self]) -> Option<Self> {
        own.first().copied()
    }
}

impl WireFamily for Ipv6Addr {
    type Wire = Addr6;

    const ICMP: u8 = ICMPV6;
    const DHCP: u16 = 547;
    /// RFC 4193.
    const PRIVATE: &'static [Ipv6Net] = &[Ipv6Net::new_assert(
        Self::new(0xfc00, 0, 0, 0, 0, 0, 0, 0),
        7,
    )];

    fn wire(self) -> Addr6 {
        Addr6::new(self.octets())
    }

    /// The first one that the internet can answer. Behind another NAT, that is a unique local one.
    fn first_of(own: &[Self]) -> Option<Self> {
        let mut routed = own.iter().filter(|own| !own.is_unicast_link_local());
        let global = routed.clone().find(|own| !own.is_unique_local());
        global.or_else(|| routed.next()).copied()
    }
}
