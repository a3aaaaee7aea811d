//! Live sessions: reading and ending them.

use std::os::fd::{AsFd as _, AsRawFd as _};

use anyhow::{Context as _, Result};
use aya::programs::{TestRun as _, TestRunOptions};
pub use nat_common::sweep::EndMode;
use nat_common::{
    session::{DEAD, SessionKey4, SessionRecord4, flags},
    sweep::{END_BATCH, END_KEYS_OFFSET, timeout_s},
};

use super::{Dataplane, batch};

/// An entry of the session table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionEntry {
    /// Its key.
    pub key: SessionKey4,
    /// Its value.
    pub record: SessionRecord4,
}

impl SessionEntry {
    /// The key of the other direction's entry.
    #[must_use]
    pub fn peer_key(&self) -> SessionKey4 {
        let Self { key, record } = self;
        SessionKey4 {
            source: record.destination,
            destination: record.source,
            source_port: record.destination_port,
            destination_port: record.source_port,
            network: record.peer_network,
            protocol: key.protocol,
            view: record.peer_view,
        }
    }
}

/// What a pass over the sessions has found and done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Expired {
    /// Sessions that there were.
    pub sessions: u32,
    /// Sessions that were ended.
    pub ended: u32,
}

impl Dataplane {
    /// All entries: two for each session, four for a hairpinned one.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn session_entries(&self) -> Result<Vec<SessionEntry>> {
        let mut entries = Vec::new();
        self.visit_sessions(|key, record| {
            entries.push(SessionEntry {
                key: *key,
                record: *record,
            });
        })?;
        Ok(entries)
    }

    /// How many sessions the table has room for.
    ///
    /// # Errors
    ///
    /// When the map cannot be asked.
    pub fn session_capacity(&self) -> Result<u32> {
        Ok(self
            .sessions
            .info()
            .context("ask for map SESSIONS")?
            .max_entries()
            / 2)
    }

    fn visit_sessions(&self, visit: impl FnMut(&SessionKey4, &SessionRecord4)) -> Result<()> {
        let map = self.sessions.fd().as_fd().as_raw_fd();
        batch::for_each(map, visit).context("read map SESSIONS")
    }

    /// Ends the sessions that have been idle for too long.
    ///
    /// Those that may be are found here; whether they are is decided in the kernel.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to read the map or to run the program.
    pub fn expire(&self, now_s: u32) -> Result<Expired> {
        let settings = self.settings()?;
        let mut idle = Vec::new();
        let mut sessions = 0;
        self.visit_sessions(|key, record| {
            if record.flags & flags::PRIMARY == 0 {
                return;
            }
            sessions += 1;
            let timeout_s = timeout_s(&settings, key.protocol, record.state);
            let is_idle = record.seen_s == DEAD || now_s.saturating_sub(record.seen_s) >= timeout_s;
            if is_idle {
                idle.push(*key);
            }
        })?;
        let ended = self.end(&idle, EndMode::Idle)?;
        Ok(Expired { sessions, ended })
    }

    /// Ends the sessions of these primary keys and gives how many that were.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to run the program.
    pub fn end(&self, keys: &[SessionKey4], mode: EndMode) -> Result<u32> {
        let mut ended = 0;
        for chunk in keys.chunks(END_BATCH as usize) {
            let mut input = vec![0; END_KEYS_OFFSET];
            input[..4].copy_from_slice(&(mode as u32).to_ne_bytes());
            input[4..8].copy_from_slice(&(chunk.len() as u32).to_ne_bytes());
            input.extend_from_slice(bytemuck::cast_slice(chunk));
            let options = TestRunOptions {
                data_in: Some(&input),
                ..TestRunOptions::default()
            };
            let result = self
                .end_sessions
                .test_run(options)
                .context("run end_sessions")?;
            ended += result.return_value;
        }
        Ok(ended)
    }
}
