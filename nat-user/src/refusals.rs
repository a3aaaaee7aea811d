//! Reports to the operator what the data plane refuses because a resource is exhausted.
//!
//! The daemon checks the counters of a few drop reasons every few seconds. An episode lasts from
//! the first growth until a minute without growth. The daemon logs its beginning and its end, and
//! its progress once a minute. `refusals.json` in the run directory has the episodes for
//! `natbpf status`.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result};
use log::Level;
use nat_common::drop_reason::DropReason;
use serde::{Deserialize, Serialize};

/// The file in the run directory.
pub const FILE: &str = "refusals.json";
/// An incomplete write of [`FILE`].
pub const NEW_FILE: &str = "refusals.json.new";

/// How often the daemon looks, in seconds.
pub const LOOK_EVERY_S: u64 = 5;
/// The shortest time between two messages about an episode, and the time without growth that ends
/// it, in seconds.
const QUIET_S: u64 = 60;

/// The reasons that mean exhaustion, and what to do about each.
const REASONS: [(DropReason, &str); 6] = [
    (
        DropReason::TableFull,
        "raise limits.sessions, or find the guest with the most by natbpf conntrack list",
    ),
    (
        DropReason::PortsExhausted,
        "give the [[snat]] rule more ports or addresses",
    ),
    (
        DropReason::GuestSessions,
        "a guest has reached limits.sessions_per_guest",
    ),
    (
        DropReason::GuestPorts,
        "a guest has reached limits.ports_per_guest",
    ),
    (
        DropReason::OutsideSessions,
        "sessions opened from outside take three quarters of limits.sessions; find their remotes \
         by natbpf conntrack list",
    ),
    (
        DropReason::FragmentsFull,
        "a sender has more fragments queued than one sender may have",
    ),
];

/// Counters of reasons by name.
pub type Drops = BTreeMap<&'static str, u64>;

/// An episode of one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The drop reason.
    pub reason: String,
    /// Packets dropped since it began.
    pub packets: u64,
    /// When its counter last grew ([`crate::clock::boottime_s`]).
    pub grown_s: u64,
}

/// What the daemon remembers between checks.
#[derive(Debug, Default)]
pub struct Watch {
    looked_s: Option<u64>,
    counters: BTreeMap<&'static str, u64>,
    episodes: BTreeMap<&'static str, Episode>,
}

#[derive(Debug)]
struct Episode {
    /// The counter before it began.
    before: u64,
    grown_s: u64,
    /// When it was last logged, and the counter then.
    said_s: u64,
    said: u64,
}

/// The result of a look.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Lines for the log.
    pub lines: Vec<(Level, String)>,
    /// Whether episodes began, grew or ended.
    pub has_changed: bool,
}

impl Watch {
    /// Whether it is time to check again.
    #[must_use]
    pub fn is_due(&self, now_s: u64) -> bool {
        self.looked_s
            .is_none_or(|looked_s| now_s >= looked_s + LOOK_EVERY_S)
    }

    /// Evaluates the counters. Their values at the first check belong to the past.
    pub fn look(&mut self, drops: &Drops, now_s: u64) -> Look {
        let mut look = Look::default();
        for (reason, remedy) in REASONS {
            let name = reason.name();
            let count = drops.get(name).copied().unwrap_or(0);
            let before = self.counters.insert(name, count).unwrap_or(count);
            if count > before {
                look.has_changed = true;
                look.lines
                    .extend(self.grown(name, before, count, now_s, remedy));
            } else if let Some(line) = self.quiet(name, count, now_s) {
                look.has_changed = true;
                look.lines.push(line);
            }
        }
        self.looked_s = Some(now_s);
        look
    }

    fn grown(
        &mut self,
        name: &'static str,
        before: u64,
        count: u64,
        now_s: u64,
        remedy: &str,
    ) -> Option<(Level, String)> {
        let Some(episode) = self.episodes.get_mut(name) else {
            let episode = Episode {
                before,
                grown_s: now_s,
                said_s: now_s,
                said: count,
            };
            self.episodes.insert(name, episode);
            let packets = count - before;
            let line = format!("{name}: {packets} packets refused since it began; {remedy}");
            return Some((Level::Warn, line));
        };
        episode.grown_s = now_s;
        let silent_s = now_s.saturating_sub(episode.said_s);
        if silent_s < QUIET_S {
            return None;
        }
        let more = count - episode.said;
        (episode.said_s, episode.said) = (now_s, count);
        let line = format!("{name}: {more} more packets refused in {silent_s} s; {remedy}");
        Some((Level::Warn, line))
    }

    fn quiet(&mut self, name: &'static str, count: u64, now_s: u64) -> Option<(Level, String)> {
        let episode = self.episodes.get(name)?;
        let quiet_s = now_s.saturating_sub(episode.grown_s);
        if quiet_s < QUIET_S {
            return None;
        }
        let all = count.saturating_sub(episode.before);
        self.episodes.remove(name);
        let line = format!("{name}: nothing refused for {quiet_s} s; {all} packets in all");
        Some((Level::Info, line))
    }

    /// The open episodes.
    #[must_use]
    pub fn refusals(&self) -> Vec<Refusal> {
        let episodes = self.episodes.iter();
        let refusal = |(name, episode): (&&'static str, &Episode)| {
            let count = self.counters.get(name).copied().unwrap_or(0);
            Refusal {
                reason: (*name).to_owned(),
                packets: count.saturating_sub(episode.before),
                grown_s: episode.grown_s,
            }
        };
        episodes.map(refusal).collect()
    }
}

