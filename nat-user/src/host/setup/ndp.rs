//! Networks whose IPv6 prefixes are on an uplink's link (`ndp`).

use std::net::{IpAddr, Ipv6Addr};

use anyhow::{Context as _, Result};
use ipnet::{IpNet, Ipv6Net};
use nat_sys::netlink::{Address, Layer, Link};

use super::{
    links::{Routed, named},
    plan::{Network, Plan},
    routes::vanished,
    run::Run,
};
use crate::host::change::Change;

/// The metric of routes to prefixes that are on an uplink's link too, whose route has 256
/// (`IP6_RT_PRIO_ADDRCONF` in `linux/ipv6_route.h`).
const BEFORE_THE_LINK: u32 = 128;

/// How many groups of guests are joined on an uplink.
const MOST_GROUPS: usize = 256;

impl Network {
    /// The guests that the configuration names and that are on an uplink's link.
    fn shared_guests(&self) -> impl Iterator<Item = Ipv6Addr> {
        let is_shared = |guest: &Ipv6Addr| self.shared().any(|prefix| prefix.contains(guest));
        let guests = self.guests.iter().copied();
        guests.filter(move |guest| is_shared(guest))
    }

    /// The prefixes that are on an uplink's link: unique local ones are not.
    fn shared(&self) -> impl Iterator<Item = Ipv6Net> {
        let own = self.addresses.iter().filter_map(|net| match net {
            IpNet::V6(net) => Some(*net),
            IpNet::V4(_) => None,
        });
        let public = own.filter(|net| !net.addr().is_unique_local());
        public.map(|net| net.trunc())
    }
}

impl Plan {
    /// The IPv6 addresses that neighbours on an uplink's link reach by this host, each with the
    /// uplink's interface: of guests that the configuration names, and external ones.
    pub fn reached_by_links(&self) -> impl Iterator<Item = (&str, Ipv6Addr)> {
        let external = self.uplinks.iter().flat_map(|uplink| {
            let added = uplink.addresses.iter().filter_map(|address| match address {
                IpAddr::V6(address) => Some(*address),
                IpAddr::V4(_) => None,
            });
            let all = added.chain(uplink.answered.iter().copied());
            all.map(|address| (uplink.interface.as_str(), address))
        });
        let networks = self.networks.iter();
        let on_link = networks.filter_map(|network| Some((network.ndp.as_deref()?, network)));
        let guests = on_link.flat_map(|(uplink, network)| {
            let guests = network.shared_guests();
            guests.map(move |guest| (uplink, guest))
        });
        external.chain(guests)
    }
}

impl Run<'_> {
    /// Plans what external addresses and networks on an uplink's link need.
    pub(super) async fn plan_ndp(&mut self, plan: &Plan, links: &[Link]) -> Result<()> {
        let has_networks = plan.networks.iter().any(|network| network.ndp.is_some());
        let has_addresses = (plan.uplinks.iter()).any(|uplink| !uplink.answered.is_empty());
        if !has_networks && !has_addresses {
            return Ok(());
        }
        let proxies = self.netlink.proxies().await?;
        let addresses: Vec<Address<Ipv6Addr>> = self.netlink.addresses_in().await?;
        for uplink in &plan.uplinks {
            let link = named(links, &uplink.interface);
            let Some(link) = link.filter(|link| link.layer == Layer::Ethernet) else {
                continue;
            };
            let is_held =
                |wanted: &Ipv6Addr| addresses.iter().any(|held| held.net.addr() == *wanted);
            for address in uplink.answered.iter().filter(|wanted| !is_held(wanted)) {
                self.plan_group(*address, link, &proxies, links);
            }
        }
        if !has_networks {
            return Ok(());
        }
        let routes = self.netlink.main_routes().await?;
        for network in &plan.networks {
            let uplink = network.ndp.as_deref().and_then(|name| named(links, name));
            let Some(uplink) = uplink else {
                continue;
            };
            let name = &network.interface;
            let inside = named(links, name).with_context(|| vanished(name))?;
            for prefix in network.shared() {
                let before = (prefix.into(), Some(BEFORE_THE_LINK));
                self.plan_route(before, inside, None, &routes, links);
                for router in routers(prefix, uplink, &routes) {
                    let alone = (IpNet::from(IpAddr::from(router)), None);
                    self.plan_route(alone, uplink, None, &routes, links);
                }
            }
            if uplink.layer == Layer::Ethernet {
                self.plan_groups(network, uplink, &proxies, links);
            }
        }
        Ok(())
    }

    /// Plans that the uplink hears who asks for guests.
    fn plan_groups(
        &mut self,
        network: &Network,
        uplink: &Link,
        proxies: &[(u32, Ipv6Addr)],
        links: &[Link],
    ) {
        let all = Change::AllGroups {
            interface: uplink.name.clone(),
            ifindex: uplink.index,
        };
        self.want_once(all, uplink.all_groups, links);
        for guest in network.shared_guests().take(MOST_GROUPS) {
            self.plan_group(guest, uplink, proxies, links);
        }
    }

    /// Plans that the uplink hears who asks for one address.
    fn plan_group(
        &mut self,
        address: Ipv6Addr,
        uplink: &Link,
        proxies: &[(u32, Ipv6Addr)],
        links: &[Link],
    ) {
        let joined = Change::Proxy {
            address: address.into(),
            interface: uplink.name.clone(),
            ifindex: uplink.index,
        };
        self.want_once(joined, proxies.contains(&(uplink.index, address)), links);
    }

    /// As [`Self::want`], for what several networks need.
    fn want_once(&mut self, change: Change, is_so: bool, links: &[Link]) {
        let is_planned = |known: &Change| known.same_object(&change);
        if !self.todo.iter().chain(&self.kept).any(is_planned) {
            self.want(change, is_so, links);
        }
    }
}

/// The uplink's routers in a prefix, which guests must not be taken for.
fn routers(prefix: Ipv6Net, uplink: &Link, routes: &[Routed]) -> impl Iterator<Item = Ipv6Addr> {
    let by_uplink = routes
        .iter()
        .filter(|route| route.device == Some(uplink.index));
    by_uplink.filter_map(move |route| match route.gateway {
        Some(IpAddr::V6(router)) if prefix.contains(&router) => Some(router),
        _ => None,
    })
}
