//! NAT64 (RFC 6146): packets of IPv6-only guests as packets of IPv4, and the answers.
//!
//! Headers and errors are translated without state (RFC 7915). Each guest's IPv6 address has an
//! IPv4 address of its own, from a pool that leaves the host only translated: sessions, ports,
//! filters and limits are those of the IPv4 pipeline behind.

mod counterparts;
mod fields;
mod icmp;
mod job;
mod plan;
mod prefix;
mod tables;
mod to_ipv4;
mod to_ipv6;
mod transport;

pub use counterparts::Counterparts;
pub use job::Job;
pub use plan::{MAX_START, Plan, Reshape, Version, apply};
pub use prefix::Prefix;
pub use tables::{Counterpart, Nat64Settings};
pub use to_ipv4::to_ipv4;
pub use to_ipv6::to_ipv6;
