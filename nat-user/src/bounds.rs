//! A bound of time and memory for commands that read files of others.
//!
//! Each reader also limits counts. This bound covers the rest.

use std::{fs, process, thread, time::Duration};

use nix::unistd::{SysconfVar, sysconf};

use crate::clock;

/// How much memory a command may use. With what it can allocate between two checks, this stays
/// below 500 MB.
const MOST_MEMORY: u64 = 440_000_000;
/// How long it may use a processor. Without optimisation, everything takes ten times as long.
const MOST_TIME: Duration = Duration::from_millis(if cfg!(debug_assertions) {
    48_000
} else {
    4_800
});
/// The time between two checks.
const PAUSE: Duration = Duration::from_millis(5);

/// Watches the process from now on, and ends it with an error when it uses too much to read `file`.
pub fn hold(file: String) {
    thread::spawn(move || {
        loop {
            if let Some(excess) = excess(clock::process_cpu_time(), memory()) {
                eprintln!("natbpf: {file}: takes more than {excess} to read; import it in parts");
                process::exit(1);
            }
            thread::sleep(PAUSE);
        }
    });
}

/// The resource that is exceeded.
fn excess(time: Duration, memory: u64) -> Option<&'static str> {
    if memory > MOST_MEMORY {
        return Some("500 MB of memory");
    }
    (time > MOST_TIME).then_some("5 s of processor time")
}

/// The memory that the process has, in bytes.
fn memory() -> u64 {
    // Second of the fields of proc_pid_statm(5). Without /proc, only the limits on counts apply.
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let resident = text.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    let page = sysconf(SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .unwrap_or(4096);
    resident.unwrap_or(0) * page as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excess_time_and_memory_have_separate_errors() {
        let enough = Duration::from_secs(1);
        assert_eq!(excess(enough, MOST_MEMORY), None);
        assert_eq!(excess(enough, MOST_MEMORY + 1), Some("500 MB of memory"));
        let time = Some("5 s of processor time");
        assert_eq!(excess(MOST_TIME + enough, 0), time);
    }

    #[test]
    fn memory_counts_the_resident_size_of_the_process() {
        let before = memory();
        let much = vec![1_u8; 100_000_000];
        assert!(memory() >= before + 90_000_000, "{before}");
        assert_eq!(much[much.len() - 1], 1);
    }
}
