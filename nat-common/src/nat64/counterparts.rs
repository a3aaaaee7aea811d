//! The addresses of both families that stand for each other.

use super::prefix::Prefix;
use crate::wire::address::{Addr4, Addr6};

/// The addresses of both families that stand for each other.
pub trait Counterparts {
    /// The prefix of addresses that stand for IPv4 addresses.
    fn prefix(&self) -> Prefix;

    /// The IPv4 address of a guest, which gets one if it has none; `None` if all are in use.
    fn ipv4_of(&self, guest: Addr6) -> Option<Addr4>;

    /// The IPv4 address that a guest has.
    fn known_ipv4_of(&self, guest: Addr6) -> Option<Addr4>;

    /// The guest that has an IPv4 address.
    fn ipv6_of(&self, address: Addr4) -> Option<Addr6>;

    /// The IPv4 source of errors by nodes that have none (RFC 6791).
    fn ipv4_of_strangers(&self) -> Addr4;

    /// A random number.
    fn random(&self) -> u32;
}
