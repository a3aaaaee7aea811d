//! Numbers of IP protocols, and the offsets of their checksums.

use network_types::ip::IpProto;

/// Offset of the checksum in a TCP header.
pub(crate) const TCP_CHECKSUM: usize = 16;

/// Offset of the checksum in a UDP header.
pub(crate) const UDP_CHECKSUM: usize = 6;

/// Offset of the checksum in an ICMP header.
pub(crate) const ICMP_CHECKSUM: usize = 2;

/// UDP-Lite and DCCP have a checksum over the pseudo-header at this offset (RFC 3828, RFC 4340).
pub(crate) const UDP_LITE: u8 = 136;

pub(crate) const DCCP: u8 = 33;

/// IP protocol number of ICMP.
pub const ICMP: u8 = IpProto::Icmp as u8;

/// IP protocol number of TCP.
pub const TCP: u8 = IpProto::Tcp as u8;

/// IP protocol number of UDP.
pub const UDP: u8 = IpProto::Udp as u8;

/// IP protocol number of ICMP for IPv6 (RFC 4443).
pub const ICMPV6: u8 = IpProto::Ipv6Icmp as u8;
