//! Which interfaces lead outside and which to guests: a dump does not say it, but its rules reveal
//! it. Guesses are marked for a check.

mod guess;

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;

use super::{
    Options,
    condition::Condition,
    dump::Dump,
    family::{Family, has_hosts, is_of_link},
    flatten::{self, Step},
    ranges::Addresses,
    rule::Action,
};

/// A way to the outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Uplink {
    pub(super) name: String,
    pub(super) interface: String,
    /// Why the interface is only likely.
    pub(super) check: Option<String>,
    /// The addresses that are known to be on it.
    pub(super) addresses: Vec<IpAddr>,
}

/// A network of guests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Network {
    pub(super) name: String,
    pub(super) interface: String,
    pub(super) address: IpNet,
    /// Why the interface is only likely.
    pub(super) check_interface: Option<&'static str>,
    /// Why the address is only likely.
    pub(super) check_address: Option<&'static str>,
}

#[derive(Debug, Default)]
pub(super) struct Topology {
    pub(super) family: Family,
    pub(super) uplinks: Vec<Uplink>,
    pub(super) networks: Vec<Network>,
    /// Every inside address according to the rules.
    pub(super) inside: Vec<IpNet>,
    /// Prefixes of guests without a possible network, and why.
    pub(super) homeless: Vec<(IpNet, String)>,
    /// Known interfaces without a role.
    pub(super) unserved: Vec<String>,
}

impl Topology {
    pub(super) fn inside(&self) -> Addresses {
        let prefixes = self.inside.iter().map(|prefix| Addresses::prefix(*prefix));
        prefixes.fold(Addresses::empty(), |all, prefix| all.or(&prefix))
    }

    pub(super) fn network_of(&self, address: IpAddr) -> Option<&Network> {
        self.networks
            .iter()
            .find(|network| network.address.contains(&address))
    }

    /// The addresses around a guest: its network, or as many as such a network usually has.
    pub(super) fn neighbourhood(&self, guest: IpAddr) -> IpNet {
        let network = self
            .network_of(guest)
            .map(|network| network.address.trunc());
        let inside = || {
            self.inside
                .iter()
                .find(|prefix| prefix.contains(&guest))
                .copied()
        };
        network.or_else(inside).unwrap_or_else(|| around(guest))
    }
}

const BY_ELIMINATION: &str = "guests' connections come by it, but no rule says from which prefix";

fn around(guest: IpAddr) -> IpNet {
    IpNet::new_assert(guest, Family::of(guest).usual_length()).trunc()
}

/// Derives interfaces and networks from the rules and what is known of the host. Of the steps
/// before and after routing, those that can match count first, and then all.
pub(super) fn derive(
    dump: &Dump,
    [before, after]: [&[Step]; 2],
    [all_before, all_after]: [&[Step]; 2],
    options: &Options,
) -> Topology {
    let mut known: Vec<(String, IpNet)> = [&options.addresses[..], &dump.addresses].concat();
    known.retain(|(_, net)| Family::of(net.addr()) == dump.family && !is_of_link(net.addr()));
    let default_route = match dump.family {
        Family::V4 => options.default_route.clone(),
        Family::V6 => options.default_route6.clone(),
    };
    let default_route = default_route.or_else(|| dump.default_route.clone());
    let mut view = View {
        known,
        default_route: default_route.clone(),
        pairs: pairs_inside(dump, default_route.as_ref()),
        targets: targets(before),
        gateways: gateways(after),
        topology: Topology {
            family: dump.family,
            ..Topology::default()
        },
    };
    view.inside(after);
    view.known_networks();
    let seen_inside = view.interfaces_inside();
    view.uplinks(before, after, &seen_inside);
    view.uplinks(all_before, all_after, &seen_inside);
    if view.topology.uplinks.is_empty() {
        view.likely_uplink(dump, &seen_inside);
    }
    let left = view.unexplained_inputs(before, &seen_inside);
    view.guessed_networks(&left);
    view.doubt_several_uplinks();
    view.unserved();
    view.name();
    view.topology
}

struct View {
    known: Vec<(String, IpNet)>,
    default_route: Option<String>,
    /// Interfaces (or patterns) with the prefixes that are behind them according to rules.
    pairs: Vec<(String, IpNet)>,
    targets: Vec<IpAddr>,
    /// Addresses that guests' packets get, which may include the host's own inside address.
    gateways: Vec<IpAddr>,
    topology: Topology,
}

/// The one prefix that a set is, if it is one and not nearly everything.
fn prefix_of(addresses: &Addresses, family: Family) -> Option<IpNet> {
    match addresses.prefixes(family)[..] {
        [prefix] if prefix.prefix_len() >= 8 => Some(prefix),
        _ => None,
    }
}

