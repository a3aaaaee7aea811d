//! `PREFIXES6`: which prefixes become others (NPTv6, RFC 6296). Its values are translations, so it
//! is not among the other tables.

use crate::{translation::prefix::PrefixTranslation, wire::address::Addr6};

/// Key of `PREFIXES6`, a longest-prefix match.
///
/// The daemon writes for each rule, at its uplink, the external and the internal prefix, and every
/// address in the external one that the host or another rule has. It writes the same at no uplink
/// if guests reach each other by the external prefix.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C, packed(4))]
pub struct PrefixKey {
    /// Generation of the rule set.
    pub generation: u16,
    /// Number of the uplink, 0 between guests.
    pub uplink: u16,
    /// The address.
    pub address: Addr6,
}

/// Value of `PREFIXES6`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct PrefixEntry {
    /// What the prefix becomes.
    pub translation: PrefixTranslation,
    /// Number of the rule.
    pub rule: u32,
    /// [`side`].
    pub side: u32,
}

/// What a prefix is.
pub mod side {
    /// An address of the host's or of another rule: it stays.
    pub const NEITHER: u32 = 0;
    /// The internal prefix.
    pub const INTERNAL: u32 = 1;
    /// The external prefix.
    pub const EXTERNAL: u32 = 2;
}

/// Bits before the address in [`PrefixKey`].
pub const PREFIX_FIXED_BITS: u32 = 32;

/// The table of prefixes.
pub trait PrefixTable {
    /// The entry of an address at an uplink, 0 between guests.
    fn prefix(&self, generation: u16, uplink: u16, address: Addr6) -> Option<&PrefixEntry>;
}

crate::map_layout!(PrefixKey, 20);
crate::map_layout!(PrefixEntry, 60);
