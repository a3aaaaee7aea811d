//! One change to the host: how to make it and how to undo it.
//!
//! A change is plain data and is written to the [journal](super::journal) before it is made.
//! Undoing a change that was never made, or that other software has undone, does nothing. Undoing a
//! change whose object has another value by now leaves it unchanged.

pub(super) mod make;
mod present;
mod undo;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use nat_sys::{
    netlink::{Kind, Link},
    sysctl::Key,
};
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
        /// Whether it is NAT64's device instead, one end of a pair.
        #[serde(default, skip_serializing_if = "is_false")]
        nat64: bool,
    },
    /// An address that natbpf added to an interface.
    Address {
        /// The interface.
        interface: String,
        /// The interface's index.
        ifindex: u32,
        /// The address and the length of its prefix.
        #[serde(with = "net_as_text")]
        address: IpNet,
    },
    /// A route to guests that hold public addresses themselves.
    Route {
        /// Their addresses.
        #[serde(with = "net_as_text")]
        prefix: IpNet,
        /// The interface behind which they are.
        interface: String,
        /// The interface's index.
        ifindex: u32,
        /// The source address of the host's own packets to them.
        source: Option<IpAddr>,
        /// Its metric, if it is not the usual one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        metric: Option<u32>,
    },
    /// An address for which the host answers ARP on behalf of a routed guest. Of an IPv6 address,
    /// the kernel joins the group to which its solicitations go.
    #[serde(rename = "arp-proxy")]
    Proxy {
        /// The address.
        address: IpAddr,
        /// The interface on which it answers.
        interface: String,
        /// The interface's index.
        ifindex: u32,
    },
    /// An interface that takes frames to all groups: solicitations of any guest behind it.
    AllGroups {
        /// The interface.
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
/// interface and `accept_redirects` (`inet_forward_change()` in `net/ipv4/devinet.c`), and IPv6's
/// `all/forwarding` sets that of every interface (`addrconf_fixup_forwarding()` in
/// `net/ipv6/addrconf.c`).
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

    /// The IPv4 address that was added, if one was.
    #[must_use]
    pub fn added_address(&self) -> Option<Ipv4Addr> {
        match self {
            Self::Address {
                address: IpNet::V4(address),
                ..
            } => Some(address.addr()),
            _ => None,
        }
    }

    /// The IPv6 address that was added, if one was.
    #[must_use]
    pub fn added_ipv6_address(&self) -> Option<Ipv6Addr> {
        match self {
            Self::Address {
                address: IpNet::V6(address),
                ..
            } => Some(address.addr()),
            _ => None,
        }
    }

    /// What `conf/INTERFACE/forwarding` was before natbpf first set it, as far as this change
    /// tells: by itself, or by that of all interfaces. An interface that came later has what
    /// `default` had.
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
        let is_same_family = key.is_ipv6_forward() == wanted.is_ipv6();
        let default = match key.is_ipv6_forward() {
            true => Key::ipv6_conf("default", "forwarding"),
            false => Key::ipv4_conf("default", "forwarding"),
        };
        let default = default.ok().filter(|_| is_same_family);
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
            | (Self::LinkUp { name: a, .. }, Self::LinkUp { name: b, .. })
            | (Self::AllGroups { interface: a, .. }, Self::AllGroups { interface: b, .. }) => {
                a == b
            }
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
            // There is one route of a metric to a prefix: a later one replaces it.
            (
                Self::Route {
                    prefix: a,
                    metric: x,
                    ..
                },
                Self::Route {
                    prefix: b,
                    metric: y,
                    ..
                },
            ) => (a, x) == (b, y),
            (
                Self::Proxy {
                    interface: a,
                    address: x,
                    ..
                },
                Self::Proxy {
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
            | Self::Proxy {
                interface: name,
                ifindex,
                ..
            }
            | Self::AllGroups {
                interface: name,
                ifindex,
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
            Self::Bridge {
                mac,
                ifindex,
                nat64,
                ..
            } => {
                (link.kind == Kind::Bridge) != *nat64
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
            | Self::Proxy { ifindex, .. }
            | Self::AllGroups { ifindex, .. }
            | Self::LinkUp { ifindex, .. } => ifindex == bridge,
            Self::Bridge { .. } | Self::Port { .. } => false,
        }
    }
}

/// Describes the change for logs: `added 172.22.161.254/24 to vmbr1`.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sysctl {
                key, before, set, ..
            } => write!(f, "set {key} to {set} (was {before})"),
            Self::Bridge {
                name, nat64: true, ..
            } => write!(f, "created {name}"),
            Self::Bridge { name, .. } => write!(f, "created bridge {name}"),
            Self::Address {
                interface, address, ..
            } => write!(f, "added {address} to {interface}"),
            Self::Route {
                prefix, interface, ..
            } => write!(f, "routed {prefix} to {interface}"),
            Self::Proxy {
                address, interface, ..
            } => match address {
                IpAddr::V4(_) => write!(f, "answered ARP for {address} on {interface}"),
                IpAddr::V6(_) => write!(f, "heard solicitations of {address} on {interface}"),
            },
            Self::AllGroups { interface, .. } => {
                write!(f, "heard solicitations of all guests on {interface}")
            }
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

/// `172.22.161.254/24`, host part kept.
mod net_as_text {
    use ipnet::IpNet;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(net: &IpNet, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(net)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<IpNet, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}
