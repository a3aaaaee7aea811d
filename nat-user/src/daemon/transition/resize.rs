//! Tables of other sizes: their own stages within a transition, before anything is written.

use std::time::Instant;

use anyhow::Result;

use super::{Active, Tables};
use crate::dataplane::{CarryOver, Sizes, attach, local};

/// Tables that hold what those in use hold, with programs that are not attached yet.
struct Filled {
    tables: Tables,
    carry: CarryOver,
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
        if (has_sessions == sessions && has_rules > rules) || self.carry.is_some() {
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
        let (dataplane, mut programs, carry) = self.tables.dataplane.resize(&sizes, log_packets)?;
        attach::load(&mut programs, &self.applied.targets)?;
        Ok(Filled {
            tables: Tables::new(dataplane, programs, log_packets)?,
            carry,
            sizes,
            begun,
        })
    }

    /// Attaches the programs in use to the links that a failed attempt gives back.
    fn attach_again(&mut self, carry: CarryOver) -> Result<()> {
        carry.give_up()?;
        let Tables {
            dataplane,
            programs,
            ..
        } = &mut self.tables;
        let targets = &mut self.applied.targets.clone();
        attach::attach(programs, dataplane.pins(), targets)?;
        let own = self.applied.ruleset.own.as_deref();
        self.state.local = local::attach(programs, dataplane.pins(), own);
        Ok(())
    }
}

impl Filled {
    /// Gives the links the new programs, and takes the tables into use.
    fn attach(self, active: &mut Active) -> Result<()> {
        let Self {
            mut tables,
            mut carry,
            sizes,
            begun,
        } = self;
        carry.begin()?;
        let (dataplane, programs) = (&mut tables.dataplane, &mut tables.programs);
        let targets = &mut active.applied.targets.clone();
        if let Err(error) = attach::attach(programs, dataplane.pins(), targets) {
            active.attach_again(carry)?;
            return Err(error);
        }
        let own = active.applied.ruleset.own.as_deref();
        active.state.local = local::attach(programs, dataplane.pins(), own);
        carry.finish(dataplane, programs)?;
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
