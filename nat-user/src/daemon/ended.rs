//! Which sessions end when rules, addresses or networks change: only those that the change
//! concerns.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use anyhow::Result;
use nat_common::{
    tables::sessions::{SessionFlags, SessionKey4, View},
    wire::address::Addr4,
};

use super::{
    covered::{PortTargets, is_covered},
    transition::Active,
};
use crate::dataplane::SessionEntry;

/// What sessions depend on, before a change.
pub(super) struct Before {
    addresses: BTreeSet<Ipv4Addr>,
    /// The network of each guest of a forward, 0 if it is in none.
    networks: BTreeMap<Addr4, u16>,
}

impl Active {
    /// What sessions depend on now; after a change, for [`Self::end_moved`].
    pub(super) fn before(&self) -> Before {
        Before {
            addresses: self.external_addresses(),
            networks: self.target_networks(),
        }
    }

    /// Ends the sessions on external addresses that are no longer used, and those of guests that
    /// are behind another network now.
    pub(super) fn end_moved(&self, before: &Before) -> Result<u32> {
        Ok(self.end_on_lost_addresses(before)? + self.end_of_moved_guests(before)?)
    }

    /// Ends the sessions on external addresses that are no longer used.
    pub(super) fn end_on_lost_addresses(&self, before: &Before) -> Result<u32> {
        let now = self.external_addresses();
        let lost: BTreeSet<Ipv4Addr> = before.addresses.difference(&now).copied().collect();
        if lost.is_empty() {
            return Ok(0);
        }
        self.end_matching(|entry| lost.contains(&external_address(entry)))
    }

    /// Ends the sessions of guests that are behind another network now: their packets no longer
    /// match the former network.
    fn end_of_moved_guests(&self, before: &Before) -> Result<u32> {
        let before = &before.networks;
        let mut moved = self.target_networks();
        moved.retain(|to, now| *now != 0 && before.get(to).is_some_and(|before| before != now));
        if moved.is_empty() {
            return Ok(0);
        }
        let is_former = |guest: Addr4, network: u16| {
            moved.contains_key(&guest) && before.get(&guest) == Some(&network)
        };
        self.end_matching(|entry| {
            let (key, record) = (&entry.key, &entry.record);
            (key.view == View::Inside as u8 && is_former(key.source, key.network))
                || (record.peer_view == View::Inside as u8
                    && is_former(record.destination, record.peer_network))
        })
    }

    /// Ends the sessions of rules that have changed, except those that the new rule would open in
    /// the same way, for example if a range of ports has grown.
    pub(super) fn end_changed(&self, changed: &BTreeSet<u32>) -> Result<u32> {
        if changed.is_empty() {
            return Ok(0);
        }
        let targets = PortTargets::new(&self.applied.ruleset);
        self.end_matching(|entry| {
            changed.contains(&entry.record.rule) && !is_covered(entry, &targets)
        })
    }

    fn end_matching(&self, matches: impl Fn(&SessionEntry) -> bool) -> Result<u32> {
        let dataplane = &self.tables.dataplane;
        let entries = dataplane.session_entries()?;
        let is_primary = |entry: &&SessionEntry| entry.record.flags.contains(SessionFlags::PRIMARY);
        let keys: Vec<SessionKey4> = entries
            .iter()
            .filter(is_primary)
            .filter(|entry| matches(entry))
            .map(|entry| entry.key)
            .collect();
        dataplane.end(&keys)
    }

    fn external_addresses(&self) -> BTreeSet<Ipv4Addr> {
        let addresses = &self.applied.ruleset.addresses;
        addresses
            .iter()
            .map(|(address, _)| Ipv4Addr::from(address.0))
            .collect()
    }

    fn target_networks(&self) -> BTreeMap<Addr4, u16> {
        let forwards = self.applied.ruleset.forwards.iter();
        forwards
            .map(|(_, forward)| (forward.to, forward.network))
            .collect()
    }
}

/// The external address of the session that a primary entry stands for.
fn external_address(entry: &SessionEntry) -> Ipv4Addr {
    match entry.record.flags.contains(SessionFlags::HAIRPIN) {
        true => entry.key.destination.0.into(),
        false => entry.record.source.0.into(),
    }
}
