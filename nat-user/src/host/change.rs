//! One change to the host: how to make it and how to undo it.
//!
//! A change is plain data and is written to the [journal](super::journal) before it is made.
//! Undoing a change that was never made, or that other software has undone, does nothing. Undoing a
//! change whose object has another value by now leaves it unchanged.

use std::fmt;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail};
use ipnet::Ipv4Net;
use nat_sys::netlink::{Kind, Link, Netlink};
use nat_sys::sysctl::{self, Key};
use serde::{Deserialize, Serialize};

/// A change to the host. Interfaces are identified by name and index, so a recreated interface is
/// not mistaken for the changed one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Change {
    /// A kernel setting.
    Sysctl {
        /// The setting.
        key: Key,
        /// Its value before natbpf first set it.
        before: String,
        /// The value that natbpf set.
        set: String,
        /// What the kernel changes along with it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        followers: Vec<Follower>,
        /// Whether `down` leaves it set, because other software may rely on it.
        #[serde(default, skip_serializing_if = "is_false")]
        stays: bool,
    },
    /// A bridge that natbpf created.
    Bridge {
        /// Its name.
        name: String,
        /// Its Ethernet address, chosen at random. It identifies the bridge as ours if the daemon
        /// was killed before it learned the index.
        mac: [u8; 6],
        /// Its index, once it exists.
        ifindex: Option<u32>,
    },
    /// An address that natbpf added to an interface.
    Address {
        /// The interface.
        interface: String,
        /// The interface's index.
        ifindex: u32,
        /// The address and the length of its prefix.
        #[serde(with = "net_as_text")]
        address: Ipv4Net,
    },
    /// A route to guests that hold public addresses themselves.
    Route {
        /// Their addresses.
        #[serde(with = "net_as_text")]
        prefix: Ipv4Net,
        /// The interface behind which they are.
        interface: String,
        /// The interface's index.
        ifindex: u32,
        /// The source address of the host's own packets to them.
        source: Option<Ipv4Addr>,
    },
    /// An address for which the host answers ARP on behalf of a routed guest.
    ArpProxy {
        /// The address.
        address: Ipv4Addr,
        /// The interface on which it answers.
        interface: String,
        /// The interface's index.
        ifindex: u32,
    },
    /// An interface that natbpf attached to a bridge.
    Port {
        /// The interface.
        port: String,
        /// The interface's index.
        ifindex: u32,
        /// The bridge.
        bridge: String,
        /// Its bridge before natbpf first attached it.
        previous: Option<String>,
        /// Whether it is isolated from the bridge's other isolated ports.
        #[serde(default, skip_serializing_if = "is_false")]
        isolated: bool,
    },
    /// An interface that natbpf set up.
    LinkUp {
        /// The interface.
        name: String,
        /// The interface's index.
        ifindex: u32,
        /// Its bridge then. If it is in another bridge now, that one needs it up.
        master: Option<String>,
    },
}

/// A setting that changes with another one: writing `ip_forward` sets `forwarding` of every
/// interface and `accept_redirects` (`inet_forward_change()` in `net/ipv4/devinet.c`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Follower {
    /// The setting.
    pub key: Key,
    /// Its value before.
    pub before: String,
    /// The value that the kernel gives it.
    pub becomes: String,
}

/// The result of undoing a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undone {
    /// It is undone; the text says how.
    Done(String),
    /// There was nothing to undo: it was never made, or is gone.
    Nothing,
    /// Other software has changed it since, so it is left unchanged; the text says what is there.
    LeftAlone(String),
}

impl Change {
    /// A kernel setting that is restored in the end.
    pub(super) fn sysctl(key: Key, before: String, set: &str) -> Self {
        Self::Sysctl {
            key,
            before,
            set: set.to_owned(),
            followers: Vec::new(),
            stays: false,
        }
    }

