//! The `natbpf` binary at work on one of the lab's hosts.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::patience::patience;
use crate::{Background, Host, Output, Place};

/// Loading takes two seconds of a core in a debug build, twenty where ten processes compete for it.
const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// A natbpf on a host, with configuration, run-dir and pins in the lab's folder. Stopped and undone
/// (`natbpf down`) when dropped.
#[derive(Debug)]
pub struct Natbpf {
    host: Host,
    binary: PathBuf,
    folder: PathBuf,
    bpffs: PathBuf,
    time_scale: u32,
    process: Option<Background>,
    undo: bool,
}

impl Natbpf {
    /// The binary that tests use: the one that `NATBPF_BIN` names, else the one that cargo built
    /// beside the running program.
    ///
    /// # Errors
    /// When there is none.
    pub fn binary() -> Result<PathBuf> {
        if let Some(named) = std::env::var_os("NATBPF_BIN") {
            let named = PathBuf::from(named);
            let path = named.canonicalize();
            return path.with_context(|| format!("NATBPF_BIN is {}", named.display()));
        }
        let program = std::env::current_exe().context("path of the running program")?;
        let built = program
            .ancestors()
            .skip(1)
            .take(2)
            .map(|folder| folder.join("natbpf"));
        built
            .into_iter()
            .find(|path| path.is_file())
            .with_context(|| {
                format!(
                    "no natbpf beside {}: build it with `cargo build --bin natbpf`, or name it in \
                 NATBPF_BIN",
                    program.display()
                )
            })
    }

    /// Runs natbpf on a host and returns when it says that packets are translated.
    ///
    /// # Errors
    /// When it ends instead, or says nothing for 20 s; the message holds its log.
    pub fn start(host: &Host, place: &Place, config: &str) -> Result<Self> {
        let mut natbpf = Self::prepare(host, place, Self::binary()?, config)?;
        natbpf.launch()?;
        Ok(natbpf)
    }

    /// Lays out configuration and folders without starting anything; see [`Natbpf::launch`].
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn prepare(host: &Host, place: &Place, binary: PathBuf, config: &str) -> Result<Self> {
        let natbpf = Self::find(host, place, binary);
        fs::create_dir_all(&natbpf.folder)
            .with_context(|| format!("make {}", natbpf.folder.display()))?;
        natbpf.configure(config)?;
        Ok(natbpf)
    }

    /// The natbpf that [`Natbpf::prepare`] laid out for this host, maybe in another process. It
    /// is left alone when the result is dropped.
    #[must_use]
    pub fn find(host: &Host, place: &Place, binary: PathBuf) -> Self {
        let folder = place.folder().join(format!("natbpf-{}", host.name()));
        let bpffs = place.bpffs().join(host.name());
        Self {
            host: host.clone(),
            binary,
            folder,
            bpffs,
            time_scale: 1,
            process: None,
            undo: false,
        }
    }

    /// Lets time go so many times as fast for sessions, from the next start on.
    pub fn set_time_scale(&mut self, times: u32) {
        self.time_scale = times;
    }

    /// Lets it pin somewhere else, from the next start on.
    pub fn set_bpffs(&mut self, path: PathBuf) {
        self.bpffs = path;
    }

