//! Types of ICMP messages (RFC 792, RFC 4443).

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
