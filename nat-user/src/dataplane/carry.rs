//! Migrating sessions and counts to other tables: larger or smaller ones, or those of another
//! layout.
//!
//! The new tables are filled while packets still change the old ones. Then the links move, one by
//! one, and programs that run beside the packets add the changes since then
//! ([`nat_common::session::adoption`]). References to ports, permits and guests are counted again
//! from the sessions, so they are right whenever the sessions are.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context as _, Result, bail};
use aya::{
    maps::{Array, Map, MapData, PerCpuArray, PerCpuValues},
    programs::{TestRun as _, TestRunOptions},
};
use bytemuck::{Pod, Zeroable as _};
use nat_common::{
    session::adoption::{ADOPT_BATCH, ADOPT_OFFSET, Adopted4, COUNTED_BATCH, Counted, counted},
    tables::{
        counters::RuleCounters,
        guests::{self, GuestKey4, GuestRecord},
        mappings::{MappingKey4, MappingRecord4},
        next_hops,
        permits::PermitKey4,
        ports::{PortKey4, PortRecord4},
        sessions::{JUST_OPENED, OPENING, SessionKey4, SessionRecord4, flags},
        settings::Settings,
    },
    wire::address::Endpoint,
};

use super::{
    Dataplane, Pins, Plain, Programs, SessionEntry, Sizes, batch, local,
    takeover::{Former, hand_links_over},
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
pub struct CarryOver {
    former: Former,
    /// Its final place.
    place: Pins,
    /// What was written of the sessions; empty if another daemon wrote it.
    written: HashMap<SessionKey4, SessionRecord4>,
    /// The counts at that time, if they have another table now.
    counted: Vec<Counted>,
    has_links: bool,
}

/// Everything that is written into the new tables.
#[derive(Default)]
struct Contents {
    sessions: HashMap<SessionKey4, SessionRecord4>,
    mappings: HashMap<MappingKey4, MappingRecord4>,
    ports: HashMap<PortKey4, PortRecord4>,
    permits: HashMap<PermitKey4, u32>,
    guests: HashMap<GuestKey4, GuestRecord>,
    count: u32,
}

impl Dataplane {
    /// Creates a data plane that replaces another, and fills its tables.
    ///
    /// Its programs still have to be attached between [`CarryOver::begin`] and
    /// [`CarryOver::finish`]. If it is dropped without either, nothing has changed.
    ///
    /// # Errors
    ///
    /// When the sessions do not fit, or the kernel refuses something; nothing has changed then.
    pub(super) fn carry(
        former: Former,
        place: Pins,
        sizes: &Sizes,
        log_packets: bool,
    ) -> Result<(Self, Programs, CarryOver)> {
        let mut carry = CarryOver {
            former,
            place,
            written: HashMap::new(),
            counted: Vec::new(),
            has_links: false,
        };
        let next = carry.place.beside();
        next.remove_own()?;
        next.create()?;
        carry.share_maps(&next, sizes)?;
        local::share_asked(&carry.former.pins, &next)?;
        let (mut dataplane, programs) = Self::load(next, sizes, log_packets)?;
        carry.fill(&mut dataplane, sizes)?;
        Ok((dataplane, programs, carry))
    }

    /// Creates tables of other sizes for this data plane; see [`Dataplane::carry`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn resize(&self, sizes: &Sizes, log_packets: bool) -> Result<(Self, Programs, CarryOver)> {
        let place = Pins::below(self.pins.bpffs());
        if self.pins != place {
            bail!("an earlier change of the tables has not finished; restart natbpf");
        }
        Self::carry(Former::of(place.clone()), place, sizes, log_packets)
    }
}

