//! DHCP of the host itself on an uplink (RFC 2131).
//!
//! A client without a lease is known by its link-layer address alone: servers send offers to the
//! address that it will get. So what a server sends to the client's port is the host's, whatever
//! rules say of the address.

use crate::{
    address::{Address, Port},
    parse::{Parsed, UDP},
    session::{SessionKey, View},
    tables::Tables,
};

/// The port of servers and relays.
pub const SERVER: Port = Port::new(67);
/// The port of clients.
pub const CLIENT: Port = Port::new(68);

/// For how long the host is without an address after it has asked for one, in seconds. Servers look
/// in the meantime whether somebody has the address that they are about to offer.
pub const ACQUIRING_S: u32 = 10;

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

/// The key of what answers a host without an address that asks by the uplink of this number.
#[inline(always)]
pub(crate) fn answers<A: Address>(uplink: u16) -> SessionKey<A> {
    SessionKey {
        source: A::UNSPECIFIED,
        destination: A::UNSPECIFIED,
        source_port: Port::ZERO,
        destination_port: CLIENT,
        network: uplink,
        protocol: UDP,
        view: View::Outside as u8,
    }
}

/// Whether the host is about to get an address by the uplink of this number: then it may be any
/// that a rule names, and whoever answers for it there keeps servers from offering it.
#[inline(always)]
pub fn is_acquiring<A: Address, T: Tables<A>>(tables: &T, uplink: u16) -> bool {
    tables.session(&answers(uplink)).is_some_and(|session| {
        let idle_s = tables.now_s().saturating_sub(session.seen_s.load());
        idle_s < ACQUIRING_S
    })
}
