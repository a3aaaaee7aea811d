//! The headers of one packet, parsed once. This layer knows no table.

pub mod dhcp;
pub mod neighbour;
pub mod offloads;
pub mod parsed;
pub mod quoted;
