//! Watches the kernel settings on which the data plane relies, because other software may change
//! them.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Duration, Instant},
};

use nat_sys::sysctl::Key;

use crate::{
    daemon::instance::Instance,
    host::setup::{self, Plan, Report},
};

/// How many settings are checked at once: each check opens a file.
const AT_ONCE: usize = 32;
/// For how long the status shows a setting that was set again.
const SHOWN: Duration = Duration::from_secs(600);
/// For how long one change counts towards a conflict.
const MEMORY: Duration = Duration::from_secs(60);
/// How many changes within that time are corrected at once. More are a conflict with other
/// software.
const PATIENCE: usize = 8;
/// How soon a setting is set again.
const SOON: Duration = Duration::from_millis(50);
/// The same in a conflict.
const LATER: Duration = Duration::from_secs(10);

/// What is watched, and how often it had to be set again.
#[derive(Debug, Default)]
pub(in crate::daemon) struct Settings {
    watched: Vec<(Key, &'static str)>,
    /// Which one is checked next.
    next: usize,
    resets: Vec<Reset>,
}

/// A setting that was set again.
#[derive(Debug)]
struct Reset {
    key: Key,
    /// Its value meanwhile.
    meanwhile: String,
    at: Instant,
}

impl Settings {
    fn resets(&self) -> usize {
        let recent = |reset: &&Reset| reset.at.elapsed() < MEMORY;
        self.resets.iter().filter(recent).count()
    }
}

impl Instance {
    /// Whether a setting has a wrong value. Each call checks some of the settings.
    pub(in crate::daemon) fn have_settings_changed(&mut self) -> bool {
        let Settings { watched, next, .. } = &mut self.settings;
        let count = watched.len().min(AT_ONCE);
        let from = *next;
        *next = (from + count) % watched.len().max(1);
        let some = watched.iter().cycle().skip(from).take(count);
        some.into_iter().any(|(key, wanted)| {
            let now = key.read().ok().flatten();
            now.is_some_and(|now| now != *wanted)
        })
    }

    /// How soon a setting that has changed is to be set again.
    pub(in crate::daemon) fn settings_pause(&self) -> Duration {
        match self.settings.resets() > PATIENCE {
            true => LATER,
            false => SOON,
        }
    }

    /// Watches the settings of a plan from now on.
    pub(in crate::daemon) fn watch_settings(&mut self, plan: &Plan) {
        self.settings.watched = setup::settings(plan).unwrap_or_default();
        self.settings.next = 0;
    }

    /// Records what the host lacks and which settings other software keeps changing. Each is
    /// reported once.
    pub(in crate::daemon) fn note_host(&mut self, report: &Report) {
        let at = Instant::now();
        let resets = report.reset.iter().map(|(key, meanwhile)| Reset {
            key: key.clone(),
            meanwhile: meanwhile.clone(),
            at,
        });
        self.settings.resets.extend(resets);
        self.awaited.clone_from(&report.awaited);
        self.tell_of_host();
    }

    /// Shows the problems of the host.
    pub(in crate::daemon) fn tell_of_host(&mut self) {
        self.settings
            .resets
            .retain(|reset| reset.at.elapsed() < SHOWN);
        let mut warnings = self.awaited.clone();
        for Reset { key, meanwhile, .. } in &self.settings.resets {
            let warning = format!(
                "{key} was {meanwhile}: natbpf needs it and has set it again; find the software \
                 that changes it (sysctl.d, a network manager, a hardening script)"
            );
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
        warnings.extend(self.claims.findings());
        warnings.extend(self.closed_directory());
        if self.settings.resets() > PATIENCE {
            warnings.push(format!(
                "other software keeps changing kernel settings that natbpf needs: each is set \
                 again {} s later, and guests may be cut off until then",
                LATER.as_secs()
            ));
        }
        self.warn_of_host(warnings);
    }

    /// Why dnsmasq, which runs as another user, cannot read its files. It does not report this
    /// itself, and then knows no guest's name.
    fn closed_directory(&self) -> Option<String> {
        let networks = self.config.networks.iter();
        let mut served = networks.filter(|one| one.dhcp.is_some() || one.dns.is_some());
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
