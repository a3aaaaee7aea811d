//! The clock, random numbers and loops of a data plane.

/// How many times a packet looks again at an entry that another CPU is adding or removing. This
/// takes a few microseconds, in which the packet looks some dozens of times.
pub(crate) const MAX_WAITS: u32 = 256;

/// The clock, the random numbers and the loops of a data plane.
pub trait Environment {
    /// The monotonic clock in seconds.
    fn now_s(&self) -> u32;
    /// A random number.
    fn random(&self) -> u32;
    /// Calls `step` with 0, 1, … while it returns true, at most `times` times.
    fn repeat(&self, times: u32, step: impl FnMut(u32) -> bool);
    /// Called before another look at an entry that another CPU is changing.
    fn pause(&self);
}
