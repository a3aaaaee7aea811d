//! The fourth stage: the programs run at exactly the interfaces of the configuration.

use std::{collections::HashSet, time::Instant};

use anyhow::Result;
use nat_config::model::Config;

use super::{active::Active, compile::Compiled, write::Written};
use crate::{
    daemon::{host::Host, interfaces::exits},
    dataplane::{
        attach::{self, Target},
        local,
    },
    host::grace::ShortGrace,
};

/// The programs are at work.
pub(super) struct Attached<'a> {
    pub(super) compiled: Compiled<'a>,
    pub(super) targets: Vec<Target>,
    pub(super) refused: Vec<(u32, String)>,
    pub(super) begun: Instant,
}

impl<'a> Written<'a> {
    /// Attaches the programs, takes them off other interfaces, and opens the exits. If the tables
    /// take the place of an earlier daemon's, their sessions are migrated.
    pub(super) fn attach(mut self, active: &mut Active) -> Result<Attached<'a>> {
        let options = self.compiled.wanted.options;
        active.detach_others(&self.targets);
        if let Some(migration) = &mut active.migration {
            migration.begin()?;
        }
        let grace = ShortGrace::begin(&options.run_dir, active.new_attachments(&self.targets));
        let tables = &mut active.tables;
        let (programs, pins) = (&mut tables.programs, tables.dataplane.pins());
        let refused = attach::attach_programs(programs, pins, &mut self.targets)?;
        drop(grace);
        active.state.local = local::attach_local(programs, pins, &self.compiled.rulesets);
        if let Some(migration) = active.migration.take() {
            migration.finish(&mut tables.dataplane, &mut tables.programs)?;
        }
        if tables.dataplane.ipv6.is_some() && self.compiled.rulesets.ipv6.is_none() {
            let ended = tables.remove_ipv6()?;
            log::info!("the configuration names no IPv6 address: {ended} sessions of IPv6 ended");
        }
        active.follow_exits(self.compiled.wanted.config, self.compiled.wanted.host)?;
        self.refused.extend(refused);
        Ok(Attached {
            compiled: self.compiled,
            targets: self.targets,
            refused: self.refused,
            begun: self.begun,
        })
    }
}

impl Active {
    /// Tells the programs by which interfaces guests' packets may leave, now that they are
    /// attached.
    pub(in crate::daemon) fn follow_exits(&mut self, config: &Config, host: &Host) -> Result<()> {
        let exits = exits(config, &host.links, &self.state.numbers);
        if exits != self.exits {
            let dataplane = &mut self.tables.dataplane;
            dataplane.set_exits(&exits.uplinks, &exits.interfaces)?;
            self.exits = exits;
        }
        Ok(())
    }

    /// Takes filters off interfaces that natbpf leaves. (Links go with their pins.)
    fn detach_others(&self, targets: &[Target]) {
        for target in &self.applied.targets {
            if !targets.iter().any(|kept| kept.index == target.index) {
                attach::detach_filters(&target.name);
            }
        }
    }

    /// How many interfaces get programs that have none, or lose theirs.
    fn new_attachments(&self, targets: &[Target]) -> usize {
        let before: HashSet<u32> = (self.applied.targets.iter())
            .map(|target| target.index)
            .collect();
        let now: HashSet<u32> = targets.iter().map(|target| target.index).collect();
        before.symmetric_difference(&now).count()
    }
}
