//! Packets through the loaded programs, by `BPF_PROG_TEST_RUN`: packet in, packet out, verdict.
//!
//! They need root: the kernel loads programs only for root. Each test has its own maps.

mod programs {
    mod budget;
    mod carry;
    mod expiry;
    mod harness;
    mod ipv6;
    mod nat64;
    mod neighbours;
    mod stack;
    mod table;
    mod vectors;
    mod xdp;
}
