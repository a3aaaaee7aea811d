//! The table of IPv6 prefixes that become others. Its entries change with the rules.

use std::collections::BTreeMap;

use anyhow::Result;
use aya::maps::{LpmTrie, Map, MapData};
use nat_common::{
    translation::prefix_table::{PREFIX_FIXED_BITS, PrefixEntry, PrefixKey, side},
    wire::address::Addr6,
};
use nat_config::compile::{Prefix, Ruleset};

use super::{
    Pins, Plain,
    family::open_named,
    rules::{Generational, put, remove},
};

/// The table's name.
const NAME: &str = "PREFIXES6";

/// The number of the uplink under which packets between guests look.
const BETWEEN_GUESTS: u16 = 0;

/// How many bits an address has.
const ADDRESS_BITS: u32 = 128;

/// The table.
pub(super) struct PrefixRules(LpmTrie<MapData, Plain<PrefixKey>, Plain<PrefixEntry>>);

impl Generational for PrefixKey {
    fn generation(&self) -> u16 {
        self.generation
    }

    fn with_generation(self, generation: u16) -> Self {
        Self { generation, ..self }
    }
}

/// Entries by uplink, address and length in bits.
type Entries = BTreeMap<(u16, Addr6, u32), PrefixEntry>;

impl PrefixRules {
    /// Opens the pinned table.
    pub(super) fn open(pins: &Pins) -> Result<Self> {
        Ok(Self(LpmTrie::try_from(Map::LpmTrie(open_named(
            pins, NAME,
        )?))?))
    }

    /// Adds the entries of a rule set, with a generation that packets do not use yet.
    ///
    /// # Errors
    ///
    /// When the table is full. Some entries are there then.
    pub(super) fn write(&mut self, rules: &Ruleset<Addr6>, generation: u16) -> Result<()> {
        let mut entries = entries(rules).into_iter();
        entries.try_for_each(|((uplink, address, bits), entry)| {
            let key = PrefixKey {
                generation,
                uplink,
                address,
            };
            let bits = PREFIX_FIXED_BITS + bits;
            put(
                &mut self.0,
                NAME,
                Prefix { bits, key },
                generation,
                Plain(entry),
            )
        })
    }

    /// Removes the entries of generations.
    ///
    /// # Errors
    ///
    /// When the table cannot be read or written.
    pub(super) fn remove_generations(
        &mut self,
        unwanted: impl Fn(u16) -> bool + Copy,
    ) -> Result<()> {
        remove(&mut self.0, unwanted)
    }
}

/// The entries of a rule set. Where several rules translate an internal prefix, each at an uplink
/// of its own, guests reach each other by the external prefix of the first.
fn entries(rules: &Ruleset<Addr6>) -> Entries {
    let mut entries = Entries::new();
    for rule in &rules.prefixes {
        let outbound = rule.outbound;
        let internal = PrefixEntry {
            translation: outbound,
            rule: rule.rule,
            side: side::INTERNAL,
        };
        let external = PrefixEntry {
            translation: outbound.reversed(),
            side: side::EXTERNAL,
            ..internal
        };
        let between = (BETWEEN_GUESTS, outbound.from, rule.bits);
        let is_first = rule.hairpin && !entries.contains_key(&between);
        let parts = [rule.uplink].into_iter();
        for uplink in parts.chain(is_first.then_some(BETWEEN_GUESTS)) {
            entries.insert((uplink, outbound.from, rule.bits), internal);
            entries.insert((uplink, outbound.to, rule.bits), external);
            let stays = PrefixEntry {
                side: side::NEITHER,
                ..external
            };
            let spared = rules.spared.iter();
            let spared = spared.filter(|address| external.translation.covers(**address));
            entries.extend(spared.map(|address| ((uplink, *address, ADDRESS_BITS), stays)));
        }
    }
    entries
}
