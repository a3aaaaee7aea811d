//! Migrating sessions and counts to other tables: larger or smaller ones, or those of another
//! layout.
//!
//! The new tables are filled while packets still change the old ones. Then the links move, one by
//! one, and programs that run beside the packets add the changes since then
//! ([`nat_common::session::adoption`]). References to ports, permits and guests are counted again
//! from the sessions, so they are right whenever the sessions are.

mod adopt;
mod contents;
mod counts;

use std::{collections::HashMap, time::Duration};

use anyhow::{Context as _, Result, bail};
use aya::maps::{Map, MapData};
use bytemuck::Zeroable as _;
use contents::{Contents, References};
use nat_common::{
    session::adoption::{Adopted4, Counted},
    tables::{
        next_hops,
        ports::{PortKey4, PortRecord4},
        sessions::{JUST_OPENED, OPENING, SessionFlags, SessionKey4, SessionRecord4},
    },
};

use super::{
    Dataplane, Pins, Plain, Programs, SessionEntry, Sizes, batch, local,
    pins::remove_directory,
    takeover::{self, Former, Found, hand_links_over},
};
use crate::owned;

/// How long programs that were running when their links moved may still run. They take
/// microseconds.
const LAST_PACKETS: Duration = Duration::from_millis(10);

/// The tables that stay or go together.
const SESSION_TABLES: [&str; 5] = ["SESSIONS", "MAPPINGS", "PORTS", "PERMITS", "GUESTS"];
/// The tables that are the same in all layouts so far.
const COUNTS: [&str; 2] = ["COUNTERS", "DROPS"];

/// A data plane that replaces another.
pub struct Migration {
    former: Former,
    /// Its final place.
    place: Pins,
    /// What was written of the sessions; empty if another daemon wrote it.
    written: HashMap<SessionKey4, SessionRecord4>,
    /// The counts at that time, if they have another table now.
    counted: Vec<Counted>,
    has_links: bool,
}

impl Dataplane {
    /// Loads the programs over the pinned maps, whatever their sizes and, if it is known, their
    /// layout. If tables must be replaced, sessions and counts migrate: see [`Dataplane::resize`].
    ///
    /// # Errors
    ///
    /// When the pinned data plane cannot be taken over, or the kernel refuses a map or a program;
    /// what was pinned before stays.
    pub fn take_over(
        pins: Pins,
        sizes: &Sizes,
        log_packets: bool,
    ) -> Result<(Self, Programs, Option<Migration>)> {
        let (former, is_filled) = match takeover::find(&pins, sizes)? {
            Found::Nothing | Found::Fitting => {
                let (dataplane, programs) = Self::load(pins, sizes, log_packets)?;
                return Ok((dataplane, programs, None));
            }
            Found::Other(former) => (former, false),
            Found::Unfinished(former) => (former, true),
        };
        if is_filled {
            let (dataplane, programs) = Self::load(pins.clone(), sizes, log_packets)?;
            let migration = Migration::unfinished(former, pins);
            return Ok((dataplane, programs, Some(migration)));
        }
        let (dataplane, programs, migration) = Self::migrate(former, pins, sizes, log_packets)?;
        Ok((dataplane, programs, Some(migration)))
    }

    /// Creates a data plane that replaces another, and fills its tables.
    ///
    /// Its programs still have to be attached between [`Migration::begin`] and
    /// [`Migration::finish`]. If it is dropped without either, nothing has changed.
    ///
    /// # Errors
    ///
    /// When the sessions do not fit, or the kernel refuses something; nothing has changed then.
    pub(super) fn migrate(
        former: Former,
        place: Pins,
        sizes: &Sizes,
        log_packets: bool,
    ) -> Result<(Self, Programs, Migration)> {
        let mut migration = Migration {
            former,
            place,
            written: HashMap::new(),
            counted: Vec::new(),
            has_links: false,
        };
        let next = migration.place.beside();
        next.remove_own()?;
        next.create()?;
        migration.share_maps(&next, sizes)?;
        local::share_destinations(&migration.former.pins, &next)?;
        let (mut dataplane, programs) = Self::load(next, sizes, log_packets)?;
        migration.fill(&mut dataplane, sizes)?;
        Ok((dataplane, programs, migration))
    }