impl CarryOver {
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
            if record.flags & flags::PRIMARY != 0 {
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
                    passed: JUST_OPENED,
                    ..*record
                };
                sessions.insert(*key, record);
            }
        })?;
        Ok(sessions)
    }

    fn copy_counters(&mut self, dataplane: &mut Dataplane) -> Result<()> {
        let former = PerCpuArray::<_, Plain<_>>::try_from(Map::PerCpuArray(self.map("COUNTERS")?))?;
        for rule in 0..former.len().min(dataplane.counters.len()) {
            let values = former.get(&rule, 0).context("read map COUNTERS")?;
            let words = words(&values);
            if words == [0; 6] {
                continue;
            }
            dataplane
                .counters
                .set(rule, values, 0)
                .context("write map COUNTERS")?;
            self.counted.push(Counted {
                table: counted::RULES,
                number: rule,
                words,
            });
        }
        Ok(())
    }

    fn copy_drops(&mut self, dataplane: &mut Dataplane) -> Result<()> {
        let former = PerCpuArray::<_, u64>::try_from(Map::PerCpuArray(self.map("DROPS")?))?;
        for reason in 0..former.len().min(dataplane.drops.len()) {
            let values: PerCpuValues<u64> = former.get(&reason, 0).context("read map DROPS")?;
            let count = values.iter().sum();
            dataplane
                .drops
                .set(reason, values, 0)
                .context("write map DROPS")?;
            self.counted.push(Counted {
                table: counted::DROPS,
                number: reason,
                words: [count, 0, 0, 0, 0, 0],
            });
        }
        Ok(())
    }

    /// What the former has counted since.
    fn counted_since(&self) -> Result<Vec<Counted>> {
        if self.counted.is_empty() {
            return Ok(Vec::new());
        }
        let counters =
            PerCpuArray::<_, Plain<_>>::try_from(Map::PerCpuArray(self.map("COUNTERS")?))?;
        let drops = PerCpuArray::<_, u64>::try_from(Map::PerCpuArray(self.map("DROPS")?))?;
        let before = self
            .counted
            .iter()
            .map(|one| ((one.table, one.number), one.words));
        let before: HashMap<(u32, u32), [u64; 6]> = before.collect();
        let mut since = Vec::new();
        let mut note = |table, number, words: [u64; 6]| {
            let before = before.get(&(table, number)).copied().unwrap_or_default();
            let words = std::array::from_fn(|word| words[word] - before[word]);
            if words != [0; 6] {
                since.push(Counted {
                    table,
                    number,
                    words,
                });
            }
        };
        if !self.is_shared("COUNTERS")? {
            for rule in 0..counters.len() {
                let values = counters.get(&rule, 0).context("read map COUNTERS")?;
                note(counted::RULES, rule, words(&values));
            }
        }
        if !self.is_shared("DROPS")? {
            for reason in 0..drops.len() {
                let values = drops.get(&reason, 0).context("read map DROPS")?;
                note(counted::DROPS, reason, [values.iter().sum(), 0, 0, 0, 0, 0]);
            }
        }
        Ok(since)
    }

    /// Generations continue from the former ones.
    fn copy_generation(&self, dataplane: &mut Dataplane) -> Result<()> {
        let former = Array::<_, Plain<Settings>>::try_from(Map::Array(self.map("SETTINGS")?))?;
        let Plain(settings) = former.get(&0, 0).context("read map SETTINGS")?;
        let settings = Settings {
            generation: settings.generation,
            ..Settings::zeroed()
        };
        let result = dataplane.settings.set(0, Plain(settings), 0);
        result.context("write map SETTINGS")
    }

    fn copy_rule_flags(&self, dataplane: &mut Dataplane) -> Result<()> {
        let former = Array::<_, u32>::try_from(Map::Array(self.map("RULES")?))?;
        for rule in 0..former.len().min(dataplane.rules.len()) {
            let flags = former.get(&rule, 0).context("read map RULES")?;
            dataplane
                .rules
                .set(rule, flags, 0)
                .context("write map RULES")?;
        }
        Ok(())
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
        super::pins::remove_directory(&next.marker())?;
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
        super::pins::remove_directory(&self.place.marker())?;
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
            .filter(|(_, record)| record.flags & flags::PRIMARY != 0);
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
        let is_primary =
            |(_, record): &(&SessionKey4, &SessionRecord4)| record.flags & flags::PRIMARY != 0;
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

/// What was counted under a rule on all CPUs, as words.
fn words(values: &PerCpuValues<Plain<RuleCounters>>) -> [u64; 6] {
    bytemuck::cast(super::total(values))
}

/// What a session refers to.
struct References {
    external: Option<PortKey4>,
    permit: Option<PermitKey4>,
    /// The external port that a hairpinned session was sent to.
    server: Option<PortKey4>,
    guest: GuestKey4,
}

impl References {
    /// Of the session of a primary entry. (`nat_common::session::ending` releases them.)
    fn of(entry: &SessionEntry) -> Self {
        let SessionEntry { key, record } = entry;
        let has = |flag| record.flags & flag != 0;
        let external = record.source_endpoint();
        let remote = match has(flags::HAIRPIN) {
            true => key.destination,
            false => record.destination,
        };
        let permit = || PermitKey4::new(external, remote, key.protocol);
        let server = || PortKey4::new(key.destination_endpoint(), key.protocol);
        Self {
            external: has(flags::HOLDS_PORT).then(|| PortKey4::new(external, key.protocol)),
            permit: has(flags::HOLDS_PERMIT).then(permit),
            server: has(flags::HOLDS_SERVER).then(server),
            guest: GuestKey4::of_session(key, record.flags),
        }
    }

    fn ports(&self) -> impl Iterator<Item = PortKey4> {
        self.external.into_iter().chain(self.server)
    }
}

impl Contents {
    /// Adds the session of a primary entry, if it is complete: another CPU may be opening or ending
    /// it.
    fn add(
        &mut self,
        entry: &SessionEntry,
        sessions: &HashMap<SessionKey4, SessionRecord4>,
        ports: &HashMap<PortKey4, PortRecord4>,
    ) {
        let Some(entries) = all_entries(entry, sessions) else {
            return;
        };
        let references = References::of(entry);
        if !references.ports().all(|port| ports.contains_key(&port)) {
            return;
        }
        self.count += 1;
        self.sessions.extend(entries);
        for port in references.ports() {
            self.refer_to(port, &ports[&port]);
        }
        if let Some(permit) = references.permit {
            *self.permits.entry(permit).or_default() += 1;
        }
        let counted = [references.guest, GuestKey4::outside()];
        let is_from_outside = guests::is_from_outside(entry.record.flags);
        for key in counted.iter().take(1 + usize::from(is_from_outside)) {
            let guest = self.guests.entry(*key);
            let guest = guest.or_insert(GuestRecord::zeroed());
            guest.references += 1;
            guest.sessions += 1;
        }
    }

    fn refer_to(&mut self, key: PortKey4, owner: &PortRecord4) {
        if let Some(owner) = self.ports.get_mut(&key) {
            owner.references += 1;
            return;
        }
        let owner = PortRecord4 {
            references: 1,
            ..*owner
        };
        self.ports.insert(key, owner);
        if owner.is_exclusive() {
            let external = MappingRecord4::new(Endpoint::new(key.address, key.port));
            self.mappings
                .insert(owner.mapping_key(key.protocol), external);
            let guest = GuestKey4::new(owner.address, owner.network);
            let guest = self.guests.entry(guest).or_insert(GuestRecord::zeroed());
            guest.references += 1;
            guest.ports += 1;
        }
    }

    fn write(&self, pins: &Pins) -> Result<()> {
        write(pins, "PORTS", &self.ports)?;
        write(pins, "MAPPINGS", &self.mappings)?;
        write(pins, "PERMITS", &self.permits)?;
        write(pins, "GUESTS", &self.guests)?;
        write(pins, "SESSIONS", &self.sessions)
    }
}

fn write<K: Pod, V: Pod>(pins: &Pins, name: &str, entries: &HashMap<K, V>) -> Result<()> {
    let map = MapData::from_pin(pins.map(name)).with_context(|| format!("open map {name}"))?;
    let entries = entries.iter().map(|(key, value)| (*key, *value));
    batch::write_all(&map, entries).with_context(|| format!("write map {name}"))
}

/// All entries of the session of a primary entry.
fn all_entries(
    primary: &SessionEntry,
    sessions: &HashMap<SessionKey4, SessionRecord4>,
) -> Option<Vec<(SessionKey4, SessionRecord4)>> {
    let with_record = |key: SessionKey4| sessions.get(&key).map(|record| (key, *record));
    let (key, record) = with_record(primary.peer_key())?;
    let mut entries = vec![(primary.key, primary.record), (key, record)];
    if primary.record.flags & flags::HAIRPIN != 0 {
        // Not looked up: older layouts had them under other keys.
        let [request, answer] = primary.between_keys();
        let not_primary = SessionRecord4 {
            flags: primary.record.flags & !flags::PRIMARY,
            ..primary.record
        };
        entries.push((request, not_primary));
        entries.push((answer, record));
    }
    Some(entries)
}

impl Programs {
    /// Adds sessions or updates existing ones. Returns how many found no place.
    fn adopt_sessions(&mut self, sessions: &[Adopted4]) -> Result<u32> {
        let mut refused = 0;
        for chunk in sessions.chunks(ADOPT_BATCH as usize) {
            refused += self.run_on("adopt_sessions", chunk)?;
        }
        Ok(refused)
    }

    /// Adds to the counts.
    fn add_counts(&mut self, counts: &[Counted]) -> Result<()> {
        for chunk in counts.chunks(COUNTED_BATCH as usize) {
            self.run_on("add_counts", chunk)?;
        }
        Ok(())
    }

    /// Runs a program on some records and returns its result.
    fn run_on<T: Pod>(&mut self, program: &str, records: &[T]) -> Result<u32> {
        let mut packet = vec![0; ADOPT_OFFSET];
        packet[..4].copy_from_slice(&(records.len() as u32).to_ne_bytes());
        packet.extend_from_slice(bytemuck::cast_slice(records));
        let options = TestRunOptions {
            data_in: Some(&packet),
            ..TestRunOptions::default()
        };
        let result = self.program(program)?.test_run(options);
        let result = result.with_context(|| format!("run {program}"))?;
        Ok(result.return_value)
    }
}

impl Drop for CarryOver {
    fn drop(&mut self) {
        if !self.has_links
            && let Err(error) = self.place.beside().remove_own()
        {
            log::error!("remove unused tables: {error:#}");
        }
    }
}
