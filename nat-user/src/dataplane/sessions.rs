//! Live sessions: reading and ending them.

use std::marker::PhantomData;

use anyhow::{Context as _, Result};
use aya::{
    maps::MapData,
    programs::{SchedClassifier, TestRun as _, TestRunOptions},
};
use nat_common::{
    session::ending::{END_BATCH, END_KEYS_OFFSET, EndMode},
    tables::sessions::{SessionFlags, SessionKey, SessionRecord, View},
    wire::address::{Addr4, Address},
};

use super::batch;

/// An entry of the session table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionEntry<A = Addr4> {
    /// Its key.
    pub key: SessionKey<A>,
    /// Its value.
    pub record: SessionRecord<A>,
}

/// The session table of a family.
pub struct SessionTable<A> {
    pub(super) map: MapData,
    end_sessions: SchedClassifier,
    _address: PhantomData<A>,
}

impl<A: Address> SessionEntry<A> {
    /// Whether it stands for its session.
    #[must_use]
    pub fn is_primary(&self) -> bool {
        self.record.flags.contains(SessionFlags::PRIMARY)
    }

    /// The key of the other direction's entry.
    #[must_use]
    pub fn peer_key(&self) -> SessionKey<A> {
        let Self { key, record } = self;
        SessionKey {
            source: record.destination,
            destination: record.source,
            source_port: record.destination_port,
            destination_port: record.source_port,
            network: record.peer_network,
            protocol: key.protocol,
            view: record.peer_view,
        }
    }

    /// For the primary entry of a hairpinned session: the keys of both directions at the hook in
    /// between.
    #[must_use]
    pub(super) fn between_keys(&self) -> [SessionKey<A>; 2] {
        let Self { key, record } = self;
        let request = SessionKey {
            source_port: record.source_port,
            destination: record.destination,
            destination_port: record.destination_port,
            view: View::Between as u8,
            ..*key
        };
        let answer = SessionKey {
            network: record.peer_network,
            ..request.reversed()
        };
        [request, answer]
    }
}

/// The answer of `end_sessions` for its keys.
pub(super) struct Answers {
    /// How many sessions it ended.
    pub(super) ended: u32,
    /// When to check each key again, 0 if its session no longer exists.
    pub(super) ask_again_s: Vec<u32>,
}

/// How often the daemon tries to end a session. Packets change it once a second, so the second
/// attempt succeeds unless another CPU ends it.
const MAX_TRIES: u32 = 4;

impl<A: Address> SessionTable<A> {
    /// Of a map and the program that ends its sessions.
    pub(super) fn new(map: MapData, end_sessions: SchedClassifier) -> Self {
        Self {
            map,
            end_sessions,
            _address: PhantomData,
        }
    }

    /// All entries: two for each session, four for a hairpinned one.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn entries(&self) -> Result<Vec<SessionEntry<A>>> {
        let mut entries = Vec::new();
        let visit = |key: &SessionKey<A>, record: &SessionRecord<A>| {
            entries.push(SessionEntry {
                key: *key,
                record: *record,
            });
        };
        batch::for_each(&self.map, visit).context("read a session table")?;
        Ok(entries)
    }

    /// How many sessions the table has room for.
    ///
    /// # Errors
    ///
    /// When the kernel does not describe the map.
    pub fn capacity(&self) -> Result<u32> {
        Ok(self.entries_max()? / 2)
    }

    /// The highest number of a rule under which a session counts, 0 without sessions.
    pub(super) fn highest_rule(&self) -> Result<u32> {
        let entries = self.entries()?;
        let in_use = entries.iter().map(|entry| entry.record.rule).max();
        Ok(in_use.unwrap_or(0))
    }

    /// Entries that fit into the table.
    pub(super) fn entries_max(&self) -> Result<u32> {
        let info = self.map.info().context("ask for a session table")?;
        Ok(info.max_entries())
    }

    /// Ends the sessions of these primary keys and returns how many have ended.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to run the program.
    pub fn end(&self, keys: &[SessionKey<A>]) -> Result<u32> {
        let mut ended = 0;
        for chunk in keys.chunks(END_BATCH as usize) {
            let mut keys = chunk.to_vec();
            // A packet that uses a session at the same moment keeps it until the next attempt.
            for _ in 0..MAX_TRIES {
                let answers = self.run_end_sessions(&keys, EndMode::Now)?;
                ended += answers.ended;
                let mut ask_again_s = answers.ask_again_s.into_iter();
                keys.retain(|_| ask_again_s.next().is_some_and(|again_s| again_s != 0));
                if keys.is_empty() {
                    break;
                }
            }
        }
        Ok(ended)
    }

    /// Passes keys to the program, at most [`END_BATCH`].
    pub(super) fn run_end_sessions(
        &self,
        keys: &[SessionKey<A>],
        mode: EndMode,
    ) -> Result<Answers> {
        let mut packet = vec![0; END_KEYS_OFFSET];
        packet[..4].copy_from_slice(&(mode as u32).to_ne_bytes());
        packet[4..8].copy_from_slice(&(keys.len() as u32).to_ne_bytes());
        packet.extend_from_slice(bytemuck::cast_slice(keys));
        let mut answer = vec![0; packet.len()];
        let options = TestRunOptions {
            data_in: Some(&packet),
            data_out: Some(&mut answer),
            ..TestRunOptions::default()
        };
        let result = self
            .end_sessions
            .test_run(options)
            .context("run end_sessions")?;
        let answers = answer[END_KEYS_OFFSET..].chunks_exact(size_of::<SessionKey<A>>());
        let first_word = |key: &[u8]| {
            let word = key.first_chunk();
            word.map_or(0, |word| u32::from_ne_bytes(*word))
        };
        Ok(Answers {
            ended: result.return_value,
            ask_again_s: answers.map(first_word).collect(),
        })
    }
}
