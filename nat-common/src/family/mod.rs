//! The differences between the address families, in one place.
//!
//! All higher layers are written once for all families. Each family has its own maps.

pub mod header;
pub mod ipv4;
pub mod ipv6;

pub use header::{Family, Header};
