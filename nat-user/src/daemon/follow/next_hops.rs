//! The fast path of a running configuration: its lease, and its next hops.

use anyhow::Result;
use nat_common::tables::interfaces::role;
use nat_config::model::Forwarding;

use crate::{
    clock,
    daemon::{
        fast_path::{Cause, Ends, LEASE_S},
        instance::Instance,
    },
};

impl Instance {
    /// Updates the next hops from the host's current routes and links, and requests a look at
    /// neighbours and bridges without waiting for it.
    pub(in crate::daemon) async fn follow_next_hops(&mut self, cause: Cause) -> Result<()> {
        let ends = self.fast_ends();
        self.fast_path.follow(&self.netlink, &ends, cause).await
    }

    /// Whether a look at neighbours is pending anyway.
    pub(in crate::daemon) fn is_look_due(&self) -> bool {
        self.fast_path.is_look_due()
    }

    /// Waits until neighbours were looked at, if there is something to look for. Cancelling it
    /// loses nothing; then [`Self::take_neighbours`].
    pub(in crate::daemon) async fn looked(&mut self) -> Result<()> {
        let ends = self.fast_ends();
        self.fast_path.looked(&ends).await
    }

    /// Updates the next hops from the look.
    pub(in crate::daemon) fn take_neighbours(&mut self) -> Result<()> {
        let ends = self.fast_ends();
        self.fast_path.take(&ends)
    }

    /// Renews the lease of the fast path, if sessions may use it.
    pub(in crate::daemon) async fn renew_fast_path(&mut self) {
        let lease_s = LEASE_S * clock::time_scale();
        let until_s = match self.config.forwarding {
            Forwarding::Fast => clock::monotonic_s() + lease_s,
            Forwarding::Kernel => 0,
        };
        self.set_fast_until(until_s);
        let ends = self.fast_ends();
        if let Err(error) = self.fast_path.care(&self.netlink, &ends).await {
            log::error!("refresh neighbours: {error:#}");
        }
    }

    /// Ends the lease of the fast path, because the daemon will follow no more changes.
    pub(in crate::daemon) fn leave_fast_path(&mut self) {
        self.set_fast_until(0);
    }

    fn set_fast_until(&mut self, until_s: u32) {
        if let Err(error) = self.active.tables.dataplane.set_fast_until(until_s) {
            log::error!("{error:#}");
        }
    }

    /// The interfaces between which the fast path runs.
    fn fast_ends(&self) -> Ends {
        let mut ends = Ends {
            has_ipv6: self.config.ipv6.is_some(),
            ..Ends::default()
        };
        if self.config.forwarding == Forwarding::Fast {
            for (index, interface) in &self.active.applied.interfaces {
                match interface.role {
                    role::UPLINK => ends.uplinks.insert(*index),
                    role::NETWORK => ends.networks.insert(*index),
                    _ => continue,
                };
            }
        }
        ends
    }
}
