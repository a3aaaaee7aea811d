//! IPv6: addresses, headers and what is written in them, over packets in memory.

mod addresses;
mod headers;
mod neighbours;
mod packets;
mod prefixes;
mod rewriting;
