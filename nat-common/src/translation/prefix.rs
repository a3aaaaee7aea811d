//! NPTv6: one prefix becomes another, and no transport checksum notices (RFC 6296).
//!
//! The sum of an address's words stays the same: one word after the prefix takes up the difference
//! between the prefixes. Nothing after the addresses is read or written, and no state is kept.

use bytemuck::{Pod, Zeroable};

use crate::wire::{
    address::{Addr6, Address as _},
    checksum::{Diff, fold},
};

/// Two prefixes of one length, and what makes up for their difference.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C, packed(4))]
pub struct PrefixTranslation {
    /// The prefix that an address must have to be translated, all other bits 0.
    pub from: Addr6,
    /// The prefix that it gets.
    pub to: Addr6,
    /// A bit for each bit of the prefixes.
    pub mask: Addr6,
    /// What one word of the address is increased by, a one's complement number in memory order.
    adjustment: u16,
    /// Whether the prefixes are longer than 48 bits.
    is_long: u16,
}

/// The longest prefix that leaves the word of the subnet free (RFC 6296 section 3.4).
const SUBNET_IS_FREE: u32 = 48;

/// The longest prefix that leaves the interface identifier free.
pub const MAX_LEN: u32 = 64;

/// The number that the words of a translated address do not have (RFC 6296 sections 3.1, 3.5).
const NEGATIVE_ZERO: u16 = 0xffff;

impl PrefixTranslation {
    /// From two prefixes of `len` bits, at most [`MAX_LEN`]; bits behind them do not count.
    #[must_use]
    pub fn new(from: Addr6, to: Addr6, len: u32) -> Self {
        let mask = mask(len);
        let (from, to) = (from.masked(mask), to.masked(mask));
        Self {
            from,
            to,
            mask,
            adjustment: fold(Diff::NONE.replace(to.sum(), from.sum()).0),
            is_long: u16::from(len > SUBNET_IS_FREE),
        }
    }

    /// The same in the other direction.
    #[must_use]
    pub fn reversed(&self) -> Self {
        let (from, to) = (self.to, self.from);
        Self {
            from,
            to,
            adjustment: fold(Diff::NONE.replace(to.sum(), from.sum()).0),
            ..*self
        }
    }

    /// Whether an address has the prefix that is translated.
    #[inline(always)]
    #[must_use]
    pub fn covers(&self, address: Addr6) -> bool {
        address.masked(self.mask) == { self.from }
    }

    /// The address that stands for one with the prefix [`Self::from`]; `None` if there is none:
    /// the word that would be changed is 0xffff, or all of them are (RFC 6296 sections 3.4, 3.7).
    #[inline(always)]
    #[must_use]
    pub fn apply(&self, address: Addr6) -> Option<Addr6> {
        let ([a, b, c, d], [e, f, g, h]) = (address.words(), self.mask.words());
        let [i, j, k, l] = self.to.words();
        let mut words = [a & !e | i, b & !f | j, c & !g | k, d & !h | l];
        match self.is_long == 0 {
            true => words[1] = self.adjusted::<SECOND>(words[1])?,
            false => match (
                self.adjusted::<FIRST>(words[2]),
                self.adjusted::<SECOND>(words[2]),
            ) {
                (Some(word), _) | (None, Some(word)) => words[2] = word,
                (None, None) => {
                    words[3] = self
                        .adjusted::<FIRST>(words[3])
                        .or_else(|| self.adjusted::<SECOND>(words[3]))?;
                }
            },
        }
        Some(Addr6::of_words(words))
    }

    /// A pair of words with one of them adjusted; `None` if that one is 0xffff.
    #[inline(always)]
    fn adjusted<const AT: usize>(&self, pair: u32) -> Option<u32> {
        let [a, b, c, d] = pair.to_ne_bytes();
        let halves = [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])];
        if halves[AT] == NEGATIVE_ZERO {
            return None;
        }
        let sum = match fold(u32::from(halves[AT]) + u32::from(self.adjustment)) {
            NEGATIVE_ZERO => 0,
            sum => sum,
        };
        let [e, f] = sum.to_ne_bytes();
        Some(u32::from_ne_bytes(match AT {
            FIRST => [e, f, c, d],
            _ => [a, b, e, f],
        }))
    }
}

/// Places in a pair of words.
const FIRST: usize = 0;
const SECOND: usize = 1;

/// A mask of `len` leading ones.
fn mask(len: u32) -> Addr6 {
    let mut words = [0; 4];
    for (at, word) in words.iter_mut().enumerate() {
        let ones = len.saturating_sub(at as u32 * 32).min(32);
        *word = u32::MAX.checked_shl(32 - ones).unwrap_or(0).to_be();
    }
    Addr6::of_words(words)
}
