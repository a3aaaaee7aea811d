//! One configuration at work: what the daemon holds.

use std::net::IpAddr;

use anyhow::Result;
use nat_config::model::Config;
use nat_sys::netlink::Netlink;

use super::{
    Options,
    claims::Claims,
    fast_path::FastPath,
    host::Host,
    neighbours::Neighbours,
    settings::Settings,
    tear_down,
    transition::{Active, Wanted},
};
use crate::{
    clock,
    dataplane::{Lock, Logger},
    dhcp::Services,
    host::{
        journal::Journal,
        setup::{self, Plan, Report, Step},
    },
    refusals,
};

/// A running configuration.
pub(super) struct Instance {
    pub(super) options: Options,
    pub(super) config: Config,
    pub(super) active: Active,
    pub(super) netlink: Netlink,
    pub(super) journal: Journal,
    pub(super) settings: Settings,
    pub(super) claims: Claims,
    /// What the host lacks and the daemon waits for, or why the host could not be set up.
    pub(super) awaited: Vec<String>,
    /// What the status says about the host.
    pub(super) host_warnings: Vec<String>,
    pub(super) refusals: refusals::Watch,
    pub(super) fast_path: FastPath,
    pub(super) neighbours: Neighbours,
    pub(super) services: Services,
    pub(super) _lock: Lock,
}

impl Instance {
    /// Activates a configuration on a prepared host: first the programs, then forwarding in the
    /// kernel. No packet leaves without having passed the programs.
    pub(super) async fn put_in_use(&mut self, config: &Config) -> Result<()> {
        let host = Host::read(&self.netlink, config).await?;
        self.follow_claims(config, &host);
        self.apply(config, &host)?;
        let plan = self.plan(config);
        let step = Step::Whole;
        let mut report = setup::apply(&self.netlink, &mut self.journal, &plan, step).await?;
        report.log();
        report.reset.clear();
        self.settings.watch(&plan, self.journal.changes());
        self.note_host(&report);
        self.follow_setup(config, &report).await.map(drop)
    }

    /// Activates what the set-up of the host has changed: ports of bridges, addresses. Returns
    /// whether there was any change.
    pub(super) async fn follow_setup(&mut self, config: &Config, report: &Report) -> Result<bool> {
        if report.done.is_empty() {
            return Ok(false);
        }
        let host = Host::read(&self.netlink, config).await?;
        let has_changed = !self.is_applied(config, &host);
        if has_changed {
            self.apply(config, &host)?;
        }
        Ok(has_changed)
    }

    /// Brings the data plane to a configuration on a host, by all stages of a transition.
    pub(super) fn apply(&mut self, config: &Config, host: &Host) -> Result<()> {
        let wanted = Wanted {
            options: &self.options,
            config,
            host,
            changes: self.journal.changes(),
            claims: &self.claims,
        };
        self.active.transition(wanted)
    }

    /// Whether nothing would change if the configuration were applied to the host as it is now.
    pub(super) fn is_applied(&self, config: &Config, host: &Host) -> bool {
        self.active.is_in_use(Wanted {
            options: &self.options,
            config,
            host,
            changes: self.journal.changes(),
            claims: &self.claims,
        })
    }

    /// What the host should look like. Addresses that another host has are not put on interfaces.
    pub(super) fn plan(&self, config: &Config) -> Plan {
        let mut plan = Plan::from_config(config);
        for uplink in &mut plan.uplinks {
            (uplink.addresses).retain(|address| match address {
                IpAddr::V4(address) => self.claims.is_ours(*address),
                // It is not probed for.
                IpAddr::V6(_) => true,
            });
        }
        plan
    }

    /// Forgets names that ports no longer use. Call it about once a minute.
    pub(super) fn expire_bindings(&mut self) {
        let Active { tables, bound, .. } = &mut self.active;
        if !bound.ports.is_empty()
            && let Err(error) = tables.dataplane.bind(bound)
        {
            log::error!("{error:#}");
        }
    }

    /// Frees the IPv4 addresses of NAT64's guests that are gone. Call it about once a minute.
    pub(super) fn expire_nat64(&mut self) {
        let dataplane = &mut self.active.tables.dataplane;
        if let Some(nat64) = self.config.nat64()
            && let Err(error) = dataplane.expire_nat64(nat64, clock::monotonic_s())
        {
            log::error!("{error:#}");
        }
    }

    /// Ends idle sessions and frees fragments that have waited too long; `true` if there is more to
    /// do.
    pub(super) fn sweep(&mut self) -> bool {
        let tables = &mut self.active.tables;
        if let Err(error) = tables.dataplane.expire_fragments() {
            log::error!("free fragments: {error:#}");
        }
        match tables.expiry.pass(&tables.dataplane, clock::monotonic_s()) {
            Ok(pass) => {
                if pass.ended > 0 {
                    log::debug!("{} sessions expired", pass.ended);
                }
                pass.is_cut_short
            }
            Err(error) => {
                log::error!("end idle sessions: {error:#}");
                false
            }
        }
    }

    /// Tells the operator which packets are refused because a resource is exhausted.
    pub(super) fn watch_refusals(&mut self) {
        let now_s = clock::boottime_s();
        if !self.refusals.is_due(now_s) {
            return;
        }
        let look = match self.active.tables.dataplane.drops() {
            Ok(drops) => self.refusals.look(&drops, now_s),
            Err(error) => return log::error!("count refusals: {error:#}"),
        };
        for (level, line) in look.lines {
            log::log!(level, "{line}");
        }
        if look.has_changed
            && let Err(error) = refusals::save(&self.options.run_dir, &self.refusals.refusals())
        {
            log::warn!("{error:#}");
        }
    }

    /// Writes the programs' debug messages to the log.
    pub(super) fn flush_packet_log(&mut self) {
        let logs = &mut self.active.tables.packet_logs;
        logs.iter_mut().for_each(Logger::flush);
    }

    /// Removes everything.
    pub(super) async fn down(self) -> Result<Vec<String>> {
        let Options { run_dir, bpffs, .. } = self.options.clone();
        drop(self);
        tear_down(&run_dir, &bpffs).await
    }
}
