//! What is written into new session tables. References to ports, permits and guests are counted
//! again from the sessions, so they are right whenever the sessions are.

use std::collections::HashMap;

use anyhow::{Context as _, Result};
use aya::maps::MapData;
use bytemuck::{Pod, Zeroable as _};
use nat_common::{
    tables::{
        guests::{self, GuestKey4, GuestRecord},
        mappings::{MappingKey4, MappingRecord4},
        permits::PermitKey4,
        ports::{PortKey4, PortRecord4},
        sessions::{SessionFlags, SessionKey4, SessionRecord4},
    },
    wire::address::Endpoint,
};

use crate::dataplane::{Pins, SessionEntry, batch};

/// Everything that is written into the new tables.
#[derive(Default)]
pub(super) struct Contents {
    pub(super) sessions: HashMap<SessionKey4, SessionRecord4>,
    mappings: HashMap<MappingKey4, MappingRecord4>,
    ports: HashMap<PortKey4, PortRecord4>,
    permits: HashMap<PermitKey4, u32>,
    guests: HashMap<GuestKey4, GuestRecord>,
    pub(super) count: u32,
}

/// What a session refers to.
pub(super) struct References {
    pub(super) external: Option<PortKey4>,
    permit: Option<PermitKey4>,
    /// The external port that a hairpinned session was sent to.
    pub(super) server: Option<PortKey4>,
    guest: GuestKey4,
}

impl References {
    /// Of the session of a primary entry. (`nat_common::session::ending` releases them.)
    pub(super) fn of(entry: &SessionEntry) -> Self {
        let SessionEntry { key, record } = entry;
        let has = |flag| record.flags.contains(flag);
        let external = record.source_endpoint();
        let remote = match has(SessionFlags::HAIRPIN) {
            true => key.destination,
            false => record.destination,
        };
        let permit = || PermitKey4::new(external, remote, key.protocol);
        let server = || PortKey4::new(key.destination_endpoint(), key.protocol);
        Self {
            external: has(SessionFlags::REFS_PORT).then(|| PortKey4::new(external, key.protocol)),
            permit: has(SessionFlags::REFS_PERMIT).then(permit),
            server: has(SessionFlags::REFS_SERVER).then(server),
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
    pub(super) fn add(
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

    pub(super) fn write(&self, pins: &Pins) -> Result<()> {
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
    if primary.record.flags.contains(SessionFlags::HAIRPIN) {
        // Not looked up: older layouts had them under other keys.
        let [request, answer] = primary.between_keys();
        let not_primary = SessionRecord4 {
            flags: primary.record.flags & !SessionFlags::PRIMARY,
            ..primary.record
        };
        entries.push((request, not_primary));
        entries.push((answer, record));
    }
    Some(entries)
}
