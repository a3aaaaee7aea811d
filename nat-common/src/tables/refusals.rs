//! `REFUSALS`: rate limiters of the ICMP errors about refused packets.

use crate::atomics::Shared;

/// How many rate limiters there are. Guests share one if their addresses have the same hash.
pub const RATE_LIMITERS: u32 = 1024;

/// The table of rate limiters.
pub trait RateLimiters {
    /// The rate limiter with this number, below [`crate::tables::refusals::RATE_LIMITERS`]: the
    /// clock of the last errors.
    fn rate_limiter(&self, number: u32) -> Option<&Shared>;
}
