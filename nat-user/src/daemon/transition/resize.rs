//! Tables of other sizes: their own stages within a transition, before anything is written.

use std::time::Instant;

use anyhow::Result;

use super::active::{Active, Tables};
use crate::dataplane::{Migration, Sizes, attach, local};

/// Tables that hold what those in use hold, with programs that are not attached yet.
struct Filled {
    tables: Tables,
    migration: Migration,
    sizes: Sizes,
    begun: Instant,
}

impl Active {
    /// Makes the tables as large as they have to be, with all that is in them. When that fails,
    /// those in use stay in use.
    pub(super) fn make_room(&mut self, sessions: u32, rules: u32, log_packets: bool) -> Result<()> {
        let dataplane = &self.tables.dataplane;
        let (has_sessions, has_rules) = (dataplane.session_capacity()?, dataplane.rule_capacity());
        // A takeover in progress has precedence; the next reload checks the size again.
        if (has_sessions == sessions && has_rules > rules) || self.migration.is_some() {
            return Ok(());
        }
        let wanted = Sizes::new(sessions, rules as usize);
        let sizes = Sizes {
            rules: wanted.rules.max(has_rules),
            ..wanted
        };
        self.fill(sizes, log_packets)?.attach(self)
    }

    /// Makes new tables beside those in use.
    fn fill(&self, sizes: Sizes, log_packets: bool) -> Result<Filled> {
        let begun = Instant::now();
        let (dataplane, mut programs, migration) =
            self.tables.dataplane.resize(&sizes, log_packets)?;
        attach::load_programs(&mut programs, &self.applied.targets)?;
        Ok(Filled {
            tables: Tables::new(dataplane, programs, log_packets)?,
            migration,
            sizes,
            begun,
        })
    }

    /// Attaches the programs in use to the links that a failed attempt gives back.
    fn attach_again(&mut self, migration: Migration) -> Result<()> {
        migration.give_up()?;
        let Tables {
            dataplane,
            programs,
            ..
        } = &mut self.tables;
        let targets = &mut self.applied.targets.clone();
        attach::attach_programs(programs, dataplane.pins(), targets)?;
        let own = self.applied.ruleset.own.as_deref();
        self.state.local = local::attach_local(programs, dataplane.pins(), own);
        Ok(())
    }
}

impl Filled {
    /// Gives the links the new programs, and takes the tables into use.
    fn attach(self, active: &mut Active) -> Result<()> {
        let Self {
            mut tables,
            mut migration,
            sizes,
            begun,
        } = self;
        migration.begin()?;
        let (dataplane, programs) = (&mut tables.dataplane, &mut tables.programs);
        let targets = &mut active.applied.targets.clone();
        if let Err(error) = attach::attach_programs(programs, dataplane.pins(), targets) {
            active.attach_again(migration)?;
            return Err(error);
        }
        let own = active.applied.ruleset.own.as_deref();
        active.state.local = local::attach_local(programs, dataplane.pins(), own);
        migration.finish(dataplane, programs)?;
        active.tables = tables;
        active.state.sessions_max = sizes.sessions;
        // They are written again, into the new tables.
        active.rules = None;
        log::info!(
            "room for {} sessions and {} rules after {} ms",
            sizes.sessions,
            sizes.rules,
            begun.elapsed().as_millis()
        );
        Ok(())
    }
}
