//! Source translation: which rule translates each source, and to which addresses.

use std::collections::BTreeSet;

use nat_common::tables::{
    excludes::ExcludeKey,
    snats::{self, SNAT_FIXED_BITS, Snat, SnatKey},
};

use super::{
    compiler::Compiler,
    family::WireFamily,
    ruleset::{Numbering, Prefix},
};
use crate::model::{
    FilteringBehaviour, MappingBehaviour, NatRule, NetworkId, Prefix as _, Route, SnatRule,
    SnatSource, SnatTarget, UplinkAddresses, UplinkId,
};

/// The source translation of addresses with a prefix.
type Rule<A> = (
    <A as crate::model::Address>::Prefix,
    Snat<<A as WireFamily>::Wire>,
);

impl<A: WireFamily> Compiler<'_, A> {
    pub(super) fn snats(&mut self, numbers: &mut impl Numbering) {
        let config = self.config;
        let snat = A::snat(config).iter().map(|rule| numbers.snat(&rule.name));
        let rules: Vec<u32> = snat.collect();
        let nats = A::nats(config).iter().map(|rule| numbers.nat(&rule.name));
        let nats: Vec<u32> = nats.collect();
        for (rule, &number) in A::snat(config).iter().zip(&rules) {
            for prefix in &rule.exclude {
                let key = ExcludeKey {
                    rule: number,
                    generation: 0,
                    reserved: [0; 2],
                    destination: prefix.network().wire(),
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
        let nats = A::nats(self.config).iter().zip(nat_numbers);
        // Before the others: a guest with its own address uses no other.
        let mut rules: Vec<Rule<A>> = nats
            .filter(|(rule, _)| rule.uplink == uplink)
            .filter_map(|(rule, &number)| Some((rule.to.now()?.into(), one_to_one(rule, number))))
            .collect();
        rules.extend(self.untranslated(network));
        // Those become others by themselves.
        let internal = A::internal_prefixes(self.config).into_iter();
        let internal = internal.filter(|(_, by)| *by == uplink);
        rules.extend(internal.map(|(prefix, _)| (prefix, as_it_is::<A>())));
        let mut behind = Vec::new();
        for (rule, &number) in A::snat(self.config).iter().zip(snat_numbers) {
            if rule.uplink == uplink
                && network.is_some_and(|network| rule.source == SnatSource::Network(network))
            {
                let entry = self.snat_entry(rule, number);
                behind.extend(A::PRIVATE.iter().map(|prefix| (*prefix, entry)));
            }
            let prefixes = match rule.source {
                SnatSource::Prefix(prefix) => vec![prefix.trunc()],
                SnatSource::Network(id) if network.is_none_or(|network| network == id) => {
                    A::translated(&self.config.networks[id.0])
                }
                SnatSource::Network(_) => continue,
            };
            if rule.uplink == uplink {
                let entry = self.snat_entry(rule, number);
                rules.extend(prefixes.into_iter().map(|prefix| (prefix, entry)));
            }
        }
        // After all that name a prefix.
        rules.extend(behind);
        let prefixes: BTreeSet<A::Prefix> = rules.iter().map(|(prefix, _)| *prefix).collect();
        let number = network.map_or(0, |id| self.networks[id.0]);
        for prefix in prefixes {
            // The first rule that covers this prefix.
            let covering = rules.iter().find(|(covering, _)| covering.covers(&prefix));
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
    fn untranslated(&self, network: Option<NetworkId>) -> Vec<Rule<A>> {
        let own = |route: &Route| network.is_none_or(|network| network == route.network);
        self.routed()
            .filter(|(_, route)| own(route))
            .map(|(prefix, _)| (prefix, as_it_is::<A>()))
            .collect()
    }

    /// The host's own traffic is not a guest's, even where a rule's prefix holds its address.
    fn spare_host(&mut self, uplink: UplinkId, rules: &[Rule<A>]) {
        for &address in self.uplink_addresses(uplink) {
            let host = A::Prefix::from(address);
            if rules.iter().any(|(prefix, _)| prefix.covers(&host)) {
                let entry = Snat {
                    mapping: snats::mapping::NONE,
                    ..rules[0].1
                };
                self.push_snat(uplink, 0, host, entry);
            }
        }
    }

    fn push_snat(
        &mut self,
        uplink: UplinkId,
        network: u16,
        prefix: A::Prefix,
        entry: Snat<A::Wire>,
    ) {
        let key = SnatKey {
            generation: 0,
            uplink: self.uplinks[uplink.0],
            network,
            reserved: [0; 2],
            source: prefix.addr().wire(),
        };
        let bits = SNAT_FIXED_BITS + u32::from(prefix.prefix_len());
        self.ruleset.snats.push((Prefix { bits, key }, entry));
    }

    /// Masquerade whose address depends on the destination.
    fn sources_of(&mut self, uplink: UplinkId) {
        let is_masquerade =
            |rule: &&SnatRule<A>| rule.uplink == uplink && rule.to == SnatTarget::Masquerade;
        let sources = self.environment.sources.get(uplink.0);
        let Some(sources) =
            sources.filter(|_| A::snat(self.config).iter().any(|rule| is_masquerade(&rule)))
        else {
            return;
        };
        for (prefix, address) in &sources.others {
            let entry = Snat {
                first: address.wire(),
                last: address.wire(),
                ..as_it_is::<A>()
            };
            self.push_snat(uplink, snats::BY_DESTINATION, *prefix, entry);
        }
    }

    /// What masquerade uses if the host's routes do not say it: of addresses in the file, the
    /// first.
    fn masqueraded(&self, uplink: UplinkId) -> Option<A> {
        let own = self.uplink_addresses(uplink);
        match A::of_uplink(&self.config.uplinks[uplink.0]) {
            UplinkAddresses::Fixed(_) => own.first().copied(),
            UplinkAddresses::Interface => A::first_of(own),
        }
    }

    fn snat_entry(&self, rule: &SnatRule<A>, number: u32) -> Snat<A::Wire> {
        let sources = self.environment.sources.get(rule.uplink.0);
        let (first, last) = match rule.to {
            SnatTarget::Pool { first, last } => (first, last),
            SnatTarget::Masquerade => {
                let first = sources.and_then(|sources| sources.first);
                let first = first.or_else(|| self.masqueraded(rule.uplink));
                let address = first.unwrap_or(A::UNSPECIFIED);
                (address, address)
            }
        };
        let is_masquerade = rule.to == SnatTarget::Masquerade;
        let has_others = sources.is_some_and(|sources| !sources.others.is_empty());
        Snat {
            first: first.wire(),
            last: last.wire(),
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
fn as_it_is<A: WireFamily>() -> Snat<A::Wire> {
    Snat {
        first: A::UNSPECIFIED.wire(),
        last: A::UNSPECIFIED.wire(),
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
fn one_to_one<A: WireFamily>(rule: &NatRule<A>, number: u32) -> Snat<A::Wire> {
    Snat {
        first: rule.address.wire(),
        last: rule.address.wire(),
        rule: number,
        first_port: 1,
        last_port: u16::MAX,
        mapping: snats::mapping::ONE_TO_ONE,
        filtering: snats::filtering::ENDPOINT_INDEPENDENT,
        has_excludes: 0,
        by_destination: 0,
    }
}
