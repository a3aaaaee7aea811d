//! The pipeline on the host: the same code as in the kernel, over a byte slice and ordinary maps.
//!
//! Packets run through the hooks in the order of a real host. Cases carry the id that they have in
//! the project's list of behaviours. `pipeline` holds for both families; here it runs over IPv4
//! packets, and in `pipeline_ipv6.rs` over IPv6 packets.

use kit::ipv4 as family;

#[path = "pipeline/mod.rs"]
mod pipeline;

#[path = "pipeline/ipv4/mod.rs"]
mod ipv4;

#[path = "pipeline/any/mod.rs"]
mod any;
