//! Interfaces that are still those of a change.

use anyhow::{Context as _, Result, bail};
use nat_sys::netlink::{Link, Netlink};

/// The name of an interface's bridge.
pub(super) async fn master_of(netlink: &Netlink, link: &Link) -> Result<Option<String>> {
    let Some(index) = link.master else {
        return Ok(None);
    };
    let master = netlink.link_at(index).await?;
    Ok(master.map(|master| master.name))
}

pub(super) async fn find(netlink: &Netlink, name: &str) -> Result<Link> {
    let link = netlink.link(name).await?;
    link.with_context(|| format!("interface {name} has vanished"))
}

pub(super) async fn find_same(netlink: &Netlink, name: &str, ifindex: u32) -> Result<Link> {
    let link = find(netlink, name).await?;
    if link.index != ifindex {
        bail!("interface {name} was deleted and recreated in the meantime");
    }
    Ok(link)
}

/// The interface, if it is still the one of that index.
pub(super) async fn same(netlink: &Netlink, name: &str, ifindex: u32) -> Result<Option<Link>> {
    let link = netlink.link(name).await?;
    Ok(link.filter(|link| link.index == ifindex))
}
