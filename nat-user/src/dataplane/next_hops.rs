//! The next hops of the fast path, in the maps `NEXT_HOPS` and `NEXT_HOP_TAGS`.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use aya::maps::{Array, HashMap, Map, MapData, MapError};
use nat_common::tables::next_hops::{self, NextHopKey, NextHopRecord, SLOTS, Tag};

use super::{Pins, Plain};

/// How long a slot stays unused before another next hop gets it. A packet that has read the former
/// tag finishes within microseconds.
const REST: Duration = Duration::from_secs(1);

/// The next hops that sessions can have.
pub struct NextHops {
    hops: Array<MapData, Plain<NextHopRecord>>,
    tags: HashMap<MapData, Plain<NextHopKey>, Tag>,
    in_use: BTreeMap<NextHopKey, NextHopRecord>,
    /// One for each slot that has been in use, from the second slot on. The first slot stays free.
    epochs: Vec<u16>,
    /// Slots that were in use, and since when they are not.
    resting: VecDeque<(Instant, u16)>,
}

impl NextHops {
    /// Takes over the maps. Next hops of an earlier daemon are removed, because they may be
    /// outdated; sessions learn their next hops again.
    ///
    /// # Errors
    ///
    /// When the maps cannot be opened, read or written.
    pub fn take_over(pins: &Pins) -> Result<Self> {
        let map = |name: &str| {
            let path = pins.map(name);
            MapData::from_pin(&path).with_context(|| format!("open map {}", path.display()))
        };
        let mut this = Self {
            hops: Array::try_from(Map::Array(map("NEXT_HOPS")?))?,
            tags: HashMap::try_from(Map::HashMap(map("NEXT_HOP_TAGS")?))?,
            in_use: BTreeMap::new(),
            epochs: Vec::new(),
            resting: VecDeque::new(),
        };
        let keys: Vec<Plain<NextHopKey>> = this.tags.keys().collect::<Result<_, _>>()?;
        keys.iter().try_for_each(|key| this.forget(key.0))?;
        for slot in 1..SLOTS {
            let Plain(record) = this.hops.get(&slot, 0).context("read map NEXT_HOPS")?;
            if record.epoch == 0 {
                break;
            }
            this.epochs.push(record.epoch);
            this.retire(record, slot)?;
        }
        Ok(this)
    }

    /// Updates the next hops to `wanted`. Those that have changed, and those in `renewed` even if
    /// they have not, are removed first. Tag, epoch and use of `wanted` are ignored.
    ///
    /// Returns how many found no room.
    ///
    /// # Errors
    ///
    /// When the maps cannot be written.
    pub fn set(
        &mut self,
        wanted: &BTreeMap<NextHopKey, NextHopRecord>,
        renewed: &BTreeSet<NextHopKey>,
    ) -> Result<usize> {
        let is_kept = |(key, record): &(&NextHopKey, &NextHopRecord)| {
            let is_same = wanted
                .get(key)
                .is_some_and(|wanted| is_same(wanted, record));
            is_same && !renewed.contains(key)
        };
        let gone: Vec<NextHopKey> = self
            .in_use
            .iter()
            .filter(|entry| !is_kept(entry))
            .map(|(key, _)| *key)
            .collect();
        for key in gone {
            self.remove(key)?;
        }
        let mut refused = 0;
        for (key, record) in wanted {
            if !self.in_use.contains_key(key) && !self.add(*key, *record)? {
                refused += 1;
            }
        }
        Ok(refused)
    }

    /// The next hops that packets were sent to since `since_s`, in seconds of the sessions' clock.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn used_since(&self, since_s: u32) -> Result<Vec<NextHopKey>> {
        let mut used = Vec::new();
        for (key, record) in &self.in_use {
            let slot = next_hops::slot(record.tag);
            let Plain(now) = self.hops.get(&slot, 0).context("read map NEXT_HOPS")?;
            if now.used_s != 0 && now.used_s >= since_s {
                used.push(*key);
            }
        }
        Ok(used)
    }

    fn add(&mut self, key: NextHopKey, record: NextHopRecord) -> Result<bool> {
        let Some(slot) = self.free_slot() else {
            return Ok(false);
        };
        let epoch = &mut self.epochs[usize::from(slot) - 1];
        *epoch = epoch.wrapping_add(1).max(1);
        let tag = next_hops::tag(slot, *epoch);
        let record = NextHopRecord {
            tag: next_hops::NONE,
            epoch: *epoch,
            used_s: 0,
            ..record
        };
        // A value is written in no particular order, so its tag is written last.
        self.write(slot.into(), record)?;
        let record = NextHopRecord { tag, ..record };
        self.write(slot.into(), record)?;
        self.tags
            .insert(Plain(key), tag, 0)
            .context("write map NEXT_HOP_TAGS")?;
        self.in_use.insert(key, record);
        Ok(true)
    }

    fn remove(&mut self, key: NextHopKey) -> Result<()> {
        // First no session can learn it, then no packet can use it.
        self.forget(key)?;
        match self.in_use.remove(&key) {
            Some(record) => self.retire(record, next_hops::slot(record.tag)),
            None => Ok(()),
        }
    }

    fn forget(&mut self, key: NextHopKey) -> Result<()> {
        match self.tags.remove(&Plain(key)) {
            Err(MapError::KeyNotFound) | Ok(()) => Ok(()),
            Err(error) => Err(error).context("write map NEXT_HOP_TAGS"),
        }
    }

    /// Takes a slot out of use. Everything except the tag stays for packets that have read the tag
    /// before.
    fn retire(&mut self, record: NextHopRecord, slot: u32) -> Result<()> {
        let record = NextHopRecord {
            tag: next_hops::NONE,
            ..record
        };
        self.write(slot, record)?;
        // (Slots are fewer than 2^16.)
        self.resting.push_back((Instant::now(), slot as u16));
        Ok(())
    }

    fn write(&mut self, slot: u32, record: NextHopRecord) -> Result<()> {
        let result = self.hops.set(slot, Plain(record), 0);
        result.context("write map NEXT_HOPS")
    }

    fn free_slot(&mut self) -> Option<u16> {
        if let Some((since, slot)) = self.resting.front().copied()
            && since.elapsed() >= REST
        {
            self.resting.pop_front();
            return Some(slot);
        }
        let slot = u16::try_from(self.epochs.len() + 1).ok()?;
        if u32::from(slot) >= SLOTS {
            return None;
        }
        self.epochs.push(0);
        Some(slot)
    }
}

/// Whether packets would be sent the same way.
fn is_same(one: &NextHopRecord, other: &NextHopRecord) -> bool {
    let way = |record: &NextHopRecord| NextHopRecord {
        tag: next_hops::NONE,
        epoch: 0,
        used_s: 0,
        ..*record
    };
    way(one) == way(other)
}
