//! Writing the rules into the maps: beside those in use, followed by one write that activates them.

use std::time::Duration;

use anyhow::{Context as _, Result};
use nat_common::{tables::settings::Settings, wire::address::Addr6};
use nat_config::{
    compile::Ruleset,
    model::{Limits, Timeouts},
};

use super::{Dataplane, Plain, answers::Answer};

/// The rule sets of all families. They change at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rulesets {
    /// That of IPv4.
    pub ipv4: Ruleset,
    /// That of IPv6, if the configuration names it.
    pub ipv6: Option<Ruleset<Addr6>>,
    /// For which addresses the programs answer neighbours.
    pub answers: Vec<Answer>,
}

impl Dataplane {
    /// Activates the rules of all families, timeouts and the limits per guest in one write, and
    /// returns the new generation. Afterwards no packet uses the former rules.
    ///
    /// # Errors
    ///
    /// When a table is full; nothing has changed then.
    pub fn set_rules(
        &mut self,
        rulesets: &Rulesets,
        timeouts: &Timeouts,
        limits: &Limits,
    ) -> Result<u32> {
        let before = self.settings()?.generation;
        let generation = before.wrapping_add(1).max(1);
        // The remains of an interrupted attempt would mix with the new set.
        self.remove_generations(|other| other != before as u16)?;
        if let Err(error) = self.write_rules(rulesets, generation as u16) {
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

    fn write_rules(&mut self, rulesets: &Rulesets, generation: u16) -> Result<()> {
        self.ipv4.rules.write(&rulesets.ipv4, generation)?;
        let Some(ruleset) = &rulesets.ipv6 else {
            return Ok(());
        };
        let tables = self.ipv6.as_mut();
        let tables = tables.context("the tables of IPv6 are not loaded")?;
        tables.rules.write(ruleset, generation)?;
        let answers = self.answers.as_mut();
        let answers = answers.context("the table of neighbours is not loaded")?;
        answers.write(&rulesets.answers, generation)?;
        let prefixes = self.prefixes.as_mut();
        let prefixes = prefixes.context("the table of prefixes is not loaded")?;
        prefixes.write(ruleset, generation)
    }

    fn remove_generations(&mut self, unwanted: impl Fn(u16) -> bool + Copy) -> Result<()> {
        self.ipv4.rules.remove_generations(unwanted)?;
        let mut answers = self.answers.iter_mut();
        answers.try_for_each(|answers| answers.remove_generations(unwanted))?;
        let mut prefixes = self.prefixes.iter_mut();
        prefixes.try_for_each(|prefixes| prefixes.remove_generations(unwanted))?;
        let mut tables = self.ipv6.iter_mut();
        tables.try_for_each(|tables| tables.rules.remove_generations(unwanted))
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
