//! Expiry: ending the sessions that have been idle for too long.
//!
//! Checking every session every second would cost a core: each entry is a cache miss, and there may
//! be millions. No session can expire sooner than the shortest timeout after its last check. The
//! table is therefore read in rounds of half that time, a part of it in each pass, and sessions
//! that may expire before their next check are recorded. The program `end_sessions` decides in the
//! kernel whether they have expired. It also returns when to check a session again in which a
//! packet has passed.
//!
//! An answered question expires sooner than all other sessions. Because of it, rounds begin sooner
//! if the table is small enough to be read in that time: a table of over [`PACE`] entries for each
//! of these seconds is read no faster than without.
//!
//! A pass has a budget. The rest is left to the next pass, which should then come sooner.

use std::{
    collections::{BTreeMap, HashSet},
    os::fd::{AsFd as _, AsRawFd as _},
    time::Duration,
};

use anyhow::{Context as _, Result};
use nat_common::{
    session::ending::{END_BATCH, EndMode, idle_s, judged_s},
    tables::{
        sessions::{DEAD, SessionFlags, SessionKey, SessionRecord},
        settings::{DNS_S, Settings},
    },
    wire::address::{Addr4, Addr6},
};

use super::{
    Dataplane, Pinned,
    batch::{Place, Reader},
    sessions::SessionTable,
};
use crate::clock;

/// CPU time after which a pass ends, even if it is not complete. It may take a few milliseconds
/// more.
pub const PASS_BUDGET: Duration = Duration::from_millis(100);

/// How many entries may be read each second in any case: 20 ms, where the machine is slow.
const PACE: u64 = 66_000;

/// What is known about the ends of sessions between passes.
#[derive(Debug, Default)]
pub struct Expiry {
    ipv4: TableExpiry<Addr4>,
    ipv6: TableExpiry<Addr6>,
}

/// The same for the table of a family.
#[derive(Debug)]
struct TableExpiry<A> {
    /// Where the round continues.
    place: Place,
    is_round_done: bool,
    round_began_s: u32,
    /// When the allowance of entries was last increased; `None` before the first pass.
    allowed_s: Option<u32>,
    /// Entries that may be read.
    allowance: u64,
    /// By second, the primary keys of sessions that may be idle for long enough then. One may be
    /// there for several seconds, and need not exist any more.
    due: BTreeMap<u32, HashSet<SessionKey<A>>>,
    /// Those that are.
    idle: Vec<SessionKey<A>>,
}

/// What a pass has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pass {
    /// Entries that were read.
    pub entries: u64,
    /// Sessions that were ended.
    pub ended: u32,
    /// Whether the budget was too small for all the work.
    pub is_cut_short: bool,
}

/// Seconds as a pass sees them.
#[derive(Clone, Copy)]
struct Time {
    /// What counts as now.
    now_s: u32,
    /// By when every entry will have been read once more.
    again_s: u32,
}

/// The budget of a pass.
struct Budget {
    end: Duration,
}

impl Budget {
    fn new() -> Self {
        Self {
            end: clock::thread_cpu_time() + PASS_BUDGET,
        }
    }

    fn is_used_up(&self) -> bool {
        clock::thread_cpu_time() >= self.end
    }
}

impl Expiry {
    /// Ends sessions that are due at `now_s` of the monotonic clock, and looks for those that will
    /// be. The families share the budget.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to read a map or to run a program.
    pub fn pass(&mut self, dataplane: &Dataplane, now_s: u32) -> Result<Pass> {
        let settings = dataplane.settings()?;
        let (budget, mut pass) = (Budget::new(), Pass::default());
        let ipv4 = &dataplane.ipv4.sessions;
        self.ipv4.pass(ipv4, &settings, now_s, &budget, &mut pass)?;
        match &dataplane.ipv6 {
            Some(ipv6) => {
                let ipv6 = &ipv6.sessions;
                self.ipv6.pass(ipv6, &settings, now_s, &budget, &mut pass)?;
            }
            None => self.ipv6 = TableExpiry::default(),
        }
        Ok(pass)
    }
}

impl<A> Default for TableExpiry<A> {
    fn default() -> Self {
        Self {
            place: Place::default(),
            is_round_done: false,
            round_began_s: 0,
            allowed_s: None,
            allowance: 0,
            due: BTreeMap::new(),
            idle: Vec::new(),
        }
    }
}