    /// Writes the configuration, without telling a running natbpf.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn configure(&self, config: &str) -> Result<()> {
        let path = self.config_file();
        fs::write(&path, config).with_context(|| format!("write {}", path.display()))
    }

    /// The configuration's file.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.folder.join("natbpf.toml")
    }

    /// The folder of control socket and lock.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.folder.join("run")
    }

    /// The folder of the pins, on the lab's bpffs.
    #[must_use]
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// Starts `natbpf run`, and waits until it is ready.
    ///
    /// # Errors
    /// As for [`Natbpf::start`].
    pub fn launch(&mut self) -> Result<()> {
        let notify = self.folder.join("notify");
        let _ = fs::remove_file(&notify);
        let socket = UnixDatagram::bind(&notify)
            .with_context(|| format!("socket at {}", notify.display()))?;
        socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .context("set a time limit")?;
        let mut command = self.command(&["run"]);
        command.env("NOTIFY_SOCKET", &notify);
        self.undo = true;
        let process = self.process.insert(self.host.spawn_command(command)?);
        wait_until_ready(process, &socket)
    }

    /// A natbpf command line for this host: with its configuration, run-dir and pins.
    #[must_use]
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = self.host.command(&self.binary);
        command.args(self.options()).args(words);
        command
    }

    /// The global options that name this natbpf's files.
    #[must_use]
    pub fn options(&self) -> Vec<String> {
        let paths = [
            ("--config", self.config_file()),
            ("--run-dir", self.run_dir()),
            ("--bpffs", self.bpffs.clone()),
        ];
        let mut options = paths
            .map(|(option, path)| [option.to_owned(), path.display().to_string()])
            .concat();
        if self.time_scale != 1 {
            options.extend(["--time-scale".to_owned(), self.time_scale.to_string()]);
        }
        options
    }

    /// Runs another natbpf command on the host, `["conntrack", "flush"]` for example.
    ///
    /// # Errors
    /// When it does not end; its own failure is in the result.
    pub fn cli(&self, words: &[&str]) -> Result<Output> {
        self.host.run_command(self.command(words), &[])
    }

    fn json(&self, words: &[&str]) -> Result<Value> {
        let text = self.cli(words)?.expect_ok()?;
        serde_json::from_str(&text).with_context(|| format!("natbpf {}: {text}", words.join(" ")))
    }

    /// `natbpf stats --json`.
    ///
    /// # Errors
    /// When the command fails or says no JSON.
    pub fn stats(&self) -> Result<Value> {
        self.json(&["stats", "--json"])
    }

    /// `natbpf status --json`.
    ///
    /// # Errors
    /// When the command fails or says no JSON.
    pub fn status(&self) -> Result<Value> {
        self.json(&["status", "--json"])
    }

    /// `natbpf conntrack list --json`, with more options when given.
    ///
    /// # Errors
    /// When the command fails or says no JSON.
    pub fn conntrack(&self, filters: &[&str]) -> Result<Vec<Value>> {
        let list = self.json(&[&["conntrack", "list", "--json"], filters].concat())?;
        match list {
            Value::Array(sessions) => Ok(sessions),
            other => bail!("natbpf conntrack list --json gave {other}, not a list"),
        }
    }

    /// Switches to another configuration; returns the output of `natbpf reload`.
    ///
    /// # Errors
    /// When natbpf refuses it.
    pub fn reload(&self, config: &str) -> Result<String> {
        self.configure(config)?;
        self.cli(&["reload"])?.expect_ok()
    }

    /// Everything that the daemon has logged since it was last started.
    #[must_use]
    pub fn log(&self) -> String {
        self.process
            .as_ref()
            .map(Background::said)
            .unwrap_or_default()
    }

    /// Whether the daemon runs.
    #[must_use]
    pub fn is_running(&mut self) -> bool {
        self.process
            .as_mut()
            .is_some_and(|process| matches!(process.ended(), Ok(None)))
    }

    /// The daemon's process id, when it was started.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Background::id)
    }

    /// Sends the daemon a signal.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process
            .as_ref()
            .context("natbpf was not started")?
            .signal(signal)
    }

    /// Stops the daemon as systemd does; the data plane keeps translating.
    ///
    /// # Errors
    /// When it does not run, does not end within 10 s, or ends with an error.
    pub fn stop(&mut self) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        let mut process = self.process.take().context("natbpf was not started")?;
        let status = process.wait(patience(STOP_LIMIT))?;
        if !status.success() {
            bail!(
                "natbpf ended with {status} after SIGTERM\n{}",
                process.said()
            );
        }
        Ok(())
    }

    /// Kills the daemon, which can clean nothing up; the data plane keeps translating.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.process
            .take()
            .context("natbpf was not started")?
            .wait(patience(STOP_LIMIT))
            .map(drop)
    }

    /// Removes everything that natbpf made, with `natbpf down`.
    ///
    /// # Errors
    /// When the command fails.
    pub fn down(&mut self) -> Result<()> {
        self.cli(&["down"])?.expect_ok()?;
        self.undo = false;
        Ok(())
    }

    /// Leaves the daemon running when this process ends.
    pub fn keep(mut self) {
        self.undo = false;
        if let Some(process) = self.process.take() {
            process.release();
        }
    }
}

impl Drop for Natbpf {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("natbpf on {} logged:\n{}", self.host.name(), self.log());
        }
        if self.is_running()
            && let Err(error) = self.stop()
        {
            eprintln!("{error:#}");
        }
        self.process = None;
        if self.undo
            && let Err(error) = self.down()
        {
            eprintln!("{error:#}");
        }
    }
}

fn wait_until_ready(process: &mut Background, socket: &UnixDatagram) -> Result<()> {
    let deadline = Instant::now() + patience(START_LIMIT);
    let mut buffer = [0; 4096];
    while Instant::now() < deadline {
        match socket.recv(&mut buffer) {
            Ok(length)
                if buffer[..length]
                    .split(|b| *b == b'\n')
                    .any(|line| line == b"READY=1") =>
            {
                return Ok(());
            }
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error).context("wait for natbpf"),
        }
        if let Some(status) = process.ended()? {
            bail!(
                "natbpf run ended with {status} before it was ready:\n{}",
                process.said()
            );
        }
    }
    bail!(
        "natbpf is not ready after {:?}:\n{}",
        patience(START_LIMIT),
        process.said()
    )
}
