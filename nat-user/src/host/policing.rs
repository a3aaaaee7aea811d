//! What intentionally delays, drops or reorders packets at an interface: queues, traffic control
//! filters, nftables chains.
//!
//! The fast path bypasses some of it. This module only finds it; the daemon decides what follows.
//! It ignores programs attached by links (TCX), see `nat-findings`.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use anyhow::{Context as _, Result};
use nat_sys::{
    exchange::{Attributes, Exchange, attributes_of},
    netlink::Link,
};
use netlink_packet_route::tc::{TcHandle, TcHeader};
use rtnetlink::{
    packet_core::{Emitable as _, NLM_F_DUMP},
    sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE},
};

use crate::dataplane::attach;

/// Length of `struct tcmsg` and `struct nfgenmsg` in bytes.
const TC_HEADER: usize = 20;
const NFTABLES_HEADER: usize = 4;

const TCA_KIND: u16 = 1;
/// `NFT_MSG_GETCHAIN` of `NFNL_SUBSYS_NFTABLES`.
const GET_CHAIN: u16 = 10 << 8 | 4;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_USE: u16 = 6;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_DEV: u16 = 3;
const NFTA_HOOK_DEVS: u16 = 4;
/// `NF_DROP`.
const DROP: u32 = 0;

/// Which side of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// What it receives.
    Ingress,
    /// What it sends, before it is queued: filters of traffic control.
    Egress,
    /// The same: chains of netfilter, which do not see packets that traffic control has redirected
    /// from another interface.
    EgressChain,
    /// The queue of what it sends.
    Queue,
}

/// A description of what was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policing {
    /// By index of the interface.
    at: BTreeMap<(u32, Side), String>,
    /// At all ports of all bridges, by netfilter's bridge family.
    bridges: BTreeMap<Side, String>,
}

impl Policing {
    /// One thing at a side of an interface.
    #[cfg(test)]
    pub(crate) fn with(index: u32, side: Side, what: &str) -> Self {
        Self {
            at: BTreeMap::from([((index, side), what.to_owned())]),
            bridges: BTreeMap::new(),
        }
    }

    /// Looks at uplinks and networks, by index, and at the ports of those that are bridges.
    ///
    /// # Errors
    /// When the kernel does not answer as its interface says.
    pub fn look(links: &[Link], ends: &BTreeSet<u32>) -> Result<Self> {
        let is_end = |index: Option<u32>| index.is_some_and(|index| ends.contains(&index));
        let concerned = links.iter();
        let concerned = concerned.filter(|link| is_end(Some(link.index)) || is_end(link.master));
        let concerned: BTreeMap<u32, &Link> = concerned.map(|link| (link.index, link)).collect();
        let mut found = Self::default();
        found.look_at_queues(&concerned)?;
        found.look_at_chains(&concerned)?;
        Ok(found)
    }

    /// What is at a side of an interface; at a bridge's ports also what netfilter has for all of
    /// them.
    #[must_use]
    pub fn at(&self, index: u32, side: Side) -> Option<&str> {
        self.at.get(&(index, side)).map(String::as_str)
    }

    /// What netfilter's bridge family has at one side of all ports of all bridges.
    #[must_use]
    pub fn at_bridges(&self, side: Side) -> Option<&str> {
        self.bridges.get(&side).map(String::as_str)
    }

    fn look_at_queues(&mut self, concerned: &BTreeMap<u32, &Link>) -> Result<()> {
        let mut with_filters = Vec::new();
        let request = tc_request();
        dump(NETLINK_ROUTE, libc::RTM_GETQDISC, &request, |body| {
            let Some((header, kind)) = queue(body) else {
                return;
            };
            let index = header.index.cast_unsigned();
            if !concerned.contains_key(&index) {
                return;
            }
            if header.parent == TcHandle::INGRESS {
                with_filters.push(index);
            } else if header.parent == TcHandle::ROOT
                && header.handle.major != 0
                && kind != "noqueue"
            {
                // The kernel numbers only queues that were added explicitly.
                self.at
                    .insert((index, Side::Queue), format!("queue {kind}"));
            }
        })
        .context("list queues")?;
        for index in with_filters {
            for side in attach::foreign_filters(index)? {
                let side = match side {
                    aya::programs::TcAttachType::Egress => Side::Egress,
                    _ => Side::Ingress,
                };
                self.at.insert((index, side), "filter of tc".to_owned());
            }
        }
        Ok(())
    }

