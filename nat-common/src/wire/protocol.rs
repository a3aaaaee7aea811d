//! Numbers of IP protocols.

use network_types::ip::IpProto;

/// IP protocol number of ICMP.
pub const ICMP: u8 = IpProto::Icmp as u8;

/// IP protocol number of TCP.
pub const TCP: u8 = IpProto::Tcp as u8;

/// IP protocol number of UDP.
pub const UDP: u8 = IpProto::Udp as u8;

/// Whether later fragments need the first one: protocols without ports do not.
#[inline(always)]
pub const fn needs_first(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP | ICMP)
}

pub(crate) const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP | ICMP)
}
