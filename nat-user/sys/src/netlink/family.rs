//! Address families: IPv4, IPv6, or both at once.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_route::AddressFamily;

/// An address of one family, or (`IpAddr`) of either.
pub trait Family: Copy + Ord + fmt::Debug + fmt::Display + Into<IpAddr> {
    /// An address with the length of its prefix.
    type Net: Copy + Ord + fmt::Debug + fmt::Display + Into<IpNet>;

    /// The families to query.
    const FAMILIES: &'static [AddressFamily];

    /// The address, if it is of this family.
    fn of(address: IpAddr) -> Option<Self>;

    /// The address with a prefix, if that is not too long.
    fn net(self, prefix_len: u8) -> Option<Self::Net>;
}

impl Family for Ipv4Addr {
    type Net = Ipv4Net;

    const FAMILIES: &'static [AddressFamily] = &[AddressFamily::Inet];

    fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        }
    }

    fn net(self, prefix_len: u8) -> Option<Ipv4Net> {
        Ipv4Net::new(self, prefix_len).ok()
    }
}

impl Family for Ipv6Addr {
    type Net = Ipv6Net;

    const FAMILIES: &'static [AddressFamily] = &[AddressFamily::Inet6];

    fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V6(address) => Some(address),
            IpAddr::V4(_) => None,
        }
    }

    fn net(self, prefix_len: u8) -> Option<Ipv6Net> {
        Ipv6Net::new(self, prefix_len).ok()
    }
}

impl Family for IpAddr {
    type Net = IpNet;

    const FAMILIES: &'static [AddressFamily] = &[AddressFamily::Inet, AddressFamily::Inet6];

    fn of(address: IpAddr) -> Option<Self> {
        Some(address)
    }

    fn net(self, prefix_len: u8) -> Option<IpNet> {
        IpNet::new(self, prefix_len).ok()
    }
}

/// The family of an address.
pub(super) fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}
