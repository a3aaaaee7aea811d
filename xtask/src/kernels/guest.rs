//! A guest in QEMU: booted, its console read, and killed with this program in any case.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bpf_toolchain::process::line;

use super::kernel::Kernel;

/// The program that is a machine.
pub(crate) const QEMU: &str = "qemu-system-x86_64";
/// What the guest says when its script has come to the end.
pub(super) const DONE: &str = "guest: done";

/// One thread takes turns at being each processor. With a thread for each, code that the kernel
/// changes while another processor runs it (static keys, by way of `int3`) has once ended a boot of
/// 6.12: `Oops: int3` in `sched_clock_cpu`.
const ACCELERATOR: &str = "tcg,thread=single";
const PROCESSORS: u32 = 2;
const MEMORY_MIB: u32 = 2048;
/// A guest that panics reboots at once, which ends QEMU. On a busy machine, timer interrupts come
/// too late for the kernel's check, so it is turned off. Mitigations against local users cost an
/// emulated processor a third of its time, and are not needed here.
const BOOT_OPTIONS: &str =
    "console=ttyS0 quiet panic=-1 no_timer_check mitigations=off init_on_alloc=0 apparmor=0";
/// Tests of hosts run beside it and have bounds on time, so they have priority for a processor. The
/// tests in the guest have more patience.
const NICENESS: &str = "10";
/// A processor that has what Debian asks for and little more: of what the newest have, much is slow
/// to emulate.
const PROCESSOR: &str = "Nehalem";
/// Lines of the kernel's console that are shown when it did not go well.
const LINES_SHOWN: usize = 40;

/// A machine that is not switched on yet.
pub(super) struct Machine {
    kernel: Kernel,
    command: Command,
    console: PathBuf,
}

impl Machine {
    pub(super) fn new(kernel: Kernel, image: &Path, initramfs: &Path, console: PathBuf) -> Self {
        // The kernel ends QEMU with this program, also when that is killed.
        let mut command = Command::new("setpriv");
        command.args([
            "--pdeathsig",
            "KILL",
            "--",
            "nice",
            "-n",
            NICENESS,
            QEMU,
            "-accel",
            ACCELERATOR,
            "-cpu",
            PROCESSOR,
        ]);
        command.args([
            "-smp",
            &PROCESSORS.to_string(),
            "-m",
            &MEMORY_MIB.to_string(),
        ]);
        command.args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ]);
        command
            .arg("-kernel")
            .arg(image)
            .arg("-initrd")
            .arg(initramfs);
        command.args(["-append", BOOT_OPTIONS]);
        command.args(["-serial", &format!("file:{}", console.display())]);
        command.args(["-serial", "stdio"]);
        Self {
            kernel,
            command,
            console,
        }
    }

    /// Runs it until it powers off, and passes each line of its output to `hear`.
    ///
    /// # Errors
    /// When it has not come to the end of its script after `limit`: then with the last words of its
    /// kernel.
    pub(super) fn run(mut self, limit: Duration, mut hear: impl FnMut(&str)) -> Result<()> {
        let child = self
            .command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start `{}`", line(&self.command)))?;
        let mut qemu = Running(child);
        let output = qemu.0.stdout.take().context("the guest's output")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for text in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let text = String::from_utf8_lossy(&text).trim_end().to_owned();
                if sender.send(text).is_err() {
                    return;
                }
            }
        });
        let deadline = Instant::now() + limit;
        let mut is_done = false;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match lines.recv_timeout(left) {
                Ok(text) if text == DONE => is_done = true,
                Ok(text) => hear(&text),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) if is_done => break,
                Err(RecvTimeoutError::Timeout) => {
                    bail!("not done after {} s{}", limit.as_secs(), self.last_words());
                }
            }
        }
        if !is_done {
            let status = qemu.0.wait()?;
            let words = self.last_words();
            bail!(
                "Linux {} ended before its tests did ({QEMU}: {status}){words}",
                self.kernel.version
            );
        }
        Ok(())
    }

    /// What the guest's kernel said last, as part of an error.
    fn last_words(&self) -> String {
        let text = fs::read(&self.console).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect();
        match lines.as_slice() {
            [] => "; its kernel said nothing".to_owned(),
            lines => {
                let start = lines.len().saturating_sub(LINES_SHOWN);
                format!("; its kernel said:\n{}", lines[start..].join("\n"))
            }
        }
    }
}

/// A running QEMU, ended when this is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