    /// A kernel setting that stays.
    pub(super) fn staying_sysctl(key: Key, before: String, set: &str) -> Self {
        Self::Sysctl {
            key,
            before,
            set: set.to_owned(),
            followers: Vec::new(),
            stays: true,
        }
    }

    /// The address that was added, if one was.
    #[must_use]
    pub fn added_address(&self) -> Option<Ipv4Addr> {
        match self {
            Self::Address { address, .. } => Some(address.addr()),
            _ => None,
        }
    }

    /// What `conf/INTERFACE/forwarding` was before natbpf first set it, as far as this change
    /// tells: by itself, or by `ip_forward`. An interface that came later has what `default` had.
    pub(super) fn forwarding_before(&self, wanted: &Key) -> Option<&str> {
        let Self::Sysctl {
            key,
            before,
            followers,
            ..
        } = self
        else {
            return None;
        };
        if key == wanted {
            return Some(before);
        }
        let of = |name: &Key| followers.iter().find(|follower| follower.key == *name);
        let default = Key::ipv4_conf("default", "forwarding").ok();
        let follower = of(wanted).or_else(|| default.as_ref().and_then(of))?;
        Some(&follower.before)
    }

    /// Whether both concern the same object, so that the later one replaces the earlier one in the
    /// journal.
    #[must_use]
    pub fn same_object(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Sysctl { key: a, .. }, Self::Sysctl { key: b, .. }) => a == b,
            (Self::Bridge { name: a, .. }, Self::Bridge { name: b, .. })
            | (Self::Port { port: a, .. }, Self::Port { port: b, .. })
            | (Self::LinkUp { name: a, .. }, Self::LinkUp { name: b, .. }) => a == b,
            (
                Self::Address {
                    interface: a,
                    address: x,
                    ..
                },
                Self::Address {
                    interface: b,
                    address: y,
                    ..
                },
            ) => (a, x) == (b, y),
            // There is one route to a prefix: a later one replaces it.
            (Self::Route { prefix: a, .. }, Self::Route { prefix: b, .. }) => a == b,
            (
                Self::ArpProxy {
                    interface: a,
                    address: x,
                    ..
                },
                Self::ArpProxy {
                    interface: b,
                    address: y,
                    ..
                },
            ) => (a, x) == (b, y),
            _ => false,
        }
    }

    /// Merges this change with an earlier one of the same object: the original value is that of the
    /// earlier one.
    pub(super) fn follow(&mut self, earlier: &Self) {
        match (self, earlier) {
            (
                Self::Sysctl {
                    before, followers, ..
                },
                Self::Sysctl {
                    before: first,
                    followers: first_followers,
                    ..
                },
            ) => {
                before.clone_from(first);
                followers.clone_from(first_followers);
            }
            (
                Self::Port {
                    previous, ifindex, ..
                },
                Self::Port {
                    previous: first,
                    ifindex: same,
                    ..
                },
            )
            | (
                Self::LinkUp {
                    master: previous,
                    ifindex,
                    ..
                },
                Self::LinkUp {
                    master: first,
                    ifindex: same,
                    ..
                },
            ) if ifindex == same => previous.clone_from(first),
            _ => {}
        }
    }

    /// Whether what an earlier run changed is still the same object, among these interfaces.
    pub(super) fn is_about(&self, links: &[Link]) -> bool {
        let is_there = |name: &str, ifindex: u32| {
            (links.iter()).any(|link| link.name == name && link.index == ifindex)
        };
        match self {
            Self::Sysctl { .. } => true,
            Self::Bridge { .. } => links.iter().any(|link| self.made(link)),
            Self::Address {
                interface: name,
                ifindex,
                ..
            }
            | Self::Route {
                interface: name,
                ifindex,
                ..
            }
            | Self::ArpProxy {
                interface: name,
                ifindex,
                ..
            }
            | Self::Port {
                port: name,
                ifindex,
                ..
            }
            | Self::LinkUp { name, ifindex, .. } => is_there(name, *ifindex),
        }
    }

    /// Whether an interface is the bridge that this change made, under whatever name.
    pub(super) fn made(&self, link: &Link) -> bool {
        match self {
            Self::Bridge { mac, ifindex, .. } => {
                link.kind == Kind::Bridge
                    && match ifindex {
                        Some(index) => link.index == *index,
                        None => link.mac == Some(*mac),
                    }
            }
            _ => false,
        }
    }

    /// Whether this change is gone when that bridge is deleted. An entry for a bridge with an
    /// unknown index is the only one.
    pub(super) fn goes_with(&self, bridge: &Self) -> bool {
        let Self::Bridge {
            name,
            ifindex: Some(bridge),
            ..
        } = bridge
        else {
            return false;
        };
        match self {
            Self::Sysctl { key, .. } => key.is_of_interface(name),
            Self::Address { ifindex, .. }
            | Self::Route { ifindex, .. }
            | Self::ArpProxy { ifindex, .. }
            | Self::LinkUp { ifindex, .. } => ifindex == bridge,
            Self::Bridge { .. } | Self::Port { .. } => false,
        }
    }

    /// Makes the change. For a bridge it fills in the index.
    pub(super) async fn make(&mut self, netlink: &Netlink) -> Result<()> {
        match self {
            Self::Sysctl { key, set, .. } => key.write(set)?,
            Self::Bridge { name, mac, ifindex } => {
                netlink.create_bridge(name, *mac).await?;
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
            } => {
                let link = find_same(netlink, interface, *ifindex).await?;
                netlink.put_route(&link, *prefix, *source).await?;
            }
            Self::ArpProxy {
                address,
                interface,
                ifindex,
            } => {
                let link = find_same(netlink, interface, *ifindex).await?;
                netlink.add_arp_proxy(&link, *address).await?;
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
    pub(super) async fn undo(&self, netlink: &Netlink) -> Result<Undone> {
        match self {
            Self::Sysctl {
                key,
                before,
                set,
                followers,
                stays,
            } => undo_sysctl(key, before, set, followers, *stays || key.is_ip_forward()),
            Self::Bridge { .. } => self.undo_bridge(netlink).await,
            Self::Address {
                interface,
                ifindex,
                address,
            } => undo_address(netlink, (interface, *ifindex), *address).await,
            Self::Route {
                prefix,
                interface,
                ifindex,
                ..
            } => undo_route(netlink, (interface, *ifindex), *prefix).await,
            Self::ArpProxy {
                address,
                interface,
                ifindex,
            } => undo_arp_proxy(netlink, (interface, *ifindex), *address).await,
            Self::Port {
                port,
                ifindex,
                bridge,
                previous,
                ..
            } => undo_port(netlink, (port, *ifindex), bridge, previous.as_deref()).await,
            Self::LinkUp {
                name,
                ifindex,
                master,
            } => undo_link_up(netlink, (name, *ifindex), master.as_deref()).await,
        }
    }

    /// Undoes the creation of several bridges, at once if possible. Returns the outcomes in the
    /// same order.
    pub(super) async fn undo_bridges(
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
        Ok(Undone::Done(format!("deleted bridge {}", link.name)))
    }
}

/// Describes the change for logs: `added 172.22.161.254/24 to vmbr1`.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sysctl {
                key, before, set, ..
            } => write!(f, "set {key} to {set} (was {before})"),
            Self::Bridge { name, .. } => write!(f, "created bridge {name}"),
            Self::Address {
                interface, address, ..
            } => write!(f, "added {address} to {interface}"),
            Self::Route {
                prefix, interface, ..
            } => write!(f, "routed {prefix} to {interface}"),
            Self::ArpProxy {
                address, interface, ..
            } => write!(f, "answered ARP for {address} on {interface}"),
            Self::Port { port, bridge, .. } => write!(f, "attached {port} to {bridge}"),
            Self::LinkUp { name, .. } => write!(f, "set {name} up"),
        }
    }
}

