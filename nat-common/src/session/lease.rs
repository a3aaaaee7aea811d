//! The host's own lease of an address by DHCP on an uplink.

use crate::{
    family::Family,
    headers::dhcp::CLIENT,
    tables::{
        Tables,
        sessions::{SessionKey, View},
    },
    wire::{address::Port, protocol::UDP},
};

/// For how long the host counts as without an address after it asks for one, in seconds. In this
/// time servers probe whether the address that they will offer is in use.
pub const ACQUIRING_S: u32 = 10;

/// The key of answers to a host without an address that asks by the uplink of this number.
#[inline(always)]
pub(crate) fn answers<A: Family>(uplink: u16) -> SessionKey<A> {
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

/// Whether the host is about to get an address by the uplink of this number: it may be any address
/// that a rule names, and an answer for it would keep servers from offering it.
#[inline(always)]
pub fn is_acquiring<A: Family, T: Tables<A>>(tables: &T, uplink: u16) -> bool {
    tables.session(&answers(uplink)).is_some_and(|session| {
        let idle_s = tables.now_s().saturating_sub(session.seen_s.load());
        idle_s < ACQUIRING_S
    })
}
