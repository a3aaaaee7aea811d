//! `natbpf`: NAT for virtual-machine hosts, in eBPF.

use std::{io::IsTerminal as _, process::ExitCode};

use clap::Parser as _;
use nat_config::visible::visible;
use nat_user::{
    cli::{self, Cli},
    commands,
};

fn main() -> ExitCode {
    init_log();
    let words = cli::words(std::env::args_os(), |name| std::env::var_os(name));
    match commands::execute(Cli::parse_from(words)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("natbpf: {}", visible(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

/// Logs go to standard error; under systemd each line carries its priority for the journal
/// (sd-daemon(3)), on a terminal the time.
fn init_log() {
    let filter = std::env::var("NATBPF_LOG").unwrap_or_else(|_| DEFAULT_LOG.to_owned());
    let mut builder = env_logger::Builder::new();
    builder.parse_filters(&filter);
    if std::env::var_os("JOURNAL_STREAM").is_some() && !std::io::stderr().is_terminal() {
        builder.format(|output, record| {
            use std::io::Write as _;
            let priority = match record.level() {
                log::Level::Error => 3,
                log::Level::Warn => 4,
                log::Level::Info => 6,
                log::Level::Debug | log::Level::Trace => 7,
            };
            let text = record.args().to_string();
            writeln!(output, "<{priority}>{}", visible(&text))
        });
    } else {
        builder.format(|output, record| {
            use std::io::Write as _;
            let (time, level) = (output.timestamp(), record.level());
            let text = record.args().to_string();
            writeln!(output, "[{time} {level:<5}] {}", visible(&text))
        });
    }
    builder.init();
}

/// Libraries log only problems; one library is excluded because it logs each message to a receiver
/// that has gone; the programs' messages come as debug and are there only with `--debug-packets`.
const DEFAULT_LOG: &str = "warn,netlink_proto=off,nat_user=info,nat_ebpf=trace";
