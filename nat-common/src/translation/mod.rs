//! Writing a translation into a packet.

pub mod icmp_error;
pub mod mss;
pub mod rewrite;
