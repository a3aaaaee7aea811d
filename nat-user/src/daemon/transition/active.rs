//! The data plane in use, and what it was last told.

use std::collections::BTreeMap;

use anyhow::Result;
use nat_common::tables::interfaces::Interface;
use nat_config::{
    compile::Ruleset,
    model::{Config, Limits, Timeouts},
};

use crate::{
    daemon::{claims::Claims, host::Host, interfaces::Exits, options::Options},
    dataplane::{Bound, Dataplane, Expiry, Migration, Programs, attach::Target},
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
    pub(super) rules: Option<(Ruleset, Timeouts, Limits)>,
    /// The tables that the next attachment takes over from.
    pub(super) migration: Option<Migration>,
}

/// The maps and the programs over them.
pub(in crate::daemon) struct Tables {
    pub(in crate::daemon) dataplane: Dataplane,
    pub(super) programs: Programs,
    pub(in crate::daemon) expiry: Expiry,
    /// Writes the programs' messages to the log until it is dropped.
    pub(in crate::daemon) packet_log: Option<aya_log::EbpfLogger<&'static dyn log::Log>>,
}

/// What was last written into the maps.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::daemon) struct Applied {
    pub(in crate::daemon) ruleset: Ruleset,
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
    pub(super) fn new(
        dataplane: Dataplane,
        mut programs: Programs,
        log_packets: bool,
    ) -> Result<Self> {
        let packet_log = log_packets.then(|| programs.logger()).transpose()?;
        Ok(Self {
            dataplane,
            programs,
            expiry: Expiry::default(),
            packet_log,
        })
    }
}

impl Active {
    /// Tables that nothing was written to so far.
    pub(in crate::daemon) fn new(
        (dataplane, programs, migration): (Dataplane, Programs, Option<Migration>),
        mut state: State,
        log_packets: bool,
    ) -> Result<Self> {
        state.sessions_max = dataplane.session_capacity()?;
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
