//! Which sessions end when rules, addresses or networks change: only those that the change
//! concerns.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use nat_common::{
    tables::sessions::{SessionFlags, SessionKey, View},
    wire::address::{Addr4, Addr6},
};
use nat_config::compile::Ruleset;

use super::{
    covered::{PortTargets, is_covered},
    transition::Active,
};
use crate::dataplane::{Pinned, SessionEntry, SessionTable};

/// What sessions depend on, before a change.
pub(super) struct Before {
    ipv4: BeforeOf<Addr4>,
    ipv6: Option<BeforeOf<Addr6>>,
}

/// The same for those of a family.
struct BeforeOf<A> {
    addresses: BTreeSet<A>,
    /// The network of each guest of a forward, 0 if it is in none.
    networks: BTreeMap<A, u16>,
}

/// The sessions of a family, and the rules in use for them.
struct InUse<'a, A: Pinned> {
    ruleset: &'a Ruleset<A>,
    sessions: &'a SessionTable<A>,
}

impl Active {
    /// What sessions depend on now; after a change, for [`Self::end_moved`].
    pub(super) fn before(&self) -> Before {
        Before {
            ipv4: self.ipv4().before(),
            ipv6: self.ipv6().map(|ipv6| ipv6.before()),
        }
    }

    /// Ends the sessions on external addresses that are no longer used, and those of guests that
    /// are behind another network now.
    pub(super) fn end_moved(&self, before: &Before) -> Result<u32> {
        let ended = self.ipv4().end_moved(&before.ipv4)?;
        Ok(match (self.ipv6(), &before.ipv6) {
            (Some(ipv6), Some(before)) => ended + ipv6.end_moved(before)?,
            _ => ended,
        })
    }

    /// Ends the sessions on external addresses that are no longer used.
    pub(super) fn end_on_lost_addresses(&self, before: &Before) -> Result<u32> {
        let ended = self.ipv4().end_on_lost_addresses(&before.ipv4)?;
        Ok(match (self.ipv6(), &before.ipv6) {
            (Some(ipv6), Some(before)) => ended + ipv6.end_on_lost_addresses(before)?,
            _ => ended,
        })
    }

    /// Ends the sessions of rules that have changed, except those that the new rule would open in
    /// the same way, for example if a range of ports has grown.
    pub(super) fn end_changed(&self, changed: &BTreeSet<u32>) -> Result<u32> {
        let ended = self.ipv4().end_changed(changed)?;
        Ok(match self.ipv6() {
            Some(ipv6) => ended + ipv6.end_changed(changed)?,
            None => ended,
        })
    }

    fn ipv4(&self) -> InUse<'_, Addr4> {
        InUse {
            ruleset: &self.applied.rulesets.ipv4,
            sessions: &self.tables.dataplane.ipv4.sessions,
        }
    }

    fn ipv6(&self) -> Option<InUse<'_, Addr6>> {
        Some(InUse {
            ruleset: self.applied.rulesets.ipv6.as_ref()?,
            sessions: &self.tables.dataplane.ipv6.as_ref()?.sessions,
        })
    }
}

impl<A: Pinned> InUse<'_, A> {
    fn before(&self) -> BeforeOf<A> {
        BeforeOf {
            addresses: self.external_addresses(),
            networks: self.target_networks(),
        }
    }

    fn end_moved(&self, before: &BeforeOf<A>) -> Result<u32> {
        Ok(self.end_on_lost_addresses(before)? + self.end_of_moved_guests(before)?)
    }

    fn end_on_lost_addresses(&self, before: &BeforeOf<A>) -> Result<u32> {
        let now = self.external_addresses();
        let lost: BTreeSet<A> = before.addresses.difference(&now).copied().collect();
        if lost.is_empty() {
            return Ok(0);
        }
        self.end_matching(|entry| lost.contains(&external_address(entry)))
    }

    /// Ends the sessions of guests that are behind another network now: their packets no longer
    /// match the former network.
    fn end_of_moved_guests(&self, before: &BeforeOf<A>) -> Result<u32> {
        let before = &before.networks;
        let mut moved = self.target_networks();
        moved.retain(|to, now| *now != 0 && before.get(to).is_some_and(|before| before != now));
        if moved.is_empty() {
            return Ok(0);
        }
        let is_former = |guest: A, network: u16| {
            moved.contains_key(&guest) && before.get(&guest) == Some(&network)
        };
        self.end_matching(|entry| {
            let (key, record) = (&entry.key, &entry.record);
            (key.view == View::Inside as u8 && is_former(key.source, key.network))
                || (record.peer_view == View::Inside as u8
                    && is_former(record.destination, record.peer_network))
        })
    }

    fn end_changed(&self, changed: &BTreeSet<u32>) -> Result<u32> {
        if changed.is_empty() {
            return Ok(0);
        }
        let targets = PortTargets::new(self.ruleset);
        self.end_matching(|entry| {
            changed.contains(&entry.record.rule) && !is_covered(entry, &targets)
        })
    }

    fn end_matching(&self, matches: impl Fn(&SessionEntry<A>) -> bool) -> Result<u32> {
        let entries = self.sessions.entries()?;
        let primary = entries.iter().filter(|entry| entry.is_primary());
        let matching = primary.filter(|entry| matches(entry));
        let keys: Vec<SessionKey<A>> = matching.map(|entry| entry.key).collect();
        self.sessions.end(&keys)
    }

    fn external_addresses(&self) -> BTreeSet<A> {
        let addresses = self.ruleset.addresses.iter();
        addresses.map(|(address, _)| *address).collect()
    }

    fn target_networks(&self) -> BTreeMap<A, u16> {
        let forwards = self.ruleset.forwards.iter();
        forwards
            .map(|(_, forward)| (forward.to, forward.network))
            .collect()
    }
}

/// The external address of the session that a primary entry stands for.
fn external_address<A: Pinned>(entry: &SessionEntry<A>) -> A {
    match entry.record.flags.contains(SessionFlags::HAIRPIN) {
        true => entry.key.destination,
        false => entry.record.source,
    }
}
