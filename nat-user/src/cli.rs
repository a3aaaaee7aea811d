//! The command line as types. This module does not know what the commands do.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::{Args, Parser, Subcommand};
use ipnet::IpNet;

use crate::report::filter::SessionFilter;

/// eBPF NAT for virtual-machine hosts
#[derive(Debug, Clone, PartialEq, Eq, Parser)]
#[command(name = "natbpf", version, max_term_width = 100)]
pub struct Cli {
    /// Configuration file
    #[arg(short, long, global = true, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// Control socket, lock and state
    #[arg(long, global = true, value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    pub run_dir: PathBuf,
    /// Pinned programs and maps
    #[arg(long, global = true, value_name = "DIR", default_value = DEFAULT_BPFFS)]
    pub bpffs: PathBuf,
    /// Makes time pass faster for sessions: a day's test runs in minutes
    #[arg(
        long,
        global = true,
        hide = true,
        value_name = "TIMES",
        default_value_t = 1
    )]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=MOST_TIME_SCALE))]
    pub time_scale: u32,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// With this factor, a second of sessions is a microsecond.
const MOST_TIME_SCALE: i64 = 1_000_000;

const DEFAULT_CONFIG: &str = "/etc/natbpf/natbpf.toml";
const DEFAULT_RUN_DIR: &str = "/run/natbpf";
const DEFAULT_BPFFS: &str = "/sys/fs/bpf/natbpf";

/// The commands.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Run the daemon in the foreground
    Run(RunArgs),
    /// Check the configuration; needs no privileges
    Check(CheckArgs),
    /// Reload the configuration
    Reload,
    /// Show interfaces, hooks, addresses, table occupancy and uptime
    Status(StatusArgs),
    /// Show counters per rule and dropped packets by reason
    Stats(StatsArgs),
    /// Show DHCP leases
    Leases(LeasesArgs),
    /// List, count or end live sessions
    #[command(subcommand)]
    Conntrack(ConntrackCommand),
    /// Convert the rules of another NAT to a configuration
    #[command(subcommand)]
    Import(ImportCommand),
    /// Attach a guest's interface to a network's bridge, or detach it
    #[command(subcommand)]
    Port(PortCommand),
    /// Remove everything that natbpf has created
    Down,
}

/// Arguments of `natbpf run`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct RunArgs {
    /// Log each packet that opens a session or is dropped (slows these packets down)
    #[arg(long = "debug-packets")]
    pub log_packets: bool,
}

/// Arguments of `natbpf check`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct CheckArgs {
    /// Check only the file, not this host
    #[arg(long = "no-host")]
    pub without_host: bool,
}

/// Arguments of `natbpf status`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct StatusArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `natbpf stats`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct StatsArgs {
    /// Print JSON; one line a second with --watch
    #[arg(long)]
    pub json: bool,
    /// Update once a second until Ctrl-C
    #[arg(long)]
    pub watch: bool,
}

/// Arguments of `natbpf leases`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct LeasesArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Commands for live sessions.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum ConntrackCommand {
    /// List sessions, one per line
    List(ListArgs),
    /// Print the number of sessions
    Count(SessionFilter),
    /// End sessions; without options, all of them
    Flush(SessionFilter),
}

/// Arguments of `natbpf conntrack list`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ListArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// The sessions.
    #[command(flatten)]
    pub filter: SessionFilter,
}

/// Commands for a guest's interface.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum PortCommand {
    /// Attach an interface to the network's bridge and set it up
    Add(PortArgs),
    /// Detach an interface from the network's bridge; a missing interface is no error
    Del(PortArgs),
}

/// Arguments of `natbpf port add` and `natbpf port del`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct PortArgs {
    /// The guest's interface on this host: a tap, or one end of a veth pair
    #[arg(value_name = "IFACE")]
    pub interface: String,
    /// The network; required if there are several and NATBPF_NETWORK names none
    #[arg(long, value_name = "NAME")]
    pub network: Option<String>,
}

/// Formats of rules to import.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum ImportCommand {
    /// Convert iptables rules; exits with 3 if a rule cannot be converted
    Iptables(ImportArgs),
}

/// Arguments of `natbpf import iptables`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ImportArgs {
    /// Output of iptables-save or ip6tables-save, a script or a configuration file; one, or one
    /// of each family; - is standard input
    #[arg(value_name = "FILE", default_value = "-", num_args = 1..=2)]
    pub files: Vec<PathBuf>,
    /// An interface and the host's address on it; may be repeated
    #[arg(long = "address", value_name = "IFACE=PREFIX", value_parser = interface_address)]
    pub addresses: Vec<(String, IpNet)>,
    /// Also read this host's interfaces, addresses and default route
    #[arg(long)]
    pub host: bool,
    /// Also convert the filter table's FORWARD chain to policies; by default it stays in netfilter
    #[arg(long)]
    pub policies: bool,
}

fn interface_address(text: &str) -> Result<(String, IpNet), String> {
    let wanted = "write an interface and an address with its prefix length, as in \
                  vmbr1=172.22.161.254/24";
    let (interface, address) = text.split_once('=').ok_or(wanted)?;
    let address = address.parse().map_err(|_| wanted)?;
    if interface.is_empty() {
        return Err(wanted.to_owned());
    }
    Ok((interface.to_owned(), address))
}

