//! NAT64 (RFC 6146): packets of IPv6-only guests as packets of IPv4, and the answers.
//!
//! Headers and errors are translated without state (RFC 7915). Each guest's IPv6 address has an
//! IPv4 address of its own, from a pool that leaves the host only translated: sessions, ports,
//! filters and limits are those of the IPv4 pipeline behind.

mod fields;
mod icmp;
mod plan;
mod prefix;
mod quoted;
mod to_ipv4;
mod to_ipv6;
mod transport;

pub use plan::{MAX_START, Plan, Reshape, Version, apply};
pub use prefix::Prefix;
pub use to_ipv4::to_ipv4;
pub use to_ipv6::to_ipv6;

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
