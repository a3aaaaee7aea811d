//! What the host should look like, as far as the configuration is about interfaces.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use nat_config::model::{
    self, Claim, Config, Forwarding, Mode, NetworkId, UplinkAddresses, UplinkId,
};
use nat_sys::netlink::Link;

use super::links::named;
use crate::host::change::Change;

/// What the host should look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The ways to the outside.
    pub uplinks: Vec<Uplink>,
    /// The inside networks.
    pub networks: Vec<Network>,
    /// The addresses that are routed to guests.
    pub routes: Vec<Route>,
    /// Whether IPv6 is routed too.
    pub has_ipv6: bool,
    /// Whether packets of established sessions go past the kernel.
    pub has_fast_path: bool,
    /// How many networks are served by a dnsmasq of their own.
    pub served_networks: u32,
}

/// What an uplink asks of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// The name in `[uplink.NAME]`.
    pub name: String,
    /// The interface, which must exist.
    pub interface: String,
    /// Addresses that it is to have where no interface of the host has them.
    pub addresses: Vec<IpAddr>,
    /// IPv6 addresses for which the programs answer there where no interface of the host has them.
    pub answered: Vec<Ipv6Addr>,
    /// Whether its driver must take an XDP program.
    pub needs_xdp: bool,
}

/// What a network asks of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// The name in `[network.NAME]`.
    pub name: String,
    /// The bridge or plain interface.
    pub interface: String,
    /// The addresses that it is to have, each with the length of its prefix.
    pub addresses: Vec<IpNet>,
    /// Whose IPv6 prefixes are on the link of this uplink's interface, where the programs answer
    /// for the guests.
    pub ndp: Option<String>,
    /// The IPv6 addresses of its guests, as far as the configuration names them.
    pub guests: Vec<Ipv6Addr>,
    /// Whether to make the bridge if it is missing.
    pub create: bool,
    /// Whether it is NAT64's device, and not a bridge.
    pub is_nat64: bool,
    /// Interfaces to attach to the bridge if natbpf made it.
    pub ports: Vec<String>,
    /// Whether these ports may not reach each other by the bridge.
    pub isolated: bool,
}

/// What a `[[route]]` needs from the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Its name.
    pub name: String,
    /// The interface behind which the guests are.
    pub interface: String,
    /// Their addresses.
    pub prefixes: Vec<IpNet>,
    /// The interface of the uplink whose address the host shows to the guests.
    pub uplink: String,
    /// The uplink's addresses of both families, as far as the configuration names them.
    pub uplink_addresses: Vec<IpAddr>,
    /// An address that the guests' interface is to have as well.
    pub gateway: Option<Ipv4Addr>,
    /// Whether the host answers ARP of guests for other addresses.
    pub proxy_arp: bool,
    /// Whether the host answers ARP on the uplink for the guests.
    pub arp: bool,
}

/// How far a plan is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Up to the point before packets are forwarded: bridges are created and stay down, and
    /// interfaces that are no longer networks stop forwarding.
    BeforePrograms,
    /// Completely. The programs are attached.
    Whole,
}

impl Plan {
    /// The part of a configuration that is about interfaces.
    #[must_use]
    pub fn from_config(config: &Config) -> Self {
        let claimed = config.claimed_addresses();
        let claimed_ipv6 = config.claimed::<Ipv6Addr>();
        let addresses_of = |id: UplinkId| {
            let ipv4 = claimed.iter().filter(|(_, uplink)| **uplink == id);
            let ipv6 = claimed_ipv6.iter().filter(|(_, uplink)| **uplink == id);
            let ipv4 = ipv4.map(|(address, _)| IpAddr::from(*address));
            ipv4.chain(ipv6.map(|(address, _)| IpAddr::from(*address)))
                .collect()
        };
        let uplinks = config.uplinks.iter().zip((0..).map(UplinkId));
        let uplinks = uplinks.map(|(uplink, id)| Uplink {
            name: uplink.name.clone(),
            interface: uplink.interface.clone(),
            addresses: addresses_of(id),
            answered: answered(config, id),
            needs_xdp: uplink.mode == Mode::Xdp && config.forwarding == Forwarding::Fast,
        });
        let networks = config.networks.iter().zip((0..).map(NetworkId));
        let networks = networks.map(|(network, id)| Network {
            ndp: network
                .ndp
                .map(|uplink| config.uplinks[uplink.0].interface.clone()),
            guests: guests_of(config, id).collect(),
            name: network.name.clone(),
            interface: network.interface.clone(),
            addresses: each_address(network).collect(),
            create: network.create,
            is_nat64: network.is_nat64,
            ports: network.ports.clone(),
            isolated: network.isolated,
        });
        Self {
            uplinks: uplinks.collect(),
            networks: networks.collect(),
            routes: (config.routes.iter())
                .map(|route| Route::from_config(config, route))
                .collect(),
            has_ipv6: config.ipv6.is_some(),
            has_fast_path: config.forwarding == Forwarding::Fast,
            served_networks: (config.networks.iter())
                .filter(|network| network.is_served())
                .count() as u32,
        }
    }

