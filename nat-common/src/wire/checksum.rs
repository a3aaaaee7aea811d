//! Internet checksum arithmetic (RFC 1071, RFC 1624).
//!
//! The checksum is the complement of the one's complement sum of 16-bit words. When words change
//! from `m` to `m'`, the new checksum is `HC' = ~(~HC + ~m + m')` (RFC 1624, equation 3), so a
//! change is one number, the sum of all `~m + m'`: a [`Diff`]. One's complement sums do not depend
//! on byte order (RFC 1071 section 2 B), so words are added as they are in memory.

/// The sum of new words minus the sum of old ones, not folded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Diff(pub u32);

impl Diff {
    /// Nothing changed.
    pub const NONE: Self = Self(0);

    /// A word, or a sum of fewer than 2^15 words, changed from `old` to `new`.
    #[inline(always)]
    #[must_use]
    pub const fn replace(self, old: u32, new: u32) -> Self {
        // ~old as a one's complement number: its folded form subtracted from 0xffff.
        Self(self.0 + new + (0xffff - fold(old) as u32))
    }

    /// Both changes.
    #[inline(always)]
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(fold(self.0) as u32 + fold(other.0) as u32)
    }

    /// The checksum field after the change.
    #[inline(always)]
    #[must_use]
    pub const fn apply(self, field: [u8; 2]) -> [u8; 2] {
        let old = !u16::from_ne_bytes(field) as u32;
        (!fold(old + fold(self.0) as u32)).to_ne_bytes()
    }

    /// A sum (not a checksum) after the change.
    #[inline(always)]
    #[must_use]
    pub const fn add_to(self, sum: [u8; 2]) -> [u8; 2] {
        fold(u16::from_ne_bytes(sum) as u32 + fold(self.0) as u32).to_ne_bytes()
    }

    /// The UDP checksum field after the change: 0 means "none" and stays, and a sum that computes
    /// to 0 is sent as 0xffff (RFC 768).
    #[inline(always)]
    #[must_use]
    pub const fn apply_udp(self, field: [u8; 2]) -> [u8; 2] {
        if u16::from_ne_bytes(field) == 0 {
            return field;
        }
        let new = self.apply(field);
        if u16::from_ne_bytes(new) == 0 {
            [0xff, 0xff]
        } else {
            new
        }
    }
}

/// Folds a sum of words into 16 bits.
#[inline(always)]
#[must_use]
pub const fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

/// The sum of the words of `bytes`; an odd last byte is padded with zero.
#[must_use]
pub fn sum(bytes: &[u8]) -> u32 {
    let mut total = 0u32;
    let mut words = bytes.chunks_exact(2);
    for word in &mut words {
        total += u32::from(u16::from_ne_bytes([word[0], word[1]]));
        total = u32::from(fold(total));
    }
    if let [last] = words.remainder() {
        total += u32::from(u16::from_ne_bytes([*last, 0]));
    }
    total
}
