//! The rule compiler: from a configuration to the entries of the rule tables.
//!
//! The order of the rules is resolved here, once, so that a packet costs the same with one rule and
//! with a hundred thousand: each port of each address belongs to at most one forward rule, and each
//! source prefix to one source translation rule. Ranges of ports are cut into prefixes, which the
//! tables match by the longest.
//!
//! Input and output are plain values. The compiler does not access the kernel.

mod compiler;
mod family;
mod forwards;
mod in_order;
mod inside;
mod policy;
mod prefixes;
mod ranges;
mod ruleset;
mod snats;
mod taken;

use std::net::Ipv6Addr;

use nat_common::wire::address::Addr6;

use self::{compiler::Compiler, family::WireFamily};
pub use self::{
    in_order::InOrder,
    ruleset::{Environment, Numbering, Prefix, Prefixes, Ruleset, Sources, wire},
};
use crate::model::Config;

/// Compiles a configuration for IPv4.
pub fn compile(
    config: &Config,
    environment: &Environment,
    numbers: &mut impl Numbering,
) -> Ruleset {
    compiled(config, environment, numbers).ruleset
}

/// Compiles a configuration for IPv6.
pub fn compile_ipv6(
    config: &Config,
    environment: &Environment<Ipv6Addr>,
    numbers: &mut impl Numbering,
) -> Ruleset<Addr6> {
    let mut compiler = compiled(config, environment, numbers);
    compiler.prefixes(numbers);
    compiler.ruleset
}

/// What the families have in common.
fn compiled<'a, A: WireFamily>(
    config: &'a Config,
    environment: &'a Environment<A>,
    numbers: &mut impl Numbering,
) -> Compiler<'a, A> {
    let mut compiler = Compiler::new(config, environment, numbers);
    compiler.addresses();
    compiler.inside();
    compiler.forwards(numbers);
    compiler.forward_sources();
    compiler.own();
    compiler.snats(numbers);
    compiler.policies(numbers);
    compiler
}

#[cfg(test)]
mod tests;
