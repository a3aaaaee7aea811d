//! What the fast path leaves to the kernel because it would bypass something at an interface. Each
//! answer says why, in words.
//!
//! Traffic control programs redirect packets from the ingress of an interface to the egress of
//! another. Such packets bypass everything behind natbpf's program at that ingress, the bridge in
//! between, and netfilter at that egress. XDP also bypasses the filters and the queue of the
//! outgoing interface.

use std::collections::BTreeSet;

use nat_sys::netlink::{Kind, Link};

use crate::host::policing::{Policing, Side};

/// What is known of the host.
#[derive(Clone, Copy)]
pub(super) struct Bounds<'a> {
    pub(super) policing: &'a Policing,
    pub(super) links: &'a [Link],
    /// By index.
    pub(super) uplinks: &'a BTreeSet<u32>,
}

impl Bounds<'_> {
    /// Why packets from outside do not take the fast path to guests. All uplinks share the next
    /// hops of the guests, so the answer for one applies to all.
    pub(super) fn inbound(&self) -> Option<String> {
        let uplinks = self.links.iter();
        let mut uplinks = uplinks.filter(|link| self.uplinks.contains(&link.index));
        uplinks.find_map(|link| self.at(link, Side::Ingress))
    }

    /// Why no packet takes the fast path to hosts behind an uplink or a network.
    pub(super) fn behind(&self, device: &Link) -> Option<String> {
        // The fast path hands packets to the ports of a bridge, and to any other device itself.
        if device.kind != Kind::Bridge {
            return None;
        }
        let own = self.at(device, Side::Egress);
        let own = own.or_else(|| self.at(device, Side::EgressChain));
        let of_all = self.policing.at_bridges(Side::EgressChain);
        own.or_else(|| of_all.map(str::to_owned))
    }

    /// Why no packet takes the fast path out by a port of a bridge, or by another device.
    pub(super) fn by_port(&self, port: u32) -> Option<String> {
        self.at(self.link(port)?, Side::EgressChain)
    }

    /// Why no packet from the port of a network's bridge takes the fast path.
    pub(super) fn arriving_by_port(&self, port: &Link, bridge: &Link) -> Option<String> {
        let own = self.at(port, Side::Ingress);
        let own = own.or_else(|| self.at(bridge, Side::Ingress));
        own.or_else(|| self.policing.at_bridges(Side::Ingress).map(str::to_owned))
    }

    /// Why no packet from a network that is not a bridge takes the fast path.
    pub(super) fn arriving_by_device(&self, device: &Link) -> Option<String> {
        self.at(device, Side::Ingress)
    }

    /// Why XDP sends no frames to a port.
    pub(super) fn frames_to(&self, port: u32) -> Option<String> {
        let port = self.link(port)?;
        let queue = self.at(port, Side::Queue);
        queue.or_else(|| self.at(port, Side::Egress))
    }

    /// Which parts of the fast path an uplink or a network lacks, for `status`.
    pub(super) fn exceptions(&self, link: &Link, has_xdp: bool) -> Vec<String> {
        let is_uplink = self.uplinks.contains(&link.index);
        let is_port = |port: &&Link| port.master == Some(link.index);
        let ports: Vec<&Link> = self.links.iter().filter(is_port).collect();
        let mut lines = Vec::new();
        let mut off = |way: &str, name: &str, why: Option<String>| {
            lines.extend(why.map(|why| format!("off for packets {way} {name}: {why}")));
        };
        if is_uplink || link.kind != Kind::Bridge {
            off("from", &link.name, self.at(link, Side::Ingress));
        }
        for port in ports.iter().filter(|_| !is_uplink) {
            off("from", &port.name, self.arriving_by_port(port, link));
        }
        let inbound = self.inbound().filter(|_| !is_uplink);
        let behind = inbound.or_else(|| self.behind(link));
        let is_behind_open = behind.is_none();
        off("to", &link.name, behind);
        let ways = ports.into_iter().chain([link]);
        for way in ways.filter(|_| is_behind_open) {
            let by_port = match way.kind {
                Kind::Bridge => None,
                _ => self.by_port(way.index),
            };
            let frames = self.frames_to(way.index);
            let frames = frames.filter(|_| has_xdp && !is_uplink && by_port.is_none());
            off("to", &way.name, by_port);
            off("by xdp to", &way.name, frames);
        }
        lines
    }

    fn link(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    fn at(&self, link: &Link, side: Side) -> Option<String> {
        let what = self.policing.at(link.index, side)?;
        Some(match side {
            Side::Ingress => format!("{what} at ingress of {}", link.name),
            Side::Egress | Side::EgressChain => format!("{what} at egress of {}", link.name),
            Side::Queue => format!("{what} of {}", link.name),
        })
    }
}

