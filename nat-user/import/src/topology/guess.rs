//! Networks and uplinks that no rule names, guessed from what rules need.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;

use super::{BY_ELIMINATION, View, around, overlap, prefix_of};
use crate::dump::Dump;

impl View {
    /// No rule of the nat table names an interface that leads outside.
    pub(super) fn likely_uplink(&mut self, dump: &Dump, inside: &BTreeSet<String>) {
        if let Some(route) = self.default_route.clone() {
            self.add_uplink(&route, inside, None);
            return;
        }
        let known: Vec<String> = self.known.iter().map(|(name, _)| name.clone()).collect();
        for interface in &known {
            self.add_uplink(interface, inside, None);
        }
        if !self.topology.uplinks.is_empty() {
            return;
        }
        let check = "no rule says by which interface packets leave";
        let leaving = dump.rules.iter().filter_map(|rule| {
            let from = prefix_of(&rule.condition.sources, dump.family)?;
            self.is_inside(from)
                .then(|| rule.condition.output.named())
                .flatten()
        });
        let leaving: Vec<String> = leaving.map(str::to_owned).collect();
        let leads_outside = |name: &&String| !inside.contains(*name) && *name != "lo";
        match leaving.iter().find(leads_outside) {
            Some(name) => self.add_uplink(name, inside, Some(check)),
            None => self.add_uplink("eth0", &BTreeSet::new(), Some(check)),
        }
    }

    /// Networks for inside prefixes without a known address, and for forwards' targets.
    pub(super) fn guessed_networks(&mut self, left: &[String]) {
        let longest = self.topology.family.longest_network();
        let mut wanted = self.topology.inside.clone();
        for target in self.targets.clone() {
            let is_explained = self.topology.network_of(target).is_some()
                || wanted.iter().any(|prefix| prefix.contains(&target));
            if !is_explained {
                let paired = self.pairs.iter().map(|(_, prefix)| *prefix);
                let paired = paired
                    .filter(|prefix| prefix.contains(&target) && prefix.prefix_len() <= longest);
                wanted.push(
                    paired
                        .max_by_key(IpNet::prefix_len)
                        .unwrap_or_else(|| around(target)),
                );
            }
        }
        let networks = self.topology.networks.clone();
        wanted.retain(|prefix| {
            !networks
                .iter()
                .any(|network| overlap(network.address.trunc(), *prefix))
        });
        let wanted: Vec<IpNet> = wanted
            .into_iter()
            .filter(|p| p.prefix_len() <= longest)
            .collect();
        for (number, prefix) in wanted.iter().enumerate() {
            let left = if wanted.len() == 1 && left.len() == 1 {
                Some(left[0].as_str())
            } else {
                None
            };
            self.guess_network(*prefix, left, number);
        }
        for target in self.targets.clone() {
            let prefix = around(target);
            let is_inside = self
                .topology
                .inside
                .iter()
                .any(|inside| inside.contains(&target));
            if !is_inside {
                self.topology.inside.push(prefix);
            }
        }
        for network in &self.topology.networks {
            let prefix = network.address.trunc();
            if !self
                .topology
                .inside
                .iter()
                .any(|inside| inside.contains(&prefix))
            {
                self.topology.inside.push(prefix);
            }
        }
    }

    pub(super) fn guess_network(&mut self, prefix: IpNet, left: Option<&str>, number: usize) {
        let paired: BTreeSet<&String> = self
            .pairs
            .iter()
            .filter(|(_, other)| overlap(*other, prefix))
            .map(|(interface, _)| interface)
            .collect();
        let is_pattern = |name: &&&String| name.ends_with('+');
        let named: Vec<&String> = paired
            .iter()
            .filter(|name| !is_pattern(name))
            .copied()
            .collect();
        let is_uplink = |name: &str| {
            self.topology
                .uplinks
                .iter()
                .any(|uplink| uplink.interface == name)
        };
        let named: Vec<&String> = named.into_iter().filter(|name| !is_uplink(name)).collect();
        let (interface, check) = match (&named[..], left) {
            ([name, ..], _) => ((*name).clone(), None),
            ([], Some(name)) => (name.to_owned(), Some(BY_ELIMINATION)),
            ([], None) if !paired.is_empty() => {
                let patterns: Vec<&str> = paired.iter().map(|name| name.as_str()).collect();
                let why = format!(
                    "the rules say {}: write a [network] for each bridge, or give --address \
                     BRIDGE=ADDRESS/LENGTH",
                    patterns.join(", ")
                );
                return self.topology.homeless.push((prefix, why));
            }
            ([], None) if prefix.prefix_len() < self.topology.family.shortest_guess() => {
                let why = "no rule says which interfaces these are behind: write a [network] for \
                           each bridge, or give --address BRIDGE=ADDRESS/LENGTH";
                return self.topology.homeless.push((prefix, why.to_owned()));
            }
            ([], None) => {
                let check = "no rule says behind which interface they are";
                (self.usual_interface(prefix, number), Some(check))
            }
        };
        let gateway = self
            .gateways
            .iter()
            .find(|address| prefix.contains(*address));
        let check_address = match gateway {
            Some(_) => None,
            None => Some("no rule says the host's own address in it"),
        };
        let address = gateway.copied().unwrap_or_else(|| self.first_free(prefix));
        let address = IpNet::new_assert(address, prefix.prefix_len());
        if !self.add_network(&interface, address, [check, check_address]) {
            let why = format!("{interface} already has a role");
            self.topology.homeless.push((prefix, why));
        }
    }

    pub(super) fn usual_interface(&self, prefix: IpNet, number: usize) -> String {
        let usual = [("192.168.122.0/24", "virbr0"), ("172.17.0.0/16", "docker0")];
        let text = prefix.to_string();
        if let Some((_, name)) = usual.iter().find(|(prefix, _)| *prefix == text) {
            return (*name).to_owned();
        }
        let is_proxmox = self
            .topology
            .uplinks
            .iter()
            .any(|uplink| uplink.interface == "vmbr0");
        if is_proxmox {
            format!("vmbr{}", number + 1)
        } else {
            format!("br{number}")
        }
    }

    /// The first address of a prefix that no guest has.
    pub(super) fn first_free(&self, prefix: IpNet) -> IpAddr {
        // The first address of a prefix of IPv6 is every router's.
        let is_whole = prefix.prefix_len() <= self.topology.family.longest_network();
        let mut hosts = prefix
            .hosts()
            .skip(usize::from(prefix.addr().is_ipv6() && is_whole));
        let free = hosts.find(|address| !self.targets.contains(address));
        free.unwrap_or_else(|| prefix.network())
    }
}