// The signature is serde's.
#[expect(clippy::trivially_copy_pass_by_ref)]
fn is_false(value: &bool) -> bool {
    !value
}

fn undo_sysctl(
    key: &Key,
    before: &str,
    set: &str,
    followers: &[Follower],
    stays: bool,
) -> Result<Undone> {
    match key.read()? {
        None => return Ok(Undone::Nothing),
        Some(now) if now == before => return Ok(Undone::Nothing),
        Some(now) if now == set && stays => {
            return Ok(Undone::LeftAlone(format!(
                "{key} stays {set} (it was {before}): other software may rely on it; \
                 sysctl -w {key}={before} sets it back"
            )));
        }
        Some(now) if now != set => {
            return Ok(Undone::LeftAlone(format!(
                "{key} is {now}, not {set} as natbpf set it: left as it is"
            )));
        }
        Some(_) => {}
    }
    // A value that other software has set for a follower since then is kept, although the kernel
    // changes it again now.
    let mut wanted = Vec::new();
    for follower in followers {
        match follower.key.read()? {
            Some(now) if now == follower.becomes => {
                wanted.push((&follower.key, follower.before.clone()));
            }
            Some(now) => wanted.push((&follower.key, now)),
            None => {}
        }
    }
    key.write(before)?;
    for (follower, value) in wanted {
        if follower.read()?.is_some_and(|now| now != value) {
            follower.write(&value)?;
        }
    }
    Ok(Undone::Done(format!("set {key} back to {before}")))
}

