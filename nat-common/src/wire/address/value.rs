//! An address of any family, as a value.

use core::fmt;

use bytemuck::Pod;

/// Only the two kinds of addresses can be [`Address`]: maps rely on their sizes.
pub(super) mod sealed {
    pub trait Sealed {}
}

/// An address of some family: a value.
pub trait Address: Pod + Eq + fmt::Debug + sealed::Sealed {
    /// The unspecified address.
    const UNSPECIFIED: Self;

    /// The loopback address.
    const LOOPBACK: Self;

    /// Whether only the host itself can have it (RFC 1122 section 3.2.1.3).
    fn is_loopback(self) -> bool;

    /// Sum of the address's 16-bit words in memory order, as RFC 1071 adds them.
    fn sum(self) -> u32;

    /// Whether a packet from outside may carry it as its source (RFC 1812 section 5.3.7).
    fn is_valid_source(self) -> bool;

    /// Whether it is multicast or broadcast.
    fn is_group(self) -> bool;

    /// Whether it is unicast.
    fn is_unicast(self) -> bool;

    /// Whether it is private.
    fn is_private(self) -> bool;

    /// The address `offset` after this one.
    fn offset_by(self, offset: u32) -> Self;

    /// How far `last` is after this one, 0 if they are equal or `last` is lower.
    fn distance_to(self, last: Self) -> u32;

    /// The address masked by `mask`.
    fn masked(self, mask: Self) -> Self;

    /// A number that depends on every bit of the address.
    fn hash(self) -> u32;

    /// The key for an interface of this index where addresses are keys.
    fn of_index(index: u32) -> Self;
}
