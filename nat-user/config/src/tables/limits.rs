//! `[limits]` and `[timeouts]`.

use std::num::NonZeroU32;

use crate::{
    model::{Limits, Timeouts},
    syntax::{Fault, Field, Key, Report, Section, key},
};

/// The keys of `[limits]`.
pub(crate) const LIMITS: &[Key] = &[
    key("sessions", "262144"),
    key("sessions_ipv6", "65536"),
    key("sessions_per_guest", "10000"),
    key("ports_per_guest", "4096"),
];

/// The keys of `[timeouts]`.
pub(crate) const TIMEOUTS: &[Key] = &[
    key("udp", "300"),
    key("tcp_opening", "240"),
    key("tcp_established", "7440"),
    key("tcp_closing", "240"),
    key("icmp", "60"),
    key("other", "600"),
    key("fragment", "30"),
];

/// The largest supported session table.
const MOST_SESSIONS: u32 = 4_194_304;

/// 68 years; the data plane's nanoseconds and any sum of two stay far from overflow.
const LONGEST_TIMEOUT_S: u32 = 1 << 31;

/// Shortest idle times that the standards require, in seconds.
const LEAST: &[(&str, u32, &str)] = &[
    ("udp", 120, "RFC 4787 REQ-5"),
    ("tcp_opening", 240, "RFC 5382 REQ-5"),
    ("tcp_established", 7440, "RFC 5382 REQ-5"),
    ("tcp_closing", 240, "RFC 5382 REQ-5"),
    ("icmp", 60, "RFC 5508 REQ-2"),
];

pub(crate) fn limits(section: &Section<'_>, report: &mut Report<'_>) -> Option<Limits> {
    report.errors(section.unknown_keys());
    let sessions = section.optional("sessions", |field| field.integer(1, MOST_SESSIONS));
    let sessions = report.keep(sessions);
    let sessions_ipv6 = section.optional("sessions_ipv6", |field| field.integer(1, MOST_SESSIONS));
    let sessions_ipv6 = report.keep(sessions_ipv6);
    let sessions_per_guest = report.keep(section.optional("sessions_per_guest", per_guest));
    let ports_per_guest = report.keep(section.optional("ports_per_guest", per_guest));
    Some(Limits {
        sessions: sessions?.unwrap_or(Limits::default().sessions),
        sessions_ipv6: sessions_ipv6?.unwrap_or(Limits::default().sessions_ipv6),
        sessions_per_guest: sessions_per_guest?,
        ports_per_guest: ports_per_guest?,
    })
}

/// A limit per guest. In the data plane 0 means no limit; in a file it would be read as none
/// allowed.
fn per_guest(field: Field<'_>) -> Result<NonZeroU32, Fault> {
    if field.integer(0, 0).is_ok() {
        let remedy = format!("write a number from 1 to {MOST_SESSIONS}, or leave it out");
        return Err(field.fault("0 would block every guest", remedy));
    }
    let least = NonZeroU32::MIN;
    let number = field.integer(least.get(), MOST_SESSIONS)?;
    Ok(NonZeroU32::new(number).unwrap_or(least))
}

pub(crate) fn timeouts(section: &Section<'_>, report: &mut Report<'_>) -> Option<Timeouts> {
    report.errors(section.unknown_keys());
    let default = Timeouts::default();
    let mut seconds = |name, default| {
        let value = section.optional(name, |field| field.integer(1, LONGEST_TIMEOUT_S));
        let value = report.keep(value)?.unwrap_or(default);
        if let Some(fault) = below_the_standard(section, name, value) {
            report.warn(fault);
        }
        Some(value)
    };
    // All are read before the first `?`, so that every fault is found.
    let udp_s = seconds("udp", default.udp_s);
    let tcp_opening_s = seconds("tcp_opening", default.tcp_opening_s);
    let tcp_established_s = seconds("tcp_established", default.tcp_established_s);
    let tcp_closing_s = seconds("tcp_closing", default.tcp_closing_s);
    let icmp_s = seconds("icmp", default.icmp_s);
    let other_s = seconds("other", default.other_s);
    let fragment_s = seconds("fragment", default.fragment_s);
    Some(Timeouts {
        udp_s: udp_s?,
        tcp_opening_s: tcp_opening_s?,
        tcp_established_s: tcp_established_s?,
        tcp_closing_s: tcp_closing_s?,
        icmp_s: icmp_s?,
        other_s: other_s?,
        fragment_s: fragment_s?,
    })
}

/// Shorter times work, but applications that rely on the standard lose idle connections.
fn below_the_standard(section: &Section<'_>, name: &str, value_s: u32) -> Option<Fault> {
    let (_, least_s, source) = LEAST
        .iter()
        .find(|(key, least_s, _)| *key == name && value_s < *least_s)?;
    let problem = format!("{value_s} s is less than the {least_s} s of {source}");
    Some(section.fault(name, &problem, &format!("write {least_s} or more")))
}