impl<A: Pinned> TableExpiry<A> {
    fn pass(
        &mut self,
        sessions: &SessionTable<A>,
        settings: &Settings,
        now_s: u32,
        budget: &Budget,
        pass: &mut Pass,
    ) -> Result<()> {
        let Rounds { round_s, least_s } = rounds(settings);
        let now_s = judged_s(now_s);
        self.begin_round_if_due(now_s, least_s);
        self.allow(now_s, round_s, sessions.entries_max()?.into());
        // The next round reaches an entry before twice the time of a round has passed.
        let time = Time {
            now_s,
            again_s: now_s.saturating_add(2 * round_s),
        };
        self.end_due(sessions, time, budget, pass)?;
        self.read(sessions, settings, time, budget, pass)?;
        self.end_due(sessions, time, budget, pass)
    }

    fn begin_round_if_due(&mut self, now_s: u32, least_s: u32) {
        let is_first = self.allowed_s.is_none();
        let is_due = now_s.saturating_sub(self.round_began_s) >= least_s;
        if is_first || (self.is_round_done && is_due) {
            self.is_round_done = false;
            self.round_began_s = now_s;
        }
    }

    /// Increases the allowance by the entries that a full table needs to finish in time, or by
    /// [`PACE`].
    fn allow(&mut self, now_s: u32, round_s: u32, entries: u64) {
        let since_s = self
            .allowed_s
            .map_or(1, |allowed_s| now_s.saturating_sub(allowed_s));
        self.allowed_s = Some(now_s);
        let more = entries.div_ceil(u64::from(round_s)).max(PACE) * u64::from(since_s);
        self.allowance = (self.allowance + more).min(entries);
    }

    /// Reads the table further as far as allowed, and records sessions that may end before they are
    /// read again.
    fn read(
        &mut self,
        sessions: &SessionTable<A>,
        settings: &Settings,
        time: Time,
        budget: &Budget,
        pass: &mut Pass,
    ) -> Result<()> {
        let Time { now_s, again_s } = time;
        let mut reader = Reader::new(sessions.map.fd().as_fd().as_raw_fd());
        let due = &mut self.due;
        let mut note = |key: &SessionKey<A>, record: &SessionRecord<A>| {
            if !record.flags.contains(SessionFlags::PRIMARY) {
                return;
            }
            let due_s = match record.seen_s {
                DEAD => now_s,
                seen_s => seen_s.saturating_add(idle_s(
                    settings,
                    key.protocol,
                    record.flags,
                    record.state,
                )),
            };
            if due_s < again_s {
                due.entry(due_s).or_default().insert(*key);
            }
        };
        while !self.is_round_done && self.allowance > 0 {
            if budget.is_used_up() {
                pass.is_cut_short = true;
                break;
            }
            let entries = reader
                .read(&mut self.place, &mut note)
                .context("read a session table")? as u64;
            pass.entries += entries;
            self.allowance = self.allowance.saturating_sub(entries);
            self.is_round_done = self.place == Place::default();
        }
        if self.is_round_done {
            self.allowance = 0;
        }
        Ok(())
    }

    /// Passes the due sessions to the kernel.
    fn end_due(
        &mut self,
        sessions: &SessionTable<A>,
        time: Time,
        budget: &Budget,
        pass: &mut Pass,
    ) -> Result<()> {
        let Time { now_s, again_s } = time;
        loop {
            if self.idle.is_empty()
                && let Some(entry) = self.due.first_entry()
                && *entry.key() <= now_s
            {
                self.idle.extend(entry.remove());
            }
            if self.idle.is_empty() {
                break;
            }
            if budget.is_used_up() {
                pass.is_cut_short = true;
                break;
            }
            let rest = self.idle.len().saturating_sub(END_BATCH as usize);
            let batch = self.idle.split_off(rest);
            let answers = sessions.run_end_sessions(&batch, EndMode::Idle)?;
            pass.ended += answers.ended;
            for (key, ask_again_s) in batch.into_iter().zip(answers.ask_again_s) {
                // Not in this pass, whatever the clocks say; sessions that end much later are read
                // again.
                let due_s = ask_again_s.max(now_s + 1);
                if ask_again_s != 0 && due_s < again_s {
                    self.due.entry(due_s).or_default().insert(key);
                }
            }
        }
        Ok(())
    }
}

/// How long rounds take.
struct Rounds {
    /// The maximum: half the time in which no session that has just been read can expire, except
    /// answered questions.
    round_s: u32,
    /// The minimum: half the time in which no session at all can expire.
    least_s: u32,
}

fn rounds(settings: &Settings) -> Rounds {
    let Settings {
        udp_s,
        tcp_opening_s,
        tcp_established_s,
        tcp_closing_s,
        icmp_s,
        other_s,
        ..
    } = *settings;
    let all = [
        udp_s,
        tcp_opening_s,
        tcp_established_s,
        tcp_closing_s,
        icmp_s,
        other_s,
    ];
    let shortest_s = all.into_iter().min().unwrap_or(0);
    Rounds {
        round_s: (shortest_s / 2).max(1),
        least_s: (shortest_s.min(DNS_S) / 2).max(1),
    }
}
