//! The description of the interfaces for the programs.

use std::collections::{BTreeMap, BTreeSet};

use nat_common::tables::{
    interfaces::{Interface, InterfaceFlags, role},
    uplinks::{self, EXITS, UPLINKS},
};
use nat_config::model::{Config, Forwarding, MssClamp, Network, Uplink};
use nat_sys::netlink::{Kind, Layer, Link};

use super::{fast_path::is_open_port, policed::Bounds};
use crate::{host::bridge_netfilter::BridgeNetfilter, state::Numbers};

/// IPv4 and TCP headers without options, in bytes.
const HEADERS: u32 = 40;

/// The existing interfaces of the configuration, by index.
pub(super) fn interfaces(
    config: &Config,
    bounds: &Bounds,
    netfilter: BridgeNetfilter,
    numbers: &Numbers,
) -> BTreeMap<u32, Interface> {
    let links = bounds.links;
    let policed = match config.has_policies() {
        true => InterfaceFlags::POLICED,
        false => InterfaceFlags::empty(),
    };
    let link = |name: &str| links.iter().find(|link| link.name == name);
    let netfilter_flags = |link| match netfilter.is_before(link, links) {
        true => InterfaceFlags::NETFILTER_FIRST,
        false => InterfaceFlags::empty(),
    };
    let inside = config.networks.iter();
    let inside_mtus: Vec<u32> = inside
        .filter_map(|network| Some(link(&network.interface)?.mtu))
        .collect();
    let uplinks = config.uplinks.iter().filter_map(|uplink| {
        let link = link(&uplink.interface)?;
        let interface = Interface {
            role: role::UPLINK,
            number: numbers.uplinks.get(&uplink.name).copied().unwrap_or(0),
            flags: uplink_flags(config, uplink)
                | device_flags(link)
                | netfilter_flags(link)
                | policed,
            mss: mss(uplink.mss_clamp, link.mtu, &inside_mtus),
            mac: link.mac.unwrap_or_default(),
            ..Interface::default()
        };
        Some((link.index, interface))
    });
    let networks = config.networks.iter().filter_map(|network| {
        let link = link(&network.interface)?;
        let interface = Interface {
            role: role::NETWORK,
            number: numbers.networks.get(&network.name).copied().unwrap_or(0),
            flags: network_flags(network)
                | bridge_flags(link, bounds)
                | netfilter_flags(link)
                | policed,
            mac: link.mac.unwrap_or_default(),
            ..Interface::default()
        };
        Some((link.index, interface))
    });
    let networks_ports = config.networks.iter();
    let ports = networks_ports.flat_map(|network| {
        let ports = ports(network, bounds, numbers);
        let is_fast = config.forwarding == Forwarding::Fast;
        ports.into_iter().filter_map(move |(index, mut port)| {
            if !is_fast {
                port.flags |= InterfaceFlags::SLOW;
            }
            let is_needed = !port.flags.contains(InterfaceFlags::SLOW)
                || port.flags.contains(InterfaceFlags::GUARDED);
            is_needed.then_some((index, port))
        })
    });
    uplinks.chain(networks).chain(ports).collect()
}

/// By which interfaces guests' packets leave.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Exits {
    /// The uplinks, including missing ones.
    pub(super) uplinks: Vec<uplinks::Uplink>,
    /// The interfaces by which packets may leave while an uplink is missing, by index.
    pub(super) interfaces: BTreeSet<u32>,
}

/// By which interfaces guests' packets leave, once the programs are attached. An interface that is
/// down is not included: it may receive the name of an uplink before it is up.
pub(super) fn exits(config: &Config, links: &[Link], numbers: &Numbers) -> Exits {
    let index = |name: &str| {
        let link = links.iter().find(|link| link.name == name);
        link.map(|link| link.index)
    };
    let mut uplinks: Vec<uplinks::Uplink> = (config.uplinks.iter())
        .map(|uplink| uplinks::Uplink {
            index: index(&uplink.interface).unwrap_or(0),
            number: numbers.uplinks.get(&uplink.name).copied().unwrap_or(0),
            ..uplinks::Uplink::default()
        })
        .collect();
    if uplinks.len() > UPLINKS as usize {
        uplinks.truncate(UPLINKS as usize);
        // Whether the others exist is unknown, so one of them counts as missing.
        if let Some(last) = uplinks.last_mut() {
            last.index = 0;
        }
    }
    let own = config.uplinks.iter().map(|uplink| &uplink.interface);
    let own = own.chain(config.networks.iter().map(|network| &network.interface));
    let others = links.iter().filter(|link| link.up && link.port.is_none());
    let interfaces = own
        .filter_map(|name| index(name))
        .chain(others.map(|link| link.index))
        .take(EXITS as usize)
        .collect();
    Exits {
        uplinks,
        interfaces,
    }
}

