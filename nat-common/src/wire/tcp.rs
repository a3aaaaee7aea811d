//! Flags of a TCP header (RFC 9293 section 3.1).

/// FIN flag of byte 13 of the header.
pub const FIN: u8 = 0x01;

/// SYN flag.
pub const SYN: u8 = 0x02;

/// RST flag.
pub const RST: u8 = 0x04;

/// ACK flag.
pub const ACK: u8 = 0x10;
