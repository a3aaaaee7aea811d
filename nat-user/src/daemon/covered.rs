//! Which sessions of a changed forward are the same as it would open now.

use std::{collections::BTreeMap, mem::offset_of};

use nat_common::{
    tables::{
        forwards::{Forward, ForwardFlags, ForwardKey},
        sessions::SessionFlags,
    },
    wire::{
        address::Port,
        protocol::{TCP, UDP},
    },
};
use nat_config::compile::Ruleset;

use crate::dataplane::{Pinned, SessionEntry};

/// Where each external port goes, for a search by port.
#[derive(Debug)]
pub(super) struct PortTargets<'r, A: Pinned> {
    /// By protocol, address and first port: the last port and the forward.
    by_port: BTreeMap<(u8, A, u16), (u16, &'r Forward<A>)>,
}

impl<'r, A: Pinned> PortTargets<'r, A> {
    /// Of all forwards of a rule set.
    pub(super) fn new(ruleset: &'r Ruleset<A>) -> Self {
        let fixed_bits = 8 * offset_of!(ForwardKey<A>, port) as u32;
        let each = ruleset.forwards.iter().map(|(prefix, forward)| {
            let first = prefix.key.port.number();
            let free_bits = 16 + fixed_bits - prefix.bits;
            let last = u32::from(first) + (1 << free_bits) - 1;
            let key = (prefix.key.protocol, prefix.key.address, first);
            (key, (last as u16, forward))
        });
        Self {
            by_port: each.collect(),
        }
    }

    /// What takes a port of an external address.
    pub(super) fn find(&self, protocol: u8, address: A, port: Port) -> Option<&'r Forward<A>> {
        let key = (protocol, address, port.number());
        let (first, (last, forward)) = self.by_port.range(..=key).next_back()?;
        let is_same = (first.0, first.1) == (protocol, address) && port.number() <= *last;
        is_same.then_some(*forward)
    }
}

/// Whether a forward in use would open the session of a primary entry unchanged.
pub(super) fn is_covered<A: Pinned>(entry: &SessionEntry<A>, targets: &PortTargets<'_, A>) -> bool {
    let SessionEntry { key, record } = entry;
    let is_hairpin = record.flags.contains(SessionFlags::HAIRPIN);
    let (external, guest) = match is_hairpin {
        true => (
            (key.destination, key.destination_port),
            (record.destination, record.destination_port),
        ),
        false => (
            (record.source, record.source_port),
            (key.source, key.source_port),
        ),
    };
    let Some(forward) = targets.find(key.protocol, external.0, external.1) else {
        return false;
    };
    matches!(key.protocol, TCP | UDP)
        && forward.rule == record.rule
        && ({ forward.to }, forward.internal_port(external.1)) == guest
        && (!is_hairpin || forward.flags.contains(ForwardFlags::HAIRPIN))
}

#[cfg(test)]
mod tests {
    use nat_common::{
        tables::forwards::{FORWARD_FIXED_BITS, Forward4, ForwardKey4},
        wire::address::Addr4,
    };
    use nat_config::compile::Prefix;

    use super::*;

    #[test]
    fn ports_are_found_where_they_go() {
        let own = Addr4([19, 19, 8, 10]);
        let key = ForwardKey4 {
            generation: 0,
            protocol: UDP,
            reserved: 0,
            address: own,
            port: Port::new(3000),
            padding: [0; 2],
        };
        let forward = Forward4 {
            to: Addr4([172, 22, 161, 170]),
            rule: 1,
            network: 1,
            first_external: 3000,
            first_internal: 4000,
            flags: ForwardFlags::empty(),
            reserved: 0,
        };
        // Of eight ports.
        let bits = FORWARD_FIXED_BITS + 13;
        let ruleset = Ruleset {
            forwards: vec![(Prefix { bits, key }, forward)],
            ..Ruleset::default()
        };
        let targets = PortTargets::new(&ruleset);
        let goes_to = |protocol, port| {
            let forward = targets.find(protocol, own, Port::new(port))?;
            Some(forward.internal_port(Port::new(port)).number())
        };
        for (port, to) in [
            (2999, None),
            (3000, Some(4000)),
            (3007, Some(4007)),
            (3008, None),
        ] {
            assert_eq!(goes_to(UDP, port), to, "{port}");
        }
        assert_eq!(goes_to(TCP, 3000), None);
    }
}