    /// Creates tables of other sizes for this data plane; see `Dataplane::migrate`.
    ///
    /// # Errors
    ///
    /// When the sessions do not fit, or the kernel refuses something; nothing has changed then.
    pub fn resize(&self, sizes: &Sizes, log_packets: bool) -> Result<(Self, Programs, Migration)> {
        let place = Pins::below(self.pins.bpffs());
        if self.pins != place {
            bail!("an earlier change of the tables has not finished; restart natbpf");
        }
        Self::migrate(Former::of(place.clone()), place, sizes, log_packets)
    }
}

impl Migration {
    /// For tables filled by a daemon that ended before it finished.
    pub(super) fn unfinished(former: Former, place: Pins) -> Self {
        Self {
            former,
            place,
            written: HashMap::new(),
            counted: Vec::new(),
            has_links: true,
        }
    }

    /// Pins the maps that can stay where the new programs look for them.
    fn share_maps(&self, next: &Pins, sizes: &Sizes) -> Result<()> {
        let former = &self.former;
        let mut stays = former.is_current();
        for name in SESSION_TABLES.iter().filter(|_| former.is_current()) {
            stays &= former.has_room(name, sizes)?;
        }
        for name in former.layout.map_names() {
            let can_stay = match SESSION_TABLES.contains(&name) {
                true => stays,
                false => former.is_current() || COUNTS.contains(&name),
            };
            if can_stay && former.has_room(name, sizes)? {
                let map = MapData::from_pin(former.pins.map(name));
                let pinned = map.map_err(anyhow::Error::from).and_then(|map| {
                    map.pin(next.map(name))?;
                    Ok(())
                });
                pinned.with_context(|| format!("share map {name}"))?;
            }
        }
        Ok(())
    }

    fn map(&self, name: &str) -> Result<MapData> {
        let path = self.former.pins.map(name);
        MapData::from_pin(&path).with_context(|| format!("open map {}", path.display()))
    }

    fn is_shared(&self, name: &str) -> Result<bool> {
        let id =
            |pins: &Pins| Ok::<u32, anyhow::Error>(MapData::from_pin(pins.map(name))?.info()?.id());
        Ok(id(&self.former.pins)? == id(&self.place.beside())?)
    }

    fn fill(&mut self, dataplane: &mut Dataplane, sizes: &Sizes) -> Result<()> {
        let contents = self.contents()?;
        if contents.count > sizes.sessions {
            bail!(
                "{} sessions live, and limits.sessions = {} has no room for them; end some with \
                 natbpf conntrack flush, or allow more",
                contents.count,
                sizes.sessions
            );
        }
        if !self.is_shared("SESSIONS")? {
            contents.write(dataplane.pins())?;
            self.written = contents.sessions;
        }
        if !self.is_shared("COUNTERS")? {
            self.copy_counters(dataplane)?;
        }
        if !self.is_shared("DROPS")? {
            self.copy_drops(dataplane)?;
        }
        if !self.former.is_current() {
            return self.copy_generation(dataplane);
        }
        match self.is_shared("RULES")? {
            true => Ok(()),
            false => self.copy_rule_flags(dataplane),
        }
    }

    /// What the former tables say.
    fn contents(&self) -> Result<Contents> {
        let sessions = self.sessions()?;
        // Read after the sessions, so that each finds its port.
        let mut ports = HashMap::new();
        let read = batch::for_each(
            &self.map("PORTS")?,
            |key: &PortKey4, record: &PortRecord4| {
                ports.insert(*key, *record);
            },
        );
        read.context("read map PORTS")?;
        let mut contents = Contents::default();
        for (key, record) in &sessions {
            if record.flags.contains(SessionFlags::PRIMARY) {
                let entry = SessionEntry {
                    key: *key,
                    record: *record,
                };
                contents.add(&entry, &sessions, &ports);
            }
        }
        Ok(contents)
    }

    /// The former's entries that are in use.
    fn sessions(&self) -> Result<HashMap<SessionKey4, SessionRecord4>> {
        let mut sessions = HashMap::new();
        let map = self.map("SESSIONS")?;
        self.former.layout.visit_sessions(&map, |key, record| {
            if record.seen_s < OPENING {
                // Next hops are learned again.
                let record = SessionRecord4 {
                    next_hop: next_hops::NONE,
                    xdp_passed_at: JUST_OPENED,
                    ..*record
                };
                sessions.insert(*key, record);
            }
        })?;
        Ok(sessions)
    }

