//! From one configuration or host to the next: the stages of every change to the data plane.
//!
//! A start, a reload, a change of the host and a change of leases all take the same stages:
//!
//! 1. [`Compiled`]: the rules, interfaces and attachments that the configuration needs on this
//!    host. Nothing has changed.
//! 2. [`Loaded`]: the kernel has accepted every program, and the tables are large enough. A failure
//!    up to here leaves the data plane as it was.
//! 3. [`Written`]: the programs in use follow the new rules, which one write switches.
//! 4. [`Attached`]: the programs run at exactly the interfaces of the configuration.
//! 5. [`Attached::commit`]: the state on disk says so.
//!
//! Each stage consumes the one before it, so none can be skipped. A failed reload reactivates the
//! former configuration by the same stages (`reload.rs`). If the daemon cannot start and found no
//! data plane, it removes everything that it created (`start.rs`). If it cannot follow a change of
//! the host, it tries again.

mod attach;
mod commit;
mod compile;
mod load;
mod resize;
mod write;

use std::collections::BTreeMap;

use anyhow::Result;
use attach::Attached;
use compile::Compiled;
use load::Loaded;
use nat_common::tables::interfaces::Interface;
use nat_config::{
    compile::Ruleset,
    model::{Config, Limits, Timeouts},
};
use write::Written;

use super::{Options, claims::Claims, host::Host, interfaces::Exits};
use crate::{
    dataplane::{
        Bound, Dataplane, Expiry, Migration, Programs,
        attach::{Role, Target, XdpWish},
    },
    host::{bridge_netfilter::BridgeNetfilter, change::Change, policing::Policing},
    state::State,
};

/// The data plane in use, and what it was last told.
pub(super) struct Active {
    pub(super) tables: Tables,
    pub(super) state: State,
    pub(super) applied: Applied,
    /// Which guests are bound to which ports.
    pub(super) bound: Bound,
    exits: Exits,
    /// The rules in use, with the other values written along with them.
    rules: Option<(Ruleset, Timeouts, Limits)>,
    /// The tables that the next attachment takes over from.
    migration: Option<Migration>,
}

/// The maps and the programs over them.
pub(super) struct Tables {
    pub(super) dataplane: Dataplane,
    programs: Programs,
    pub(super) expiry: Expiry,
    /// Writes the programs' messages to the log until it is dropped.
    pub(super) packet_log: Option<aya_log::EbpfLogger<&'static dyn log::Log>>,
}

/// What was last written into the maps.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Applied {
    pub(super) ruleset: Ruleset,
    targets: Vec<Target>,
    /// By index.
    pub(super) interfaces: BTreeMap<u32, Interface>,
    pub(super) bridge_netfilter: BridgeNetfilter,
    policing: Policing,
}

/// What a transition leads to.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) options: &'a Options,
    pub(super) config: &'a Config,
    pub(super) host: &'a Host,
    /// What natbpf has changed on the host.
    pub(super) changes: &'a [Change],
    pub(super) claims: &'a Claims,
}

impl Tables {
    fn new(dataplane: Dataplane, mut programs: Programs, log_packets: bool) -> Result<Self> {
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
    pub(super) fn new(
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

    /// Takes a configuration into use on a host, by all stages.
    pub(super) fn transition(&mut self, wanted: Wanted<'_>) -> Result<()> {
        Compiled::new(wanted, &self.state.numbers)
            .load(self)?
            .write(self)?
            .attach(self)?
            .commit(self)
    }

    /// Whether a transition would change nothing. The configuration is the one in use.
    pub(super) fn is_in_use(&self, wanted: Wanted<'_>) -> bool {
        Compiled::unchanged(wanted, &self.state.numbers).applied() == self.applied
    }
}
