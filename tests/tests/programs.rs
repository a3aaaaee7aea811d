//! Packets through the loaded programs, by `BPF_PROG_TEST_RUN`: packet in, packet out, verdict.
//!
//! They need root: the kernel loads programs for nobody else. Each test has maps of its own.

mod programs {
    mod budget;
    mod carry;
    mod expiry;
    mod harness;
    mod table;
    mod vectors;
}
