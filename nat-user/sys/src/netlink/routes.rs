//! Routes: their MTUs, and routes to guests.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily,
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric,
        RouteProtocol, RouteScope, RouteType,
    },
};
use rtnetlink::RouteMessageBuilder;

use super::{
    connection::{Netlink, RequestError, answer, collect},
    family::{Family, family},
    links::Link,
};

/// The MTU that a route sets for its packets (`ip route … mtu`), once for each of its next
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
    /// The MTUs of all routes of a family, or of both, that set one, in all tables. What the kernel
    /// has learned of single destinations (path MTU discovery) is not among them.
    ///
    /// It reads all routes.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn route_mtus<A: Family>(&self) -> Result<Vec<RouteMtu>, RequestError> {
        let messages = self.route_messages(A::FAMILIES).await?;
        Ok(messages.iter().flat_map(RouteMtu::parse).collect())
    }

    async fn route_messages(
        &self,
        families: &[AddressFamily],
    ) -> Result<Vec<RouteMessage>, RequestError> {
        let mut messages = Vec::new();
        for family in families {
            let start = || {
                let mut any = RouteMessageBuilder::<IpAddr>::new().build();
                any.header.address_family = *family;
                self.handle.route().get(any).execute()
            };
            // A kernel without IPv6 answers with what it has.
            let found = self.list("list routes", start).await?.into_iter();
            messages.extend(found.filter(|route| route.header.address_family == *family));
        }
        Ok(messages)
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

/// The metric of an IPv6 route that names none (`IP6_RT_PRIO_USER` in `linux/ipv6_route.h`).
const USUAL_METRIC_IPV6: u32 = 1024;

/// A route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkRoute<A: Family = Ipv4Addr> {
    /// Where to.
    pub prefix: A::Net,
    /// The interface by which packets leave, by index; none if there are several or none.
    pub device: Option<u32>,
    /// The router that they are handed to.
    pub gateway: Option<A>,
    /// Of the routes to one prefix, the one with the lowest metric counts.
    pub metric: u32,
    /// The source address of the host's own packets.
    pub source: Option<A>,
    /// Whether the kernel drops its packets (`blackhole`, `unreachable`, `prohibit`).
    pub drops: bool,
    /// Whether it is in the main table, which counts unless a rule says otherwise.
    pub is_main: bool,
    /// Whether the kernel has it from a router advertisement (RFC 4861 section 6.3.4).
    pub is_advertised: bool,
}

/// The metric of a route to a prefix that names none.
#[must_use]
pub fn usual_metric(prefix: IpNet) -> u32 {
    match prefix {
        IpNet::V4(_) => 0,
        IpNet::V6(_) => USUAL_METRIC_IPV6,
    }
}

impl<A: Family> LinkRoute<A> {
    fn parse(message: &RouteMessage) -> Option<Self> {
        let header = &message.header;
        if header.table == LOCAL_TABLE || header.flags.contains(RouteFlags::Cloned) {
            return None;
        }
        let length = header.destination_prefix_length;
        let any: IpAddr = match header.address_family {
            AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
            _ => Ipv4Addr::UNSPECIFIED.into(),
        };
        let mut route = Self {
            prefix: A::of(any)?.net(length)?,
            device: None,
            gateway: None,
            metric: 0,
            source: None,
            drops: matches!(
                header.kind,
                RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit
            ),
            is_main: header.table == RouteHeader::RT_TABLE_MAIN,
            is_advertised: header.protocol == RouteProtocol::Ra,
        };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(address) => {
                    route.prefix = of::<A>(address)?.net(length)?;
                }
                RouteAttribute::Oif(index) => route.device = Some(*index),
                RouteAttribute::Gateway(router) => route.gateway = of(router),
                RouteAttribute::Priority(metric) => route.metric = *metric,
                RouteAttribute::PrefSource(address) => route.source = of(address),
                _ => {}
            }
        }
        Some(route)
    }
}

fn of<A: Family>(address: &RouteAddress) -> Option<A> {
    match address {
        RouteAddress::Inet(address) => A::of((*address).into()),
        RouteAddress::Inet6(address) => A::of((*address).into()),
        _ => None,
    }
}

impl Netlink {
    /// The routes of the main table, of a family or of both.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn main_routes<A: Family>(&self) -> Result<Vec<LinkRoute<A>>, RequestError> {
        let mut routes = self.routes().await?;
        routes.retain(|route| route.is_main);
        Ok(routes)
    }

    /// The IPv4 routes of the main table, as routes of either family.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn main_ipv4_routes(&self) -> Result<Vec<LinkRoute<IpAddr>>, RequestError> {
        let messages = self.route_messages(Ipv4Addr::FAMILIES).await?;
        let routes = messages.iter().filter_map(LinkRoute::parse);
        Ok(routes.filter(|route| route.is_main).collect())
    }

    /// The routes of all tables except the one for the host's own addresses, of a family or of
    /// both.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn routes<A: Family>(&self) -> Result<Vec<LinkRoute<A>>, RequestError> {
        let messages = self.route_messages(A::FAMILIES).await?;
        Ok(messages.iter().filter_map(LinkRoute::parse).collect())
    }

    /// Routes a prefix to neighbours on an interface; replaces another route to it of this metric.
    ///
    /// # Errors
    /// When the interface is gone or down, the host does not have `source`, or the kernel refuses.
    pub async fn put_route(
        &self,
        link: &Link,
        prefix: IpNet,
        source: Option<IpAddr>,
        metric: Option<u32>,
    ) -> Result<(), RequestError> {
        let mut message = to_neighbours(link, prefix, metric);
        if let Some(source) = source {
            let source = RouteAttribute::PrefSource(source.into());
            message.attributes.push(source);
        }
        let request = self.handle.route().add(message).replace().execute();
        answer(&format!("route {prefix} to {}", link.name), request).await
    }

    /// Removes such a route. Returns whether there was one.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn delete_route(
        &self,
        link: &Link,
        prefix: IpNet,
        metric: Option<u32>,
    ) -> Result<bool, RequestError> {
        let request = self.handle.route().del(to_neighbours(link, prefix, metric));
        let what = format!("remove the route of {prefix} to {}", link.name);
        match answer(&what, request.execute()).await {
            Err(error) if error.errno() == Some(libc::ESRCH) => Ok(false),
            result => result.map(|()| true),
        }
    }
}

fn to_neighbours(link: &Link, prefix: IpNet, metric: Option<u32>) -> RouteMessage {
    let mut message = RouteMessageBuilder::<IpAddr>::new()
        .output_interface(link.index)
        .scope(RouteScope::Link)
        .build();
    message.header.address_family = family(prefix.addr());
    message.header.destination_prefix_length = prefix.prefix_len();
    message
        .attributes
        .push(RouteAttribute::Destination(prefix.addr().into()));
    // The kernel takes any metric for 0 when it removes an IPv6 route.
    let usual = usual_metric(prefix);
    let metric = metric.or((usual != 0).then_some(usual));
    message
        .attributes
        .extend(metric.map(RouteAttribute::Priority));
    message
}
