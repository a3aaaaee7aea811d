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
//! [`Loaded`]: load::Loaded
//! [`Written`]: write::Written
//! [`Attached`]: attach::Attached
//! [`Attached::commit`]: attach::Attached::commit
//!
//! Each stage consumes the one before it, so none can be skipped. A failed reload reactivates the
//! former configuration by the same stages (`reload.rs`). If the daemon cannot start and found no
//! data plane, it removes everything that it created (`start.rs`). If it cannot follow a change of
//! the host, it tries again.

mod active;
mod attach;
mod commit;
mod compile;
mod load;
mod resize;
mod write;

use anyhow::Result;

pub(super) use self::active::{Active, Wanted};
use self::compile::Compiled;

impl Active {
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
