//! `REFUSALS`: clocks that limit how many refusals a guest is told of.

/// Clocks of refusals: guests share one if they fall on the same by their address.
pub const CLOCKS: u32 = 1024;