#[cfg(test)]
mod tests {
    use nat_sys::testing;

    use super::*;

    const UPLINK: u32 = 1;
    const BRIDGE: u32 = 2;
    const PORT: u32 = 3;
    const OTHER: u32 = 4;

    fn links(network: Kind) -> Vec<Link> {
        let link = |index, name, kind: &Kind, master| Link {
            kind: kind.clone(),
            master,
            ..testing::link(index, name)
        };
        let bridge = (network == Kind::Bridge).then_some(BRIDGE);
        vec![
            link(UPLINK, "eno1", &Kind::Device, None),
            link(BRIDGE, "vmbr1", &network, None),
            link(PORT, "tap1", &Kind::Tun, bridge),
            link(OTHER, "tap2", &Kind::Tun, bridge),
        ]
    }

    /// What is said of the uplink and of the network.
    fn said(network: Kind, index: u32, side: Side) -> [Vec<String>; 2] {
        let links = links(network);
        let policing = Policing::with(index, side, "it");
        let uplinks = BTreeSet::from([UPLINK]);
        let bounds = Bounds {
            policing: &policing,
            links: &links,
            uplinks: &uplinks,
        };
        [UPLINK, BRIDGE].map(|index| bounds.exceptions(bounds.link(index).unwrap(), true))
    }

    #[test]
    fn each_side_of_an_interface_turns_off_the_bypassing_fast_path() {
        use Side::{Egress, EgressChain, Ingress, Queue};
        let off = |what: &str| vec![format!("off for packets {what}")];
        let none = Vec::new;
        for (index, side, uplink, network) in [
            (
                UPLINK,
                Ingress,
                off("from eno1: it at ingress of eno1"),
                off("to vmbr1: it at ingress of eno1"),
            ),
            (UPLINK, Egress, none(), none()),
            (UPLINK, Queue, none(), none()),
            (
                UPLINK,
                EgressChain,
                off("to eno1: it at egress of eno1"),
                none(),
            ),
            (
                BRIDGE,
                Egress,
                none(),
                off("to vmbr1: it at egress of vmbr1"),
            ),
            (
                BRIDGE,
                EgressChain,
                none(),
                off("to vmbr1: it at egress of vmbr1"),
            ),
            (
                BRIDGE,
                Ingress,
                none(),
                [
                    off("from tap1: it at ingress of vmbr1"),
                    off("from tap2: it at ingress of vmbr1"),
                ]
                .concat(),
            ),
            (
                PORT,
                Ingress,
                none(),
                off("from tap1: it at ingress of tap1"),
            ),
            (
                PORT,
                EgressChain,
                none(),
                off("to tap1: it at egress of tap1"),
            ),
            (
                PORT,
                Egress,
                none(),
                off("by xdp to tap1: it at egress of tap1"),
            ),
            (PORT, Queue, none(), off("by xdp to tap1: it of tap1")),
        ] {
            let found = said(Kind::Bridge, index, side);
            assert_eq!(found, [uplink, network], "{index}, {side:?}");
        }
    }

    #[test]
    fn a_network_that_is_no_bridge_has_its_own_sides() {
        let of_network = |side| said(Kind::Veth, BRIDGE, side)[1].clone();
        assert_eq!(
            of_network(Side::Ingress),
            ["off for packets from vmbr1: it at ingress of vmbr1"]
        );
        // Traffic control hands packets to it as the kernel would.
        assert_eq!(
            of_network(Side::Egress),
            ["off for packets by xdp to vmbr1: it at egress of vmbr1"]
        );
        assert_eq!(
            of_network(Side::EgressChain),
            ["off for packets to vmbr1: it at egress of vmbr1"]
        );
    }
}
