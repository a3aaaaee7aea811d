//! The first stage: what a configuration needs on this host. It changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::Hash,
    net::{Ipv4Addr, Ipv6Addr},
};

use nat_common::tables::interfaces::{Interface, InterfaceFlags, role};
use nat_config::{
    compile::{Environment, Sources, compile, compile_ipv6},
    model::{Claim, Config, NetworkId},
};
use nat_sys::netlink::{Family, Layer};

use super::active::{Applied, Wanted};
use crate::{
    daemon::{
        answers::answers, external, host::Host, identity::said, interfaces::interfaces, mode,
    },
    dataplane::{
        Rulesets,
        attach::{Role, Target, XdpWish},
    },
    host::{
        change::Change,
        routing::{self, Routing},
    },
    state::Numbers,
};

/// What the data plane is to be told.
pub(super) struct Compiled<'a> {
    pub(super) wanted: Wanted<'a>,
    pub(super) environment: Environment,
    pub(super) numbers: Numbers,
    pub(super) rulesets: Rulesets,
    /// By index.
    pub(super) interfaces: BTreeMap<u32, Interface>,
    pub(super) targets: Vec<Target>,
}

impl<'a> Compiled<'a> {
    /// Recognises rules that have other names now by their content.
    pub(super) fn new(wanted: Wanted<'a>, numbers: &Numbers) -> Self {
        let mut numbers = numbers.clone();
        let said = said(wanted.config);
        numbers.recognise(&said);
        let mut compiled = Self::of(wanted, numbers);
        compiled.numbers.describe(&said);
        compiled
    }

    /// The configuration is the one that the numbers belong to.
    pub(super) fn unchanged(wanted: Wanted<'a>, numbers: &Numbers) -> Self {
        Self::of(wanted, numbers.clone())
    }

    fn of(wanted: Wanted<'a>, mut numbers: Numbers) -> Self {
        let Wanted { config, host, .. } = wanted;
        let environment = environment(wanted);
        let rulesets = Rulesets {
            ipv4: compile(config, &environment, &mut numbers),
            ipv6: config.ipv6.as_ref().map(|_| {
                let environment = environment_of_ipv6(wanted);
                compile_ipv6(config, &environment, &mut numbers)
            }),
            answers: answers(config, host, &numbers),
        };
        let interfaces = interfaces(config, &host.bounds(), host.bridge_netfilter, &numbers);
        Self {
            targets: targets(config, host, &interfaces),
            wanted,
            environment,
            numbers,
            rulesets,
            interfaces,
        }
    }

    /// What the data plane was told once all is written.
    pub(super) fn applied(self) -> Applied {
        let host = self.wanted.host;
        Applied {
            rulesets: self.rulesets,
            targets: self.targets,
            interfaces: self.interfaces,
            bridge_netfilter: host.bridge_netfilter,
            policing: host.policing.clone(),
        }
    }
}

fn environment(wanted: Wanted<'_>) -> Environment {
    let Wanted {
        config,
        host,
        changes,
        claims,
        ..
    } = wanted;
    let own = |interface: &str| {
        let link = host.link(interface);
        let own = link.map(|link| host.addresses_of(link));
        without_added(own.unwrap_or_default(), interface, changes)
    };
    let uplinks = config.uplinks.iter();
    let uplink_addresses: Vec<_> = uplinks.map(|uplink| own(&uplink.interface)).collect();
    let sources = config.uplinks.iter().zip(&uplink_addresses);
    let sources = sources.map(|(uplink, own)| {
        let candidates = uplink.addresses.or(own);
        let device = host.link(&uplink.interface).map_or(0, |link| link.index);
        routing::sources(device, &host.routes, &host.addresses, candidates)
    });
    Environment {
        sources: sources.collect(),
        places: places(config, host),
        uplink_addresses,
        host_addresses: host
            .addresses
            .iter()
            .map(|address| address.net.addr())
            .collect(),
        silent: claims.silent(config),
    }
}

/// An interface's addresses without those that natbpf has put there.
fn without_added<A: Family + Hash>(mut own: Vec<A>, interface: &str, changes: &[Change]) -> Vec<A> {
    let added = external::added_to::<A>(interface, changes);
    own.retain(|address| !added.contains(address));
    own
}

