//! NAT64 on bytes: what goes in, and byte for byte what must come out (RFC 7915).

#[path = "nat64/errors.rs"]
mod errors;
#[path = "nat64/packets.rs"]
mod packets;
#[path = "nat64/whole.rs"]
mod whole;