async fn undo_address(
    netlink: &Netlink,
    (interface, ifindex): (&str, u32),
    address: Ipv4Net,
) -> Result<Undone> {
    let Some(link) = same(netlink, interface, ifindex).await? else {
        return Ok(Undone::Nothing);
    };
    let present = netlink.addresses_of(ifindex).await?;
    let Some(ours) = present.iter().find(|present| present.net == address) else {
        return Ok(Undone::Nothing);
    };
    let others_hang_on_it = !ours.secondary
        && (present.iter()).any(|other| {
            other.secondary
                && other.net.prefix_len() == address.prefix_len()
                && other.net.network() == address.network()
        });
    if others_hang_on_it {
        let key = Key::ipv4_conf(interface, "promote_secondaries")?;
        with_setting(&key, "1", netlink.delete_address(&link, address)).await?;
    } else {
        netlink.delete_address(&link, address).await?;
    }
    Ok(Undone::Done(format!("removed {address} from {interface}")))
}

async fn undo_route(
    netlink: &Netlink,
    (interface, ifindex): (&str, u32),
    prefix: Ipv4Net,
) -> Result<Undone> {
    let Some(link) = same(netlink, interface, ifindex).await? else {
        return Ok(Undone::Nothing);
    };
    Ok(match netlink.delete_route(&link, prefix).await? {
        true => Undone::Done(format!("removed the route of {prefix} to {interface}")),
        false => Undone::Nothing,
    })
}

async fn undo_arp_proxy(
    netlink: &Netlink,
    (interface, ifindex): (&str, u32),
    address: Ipv4Addr,
) -> Result<Undone> {
    let Some(link) = same(netlink, interface, ifindex).await? else {
        return Ok(Undone::Nothing);
    };
    Ok(match netlink.delete_arp_proxy(&link, address).await? {
        true => Undone::Done(format!(
            "stopped answering ARP for {address} on {interface}"
        )),
        false => Undone::Nothing,
    })
}

/// Runs `work` while a setting has another value than usual.
async fn with_setting<E>(
    key: &Key,
    value: &str,
    action: impl Future<Output = Result<(), E>>,
) -> Result<()>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let usual = key.read()?.unwrap_or_default();
    key.write(value)?;
    let result = action.await;
    key.write(&usual)?;
    Ok(result?)
}

