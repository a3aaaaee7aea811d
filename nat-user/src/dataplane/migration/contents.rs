//! What is written into new session tables. References to ports, permits and guests are counted
//! again from the sessions, so they are right whenever the sessions are.

use std::collections::HashMap;

use anyhow::{Context as _, Result};
use bytemuck::{Pod, Zeroable as _};
use nat_common::{
    tables::{
        guests::{self, GuestKey, GuestRecord},
        mappings::{MappingKey, MappingRecord},
        permits::PermitKey,
        ports::{PortKey, PortRecord},
        sessions::{SessionFlags, SessionKey, SessionRecord},
    },
    wire::address::Endpoint,
};

use crate::dataplane::{Pinned, Pins, SessionEntry, batch, family::open_map};

/// Everything that is written into the new tables.
pub(super) struct Contents<A> {
    pub(super) sessions: HashMap<SessionKey<A>, SessionRecord<A>>,
    mappings: HashMap<MappingKey<A>, MappingRecord<A>>,
    ports: HashMap<PortKey<A>, PortRecord<A>>,
    permits: HashMap<PermitKey<A>, u32>,
    guests: HashMap<GuestKey<A>, GuestRecord>,
    pub(super) count: u32,
}

/// What a session refers to.
pub(super) struct References<A> {
    pub(super) external: Option<PortKey<A>>,
    permit: Option<PermitKey<A>>,
    /// The external port that a hairpinned session was sent to.
    pub(super) server: Option<PortKey<A>>,
    guest: GuestKey<A>,
}

impl<A: Pinned> References<A> {
    /// Of the session of a primary entry. (`nat_common::session::ending` releases them.)
    pub(super) fn of(entry: &SessionEntry<A>) -> Self {
        let SessionEntry { key, record } = entry;
        let has = |flag| record.flags.contains(flag);
        let external = record.source_endpoint();
        let remote = match has(SessionFlags::HAIRPIN) {
            true => key.destination,
            false => record.destination,
        };
        let permit = || PermitKey::new(external, remote, key.protocol);
        let server = || PortKey::new(key.destination_endpoint(), key.protocol);
        Self {
            external: has(SessionFlags::REFS_PORT).then(|| PortKey::new(external, key.protocol)),
            permit: has(SessionFlags::REFS_PERMIT).then(permit),
            server: has(SessionFlags::REFS_SERVER).then(server),
            guest: GuestKey::of_session(key, record.flags),
        }
    }

    fn ports(&self) -> impl Iterator<Item = PortKey<A>> {
        self.external.into_iter().chain(self.server)
    }
}

impl<A> Default for Contents<A> {
    fn default() -> Self {
        Self {
            sessions: HashMap::new(),
            mappings: HashMap::new(),
            ports: HashMap::new(),
            permits: HashMap::new(),
            guests: HashMap::new(),
            count: 0,
        }
    }
}

impl<A: Pinned> Contents<A> {
    /// Adds the session of a primary entry, if it is complete: another CPU may be opening or ending
    /// it.
    pub(super) fn add(
        &mut self,
        entry: &SessionEntry<A>,
        sessions: &HashMap<SessionKey<A>, SessionRecord<A>>,
        ports: &HashMap<PortKey<A>, PortRecord<A>>,
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
        let counted = [references.guest, GuestKey::outside()];
        let is_from_outside = guests::is_from_outside(entry.record.flags);
        for key in counted.iter().take(1 + usize::from(is_from_outside)) {
            let guest = self.guests.entry(*key);
            let guest = guest.or_insert(GuestRecord::zeroed());
            guest.references += 1;
            guest.sessions += 1;
        }
    }

    fn refer_to(&mut self, key: PortKey<A>, owner: &PortRecord<A>) {
        if let Some(owner) = self.ports.get_mut(&key) {
            owner.references += 1;
            return;
        }
        let owner = PortRecord {
            references: 1,
            ..*owner
        };
        self.ports.insert(key, owner);
        if owner.is_exclusive() {
            let external = MappingRecord::new(Endpoint::new(key.address, key.port));
            self.mappings
                .insert(owner.mapping_key(key.protocol), external);
            let guest = GuestKey::new(owner.address, owner.network);
            let guest = self.guests.entry(guest).or_insert(GuestRecord::zeroed());
            guest.references += 1;
            guest.ports += 1;
        }
    }

    pub(super) fn write(&self, pins: &Pins) -> Result<()> {
        write::<A, _, _>(pins, "PORTS", &self.ports)?;
        write::<A, _, _>(pins, "MAPPINGS", &self.mappings)?;
        write::<A, _, _>(pins, "PERMITS", &self.permits)?;
        write::<A, _, _>(pins, "GUESTS", &self.guests)?;
        write::<A, _, _>(pins, "SESSIONS", &self.sessions)
    }
}

fn write<A: Pinned, K: Pod, V: Pod>(
    pins: &Pins,
    name: &str,
    entries: &HashMap<K, V>,
) -> Result<()> {
    let map = open_map::<A>(pins, name)?;
    let entries = entries.iter().map(|(key, value)| (*key, *value));
    batch::write_all(&map, entries).with_context(|| format!("write map {name}"))
}

/// All entries of the session of a primary entry.
fn all_entries<A: Pinned>(
    primary: &SessionEntry<A>,
    sessions: &HashMap<SessionKey<A>, SessionRecord<A>>,
) -> Option<Vec<(SessionKey<A>, SessionRecord<A>)>> {
    let with_record = |key: SessionKey<A>| sessions.get(&key).map(|record| (key, *record));
    let (key, record) = with_record(primary.peer_key())?;
    let mut entries = vec![(primary.key, primary.record), (key, record)];
    if primary.record.flags.contains(SessionFlags::HAIRPIN) {
        // Not looked up: older layouts had them under other keys.
        let [request, answer] = primary.between_keys();
        let not_primary = SessionRecord {
            flags: primary.record.flags & !SessionFlags::PRIMARY,
            ..primary.record
        };
        entries.push((request, not_primary));
        entries.push((answer, record));
    }
    Some(entries)
}
