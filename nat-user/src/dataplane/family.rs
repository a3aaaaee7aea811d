//! The tables of an address family, and what differs between the families' pins.

use std::{hash::Hash, io};

use anyhow::{Context as _, Result};
use aya::{
    maps::MapData,
    programs::{SchedClassifier, TestRun as _, TestRunOptions},
};
use nat_common::{
    tables::sessions::{SessionKey, SessionRecord},
    wire::address::{Addr4, Addr6, Address},
};

use super::{Pins, batch, layout::Layout, rules::RuleTables, sessions::SessionTable};

/// A family whose tables are pinned.
pub trait Pinned: Address + Hash + Ord {
    /// What the names of its maps and programs end in.
    const SUFFIX: &'static str;
    /// The key of the configuration for the size of its session table.
    const LIMIT: &'static str;

    /// Calls for every entry of the session table of a version of the layout, with the record as it
    /// is today.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    fn visit_sessions(
        layout: u32,
        sessions: &MapData,
        visit: &mut dyn FnMut(&SessionKey<Self>, &SessionRecord<Self>),
    ) -> io::Result<()>;
}

impl Pinned for Addr4 {
    const SUFFIX: &'static str = "";
    const LIMIT: &'static str = "limits.sessions";

    fn visit_sessions(
        layout: u32,
        sessions: &MapData,
        visit: &mut dyn FnMut(&SessionKey<Self>, &SessionRecord<Self>),
    ) -> io::Result<()> {
        match Layout::of_version(layout) {
            Some(layout) => layout.visit_sessions(sessions, visit),
            None => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

impl Pinned for Addr6 {
    const SUFFIX: &'static str = "6";
    const LIMIT: &'static str = "limits.sessions_ipv6";

    fn visit_sessions(
        _layout: u32,
        sessions: &MapData,
        visit: &mut dyn FnMut(&SessionKey<Self>, &SessionRecord<Self>),
    ) -> io::Result<()> {
        // (Older layouts have none.)
        batch::for_each(sessions, visit)
    }
}

/// The tables of a family.
pub struct FamilyTables<A: Pinned> {
    /// Sessions.
    pub sessions: SessionTable<A>,
    pub(super) rules: RuleTables<A>,
    expire_fragments: SchedClassifier,
}

/// The programs of a family that the daemon runs itself; they are attached nowhere. The name of
/// [`super::pins::LAST_OF_IPV6`] is among them.
pub(super) const END_SESSIONS: &str = "end_sessions";
pub(super) const EXPIRE_FRAGMENTS: &str = "expire_fragments";

impl<A: Pinned> FamilyTables<A> {
    /// Opens pinned tables.
    ///
    /// # Errors
    ///
    /// When one cannot be opened.
    pub(super) fn open(pins: &Pins) -> Result<Self> {
        Ok(Self {
            sessions: SessionTable::new(
                open_map::<A>(pins, "SESSIONS")?,
                open_program::<A>(pins, END_SESSIONS)?,
            ),
            rules: RuleTables::open(|name| open_map::<A>(pins, name))?,
            expire_fragments: open_program::<A>(pins, EXPIRE_FRAGMENTS)?,
        })
    }

    /// Frees the fragments that have waited too long for the first one of their packet, and counts
    /// them as dropped.
    pub(super) fn expire_fragments(&self) -> Result<()> {
        let options = TestRunOptions {
            // The kernel needs a packet, if only an Ethernet header.
            data_in: Some(&[0; 14]),
            ..TestRunOptions::default()
        };
        let result = self.expire_fragments.test_run(options);
        result.map(drop).context("run expire_fragments")
    }
}

/// Opens a pinned map of a family.
pub(super) fn open_map<A: Pinned>(pins: &Pins, name: &str) -> Result<MapData> {
    open_named(pins, &name_of::<A>(name))
}

/// Opens a pinned map by its whole name.
pub(super) fn open_named(pins: &Pins, name: &str) -> Result<MapData> {
    let path = pins.map(name);
    MapData::from_pin(&path).with_context(|| format!("open map {}", path.display()))
}

fn open_program<A: Pinned>(pins: &Pins, name: &str) -> Result<SchedClassifier> {
    let path = pins.program(&name_of::<A>(name));
    SchedClassifier::from_pin(&path).with_context(|| format!("open program {}", path.display()))
}

/// The name of a map or program of a family.
pub(super) fn name_of<A: Pinned>(name: &str) -> String {
    format!("{name}{}", A::SUFFIX)
}
