//! DHCP of the host itself on an uplink (RFC 2131).
//!
//! A client without a lease is known only by its link-layer address: servers send offers to the
//! address that the client will get. Packets from a server to the client's port therefore belong to
//! the host, whatever the rules say about the address.

use crate::{
    headers::parsed::Parsed,
    wire::{
        address::{Address, Port},
        protocol::UDP,
    },
};

/// The port of servers and relays.
pub const SERVER: Port = Port::new(67);

/// The port of clients.
pub const CLIENT: Port = Port::new(68);

/// Whether this is what a server sends to a client.
#[inline(always)]
pub fn is_to_client<A: Address>(parsed: &Parsed<A>) -> bool {
    parsed.header.protocol == UDP
        && parsed.source_port == SERVER
        && parsed.destination_port == CLIENT
}

/// Whether a client without an address asks for one.
#[inline(always)]
pub fn asks_for_address<A: Address>(parsed: &Parsed<A>) -> bool {
    parsed.header.protocol == UDP
        && parsed.header.source == A::UNSPECIFIED
        && parsed.source_port == CLIENT
        && parsed.destination_port == SERVER
}
