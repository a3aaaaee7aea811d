//! The pipeline on the host: the same code as in the kernel, over a byte slice and ordinary maps.
//!
//! Packets run through the hooks in the order of a real host. Cases carry the id that they have in
//! the project's list of behaviours.

use kit::ipv4 as family;

mod pipeline {
    mod adopt;
    mod bindings;
    mod bounds;
    mod bridges;
    mod dhcp;
    mod direct;
    mod dns;
    mod errors;
    mod exits;
    mod fast;
    mod forward_sources;
    mod fragments;
    mod guests;
    mod hairpin;
    mod host;
    mod host_flows;
    mod icmp;
    mod layout;
    mod leaves;
    mod limits;
    mod local;
    mod malformed;
    mod mss;
    mod offloads;
    mod one_to_one;
    mod paged;
    mod policy;
    mod portless;
    mod races;
    mod records;
    mod references;
    mod refusals;
    mod rules;
    mod segments;
    mod shares;
    mod sides;
    mod tcp;
    mod udp;
    mod uplinks;
}
