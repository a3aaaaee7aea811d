//! `natbpf status`: where the data plane is attached, and how full its tables are.

use std::{
    io::{self, Write},
    net::IpAddr,
    path::Path,
};

use nat_findings::Finding;
use serde::Serialize;

use super::{Format, Occupancy, duration, table, write_table};
use crate::{
    dataplane::attach::Mechanism,
    state::{External, Holder, InterfaceState, State},
};

/// The displayed state of an instance.
#[derive(Debug, Clone)]
pub struct StatusView<'a> {
    /// The state that the daemon has stored.
    pub state: &'a State,
    /// Whether the daemon runs; without it the data plane keeps translating.
    pub is_running: bool,
    /// The session table.
    pub sessions: Occupancy,
    /// Other tables by name.
    pub tables: Vec<(&'static str, Occupancy)>,
    /// Recent refusals and current failures, in lines.
    pub refusals: Vec<String>,
    /// Conflicts with other software.
    pub conflicts: Vec<Finding>,
}

#[derive(Serialize)]
struct JsonStatus<'a> {
    version: &'a str,
    generation: u32,
    uptime_s: u64,
    running: bool,
    pid: Option<u32>,
    config: &'a Path,
    bpffs: &'a Path,
    interfaces: Vec<JsonInterface<'a>>,
    local: &'a str,
    sessions: Occupancy,
    tables: serde_json::Map<String, serde_json::Value>,
    warnings: Vec<String>,
    conflicts: &'a [Finding],
}

#[derive(Serialize)]
struct JsonInterface<'a> {
    name: &'a str,
    index: u32,
    role: &'a str,
    owner: &'a str,
    hooks: &'a [String],
    attachment: &'a str,
    addresses: &'a [IpAddr],
    external: &'a [External],
    fast_path: &'a str,
    mss: Option<u16>,
}

/// Writes the status.
///
/// # Errors
/// When it cannot be written.
pub fn write_status(output: &mut dyn Write, status: &StatusView, format: Format) -> io::Result<()> {
    match format {
        Format::Human => show_human(output, status),
        Format::Json => {
            serde_json::to_writer_pretty(&mut *output, &json(status)?)?;
            writeln!(output)
        }
    }
}

/// What the configuration needs and the host lacks, and which tables are or were too small.
fn warnings(status: &StatusView) -> Vec<String> {
    let sessions = std::iter::once(("sessions", status.sessions));
    let tables = sessions.chain(status.tables.iter().copied());
    let full = tables
        .filter(|(_, Occupancy { active, max })| u128::from(*active) * 10 > u128::from(*max) * 9);
    let full = full.map(|(name, Occupancy { active, max })| {
        let limit = match name.strip_suffix("_ipv6") {
            Some(_) => "limits.sessions_ipv6",
            None => "limits.sessions",
        };
        format!(
            "table {name}: {active} of {max} entries, over 90 %; when it is full, new sessions \
             are refused: raise {limit}"
        )
    });
    let lasting = status.state.warnings.iter().cloned();
    let refusals = status.refusals.iter().cloned();
    let conflicts = status.conflicts.iter().map(ToString::to_string);
    (lasting.chain(conflicts).chain(full))
        .chain(refusals)
        .collect()
}

/// Seconds since the daemon started, 0 if it does not run.
fn uptime_s(status: &StatusView) -> u64 {
    if status.is_running {
        status.state.uptime_s()
    } else {
        0
    }
}

fn json<'a>(status: &'a StatusView) -> io::Result<JsonStatus<'a>> {
    let state = status.state;
    let interface = |interface: &'a crate::state::InterfaceState| JsonInterface {
        name: &interface.name,
        index: interface.index,
        role: &interface.role,
        owner: &interface.owner,
        hooks: &interface.hooks,
        attachment: &interface.attachment,
        addresses: &interface.addresses,
        external: &interface.external,
        fast_path: &interface.fast_path,
        mss: interface.mss,
    };
    let mut tables = serde_json::Map::new();
    for (name, occupancy) in &status.tables {
        tables.insert((*name).to_owned(), serde_json::to_value(occupancy)?);
    }
    Ok(JsonStatus {
        version: &state.version,
        generation: state.generation,
        uptime_s: uptime_s(status),
        running: status.is_running,
        pid: status.is_running.then_some(state.pid),
        config: &state.config,
        bpffs: &state.bpffs,
        interfaces: state.interfaces.iter().map(interface).collect(),
        local: &state.local,
        sessions: status.sessions,
        tables,
        warnings: warnings(status),
        conflicts: &status.conflicts,
    })
}

