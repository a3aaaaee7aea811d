//! The maps of a data plane, and reading and writing them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, PerCpuValues};
use nat_common::{
    drop_reason::DropReason,
    tables::{
        bindings::{BindingRecord, Name},
        counters::RuleCounters,
        interfaces::{CACHED_INTERFACES, CachedInterface, Interface},
        mappings::{MappingKey, MappingKey4, MappingRecord, MappingRecord4},
        permits::{PermitKey, PermitKey4},
        ports::{PortKey, PortKey4, PortRecord, PortRecord4},
        rules::RuleFlags,
        settings::Settings,
        uplinks::Uplink,
    },
    wire::address::{Addr4, Addr6},
};

use super::{
    Pins, Plain, Programs, Sizes,
    answers::AnswerTable,
    batch,
    family::{FamilyTables, open_named},
    layout,
    prefixes::PrefixRules,
    takeover,
};

/// The maps of a data plane.
pub struct Dataplane {
    pub(super) pins: Pins,
    /// The tables of IPv4.
    pub ipv4: FamilyTables<Addr4>,
    /// Those of IPv6, if natbpf carries it.
    pub ipv6: Option<FamilyTables<Addr6>>,
    /// It is there whenever those are.
    pub(super) answers: Option<AnswerTable>,
    pub(super) prefixes: Option<PrefixRules>,
    pub(super) counters: PerCpuArray<MapData, Plain<RuleCounters>>,
    pub(super) drops: PerCpuArray<MapData, u64>,
    pub(super) settings: Array<MapData, Plain<Settings>>,
    pub(super) rules: Array<MapData, u32>,
    pub(super) fast_until: Array<MapData, u32>,
    pub(super) interfaces: HashMap<MapData, u32, Plain<Interface>>,
    pub(super) interface_cache: Array<MapData, Plain<CachedInterface>>,
    pub(super) uplinks: Array<MapData, Plain<Uplink>>,
    pub(super) exits: HashMap<MapData, u32, u8>,
    pub(super) bindings: HashMap<MapData, Plain<Name>, Plain<BindingRecord>>,
    pub(super) names: HashMap<MapData, u32, u32>,
}

impl Dataplane {
    /// Opens a pinned data plane.
    ///
    /// # Errors
    ///
    /// When there is none, when it has another layout, or without the privilege.
    pub fn open(pins: Pins) -> Result<Self> {
        layout::check_current(&pins)?;
        let map = |name| open_named(&pins, name);
        let has_ipv6 = pins.have_ipv6();
        Ok(Self {
            ipv4: FamilyTables::open(&pins)?,
            ipv6: has_ipv6.then(|| FamilyTables::open(&pins)).transpose()?,
            answers: has_ipv6.then(|| AnswerTable::open(&pins)).transpose()?,
            prefixes: has_ipv6.then(|| PrefixRules::open(&pins)).transpose()?,
            counters: PerCpuArray::try_from(Map::PerCpuArray(map("COUNTERS")?))?,
            drops: PerCpuArray::try_from(Map::PerCpuArray(map("DROPS")?))?,
            settings: Array::try_from(Map::Array(map("SETTINGS")?))?,
            rules: Array::try_from(Map::Array(map("RULES")?))?,
            fast_until: Array::try_from(Map::Array(map("FAST_UNTIL")?))?,
            interfaces: HashMap::try_from(Map::HashMap(map("INTERFACES")?))?,
            interface_cache: Array::try_from(Map::Array(map("INTERFACE_CACHE")?))?,
            uplinks: Array::try_from(Map::Array(map("UPLINKS")?))?,
            exits: HashMap::try_from(Map::HashMap(map("EXITS")?))?,
            bindings: HashMap::try_from(Map::HashMap(map("BINDINGS")?))?,
            names: HashMap::try_from(Map::HashMap(map("NAMES")?))?,
            pins,
        })
    }

    /// Loads the programs over the maps that are pinned, or over new ones of these sizes, and pins
    /// those that are not pinned yet. Attaches nothing.
    ///
    /// # Errors
    ///
    /// When the kernel refuses a map or a program; what was pinned before stays.
    pub fn load(pins: Pins, sizes: &Sizes, log_packets: bool) -> Result<(Self, Programs)> {
        pins.create()?;
        let programs = Programs::load(&pins, sizes, log_packets)?;
        Ok((Self::open(pins)?, programs))
    }

