//! `cargo xtask run`: natbpf at work, in a lab of network namespaces or on the real host.

mod proof;

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser};
use lab::topology::Proxmox;
use lab::{Background, Natbpf};

use crate::build;
use crate::setup::{self, Needs};
use proof::Proof;

/// Between two requests of the traffic that keeps the table of counters moving.
const TRAFFIC_PAUSE: Duration = Duration::from_millis(500);

/// What to run. The options are taken behind `--` as well, as with `cargo run`.
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    options: RunOptions,
    /// The same options
    #[arg(last = true, hide = true)]
    after_dashes: Vec<String>,
}

#[derive(Args, Clone, Debug)]
struct RunOptions {
    /// Run on this host, as this file says, instead of in the lab
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// In the lab: end after the proof
    #[arg(long, conflicts_with = "config")]
    once: bool,
}

/// The options behind `--`.
#[derive(Parser)]
#[command(name = "cargo xtask run --", no_binary_name = true)]
struct AfterDashes {
    #[command(flatten)]
    options: RunOptions,
}

impl RunArgs {
    fn options(self) -> RunOptions {
        let behind = AfterDashes::parse_from(self.after_dashes).options;
        let once = self.options.once || behind.once;
        RunOptions {
            config: self.options.config.or(behind.config),
            once,
        }
    }
}

/// The command itself.
///
/// # Errors
/// When set-up or build fail, natbpf does not start, or a part of the proof fails.
pub(crate) fn run(args: RunArgs) -> Result<()> {
    let options = args.options();
    match &options.config {
        Some(config) => on_this_host(config),
        None => in_the_lab(options.once),
    }
}

/// Becomes natbpf.
fn on_this_host(config: &Path) -> Result<()> {
    let config = config
        .canonicalize()
        .with_context(|| format!("read {}", config.display()))?;
    let natbpf = build::natbpf(true)?;
    let mut command = Command::new(&natbpf);
    command.arg("--config").arg(&config).arg("run");
    if !nix::unistd::geteuid().is_root() {
        let (natbpf, config) = (natbpf.display(), config.display());
        bail!("natbpf needs root here; type: sudo {natbpf} --config {config} run");
    }
    Err(command.exec()).with_context(|| format!("start {}", natbpf.display()))
}

fn in_the_lab(once: bool) -> Result<()> {
    setup::ensure(Needs::Lab)?;
    let binary = build::natbpf(false)?;
    let net = Proxmox::new()?;
    println!("{}", proof::PICTURE);
    let mut natbpf = Natbpf::prepare(&net.host, net.lab().place(), binary, &net.config())?;
    natbpf.launch()?;
    let failed = Proof::new(&net, &natbpf)?.show();
    if !once {
        watch(&net, &natbpf)?;
    }
    drop(natbpf);
    drop(net);
    if failed > 0 {
        bail!("{failed} of the above failed");
    }
    Ok(())
}

/// Shows the live table of counters until Ctrl-C.
fn watch(net: &Proxmox, natbpf: &Natbpf) -> Result<()> {
    println!("\nThe counters, live; Ctrl-C takes everything down.\n");
    let traffic = traffic(net)?;
    let mut command = natbpf.command(&["stats", "--watch"]);
    let mut table = command.spawn().context("start natbpf stats --watch")?;
    lab::wait_for_interrupt(|| !matches!(table.try_wait(), Ok(None)));
    let ended = table.try_wait().context("ask for natbpf stats --watch")?;
    if ended.is_none() {
        table.kill().context("end natbpf stats --watch")?;
        table.wait().context("end natbpf stats --watch")?;
    }
    drop(traffic);
    // Ctrl-C also reaches the table, so only its own failure counts.
    match ended.and_then(|status| status.code()) {
        Some(code) if code != 0 && code != 130 => {
            bail!("natbpf stats --watch ended with exit code {code}")
        }
        _ => Ok(()),
    }
}

/// A little of everything, so that there is something to count.
fn traffic(net: &Proxmox) -> Result<Vec<Background>> {
    let pause = TRAFFIC_PAUSE.as_secs_f32().to_string();
    let ping = |host: &lab::Host, to: &str| host.spawn(["ping", "-q", "-n", "-i", &pause, to]);
    let running = vec![
        ping(&net.vm2, "198.51.100.2")?,
        ping(&net.cli, "19.19.8.10")?,
    ];
    let (server, client) = (net.vm1.clone(), net.cli.clone());
    // Ends with the process: what it does in the lab is over when the lab is.
    thread::spawn(move || {
        let web = lab::service::Service::http(&server, "0.0.0.0:10080");
        while web.is_ok() && lab::service::http_get(&client, proof::WEB).is_ok() {
            thread::sleep(TRAFFIC_PAUSE);
        }
    });
    Ok(running)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        run: RunArgs,
    }

    fn options(words: &[&str]) -> RunOptions {
        Command::parse_from([&["run"], words].concat())
            .run
            .options()
    }

    #[test]
    fn options_are_taken_on_both_sides_of_the_dashes() {
        for words in [&["--once"][..], &["--", "--once"]] {
            assert!(options(words).once, "{words:?}");
        }
        for words in [&["-c", "a.toml"][..], &["--", "-c", "a.toml"]] {
            assert_eq!(
                options(words).config.as_deref(),
                Some(Path::new("a.toml")),
                "{words:?}"
            );
        }
        assert!(!options(&[]).once && options(&[]).config.is_none());
    }
}