    /// The part of the plan whose interfaces exist or will be created.
    pub(super) fn present(&self, links: &[Link]) -> Self {
        let is_there = |name: &str| named(links, name).is_some();
        let mut present = self.clone();
        present.uplinks.retain(|uplink| is_there(&uplink.interface));
        present
            .networks
            .retain(|network| network.create || is_there(&network.interface));
        let has_network = |name: &str| (present.networks.iter()).any(|one| one.interface == name);
        present
            .routes
            .retain(|route| has_network(&route.interface) && is_there(&route.uplink));
        present
    }

    /// Whether a change is to an interface that the plan still has, or to none in particular.
    pub(super) fn is_about(&self, change: &Change) -> bool {
        let has = |name: &str| self.interfaces().any(|interface| interface == name);
        let mut ports = self.networks.iter().flat_map(|network| &network.ports);
        match change {
            Change::Sysctl { key, .. } => key.interface().is_none_or(has),
            Change::Bridge { name, .. } => has(name),
            Change::Port { bridge, .. } => has(bridge),
            Change::LinkUp { name, .. } => has(name) || ports.any(|port| port == name),
            Change::Address { interface, .. }
            | Change::Route { interface, .. }
            | Change::Proxy { interface, .. }
            | Change::AllGroups { interface, .. } => has(interface),
        }
    }

    fn interfaces(&self) -> impl Iterator<Item = &str> {
        let uplinks = self.uplinks.iter().map(|uplink| uplink.interface.as_str());
        let networks = self
            .networks
            .iter()
            .map(|network| network.interface.as_str());
        uplinks.chain(networks)
    }
}

impl Route {
    fn from_config(config: &Config, route: &model::Route) -> Self {
        let uplink = &config.uplinks[route.uplink.0];
        Self {
            name: route.name.clone(),
            interface: config.networks[route.network.0].interface.clone(),
            prefixes: each_prefix(route).collect(),
            uplink: uplink.interface.clone(),
            uplink_addresses: [fixed(&uplink.addresses), fixed(&uplink.addresses6)].concat(),
            gateway: route.gateway,
            proxy_arp: route.proxy_arp,
            arp: route.arp,
        }
    }

    /// The IPv4 addresses, one after the other.
    pub(super) fn each_address(&self) -> impl Iterator<Item = Ipv4Addr> {
        let ranges = self.prefixes.iter().filter_map(|prefix| match prefix {
            IpNet::V4(prefix) => Some(prefix),
            IpNet::V6(_) => None,
        });
        ranges.flat_map(|prefix| {
            let range = u32::from(prefix.network())..=u32::from(prefix.broadcast());
            range.map(Ipv4Addr::from)
        })
    }
}

fn each_address(network: &model::Network) -> impl Iterator<Item = IpNet> {
    let ipv4 = network.address.map(IpNet::from).into_iter();
    ipv4.chain(network.written6().iter().copied().map(IpNet::from))
}

/// How many IPv6 addresses of an uplink are answered for and announced.
const MOST_ANSWERED: usize = 256;

/// The external IPv6 addresses for which the programs answer on an uplink.
fn answered(config: &Config, id: UplinkId) -> Vec<Ipv6Addr> {
    let named = config.named::<Ipv6Addr>().filter(|named| {
        let is_there = named.guest.is_none_or(|guest| guest.now().is_some());
        named.uplink == id && config.uplinks[id.0].claim == Claim::Arp && is_there
    });
    let all = named.flat_map(|named| named.addresses());
    all.take(MOST_ANSWERED).collect()
}

/// The IPv6 addresses of guests in a network that they hold now.
fn guests_of(config: &Config, network: NetworkId) -> impl Iterator<Item = Ipv6Addr> {
    let guests = config.guests.iter();
    let guests = guests.filter(move |guest| guest.network == network);
    let routes = config.routes.iter();
    let routes = routes.filter(move |route| route.network == network);
    let routed = routes.flat_map(|route| &route.addresses6);
    let single = routed.filter(|prefix| prefix.prefix_len() == 128);
    let named = guests.flat_map(|guest| guest.addresses6.iter().filter_map(|one| one.now()));
    named.chain(single.map(|prefix| prefix.addr()))
}

fn each_prefix(route: &model::Route) -> impl Iterator<Item = IpNet> {
    let ipv4 = route.addresses.iter().copied().map(IpNet::from);
    ipv4.chain(route.addresses6.iter().copied().map(IpNet::from))
}

fn fixed<A: Copy + Into<IpAddr>>(addresses: &UplinkAddresses<A>) -> Vec<IpAddr> {
    match addresses {
        UplinkAddresses::Fixed(addresses) => addresses.iter().copied().map(A::into).collect(),
        UplinkAddresses::Interface => Vec::new(),
    }
}
