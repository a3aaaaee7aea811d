//! Which port has which name, in the maps `BINDINGS` and `NAMES`: see
//! [`nat_common::pipeline::guard`].

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use aya::maps::MapError;
use nat_common::{
    pipeline::guard::MOST_NAMES,
    tables::bindings::{BindingRecord, FIXED, Name},
};
use nat_sys::whereabouts;

use super::{Dataplane, Plain};
use crate::clock;

/// After how many seconds without use a name is forgotten where a port has many.
const STALE_S: u32 = 3600;

/// What ports are to have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bound {
    /// The ports at which names are judged, by index.
    pub ports: BTreeSet<u32>,
    /// Names with the only port that may use them, by index; 0 is none.
    pub fixed: BTreeMap<Name, u32>,
    /// Names of guests that may be at any port, each with the index of its bridge: they belong to
    /// the port behind which the bridge has them.
    pub sought: BTreeMap<Name, u32>,
}

impl Dataplane {
    /// Binds names to ports and forgets those of ports that are gone. Names in use by an existing
    /// port stay bound to it.
    ///
    /// # Errors
    ///
    /// When a map cannot be read or written, or the kernel does not say where a guest is.
    pub fn bind(&mut self, bound: &Bound) -> Result<()> {
        let Bound {
            ports,
            fixed,
            sought,
        } = bound;
        let mut counts: BTreeMap<u32, u32> = ports.iter().map(|port| (*port, 0)).collect();
        let known: Vec<(Name, BindingRecord)> = (self.bindings.iter())
            .map(|entry| entry.map(|(Plain(name), Plain(record))| (name, record)))
            .collect::<Result<_, _>>()
            .context("read map BINDINGS")?;
        for (_, record) in &known {
            if let Some(count) = counts.get_mut(&record.port) {
                *count += 1;
            }
        }
        let now_s = clock::monotonic_s();
        let mut kept = BTreeSet::new();
        for (name, record) in known {
            let count = counts.get_mut(&record.port);
            let is_stale = now_s.saturating_sub(record.seen_s) > STALE_S;
            let is_kept = match (record.seen_s, count) {
                (FIXED, _) => fixed.contains_key(&name),
                (_, None) => false,
                (_, Some(count)) if is_stale && *count > MOST_NAMES / 2 => {
                    *count -= 1;
                    false
                }
                _ => true,
            };
            match is_kept {
                true => _ = kept.insert(name),
                false => self.unbind(name)?,
            }
        }
        for (name, port) in fixed {
            self.write_binding(*name, *port, FIXED)?;
        }
        let sought = sought.iter().filter(|(name, _)| !kept.contains(name));
        let sought: Vec<_> = sought.map(|(name, bridge)| (*bridge, name)).collect();
        let asked = sought.iter().map(|(bridge, name)| (*bridge, name.bytes));
        let found = whereabouts::ports_of(asked).context("ask bridges for guests")?;
        for ((_, name), port) in sought.iter().zip(found) {
            if let Some(count) = port.and_then(|port| counts.get_mut(&port))
                && let Some(port) = port
            {
                *count += 1;
                self.write_binding(**name, port, now_s)?;
            }
        }
        self.write_names(&counts).context("write map NAMES")
    }

    fn write_binding(&mut self, name: Name, port: u32, seen_s: u32) -> Result<()> {
        let record = Plain(BindingRecord { port, seen_s });
        let written = self.bindings.insert(Plain(name), record, 0);
        written.context("write map BINDINGS")
    }

    fn unbind(&mut self, name: Name) -> Result<()> {
        match self.bindings.remove(&Plain(name)) {
            Err(MapError::KeyNotFound) | Ok(()) => Ok(()),
            Err(error) => Err(error).context("write map BINDINGS"),
        }
    }

    fn write_names(&mut self, counts: &BTreeMap<u32, u32>) -> Result<(), MapError> {
        let known: Vec<u32> = self.names.keys().collect::<Result<_, _>>()?;
        for (port, count) in counts {
            self.names.insert(port, count, 0)?;
        }
        for port in known.iter().filter(|port| !counts.contains_key(port)) {
            self.names.remove(port)?;
        }
        Ok(())
    }
}
