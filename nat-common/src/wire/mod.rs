//! Bytes of a packet: numbers, flags, checksums. This layer knows no table.

pub mod address;
pub mod checksum;
pub mod icmp;
pub mod offload;
pub mod packet;
pub mod protocol;
pub mod tcp;
pub mod unreachable;
pub mod unreachable_ipv6;
