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
mod sessions;

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use aya::maps::MapData;
use nat_common::{
    session::adoption::Counted,
    wire::address::{Addr4, Addr6},
};

use self::sessions::Written;
use super::{
    Dataplane, Pinned, Pins, Programs, Sizes,
    family::{name_of, open_map},
    local,
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
    ipv4: Written<Addr4>,
    ipv6: Written<Addr6>,
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
        let found = takeover::find(&pins, sizes)?;
        let sizes = &match &found {
            Found::Other(former) => keep_ipv6(sizes, &former.pins)?,
            _ => keep_ipv6(sizes, &pins)?,
        };
        pins.remove_unfinished_ipv6()?;
        let (former, is_filled) = match found {
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
            ipv4: Written::default(),
            ipv6: Written::default(),
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
            ipv4: Written::default(),
            ipv6: Written::default(),
            counted: Vec::new(),
            has_links: true,
        }
    }

    /// Pins the maps that can stay where the new programs look for them.
    fn share_maps(&self, next: &Pins, sizes: &Sizes) -> Result<()> {
        let former = &self.former;
        let (ipv4, ipv6) = (
            self.can_stay::<Addr4>(sizes)?,
            self.can_stay::<Addr6>(sizes)?,
        );
        for name in former.layout.map_names(&former.pins) {
            let can_stay = match name.strip_suffix(Addr6::SUFFIX) {
                Some(table) if SESSION_TABLES.contains(&table) => ipv6,
                _ if SESSION_TABLES.contains(&name) => ipv4,
                _ => former.is_current() || COUNTS.contains(&name),
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

    /// Whether the tables of a family's sessions can stay as they are.
    fn can_stay<A: Pinned>(&self, sizes: &Sizes) -> Result<bool> {
        let former = &self.former;
        let is_there = former.is_current() && (A::SUFFIX.is_empty() || former.pins.have_ipv6());
        let mut stays = is_there;
        for name in SESSION_TABLES.iter().filter(|_| is_there) {
            stays &= former.has_room(&name_of::<A>(name), sizes)?;
        }
        Ok(stays)
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
        let (former, next) = (&self.former, dataplane.pins());
        self.ipv4 = Written::fill(former, next, sizes.sessions)?;
        if former.pins.have_ipv6() {
            let room = sizes.sessions_ipv6.unwrap_or_default();
            self.ipv6 = Written::fill(former, next, room)?;
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

    /// Follows the changes of all sessions.
    fn follow_sessions(&self, dataplane: &Dataplane, programs: &mut Programs) -> Result<()> {
        let former = &self.former;
        self.ipv4.follow(former, &dataplane.ipv4, programs)?;
        match &dataplane.ipv6 {
            Some(tables) if former.pins.have_ipv6() => self.ipv6.follow(former, tables, programs),
            _ => Ok(()),
        }
    }
}

/// Sizes with tables of IPv6, if there are any: they go only once their programs are detached.
fn keep_ipv6(sizes: &Sizes, pins: &Pins) -> Result<Sizes> {
    if sizes.sessions_ipv6.is_some() || !pins.have_ipv6() {
        return Ok(*sizes);
    }
    let map = open_map::<Addr6>(pins, "SESSIONS")?;
    Ok(sizes.with_ipv6(Some(map.info()?.max_entries() / 2)))
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