/// The interface of the default route has everything behind it.
fn pairs_inside(dump: &Dump, default_route: Option<&String>) -> Vec<(String, IpNet)> {
    let mut pairs = pairs(dump);
    pairs.retain(|(interface, _)| default_route != Some(interface));
    pairs
}

/// The hooks whose packets pass through the host. A prefix that INPUT accepts need not be behind
/// the interface: it may come by a tunnel, or never.
const THROUGH: [(&str, &str); 3] = [
    ("nat", "PREROUTING"),
    ("nat", "POSTROUTING"),
    ("filter", "FORWARD"),
];

/// Where SNPT and DNPT are.
const OF_PREFIXES: [(&str, &str); 2] = [("mangle", "PREROUTING"), ("mangle", "POSTROUTING")];

fn pairs(dump: &Dump) -> Vec<(String, IpNet)> {
    let mut pairs = Vec::new();
    // (Too many rules of FORWARD only reveal less, and are no reason to refuse those of nat.)
    let through = match dump.family {
        Family::V4 => &THROUGH[..],
        Family::V6 => &[&THROUGH[..], &OF_PREFIXES].concat(),
    };
    let steps = through
        .iter()
        .map(|(table, hook)| flatten::steps(dump, table, hook));
    let steps: Vec<Vec<Step>> = steps.map(Result::unwrap_or_default).collect();
    for rule in steps.iter().flatten() {
        // Addresses that are dropped at an interface are not behind it.
        if matches!(rule.action, Action::Drop { .. }) {
            continue;
        }
        let Condition {
            sources,
            destinations,
            input,
            output,
            ..
        } = &rule.condition;
        let from = prefix_of(sources, dump.family);
        let to = prefix_of(destinations, dump.family);
        let behind = from.map(|from| (&input.is, from)).into_iter();
        let behind = behind.chain(to.map(|to| (&output.is, to)));
        // `-s 172.17.0.0/16 ! -o docker0`: packets that leave their own bridge.
        let behind = behind.chain(from.map(|from| (&output.is_not, from)));
        // Packets within a network get a source of that network.
        let gateway = match &rule.action {
            Action::Snat(choice) => choice.address(),
            _ => None,
        };
        let stays = from.filter(|from| gateway.is_some_and(|gateway| from.contains(&gateway)));
        let behind = behind.chain(stays.map(|from| (&output.is, from)));
        for (interfaces, prefix) in behind {
            pairs.extend(interfaces.iter().map(|name| (name.clone(), prefix)));
        }
    }
    pairs
}

fn targets(before: &[Step]) -> Vec<IpAddr> {
    let dnat = before.iter().filter_map(|step| match &step.action {
        Action::Dnat(choice) => choice.address(),
        _ => None,
    });
    dnat.collect()
}

fn gateways(after: &[Step]) -> Vec<IpAddr> {
    let snat = after.iter().filter_map(|step| match &step.action {
        Action::Snat(choice) => choice.address(),
        _ => None,
    });
    snat.collect()
}

fn translates_source(step: &Step) -> bool {
    matches!(
        step.action,
        Action::Snat(_) | Action::Masquerade(_) | Action::Netmap(_) | Action::Npt { .. }
    )
}

fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

impl View {
    /// Prefixes whose packets get another source are inside.
    fn inside(&mut self, after: &[Step]) {
        let family = self.topology.family;
        let steps = after.iter().filter(|step| translates_source(step));
        let sources = steps.flat_map(|step| match step.condition.sources.is_full() {
            true => Vec::new(),
            false => step.condition.sources.prefixes(family),
        });
        let inside: Vec<IpNet> = sources.filter(has_hosts).collect();
        self.topology.inside = IpNet::aggregate(&inside);
        // Neighbouring networks are not one network.
        let widest = |prefix: &IpNet| !inside.iter().any(|p| p != prefix && p.contains(prefix));
        let mut apart: Vec<IpNet> = inside.iter().copied().filter(widest).collect();
        apart.sort();
        apart.dedup();
        self.topology.inside = apart;
    }

    fn is_inside(&self, prefix: IpNet) -> bool {
        self.topology
            .inside
            .iter()
            .any(|inside| overlap(*inside, prefix))
            || self.targets.iter().any(|target| prefix.contains(target))
    }

