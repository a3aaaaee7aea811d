#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| invariants::run("translation_ipv6", data));
