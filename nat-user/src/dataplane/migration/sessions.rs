//! The sessions of one family: read from the former tables, written into the new ones, and followed
//! while packets still change the former.

use std::collections::HashMap;

use anyhow::{Context as _, Result, bail};
use aya::maps::{Map, MapData};
use bytemuck::Zeroable as _;
use nat_common::{
    session::adoption::Adopted,
    tables::{
        next_hops,
        ports::{PortKey, PortRecord},
        sessions::{JUST_OPENED, OPENING, SessionFlags, SessionKey, SessionRecord},
    },
};

use super::contents::{Contents, References};
use crate::dataplane::{
    FamilyTables, Pinned, Pins, Plain, Programs, SessionEntry, batch, family::open_map,
    takeover::Former,
};

/// What was written of the sessions of a family; empty if another daemon wrote it.
pub(super) struct Written<A>(HashMap<SessionKey<A>, SessionRecord<A>>);

impl<A> Default for Written<A> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<A: Pinned> Written<A> {
    /// Writes the former's sessions into new tables that have room for so many, unless the tables
    /// are the former's.
    pub(super) fn fill(former: &Former, next: &Pins, room: u32) -> Result<Self> {
        let contents = contents::<A>(former)?;
        if contents.count > room {
            bail!(
                "{} sessions live, and {} = {room} has no room for them; end some with natbpf \
                 conntrack flush, or allow more",
                contents.count,
                A::LIMIT,
            );
        }
        let (before, now) = (&former.pins, open_map::<A>(next, "SESSIONS")?);
        if is_same(&open_map::<A>(before, "SESSIONS")?, &now)? {
            return Ok(Self::default());
        }
        contents.write(next)?;
        Ok(Self(contents.sessions))
    }

    /// Adds the sessions that were opened in the meantime, updates those in which packets have
    /// passed, and ends those that have ended.
    pub(super) fn follow(
        &self,
        former: &Former,
        tables: &FamilyTables<A>,
        programs: &mut Programs,
    ) -> Result<()> {
        if is_same(
            &open_map::<A>(&former.pins, "SESSIONS")?,
            &tables.sessions.map,
        )? {
            return Ok(());
        }
        let sessions = sessions::<A>(former)?;
        let refused = programs.adopt_sessions(&self.late(former, &sessions)?)?;
        if refused > 0 {
            log::warn!("{refused} sessions that opened during the migration are lost");
        }
        let written = self.0.iter();
        let primary = written.filter(|(_, record)| is_primary(record));
        let keys = primary.map(|(key, _)| *key);
        let gone: Vec<SessionKey<A>> = keys.filter(|key| !sessions.contains_key(key)).collect();
        tables.sessions.end(&gone)?;
        Ok(())
    }

    /// The sessions that are not as they were written.
    fn late(
        &self,
        former: &Former,
        sessions: &HashMap<SessionKey<A>, SessionRecord<A>>,
    ) -> Result<Vec<Adopted<A>>> {
        let ports = open_map::<A>(&former.pins, "PORTS")?;
        let ports = aya::maps::HashMap::<_, Plain<PortKey<A>>, Plain<PortRecord<A>>>::try_from(
            Map::HashMap(ports),
        )?;
        let port = |key: PortKey<A>| {
            let found = ports.get(&Plain(key), 0);
            found.map_or(PortRecord::zeroed(), |Plain(record)| PortRecord {
                references: 1,
                ..record
            })
        };
        let mut late = Vec::new();
        for (&key, &record) in sessions.iter().filter(|(_, record)| is_primary(record)) {
            let entry = SessionEntry { key, record };
            let peer_key = entry.peer_key();
            let Some(&peer) = sessions.get(&peer_key) else {
                continue;
            };
            let is_written =
                self.0.get(&key) == Some(&record) && self.0.get(&peer_key) == Some(&peer);
            if is_written {
                continue;
            }
            let References {
                external, server, ..
            } = References::of(&entry);
            late.push(Adopted {
                key,
                record,
                peer,
                port: external.map_or(PortRecord::zeroed(), port),
                server: server.map_or(PortRecord::zeroed(), port),
            });
        }
        Ok(late)
    }
}

fn is_primary<A>(record: &SessionRecord<A>) -> bool {
    record.flags.contains(SessionFlags::PRIMARY)
}

fn is_same(one: &MapData, other: &MapData) -> Result<bool> {
    Ok(one.info()?.id() == other.info()?.id())
}

/// What the former tables say.
fn contents<A: Pinned>(former: &Former) -> Result<Contents<A>> {
    let sessions = sessions::<A>(former)?;
    // Read after the sessions, so that each finds its port.
    let mut ports = HashMap::new();
    let read = batch::for_each(
        &open_map::<A>(&former.pins, "PORTS")?,
        |key: &PortKey<A>, record: &PortRecord<A>| {
            ports.insert(*key, *record);
        },
    );
    read.context("read the table of ports")?;
    let mut contents = Contents::default();
    for (&key, &record) in sessions.iter().filter(|(_, record)| is_primary(record)) {
        contents.add(&SessionEntry { key, record }, &sessions, &ports);
    }
    Ok(contents)
}

/// The former's entries that are in use.
fn sessions<A: Pinned>(former: &Former) -> Result<HashMap<SessionKey<A>, SessionRecord<A>>> {
    let mut sessions = HashMap::new();
    let map = open_map::<A>(&former.pins, "SESSIONS")?;
    let mut visit = |key: &SessionKey<A>, record: &SessionRecord<A>| {
        if record.seen_s < OPENING {
            // Next hops are learned again.
            let record = SessionRecord {
                next_hop: next_hops::NONE,
                xdp_passed_at: JUST_OPENED,
                ..*record
            };
            sessions.insert(*key, record);
        }
    };
    A::visit_sessions(former.layout.version, &map, &mut visit).context("read a session table")?;
    Ok(sessions)
}
