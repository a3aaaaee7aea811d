//! `[[nat]]`.

use std::net::Ipv4Addr;

use ipnet::Ipv6Net;

use super::{address::Address, forwarding::Forwarding, guest::GuestAddress, uplink::UplinkId};

/// One external address for one guest, in both directions and for every protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatRule<A: Address = Ipv4Addr> {
    /// Unique among the `[[nat]]` rules.
    pub name: String,
    /// The uplink by which the address is reached, and by which the guest leaves with it.
    pub uplink: UplinkId,
    /// The external address; no other `[[nat]]` rule has it.
    pub address: A,
    /// The guest; no other `[[nat]]` rule of this uplink has it.
    pub to: GuestAddress<A>,
    /// Whether guests also reach it by the external address.
    pub hairpin: bool,
    /// The path of packets of its sessions.
    pub forwarding: Forwarding,
}

/// One external IPv6 prefix for one internal prefix, in both directions (RFC 6296).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrefixRule {
    /// Unique among the `[[nat]]` rules.
    pub name: String,
    /// The uplink by which the external prefix is reached.
    pub uplink: UplinkId,
    /// The external prefix, from 1 to 64 bits.
    pub external: Ipv6Net,
    /// The internal prefix, of the same length.
    pub internal: Ipv6Net,
    /// Whether guests also reach each other by the external prefix.
    pub hairpin: bool,
}
