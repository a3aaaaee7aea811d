//! Invariants for any input: parsing, rewriting, the whole pipeline, ICMP errors and the
//! configuration, each a function that takes any bytes and panics if an invariant is violated.
//!
//! The fuzz targets in `tests/fuzz` call these functions, and so does `tests/replay.rs` with the
//! committed inputs. Expected values are computed here, from the packet's bytes, and not by the
//! code under test.

mod configuration;
mod frame;
mod icmp_errors;
mod input;
mod parsing;
mod rewriting;
mod translation;

pub use configuration::configuration;
pub use icmp_errors::icmp_errors;
pub use parsing::parsing;
pub use rewriting::rewriting;
pub use translation::translation;

/// A function that takes any bytes.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const TARGETS: [(&str, Target); 5] = [
    ("configuration", configuration),
    ("icmp_errors", icmp_errors),
    ("parsing", parsing),
    ("rewriting", rewriting),
    ("translation", translation),
];
