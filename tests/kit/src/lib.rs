//! A host in memory for natbpf's tests: the pipeline runs here as in the kernel, over a byte slice
//! and ordinary maps.
//!
//! nat-common's tests, the invariants and the fuzz targets use it. nat-common's own unit tests
//! cannot: for them this crate's nat-common is another crate than theirs.

pub mod interleave;
pub mod packets;
pub mod tables;
pub mod world;