fn environment_of_ipv6(wanted: Wanted<'_>) -> Environment<Ipv6Addr> {
    let Wanted {
        config,
        host,
        changes,
        ..
    } = wanted;
    let own = |interface: &str| {
        let link = host.link(interface);
        let own = link.map(|link| host.ipv6_addresses_of(link));
        without_added(own.unwrap_or_default(), interface, changes)
    };
    let uplinks = config.uplinks.iter();
    let uplink_addresses: Vec<_> = uplinks.map(|uplink| own(&uplink.interface)).collect();
    let sources = config.uplinks.iter().zip(&uplink_addresses);
    let sources = sources.map(|(uplink, own)| {
        let candidates = uplink.addresses6.or(own);
        Sources {
            first: candidates.first().copied(),
            others: Vec::new(),
        }
    });
    Environment {
        sources: sources.collect(),
        uplink_addresses,
        host_addresses: host
            .ipv6_addresses
            .iter()
            .map(|address| address.net.addr())
            .collect(),
        silent: unclaimed(config),
        ..Environment::default()
    }
}

/// The external IPv6 addresses that other software handles.
fn unclaimed(config: &Config) -> BTreeSet<Ipv6Addr> {
    let named = config.named::<Ipv6Addr>();
    let unclaimed = named.filter(|named| config.uplinks[named.uplink.0].claim == Claim::None);
    unclaimed.flat_map(|named| named.addresses()).collect()
}

/// Behind which networks the host's routes place the guests of rules. A guest behind an uplink, or
/// without a route, counts as unknown: an interface may be down for a moment.
fn places(config: &Config, host: &Host) -> HashMap<Ipv4Addr, Option<NetworkId>> {
    let routing = Routing::new(&host.routes);
    let index = |name: &str| host.link(name).map(|link| link.index);
    let uplinks = config.uplinks.iter();
    let uplinks: Vec<_> = uplinks.map(|uplink| index(&uplink.interface)).collect();
    let networks = config.networks.iter();
    let networks: Vec<_> = networks.map(|network| index(&network.interface)).collect();
    let forwards = config.forwards.iter().map(|rule| &rule.to);
    let targets = forwards.chain(config.nats.iter().map(|rule| &rule.to));
    targets
        .filter_map(|to| {
            let to = to.now()?;
            let device = routing.to(to)?.device;
            if device.is_none() || uplinks.contains(&device) {
                return None;
            }
            let network = networks.iter().position(|network| *network == device);
            let by_prefix = config.networks.iter();
            let mut by_prefix = by_prefix.map(|network| network.holds(to));
            // A guest inside its network's prefix needs no entry.
            let is_known = by_prefix.position(|holds| holds) == network && network.is_some();
            (!is_known).then_some((to, network.map(NetworkId)))
        })
        .collect()
}

/// The existing interfaces, as described to the programs.
fn targets(config: &Config, host: &Host, interfaces: &BTreeMap<u32, Interface>) -> Vec<Target> {
    let uplinks = config.uplinks.iter().filter_map(|uplink| {
        let link = host.link(&uplink.interface)?;
        let choice = mode::choose(config, uplink, link, &host.links, &host.xdp);
        Some((link, Role::Uplink, choice.xdp))
    });
    let networks = config.networks.iter().filter_map(|network| {
        let link = host.link(&network.interface)?;
        let role = match network.is_nat64 {
            true => Role::Nat64,
            false => Role::Network,
        };
        Some((link, role, XdpWish::No))
    });
    let ports = interfaces
        .iter()
        .filter(|(_, interface)| interface.role == role::PORT)
        .filter_map(|(index, interface)| {
            let link = host.links.iter().find(|link| link.index == *index)?;
            let role = match interface.flags.contains(InterfaceFlags::GUARDED) {
                false => Role::Port,
                true => Role::GuardedPort,
            };
            Some((link, role, XdpWish::No))
        });
    uplinks
        .chain(networks)
        .chain(ports)
        .map(|(link, role, xdp)| Target {
            name: link.name.clone(),
            index: link.index,
            role,
            has_ethernet: link.layer == Layer::Ethernet,
            ipv6: config.ipv6.is_some(),
            prefixes: (config.ipv6.as_ref()).is_some_and(|ipv6| !ipv6.prefixes.is_empty()),
            xdp,
        })
        .collect()
}