/// The ports of a network's bridge, and at which of them frames are checked or take the fast path.
fn ports(network: &Network, bounds: &Bounds, numbers: &Numbers) -> Vec<(u32, Interface)> {
    let links = bounds.links;
    let number = numbers.networks.get(&network.name).copied().unwrap_or(0);
    let Some(bridge) = links.iter().find(|link| link.name == network.interface) else {
        return Vec::new();
    };
    let interface = |port: &Link| Interface {
        role: role::PORT,
        number,
        flags: network_flags(network) | port_flags(network, port, bridge, bounds),
        mac: bridge.mac.unwrap_or_default(),
        vlan: match bridge.vlan_filtering {
            true => bridge.default_vlan,
            false => 0,
        },
        ..Interface::default()
    };
    links
        .iter()
        .filter(|link| link.master == Some(bridge.index) && link.layer == Layer::Ethernet)
        .map(|link| (link.index, interface(link)))
        .collect()
}

fn port_flags(network: &Network, port: &Link, bridge: &Link, bounds: &Bounds) -> InterfaceFlags {
    let mut flags = InterfaceFlags::empty();
    if !is_open_port(port, bridge, bounds) {
        flags |= InterfaceFlags::SLOW;
    }
    if network.anti_spoof {
        flags |= InterfaceFlags::GUARDED;
        if network.dhcp.is_some() {
            flags |= InterfaceFlags::SERVED;
        }
        if port.up && port.running {
            flags |= InterfaceFlags::CARRIES;
        }
    }
    flags
}

fn bridge_flags(link: &Link, bounds: &Bounds) -> InterfaceFlags {
    match link.kind {
        Kind::Bridge => InterfaceFlags::empty(),
        _ if bounds.arriving_by_device(link).is_some() => InterfaceFlags::empty(),
        _ => InterfaceFlags::NO_BRIDGE,
    }
}

fn uplink_flags(config: &Config, uplink: &Uplink) -> InterfaceFlags {
    let several = match config.uplinks.len() {
        1 => InterfaceFlags::empty(),
        _ => InterfaceFlags::ONE_OF_SEVERAL,
    };
    match config.translates_prefixes_at(uplink) {
        true => several | InterfaceFlags::HAS_PREFIXES,
        false => several,
    }
}

/// A card's frames come from a wire, with all checksums; other devices hand over what a stack on
/// the same machine has sent. (Cards emulated by QEMU let it finish checksums while they have XDP.)
fn device_flags(link: &Link) -> InterfaceFlags {
    let is_from_wire = |bus: &str| !matches!(bus, "xen" | "vmbus");
    match link.kind == Kind::Device && link.bus.as_deref().is_some_and(is_from_wire) {
        true => InterfaceFlags::empty(),
        false => InterfaceFlags::MAY_BE_UNFINISHED,
    }
}

fn network_flags(network: &Network) -> InterfaceFlags {
    if network.anti_spoof {
        InterfaceFlags::ANTI_SPOOF
    } else {
        InterfaceFlags::empty()
    }
}

