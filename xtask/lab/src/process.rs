//! Commands in a host's namespace: with captured output and a time limit, or in the background.

use std::fs::File;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::signals;

/// How often a running command is asked whether it has ended.
const POLL: Duration = Duration::from_millis(5);

/// What a command said and how it ended.
#[derive(Debug)]
pub struct Output {
    /// The command line, for messages.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Output {
    /// Whether the command ended with 0.
    #[must_use]
    pub fn ok(&self) -> bool {
        self.status.success()
    }

    /// The standard output of a command that must have succeeded.
    ///
    /// # Errors
    /// When it failed; the message holds all that it said.
    pub fn expect_ok(self) -> Result<String> {
        if !self.ok() {
            bail!(
                "{}: {}\n{}{}",
                self.command,
                self.status,
                self.stdout,
                self.stderr
            );
        }
        Ok(self.stdout)
    }
}

/// Runs `command` to its end and captures its output; kills it when `limit` has passed.
pub(crate) fn run(mut command: Command, stdin: &[u8], limit: Duration) -> Result<Output> {
    let shown = shown(&command);
    let mut child = command
        .stdin(if stdin.is_empty() {
            Stdio::null()
        } else {
            Stdio::piped()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .with_context(|| format!("start {shown}"))?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    if let Some(mut pipe) = child.stdin.take() {
        // A command that ends without reading everything says why on its standard error.
        let _ = std::io::Write::write_all(&mut pipe, stdin);
    }
    let status = wait(&mut child, limit)?;
    if status.is_none() {
        end(&mut child, Signal::SIGKILL);
    }
    let stdout = stdout.join().unwrap_or_default();
    let stderr = stderr.join().unwrap_or_default();
    let Some(status) = status else {
        bail!("{shown}: not ended after {limit:?}\n{stdout}{stderr}");
    };
    Ok(Output {
        command: shown,
        status,
        stdout,
        stderr,
    })
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    loop {
        let status = child.try_wait().context("wait for a command")?;
        signals::hold_if_ending();
        if let Some(status) = status {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

/// Signals the child's whole process group, which [`run`] and [`Background`] give it.
fn end(child: &mut Child, signal: Signal) {
    if let Ok(pid) = i32::try_from(child.id()) {
        let _ = killpg(Pid::from_raw(pid), signal);
    }
    if signal == Signal::SIGKILL {
        let _ = child.wait();
    }
}

fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(
        command
            .get_args()
            .map(|word| word.to_string_lossy().into_owned()),
    );
    words.join(" ")
}

/// A process in a host's namespace, ended with its process group when this is dropped.
#[derive(Debug)]
pub struct Background {
    shown: String,
    child: Child,
    log: PathBuf,
    released: bool,
}

impl Background {
    /// Starts `command` with its output (both kinds) going to the file `log`.
    pub(crate) fn start(mut command: Command, log: &Path) -> Result<Self> {
        let shown = shown(&command);
        let out = File::create(log).with_context(|| format!("make {}", log.display()))?;
        let err = out.try_clone().context("share the log")?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {shown}"))?;
        Ok(Self {
            shown,
            child,
            log: log.to_owned(),
            released: false,
        })
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything that it has said so far.
    #[must_use]
    pub fn said(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// How it ended, when it has.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        signals::hold_if_ending();
        self.child
            .try_wait()
            .with_context(|| format!("ask for {}", self.shown))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it has not ended after `limit`; it keeps running then.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        match wait(&mut self.child, limit)? {
            Some(status) => Ok(status),
            None => bail!("{}: not ended after {limit:?}\n{}", self.shown, self.said()),
        }
    }

    /// Sends a signal to the process itself, not to its children.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).context("process id")?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("{signal} to {}", self.shown))
    }

    /// Leaves the process running when this process ends.
    pub(crate) fn release(mut self) {
        self.released = true;
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if !self.released && matches!(self.child.try_wait(), Ok(None)) {
            end(&mut self.child, Signal::SIGKILL);
        }
    }
}
