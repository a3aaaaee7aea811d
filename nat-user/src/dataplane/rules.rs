//! The rule tables of a family. A rule set is written beside the one in use, under a generation of
//! its own; see `activation`.

use anyhow::{Context as _, Result, anyhow, bail};
use aya::{
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, lpm_trie::Key},
    sys::SyscallError,
};
use nat_common::{
    tables::{
        addresses::{AddressKey, ExternalAddress},
        excludes::ExcludeKey,
        forward_sources::{ForwardSource, ForwardSourceKey},
        forwards::{Forward, ForwardKey},
        inside::{Inside, InsideKey},
        policies::{Chain, ChainKey, MAX_POLICIES, Policy, Side},
        snats::{Snat, SnatKey},
    },
    wire::address::Address,
};
use nat_config::compile::{Prefix, Ruleset};

use super::Plain;

/// A key that contains the generation of its rule set.
pub(super) trait Generational {
    fn generation(&self) -> u16;
    fn with_generation(self, generation: u16) -> Self;
}

macro_rules! generational {
    ($($key:ident),*) => {
        $(impl<A: Address> Generational for $key<A> {
            fn generation(&self) -> u16 {
                self.generation
            }

            fn with_generation(self, generation: u16) -> Self {
                Self { generation, ..self }
            }
        })*
    };
}

generational!(
    AddressKey,
    ExcludeKey,
    ForwardKey,
    ForwardSourceKey,
    InsideKey,
    SnatKey
);

impl Generational for ChainKey {
    fn generation(&self) -> u16 {
        self.generation
    }

    fn with_generation(self, generation: u16) -> Self {
        Self { generation, ..self }
    }
}

/// The rule tables of a family.
pub(super) struct RuleTables<A: Address> {
    addresses: HashMap<MapData, Plain<AddressKey<A>>, Plain<ExternalAddress>>,
    forwards: LpmTrie<MapData, Plain<ForwardKey<A>>, Plain<Forward<A>>>,
    forward_sources: LpmTrie<MapData, Plain<ForwardSourceKey<A>>, Plain<ForwardSource<A>>>,
    snats: LpmTrie<MapData, Plain<SnatKey<A>>, Plain<Snat<A>>>,
    excludes: LpmTrie<MapData, Plain<ExcludeKey<A>>, u8>,
    inside: LpmTrie<MapData, Plain<InsideKey<A>>, Plain<Inside<A>>>,
    chains: HashMap<MapData, Plain<ChainKey>, Plain<Chain>>,
    policies: Array<MapData, Plain<Policy<A>>>,
}

impl<A: Address> RuleTables<A> {
    /// Opens them with what opens a map of the family by its name.
    pub(super) fn open(map: impl Fn(&str) -> Result<MapData>) -> Result<Self> {
        Ok(Self {
            addresses: HashMap::try_from(Map::HashMap(map("ADDRESSES")?))?,
            forwards: LpmTrie::try_from(Map::LpmTrie(map("FORWARDS")?))?,
            forward_sources: LpmTrie::try_from(Map::LpmTrie(map("FORWARD_SOURCES")?))?,
            snats: LpmTrie::try_from(Map::LpmTrie(map("SNATS")?))?,
            excludes: LpmTrie::try_from(Map::LpmTrie(map("EXCLUDES")?))?,
            inside: LpmTrie::try_from(Map::LpmTrie(map("INSIDE")?))?,
            chains: HashMap::try_from(Map::HashMap(map("CHAINS")?))?,
            policies: Array::try_from(Map::Array(map("POLICIES")?))?,
        })
    }

    /// Adds the entries of a rule set, with a generation that packets do not use yet.
    ///
    /// # Errors
    ///
    /// When a table is full. Some entries are there then.
    pub(super) fn write(&mut self, rules: &Ruleset<A>, generation: u16) -> Result<()> {
        for (address, external) in &rules.addresses {
            let key = AddressKey {
                address: *address,
                generation,
                reserved: [0; 2],
            };
            let result = self.addresses.insert(Plain(key), Plain(*external), 0);
            result.map_err(|error| refused("ADDRESSES", error))?;
        }
        for (prefix, inside) in &rules.inside {
            put(
                &mut self.inside,
                "INSIDE",
                *prefix,
                generation,
                Plain(*inside),
            )?;
        }
        for (prefix, forward) in &rules.forwards {
            put(
                &mut self.forwards,
                "FORWARDS",
                *prefix,
                generation,
                Plain(*forward),
            )?;
        }
        for (prefix, source) in &rules.forward_sources {
            put(
                &mut self.forward_sources,
                "FORWARD_SOURCES",
                *prefix,
                generation,
                Plain(*source),
            )?;
        }
        for prefix in &rules.excludes {
            put(&mut self.excludes, "EXCLUDES", *prefix, generation, 1)?;
        }
        for (prefix, snat) in &rules.snats {
            put(&mut self.snats, "SNATS", *prefix, generation, Plain(*snat))?;
        }
        self.write_policies(&rules.chains, &rules.policies, generation)
    }

