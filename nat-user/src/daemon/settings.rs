//! The kernel settings on which the data plane relies, because other software may change them.

use std::time::{Duration, Instant};

use nat_sys::sysctl::Key;

use crate::host::{
    change::Change,
    setup::{self, Plan, Report},
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
pub(super) struct Settings {
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
    /// Whether a setting has a wrong value. Each call checks some of the settings.
    pub(super) fn have_changed(&mut self) -> bool {
        let Self { watched, next, .. } = self;
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
    pub(super) fn pause(&self) -> Duration {
        match self.is_contested() {
            true => LATER,
            false => SOON,
        }
    }

    /// Watches the settings of a plan from now on.
    pub(super) fn watch(&mut self, plan: &Plan, made: &[Change]) {
        self.watched = setup::settings(plan, made).unwrap_or_default();
        self.next = 0;
    }

    /// Records the settings that a set-up has set again.
    pub(super) fn note(&mut self, report: &Report) {
        let at = Instant::now();
        let resets = report.reset.iter().map(|(key, meanwhile)| Reset {
            key: key.clone(),
            meanwhile: meanwhile.clone(),
            at,
        });
        self.resets.extend(resets);
    }

    /// What the status says about settings that were set again lately, each once.
    pub(super) fn warnings(&mut self) -> Vec<String> {
        self.resets.retain(|reset| reset.at.elapsed() < SHOWN);
        let mut warnings = Vec::new();
        for Reset { key, meanwhile, .. } in &self.resets {
            let warning = format!(
                "{key} was {meanwhile}: natbpf needs it and has set it again; find the software \
                 that changes it (sysctl.d, a network manager, a hardening script)"
            );
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
        warnings
    }

    /// What the status says if other software keeps changing them.
    pub(super) fn conflict(&self) -> Option<String> {
        self.is_contested().then(|| {
            format!(
                "other software keeps changing kernel settings that natbpf needs: each is set \
                 again {} s later, and guests may be cut off until then",
                LATER.as_secs()
            )
        })
    }

    fn is_contested(&self) -> bool {
        let recent = |reset: &&Reset| reset.at.elapsed() < MEMORY;
        self.resets.iter().filter(recent).count() > PATIENCE
    }
}
