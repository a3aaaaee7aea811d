//! Source translation: which rule translates each source, and to which addresses.

use std::{collections::BTreeSet, net::Ipv4Addr};

use ipnet::Ipv4Net;
use nat_common::tables::{
    excludes::ExcludeKey4,
    snats::{self, SNAT_FIXED_BITS, Snat4, SnatKey4},
};

use super::{
    compiler::Compiler,
    ruleset::{Numbering, Prefix, wire},
};
use crate::model::{
    FilteringBehaviour, MappingBehaviour, NatRule, NetworkId, Route, SnatRule, SnatSource,
    SnatTarget, UplinkId,
};

/// Addresses that are inside addresses if they are behind a network (RFC 1918, RFC 6598): a rule
/// that hides the network hides them, unless another rule does.
const PRIVATE: [(Ipv4Addr, u8); 4] = [
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
];

impl Compiler<'_> {
    pub(super) fn snats(&mut self, numbers: &mut impl Numbering) {
        let config = self.config;
        let snat = config.snat.iter().map(|rule| numbers.snat(&rule.name));
        let rules: Vec<u32> = snat.collect();
        let nats = config.nats.iter().map(|rule| numbers.nat(&rule.name));
        let nats: Vec<u32> = nats.collect();
        for (rule, &number) in config.snat.iter().zip(&rules) {
            for prefix in &rule.exclude {
                let key = ExcludeKey4 {
                    rule: number,
                    generation: 0,
                    reserved: [0; 2],
                    destination: wire(prefix.network()),
                };
                let bits = SNAT_FIXED_BITS + u32::from(prefix.prefix_len());
                self.ruleset.excludes.push(Prefix { bits, key });
            }
        }
        for uplink in (0..self.config.uplinks.len()).map(UplinkId) {
            // A packet from no network is identified by its address alone.
            self.snats_of(uplink, None, &rules, &nats);
            self.sources_of(uplink);
            for network in (0..self.config.networks.len()).map(NetworkId) {
                self.snats_of(uplink, Some(network), &rules, &nats);
            }
        }
    }

    /// The rules for packets of one network that leave by one uplink.
    fn snats_of(
        &mut self,
        uplink: UplinkId,
        network: Option<NetworkId>,
        snat_numbers: &[u32],
        nat_numbers: &[u32],
    ) {
        let nats = self.config.nats.iter().zip(nat_numbers);
        // Before the others: a guest with its own address uses no other.
        let mut rules: Vec<(Ipv4Net, Snat4)> = nats
            .filter(|(rule, _)| rule.uplink == uplink)
            .filter_map(|(rule, &number)| Some((rule.to.now()?.into(), one_to_one(rule, number))))
            .collect();
        rules.extend(self.untranslated(network));
        let mut behind = Vec::new();
        for (rule, &number) in self.config.snat.iter().zip(snat_numbers) {
            if rule.uplink == uplink
                && network.is_some_and(|network| rule.source == SnatSource::Network(network))
            {
                let entry = self.snat_entry(rule, number);
                let private = PRIVATE.map(|(address, length)| Ipv4Net::new(address, length));
                behind.extend(private.into_iter().flatten().map(|prefix| (prefix, entry)));
            }
            let prefix = match rule.source {
                SnatSource::Prefix(prefix) => prefix.trunc(),
                SnatSource::Network(id) if network.is_none_or(|network| network == id) => {
                    self.config.networks[id.0].address.trunc()
                }
                SnatSource::Network(_) => continue,
            };
            if rule.uplink == uplink {
                rules.push((prefix, self.snat_entry(rule, number)));
            }
        }
        // After all that name a prefix.
        rules.extend(behind);
        let prefixes: BTreeSet<Ipv4Net> = rules.iter().map(|(prefix, _)| *prefix).collect();
        let number = network.map_or(0, |id| self.networks[id.0]);
        for prefix in prefixes {
            // The first rule that covers this prefix.
            let covering = rules
                .iter()
                .find(|(covering, _)| covering.contains(&prefix));
            if let Some((_, entry)) = covering {
                self.push_snat(uplink, number, prefix, *entry);
            }
        }
        if network.is_none() {
            self.spare_host(uplink, &rules);
        }
    }

    /// The entries that exclude the routed addresses of a network from source translation; with
    /// `None`, those of all networks.
    fn untranslated(&self, network: Option<NetworkId>) -> Vec<(Ipv4Net, Snat4)> {
        let own = |route: &Route| network.is_none_or(|network| network == route.network);
        self.routed()
            .filter(|(_, route)| own(route))
            .map(|(prefix, _)| (prefix, as_it_is()))
            .collect()
    }

    /// The host's own traffic is not a guest's, even where a rule's prefix holds its address.
    fn spare_host(&mut self, uplink: UplinkId, rules: &[(Ipv4Net, Snat4)]) {
        for &address in self.uplink_addresses(uplink) {
            let host = Ipv4Net::from(address);
            if rules.iter().any(|(prefix, _)| prefix.contains(&host)) {
                let entry = Snat4 {
                    mapping: snats::mapping::NONE,
                    ..rules[0].1
                };
                self.push_snat(uplink, 0, host, entry);
            }
        }
    }

    fn push_snat(&mut self, uplink: UplinkId, network: u16, prefix: Ipv4Net, entry: Snat4) {
        let key = SnatKey4 {
            generation: 0,
            uplink: self.uplinks[uplink.0],
            network,
            reserved: [0; 2],
            source: wire(prefix.addr()),
        };
        let bits = SNAT_FIXED_BITS + u32::from(prefix.prefix_len());
        self.ruleset.snats.push((Prefix { bits, key }, entry));
    }

    /// Masquerade whose address depends on the destination.
    fn sources_of(&mut self, uplink: UplinkId) {
        let is_masquerade =
            |rule: &&SnatRule| rule.uplink == uplink && rule.to == SnatTarget::Masquerade;
        let sources = self.environment.sources.get(uplink.0);
        let Some(sources) =
            sources.filter(|_| self.config.snat.iter().any(|rule| is_masquerade(&rule)))
        else {
            return;
        };
        for (prefix, address) in &sources.others {
            let entry = Snat4 {
                first: wire(*address),
                last: wire(*address),
                ..as_it_is()
            };
            self.push_snat(uplink, snats::BY_DESTINATION, *prefix, entry);
        }
    }

    fn snat_entry(&self, rule: &SnatRule, number: u32) -> Snat4 {
        let sources = self.environment.sources.get(rule.uplink.0);
        let (first, last) = match rule.to {
            SnatTarget::Pool { first, last } => (first, last),
            SnatTarget::Masquerade => {
                let first = sources.and_then(|sources| sources.first);
                let first = first.or_else(|| self.uplink_addresses(rule.uplink).first().copied());
                let address = first.unwrap_or(Ipv4Addr::UNSPECIFIED);
                (address, address)
            }
        };
        let is_masquerade = rule.to == SnatTarget::Masquerade;
        let has_others = sources.is_some_and(|sources| !sources.others.is_empty());
        Snat4 {
            first: wire(first),
            last: wire(last),
            rule: number,
            first_port: rule.ports.first,
            last_port: rule.ports.last,
            mapping: match rule.mapping {
                MappingBehaviour::EndpointIndependent => snats::mapping::ENDPOINT_INDEPENDENT,
                MappingBehaviour::AddressAndPortDependent => {
                    snats::mapping::ADDRESS_AND_PORT_DEPENDENT
                }
            },
            filtering: match rule.filtering {
                FilteringBehaviour::EndpointIndependent => snats::filtering::ENDPOINT_INDEPENDENT,
                FilteringBehaviour::AddressDependent => snats::filtering::ADDRESS_DEPENDENT,
                FilteringBehaviour::AddressAndPortDependent => {
                    snats::filtering::ADDRESS_AND_PORT_DEPENDENT
                }
            },
            has_excludes: (!rule.exclude.is_empty()).into(),
            by_destination: (is_masquerade && has_others).into(),
        }
    }
}

/// The source translation of addresses that leave as they are.
fn as_it_is() -> Snat4 {
    Snat4 {
        first: wire(Ipv4Addr::UNSPECIFIED),
        last: wire(Ipv4Addr::UNSPECIFIED),
        rule: 0,
        first_port: 1,
        last_port: u16::MAX,
        mapping: snats::mapping::NONE,
        filtering: snats::filtering::ENDPOINT_INDEPENDENT,
        has_excludes: 0,
        by_destination: 0,
    }
}

/// The source translation of a guest with an external address of its own.
fn one_to_one(rule: &NatRule, number: u32) -> Snat4 {
    Snat4 {
        first: wire(rule.address),
        last: wire(rule.address),
        rule: number,
        first_port: 1,
        last_port: u16::MAX,
        mapping: snats::mapping::ONE_TO_ONE,
        filtering: snats::filtering::ENDPOINT_INDEPENDENT,
        has_excludes: 0,
        by_destination: 0,
    }
}
