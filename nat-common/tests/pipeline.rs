//! The pipeline on the host: the same code as in the kernel, over a byte slice and ordinary maps.
//!
//! Packets run through the hooks in the order of a real host. Cases carry the id that they have in
//! the project's list of behaviours.

mod pipeline {
    mod flows;
    mod hairpin;
    mod icmp;
    mod limits;
    mod malformed;
    mod memory;
    mod others;
    mod packets;
    mod properties;
    mod rules;
    mod tcp;
    mod udp;
    mod world;
}
