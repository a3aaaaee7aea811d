//! `RULES`: flags of all sessions of a rule.

use bitflags::bitflags;
use bytemuck::{Pod, Zeroable};

bitflags! {
    /// Bits of a value of `RULES`, whose key is a rule's number.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
    #[repr(transparent)]
    pub struct RuleFlags: u32 {
        /// All its packets take the slow path.
        const KERNEL = 1 << 0;
    }
}

/// The table of the flags of rules.
pub trait Rules {
    /// Whether sessions of a rule may take the fast path.
    fn is_rule_fast(&self, rule: u32) -> bool;
}
