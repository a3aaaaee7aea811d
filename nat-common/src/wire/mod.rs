//! Bytes as they stand in a packet: numbers, flags, checksums. Nothing here knows a table.

pub mod address;
pub mod checksum;
pub mod icmp;
pub mod offload;
pub mod packet;
pub mod protocol;
pub mod tcp;
pub mod unreachable;
