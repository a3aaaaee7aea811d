//! `RULES`: what holds for all sessions of a rule.

/// Bits of a value of `RULES`, whose key is a rule's number.
pub mod rule_flags {
    /// Its packets all go the kernel's way.
    pub const KERNEL: u32 = 1 << 0;
}
