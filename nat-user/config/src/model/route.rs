//! `[[route]]`.

use std::net::Ipv4Addr;

use ipnet::{Ipv4Net, Ipv6Net};

use super::{network::NetworkId, uplink::UplinkId};

/// Addresses that guests of a network hold themselves. Their packets are routed, never translated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Unique among the `[[route]]` tables.
    pub name: String,
    /// Where the guests are.
    pub network: NetworkId,
    /// The addresses. No other table has any of them. Every address of a prefix belongs to a guest,
    /// including the first and the last.
    pub addresses: Vec<Ipv4Net>,
    /// The same for IPv6. One of the two lists may be empty.
    pub addresses6: Vec<Ipv6Net>,
    /// The uplink whose address the host uses towards the guests, and to which `arp` applies.
    pub uplink: UplinkId,
    /// An address of the host that natbpf adds to the network's interface too.
    pub gateway: Option<Ipv4Addr>,
    /// Whether the host answers ARP of guests for other addresses.
    pub proxy_arp: bool,
    /// Whether the host answers ARP on the uplink for the addresses.
    pub arp: bool,
}
