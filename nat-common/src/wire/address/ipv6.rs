//! IPv6 addresses (RFC 4291).

use core::fmt;

use bytemuck::{Pod, Zeroable};

use super::value::Address;

/// An IPv6 address in wire order.
///
/// Words, not bytes: the compiler would keep a register and a place on the stack for each byte.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(transparent)]
pub struct Addr6(pub [u32; 4]);

/// The third word of the IPv4-mapped addresses, ::ffff:0:0/96 (RFC 4291 section 2.5.5.2).
const MAPPED: u32 = 0xffff_u32.to_be();

impl Addr6 {
    /// From its bytes.
    #[inline(always)]
    #[must_use]
    pub const fn new(bytes: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
        Self([
            u32::from_ne_bytes([a, b, c, d]),
            u32::from_ne_bytes([e, f, g, h]),
            u32::from_ne_bytes([i, j, k, l]),
            u32::from_ne_bytes([m, n, o, p]),
        ])
    }

    /// Its bytes.
    #[must_use]
    pub const fn bytes(self) -> [u8; 16] {
        let [a, b, c, d] = self.0[0].to_ne_bytes();
        let [e, f, g, h] = self.0[1].to_ne_bytes();
        let [i, j, k, l] = self.0[2].to_ne_bytes();
        let [m, n, o, p] = self.0[3].to_ne_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    /// Whether it is of one link alone (fe80::/10).
    #[inline(always)]
    #[must_use]
    pub const fn is_link_local(self) -> bool {
        u32::from_be(self.0[0]) >> 22 == 0xfe80 >> 6
    }

    /// The upper and the lower half as numbers.
    #[inline(always)]
    const fn halves(self) -> (u64, u64) {
        let [a, b, c, d] = self.0;
        (joined(a, b), joined(c, d))
    }
}

#[inline(always)]
const fn joined(upper: u32, lower: u32) -> u64 {
    ((u32::from_be(upper) as u64) << 32) | u32::from_be(lower) as u64
}

impl fmt::Debug for Addr6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        core::net::Ipv6Addr::from(self.bytes()).fmt(f)
    }
}

impl Address for Addr6 {
    const UNSPECIFIED: Self = Self([0; 4]);
    const LOOPBACK: Self = Self([0, 0, 0, 1_u32.to_be()]);

    #[inline(always)]
    fn is_loopback(self) -> bool {
        self == Self::LOOPBACK
    }

    #[inline(always)]
    fn sum(self) -> u32 {
        let [a, b, c, d] = self.0;
        let halves = |word: u32| (word & 0xffff) + (word >> 16);
        halves(a) + halves(b) + halves(c) + halves(d)
    }

    #[inline(always)]
    fn is_valid_source(self) -> bool {
        // RFC 4291 sections 2.5.2, 2.5.3 and 2.7; section 2.5.5.2 names no address of a host.
        let [a, b, c, _] = self.0;
        let is_mapped = (a | b) == 0 && c == MAPPED;
        !(self.is_group() || is_mapped || self == Self::UNSPECIFIED || self.is_loopback())
    }

    #[inline(always)]
    fn is_group(self) -> bool {
        u32::from_be(self.0[0]) >> 24 == 0xff
    }

    #[inline(always)]
    fn is_unicast(self) -> bool {
        !self.is_group()
    }

    #[inline(always)]
    fn is_private(self) -> bool {
        // Unique local addresses (RFC 4193).
        u32::from_be(self.0[0]) >> 25 == 0xfc >> 1
    }

    #[inline(always)]
    fn offset_by(self, offset: u32) -> Self {
        let (upper, lower) = self.halves();
        let (lower, is_carried) = lower.overflowing_add(u64::from(offset));
        let upper = upper.wrapping_add(u64::from(is_carried));
        Self([
            ((upper >> 32) as u32).to_be(),
            (upper as u32).to_be(),
            ((lower >> 32) as u32).to_be(),
            (lower as u32).to_be(),
        ])
    }

    #[inline(always)]
    fn distance_to(self, last: Self) -> u32 {
        let ((upper, lower), (last_upper, last_lower)) = (self.halves(), last.halves());
        if last_upper != upper {
            return if last_upper > upper { u32::MAX } else { 0 };
        }
        let distance = last_lower.saturating_sub(lower);
        if distance > u64::from(u32::MAX) {
            u32::MAX
        } else {
            distance as u32
        }
    }

    #[inline(always)]
    fn masked(self, mask: Self) -> Self {
        let ([a, b, c, d], [e, f, g, h]) = (self.0, mask.0);
        Self([a & e, b & f, c & g, d & h])
    }

    #[inline(always)]
    fn hash(self) -> u32 {
        // Fibonacci hashing, word after word: each one moves all that came before.
        const FACTOR: u32 = 0x9e37_79b1;
        let [a, b, c, d] = self.0;
        let mut mixed = u32::from_be(a).wrapping_mul(FACTOR);
        mixed = (mixed.rotate_left(5) ^ u32::from_be(b)).wrapping_mul(FACTOR);
        mixed = (mixed.rotate_left(5) ^ u32::from_be(c)).wrapping_mul(FACTOR);
        mixed = (mixed.rotate_left(5) ^ u32::from_be(d)).wrapping_mul(FACTOR);
        mixed ^ (mixed >> 15)
    }

    #[inline(always)]
    fn of_index(index: u32) -> Self {
        Self([0, 0, 0, index.to_be()])
    }
}