/// The largest segment in bytes that a connection through an uplink may announce, 0 for any. If all
/// interfaces take the same packets, the ends know best.
fn mss(clamp: MssClamp, uplink_mtu: u32, inside_mtus: &[u32]) -> u16 {
    match clamp {
        MssClamp::Bytes(bytes) => bytes,
        MssClamp::Off => 0,
        MssClamp::Auto if inside_mtus.iter().all(|mtu| *mtu == uplink_mtu) => 0,
        MssClamp::Auto => {
            let narrowest = inside_mtus.iter().copied().fold(uplink_mtu, u32::min);
            let mss = narrowest.saturating_sub(HEADERS);
            u16::try_from(mss).map_or(MssClamp::MOST, |mss| {
                mss.clamp(MssClamp::LEAST, MssClamp::MOST)
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::Path};

    use nat_sys::{netlink::BridgePort, testing};

    use super::*;
    use crate::host::policing::Policing;

    const CONFIG: &str = r#"
[uplink.wan]
interface = "vmbr0"
[network.lan]
interface = "vmbr1"
address = "172.22.161.254/24"
[network.dmz]
interface = "vmbr2"
address = "172.22.162.254/24"
"#;

    fn link(index: u32, name: &str, mtu: u32) -> Link {
        Link {
            kind: Kind::Bridge,
            mtu,
            ..testing::link(index, name)
        }
    }

    fn told(config: &str, links: &[Link]) -> BTreeMap<u32, Interface> {
        let loaded = nat_config::parse(config, Path::new("n.toml"));
        let config = loaded.unwrap_or_else(|error| panic!("{error}")).config;
        let mut numbers = Numbers::default();
        numbers.uplink("wan");
        numbers.network("lan");
        numbers.network("dmz");
        let bounds = Bounds {
            policing: &Policing::default(),
            links,
            uplinks: &BTreeSet::new(),
        };
        interfaces(&config, &bounds, BridgeNetfilter::default(), &numbers)
    }

    #[test]
    fn each_interface_that_is_there_has_role_number_and_address() {
        let links = [link(7, "vmbr0", 1500), link(9, "vmbr2", 1500)];
        let told = told(CONFIG, &links);
        let uplink = Interface {
            role: role::UPLINK,
            number: 1,
            flags: InterfaceFlags::MAY_BE_UNFINISHED,
            mac: [2, 0, 0, 0, 0, 7],
            ..Interface::default()
        };
        let network = Interface {
            role: role::NETWORK,
            number: 2,
            mac: [2, 0, 0, 0, 0, 9],
            ..Interface::default()
        };
        assert_eq!(told, BTreeMap::from([(7, uplink), (9, network)]));
    }

    #[test]
    fn only_networks_that_ask_for_it_hold_guests_to_their_addresses() {
        let links = [link(8, "vmbr1", 1500), link(9, "vmbr2", 1500)];
        let strict = CONFIG.replace("161.254/24\"", "161.254/24\"\nanti_spoof = true");
        let told = told(&strict, &links);
        assert_eq!(
            (told[&8].flags, told[&9].flags),
            (InterfaceFlags::ANTI_SPOOF, InterfaceFlags::empty())
        );
    }

    #[test]
    fn ports_know_the_own_vlan_of_a_bridge_that_tells_them_apart() {
        let of_port = |vlan_filtering| {
            let bridge = Link {
                vlan_filtering,
                default_vlan: 7,
                ..link(8, "vmbr1", 1500)
            };
            let port = Link {
                master: Some(8),
                ..testing::link(21, "tap1")
            };
            let strict = CONFIG.replace("161.254/24\"", "161.254/24\"\nanti_spoof = true");
            told(&strict, &[bridge, port])[&21].vlan
        };
        assert_eq!((of_port(true), of_port(false)), (7, 0));
    }

    #[test]
    fn packets_leave_by_own_interfaces_and_those_that_are_up() {
        let config = nat_config::parse(CONFIG, Path::new("natbpf.toml"));
        let config = config.unwrap_or_else(|error| panic!("{error}")).config;
        let mut numbers = Numbers::default();
        numbers.uplink("wan");
        let port = Link {
            port: Some(BridgePort::default()),
            ..link(11, "tap1", 1500)
        };
        let down = |index, name| Link {
            up: false,
            ..link(index, name, 1500)
        };
        let mut links = vec![
            down(7, "vmbr0"),
            link(8, "vmbr1", 1500),
            link(10, "docker0", 1500),
            port,
            down(12, "eth0"),
        ];
        let uplink = |index| uplinks::Uplink {
            index,
            number: 1,
            ..uplinks::Uplink::default()
        };
        let told = exits(&config, &links, &numbers);
        assert_eq!(told.uplinks, [uplink(7)]);
        assert_eq!(told.interfaces, BTreeSet::from([7, 8, 10]));
        links.remove(0);
        let told = exits(&config, &links, &numbers);
        assert_eq!(told.uplinks, [uplink(0)], "it is away");
        assert_eq!(told.interfaces, BTreeSet::from([8, 10]));
    }

    #[test]
    fn bridges_that_call_netfilter_are_an_event() {
        let calls = |link: Link| Link {
            calls_netfilter: true,
            ..link
        };
        let links = [calls(link(7, "vmbr0", 1500)), calls(link(8, "vmbr1", 1500))];
        let told = told(CONFIG, &links);
        for index in [7, 8] {
            let flags = told[&index].flags;
            assert!(flags.contains(InterfaceFlags::NETFILTER_FIRST), "{index}");
        }
    }

    #[test]
    fn a_device_without_ethernet_has_no_address() {
        let ppp = Link {
            layer: Layer::None,
            mac: None,
            ..link(7, "vmbr0", 1492)
        };
        assert_eq!(told(CONFIG, &[ppp])[&7].mac, [0; 6]);
    }

    #[test]
    fn segments_fit_the_narrowest_interface_where_they_differ() {
        let mss = |uplink, lan, dmz| {
            let links = [
                link(7, "vmbr0", uplink),
                link(8, "vmbr1", lan),
                link(9, "vmbr2", dmz),
            ];
            let told = told(CONFIG, &links);
            assert_eq!(
                (told[&8].mss, told[&9].mss),
                (0, 0),
                "only uplinks have one"
            );
            told[&7].mss
        };
        assert_eq!(mss(1500, 1500, 1500), 0);
        assert_eq!(mss(1492, 1500, 1500), 1452);
        assert_eq!(mss(9000, 9000, 1500), 1460);
        assert_eq!(mss(1500, 9000, 9000), 1460);
        assert_eq!(mss(68, 1500, 1500), 88);
        assert_eq!(mss(200_000, 100_000, 100_000), 65495);
    }

    #[test]
    fn an_explicit_mss_clamp_needs_no_second_interface() {
        let with = |value: &str, mtu| {
            let line = format!("mss_clamp = {value}\n[network.lan]");
            let links = [link(7, "vmbr0", mtu), link(8, "vmbr1", 1500)];
            told(&CONFIG.replace("[network.lan]", &line), &links)[&7].mss
        };
        assert_eq!((with("1300", 1500), with("1300", 1280)), (1300, 1300));
        assert_eq!((with("\"off\"", 1500), with("\"off\"", 1492)), (0, 0));
        assert_eq!((with("\"auto\"", 1500), with("\"auto\"", 1492)), (0, 1452));
    }
}
