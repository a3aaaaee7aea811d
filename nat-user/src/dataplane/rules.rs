//! Writing a rule set into the maps: beside the one in use, followed by one write that activates
//! it.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use aya::{
    maps::{HashMap, LpmTrie, MapData, MapError, lpm_trie::Key},
    sys::SyscallError,
};
use nat_common::tables::{
    addresses::AddressKey4,
    excludes::ExcludeKey4,
    forward_sources::ForwardSourceKey4,
    forwards::ForwardKey4,
    inside::InsideKey4,
    policies::{Chain, ChainKey, MAX_POLICIES, Policy4, Side},
    settings::Settings,
    snats::SnatKey4,
};
use nat_config::{
    compile::{Prefix, Ruleset},
    model::{Limits, Timeouts},
};

use super::{Dataplane, Plain};

/// A key that contains the generation of its rule set.
trait Generational {
    fn generation(&self) -> u16;
    fn with_generation(self, generation: u16) -> Self;
}

macro_rules! generational {
    ($($key:ty),*) => {
        $(impl Generational for $key {
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
    AddressKey4,
    ChainKey,
    ExcludeKey4,
    ForwardKey4,
    ForwardSourceKey4,
    InsideKey4,
    SnatKey4
);

impl Dataplane {
    /// Activates a rule set, timeouts and the limits per guest in one write, and returns the new
    /// generation. Afterwards no packet uses the former rules.
    ///
    /// # Errors
    ///
    /// When a table is full; nothing has changed then.
    pub fn set_rules(
        &mut self,
        ruleset: &Ruleset,
        timeouts: &Timeouts,
        limits: &Limits,
    ) -> Result<u32> {
        let before = self.settings()?.generation;
        let generation = before.wrapping_add(1).max(1);
        // The remains of an interrupted attempt would mix with the new set.
        self.remove_generations(|other| other != before as u16)?;
        if let Err(error) = self.write_rules(ruleset, generation as u16) {
            self.remove_generations(|other| other != before as u16)?;
            return Err(error);
        }
        let settings = Settings {
            generation,
            udp_s: timeouts.udp_s,
            tcp_opening_s: timeouts.tcp_opening_s,
            tcp_established_s: timeouts.tcp_established_s,
            tcp_closing_s: timeouts.tcp_closing_s,
            icmp_s: timeouts.icmp_s,
            other_s: timeouts.other_s,
            fragment_s: timeouts.fragment_s,
            sessions_per_guest: limits.guest_sessions(),
            ports_per_guest: limits.guest_ports(),
        };
        self.settings
            .set(0, Plain(settings), 0)
            .context("write map SETTINGS")?;
        wait_for_packets();
        self.remove_generations(|other| other != generation as u16)?;
        Ok(generation)
    }

    fn write_rules(&mut self, rules: &Ruleset, generation: u16) -> Result<()> {
        for (address, external) in &rules.addresses {
            let key = AddressKey4 {
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
        policies: &[Policy4],
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

    fn remove_generations(&mut self, unwanted: impl Fn(u16) -> bool + Copy) -> Result<()> {
        remove_entries(&mut self.addresses, unwanted)?;
        remove_entries(&mut self.chains, unwanted)?;
        remove(&mut self.inside, unwanted)?;
        remove(&mut self.forwards, unwanted)?;
        remove(&mut self.forward_sources, unwanted)?;
        remove(&mut self.excludes, unwanted)?;
        remove(&mut self.snats, unwanted)
    }
}

/// Waits until all programs have finished with the packets that they were handling.
///
/// A packet that has read the former generation looks up its rules a little later. Without them it
/// would leave as if there were no rule. A session that it opens by them would stay, because the
/// daemon ends the sessions of changed rules only once. Programs run within a read-side section of
/// RCU, and this command waits for all of these (`membarrier` in `kernel/sched/membarrier.c`).
fn wait_for_packets() {
    // SAFETY: the command has no pointers, and changes nothing.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result != 0 {
        // (The kernel refuses it where some CPUs have no clock ticks, `nohz_full`.)
        std::thread::sleep(WITHOUT_MEMBARRIER);
    }
}

/// More time than a packet takes.
const WITHOUT_MEMBARRIER: Duration = Duration::from_millis(20);

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

fn put<K, V>(
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

fn remove<K, V>(
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