async fn undo_port(
    netlink: &Netlink,
    (port, ifindex): (&str, u32),
    bridge: &str,
    previous: Option<&str>,
) -> Result<Undone> {
    let Some(link) = same(netlink, port, ifindex).await? else {
        return Ok(Undone::Nothing);
    };
    let master = master_of(netlink, &link).await?;
    match master.as_deref() {
        None => return Ok(Undone::Nothing),
        now if now == previous => return Ok(Undone::Nothing),
        Some(now) if now != bridge => {
            return Ok(Undone::LeftAlone(format!(
                "{port} is in {now}, not in {bridge} to which natbpf attached it: left there"
            )));
        }
        Some(_) => {}
    }
    if let Some(previous) = previous
        && let Some(previous) = netlink.link(previous).await?
    {
        netlink.attach(&link, &previous).await?;
        let back = format!("moved {port} back to {}", previous.name);
        return Ok(Undone::Done(back));
    }
    netlink.release(&link).await?;
    Ok(Undone::Done(format!("released {port} from {bridge}")))
}

async fn undo_link_up(
    netlink: &Netlink,
    (name, ifindex): (&str, u32),
    master: Option<&str>,
) -> Result<Undone> {
    let Some(link) = same(netlink, name, ifindex).await?.filter(|link| link.up) else {
        return Ok(Undone::Nothing);
    };
    match master_of(netlink, &link).await? {
        Some(now) if Some(now.as_str()) != master => Ok(Undone::LeftAlone(format!(
            "{name} is in {now} now: left up"
        ))),
        _ => {
            netlink.set_down(&link).await?;
            Ok(Undone::Done(format!("set {name} down again")))
        }
    }
}

/// The name of an interface's bridge.
async fn master_of(netlink: &Netlink, link: &Link) -> Result<Option<String>> {
    let Some(index) = link.master else {
        return Ok(None);
    };
    let master = netlink.link_at(index).await?;
    Ok(master.map(|master| master.name))
}

async fn find(netlink: &Netlink, name: &str) -> Result<Link> {
    let link = netlink.link(name).await?;
    link.with_context(|| format!("interface {name} has vanished"))
}

async fn find_same(netlink: &Netlink, name: &str, ifindex: u32) -> Result<Link> {
    let link = find(netlink, name).await?;
    if link.index != ifindex {
        bail!("interface {name} was deleted and recreated in the meantime");
    }
    Ok(link)
}

/// The interface, if it is still the one of that index.
async fn same(netlink: &Netlink, name: &str, ifindex: u32) -> Result<Option<Link>> {
    let link = netlink.link(name).await?;
    Ok(link.filter(|link| link.index == ifindex))
}

/// Makes the host ignore IPv6 router advertisements from the guests of a new bridge: one of them
/// would become its gateway.
fn deafen(bridge: &str) -> Result<()> {
    let key = Key::new(&["net", "ipv6", "conf", bridge, "accept_ra"])?;
    match key.read()? {
        Some(_) => key.write("0"),
        None => Ok(()),
    }
}

/// The change that sets `ip_forward`, which is 0, with all that the kernel changes along with it.
///
/// # Errors
/// When a setting cannot be read.
pub(super) fn forwarding_on(key: Key, before: String) -> Result<Change> {
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
    // `all/forwarding` is ip_forward itself under another name.
    for name in sysctl::ipv4_conf_names()? {
        if name != "all" {
            follow(Key::ipv4_conf(&name, "forwarding")?, "1")?;
        }
    }
    follow(Key::ipv4_conf("all", "accept_redirects")?, "0")?;
    Ok(Change::Sysctl {
        key,
        before,
        set: "1".to_owned(),
        followers,
        stays: true,
    })
}

/// `172.22.161.254/24`, host part kept.
mod net_as_text {
    use ipnet::Ipv4Net;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(
        net: &Ipv4Net,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(net)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Ipv4Net, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}
