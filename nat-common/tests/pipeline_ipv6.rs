//! The pipeline over IPv6 packets: what holds for both families, and what IPv6 alone has.

use kit::ipv6 as family;

#[path = "pipeline/mod.rs"]
mod pipeline;

#[path = "pipeline/ipv6/mod.rs"]
mod ipv6;
