//! The clock, chance and loops of a data plane.

/// How many times a packet looks again at what another CPU is adding or removing. That is over
/// after a few microseconds, in which it looks some dozens of times.
pub(crate) const MAX_WAITS: u32 = 256;

/// The clock, the chance and the loops of a data plane.
pub trait Environment {
    /// The monotonic clock in seconds.
    fn now_s(&self) -> u32;
    /// A random number.
    fn random(&self) -> u32;
    /// Calls `step` with 0, 1, … as long as it says so, at the most `times` times.
    fn repeat(&self, times: u32, step: impl FnMut(u32) -> bool);
    /// Called before another look at what another CPU is about to change.
    fn pause(&self);
}
