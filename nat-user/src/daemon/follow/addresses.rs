//! External addresses that no interface holds: natbpf asks for them, and the rules follow.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr},
};

use anyhow::Result;
use nat_config::model::Config;
use tokio::time::{Instant, sleep_until};

use crate::{
    daemon::{host::Host, instance::Instance},
    host::{change::Change, setup::Plan},
};

impl Instance {
    /// Starts to probe external addresses that no interface holds.
    pub(in crate::daemon) fn follow_claims(&mut self, config: &Config, host: &Host) {
        let added = self.journal.changes().iter();
        let added: BTreeSet<Ipv4Addr> = added.filter_map(Change::added_address).collect();
        let held = host.addresses.iter().map(|address| address.net.addr());
        let held = held.filter(|address| !added.contains(address)).collect();
        self.claims.follow(config, &host.links, &held);
        let plan = Plan::from_config(config);
        let added = self.journal.changes().iter();
        let added: BTreeSet<Ipv6Addr> = added.filter_map(Change::added_ipv6_address).collect();
        let held = host.ipv6_addresses.iter().map(|held| held.net.addr());
        let held = held.filter(|address| !added.contains(address)).collect();
        self.claims.ipv6.follow(&plan, &host.links, &held);
    }

    /// Waits until the probes have shown which external addresses are free, and takes these.
    pub(in crate::daemon) async fn settle_claims(&mut self) -> Result<()> {
        let mut has_changed = false;
        while let Some(due) = self.claims.is_settled_after() {
            sleep_until(due.into()).await;
            has_changed |= self.claims.care();
        }
        self.tell_of_host();
        match has_changed {
            true => self.refresh().await,
            false => Ok(()),
        }
    }

    /// When [`Self::care_for_claims`] has something to do.
    pub(in crate::daemon) fn claims_due(&self) -> Option<Instant> {
        self.claims.is_due_at().map(Instant::from_std)
    }

    /// Probes, announces and listens by ARP. Returns whether the rules must be updated.
    pub(in crate::daemon) fn care_for_claims(&mut self) -> bool {
        let has_changed = self.claims.care();
        self.tell_of_host();
        has_changed
    }
}