fn show_human(output: &mut dyn Write, status: &StatusView) -> io::Result<()> {
    let state = status.state;
    if status.is_running {
        let uptime = duration(uptime_s(status));
        writeln!(
            output,
            "natbpf {}: running for {uptime}, pid {}",
            state.version, state.pid
        )?;
    } else {
        writeln!(
            output,
            "natbpf {}: the daemon is not running; the data plane keeps translating, but idle \
             sessions do not end",
            state.version
        )?;
    }
    let config = state.config.display();
    writeln!(
        output,
        "configuration: {config}, generation {}\n",
        state.generation
    )?;
    show_interfaces(output, state)?;
    if !state.local.is_empty() {
        writeln!(output, "local access to forwards: {}", state.local)?;
    }
    let mut tables = table(&["table", "entries", "room for"], 1..3);
    let sessions = std::iter::once(("sessions", status.sessions));
    for (name, Occupancy { active, max }) in sessions.chain(status.tables.iter().copied()) {
        tables.add_row([name.to_owned(), active.to_string(), max.to_string()]);
    }
    writeln!(output)?;
    write_table(output, &tables)?;
    for warning in warnings(status) {
        writeln!(output, "\nwarning: {warning}")?;
    }
    Ok(())
}

fn show_interfaces(output: &mut dyn Write, state: &State) -> io::Result<()> {
    const HEADER: [&str; 6] = [
        "interface",
        "role",
        "hooks",
        "attached by",
        "addresses",
        "mss",
    ];
    let has_mss = state.interfaces.iter().any(|one| one.mss.is_some());
    let columns = if has_mss { 6 } else { 5 };
    let mut interfaces = table(&HEADER[..columns], 5..columns);
    for interface in &state.interfaces {
        let addresses: Vec<String> = interface.addresses.iter().map(IpAddr::to_string).collect();
        let row = [
            interface.name.clone(),
            format!("{} {}", interface.role, interface.owner),
            or_none(&interface.hooks.join(", ")),
            or_none(&interface.attachment),
            or_none(&addresses.join(", ")),
            interface
                .mss
                .map_or_else(String::new, |mss| mss.to_string()),
        ];
        interfaces.add_row(row.into_iter().take(columns));
    }
    write_table(output, &interfaces)?;
    for interface in &state.interfaces {
        let InterfaceState {
            name,
            fast_path,
            attachment,
            ..
        } = interface;
        if attachment == Mechanism::Netlink.name() {
            writeln!(
                output,
                "{name}: attached by netlink: this kernel has no TCX (Linux 6.6)"
            )?;
        }
        for (holder, what) in HOLDERS {
            let these = external_text(&interface.external, holder);
            if !these.is_empty() {
                writeln!(output, "{what} {name}: {these}")?;
            }
        }
        if !fast_path.is_empty() {
            writeln!(output, "fast path of {name}: {fast_path}")?;
        }
    }
    Ok(())
}

/// The description of external addresses that the host did not have itself.
const HOLDERS: [(Holder, &str); 6] = [
    (Holder::Added, "external addresses added to"),
    (
        Holder::Arp,
        "external addresses that no interface holds, answered by ARP on",
    ),
    (
        Holder::Routed,
        "external addresses that no interface holds and that must be routed here by",
    ),
    (
        Holder::Probed,
        "external addresses not answered yet, being probed by ARP on",
    ),
    (
        Holder::Elsewhere,
        "external addresses not answered, because another host has them, on",
    ),
    (
        Holder::Unclaimed,
        "external addresses that no interface holds, left to other software (claim = \"none\") on",
    ),
];

