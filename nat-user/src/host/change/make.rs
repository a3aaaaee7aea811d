//! Making a change, and undoing it.

use anyhow::Result;
use nat_sys::{
    netlink::{Kind, Link, Netlink},
    sysctl::{self, Key},
};

use super::{
    Change, Follower, Undone,
    present::{find, find_same},
    undo,
};

/// MTU of NAT64's device in bytes: what is left of Ethernet's for an IPv4 packet, whose headers may
/// be 28 bytes longer as those of IPv6.
const MTU_OF_NAT64: u32 = 1500 - 28;

impl Change {
    /// Makes the change. For a bridge it fills in the index.
    pub(in crate::host) async fn make(&mut self, netlink: &Netlink) -> Result<()> {
        match self {
            Self::Sysctl { key, set, .. } => key.write(set)?,
            Self::Bridge {
                name,
                mac,
                ifindex,
                nat64,
            } => {
                if *nat64 {
                    let peer = format!("{name}-");
                    netlink.create_pair(name, &peer, *mac, MTU_OF_NAT64).await?;
                    deafen(&peer)?;
                } else {
                    netlink.create_bridge(name, *mac).await?;
                }
                deafen(name)?;
                *ifindex = Some(find(netlink, name).await?.index);
            }
            Self::Address {
                interface,
                ifindex,
                address,
            } => {
                let link = find_same(netlink, interface, *ifindex).await?;
                netlink.add_address(&link, *address).await?;
            }
            Self::Route {
                prefix,
                interface,
                ifindex,
                source,
                metric,
            } => {
                let link = find_same(netlink, interface, *ifindex).await?;
                netlink.put_route(&link, *prefix, *source, *metric).await?;
            }
            Self::Proxy {
                address,
                interface,
                ifindex,
            } => {
                let link = find_same(netlink, interface, *ifindex).await?;
                netlink.add_proxy(&link, *address).await?;
            }
            Self::AllGroups { interface, ifindex } => {
                let link = find_same(netlink, interface, *ifindex).await?;
                netlink.take_all_groups(&link, true).await?;
            }
            Self::Port {
                port,
                ifindex,
                bridge,
                isolated,
                ..
            } => {
                let port = find_same(netlink, port, *ifindex).await?;
                let bridge = find(netlink, bridge).await?;
                netlink.attach(&port, &bridge).await?;
                if *isolated || port.port.is_some_and(|port| port.isolated) {
                    netlink.isolate(&port, *isolated).await?;
                }
            }
            Self::LinkUp { name, ifindex, .. } => {
                let link = find_same(netlink, name, *ifindex).await?;
                netlink.set_up(&link).await?;
            }
        }
        Ok(())
    }

    /// Undoes the change, if its object still has the value that natbpf gave it.
    pub(in crate::host) async fn undo(&self, netlink: &Netlink) -> Result<Undone> {
        match self {
            Self::Sysctl {
                key,
                before,
                set,
                followers,
                stays,
            } => undo::sysctl(key, before, set, followers, *stays || key.is_ip_forward()),
            Self::Bridge { .. } => self.undo_bridge(netlink).await,
            Self::Address {
                interface,
                ifindex,
                address,
            } => undo::address(netlink, (interface, *ifindex), *address).await,
            Self::Route {
                prefix,
                interface,
                ifindex,
                metric,
                ..
            } => undo::route(netlink, (interface, *ifindex), *prefix, *metric).await,
            Self::Proxy {
                address,
                interface,
                ifindex,
            } => undo::proxy(netlink, (interface, *ifindex), *address).await,
            Self::AllGroups { interface, ifindex } => {
                undo::all_groups(netlink, (interface, *ifindex)).await
            }
            Self::Port {
                port,
                ifindex,
                bridge,
                previous,
                ..
            } => undo::port(netlink, (port, *ifindex), bridge, previous.as_deref()).await,
            Self::LinkUp {
                name,
                ifindex,
                master,
            } => undo::link_up(netlink, (name, *ifindex), master.as_deref()).await,
        }
    }

    /// Undoes the creation of several bridges, at once if possible. Returns the outcomes in the
    /// same order.
    pub(in crate::host) async fn undo_bridges(
        bridges: &[&Self],
        netlink: &Netlink,
    ) -> Result<Vec<Result<Undone>>> {
        let links = netlink.links().await?;
        let made = bridges.iter().map(|bridge| {
            let link = links.iter().find(|link| bridge.made(link));
            link.cloned()
        });
        let made: Vec<Option<Link>> = made.collect();
        let present: Vec<Link> = made.iter().flatten().cloned().collect();
        if present.len() > 1 && netlink.delete_links(&present).await.is_ok() {
            let outcome = |link: Option<Link>| match link {
                Some(link) => Undone::Done(format!("deleted bridge {}", link.name)),
                None => Undone::Nothing,
            };
            return Ok(made.into_iter().map(|link| Ok(outcome(link))).collect());
        }
        let mut outcomes = Vec::new();
        for bridge in bridges {
            outcomes.push(bridge.undo(netlink).await);
        }
        Ok(outcomes)
    }

    async fn undo_bridge(&self, netlink: &Netlink) -> Result<Undone> {
        let candidates = match self {
            Self::Bridge {
                ifindex: Some(index),
                ..
            } => netlink.link_at(*index).await?.into_iter().collect(),
            _ => netlink.links().await?,
        };
        let Some(link) = candidates.iter().find(|link| self.made(link)) else {
            return Ok(Undone::Nothing);
        };
        netlink.delete_link(link).await?;
        let kind = match link.kind {
            Kind::Bridge => "bridge ",
            _ => "",
        };
        Ok(Undone::Done(format!("deleted {kind}{}", link.name)))
    }
}

/// Makes the host ignore IPv6 router advertisements from the guests of a new bridge: one of them
/// would become its gateway.
fn deafen(bridge: &str) -> Result<()> {
    let key = Key::ipv6_conf(bridge, "accept_ra")?;
    match key.read()? {
        Some(_) => key.write("0"),
        None => Ok(()),
    }
}

/// The change that sets `ip_forward` or that of IPv6, which is 0, with all that the kernel changes
/// along with it.
///
/// # Errors
/// When a setting cannot be read.
pub(in crate::host) fn forwarding_on(key: Key, before: String) -> Result<Change> {
    let mut followers = Vec::new();
    let mut follow = |key: Key, becomes: &str| -> Result<()> {
        if let Some(before) = key.read()? {
            followers.push(Follower {
                key,
                before,
                becomes: becomes.to_owned(),
            });
        }
        Ok(())
    };
    let is_ipv6 = key.is_ipv6();
    let (names, conf): (_, fn(&str, &str) -> Result<Key>) = match is_ipv6 {
        true => (sysctl::ipv6_conf_names()?, Key::ipv6_conf),
        false => (sysctl::ipv4_conf_names()?, Key::ipv4_conf),
    };
    // `all/forwarding` is the setting itself.
    for name in names.iter().filter(|name| *name != "all") {
        follow(conf(name, "forwarding")?, "1")?;
    }
    if !is_ipv6 {
        follow(Key::ipv4_conf("all", "accept_redirects")?, "0")?;
    }
    Ok(Change::Sysctl {
        key,
        before,
        set: "1".to_owned(),
        followers,
        // A host that forwards IPv6 takes no router advertisements unless natbpf lets it, which
        // ends with natbpf.
        stays: !is_ipv6,
    })
}
