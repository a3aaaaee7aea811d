//! Tables of other sizes: their own stages within a transition, before anything is written.

use std::time::Instant;

use anyhow::Result;
use nat_config::model::Config;

use super::active::{Active, Tables};
use crate::dataplane::{Migration, Sizes, attach, local};

/// Tables that hold what those in use hold, with programs that are not attached yet.
struct Filled {
    tables: Tables,
    migration: Migration,
    sizes: Sizes,
    begun: Instant,
}

impl Tables {
    /// Adds the tables and programs of IPv6, which are not attached yet.
    fn add_ipv6(&mut self, sizes: &Sizes, log_packets: bool) -> Result<()> {
        let begun = Instant::now();
        let programs = &mut self.programs;
        self.dataplane.add_ipv6(programs, sizes, log_packets)?;
        log::info!("tables of IPv6 after {} ms", begun.elapsed().as_millis());
        self.log_packets(log_packets)
    }

    /// Removes the tables and programs of IPv6, which are no longer attached. Returns how many
    /// sessions have ended.
    pub(super) fn remove_ipv6(&mut self) -> Result<u32> {
        self.packet_logs.truncate(1);
        self.dataplane.remove_ipv6(&mut self.programs)
    }
}

impl Active {
    /// Makes the tables as large as they have to be, with all that is in them, and adds those of
    /// IPv6 if they are missing. When that fails, those in use stay in use.
    pub(super) fn make_room(
        &mut self,
        config: &Config,
        rules: u32,
        log_packets: bool,
    ) -> Result<()> {
        // A takeover in progress has precedence; the next reload checks the sizes again.
        if self.migration.is_some() {
            return Ok(());
        }
        let dataplane = &self.tables.dataplane;
        let (has_sessions, has_rules) = (
            dataplane.ipv4.sessions.capacity()?,
            dataplane.rule_capacity(),
        );
        let ipv6 = dataplane.ipv6.as_ref();
        let has_ipv6 = ipv6.map(|ipv6| ipv6.sessions.capacity()).transpose()?;
        let wanted = Sizes::of_config(config, rules as usize);
        let sizes = Sizes {
            rules: wanted.rules.max(has_rules),
            // Tables that are not needed go after their programs.
            sessions_ipv6: wanted.sessions_ipv6.or(has_ipv6),
            ..wanted
        };
        let fits = has_sessions == sizes.sessions
            && has_rules > rules
            && (has_ipv6.is_none() || has_ipv6 == sizes.sessions_ipv6);
        if !fits {
            return self.fill(sizes, log_packets)?.attach(self);
        }
        if has_ipv6.is_none() && sizes.sessions_ipv6.is_some() {
            self.tables.add_ipv6(&sizes, log_packets)?;
        }
        Ok(())
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
        let rulesets = &self.applied.rulesets;
        self.state.local = local::attach_local(programs, dataplane.pins(), rulesets);
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
        let rulesets = &active.applied.rulesets;
        active.state.local = local::attach_local(programs, dataplane.pins(), rulesets);
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
