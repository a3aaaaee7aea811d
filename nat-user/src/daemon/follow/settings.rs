//! What the host lacks, and which of its settings other software changes: shown once in the log,
//! and in the status for as long as it holds.

use std::{os::unix::fs::PermissionsExt as _, path::Path};

use crate::{daemon::instance::Instance, host::setup::Report};

impl Instance {
    /// Records what the host lacks and which settings other software keeps changing. Each is
    /// reported once.
    pub(in crate::daemon) fn note_host(&mut self, report: &Report) {
        self.settings.note(report);
        self.awaited.clone_from(&report.awaited);
        self.tell_of_host();
    }

    /// Shows the problems of the host.
    pub(in crate::daemon) fn tell_of_host(&mut self) {
        let mut warnings = self.awaited.clone();
        warnings.extend(self.settings.warnings());
        warnings.extend(self.claims.findings());
        warnings.extend(self.closed_directory());
        warnings.extend(self.settings.conflict());
        self.warn_of_host(warnings);
    }

    /// Why dnsmasq, which runs as another user, cannot read its files. It does not report this
    /// itself, and then knows no guest's name.
    fn closed_directory(&self) -> Option<String> {
        let networks = self.config.networks.iter();
        let mut served = networks.filter(|one| one.is_served());
        served.next()?;
        let run_dir = std::path::absolute(&self.options.run_dir).ok()?;
        let is_closed = |directory: &&Path| {
            let metadata = directory.metadata();
            metadata.is_ok_and(|metadata| metadata.permissions().mode() & 0o001 == 0)
        };
        let closed = run_dir.ancestors().find(is_closed)?;
        Some(format!(
            "dnsmasq cannot read its files in {}: {} is closed to other users, so names of guests \
             are not answered (chmod o+x {}, or another --run-dir)",
            run_dir.display(),
            closed.display(),
            closed.display()
        ))
    }

    /// Shows warnings about the host, in the log once and in the status for as long as they hold.
    pub(in crate::daemon) fn warn_of_host(&mut self, warnings: Vec<String>) {
        if warnings == self.host_warnings {
            return;
        }
        for warning in warnings
            .iter()
            .filter(|one| !self.host_warnings.contains(one))
        {
            log::warn!("{warning}");
        }
        for former in self
            .host_warnings
            .iter()
            .filter(|one| !warnings.contains(one))
        {
            log::info!("resolved: {former}");
        }
        let state = &mut self.active.state;
        let is_other = |one: &String| !self.host_warnings.contains(one);
        state.warnings.retain(is_other);
        state.warnings.extend(warnings.iter().cloned());
        self.host_warnings = warnings;
        if let Err(error) = state.save(&self.options.run_dir) {
            log::warn!("{error:#}");
        }
    }
}
