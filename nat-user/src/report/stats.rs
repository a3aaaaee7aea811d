//! `natbpf stats`: the traffic of each rule, and why packets were dropped.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal, Write},
    time::Duration,
};

use anyhow::{Context, Result};
use nat_common::{drop_reason::DropReason, tables::counters::RuleCounters};
use serde::Serialize;
use tokio::time::MissedTickBehavior;

use super::{Format, Occupancy, bytes, is_read, print, table, write_table};
use crate::state::{Numbers, RuleKind};

/// How often `--watch` shows new values.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// Moves to the top left of a terminal and clears all.
const CLEAR: &str = "\x1b[H\x1b[J";

/// What the data plane has counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StatsView {
    /// Per rule, in the order of their numbers; also those that are no longer configured.
    pub rules: Vec<RuleStats>,
    /// Dropped packets by reason; every reason is there.
    pub drops: BTreeMap<&'static str, u64>,
    /// The session table.
    pub sessions: Occupancy,
    /// That of IPv6, if natbpf carries it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sessions_ipv6: Option<Occupancy>,
}

/// The traffic of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuleStats {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: RuleKind,
    /// Whether it is configured now.
    pub configured: bool,
    /// Packets from the uplink to the guests.
    pub packets_in: u64,
    /// Bytes of those packets.
    pub bytes_in: u64,
    /// Packets from the guests to the uplink.
    pub packets_out: u64,
    /// Bytes of those packets.
    pub bytes_out: u64,
    /// Sessions ever opened.
    pub connections: u64,
    /// Live sessions.
    pub active: u64,
}

impl StatsView {
    /// Of all rules that have a number, each with what `counters` gives for it, summed over all
    /// CPUs. Reasons that are missing in `drops` count as zero.
    ///
    /// # Errors
    /// Those of `counters`.
    pub fn collect(
        numbers: &Numbers,
        mut counters: impl FnMut(u32) -> Result<RuleCounters>,
        drops: &BTreeMap<&'static str, u64>,
        (sessions, sessions_ipv6): (Occupancy, Option<Occupancy>),
    ) -> Result<Self> {
        let mut rules = Vec::with_capacity(numbers.rules().len());
        for rule in numbers.rules() {
            let counters = counters(rule.number)?;
            rules.push(RuleStats {
                name: rule.name.clone(),
                kind: rule.kind,
                configured: rule.is_active,
                packets_in: counters.packets_in,
                bytes_in: counters.bytes_in,
                packets_out: counters.packets_out,
                bytes_out: counters.bytes_out,
                connections: counters.opened,
                // The counters change during the read, so an end may appear without its beginning.
                active: counters.opened.saturating_sub(counters.closed),
            });
        }
        let names = DropReason::ALL.iter().map(|reason| reason.name());
        let drops = names
            .map(|name| (name, drops.get(name).copied().unwrap_or(0)))
            .collect();
        Ok(Self {
            rules,
            drops,
            sessions,
            sessions_ipv6,
        })
    }
}

/// Writes the counters.
///
/// # Errors
/// When it cannot be written.
pub fn write_stats(output: &mut dyn Write, stats: &StatsView, format: Format) -> io::Result<()> {
    match format {
        Format::Human => show_human(output, stats),
        Format::Json => {
            serde_json::to_writer_pretty(&mut *output, stats)?;
            writeln!(output)
        }
    }
}

/// Shows the counters on standard output once a second until Ctrl-C, or until the reader closes. On
/// a terminal, each update replaces the former one; JSON has one line per update.
///
/// # Errors
/// When the counters cannot be read or shown.
pub async fn watch(mut snapshot: impl FnMut() -> Result<StatsView>, format: Format) -> Result<()> {
    let is_terminal = io::stdout().is_terminal();
    let mut ticks = tokio::time::interval(WATCH_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut stop = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        tokio::select! {
            result = &mut stop => return result.context("wait for Ctrl-C"),
            _ = ticks.tick() => {
                let stats = snapshot()?;
                let shown = print(|output| show_next(output, &stats, format, is_terminal));
                if !is_read(shown).context("write to standard output")? {
                    return Ok(());
                }
            }
        }
    }
}

fn show_next(
    output: &mut dyn Write,
    stats: &StatsView,
    format: Format,
    is_terminal: bool,
) -> io::Result<()> {
    match (format, is_terminal) {
        (Format::Json, _) => {
            serde_json::to_writer(&mut *output, stats)?;
            writeln!(output)
        }
        (Format::Human, true) => {
            write!(output, "{CLEAR}")?;
            show_human(output, stats)
        }
        (Format::Human, false) => {
            show_human(output, stats)?;
            writeln!(output)
        }
    }
}