    fn write_policies(
        &mut self,
        chains: &[((Side, Side), Chain)],
        policies: &[Policy<A>],
        generation: u16,
    ) -> Result<()> {
        if policies.len() > MAX_POLICIES as usize {
            bail!(
                "the policies need {} pairs of ends, protocols and ports, but at most \
                 {MAX_POLICIES} fit; write prefixes or networks instead of single addresses",
                policies.len()
            );
        }
        // As the programs look for them.
        let half = if generation % 2 == 1 { 0 } else { MAX_POLICIES };
        for (index, policy) in (half..).zip(policies) {
            self.policies
                .set(index, Plain(*policy), 0)
                .context("write map POLICIES")?;
        }
        for ((from, to), chain) in chains {
            let key = ChainKey {
                generation,
                from: *from,
                to: *to,
                reserved: 0,
            };
            let result = self.chains.insert(Plain(key), Plain(*chain), 0);
            result.map_err(|error| refused("CHAINS", error))?;
        }
        Ok(())
    }

    /// Removes the entries of generations.
    ///
    /// # Errors
    ///
    /// When a table cannot be read or written.
    pub(super) fn remove_generations(
        &mut self,
        unwanted: impl Fn(u16) -> bool + Copy,
    ) -> Result<()> {
        remove_entries(&mut self.addresses, unwanted)?;
        remove_entries(&mut self.chains, unwanted)?;
        remove(&mut self.inside, unwanted)?;
        remove(&mut self.forwards, unwanted)?;
        remove(&mut self.forward_sources, unwanted)?;
        remove(&mut self.excludes, unwanted)?;
        remove(&mut self.snats, unwanted)
    }
}

fn refused(map: &str, error: MapError) -> anyhow::Error {
    match error {
        MapError::SyscallError(SyscallError { io_error, .. })
            if io_error.raw_os_error() == Some(libc::ENOSPC)
                || io_error.raw_os_error() == Some(libc::E2BIG) =>
        {
            anyhow!("map {map} is full: the configuration has too many rules")
        }
        error => anyhow!(error).context(format!("write map {map}")),
    }
}

pub(super) fn put<K, V>(
    map: &mut LpmTrie<MapData, Plain<K>, V>,
    name: &str,
    prefix: Prefix<K>,
    generation: u16,
    value: V,
) -> Result<()>
where
    K: bytemuck::Pod + Generational,
    V: aya::Pod,
{
    let key = Key::new(prefix.bits, Plain(prefix.key.with_generation(generation)));
    map.insert(&key, value, 0)
        .map_err(|error| refused(name, error))
}

pub(super) fn remove<K, V>(
    map: &mut LpmTrie<MapData, Plain<K>, V>,
    unwanted: impl Fn(u16) -> bool,
) -> Result<()>
where
    K: bytemuck::Pod + Generational,
    V: aya::Pod,
{
    // Collect all keys first: removing an entry restarts the iteration.
    let keys: Vec<Key<Plain<K>>> = map.keys().collect::<Result<_, _>>()?;
    for key in keys {
        if unwanted(key.data().0.generation()) {
            map.remove(&key).context("remove an old rule")?;
        }
    }
    Ok(())
}

fn remove_entries<K, V>(
    map: &mut HashMap<MapData, Plain<K>, V>,
    unwanted: impl Fn(u16) -> bool,
) -> Result<()>
where
    K: bytemuck::Pod + Generational,
    V: aya::Pod,
{
    let keys: Vec<Plain<K>> = map.keys().collect::<Result<_, _>>()?;
    for key in keys {
        if unwanted(key.0.generation()) {
            map.remove(&key).context("remove an old entry")?;
        }
    }
    Ok(())
}
