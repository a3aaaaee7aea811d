//! What `natbpf status` shows of each interface: its hooks, and why the fast path uses them.

use std::{collections::BTreeMap, net::IpAddr};

use nat_common::tables::interfaces::Interface;
use nat_config::model::{Config, Forwarding, Uplink};
use nat_sys::netlink::{Kind, Layer, Link};

use super::{fast_path::is_open_port, host::Host, mode};
use crate::{
    dataplane::attach::{Mechanism, Role, Target, XdpWish},
    state::InterfaceState,
};

/// What the states are made from.
#[derive(Clone, Copy)]
pub(super) struct Attachments<'a> {
    pub(super) config: &'a Config,
    pub(super) host: &'a Host,
    /// What the programs know of interfaces, by index.
    pub(super) interfaces: &'a BTreeMap<u32, Interface>,
    /// Where programs are attached.
    pub(super) targets: &'a [Target],
    /// Where XDP is not, by index, and why.
    pub(super) refused: &'a [(u32, String)],
}

impl Attachments<'_> {
    /// The state of each uplink and network.
    pub(super) fn states(&self) -> Vec<InterfaceState> {
        let uplinks = self.config.uplinks.iter();
        let uplinks = uplinks.map(|up| self.state("uplink", &up.name, &up.interface));
        let networks = self.config.networks.iter();
        let networks = networks.map(|net| self.state("network", &net.name, &net.interface));
        uplinks.chain(networks).collect()
    }

    fn state(&self, role: &str, owner: &str, name: &str) -> InterfaceState {
        let link = self.host.link(name);
        let index = link.map_or(0, |link| link.index);
        let target = self.targets.iter().find(|target| target.index == index);
        let addresses = link.map(|link| self.addresses(link));
        let mss = self.interfaces.get(&index).map(|interface| interface.mss);
        InterfaceState {
            name: name.to_owned(),
            index,
            role: role.to_owned(),
            owner: owner.to_owned(),
            hooks: target.map(Target::hooks).unwrap_or_default(),
            attachment: Mechanism::of_kernel().name().to_owned(),
            addresses: addresses.unwrap_or_default(),
            external: Vec::new(),
            fast_path: link.map(|link| self.fast_path(link)).unwrap_or_default(),
            mss: mss.filter(|mss| *mss != 0),
        }
    }

    /// The addresses of an interface, those of IPv6 only if the configuration names it.
    fn addresses(&self, link: &Link) -> Vec<IpAddr> {
        let ipv4 = self.host.addresses_of(link).into_iter().map(IpAddr::V4);
        let ipv6 = match &self.config.ipv6 {
            Some(_) => self.host.lasting_ipv6_of(link).collect(),
            None => Vec::new(),
        };
        ipv4.chain(ipv6.into_iter().map(IpAddr::V6)).collect()
    }

    /// Describes which hooks the fast path uses on an interface, why, and what it leaves out.
    fn fast_path(&self, link: &Link) -> String {
        if self.config.forwarding == Forwarding::Kernel {
            return "off (forwarding = \"kernel\")".to_owned();
        }
        let mut uplinks = self.config.uplinks.iter();
        let hooks = match uplinks.find(|uplink| uplink.interface == link.name) {
            Some(uplink) => self.hooks_of_uplink(uplink, link),
            None => self.hooks_of_network(link),
        };
        let Some(hooks) = hooks else {
            return "off (no Ethernet header)".to_owned();
        };
        let has_xdp = self.targets.iter().any(|target| target.xdp != XdpWish::No);
        let exceptions = self.host.bounds().exceptions(link, has_xdp);
        [vec![hooks], exceptions].concat().join("; ")
    }

    /// The hooks that the fast path uses on an uplink, and why; `None` if it uses none.
    fn hooks_of_uplink(&self, uplink: &Uplink, link: &Link) -> Option<String> {
        let host = self.host;
        let choice = mode::choose(self.config, uplink, link, &host.links, &host.xdp);
        let mut refused = self.refused.iter();
        let why = refused
            .find(|(index, _)| *index == link.index)
            .map_or(choice.why, |(_, why)| why.clone());
        let mut targets = self.targets.iter();
        let has_xdp = targets.any(|target| target.index == link.index && target.xdp != XdpWish::No);
        match (has_xdp, link.layer) {
            (true, _) => Some(format!("xdp and tc ({why})")),
            (false, Layer::Ethernet) => Some(format!("tc ({why})")),
            (false, _) => None,
        }
    }

    /// The hooks that the fast path uses on a network; `None` if it uses none.
    fn hooks_of_network(&self, link: &Link) -> Option<String> {
        let is_port = |target: &&Target| matches!(target.role, Role::Port | Role::GuardedPort);
        let is_open = |target: &&Target| {
            let port = self.host.link_at(target.index);
            port.is_some_and(|port| {
                port.master == Some(link.index) && is_open_port(port, link, &self.host.bounds())
            })
        };
        match (link.kind == Kind::Bridge, link.layer) {
            (true, _) => {
                let ports = self.targets.iter().filter(is_port).filter(is_open);
                Some(format!("tc at {} ports", ports.count()))
            }
            (false, Layer::Ethernet) => Some("tc".to_owned()),
            (false, _) => None,
        }
    }
}
