//! `EXCLUDES`: destinations that a source translation rule excludes.

use crate::wire::address::{Addr4, Addr6, Address};

/// Key of `EXCLUDES`, a longest-prefix match over the destination address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
pub struct ExcludeKey<A> {
    /// Number of the rule.
    pub rule: u32,
    /// Generation of the rule set.
    pub generation: u16,
    /// Zero.
    pub reserved: [u8; 2],
    /// Destination address.
    pub destination: A,
}

/// The table of destinations that source translation rules exclude.
pub trait Excludes<A: Address> {
    /// Whether a source translation rule excludes packets to `destination`.
    fn is_excluded(&self, generation: u16, rule: u32, destination: A) -> bool;
}

/// IPv4 key of `EXCLUDES`.
pub type ExcludeKey4 = ExcludeKey<Addr4>;

crate::map_layouts!(ExcludeKey, 12, 24);
