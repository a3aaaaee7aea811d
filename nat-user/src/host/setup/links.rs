//! Interfaces among those of the host.

use nat_sys::netlink::Link;

pub(super) fn named<'l>(links: &'l [Link], name: &str) -> Option<&'l Link> {
    links.iter().find(|link| link.name == name)
}

pub(super) fn master_name(link: &Link, links: &[Link]) -> Option<String> {
    let master = links
        .iter()
        .find(|master| Some(master.index) == link.master);
    master.map(|master| master.name.clone())
}
