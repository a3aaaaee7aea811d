//! NPTv6: the prefixes that become others.

use std::{collections::BTreeSet, net::Ipv6Addr};

use nat_common::{translation::prefix::PrefixTranslation, wire::address::Addr6};

use super::{
    compiler::Compiler,
    family::network_of,
    ruleset::{Numbering, Prefixes},
};
use crate::model::PrefixRule;

impl Compiler<'_, Ipv6Addr> {
    /// One entry for each rule, in the order of the file.
    pub(super) fn prefixes(&mut self, numbers: &mut impl Numbering) {
        let rules = self.config.ipv6.iter().flat_map(|rules| &rules.prefixes);
        let all = rules.map(|rule| self.translation(rule, numbers.nat(&rule.name)));
        self.ruleset.prefixes = all.collect();
        self.ruleset.spared = self.spared();
    }

    /// The host's addresses, and those that other rules name.
    fn spared(&self) -> Vec<Addr6> {
        let host = self.environment.host_addresses.iter();
        let host = host.map(|address| Addr6::new(address.octets()));
        let named = self.ruleset.addresses.iter().map(|(address, _)| *address);
        let all: BTreeSet<Addr6> = host.chain(named).collect();
        let is_external = |address: &Addr6| {
            let mut rules = self.ruleset.prefixes.iter();
            rules.any(|rule| rule.outbound.reversed().covers(*address))
        };
        all.into_iter().filter(is_external).collect()
    }

    fn translation(&self, rule: &PrefixRule, number: u32) -> Prefixes {
        let bits = u32::from(rule.internal.prefix_len());
        let wire = network_of::<Ipv6Addr>;
        Prefixes {
            rule: number,
            uplink: self.uplinks[rule.uplink.0],
            network: self.place_of(rule.internal).0,
            bits,
            outbound: PrefixTranslation::new(wire(rule.internal), wire(rule.external), bits),
            hairpin: rule.hairpin,
        }
    }
}
