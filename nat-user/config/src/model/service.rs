//! `[network.NAME.dhcp]` and `[network.NAME.dns]`.

use std::net::Ipv4Addr;

/// `[network.NAME.dhcp]`.
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

/// `[network.NAME.dns]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// Servers for names that are not guests'.
    pub forwarders: Forwarders,
    /// Whether these may answer with private addresses.
    pub private_answers: bool,
}

/// Servers for names that are not guests'.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Forwarders {
    /// Those in the host's `/etc/resolv.conf`, as it changes.
    Host,
    /// Exactly these; none if the list is empty.
    Fixed(Vec<Ipv4Addr>),
}
