//! `REFUSALS`: clocks that limit how many refusals a guest is told of.

use crate::atomics::Shared;

/// Clocks of refusals: guests share one if they fall on the same by their address.
pub const CLOCKS: u32 = 1024;

/// The table of clocks of refusals.
pub trait RefusalClocks {
    /// The clock of refusals with this number, below [`crate::tables::refusals::CLOCKS`].
    fn refusal_clock(&self, number: u32) -> Option<&Shared>;
}
