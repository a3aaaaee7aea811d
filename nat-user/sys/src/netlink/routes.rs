//! IPv4 routes: their MTUs, and routes to guests.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteScope,
    RouteType,
};
use rtnetlink::RouteMessageBuilder;

use super::{
    connection::{Netlink, RequestError, answer, collect},
    links::Link,
};

/// The MTU that an IPv4 route sets for its packets (`ip route … mtu`), once for each of its next
/// hops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteMtu {
    /// The interface by which packets leave, by index; none if the kernel does not say
    /// (`net.ipv4.nexthop_compat_mode` 0), so it may be any.
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
    /// The interfaces, by index, by which the kernel sends packets to `to` that came from `from` by
    /// the interface `input`; several if the route has several next hops. None if there is no such
    /// route.
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
        // The route as configured, with all its next hops, not the selected one.
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

/// The table of the host's own addresses (`RT_TABLE_LOCAL` in `linux/rtnetlink.h`).
const LOCAL_TABLE: u8 = 255;

/// An IPv4 route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkRoute {
    /// Where to.
    pub prefix: Ipv4Net,
    /// The interface by which packets leave, by index; none if there are several or none.
    pub device: Option<u32>,
    /// The router that they are handed to.
    pub gateway: Option<Ipv4Addr>,
    /// Of the routes to one prefix, the one with the lowest metric counts.
    pub metric: u32,
    /// The source address of the host's own packets.
    pub source: Option<Ipv4Addr>,
    /// Whether the kernel drops its packets (`blackhole`, `unreachable`, `prohibit`).
    pub drops: bool,
    /// Whether it is in the main table, which counts unless a rule says otherwise.
    pub is_main: bool,
}

impl LinkRoute {
    /// Whether it is the one that counts for exactly this prefix.
    #[must_use]
    pub fn is_plain_to(&self, prefix: Ipv4Net) -> bool {
        self.prefix == prefix && self.metric == 0
    }

    fn parse(message: &RouteMessage) -> Option<Self> {
        let header = &message.header;
        if header.table == LOCAL_TABLE || header.flags.contains(RouteFlags::Cloned) {
            return None;
        }
        let mut route = Self {
            prefix: Ipv4Net::new(Ipv4Addr::UNSPECIFIED, header.destination_prefix_length).ok()?,
            device: None,
            gateway: None,
            metric: 0,
            source: None,
            drops: matches!(
                header.kind,
                RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit
            ),
            is_main: header.table == RouteHeader::RT_TABLE_MAIN,
        };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                    route.prefix = Ipv4Net::new(*address, header.destination_prefix_length).ok()?;
                }
                RouteAttribute::Oif(index) => route.device = Some(*index),
                RouteAttribute::Gateway(RouteAddress::Inet(router)) => {
                    route.gateway = Some(*router);
                }
                RouteAttribute::Priority(metric) => route.metric = *metric,
                RouteAttribute::PrefSource(RouteAddress::Inet(address)) => {
                    route.source = Some(*address);
                }
                _ => {}
            }
        }
        Some(route)
    }
}

impl Netlink {
    /// The IPv4 routes of the main table.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn main_routes(&self) -> Result<Vec<LinkRoute>, RequestError> {
        let mut routes = self.routes().await?;
        routes.retain(|route| route.is_main);
        Ok(routes)
    }

    /// The IPv4 routes of all tables except the one for the host's own addresses.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn routes(&self) -> Result<Vec<LinkRoute>, RequestError> {
        let start = || {
            let any = RouteMessageBuilder::<Ipv4Addr>::new().build();
            self.handle.route().get(any).execute()
        };
        let messages = self.list("list routes", start).await?;
        Ok(messages.iter().filter_map(LinkRoute::parse).collect())
    }

    /// Routes a prefix to neighbours on an interface; replaces another route to it.
    ///
    /// # Errors
    /// When the interface is gone or down, the host does not have `source`, or the kernel refuses.
    pub async fn put_route(
        &self,
        link: &Link,
        prefix: Ipv4Net,
        source: Option<Ipv4Addr>,
    ) -> Result<(), RequestError> {
        let mut message = to_neighbours(link, prefix);
        if let Some(source) = source {
            let source = RouteAttribute::PrefSource(RouteAddress::Inet(source));
            message.attributes.push(source);
        }
        let request = self.handle.route().add(message).replace().execute();
        answer(&format!("route {prefix} to {}", link.name), request).await
    }

    /// Removes such a route. Returns whether there was one.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn delete_route(&self, link: &Link, prefix: Ipv4Net) -> Result<bool, RequestError> {
        let request = self.handle.route().del(to_neighbours(link, prefix));
        let what = format!("remove the route of {prefix} to {}", link.name);
        match answer(&what, request.execute()).await {
            Err(error) if error.errno() == Some(libc::ESRCH) => Ok(false),
            result => result.map(|()| true),
        }
    }
}

fn to_neighbours(link: &Link, prefix: Ipv4Net) -> RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(prefix.addr(), prefix.prefix_len())
        .output_interface(link.index)
        .scope(RouteScope::Link)
        .build()
}