    fn add_network(
        &mut self,
        interface: &str,
        address: IpNet,
        [check_interface, check_address]: [Option<&'static str>; 2],
    ) -> bool {
        let Topology {
            uplinks, networks, ..
        } = &self.topology;
        let is_free = !uplinks.iter().any(|uplink| uplink.interface == interface)
            && !networks.iter().any(|network| {
                network.interface == interface || overlap(network.address.trunc(), address.trunc())
            });
        if is_free {
            self.topology.networks.push(Network {
                name: interface.to_owned(),
                interface: interface.to_owned(),
                address,
                check_interface,
                check_address,
            });
        }
        is_free
    }

    fn known_networks(&mut self) {
        for (interface, address) in self.known.clone() {
            let is_host = address.prefix_len() == address.max_prefix_len();
            if !is_host && self.is_inside(address.trunc()) && !address.addr().is_loopback() {
                self.add_network(&interface, address, [None; 2]);
            }
        }
    }

    /// Interfaces and patterns with evidence of guests behind them.
    fn interfaces_inside(&self) -> BTreeSet<String> {
        let known = self
            .topology
            .networks
            .iter()
            .map(|network| network.interface.clone());
        let is_inside = |prefix: IpNet| {
            self.topology
                .inside
                .iter()
                .any(|inside| overlap(*inside, prefix))
                || self.targets.iter().any(|target| prefix.contains(target))
        };
        let paired = self.pairs.iter().filter(|(_, prefix)| is_inside(*prefix));
        known
            .chain(paired.map(|(interface, _)| interface.clone()))
            .collect()
    }

    fn add_uplink(&mut self, interface: &str, inside: &BTreeSet<String>, check: Option<&str>) {
        let is_known = self
            .topology
            .uplinks
            .iter()
            .any(|uplink| uplink.interface == interface);
        if is_known || inside.contains(interface) || interface == "lo" {
            return;
        }
        let own = self.known.iter().filter(|(name, _)| name == interface);
        self.topology.uplinks.push(Uplink {
            name: interface.to_owned(),
            interface: interface.to_owned(),
            check: check.map(str::to_owned),
            addresses: own.map(|(_, net)| net.addr()).collect(),
        });
    }

    fn uplinks(&mut self, before: &[Step], after: &[Step], inside: &BTreeSet<String>) {
        if !self.topology.uplinks.is_empty() {
            return;
        }
        let leaving = after.iter().filter(|step| translates_source(step));
        for step in leaving {
            for pattern in &step.condition.output.is {
                match pattern.strip_suffix('+') {
                    None => self.add_uplink(pattern, inside, None),
                    Some(stem) if !inside.contains(pattern) => {
                        let check =
                            format!("the rules say {pattern}: write one for each interface");
                        self.add_uplink(&format!("{stem}0"), inside, Some(&check));
                    }
                    Some(_) => {}
                }
            }
        }
        if self.topology.uplinks.is_empty() {
            let entering = before
                .iter()
                .filter(|step| matches!(step.action, Action::Dnat(_)));
            for step in entering {
                if let Some(name) = step.condition.input.named() {
                    self.add_uplink(name, inside, None);
                }
            }
        }
    }

    /// Interfaces by which packets to guests arrive, but by which nothing leaves: on Proxmox VE,
    /// the guests' bridge.
    fn unexplained_inputs(&self, before: &[Step], inside: &BTreeSet<String>) -> Vec<String> {
        let is_uplink = |name: &str| {
            self.topology
                .uplinks
                .iter()
                .any(|uplink| uplink.interface == name)
        };
        let dnat = before
            .iter()
            .filter(|step| matches!(step.action, Action::Dnat(_)));
        let names = dnat.filter_map(|step| step.condition.input.named());
        let mut names: Vec<String> = names
            .filter(|name| !is_uplink(name) && !inside.contains(*name))
            .map(str::to_owned)
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// A hairpin's MASQUERADE names the guests' own interface, which looks like an uplink.
    fn doubt_several_uplinks(&mut self) {
        let uplinks = &mut self.topology.uplinks;
        if uplinks.len() < 2 || !self.known.is_empty() {
            return;
        }
        for uplink in uplinks {
            let check = "that guests are not behind it: then it is a [network]".to_owned();
            uplink.check.get_or_insert(check);
        }
    }

    /// The rest of the host's interfaces.
    fn unserved(&mut self) {
        let Topology {
            uplinks, networks, ..
        } = &self.topology;
        let uplinks = uplinks.iter().map(|uplink| &uplink.interface);
        let served: BTreeSet<&String> = uplinks
            .chain(networks.iter().map(|network| &network.interface))
            .collect();
        let known: BTreeSet<&String> = self.known.iter().map(|(name, _)| name).collect();
        let left = known.difference(&served).filter(|name| **name != "lo");
        self.topology.unserved = left.map(|name| (*name).clone()).collect();
    }

    /// A single uplink is `wan` and a single network `lan`; several are named after their
    /// interfaces.
    fn name(&mut self) {
        if let [uplink] = &mut self.topology.uplinks[..] {
            uplink.name = "wan".to_owned();
        }
        if let [network] = &mut self.topology.networks[..] {
            network.name = "lan".to_owned();
        }
    }
}