    /// Moves the links. They run the former programs until others are attached to them.
    ///
    /// # Errors
    ///
    /// When a pin cannot be moved.
    pub fn begin(&mut self) -> Result<()> {
        if self.has_links {
            return Ok(());
        }
        let next = self.place.beside();
        owned::make(&next.marker()).context("mark the new data plane")?;
        self.has_links = true;
        hand_links_over(&self.former.pins, &next)
    }

    /// Moves the links back, so that the former programs can be attached again.
    ///
    /// # Errors
    ///
    /// When a pin cannot be moved.
    pub fn give_up(mut self) -> Result<()> {
        let next = self.place.beside();
        hand_links_over(&next, &self.former.pins)?;
        remove_directory(&next.marker())?;
        self.has_links = false;
        Ok(())
    }

    /// Takes over the changes that the former programs have made since their tables were read, and
    /// the former place.
    ///
    /// # Errors
    ///
    /// When a map cannot be read or a program not be run.
    pub fn finish(mut self, dataplane: &mut Dataplane, programs: &mut Programs) -> Result<()> {
        std::thread::sleep(LAST_PACKETS);
        self.follow_sessions(dataplane, programs)?;
        programs.add_counts(&self.counted_since()?)?;
        let is_unfinished = dataplane.pins == self.place;
        let former = match is_unfinished {
            true => self.former.pins.clone(),
            false => {
                let former = Former {
                    pins: self.former.pins.clone(),
                    layout: self.former.layout,
                };
                former.leave_to(&self.place)?.pins
            }
        };
        dataplane.pins = self.place.clone();
        self.has_links = true;
        remove_directory(&self.place.marker())?;
        former.remove_own()
    }

    /// Adds the sessions that were opened in the meantime, updates those in which packets have
    /// passed, and ends those that have ended.
    fn follow_sessions(&self, dataplane: &Dataplane, programs: &mut Programs) -> Result<()> {
        if self.is_same_table(dataplane)? {
            return Ok(());
        }
        let sessions = self.sessions()?;
        let ports = self.map("PORTS")?;
        let ports = aya::maps::HashMap::<_, Plain<PortKey4>, Plain<PortRecord4>>::try_from(
            Map::HashMap(ports),
        )?;
        let port = |key: PortKey4| {
            let found = ports.get(&Plain(key), 0);
            found.map_or(PortRecord4::zeroed(), |Plain(record)| PortRecord4 {
                references: 1,
                ..record
            })
        };
        let mut late = Vec::new();
        let primaries = sessions
            .iter()
            .filter(|(_, record)| record.flags.contains(SessionFlags::PRIMARY));
        for (&key, &record) in primaries {
            let entry = SessionEntry { key, record };
            let peer_key = entry.peer_key();
            let Some(&peer) = sessions.get(&peer_key) else {
                continue;
            };
            let is_written = self.written.get(&key) == Some(&record)
                && self.written.get(&peer_key) == Some(&peer);
            if is_written {
                continue;
            }
            let References {
                external, server, ..
            } = References::of(&entry);
            late.push(Adopted4 {
                key,
                record,
                peer,
                port: external.map_or(PortRecord4::zeroed(), port),
                server: server.map_or(PortRecord4::zeroed(), port),
            });
        }
        let refused = programs.adopt_sessions(&late)?;
        if refused > 0 {
            log::warn!("{refused} sessions that opened during the migration are lost");
        }
        let is_primary = |(_, record): &(&SessionKey4, &SessionRecord4)| {
            record.flags.contains(SessionFlags::PRIMARY)
        };
        let gone: Vec<SessionKey4> = self
            .written
            .iter()
            .filter(is_primary)
            .map(|(key, _)| *key)
            .filter(|key| !sessions.contains_key(key))
            .collect();
        dataplane.end(&gone)?;
        Ok(())
    }

    fn is_same_table(&self, dataplane: &Dataplane) -> Result<bool> {
        Ok(self.map("SESSIONS")?.info()?.id() == dataplane.sessions.info()?.id())
    }
}

impl Drop for Migration {
    fn drop(&mut self) {
        if !self.has_links
            && let Err(error) = self.place.beside().remove_own()
        {
            log::error!("remove unused tables: {error:#}");
        }
    }
}
