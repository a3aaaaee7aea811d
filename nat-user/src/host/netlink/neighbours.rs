//! Requests about what is behind an interface: neighbours, bridges' forwarding tables, and how large
//! packets may be on a route.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteMetric};
use rtnetlink::RouteMessageBuilder;

use super::{Netlink, RequestError, answer};

/// An IPv4 neighbour that packets can be sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    /// The interface that it is behind, by index.
    pub device: u32,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its link-layer address.
    pub mac: [u8; 6],
    /// Whether the kernel will ask whether it is still there before it uses it for long.
    pub is_stale: bool,
}

/// An address in a bridge's forwarding table that is behind one of its ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FdbEntry {
    /// The bridge, by index.
    pub bridge: u32,
    /// The link-layer address.
    pub mac: [u8; 6],
    /// The port, by index.
    pub port: u32,
}

impl Netlink {
    /// All IPv4 neighbours that have a link-layer address: not those that are still looked for, or
    /// were not found.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn neighbours(&self) -> Result<Vec<Neighbour>, RequestError> {
        let request = || {
            let request = self.handle.neighbours().get();
            request.set_address_family(AddressFamily::Inet).execute()
        };
        let messages = self.list("list neighbours", request).await?;
        Ok(messages.iter().filter_map(Neighbour::parse).collect())
    }

    /// The forwarding tables of all bridges, without their own addresses and those of their ports.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn forwarding_tables(&self) -> Result<Vec<FdbEntry>, RequestError> {
        let request = || {
            let request = self.handle.neighbours().get();
            request.set_address_family(AddressFamily::Bridge).execute()
        };
        let messages = self.list("list bridges' addresses", request).await?;
        Ok(messages.iter().filter_map(FdbEntry::parse).collect())
    }

    /// The least that routes by an interface say of the size of packets in bytes, by index; only of
    /// interfaces that have such a route.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn route_mtus(&self) -> Result<BTreeMap<u32, u32>, RequestError> {
        let request = || {
            let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
            self.handle.route().get(all).execute()
        };
        let mut least = BTreeMap::new();
        for message in self.list("list routes", request).await? {
            let Some(mtu) = mtu_of(&message) else {
                continue;
            };
            for device in devices_of(&message) {
                let known = least.entry(device).or_insert(mtu);
                *known = mtu.min(*known);
            }
        }
        Ok(least)
    }

    /// Tells the kernel that a neighbour is in use, so that it asks whether it is still there if it
    /// has not heard of it for long.
    ///
    /// # Errors
    /// When there is no such interface or the kernel refuses.
    pub async fn use_neighbour(&self, device: u32, address: Ipv4Addr) -> Result<(), RequestError> {
        let request = self
            .handle
            .neighbours()
            .add(device, IpAddr::V4(address))
            .state(NeighbourState::None)
            .flags(NeighbourFlags::Use)
            .replace();
        answer(&format!("use neighbour {address}"), request.execute()).await
    }
}

impl Neighbour {
    fn parse(message: &NeighbourMessage) -> Option<Self> {
        use NeighbourState::{Delay, Noarp, Permanent, Probe, Reachable, Stale};
        let header = &message.header;
        if !matches!(
            header.state,
            Permanent | Noarp | Reachable | Stale | Delay | Probe
        ) {
            return None;
        }
        let address = message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(*address),
                _ => None,
            });
        Some(Self {
            device: header.ifindex,
            address: address?,
            mac: mac_of(message)?,
            is_stale: header.state == Stale,
        })
    }
}

impl FdbEntry {
    fn parse(message: &NeighbourMessage) -> Option<Self> {
        // What is the bridge's or the port's own is permanent, unless somebody has written it as an
        // address behind the port (`bridge fdb add … master static`).
        if message.header.state == NeighbourState::Permanent {
            return None;
        }
        let bridge = message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                NeighbourAttribute::Controller(bridge) => Some(*bridge),
                _ => None,
            });
        Some(Self {
            bridge: bridge?,
            mac: mac_of(message)?,
            port: message.header.ifindex,
        })
    }
}

/// The address of one host on Ethernet.
fn mac_of(message: &NeighbourMessage) -> Option<[u8; 6]> {
    let mac = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => bytes[..].try_into().ok(),
            _ => None,
        });
    mac.filter(|mac: &[u8; 6]| mac[0] & 1 == 0 && *mac != [0; 6])
}

fn mtu_of(message: &RouteMessage) -> Option<u32> {
    let mut metrics = message
        .attributes
        .iter()
        .flat_map(|attribute| match attribute {
            RouteAttribute::Metrics(metrics) => &metrics[..],
            _ => &[],
        });
    metrics.find_map(|metric| match metric {
        RouteMetric::Mtu(mtu) => Some(*mtu),
        _ => None,
    })
}

fn devices_of(message: &RouteMessage) -> Vec<u32> {
    let mut devices = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(device) => devices.push(*device),
            RouteAttribute::MultiPath(hops) => {
                devices.extend(hops.iter().map(|hop| hop.interface_index));
            }
            _ => {}
        }
    }
    devices
}
