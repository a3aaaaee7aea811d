//! `natbpf conntrack list` and `count`.

use std::io::{self, Write};

use serde::Serialize;

use super::{
    Format,
    protocol::Protocol,
    session::{Endpoint, SessionState, SessionView},
};
use crate::state::{Numbers, RuleKind};

/// A session in JSON.
#[derive(Serialize)]
struct JsonSession<'a> {
    protocol: Protocol,
    internal: Endpoint,
    external: Endpoint,
    remote: Endpoint,
    rule: &'a str,
    rule_kind: Option<RuleKind>,
    state: SessionState,
    idle_s: u32,
    expires_s: u32,
}

/// Columns of the list; those after are numbers of seconds.
const COLUMNS: usize = 6;
const HEADER: [&str; COLUMNS] = [
    "protocol", "internal", "external", "remote", "rule", "state",
];

/// Writes the sessions, one a line, sorted by protocol and endpoints.
///
/// # Errors
/// When it cannot be written.
pub fn list(
    output: &mut dyn Write,
    mut sessions: Vec<SessionView>,
    numbers: &Numbers,
    format: Format,
) -> io::Result<()> {
    sessions.sort_unstable();
    match format {
        Format::Human => list_human(output, &sessions, numbers),
        Format::Json => list_json(output, &sessions, numbers),
    }
}

/// Writes how many sessions there are.
///
/// # Errors
/// When it cannot be written.
pub fn count(output: &mut dyn Write, sessions: usize) -> io::Result<()> {
    writeln!(output, "{sessions}")
}

fn list_human(
    output: &mut dyn Write,
    sessions: &[SessionView],
    numbers: &Numbers,
) -> io::Result<()> {
    if sessions.is_empty() {
        return writeln!(output, "no sessions");
    }
    // There may be a million, so the lines are built twice instead of being stored.
    let mut widths = HEADER.map(str::len);
    for session in sessions {
        for (width, cell) in widths.iter_mut().zip(cells(session, numbers)) {
            *width = cell.chars().count().max(*width);
        }
    }
    let header = HEADER.map(str::to_owned);
    write_line(output, &header, &widths, "idle", "expires")?;
    for session in sessions {
        let idle = format!("{} s", session.idle_s);
        let expires = format!("{} s", session.expires_s);
        write_line(output, &cells(session, numbers), &widths, &idle, &expires)?;
    }
    Ok(())
}

fn cells(session: &SessionView, numbers: &Numbers) -> [String; COLUMNS] {
    let rule = match numbers.rule_name(session.rule_number) {
        "" => "-",
        name => name,
    };
    [
        session.protocol.to_string(),
        session.internal.to_string(),
        session.external.to_string(),
        session.remote.to_string(),
        rule.to_owned(),
        session.state.name().to_owned(),
    ]
}

fn write_line(
    output: &mut dyn Write,
    cells: &[String; COLUMNS],
    widths: &[usize; COLUMNS],
    idle: &str,
    expires: &str,
) -> io::Result<()> {
    for (cell, width) in cells.iter().zip(widths) {
        write!(output, "{cell:width$}  ")?;
    }
    writeln!(output, "{idle:>8}  {expires:>8}")
}

fn list_json(
    output: &mut dyn Write,
    sessions: &[SessionView],
    numbers: &Numbers,
) -> io::Result<()> {
    for (index, session) in sessions.iter().enumerate() {
        output.write_all(if index == 0 { b"[\n  " } else { b",\n  " })?;
        let rule = numbers.rule_by_number(session.rule_number);
        let json = JsonSession {
            protocol: session.protocol,
            internal: session.internal,
            external: session.external,
            remote: session.remote,
            rule: rule.map_or("", |rule| &rule.name),
            rule_kind: rule.map(|rule| rule.kind),
            state: session.state,
            idle_s: session.idle_s,
            expires_s: session.expires_s,
        };
        serde_json::to_writer(&mut *output, &json)?;
    }
    output.write_all(if sessions.is_empty() {
        b"[]\n"
    } else {
        b"\n]\n"
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn endpoint(last: u8, port: u16) -> Endpoint {
        Endpoint {
            address: [10, 0, 0, last].into(),
            port,
        }
    }

    fn sessions() -> (Vec<SessionView>, Numbers) {
        let mut numbers = Numbers::default();
        let number = numbers.rule(RuleKind::Forward, "web");
        let web = SessionView {
            protocol: Protocol(6),
            internal: endpoint(170, 80),
            external: endpoint(1, 10080),
            remote: endpoint(3, 40000),
            rule_number: number,
            state: SessionState::Established,
            idle_s: 3,
            expires_s: 7437,
        };
        let gre = SessionView {
            protocol: Protocol(47),
            internal: endpoint(2, 0),
            external: endpoint(1, 0),
            remote: endpoint(4, 0),
            rule_number: 9,
            state: SessionState::Unreplied,
            ..web
        };
        (vec![gre, web], numbers)
    }

    fn listed(sessions: Vec<SessionView>, numbers: &Numbers, format: Format) -> String {
        let mut output = Vec::new();
        list(&mut output, sessions, numbers, format).unwrap();
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn the_list_for_people_is_sorted_and_aligned() {
        let (sessions, numbers) = sessions();
        let expected = "\
protocol  internal       external        remote          rule  state            idle   expires
tcp       10.0.0.170:80  10.0.0.1:10080  10.0.0.3:40000  web   established       3 s    7437 s
gre       10.0.0.2       10.0.0.1        10.0.0.4        -     unreplied         3 s    7437 s
";
        assert_eq!(listed(sessions, &numbers, Format::Human), expected);
    }

    #[test]
    fn the_list_for_programs_keeps_the_contract() {
        let (sessions, numbers) = sessions();
        let text = listed(sessions, &numbers, Format::Json);
        let list: serde_json::Value = serde_json::from_str(&text).unwrap();
        let expected = json!({
            "protocol": "tcp",
            "internal": {"address": "10.0.0.170", "port": 80},
            "external": {"address": "10.0.0.1", "port": 10080},
            "remote": {"address": "10.0.0.3", "port": 40000},
            "rule": "web",
            "rule_kind": "forward",
            "state": "established",
            "idle_s": 3,
            "expires_s": 7437,
        });
        assert_eq!(list[0], expected);
        assert_eq!(list.as_array().unwrap().len(), 2);
    }

    #[test]
    fn an_empty_list_of_sessions_says_so() {
        let numbers = Numbers::default();
        assert_eq!(listed(vec![], &numbers, Format::Json), "[]\n");
        assert_eq!(listed(vec![], &numbers, Format::Human), "no sessions\n");
    }

    #[test]
    fn the_count_is_a_number_alone() {
        let mut output = Vec::new();
        count(&mut output, 42).unwrap();
        assert_eq!(output, b"42\n");
    }
}
