//! By which port frames to a neighbour leave.
//!
//! Pure: it computes from lists of the kernel, and must neither query nor change it. Uncertain next
//! hops are left out, because the kernel forwards packets without one.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use nat_sys::netlink::{FdbEntry, Kind, Layer, Link, Neighbour, RouteMtu};

/// Frames that leave by `device` for `mac` go out by `port`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NextHop {
    /// The interface to which the kernel routes, by index.
    pub device: u32,
    /// The neighbour's Ethernet address.
    pub mac: [u8; 6],
    /// The interface by which the frame leaves, by index: of a bridge the port behind which it has
    /// the neighbour, otherwise the device itself.
    pub port: u32,
    /// The device's own Ethernet address.
    pub source: [u8; 6],
    /// The largest packet in bytes, without the link layer's header: that of the device, the port,
    /// or a route by that device, whichever is the least.
    pub mtu: u32,
}

/// The next hops behind some devices, named by index: one for each Ethernet address at which a
/// neighbour can be reached.
#[must_use]
pub fn next_hops(
    links: &[Link],
    neighbours: &[Neighbour],
    fdb: &[FdbEntry],
    route_mtus: &[RouteMtu],
    devices: &BTreeSet<u32>,
) -> BTreeSet<NextHop> {
    let host = Host {
        links: links.iter().map(|link| (link.index, link)).collect(),
        ports: ports(fdb),
        route_mtus,
    };
    let usable = neighbours.iter().filter_map(|neighbour| {
        let mac = neighbour.usable_mac()?;
        Some((neighbour.device, mac))
    });
    let wanted: BTreeSet<_> = usable
        .filter(|(device, _)| devices.contains(device))
        .collect();
    let hops = wanted.into_iter();
    hops.filter_map(|(device, mac)| host.next_hop(device, mac))
        .collect()
}

/// The Ethernet addresses, each with its device's index, that a neighbour no longer has: it has
/// another, cannot be reached, or is gone. Packets to it must no longer go there, even if another
/// neighbour still has that Ethernet address.
#[must_use]
pub fn abandoned(before: &[Neighbour], after: &[Neighbour]) -> BTreeSet<(u32, [u8; 6])> {
    let after = macs(after);
    let lost = macs(before)
        .into_iter()
        .filter(|(neighbour, mac)| after.get(neighbour) != Some(mac));
    lost.map(|((device, _), mac)| (device, mac)).collect()
}

/// The host's tables, indexed for lookups.
struct Host<'a> {
    links: BTreeMap<u32, &'a Link>,
    /// By bridge and Ethernet address, the port's index.
    ports: BTreeMap<(u32, [u8; 6]), u32>,
    route_mtus: &'a [RouteMtu],
}

impl Host<'_> {
    fn next_hop(&self, device: u32, mac: [u8; 6]) -> Option<NextHop> {
        let link = self.carrying(device)?;
        let port = match link.kind {
            Kind::Bridge => self.bridge_port(link, mac)?,
            _ => link,
        };
        let of_routes = self.route_mtus.iter();
        let of_routes = of_routes.filter(|route| route.device.is_none_or(|index| index == device));
        let mtu = of_routes
            .map(|route| route.mtu)
            .fold(link.mtu.min(port.mtu), u32::min);
        Some(NextHop {
            device,
            mac,
            port: port.index,
            source: link.mac?,
            mtu,
        })
    }

    /// The port by which a bridge would send a frame of its host's.
    fn bridge_port(&self, bridge: &Link, mac: [u8; 6]) -> Option<&Link> {
        let port = self.carrying(*self.ports.get(&(bridge.index, mac))?)?;
        let is_plain = port.port?.is_plain();
        let is_ours = port.master == Some(bridge.index);
        // A bridge has a queue only on purpose, so frames must not bypass it.
        (is_plain && is_ours && !bridge.vlan_filtering && !bridge.queues).then_some(port)
    }

    /// An interface that carries Ethernet frames now.
    fn carrying(&self, index: u32) -> Option<&Link> {
        let link = self.links.get(&index).copied()?;
        (link.up && link.running && link.layer == Layer::Ethernet).then_some(link)
    }
}

/// The host's own addresses are behind no port.
fn ports(fdb: &[FdbEntry]) -> BTreeMap<(u32, [u8; 6]), u32> {
    let behind_ports = fdb.iter().filter(|entry| !entry.local);
    behind_ports
        .map(|entry| ((entry.bridge, entry.mac), entry.port))
        .collect()
}

fn macs(neighbours: &[Neighbour]) -> BTreeMap<(u32, IpAddr), [u8; 6]> {
    let usable = neighbours.iter().filter_map(|neighbour| {
        let mac = neighbour.usable_mac()?;
        Some(((neighbour.device, neighbour.address), mac))
    });
    usable.collect()
}

#[cfg(test)]
mod tests;
