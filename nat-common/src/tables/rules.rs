//! `RULES`: flags of all sessions of a rule.

/// Bits of a value of `RULES`, whose key is a rule's number.
pub mod rule_flags {
    /// All its packets take the slow path.
    pub const KERNEL: u32 = 1 << 0;
}

/// The table of the flags of rules.
pub trait Rules {
    /// Whether sessions of a rule may take the fast path.
    fn is_rule_fast(&self, rule: u32) -> bool;
}
