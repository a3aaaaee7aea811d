//! Which hooks an uplink's fast path uses, and why.

use std::collections::BTreeMap;

use nat_config::model::{Config, Forwarding, Mode, Uplink};
use nat_sys::netlink::{Kind, Layer, Link};

use crate::{dataplane::attach::XdpWish, host::xdp_features::XdpFeatures};

/// Buses of physical network cards. Cards of a hypervisor are on other buses.
const CARD_BUSES: [&str; 2] = ["pci", "usb"];

/// The choice for an uplink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) xdp: XdpWish,
    /// Why, in a few words.
    pub(super) why: String,
}

/// Chooses for an uplink. XDP is over twice as cheap as traffic control for small packets, but
/// where it is attached, a virtual device stops merging segments and leaving checksums unfinished,
/// which costs bulk TCP more (docs/performance.md).
pub(super) fn choose(
    config: &Config,
    uplink: &Uplink,
    link: &Link,
    links: &[Link],
    features: &BTreeMap<u32, XdpFeatures>,
) -> Choice {
    let no = |why: &str| Choice {
        xdp: XdpWish::No,
        why: why.to_owned(),
    };
    if config.forwarding == Forwarding::Kernel {
        return no("forwarding = \"kernel\"");
    }
    let is_vlan = |other: &&Link| {
        other.parent == Some(link.index) && other.kind == Kind::Other("vlan".to_owned())
    };
    let drives = features.get(&link.index).copied();
    match uplink.mode {
        Mode::Tc => no("mode = \"tc\""),
        _ if link.layer != Layer::Ethernet => no("it has no Ethernet header"),
        // A card may have taken the tag away before XDP sees the frame.
        _ if links.iter().any(|other| is_vlan(&other)) => no("there are VLANs on top of it"),
        Mode::Xdp => Choice {
            xdp: XdpWish::Must,
            why: "mode = \"xdp\"".to_owned(),
        },
        Mode::Auto if link.kind != Kind::Device => {
            no("XDP on a virtual device costs bulk TCP more than it gains")
        }
        Mode::Auto if !is_card(link) => {
            no("XDP on a hypervisor's device costs bulk TCP more than it gains")
        }
        Mode::Auto => match drives {
            Some(features) if features.redirects() => Choice {
                xdp: XdpWish::May,
                why: "its driver has XDP".to_owned(),
            },
            Some(_) => no("its driver has no XDP"),
            None => no("kernels before Linux 6.3 do not say whether its driver has XDP"),
        },
    }
}

fn is_card(link: &Link) -> bool {
    let bus = link.bus.as_deref();
    bus.is_some_and(|bus| CARD_BUSES.contains(&bus))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use nat_sys::testing;

    use super::*;

    fn chosen(mode: &str, change: impl FnOnce(&mut Link), others: &[Link]) -> Choice {
        let text = format!("[uplink.wan]\ninterface = \"eno1\"\nmode = \"{mode}\"\n");
        let loaded = nat_config::parse(&text, Path::new("n.toml"));
        let config = loaded.unwrap_or_else(|error| panic!("{error}")).config;
        let mut link = Link {
            kind: Kind::Device,
            bus: Some("pci".to_owned()),
            ..testing::link(7, "eno1")
        };
        change(&mut link);
        let features = BTreeMap::from([(7, XdpFeatures::all()), (8, XdpFeatures::default())]);
        choose(&config, &config.uplinks[0], &link, others, &features)
    }

    #[test]
    fn a_card_whose_driver_has_it_gets_xdp() {
        assert_eq!(chosen("auto", |_| {}, &[]).xdp, XdpWish::May);
        assert_eq!(chosen("auto", |link| link.index = 8, &[]).xdp, XdpWish::No);
        assert_eq!(chosen("auto", |link| link.index = 9, &[]).xdp, XdpWish::No);
    }

    #[test]
    fn virtual_devices_get_traffic_control_by_default() {
        for change in [
            (|link: &mut Link| link.kind = Kind::Bridge) as fn(&mut Link),
            |link| link.kind = Kind::Veth,
            |link| link.bus = Some("virtio".to_owned()),
            |link| link.bus = None,
        ] {
            assert_eq!(chosen("auto", change, &[]).xdp, XdpWish::No);
            assert_eq!(chosen("xdp", change, &[]).xdp, XdpWish::Must);
        }
    }

    #[test]
    fn tags_and_missing_headers_rule_xdp_out() {
        let vlan = Link {
            kind: Kind::Other("vlan".to_owned()),
            parent: Some(7),
            ..testing::link(9, "eno1.100")
        };
        for mode in ["auto", "xdp"] {
            assert_eq!(
                chosen(mode, |_| {}, std::slice::from_ref(&vlan)).xdp,
                XdpWish::No
            );
            let ppp = chosen(mode, |link| link.layer = Layer::None, &[]);
            assert_eq!(ppp.xdp, XdpWish::No);
        }
        assert_eq!(chosen("tc", |_| {}, &[]).why, "mode = \"tc\"");
    }
}
