//! The clock, chance and loops of a data plane.

/// How many times a packet looks again at what another CPU is adding or removing. That is over after
/// a few microseconds, in which it looks some dozens of times.
pub(crate) const MAX_WAITS: u32 = 256;
