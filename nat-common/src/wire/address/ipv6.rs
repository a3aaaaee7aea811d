//! IPv6 addresses (RFC 4291).

use core::fmt;

use bytemuck::{Pod, Zeroable};

use super::value::{Address, sealed::Sealed};

/// An IPv6 address in wire order.
///
/// Two words of 64 bits: the compiler keeps a pair of words in registers, but copies an array from
/// one place on the stack to the next. (Structures in maps that would need padding for words of
/// this size are packed.)
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct Addr6 {
    upper: u64,
    lower: u64,
}

/// The third word of the IPv4-mapped addresses, ::ffff:0:0/96 (RFC 4291 section 2.5.5.2).
const MAPPED: u64 = 0xffff;

impl Addr6 {
    /// From its bytes.
    #[inline(always)]
    #[must_use]
    pub const fn new(bytes: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
        Self {
            upper: u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
            lower: u64::from_ne_bytes([i, j, k, l, m, n, o, p]),
        }
    }

    /// From its halves in wire order.
    #[inline(always)]
    #[must_use]
    pub const fn of_halves([upper, lower]: [[u8; 8]; 2]) -> Self {
        Self {
            upper: u64::from_ne_bytes(upper),
            lower: u64::from_ne_bytes(lower),
        }
    }

    /// Its halves in wire order.
    #[inline(always)]
    #[must_use]
    pub const fn to_halves(self) -> [[u8; 8]; 2] {
        [self.upper.to_ne_bytes(), self.lower.to_ne_bytes()]
    }

    /// From its words in wire order.
    #[inline(always)]
    #[must_use]
    pub const fn of_words([a, b, c, d]: [u32; 4]) -> Self {
        Self {
            upper: together(a, b),
            lower: together(c, d),
        }
    }

    /// Its words in wire order.
    #[inline(always)]
    #[must_use]
    pub const fn words(self) -> [u32; 4] {
        let ([a, b], [c, d]) = (apart(self.upper), apart(self.lower));
        [a, b, c, d]
    }

    /// Its bytes.
    #[must_use]
    pub const fn bytes(self) -> [u8; 16] {
        let [a, b, c, d, e, f, g, h] = self.upper.to_ne_bytes();
        let [i, j, k, l, m, n, o, p] = self.lower.to_ne_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    /// Whether it is of one link alone (fe80::/10).
    #[inline(always)]
    #[must_use]
    pub const fn is_link_local(self) -> bool {
        u64::from_be(self.upper) >> 54 == 0xfe80 >> 6
    }

    /// Whether it stands for one of IPv4 (::ffff:0:0/96).
    #[inline(always)]
    #[must_use]
    pub const fn is_mapped(self) -> bool {
        self.upper == 0 && u64::from_be(self.lower) >> 32 == MAPPED
    }

    /// The upper and the lower half as numbers.
    #[inline(always)]
    const fn halves(self) -> (u64, u64) {
        (u64::from_be(self.upper), u64::from_be(self.lower))
    }
}

#[inline(always)]
const fn together(first: u32, second: u32) -> u64 {
    let ([a, b, c, d], [e, f, g, h]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

#[inline(always)]
const fn apart(half: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = half.to_ne_bytes();
    [
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
    ]
}

impl fmt::Debug for Addr6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        core::net::Ipv6Addr::from(self.bytes()).fmt(f)
    }
}

impl Sealed for Addr6 {}

impl Address for Addr6 {
    const UNSPECIFIED: Self = Self { upper: 0, lower: 0 };
    const LOOPBACK: Self = Self {
        upper: 0,
        lower: 1_u64.to_be(),
    };

    #[inline(always)]
    fn is_loopback(self) -> bool {
        self == Self::LOOPBACK
    }

    #[inline(always)]
    fn sum(self) -> u32 {
        let halves = |word: u64| (word & 0xffff_ffff) + (word >> 32);
        let sum = halves(self.upper) + halves(self.lower);
        ((sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32)) as u32
    }

    #[inline(always)]
    fn is_valid_source(self) -> bool {
        // RFC 4291 sections 2.5.2, 2.5.3 and 2.7; section 2.5.5.2 names no address of a host.
        !(self.is_group() || self.is_mapped() || self == Self::UNSPECIFIED || self.is_loopback())
    }

    #[inline(always)]
    fn is_group(self) -> bool {
        u64::from_be(self.upper) >> 56 == 0xff
    }

    #[inline(always)]
    fn is_unicast(self) -> bool {
        !self.is_group()
    }

    #[inline(always)]
    fn is_private(self) -> bool {
        // Unique local addresses (RFC 4193).
        u64::from_be(self.upper) >> 57 == 0xfc >> 1
    }

    #[inline(always)]
    fn offset_by(self, offset: u32) -> Self {
        let (upper, lower) = self.halves();
        let (lower, is_carried) = lower.overflowing_add(u64::from(offset));
        let upper = upper.wrapping_add(u64::from(is_carried));
        Self {
            upper: upper.to_be(),
            lower: lower.to_be(),
        }
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
        Self {
            upper: self.upper & mask.upper,
            lower: self.lower & mask.lower,
        }
    }

    #[inline(always)]
    fn hash(self) -> u32 {
        // Fibonacci hashing: the second half moves what came before.
        const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
        let (upper, lower) = self.halves();
        let mixed = (upper.wrapping_mul(FACTOR).rotate_left(27) ^ lower).wrapping_mul(FACTOR);
        (mixed >> 32) as u32
    }

    #[inline(always)]
    fn of_index(index: u32) -> Self {
        Self {
            upper: 0,
            lower: u64::from(index).to_be(),
        }
    }
}