    fn look_at_chains(&mut self, concerned: &BTreeMap<u32, &Link>) -> Result<()> {
        let all_families = [0; NFTABLES_HEADER];
        let result = dump(NETLINK_NETFILTER, GET_CHAIN, &all_families, |body| {
            if let Some(chain) = Chain::parse(body) {
                self.note(&chain, concerned);
            }
        });
        match result {
            // A kernel without nftables, or without all of it.
            Err(error) if is_missing(&error) => Ok(()),
            result => result.context("list chains of nftables"),
        }
    }

    fn note(&mut self, chain: &Chain, concerned: &BTreeMap<u32, &Link>) {
        let Some((side, is_bridge)) = chain.side() else {
            return;
        };
        let what = format!("nftables chain {} {}", chain.table, chain.name);
        if is_bridge {
            self.bridges.insert(side, what);
            return;
        }
        for (index, link) in concerned {
            if chain.devices.iter().any(|device| device.names(&link.name)) {
                self.at.insert((*index, side), what.clone());
            }
        }
    }
}

/// A base chain that affects packets.
#[derive(Debug, PartialEq, Eq)]
struct Chain {
    family: u8,
    hook: u32,
    table: String,
    name: String,
    devices: Vec<Device>,
}

/// Interfaces as a chain names them.
#[derive(Debug, PartialEq, Eq)]
struct Device {
    name: String,
    /// Whether it is the beginning of names.
    is_prefix: bool,
}

impl Device {
    fn names(&self, interface: &str) -> bool {
        match self.is_prefix {
            true => interface.starts_with(&self.name),
            false => interface == self.name,
        }
    }
}

impl Chain {
    fn parse(body: &[u8]) -> Option<Self> {
        let family = *body.first()?;
        let attributes = attributes_of(body.get(NFTABLES_HEADER..)?);
        let hook = attributes_of(attributes.get(&NFTA_CHAIN_HOOK)?);
        let rules = number(&attributes, NFTA_CHAIN_USE).unwrap_or(1);
        if rules == 0 && number(&attributes, NFTA_CHAIN_POLICY) != Some(DROP) {
            return None;
        }
        let one = hook.get(&NFTA_HOOK_DEV).into_iter().map(|name| (1, name));
        let listed = hook.get(&NFTA_HOOK_DEVS);
        let listed: Vec<_> = listed.map(|list| list_of(list)).unwrap_or_default();
        let devices = one.chain(listed.iter().map(|(kind, name)| (*kind, name)));
        Some(Self {
            family,
            hook: number(&hook, NFTA_HOOK_HOOKNUM)?,
            table: text(attributes.get(&NFTA_CHAIN_TABLE)?),
            name: text(attributes.get(&NFTA_CHAIN_NAME)?),
            devices: devices
                .map(|(kind, name)| Device {
                    name: text(name),
                    is_prefix: kind == 2,
                })
                .collect(),
        })
    }

    /// Its side of an interface, and whether it applies to all ports of bridges. By
    /// `enum nf_dev_hooks`, `enum nf_inet_hooks` and `linux/netfilter_bridge.h`. What a bridge
    /// forwards from port to port is not routed.
    fn side(&self) -> Option<(Side, bool)> {
        match (i32::from(self.family), self.hook) {
            (libc::NFPROTO_NETDEV, 0) | (libc::NFPROTO_INET, 5) => Some((Side::Ingress, false)),
            (libc::NFPROTO_NETDEV, 1) => Some((Side::EgressChain, false)),
            (libc::NFPROTO_BRIDGE, 0 | 1 | 5) => Some((Side::Ingress, true)),
            (libc::NFPROTO_BRIDGE, 3 | 4) => Some((Side::EgressChain, true)),
            _ => None,
        }
    }
}

/// An attribute that holds a list, in which one number may come more than once.
fn list_of(bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
    rtnetlink::packet_core::NlasIterator::new(bytes)
        .map_while(Result::ok)
        .map(|attribute| (attribute.kind(), attribute.value().to_vec()))
        .collect()
}

/// Netfilter's numbers have the network's order.
fn number(attributes: &Attributes, kind: u16) -> Option<u32> {
    let value = attributes.get(&kind)?;
    Some(u32::from_be_bytes(value[..].try_into().ok()?))
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned()
}

fn queue(body: &[u8]) -> Option<(TcHeader, String)> {
    let header = TcHeader::parse(body).ok()?;
    let attributes = attributes_of(body.get(TC_HEADER..)?);
    Some((header, text(attributes.get(&TCA_KIND)?)))
}

fn tc_request() -> Vec<u8> {
    let header = TcHeader::default();
    let mut bytes = vec![0; header.buffer_len()];
    header.emit(&mut bytes);
    bytes
}