    /// Adds the tables and programs of IPv6 of these sizes. Attaches nothing.
    ///
    /// # Errors
    ///
    /// When the kernel refuses a map or a program; nothing has changed then.
    pub fn add_ipv6(
        &mut self,
        programs: &mut Programs,
        sizes: &Sizes,
        log_packets: bool,
    ) -> Result<()> {
        self.pins.remove_unfinished_ipv6()?;
        if let Err(error) = programs.add_ipv6(&self.pins, sizes, log_packets) {
            self.pins.remove_ipv6()?;
            return Err(error);
        }
        self.ipv6 = Some(FamilyTables::open(&self.pins)?);
        self.answers = Some(AnswerTable::open(&self.pins)?);
        self.prefixes = Some(PrefixRules::open(&self.pins)?);
        Ok(())
    }

    /// Ends the sessions of IPv6, and removes its tables. Its programs must be attached nowhere.
    /// Returns how many sessions have ended.
    ///
    /// # Errors
    ///
    /// When a session cannot be ended or a pin not be removed.
    pub fn remove_ipv6(&mut self, programs: &mut Programs) -> Result<u32> {
        let mut ended = 0;
        if let Some(FamilyTables { sessions, .. }) = self.ipv6.take() {
            let entries = sessions.entries()?;
            let primary = entries.iter().filter(|entry| entry.is_primary());
            let keys: Vec<_> = primary.map(|entry| entry.key).collect();
            ended = sessions.end(&keys)?;
        }
        self.answers = None;
        self.prefixes = None;
        programs.drop_ipv6();
        self.pins.remove_ipv6()?;
        Ok(ended)
    }

    /// Checks that an existing data plane can be taken over. Changes nothing.
    ///
    /// # Errors
    ///
    /// When it cannot.
    pub fn check(pins: &Pins) -> Result<()> {
        takeover::check_layouts(pins)
    }

