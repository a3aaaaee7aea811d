//! Invariants for any input: parsing, rewriting, the whole pipeline and ICMP errors in both
//! families, NAT64 and the configuration, each a function that takes any bytes and panics if an
//! invariant is violated.
//!
//! The fuzz targets in `tests/fuzz` call these functions, and so does `tests/replay.rs` with the
//! committed inputs. Expected values are computed here, from the packet's bytes, and not by the
//! code under test.

mod configuration;
mod frame;
mod header;
mod icmp_errors;
mod input;
mod nat64;
mod parsing;
mod parsing_ipv6;
mod rewriting;
mod translation;

use configuration::configuration;
use icmp_errors::icmp_errors;
use nat64::nat64;
use parsing::parsing;
use parsing_ipv6::parsing_ipv6;
use rewriting::rewriting;
use translation::translation;

/// A function that takes any bytes.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const TARGETS: [(&str, Target); 10] = [
    ("configuration", configuration),
    ("icmp_errors", icmp_errors::<[u8; 4]>),
    ("icmp_errors_ipv6", icmp_errors::<[u8; 16]>),
    ("nat64", nat64),
    ("parsing", parsing),
    ("parsing_ipv6", parsing_ipv6),
    ("rewriting", rewriting::<[u8; 4]>),
    ("rewriting_ipv6", rewriting::<[u8; 16]>),
    ("translation", translation::<[u8; 4]>),
    ("translation_ipv6", translation::<[u8; 16]>),
];

/// Runs a target on any bytes.
///
/// # Panics
///
/// If there is no target of this name, or an invariant is violated.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    target.expect("a target").1(data);
}