fn show_human(output: &mut dyn Write, stats: &StatsView) -> io::Result<()> {
    const HEADER: [&str; 8] = [
        "rule",
        "kind",
        "packets in",
        "bytes in",
        "packets out",
        "bytes out",
        "connections",
        "active",
    ];
    let mut rules = table(&HEADER, 2..HEADER.len());
    // A removed rule matters while it has live sessions.
    for rule in stats
        .rules
        .iter()
        .filter(|rule| rule.configured || rule.active > 0)
    {
        let removed = if rule.configured { "" } else { " (removed)" };
        rules.add_row([
            format!("{}{removed}", rule.name),
            rule.kind.to_string(),
            rule.packets_in.to_string(),
            bytes(rule.bytes_in),
            rule.packets_out.to_string(),
            bytes(rule.bytes_out),
            rule.connections.to_string(),
            rule.active.to_string(),
        ]);
    }
    write_table(output, &rules)?;
    let mut drops = table(&["dropped because", "packets"], 1..2);
    for (reason, count) in stats.drops.iter().filter(|(_, count)| **count > 0) {
        drops.add_row([(*reason).to_owned(), count.to_string()]);
    }
    if !drops.is_empty() {
        writeln!(output)?;
        write_table(output, &drops)?;
    }
    writeln!(
        output,
        "\nsessions: {} of {}",
        stats.sessions.active, stats.sessions.max
    )?;
    match stats.sessions_ipv6 {
        Some(Occupancy { active, max }) => writeln!(output, "sessions of IPv6: {active} of {max}"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn stats() -> StatsView {
        let mut numbers = Numbers::default();
        numbers.rule(RuleKind::Snat, "lan-out");
        numbers.rule(RuleKind::Forward, "web");
        numbers.rule(RuleKind::Forward, "old");
        numbers.rule(RuleKind::Forward, "older");
        numbers.set_active(|_, name| !name.starts_with("old"));
        let counters = |number| {
            Ok(RuleCounters {
                packets_in: 10,
                bytes_in: 1536,
                packets_out: 20,
                bytes_out: 5 << 20,
                opened: 4,
                closed: if number == 4 { 4 } else { 1 },
            })
        };
        let drops = BTreeMap::from([("filtered", 12)]);
        let sessions = Occupancy {
            active: 9,
            max: 262_144,
        };
        StatsView::collect(&numbers, counters, &drops, (sessions, None)).unwrap()
    }

    fn shown(format: Format) -> String {
        let mut output = Vec::new();
        write_stats(&mut output, &stats(), format).unwrap();
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn the_report_for_people_has_rules_drops_that_happened_and_sessions() {
        let expected = "\
rule           kind     packets in  bytes in  packets out  bytes out  connections  active
lan-out        snat             10   1.5 KiB           20    5.0 MiB            4       3
web            forward          10   1.5 KiB           20    5.0 MiB            4       3
old (removed)  forward          10   1.5 KiB           20    5.0 MiB            4       3

dropped because  packets
filtered              12

sessions: 9 of 262144
";
        assert_eq!(shown(Format::Human), expected);
    }

    #[test]
    fn the_report_for_programs_keeps_the_contract() {
        let stats: Value = serde_json::from_str(&shown(Format::Json)).unwrap();
        let expected = json!({
            "name": "web",
            "kind": "forward",
            "configured": true,
            "packets_in": 10,
            "bytes_in": 1536,
            "packets_out": 20,
            "bytes_out": 5_242_880,
            "connections": 4,
            "active": 3,
        });
        assert_eq!(stats["rules"][1], expected);
        assert_eq!(stats["rules"][3]["configured"], json!(false));
        assert_eq!(stats["sessions"], json!({"active": 9, "max": 262_144}));
        let drops = stats["drops"].as_object().unwrap();
        assert_eq!(drops.len(), DropReason::ALL.len());
        assert_eq!(
            (&drops["filtered"], &drops["malformed"]),
            (&json!(12), &json!(0))
        );
    }

    #[test]
    fn sessions_of_ipv6_are_counted_where_natbpf_carries_it() {
        let with_ipv6 = StatsView {
            sessions_ipv6: Some(Occupancy {
                active: 2,
                max: 65_536,
            }),
            ..stats()
        };
        let mut output = Vec::new();
        write_stats(&mut output, &with_ipv6, Format::Human).unwrap();
        let shown = String::from_utf8(output).unwrap();
        assert!(
            shown.ends_with("262144\nsessions of IPv6: 2 of 65536\n"),
            "{shown}"
        );
        let json = serde_json::to_value(&with_ipv6).unwrap();
        assert_eq!(json["sessions_ipv6"], json!({"active": 2, "max": 65_536}));
    }

    #[test]
    fn watching_redraws_a_terminal_and_appends_to_anything_else() {
        let next = |format, is_terminal| {
            let mut output = Vec::new();
            show_next(&mut output, &stats(), format, is_terminal).unwrap();
            String::from_utf8(output).unwrap()
        };
        assert_eq!(
            next(Format::Human, true),
            format!("{CLEAR}{}", shown(Format::Human))
        );
        assert_eq!(
            next(Format::Human, false),
            format!("{}\n", shown(Format::Human))
        );
        for is_terminal in [true, false] {
            let line = next(Format::Json, is_terminal);
            assert_eq!(line.matches('\n').count(), 1);
            let value: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(
                value,
                serde_json::from_str::<Value>(&shown(Format::Json)).unwrap()
            );
        }
    }
}