    /// Where it is pinned.
    #[must_use]
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// The settings in use; all zero before the first rules are written.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn settings(&self) -> Result<Settings> {
        Ok(self.settings.get(&0, 0).context("read map SETTINGS")?.0)
    }

    /// The counters of a rule, summed over all CPUs.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn rule_counters(&self, rule: u32) -> Result<RuleCounters> {
        let values = self.counters.get(&rule, 0).context("read map COUNTERS")?;
        Ok(total(&values))
    }

    /// How many rules can be counted, number 0 included.
    #[must_use]
    pub fn rule_capacity(&self) -> u32 {
        self.counters.len()
    }

    /// The highest number of a rule under which something was counted or a session counts.
    ///
    /// # Errors
    ///
    /// When a map cannot be read.
    pub fn highest_rule(&self) -> Result<u32> {
        let mut highest = 0;
        for rule in 1..self.rule_capacity() {
            if self.rule_counters(rule)? != RuleCounters::default() {
                highest = rule;
            }
        }
        let ipv4 = self.ipv4.sessions.highest_rule()?;
        let ipv6 = self.ipv6.as_ref();
        let ipv6 = ipv6.map_or(Ok(0), |tables| tables.sessions.highest_rule())?;
        Ok(highest.max(ipv4).max(ipv6))
    }

    /// How many packets were dropped, by reason.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn drops(&self) -> Result<BTreeMap<&'static str, u64>> {
        let mut drops = BTreeMap::new();
        for &reason in DropReason::ALL {
            let values = self
                .drops
                .get(&(reason as u32), 0)
                .context("read map DROPS")?;
            drops.insert(reason.name(), values.iter().sum());
        }
        Ok(drops)
    }

    /// How many entries the tables beside the sessions have and can have: mappings, external ports
    /// and remote addresses that may answer.
    ///
    /// # Errors
    ///
    /// When one cannot be read.
    pub fn occupancies(&self) -> Result<Vec<(&'static str, u32, u32)>> {
        let mut all = vec![
            self.occupancy::<MappingKey4, MappingRecord4>("mappings", "MAPPINGS")?,
            self.occupancy::<PortKey4, PortRecord4>("ports", "PORTS")?,
            self.occupancy::<PermitKey4, u32>("permits", "PERMITS")?,
        ];
        if self.ipv6.is_some() {
            all.extend([
                self.occupancy::<MappingKey<Addr6>, MappingRecord<Addr6>>(
                    "mappings_ipv6",
                    "MAPPINGS6",
                )?,
                self.occupancy::<PortKey<Addr6>, PortRecord<Addr6>>("ports_ipv6", "PORTS6")?,
                self.occupancy::<PermitKey<Addr6>, u32>("permits_ipv6", "PERMITS6")?,
            ]);
        }
        Ok(all)
    }

    fn occupancy<K: bytemuck::Pod, V: bytemuck::Pod>(
        &self,
        shown: &'static str,
        name: &str,
    ) -> Result<(&'static str, u32, u32)> {
        let map = MapData::from_pin(self.pins.map(name)).with_context(|| format!("open {name}"))?;
        let mut entries = 0;
        batch::for_each(&map, |_: &K, _: &V| entries += 1)
            .with_context(|| format!("read map {name}"))?;
        Ok((shown, entries, map.info()?.max_entries()))
    }

    /// Frees the fragments that have waited too long for the first one of their packet, and counts
    /// them as dropped.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to run the program.
    pub fn expire_fragments(&self) -> Result<()> {
        self.ipv4.expire_fragments()?;
        let ipv6 = self.ipv6.as_ref();
        ipv6.map_or(Ok(()), FamilyTables::expire_fragments)
    }

    /// Lets sessions take the fast path until `until_s`, in seconds of the sessions' clock; 0 to
    /// disable it.
    ///
    /// # Errors
    ///
    /// When the map cannot be written.
    pub fn set_fast_until(&mut self, until_s: u32) -> Result<()> {
        let result = self.fast_until.set(0, until_s, 0);
        result.context("write map FAST_UNTIL")
    }

    /// Writes the flags of rules, by number; all others have none.
    ///
    /// # Errors
    ///
    /// When the map cannot be written.
    pub fn set_rule_flags(&mut self, flags: &BTreeMap<u32, RuleFlags>) -> Result<()> {
        for rule in 0..self.rules.len() {
            let wanted = flags.get(&rule).copied().unwrap_or_default().bits();
            if self.rules.get(&rule, 0).context("read map RULES")? != wanted {
                self.rules.set(rule, wanted, 0).context("write map RULES")?;
            }
        }
        Ok(())
    }

    /// Tells the programs what each interface is; other interfaces are forgotten.
    ///
    /// # Errors
    ///
    /// When the map cannot be written.
    pub fn set_interfaces(&mut self, wanted: &BTreeMap<u32, Interface>) -> Result<()> {
        let known: Vec<u32> = self.interfaces.keys().collect::<Result<_, _>>()?;
        for (&index, &interface) in wanted {
            let result = self.interfaces.insert(index, Plain(interface), 0);
            result.context("write map INTERFACES")?;
        }
        for index in known.iter().filter(|index| !wanted.contains_key(index)) {
            self.interfaces
                .remove(index)
                .context("write map INTERFACES")?;
        }
        let places = known.iter().chain(wanted.keys());
        let places = places.map(|index| index % CACHED_INTERFACES).collect();
        self.set_interface_cache(&places, wanted)
            .context("write map INTERFACE_CACHE")
    }

    /// Tells the programs by which uplinks guests' packets leave, and by which interfaces they may
    /// leave while one of these is missing.
    ///
    /// # Errors
    ///
    /// When a map cannot be written.
    pub fn set_exits(&mut self, uplinks: &[Uplink], exits: &BTreeSet<u32>) -> Result<()> {
        let known: Vec<u32> = self.exits.keys().collect::<Result<_, _>>()?;
        for index in exits.iter().filter(|index| !known.contains(index)) {
            let result = self.exits.insert(index, 1, 0);
            result.context("write map EXITS")?;
        }
        for place in 0..self.uplinks.len() {
            let uplink = uplinks.get(place as usize).copied().unwrap_or_default();
            let result = self.uplinks.set(place, Plain(uplink), 0);
            result.context("write map UPLINKS")?;
        }
        for index in known.iter().filter(|index| !exits.contains(index)) {
            self.exits.remove(index).context("write map EXITS")?;
        }
        Ok(())
    }

    /// A free place stays unused until the next change: a packet may still read its former value.
    fn set_interface_cache(
        &mut self,
        places: &BTreeSet<u32>,
        wanted: &BTreeMap<u32, Interface>,
    ) -> Result<()> {
        for &place in places {
            let Plain(cached) = self.interface_cache.get(&place, 0)?;
            let of_place = |index: &&u32| **index % CACHED_INTERFACES == place;
            let index = match cached.index {
                0 => wanted.keys().find(of_place).copied(),
                index => Some(index),
            };
            let wanted = index.and_then(|index| {
                let interface = *wanted.get(&index)?;
                Some(CachedInterface { interface, index })
            });
            let wanted = wanted.unwrap_or_default();
            if wanted != cached {
                self.interface_cache.set(place, Plain(wanted), 0)?;
            }
        }
        Ok(())
    }
}

/// What was counted on all CPUs.
pub(super) fn total(values: &PerCpuValues<Plain<RuleCounters>>) -> RuleCounters {
    values
        .iter()
        .fold(RuleCounters::default(), |sum, Plain(cpu)| RuleCounters {
            packets_in: sum.packets_in + cpu.packets_in,
            bytes_in: sum.bytes_in + cpu.bytes_in,
            packets_out: sum.packets_out + cpu.packets_out,
            bytes_out: sum.bytes_out + cpu.bytes_out,
            opened: sum.opened + cpu.opened,
            closed: sum.closed + cpu.closed,
        })
}
