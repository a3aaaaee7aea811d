//! What the host is like, as far as natbpf's rules and programs depend on it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context as _, Result};
use nat_config::model::Config;
use nat_sys::netlink::{Address, AddressScope, Link, LinkRoute, Netlink};

use super::policed::Bounds;
use crate::host::{
    bridge_netfilter::BridgeNetfilter,
    policing::Policing,
    xdp_features::{XdpFeatures, xdp_features},
};

/// The host at one moment.
pub(super) struct Host {
    pub(super) links: Vec<Link>,
    pub(super) addresses: Vec<Address>,
    pub(super) ipv6_addresses: Vec<Address<Ipv6Addr>>,
    pub(super) bridge_netfilter: BridgeNetfilter,
    pub(super) routes: Vec<LinkRoute>,
    /// As far as a network's prefix may be on an uplink's link.
    pub(super) ipv6_routes: Vec<LinkRoute<Ipv6Addr>>,
    /// What drivers can do with XDP, by index.
    pub(super) xdp: BTreeMap<u32, XdpFeatures>,
    pub(super) policing: Policing,
    /// By index.
    uplinks: BTreeSet<u32>,
}

impl Host {
    /// Reads from the kernel what a configuration depends on.
    pub(super) async fn read(netlink: &Netlink, config: &Config) -> Result<Self> {
        let links = netlink.links().await?;
        let index = |name: &String| {
            let link = links.iter().find(|link| link.name == *name);
            link.map(|link| link.index)
        };
        let uplinks = config.uplinks.iter().map(|uplink| &uplink.interface);
        let uplinks: BTreeSet<u32> = uplinks.filter_map(index).collect();
        let networks = config.networks.iter().map(|network| &network.interface);
        let ends = networks.filter_map(index).chain(uplinks.iter().copied());
        Ok(Self {
            policing: Policing::look(&links, &ends.collect())?,
            addresses: netlink.addresses().await?,
            ipv6_addresses: netlink.addresses_in().await?,
            bridge_netfilter: BridgeNetfilter::read()?,
            routes: netlink.routes().await?,
            ipv6_routes: match config.networks.iter().any(|network| network.ndp.is_some()) {
                true => netlink.main_routes().await?,
                false => Vec::new(),
            },
            xdp: xdp_features().context("ask drivers for XDP")?,
            links,
            uplinks,
        })
    }

    /// What limits the fast path.
    pub(super) fn bounds(&self) -> Bounds<'_> {
        Bounds {
            policing: &self.policing,
            links: &self.links,
            uplinks: &self.uplinks,
        }
    }

    /// An interface by its name.
    pub(super) fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// An interface by its index.
    pub(super) fn link_at(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    /// The addresses of an interface, first the one that the host itself would use: the kernel
    /// lists those of narrower scopes before it.
    pub(super) fn addresses_of(&self, link: &Link) -> Vec<Ipv4Addr> {
        let own = self
            .addresses
            .iter()
            .filter(|address| address.ifindex == link.index);
        let mut own: Vec<&Address> = own.collect();
        own.sort_by_key(|address| (address.scope != AddressScope::Universe, address.secondary));
        own.into_iter().map(|address| address.net.addr()).collect()
    }

    /// The IPv6 addresses of an interface that are there to stay and are valid everywhere, in the
    /// order in which they were added.
    pub(super) fn lasting_ipv6_of(&self, link: &Link) -> impl Iterator<Item = Ipv6Addr> {
        let own = self.ipv6_addresses.iter().filter(|address| {
            let is_global = address.scope == AddressScope::Universe;
            address.ifindex == link.index && is_global && address.is_stable
        });
        own.map(|address| address.net.addr())
    }

    /// The IPv6 addresses of an interface that can be external ones: of those that are there to
    /// stay, unique local ones count only if there are no others.
    pub(super) fn ipv6_addresses_of(&self, link: &Link) -> Vec<Ipv6Addr> {
        let own = self.lasting_ipv6_of(link);
        let (local, global): (Vec<_>, Vec<_>) = own.partition(Ipv6Addr::is_unique_local);
        if global.is_empty() { local } else { global }
    }
}