/// Names by which QEMU calls natbpf with only the tap's name, and the commands that they run.
const SCRIPTS: [(&str, &str); 2] = [("natbpf-ifup", "add"), ("natbpf-ifdown", "del")];

/// Variables that replace options where QEMU cannot pass any.
const OPTION_VARIABLES: [(&str, &str); 2] = [
    ("--config", "NATBPF_CONFIG"),
    ("--run-dir", "NATBPF_RUN_DIR"),
];

/// The words of the command line; a `port` command if natbpf is called by a name of QEMU's scripts.
pub fn words(
    arguments: impl IntoIterator<Item = OsString>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Vec<OsString> {
    let mut arguments = arguments.into_iter();
    let program = arguments.next().unwrap_or_default();
    let name = Path::new(&program).file_name().unwrap_or_default();
    let script = SCRIPTS.iter().find(|(script, _)| name == *script);
    let mut words = vec![program.clone()];
    if let Some((_, action)) = script {
        for (option, name) in OPTION_VARIABLES {
            words.extend(
                variable(name)
                    .into_iter()
                    .flat_map(|value| [option.into(), value]),
            );
        }
        words.extend(["port".into(), OsString::from(*action)]);
    }
    words.extend(arguments);
    words
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, error::ErrorKind};

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_fits_a_terminal_page() {
        for flag in ["-h", "--help"] {
            let error = parse(&format!("natbpf {flag}")).unwrap_err();
            assert_eq!(
                (error.kind(), error.exit_code()),
                (ErrorKind::DisplayHelp, 0)
            );
            let text = error.to_string();
            assert!(text.lines().count() <= 24, "{text}");
            assert!(text.lines().all(|line| line.len() <= 80), "{text}");
        }
    }

    #[test]
    fn defaults_are_those_of_the_host() {
        let cli = parse("natbpf check").unwrap();
        assert_eq!(cli.config, PathBuf::from("/etc/natbpf/natbpf.toml"));
        assert_eq!(cli.run_dir, PathBuf::from("/run/natbpf"));
        assert_eq!(cli.bpffs, PathBuf::from("/sys/fs/bpf/natbpf"));
        assert_eq!(cli.command, Command::Check(CheckArgs::default()));
    }

    #[test]
    fn global_options_stand_before_or_after_the_command() {
        let before = parse("natbpf -c a.toml --run-dir r --bpffs b stats --json --watch").unwrap();
        let after = parse("natbpf stats --watch --json --bpffs b --run-dir r --config a.toml");
        assert_eq!(before, after.unwrap());
        assert_eq!(
            before.command,
            Command::Stats(StatsArgs {
                json: true,
                watch: true
            })
        );
        assert_eq!(before.run_dir, PathBuf::from("r"));
    }

    #[test]
    fn every_command_of_the_interface_is_known() {
        let lines = [
            "run",
            "run --debug-packets",
            "check",
            "check --no-host",
            "reload",
            "status",
            "status --json",
            "stats",
            "leases",
            "leases --json",
            "conntrack list --json",
            "conntrack list --protocol tcp --remote 1.2.3.4:443",
            "conntrack count --internal 10.0.0.0/8 --external 19.19.8.10",
            "conntrack flush --rule web",
            "import iptables",
            "import iptables --policies",
            "import iptables rules.v4 rules.v6 --host",
            "import iptables rules.v4 --host --address vmbr1=172.22.161.254/24 --address \
             a=10.0.0.1/8",
            "port add tap0",
            "port del tap0 --network lan",
            "down",
        ];
        for line in lines {
            parse(&format!("natbpf {line}")).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn wrong_usage_exits_with_2() {
        let lines = [
            "natbpf fly",
            "natbpf stats --jsn",
            "natbpf reload now",
            "natbpf -c",
            "natbpf conntrack",
            "natbpf conntrack list --protocol http",
            "natbpf",
            "natbpf conntrack count --internal 10.0.0",
            "natbpf check --json",
            "natbpf import",
            "natbpf import iptables --address vmbr1",
            "natbpf import iptables a b c",
            "natbpf import iptables --address vmbr1=172.22.161.254",
            "natbpf run --time-scale 0",
            "natbpf port add",
            "natbpf port move tap0",
        ];
        for line in lines {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn qemus_scripts_are_port_commands() {
        let set = |name: &str| (name == "NATBPF_CONFIG").then(|| OsString::from("/c.toml"));
        let called = |line: &str| {
            let words = words(line.split(' ').map(OsString::from), set);
            let words: Vec<_> = words.iter().map(|word| word.to_str().unwrap()).collect();
            words.join(" ")
        };
        assert_eq!(
            called("/usr/sbin/natbpf-ifup tap0"),
            "/usr/sbin/natbpf-ifup --config /c.toml port add tap0"
        );
        assert_eq!(
            called("natbpf-ifdown tap0"),
            "natbpf-ifdown --config /c.toml port del tap0"
        );
        assert_eq!(called("./natbpf stats"), "./natbpf stats");
    }
}
