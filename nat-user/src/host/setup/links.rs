//! Interfaces, addresses and routes of the host.

use std::net::IpAddr;

use nat_sys::netlink::{Address, Link, LinkRoute};

/// An address of either family.
pub(super) type Held = Address<IpAddr>;

/// A route of either family.
pub(super) type Routed = LinkRoute<IpAddr>;

pub(super) fn named<'l>(links: &'l [Link], name: &str) -> Option<&'l Link> {
    links.iter().find(|link| link.name == name)
}

pub(super) fn master_name(link: &Link, links: &[Link]) -> Option<String> {
    let master = links
        .iter()
        .find(|master| Some(master.index) == link.master);
    master.map(|master| master.name.clone())
}
