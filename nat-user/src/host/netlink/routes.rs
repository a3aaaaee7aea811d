//! What IPv4 routes say of packets' sizes.

use std::net::Ipv4Addr;

use netlink_packet_route::route::{RouteAttribute, RouteFlags, RouteMessage, RouteMetric};
use rtnetlink::RouteMessageBuilder;

use super::{Netlink, RequestError, collect};

/// The MTU that an IPv4 route sets for its packets (`ip route … mtu`), once for each of its ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteMtu {
    /// The interface by which packets leave, by index; none if the kernel does not say
    /// (`net.ipv4.nexthop_compat_mode` 0), so that it may be any.
    pub device: Option<u32>,
    /// In bytes, without the link layer's header.
    pub mtu: u32,
}

impl Netlink {
    /// The MTUs of all IPv4 routes that set one, in all tables. What the kernel has learned of
    /// single destinations (path MTU discovery) is not among them.
    ///
    /// It reads all routes.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn route_mtus(&self) -> Result<Vec<RouteMtu>, RequestError> {
        let start = || {
            let any = RouteMessageBuilder::<Ipv4Addr>::new().build();
            self.handle.route().get(any).execute()
        };
        let messages = self.list("list routes", start).await?;
        Ok(messages.iter().flat_map(RouteMtu::parse).collect())
    }
}

impl Netlink {
    /// The interfaces, by index, by which the kernel sends packets to `to` that came from `from` by the
    /// interface `input`; several if the route has several ways. None if there is no such route.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn devices_to(
        &self,
        to: Ipv4Addr,
        from: Ipv4Addr,
        input: u32,
    ) -> Result<Vec<u32>, RequestError> {
        let mut message = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(to, 32)
            .input_interface(input)
            .build();
        message.header.source_prefix_length = 32;
        message.attributes.push(RouteAttribute::Source(from.into()));
        // The route as it is written, with all of its ways, not the one that is taken today.
        message.header.flags |= RouteFlags::FibMatch;
        let request = self.handle.route().get(message).execute();
        let messages = match collect("look up a route", request).await {
            Err(error) if matches!(error.errno(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH)) => {
                return Ok(Vec::new());
            }
            result => result?,
        };
        Ok(messages.iter().flat_map(devices).collect())
    }
}

fn devices(message: &RouteMessage) -> Vec<u32> {
    let mut devices = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => devices.push(*index),
            RouteAttribute::MultiPath(ways) => {
                devices.extend(ways.iter().map(|way| way.interface_index));
            }
            _ => {}
        }
    }
    devices
}

impl RouteMtu {
    pub(super) fn parse(message: &RouteMessage) -> Vec<Self> {
        if message.header.flags.contains(RouteFlags::Cloned) {
            return Vec::new();
        }
        let mut devices = Vec::new();
        let mut mtu = None;
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Oif(index) => devices.push(Some(*index)),
                RouteAttribute::MultiPath(ways) => {
                    devices.extend(ways.iter().map(|way| Some(way.interface_index)));
                }
                RouteAttribute::Metrics(metrics) => mtu = metrics.iter().find_map(mtu_of),
                _ => {}
            }
        }
        if devices.is_empty() {
            devices.push(None);
        }
        let mtu = mtu.into_iter();
        mtu.flat_map(|mtu| devices.iter().map(move |device| (*device, mtu)))
            .map(|(device, mtu)| Self { device, mtu })
            .collect()
    }
}

fn mtu_of(metric: &RouteMetric) -> Option<u32> {
    match metric {
        RouteMetric::Mtu(mtu) => Some(*mtu),
        _ => None,
    }
}
