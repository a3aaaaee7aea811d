//! How many sessions use an entry of a table.

use crate::atomics::Shared;

/// How many sessions use an entry. The last one removes the entry.
#[derive(Debug)]
#[repr(transparent)]
pub struct References(Shared);

/// The count of an entry that is being removed.
const GONE: u32 = 1 << 31;

/// [`PortRecord::references`](crate::tables::ports::PortRecord::references) of a port whose mapping
/// does not exist yet: no reference can be taken.
pub const CLAIMED: u32 = GONE;

impl References {
    /// This many.
    #[cfg(not(target_arch = "bpf"))]
    #[must_use]
    pub const fn new(count: u32) -> Self {
        Self(Shared::new(count))
    }

    /// How many there are.
    #[cfg(not(target_arch = "bpf"))]
    #[must_use]
    pub fn count(&self) -> u32 {
        self.0.load()
    }

    /// One more; `false` if the entry is being removed.
    #[inline(always)]
    pub fn acquire(&self) -> bool {
        if self.0.fetch_add(1) & GONE == 0 {
            return true;
        }
        self.0.fetch_add(u32::MAX);
        false
    }

    /// Whether the entry is being removed, or not yet in use.
    #[inline(always)]
    pub fn is_gone(&self) -> bool {
        self.0.load() & GONE != 0
    }

    /// The first one of an entry that was [`CLAIMED`].
    #[inline(always)]
    pub fn begin(&self) {
        // Other CPUs may be about to undo a failed addition.
        self.0.fetch_add(GONE + 1);
    }

    /// One less; `true` if it was the last and the caller must now remove the entry.
    #[inline(always)]
    pub fn release(&self) -> bool {
        self.0.fetch_add(u32::MAX) == 1 && self.0.exchange_if(0, GONE) == 0
    }
}
