//! The clocks of the kernel.

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use nix::time::{ClockId, clock_gettime};

const NANOSECONDS_PER_SECOND: u64 = 1_000_000_000;

/// How many times as fast time passes for sessions. It is set once, before anything reads a clock.
static TIME_SCALE: AtomicU32 = AtomicU32::new(1);

/// Makes time pass so many times as fast for sessions, in this process and in the programs that it
/// loads.
pub fn set_time_scale(times: u32) {
    TIME_SCALE.store(times.max(1), Relaxed);
}

/// How many times as fast time passes for sessions.
#[must_use]
pub fn time_scale() -> u32 {
    TIME_SCALE.load(Relaxed)
}

/// Nanoseconds in a second of the sessions' clocks.
#[must_use]
pub fn nanoseconds_per_second() -> u64 {
    NANOSECONDS_PER_SECOND / u64::from(time_scale())
}

/// Nanoseconds of the monotonic clock.
#[must_use]
pub fn monotonic_ns() -> u64 {
    read(ClockId::CLOCK_MONOTONIC).as_nanos() as u64
}

/// Seconds of the sessions' clock, which the programs use: the monotonic clock, unless time passes
/// faster.
#[must_use]
pub fn monotonic_s() -> u32 {
    (monotonic_ns() / nanoseconds_per_second()) as u32
}

/// Seconds since the machine was started, sleep included.
#[must_use]
pub fn boottime_s() -> u64 {
    read(ClockId::CLOCK_BOOTTIME).as_secs()
}

/// CPU time that this thread has used, in user space and in the kernel.
#[must_use]
pub fn thread_cpu_time() -> Duration {
    read(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

/// CPU time that this process has used, in user space and in the kernel.
#[must_use]
pub fn process_cpu_time() -> Duration {
    read(ClockId::CLOCK_PROCESS_CPUTIME_ID)
}

fn read(clock: ClockId) -> Duration {
    // These clocks exist on every kernel that has BPF, and are never negative.
    clock_gettime(clock).map_or(Duration::ZERO, Duration::from)
}
