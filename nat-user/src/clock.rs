//! The clocks of the kernel.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Seconds of the monotonic clock, which the programs use.
#[must_use]
pub fn monotonic_s() -> u32 {
    seconds(ClockId::CLOCK_MONOTONIC) as u32
}

/// Seconds since the machine was started, sleep included.
#[must_use]
pub fn boottime_s() -> u64 {
    seconds(ClockId::CLOCK_BOOTTIME)
}

/// CPU time that this thread has used, in user space and in the kernel.
#[must_use]
pub fn thread_cpu_time() -> Duration {
    // As for the others: it exists.
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

fn seconds(clock: ClockId) -> u64 {
    // These clocks exist on every kernel that has BPF, and never stand before zero.
    clock_gettime(clock).map_or(0, |time| time.tv_sec().unsigned_abs())
}
