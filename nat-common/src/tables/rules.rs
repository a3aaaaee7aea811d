//! `RULES`: what holds for all sessions of a rule.

/// Bits of a value of `RULES`, whose key is a rule's number.
pub mod rule_flags {
    /// Its packets all go the kernel's way.
    pub const KERNEL: u32 = 1 << 0;
}

/// The table of what holds for all sessions of a rule.
pub trait Rules {
    /// Whether sessions that count under a rule may take the fast path.
    fn is_rule_fast(&self, rule: u32) -> bool;
}
