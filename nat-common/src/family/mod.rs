//! What differs between the address families, once.
//!
//! Everything above is written once for all families; each family has maps of its own.

pub mod header;
pub mod ipv4;

pub use header::{Family, Header};