fn external_text(external: &[External], holder: Holder) -> String {
    let these = external.iter().filter(|these| these.holder == holder);
    let texts: Vec<String> = these
        .map(|External { first, last, .. }| match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        })
        .collect();
    texts.join(", ")
}

fn or_none(text: &str) -> String {
    if text.is_empty() {
        "none".to_owned()
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{clock::boottime_s, state::Numbers};

    fn state() -> State {
        let interface = |name: &str, role: &str, owner: &str, hooks: &[&str]| InterfaceState {
            name: name.to_owned(),
            index: 2,
            role: role.to_owned(),
            owner: owner.to_owned(),
            hooks: hooks.iter().map(|hook| (*hook).to_owned()).collect(),
            attachment: "tcx".to_owned(),
            addresses: if hooks.is_empty() {
                vec![]
            } else {
                vec![[19, 19, 8, 10].into()]
            },
            external: Vec::new(),
            fast_path: if hooks.is_empty() {
                String::new()
            } else {
                "tc (mode = \"tc\")".to_owned()
            },
            mss: None,
        };
        State {
            version: "0.1.0".to_owned(),
            pid: 123,
            generation: 4,
            started_boottime_s: boottime_s(),
            config: "/etc/natbpf/natbpf.toml".into(),
            bpffs: "/sys/fs/bpf/natbpf".into(),
            sessions_max: 262_144,
            numbers: Numbers::default(),
            interfaces: vec![
                interface("vmbr0", "uplink", "wan", &["tc-ingress", "tc-egress"]),
                interface("vmbr1", "network", "lan", &[]),
            ],
            warnings: vec!["vmbr1 is not there".to_owned()],
            local: "off".to_owned(),
        }
    }

    fn shown(is_running: bool, format: Format) -> String {
        shown_of(state(), is_running, format)
    }

    fn shown_of(mut state: State, is_running: bool, format: Format) -> String {
        // Ten seconds' grace for a slow machine: the shown unit is minutes.
        state.started_boottime_s = boottime_s().saturating_sub(30);
        let status = StatusView {
            state: &state,
            is_running,
            sessions: Occupancy {
                active: 12,
                max: 262_144,
            },
            tables: vec![(
                "mappings",
                Occupancy {
                    active: 3,
                    max: 1000,
                },
            )],
            refusals: vec![],
            conflicts: vec![],
        };
        let mut output = Vec::new();
        write_status(&mut output, &status, format).unwrap();
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn the_report_for_people_has_interfaces_tables_and_warnings() {
        let text = shown(true, Format::Human);
        let (first, rest) = text.split_once('\n').unwrap();
        assert!(first.starts_with("natbpf 0.1.0: running for ") && first.ends_with(", pid 123"));
        let expected = "\
configuration: /etc/natbpf/natbpf.toml, generation 4

interface  role         hooks                  attached by  addresses
vmbr0      uplink wan   tc-ingress, tc-egress  tcx          19.19.8.10
vmbr1      network lan  none                   tcx          none
fast path of vmbr0: tc (mode = \"tc\")
local access to forwards: off

table     entries  room for
sessions       12    262144
mappings        3      1000

warning: vmbr1 is not there
";
        assert_eq!(rest, expected);
    }

    #[test]
    fn a_limit_of_segments_is_shown_where_there_is_one() {
        let mut clamped = state();
        clamped.interfaces[0].mss = Some(1452);
        let text = shown_of(clamped.clone(), true, Format::Human);
        let expected = "\
interface  role         hooks                  attached by  addresses    mss
vmbr0      uplink wan   tc-ingress, tc-egress  tcx          19.19.8.10  1452
vmbr1      network lan  none                   tcx          none
";
        assert!(text.contains(expected), "{text}");
        let status: Value = serde_json::from_str(&shown_of(clamped, true, Format::Json)).unwrap();
        let interfaces = &status["interfaces"];
        assert_eq!(
            (&interfaces[0]["mss"], &interfaces[1]["mss"]),
            (&json!(1452), &Value::Null)
        );
    }

    #[test]
    fn external_addresses_that_the_host_did_not_have_are_shown() {
        let external = |first: u8, last: u8, holder| External {
            first: [19, 19, 8, first].into(),
            last: [19, 19, 8, last].into(),
            holder,
        };
        let mut holding = state();
        holding.interfaces[0].external = vec![
            external(10, 10, Holder::Host),
            external(11, 11, Holder::Arp),
            external(12, 12, Holder::Added),
            external(20, 29, Holder::Arp),
        ];
        let text = shown_of(holding.clone(), true, Format::Human);
        let expected = "external addresses added to vmbr0: 19.19.8.12\n\
                        external addresses that no interface holds, answered by ARP on vmbr0: \
                        19.19.8.11, 19.19.8.20-19.19.8.29\n";
        assert!(text.contains(expected), "{text}");
        let status: Value = serde_json::from_str(&shown_of(holding, true, Format::Json)).unwrap();
        assert_eq!(
            status["interfaces"][0]["external"][3],
            json!({"first": "19.19.8.20", "last": "19.19.8.29", "held": "arp"})
        );
    }

    #[test]
    fn features_missing_on_an_old_kernel_are_reported() {
        let mut old = state();
        assert!(!shown_of(old.clone(), true, Format::Human).contains("netlink"));
        old.interfaces[0].attachment = Mechanism::Netlink.name().to_owned();
        let text = shown_of(old, true, Format::Human);
        let expected = "vmbr0: attached by netlink: this kernel has no TCX (Linux 6.6)\n";
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn a_nearly_full_table_is_a_warning() {
        let state = state();
        let of = |active| {
            let status = StatusView {
                state: &state,
                is_running: true,
                sessions: Occupancy { active, max: 1000 },
                tables: vec![("ports", Occupancy { active, max: 500 })],
                refusals: vec!["table_full: 3 refused".to_owned()],
                conflicts: vec![],
            };
            warnings(&status)
        };
        let refused = "table_full: 3 refused";
        assert_eq!(of(450), ["vmbr1 is not there", refused]);
        let full = of(451);
        assert!(
            full.len() == 3 && full[1].starts_with("table ports: 451 of 500 entries, over 90 %")
        );
        assert_eq!(of(901).len(), 4);
        assert_eq!(
            json(&StatusView {
                state: &state,
                is_running: true,
                sessions: Occupancy {
                    active: 901,
                    max: 1000
                },
                tables: vec![],
                refusals: vec![refused.to_owned()],
                conflicts: vec![],
            })
            .unwrap()
            .warnings
            .len(),
            3
        );
    }

    #[test]
    fn status_without_the_daemon_says_what_continues() {
        let text = shown(false, Format::Human);
        assert!(text.starts_with("natbpf 0.1.0: the daemon is not running; the data plane keeps"));
        let status: Value = serde_json::from_str(&shown(false, Format::Json)).unwrap();
        assert_eq!(
            (&status["running"], &status["pid"]),
            (&json!(false), &Value::Null)
        );
        assert_eq!(status["uptime_s"], json!(0));
    }

    #[test]
    fn the_report_for_programs_keeps_the_contract() {
        let status: Value = serde_json::from_str(&shown(true, Format::Json)).unwrap();
        assert_eq!(
            (&status["version"], &status["generation"]),
            (&json!("0.1.0"), &json!(4))
        );
        assert!(status["uptime_s"].as_u64().is_some());
        assert_eq!(status["sessions"], json!({"active": 12, "max": 262_144}));
        assert_eq!(
            status["tables"]["mappings"],
            json!({"active": 3, "max": 1000})
        );
        let interface = &status["interfaces"][0];
        assert_eq!(interface["name"], json!("vmbr0"));
        assert_eq!(interface["role"], json!("uplink"));
        assert_eq!(interface["hooks"], json!(["tc-ingress", "tc-egress"]));
        assert_eq!(interface["addresses"], json!(["19.19.8.10"]));
    }
}
