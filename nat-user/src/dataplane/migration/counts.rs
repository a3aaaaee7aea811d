//! Counts, generations and flags of rules, copied into new tables.

use std::collections::HashMap;

use anyhow::{Context as _, Result};
use aya::maps::{Array, Map, PerCpuArray, PerCpuValues};
use bytemuck::Zeroable as _;
use nat_common::{
    session::adoption::{Counted, counted},
    tables::{counters::RuleCounters, settings::Settings},
};

use super::Migration;
use crate::dataplane::{Dataplane, Plain, plane::total};

impl Migration {
    pub(super) fn copy_counters(&mut self, dataplane: &mut Dataplane) -> Result<()> {
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

    pub(super) fn copy_drops(&mut self, dataplane: &mut Dataplane) -> Result<()> {
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
    pub(super) fn counted_since(&self) -> Result<Vec<Counted>> {
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
    pub(super) fn copy_generation(&self, dataplane: &mut Dataplane) -> Result<()> {
        let former = Array::<_, Plain<Settings>>::try_from(Map::Array(self.map("SETTINGS")?))?;
        let Plain(settings) = former.get(&0, 0).context("read map SETTINGS")?;
        let settings = Settings {
            generation: settings.generation,
            ..Settings::zeroed()
        };
        let result = dataplane.settings.set(0, Plain(settings), 0);
        result.context("write map SETTINGS")
    }

    pub(super) fn copy_rule_flags(&self, dataplane: &mut Dataplane) -> Result<()> {
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
}

/// What was counted under a rule on all CPUs, as words.
fn words(values: &PerCpuValues<Plain<RuleCounters>>) -> [u64; 6] {
    bytemuck::cast(total(values))
}
