//! The two ends of a policy: the networks, uplinks and addresses that a condition means.

use ipnet::IpNet;

use super::{
    BY_ADDRESS, HOMELESS, MOST_PAIRS, NOT_HERE, Policies, PolicyEnd, SPOOFED, Side, not_all,
    unknown,
};
use crate::{
    condition::Interfaces,
    family::{Family, has_hosts},
    ranges::Addresses,
    topology::Topology,
};

const OF_LINK: &str = "names addresses of one link or of groups, and policies are about packets \
    that the host forwards";

impl Policies<'_, '_> {
    /// Uplinks and networks whose interfaces match.
    pub(super) fn sides(&self, interfaces: &Interfaces) -> Vec<Side> {
        let uplinks = self.topology.uplinks.iter().enumerate();
        let uplinks = uplinks.filter(|(_, uplink)| interfaces.matches(&uplink.interface));
        let networks = self.topology.networks.iter().enumerate();
        let networks = networks.filter(|(_, network)| interfaces.matches(&network.interface));
        uplinks
            .map(|(number, _)| Side::Uplink(number))
            .chain(networks.map(|(number, _)| Side::Network(number)))
            .collect()
    }

    pub(super) fn name_of(&self, side: Side) -> String {
        let Topology {
            uplinks, networks, ..
        } = self.topology;
        let (kind, name) = match side {
            Side::Uplink(number) => ("uplink", &uplinks[number].name),
            Side::Network(number) => ("network", &networks[number].name),
        };
        let is_unclear = ["any", "host"].contains(&name.as_str())
            || uplinks.iter().any(|uplink| uplink.name == *name)
                && networks.iter().any(|network| network.name == *name);
        match is_unclear {
            true => format!("{kind}.{name}"),
            false => name.clone(),
        }
    }

    /// One end, by its interfaces and addresses.
    pub(super) fn ends(
        &self,
        interfaces: &Interfaces,
        addresses: &Addresses,
        accepts: bool,
    ) -> Result<PolicyEnd, String> {
        let mut end = PolicyEnd::default();
        let sides = self.sides(interfaces);
        if addresses.is_full() {
            if interfaces.is_any() {
                return Ok(end);
            }
            if sides.is_empty() {
                return Err(unknown(interfaces));
            }
            end.names = sides.iter().map(|side| self.name_of(*side)).collect();
            end.remarks.extend(not_all(interfaces));
            return Ok(end);
        }
        if self.topology.family == Family::V6
            && Addresses::never_translated(Family::V6).covers(addresses)
        {
            return Err(OF_LINK.to_owned());
        }
        let named = if interfaces.is_any() {
            addresses.clone()
        } else {
            if sides.is_empty() && interfaces.named().is_none() {
                return Err(unknown(interfaces));
            }
            self.behind(&sides, addresses, accepts, &mut end)?
        };
        let prefixes = named.prefixes(self.topology.family);
        if prefixes.len() > MOST_PAIRS {
            return Err("needs more prefixes than natbpf accepts".to_owned());
        }
        let text = |prefix: &IpNet| match prefix.prefix_len() == prefix.max_prefix_len() {
            // (An address that no host can have is not a guest's address but a prefix.)
            true if has_hosts(prefix) => prefix.addr().to_string(),
            _ => prefix.to_string(),
        };
        end.names = prefixes.iter().map(text).collect();
        Ok(end)
    }

    /// The matching addresses among these, if they are behind these interfaces.
    pub(super) fn behind(
        &self,
        sides: &[Side],
        addresses: &Addresses,
        accepts: bool,
        end: &mut PolicyEnd,
    ) -> Result<Addresses, String> {
        let prefix = |number: usize| {
            let network = &self.topology.networks[number];
            Addresses::prefix(network.address.trunc())
        };
        let all = |numbers: &mut dyn Iterator<Item = usize>| {
            numbers.fold(Addresses::empty(), |all, number| all.or(&prefix(number)))
        };
        let mut here = sides.iter().filter_map(|side| match side {
            Side::Network(number) => Some(*number),
            Side::Uplink(_) => None,
        });
        let here = addresses.and(&all(&mut here));
        let held = all(&mut (0..self.topology.networks.len()));
        let has_uplink = sides.iter().any(|side| matches!(side, Side::Uplink(_)));
        let others = addresses.and(&held).without(&here);
        if has_uplink && !accepts && !others.is_empty() {
            return Err(SPOOFED.to_owned());
        }
        let beyond = addresses.without(&held);
        let mut named = here.clone();
        if !beyond.is_empty() && (has_uplink || here.is_empty()) {
            if !has_uplink {
                let prefixes = beyond.prefixes(self.topology.family);
                let mut lengths = prefixes.iter().map(IpNet::prefix_len);
                if !accepts || lengths.any(|length| length < self.topology.family.shortest_guess())
                {
                    return Err(NOT_HERE.to_owned());
                }
                end.warnings.push(if sides.is_empty() {
                    BY_ADDRESS
                } else {
                    HOMELESS
                });
            } else {
                end.warnings.push(BY_ADDRESS);
            }
            named = named.or(&beyond);
        } else if !beyond.is_empty() {
            let remark = "natbpf knows only those of these addresses that are in its networks";
            end.remarks.push(remark.to_owned());
        }
        match named.is_empty() {
            true => Err(SPOOFED.to_owned()),
            false => Ok(named),
        }
    }
}
