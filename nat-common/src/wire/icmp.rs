//! Types of ICMP messages (RFC 792).

use crate::wire::address::Port;

/// What an ICMP type is to a NAT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IcmpClass {
    /// A query.
    Request,
    /// An answer to a query.
    Reply,
    /// An error about another packet.
    Error,
    /// For one link only, or obsolete.
    Other,
}

/// Sorts the ICMP types (RFC 792, RFC 950, RFC 5508).
#[inline(always)]
#[must_use]
pub const fn classify(icmp_type: u8) -> IcmpClass {
    match icmp_type {
        8 | 13 | 15 | 17 => IcmpClass::Request,
        0 | 14 | 16 | 18 => IcmpClass::Reply,
        3 | 11 | 12 => IcmpClass::Error,
        _ => IcmpClass::Other,
    }
}

/// The kind of an ICMP query. It replaces the server's port, as the identifier replaces the
/// client's port. It is the type of the query, also for its answer. Other messages have 0 on both
/// sides, so that none is mistaken for an answer.
#[inline(always)]
#[must_use]
pub const fn service(icmp_type: u8) -> Port {
    const ECHO: u8 = 8;
    Port::new(match icmp_type {
        0 => ECHO as u16,
        // Timestamp, information, address mask: the answer's type comes after the query's.
        14 | 16 | 18 => icmp_type as u16 - 1,
        query => query as u16,
    })
}
