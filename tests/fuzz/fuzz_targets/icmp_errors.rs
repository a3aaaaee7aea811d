#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| invariants::run("icmp_errors", data));
