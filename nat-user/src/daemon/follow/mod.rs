//! Following the host: what natbpf does when interfaces, addresses, routes, settings, neighbours or
//! leases change.

mod addresses;
mod leases;
mod next_hops;
pub(super) mod settings;

use anyhow::Result;
use nix::net::if_::if_nametoindex;

use super::{fast_path::Cause, host::Host, instance::Instance};
use crate::host::{
    bridge_netfilter::BridgeNetfilter,
    setup::{self, Plan, Report, Step},
};

impl Instance {
    /// Looks at the host again and follows what has changed.
    pub(super) async fn refresh(&mut self) -> Result<()> {
        let config = self.config.clone();
        // Ports that have appeared are attached, a deleted bridge is recreated. The daemon waits
        // for what the host lacks.
        let plan = self.plan(&config);
        self.set_up_again(&plan, Step::BeforePrograms, false).await;
        let host = Host::read(&self.netlink, &config).await?;
        self.follow_claims(&config, &host);
        let plan = self.plan(&config);
        let mut before = self.active.before();
        let mut has_changed = !self.is_applied(&config, &host);
        let mut ended = 0;
        match has_changed {
            true => {
                self.apply(&config, &host)?;
                ended += self.active.end_moved(&before)?;
                // From here on, only the changes of the set-up are checked, because a check reads
                // all sessions.
                before = self.active.before();
            }
            false => self.active.follow_exits(&config, &host)?,
        }
        // A new interface has the kernel's defaults, which no software has changed.
        let are_watched = !has_changed;
        if let Some(report) = self.set_up_again(&plan, Step::Whole, are_watched).await {
            has_changed |= self.follow_setup(&config, &report).await?;
        }
        if !has_changed {
            return Ok(());
        }
        ended += self.active.end_moved(&before)?;
        self.follow_next_hops(Cause::Surroundings).await?;
        log::info!("followed a change of interfaces, addresses or routes; {ended} sessions ended");
        Ok(())
    }

    /// Whether an interface of the configuration exists that the programs do not know yet.
    pub(super) fn is_interface_new(&self) -> bool {
        let uplinks = self.config.uplinks.iter().map(|one| &one.interface);
        let networks = self.config.networks.iter().map(|one| &one.interface);
        uplinks.chain(networks).any(|name| {
            let index = if_nametoindex(name.as_str());
            index.is_ok_and(|index| !self.active.applied.interfaces.contains_key(&index))
        })
    }

    /// Whether a setting of the host has changed whose changes the kernel does not report.
    pub(super) fn has_changed_settings(&self) -> bool {
        match BridgeNetfilter::read() {
            Ok(now) => now != self.active.applied.bridge_netfilter,
            Err(error) => {
                log::debug!("{error:#}");
                false
            }
        }
    }

    /// Sets up the host according to the plan, as far as possible. Missing parts are reported once.
    async fn set_up_again(&mut self, plan: &Plan, step: Step, are_watched: bool) -> Option<Report> {
        match setup::apply(&self.netlink, &mut self.journal, plan, step).await {
            Ok(mut report) => {
                report.done.iter().for_each(|line| log::info!("{line}"));
                if !are_watched {
                    report.reset.clear();
                }
                if step == Step::Whole {
                    self.note_host(&report);
                }
                Some(report)
            }
            Err(error) => {
                self.awaited = vec![format!("{error:#}")];
                self.tell_of_host();
                None
            }
        }
    }
}