fn is_missing(error: &io::Error) -> bool {
    let missing = [
        libc::EPROTONOSUPPORT,
        libc::ENOENT,
        libc::EINVAL,
        libc::EOPNOTSUPP,
    ];
    error
        .raw_os_error()
        .is_some_and(|code| missing.contains(&code))
}

/// Requests a list and returns the body of each message of the answer.
fn dump(protocol: isize, kind: u16, request: &[u8], mut take: impl FnMut(&[u8])) -> io::Result<()> {
    Exchange::open(protocol)?.ask(kind, NLM_F_DUMP, request, |body| {
        take(body);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use nat_sys::{
        netlink::Netlink,
        testing::{in_namespace, ip, tool},
    };

    use super::*;

    async fn look() -> Policing {
        let links = Netlink::connect().unwrap().links().await.unwrap();
        let bridge = links.iter().find(|link| link.name == "vmbr1").unwrap();
        Policing::look(&links, &BTreeSet::from([bridge.index])).unwrap()
    }

    /// What is found at the port.
    async fn found() -> Vec<(Side, String)> {
        let port = ip("-o link show tap1");
        let port: u32 = port.split(':').next().unwrap().parse().unwrap();
        let Policing { at, bridges } = look().await;
        let at = at.into_iter().map(|((index, side), what)| {
            assert_eq!(index, port, "{what}");
            (side, what)
        });
        at.chain(bridges).collect()
    }

    #[test]
    fn configured_shapers_are_found_and_defaults_are_not() {
        in_namespace(async || {
            ip("link add vmbr1 type bridge");
            ip("tuntap add tap1 mode tap");
            ip("link set tap1 master vmbr1 up");
            ip("link set vmbr1 up");
            ip("link add name other type veth peer name guest");
            tool("tc qdisc add dev other root tbf rate 1mbit burst 20k latency 50ms");
            assert_eq!(found().await, []);
            let hook = |side: &str| {
                tool("nft add table netdev guard");
                tool(&format!(
                    "nft add chain netdev guard c {{ type filter hook {side} device tap1 priority \
                     0; }}"
                ));
                tool("nft add rule netdev guard c drop");
            };
            let chain = "nftables chain guard c";
            for (side, what, add, remove) in [
                (
                    Side::Queue,
                    "queue tbf",
                    "tc qdisc add dev tap1 root tbf rate 1mbit burst 20k latency 50ms",
                    "tc qdisc del dev tap1 root",
                ),
                (
                    Side::Ingress,
                    "filter of tc",
                    "tc filter add dev tap1 ingress protocol all bpf bytecode 1,6_0_0_0",
                    "tc filter del dev tap1 ingress",
                ),
                (
                    Side::Egress,
                    "filter of tc",
                    "tc filter add dev tap1 egress protocol all bpf bytecode 1,6_0_0_0",
                    "tc qdisc del dev tap1 clsact",
                ),
                (
                    Side::Ingress,
                    chain,
                    "ingress",
                    "nft delete table netdev guard",
                ),
                (
                    Side::EgressChain,
                    chain,
                    "egress",
                    "nft delete table netdev guard",
                ),
            ] {
                match add {
                    "ingress" | "egress" => hook(add),
                    _ if add.contains("filter add dev tap1 ingress") => {
                        tool("tc qdisc add dev tap1 clsact");
                        assert_eq!(found().await, [], "without filters");
                        tool(add);
                    }
                    _ => tool(add),
                }
                assert_eq!(found().await, [(side, what.to_owned())], "{add}");
                tool(remove);
                assert_eq!(found().await, [], "{remove}");
            }
        });
    }

    #[test]
    fn chains_without_rules_and_of_other_families_do_nothing_at_a_port() {
        in_namespace(async || {
            ip("link add vmbr1 type bridge");
            ip("tuntap add tap1 mode tap");
            ip("link set tap1 master vmbr1 up");
            tool("nft add table netdev guard");
            tool(
                "nft add chain netdev guard c { type filter hook ingress device tap1 priority 0; }",
            );
            tool("nft add table ip filter");
            tool(
                "nft add chain ip filter forward { type filter hook forward priority 0; policy \
                 drop; }",
            );
            assert_eq!(found().await, []);
            tool("nft add table bridge filter");
            tool(
                "nft add chain bridge filter forward { type filter hook forward priority 0; policy \
                 drop; }",
            );
            assert_eq!(
                found().await,
                [],
                "routed packets are not forwarded by a bridge"
            );
            tool("nft add chain bridge filter out { type filter hook postrouting priority 0; }");
            tool("nft add rule bridge filter out drop");
            let what = "nftables chain filter out".to_owned();
            assert_eq!(found().await, [(Side::EgressChain, what)]);
        });
    }
}
