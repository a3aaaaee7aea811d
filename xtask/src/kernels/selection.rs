//! Which tests run on older kernels.

use std::fmt::Write as _;

use super::guest::DONE;
use super::image::TEST_PROGRAMS;

/// Tests that are left out there, by a part of their names.
///
/// Without hardware virtualisation a processor is a tenth as fast: figures of time say nothing.
const LEFT_OUT: &[&str] = &[
    // Measures time, with a million sessions.
    "a_pass_over_a_million_sessions_costs_at_most_150_ms",
];

/// What a test that is chosen for every time has in its name: with these, every hook, every way of
/// attaching and every kind of taking over is tried once at least.
const CHOSEN: &[&str] = &[];

/// What the guest runs: the test programs, one after the other.
pub(super) fn script(all: bool, filters: &[String]) -> String {
    let mut script = "export NATBPF_BIN=/usr/bin/natbpf\n".to_owned();
    for program in TEST_PROGRAMS {
        script += program;
        let chosen = CHOSEN.iter().map(|name| (*name).to_owned());
        let chosen: Vec<String> = match (filters, all) {
            ([], false) => chosen.collect(),
            _ => filters.to_vec(),
        };
        for filter in chosen {
            let _ = write!(script, " '{filter}'");
        }
        for name in LEFT_OUT {
            let _ = write!(script, " --skip {name}");
        }
        script += " --test-threads=2\n";
    }
    let _ = writeln!(script, "echo \"{DONE}\"");
    script
}
