//! IPv4 addresses.

use core::fmt;

use bytemuck::{Pod, Zeroable};

use super::value::{Address, sealed::Sealed};

/// An IPv4 address in wire order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(transparent)]
pub struct Addr4(pub [u8; 4]);

impl fmt::Debug for Addr4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        core::net::Ipv4Addr::from(self.0).fmt(f)
    }
}

impl Sealed for Addr4 {}

impl Address for Addr4 {
    const UNSPECIFIED: Self = Self([0; 4]);
    const LOOPBACK: Self = Self([127, 0, 0, 1]);

    #[inline(always)]
    fn is_loopback(self) -> bool {
        self.0[0] == 127
    }

    #[inline(always)]
    fn sum(self) -> u32 {
        let word = u32::from_ne_bytes(self.0);
        (word & 0xffff) + (word >> 16)
    }

    #[inline(always)]
    fn is_valid_source(self) -> bool {
        // 0/8 this network, 127/8 loopback, 224/4 multicast, 240/4 reserved and broadcast.
        !matches!(self.0[0], 0 | 127 | 224..)
    }

    #[inline(always)]
    fn is_group(self) -> bool {
        self.0[0] >= 224
    }

    #[inline(always)]
    fn is_unicast(self) -> bool {
        self.0[0] < 224
    }

    #[inline(always)]
    fn is_private(self) -> bool {
        // RFC 1918, RFC 6598.
        let [first, second, ..] = self.0;
        match first {
            10 => true,
            172 => second & 0xf0 == 16,
            192 => second == 168,
            100 => second & 0xc0 == 64,
            _ => false,
        }
    }

    #[inline(always)]
    fn masked(self, mask: Self) -> Self {
        Self((u32::from_ne_bytes(self.0) & u32::from_ne_bytes(mask.0)).to_ne_bytes())
    }

    #[inline(always)]
    fn offset_by(self, offset: u32) -> Self {
        Self(
            u32::from_be_bytes(self.0)
                .wrapping_add(offset)
                .to_be_bytes(),
        )
    }

    #[inline(always)]
    fn distance_to(self, last: Self) -> u32 {
        u32::from_be_bytes(last.0).saturating_sub(u32::from_be_bytes(self.0))
    }

    #[inline(always)]
    fn hash(self) -> u32 {
        // Fibonacci hashing: neighbours land far apart.
        let mixed = u32::from_be_bytes(self.0).wrapping_mul(0x9e37_79b1);
        mixed ^ (mixed >> 15)
    }

    #[inline(always)]
    fn of_index(index: u32) -> Self {
        Self(index.to_be_bytes())
    }
}