/// Writes the episodes for `natbpf status`. The file need not survive a crash of the machine.
///
/// # Errors
/// When the file cannot be written.
pub fn save(run_dir: &Path, refusals: &[Refusal]) -> Result<()> {
    let (file, new) = (run_dir.join(FILE), run_dir.join(NEW_FILE));
    let text = serde_json::to_vec(refusals)?;
    fs::write(&new, text)
        .and_then(|()| fs::rename(&new, &file))
        .with_context(|| format!("write {}", file.display()))
}

/// A line for each reason that has refused something in the last minute. A missing or damaged file
/// counts as empty: the next episode writes it again.
#[must_use]
pub fn warnings(run_dir: &Path, now_s: u64) -> Vec<String> {
    let text = fs::read(run_dir.join(FILE)).unwrap_or_default();
    let refusals: Vec<Refusal> = serde_json::from_slice(&text).unwrap_or_default();
    let is_recent = |refusal: &&Refusal| now_s.saturating_sub(refusal.grown_s) < QUIET_S;
    let line = |refusal: &Refusal| {
        let remedy = REASONS
            .iter()
            .find(|(reason, _)| reason.name() == refusal.reason)
            .map_or("see natbpf stats", |(_, remedy)| remedy);
        format!(
            "{}: packets were refused in the last minute, {} since it began; {remedy}",
            refusal.reason, refusal.packets
        )
    };
    refusals.iter().filter(is_recent).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drops(table_full: u64) -> Drops {
        // Filtered packets are not exhaustion.
        Drops::from([("table_full", table_full), ("filtered", table_full * 3)])
    }

    /// The lines of looks at these counters, five seconds apart.
    fn lines(watch: &mut Watch, now_s: &mut u64, counters: &[u64]) -> Vec<String> {
        let mut lines = Vec::new();
        for counter in counters {
            *now_s += LOOK_EVERY_S;
            let look = watch.look(&drops(*counter), *now_s);
            lines.extend(
                look.lines
                    .into_iter()
                    .map(|(level, line)| format!("{level} {line}")),
            );
        }
        lines
    }

    #[test]
    fn an_episode_is_logged_at_its_start_once_a_minute_and_at_its_end() {
        let (mut watch, mut now_s) = (Watch::default(), 1000);
        assert!(
            lines(&mut watch, &mut now_s, &[700, 700]).is_empty(),
            "of earlier times"
        );
        let remedy =
            "raise limits.sessions, or find the guest with the most by natbpf conntrack list";
        assert_eq!(
            lines(&mut watch, &mut now_s, &[703]),
            [format!(
                "WARN table_full: 3 packets refused since it began; {remedy}"
            )]
        );
        let growing: Vec<u64> = (0..24).map(|look| 704 + look).collect();
        assert_eq!(
            lines(&mut watch, &mut now_s, &growing),
            [
                format!("WARN table_full: 12 more packets refused in 60 s; {remedy}"),
                format!("WARN table_full: 12 more packets refused in 60 s; {remedy}"),
            ]
        );
        assert!(
            lines(&mut watch, &mut now_s, &[727; 11]).is_empty(),
            "a short pause is none"
        );
        assert_eq!(
            lines(&mut watch, &mut now_s, &[727]),
            ["INFO table_full: nothing refused for 60 s; 27 packets in all"]
        );
        assert!(lines(&mut watch, &mut now_s, &[727; 30]).is_empty());
        let again = lines(&mut watch, &mut now_s, &[728]);
        assert!(
            again[0].starts_with("WARN table_full: 1 packets refused"),
            "{again:?}"
        );
    }

    #[test]
    fn every_reason_is_watched_by_itself() {
        let mut watch = Watch::default();
        watch.look(&Drops::new(), 10);
        let both = Drops::from([("ports_exhausted", 1), ("guest_ports", 2)]);
        assert_eq!(watch.look(&both, 15).lines.len(), 2);
        let names: Vec<String> = watch.refusals().into_iter().map(|one| one.reason).collect();
        assert_eq!(names, ["guest_ports", "ports_exhausted"]);
    }

    #[test]
    fn it_looks_every_some_seconds() {
        let mut watch = Watch::default();
        assert!(watch.is_due(10));
        watch.look(&Drops::new(), 10);
        assert!(!watch.is_due(14) && watch.is_due(15));
    }

    #[test]
    fn status_shows_refusals_of_the_last_minute() {
        let directory = tempfile::tempdir().unwrap();
        let run_dir = directory.path();
        assert!(warnings(run_dir, 100).is_empty());
        let mut watch = Watch::default();
        watch.look(&drops(0), 95);
        assert!(watch.look(&drops(4), 100).has_changed);
        save(run_dir, &watch.refusals()).unwrap();
        let expected = "table_full: packets were refused in the last minute, 4 since it began; \
                        raise limits.sessions, or find the guest with the most by natbpf conntrack \
                        list";
        assert_eq!(warnings(run_dir, 159), [expected]);
        assert!(warnings(run_dir, 160).is_empty());
        assert!(!watch.look(&drops(4), 105).has_changed);
        assert!(watch.look(&drops(4), 160).has_changed);
        assert!(watch.refusals().is_empty());
        fs::write(run_dir.join(FILE), "{").unwrap();
        assert!(warnings(run_dir, 101).is_empty());
    }
}
