//! Packets for natbpf's tests, and a host in memory: the pipeline runs here as in the kernel, over
//! a byte slice and ordinary maps.
//!
//! nat-common's tests, the invariants, the fuzz targets and the tests of whole hosts use it.
//! nat-common's own unit tests cannot: for them this crate's nat-common is another crate than
//! theirs.

pub mod craft;
mod families;
pub mod flawed;
pub mod interleave;
pub mod nat64;
pub mod octets;
pub mod packets;
pub mod tables;
pub mod world;

pub use families::{ipv4, ipv6};
