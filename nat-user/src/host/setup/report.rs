//! What a set-up did to the host.

use std::fmt;

use nat_sys::sysctl::Key;

/// What was done, in lines for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Changes made or undone, in that order.
    pub done: Vec<String>,
    /// What was left as it is, and why.
    pub notes: Vec<String>,
    /// What should have been undone and could not be; it stays in the journal.
    pub failed: Vec<String>,
    /// What the host lacks and natbpf waits for.
    pub awaited: Vec<String>,
    /// Settings that were set, each with the value that it had.
    pub reset: Vec<(Key, String)>,
}

impl Report {
    /// Logs what was done to the host, and what was left unchanged.
    pub(crate) fn log(&self) {
        for line in self.done.iter().chain(&self.notes) {
            log::info!("{line}");
        }
    }

    /// Whether there is nothing to report.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.done.is_empty() && self.notes.is_empty() && self.failed.is_empty()
    }

    /// All lines: done, left, failed.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let failed = self.failed.iter().map(|line| format!("failed: {line}"));
        let others = self.done.iter().chain(&self.notes).cloned();
        others.chain(failed)
    }
}

/// One line; `nothing` if it is empty.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing");
        }
        f.write_str(&self.lines().collect::<Vec<_>>().join(", "))
    }
}
