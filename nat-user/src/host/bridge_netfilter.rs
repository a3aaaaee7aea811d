//! Where netfilter sees packets before natbpf's ingress hook does: on bridges, with `br_netfilter`.
//!
//! A packet that comes in by the port of a bridge meets netfilter's PREROUTING there, and not again
//! when the host itself receives it from the bridge (`ip_sabotage_in` in
//! `net/bridge/br_netfilter_hooks.c`). The hook of the bridge is between the two.

use anyhow::{Context as _, Result};
use nat_sys::{
    netlink::{Kind, Link},
    sysctl::Key,
};

/// The settings of the namespace; each bridge has its own too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BridgeNetfilter {
    /// Whether all bridges call netfilter (`bridge-nf-call-iptables`).
    is_on: bool,
    /// Whether also for frames with a VLAN tag (`bridge-nf-filter-vlan-tagged`).
    sees_tagged: bool,
}

impl BridgeNetfilter {
    /// Reads the settings. Without `br_netfilter` there are none.
    ///
    /// # Errors
    /// When a setting exists and cannot be read.
    pub fn read() -> Result<Self> {
        let is_set = |name| -> Result<bool> {
            let value = Key::new(&["net", "bridge", name])?.read();
            let value = value.context("look whether bridges call netfilter")?;
            Ok(value.is_some_and(|value| value != "0"))
        };
        Ok(Self {
            is_on: is_set("bridge-nf-call-iptables")?,
            sees_tagged: is_set("bridge-nf-filter-vlan-tagged")?,
        })
    }

    /// Whether packets meet netfilter on their way to the ingress hook of `link`.
    #[must_use]
    pub fn is_before(self, link: &Link, links: &[Link]) -> bool {
        if link.kind == Kind::Bridge {
            return self.is_on || link.calls_netfilter;
        }
        let below = links.iter().find(|below| Some(below.index) == link.parent);
        let sees_frames = match &link.kind {
            Kind::Other(name) if name == "vlan" => self.sees_tagged,
            Kind::Other(name) => name == "macvlan",
            _ => false,
        };
        sees_frames && below.is_some_and(|below| self.is_before(below, links))
    }
}

#[cfg(test)]
mod tests {
    use nat_sys::testing;

    use super::*;

    fn bridge(index: u32, calls_netfilter: bool) -> Link {
        Link {
            kind: Kind::Bridge,
            calls_netfilter,
            ..testing::link(index, "vmbr0")
        }
    }

    fn vlan(index: u32, parent: u32) -> Link {
        Link {
            kind: Kind::Other("vlan".to_owned()),
            parent: Some(parent),
            ..testing::link(index, "vmbr0.100")
        }
    }

    #[test]
    fn netfilter_is_first_on_bridges_that_call_it() {
        let (off, on) = (BridgeNetfilter::default(), is_on());
        let card = testing::link(1, "eth0");
        let bridges = [bridge(2, false), bridge(3, true)];
        let first = |setting: BridgeNetfilter| {
            [&card, &bridges[0], &bridges[1]].map(|link| setting.is_before(link, &bridges))
        };
        assert_eq!(first(off), [false, false, true]);
        assert_eq!(first(on), [false, true, true]);
    }

    #[test]
    fn vlan_on_a_bridge_follows_the_setting_for_tagged_frames() {
        let links = [bridge(2, false), vlan(3, 2), vlan(4, 1)];
        let tagged = BridgeNetfilter {
            sees_tagged: true,
            ..is_on()
        };
        assert!(!is_on().is_before(&links[1], &links));
        assert!(tagged.is_before(&links[1], &links));
        assert!(!tagged.is_before(&links[2], &links));
    }

    fn is_on() -> BridgeNetfilter {
        BridgeNetfilter {
            is_on: true,
            sees_tagged: false,
        }
    }
}
