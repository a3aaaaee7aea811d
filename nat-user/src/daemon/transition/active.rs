//! The data plane in use, and what it was last told.

use std::collections::BTreeMap;

use anyhow::Result;
use nat_common::tables::interfaces::Interface;
use nat_config::model::{Config, Limits, Timeouts};

use crate::{
    daemon::{claims::Claims, host::Host, interfaces::Exits, options::Options},
    dataplane::{Bound, Dataplane, Expiry, Logger, Migration, Programs, Rulesets, attach::Target},
    host::{bridge_netfilter::BridgeNetfilter, change::Change, policing::Policing},
    state::State,
};

/// The data plane in use, and what it was last told.
pub(in crate::daemon) struct Active {
    pub(in crate::daemon) tables: Tables,
    pub(in crate::daemon) state: State,
    pub(in crate::daemon) applied: Applied,
    /// Which guests are bound to which ports.
    pub(in crate::daemon) bound: Bound,
    pub(super) exits: Exits,
    /// The rules in use, with the other values written along with them.
    pub(super) rules: Option<(Rulesets, Timeouts, Limits)>,
    /// The tables that the next attachment takes over from.
    pub(super) migration: Option<Migration>,
}

/// The maps and the programs over them.
pub(in crate::daemon) struct Tables {
    pub(in crate::daemon) dataplane: Dataplane,
    pub(super) programs: Programs,
    pub(in crate::daemon) expiry: Expiry,
    /// Write the programs' debug messages to the log until they are dropped; IPv4's is the first.
    pub(in crate::daemon) packet_logs: Vec<Logger>,
}

/// What was last written into the maps.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::daemon) struct Applied {
    pub(in crate::daemon) rulesets: Rulesets,
    pub(super) targets: Vec<Target>,
    /// By index.
    pub(in crate::daemon) interfaces: BTreeMap<u32, Interface>,
    pub(in crate::daemon) bridge_netfilter: BridgeNetfilter,
    pub(super) policing: Policing,
}

/// What a transition leads to.
#[derive(Clone, Copy)]
pub(in crate::daemon) struct Wanted<'a> {
    pub(in crate::daemon) options: &'a Options,
    pub(in crate::daemon) config: &'a Config,
    pub(in crate::daemon) host: &'a Host,
    /// What natbpf has changed on the host.
    pub(in crate::daemon) changes: &'a [Change],
    pub(in crate::daemon) claims: &'a Claims,
}

impl Tables {
    pub(super) fn new(dataplane: Dataplane, programs: Programs, log_packets: bool) -> Result<Self> {
        let mut tables = Self {
            dataplane,
            programs,
            expiry: Expiry::default(),
            packet_logs: Vec::new(),
        };
        tables.log_packets(log_packets)?;
        Ok(tables)
    }

    /// Writes the debug messages of programs that are new to the log, if so wanted.
    pub(super) fn log_packets(&mut self, log_packets: bool) -> Result<()> {
        if log_packets {
            self.packet_logs.extend(self.programs.loggers()?);
        }
        Ok(())
    }
}

impl Active {
    /// Tables that nothing was written to so far.
    pub(in crate::daemon) fn new(
        (dataplane, programs, migration): (Dataplane, Programs, Option<Migration>),
        mut state: State,
        log_packets: bool,
    ) -> Result<Self> {
        state.sessions_max = dataplane.ipv4.sessions.capacity()?;
        Ok(Self {
            tables: Tables::new(dataplane, programs, log_packets)?,
            state,
            applied: Applied::default(),
            bound: Bound::default(),
            exits: Exits::default(),
            rules: None,
            migration,
        })
    }
}
