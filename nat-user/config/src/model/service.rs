//! `[network.NAME.dhcp]`, `[network.NAME.ra]` and `[network.NAME.dns]`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `[network.NAME.dhcp]` for IPv4.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dhcp {
    /// The lowest address that is leased; all addresses of the range are in the network, and none
    /// is the host's or the gateway's.
    pub first: Ipv4Addr,
    /// The highest one, itself included.
    pub last: Ipv4Addr,
    /// For how long an address is leased, in seconds.
    pub lease_time_s: u32,
    /// The gateway that guests receive.
    pub gateway: Ipv4Addr,
    /// The name servers that guests receive.
    pub dns: Vec<Ipv4Addr>,
    /// The domain that guests receive and in which their names are.
    pub domain: Option<String>,
}

/// `[network.NAME.dhcp]` for IPv6.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dhcp6 {
    /// The lowest address that is leased, or the part behind each prefix of the network. No address
    /// of the range is the host's.
    pub first: Ipv6Addr,
    /// The highest one, itself included.
    pub last: Ipv6Addr,
    /// For how long an address is leased, in seconds.
    pub lease_time_s: u32,
    /// The domain in which guests' names are.
    pub domain: Option<String>,
}

impl Dhcp6 {
    /// Whether the range is of the part behind the prefixes.
    #[must_use]
    pub fn is_of_suffixes(&self) -> bool {
        self.first.segments()[..4] == [0; 4]
    }
}

/// `[network.NAME.ra]`: what routers say to guests (RFC 4861, RFC 8106).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ra {
    /// How guests get their addresses.
    pub mode: RaMode,
    /// The name servers that guests receive; `None` is the host itself.
    pub dns: Option<Vec<Ipv6Addr>>,
    /// The domain in which guests look up names.
    pub domain: Option<String>,
    /// The largest packet on the link, in bytes; `None` is that of the interface.
    pub mtu: Option<u32>,
    /// For how long the host is a default router, in seconds; 0 if it is none.
    pub lifetime_s: u32,
    /// Compared with other routers of the link (RFC 4191).
    pub preference: Preference,
}

/// How guests get their IPv6 addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RaMode {
    /// They choose them (RFC 4862).
    Slaac,
    /// The same, and DHCPv6 says the rest.
    Stateless,
    /// By DHCPv6.
    Managed,
    /// The host is silent: another router of the link speaks.
    Off,
}

/// A router's preference (RFC 4191).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preference {
    /// Below others.
    Low,
    /// As others.
    Medium,
    /// Above others.
    High,
}

/// `[network.NAME.dns]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// Servers for names that are not guests'.
    pub forwarders: Forwarders,
    /// Whether these may answer with private addresses.
    pub private_answers: bool,
    /// Whether names that have IPv4 addresses alone also get addresses of NAT64's prefix (RFC
    /// 6147).
    pub dns64: bool,
}

/// Servers for names that are not guests'.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Forwarders {
    /// Those in the host's `/etc/resolv.conf`, as it changes.
    Host,
    /// Exactly these; none if the list is empty.
    Fixed(Vec<IpAddr>),
}
