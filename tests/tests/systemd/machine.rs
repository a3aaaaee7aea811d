//! A container with systemd in it, on a host of the lab.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::patience::patience;
use lab::topology::Proxmox;
use lab::{Host, Natbpf, Output};

/// Where `cargo xtask test` has put a Debian.
const ROOT: &str = "NATBPF_SYSTEMD_ROOT";
const PACKAGING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/natbpf.service");
const BOOT_SCRIPT: &str = include_str!("boot.sh");

/// The socket, in the test's folder.
const NOTIFY: &str = "notify";

/// Booting takes half a second on an idle machine.
const BOOT_LIMIT: Duration = Duration::from_secs(60);
/// Shutting down takes less than a second on an idle machine.
const OFF_LIMIT: Duration = Duration::from_secs(20);
const END_LIMIT: Duration = Duration::from_secs(30);
/// The longest wait on an idle machine is 8 s, for the successor of a dnsmasq that hangs.
const EVENTUALLY: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

pub(crate) const UNIT: &str = "natbpf.service";
const CONFIG: &str = "/etc/natbpf/natbpf.toml";
pub(crate) const LEASES: &str = "/run/natbpf/dhcp/vmbr1.leases";

const DHCP: &str = r#"
[network.lan.dhcp]
range = "172.22.161.10-172.22.161.100"

[network.lan.dns]
forwarders = []

[[guest]]
name = "web1"
network = "lan"
address = "172.22.161.50"
mac = "52:54:00:00:00:50"
"#;

/// A VM host that is a container with systemd; ended when this is dropped.
pub(crate) struct Machine {
    host: Host,
    folder: PathBuf,
    script: Child,
    switch: Option<ChildStdin>,
    /// The container's first process, while it runs.
    leader: Option<u32>,
    boots: usize,
}

/// The unit's main process, and how often systemd has restarted the unit by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) pid: i32,
    pub(crate) restarts: u32,
}

/// The configuration of the tests: masquerade and forwards as in scenario `proxmox`, DHCP and DNS.
pub(crate) fn config(net: &Proxmox) -> String {
    let (head, rules) = (net.config_head(), net.config());
    rules.replacen(&head, &(head.clone() + DHCP), 1)
}

impl Machine {
    /// Boots a container in place of the VM host, with natbpf installed as docs/install.md says,
    /// but not started or enabled. Each of `more` is another file in the container: path and text.
    pub(crate) fn boot(net: &Proxmox, more: &[(&str, &str)]) -> Result<Self> {
        let mut machine = Self::prepare(net, more)?;
        machine.switch_on()?;
        Ok(machine)
    }

    fn prepare(net: &Proxmox, more: &[(&str, &str)]) -> Result<Self> {
        let folder = net.lab().folder().join("systemd");
        let unit = fs::read_to_string(PACKAGING).context("the unit")?;
        let config = config(net);
        let files = [
            (CONFIG, config.as_str()),
            ("/etc/systemd/system/natbpf.service", &unit),
        ];
        for (path, text) in files.iter().chain(more) {
            let file = folder.join("files").join(path.trim_start_matches('/'));
            fs::create_dir_all(file.parent().context("a path with a folder")?)
                .and_then(|()| fs::write(&file, text))
                .with_context(|| format!("write {}", file.display()))?;
        }
        let mut script = boot_script(&folder, &net.host)?;
        let switch = script.stdin.take();
        Ok(Self {
            host: net.host.clone(),
            folder,
            script,
            switch,
            leader: None,
            boots: 0,
        })
    }

    /// Boots, and returns when systemd has started everything.
    pub(crate) fn switch_on(&mut self) -> Result<()> {
        // It lasts while its output is read: systemd-nspawn waits when its buffer is full.
        let notify = self.notify_socket()?;
        let switch = self
            .switch
            .as_mut()
            .context("the container is being removed")?;
        // If the script has ended, the console says why.
        let _ended = writeln!(switch, "on");
        self.boots += 1;
        let deadline = Instant::now() + patience(BOOT_LIMIT);
        while Instant::now() < deadline {
            let said = hear(&notify)?;
            self.leader = first_process(self.script.id());
            if said.lines().any(|line| line == "READY=1") && self.leader.is_some() {
                return Ok(());
            }
            if self.script.try_wait()?.is_some() || self.ends() >= self.boots {
                break;
            }
        }
        bail!("the container does not boot{}", self.console())
    }

    /// The socket for the messages of systemd-nspawn.
    fn notify_socket(&self) -> Result<UnixDatagram> {
        let path = self.folder.join(NOTIFY);
        let _none = fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).context("a socket for systemd-nspawn")?;
        let limited = socket.set_read_timeout(Some(POLL));
        limited.context("a time limit").map(|()| socket)
    }

    /// How often a container has ended.
    fn ends(&self) -> usize {
        let said = fs::read_to_string(self.folder.join("said")).unwrap_or_default();
        said.lines().filter(|line| *line == "off").count()
    }

    /// Shuts it down in good order.
    pub(crate) fn power_off(&mut self) -> Result<()> {
        self.run(&["systemctl", "poweroff"])?;
        let deadline = Instant::now() + patience(OFF_LIMIT);
        while self.ends() < self.boots {
            ensure!(
                Instant::now() < deadline,
                "the container does not switch itself off{}",
                self.console()
            );
            std::thread::sleep(POLL);
        }
        self.leader = None;
        Ok(())
    }

    /// Runs a command in the container; it may fail.
    pub(crate) fn run(&self, words: &[&str]) -> Result<Output> {
        let leader = self.leader.context("the container does not run")?;
        let leader = leader.to_string();
        let enter = ["nsenter", "--target", &leader, "--all", "--"];
        self.host.run(enter.iter().chain(words))
    }

    /// Runs a command that must succeed, and returns its output.
    pub(crate) fn check(&self, words: &[&str]) -> Result<String> {
        let said = self.run(words)?.expect_ok();
        said.with_context(|| format!("the journal:\n{}", self.journal()))
    }

    /// Writes a file in the container.
    pub(crate) fn write(&self, path: &str, text: &str) -> Result<()> {
        self.check(&["sh", "-c", "printf %s \"$2\" >\"$1\"", "sh", path, text])?;
        Ok(())
    }

    /// Writes natbpf's configuration, without a reload.
    pub(crate) fn configure(&self, config: &str) -> Result<()> {
        self.write(CONFIG, config)
    }

    /// `systemctl` with a verb, for the unit.
    pub(crate) fn systemctl(&self, verb: &str) -> Result<()> {
        self.check(&["systemctl", verb, UNIT]).map(drop)
    }

    /// A property of the unit.
    pub(crate) fn show(&self, property: &str) -> Result<String> {
        let value = self.check(&["systemctl", "show", UNIT, "--value", "-p", property])?;
        Ok(value.trim().to_owned())
    }

    /// The unit's state: `active (running)`.
    pub(crate) fn state(&self) -> Result<String> {
        let text = self.check(&["systemctl", "show", UNIT, "-p", "ActiveState,SubState"])?;
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().to_owned()
        };
        Ok(format!(
            "{} ({})",
            value("ActiveState="),
            value("SubState=")
        ))
    }

    /// The running daemon.
    pub(crate) fn started(&self) -> Result<Start> {
        let state = self.state()?;
        ensure!(state == "active (running)", "{state}\n{}", self.journal());
        Ok(Start {
            pid: self.show("MainPID")?.parse().context("MainPID")?,
            restarts: self.show("NRestarts")?.parse().context("NRestarts")?,
        })
    }

    /// Waits until the unit runs again, in another process than `before`; returns how long it took.
    pub(crate) fn wait_for_restart(&self, before: Start) -> Result<Duration> {
        eventually("the unit runs again", || {
            let now = self.started();
            Ok(now.is_ok_and(|now| now.pid != before.pid && now.restarts == before.restarts + 1))
        })
        .with_context(|| format!("before {before:?}, now {:?}", self.started()))
    }

    /// Sends a process of the container a signal.
    pub(crate) fn kill(&self, signal: &str, pid: i32) -> Result<()> {
        self.check(&["sh", "-c", &format!("kill -{signal} {pid}")])
            .map(drop)
    }

    /// Kills the daemon, and returns how long it took until systemd has started another one.
    pub(crate) fn kill_daemon(&self, signal: &str, daemon: Start) -> Result<Duration> {
        let start = Instant::now();
        // The first SIGSEGV only removes Rust's handler, which reports stack overflows.
        eventually("the daemon ends", || {
            let _has_ended = self.kill(signal, daemon.pid);
            Ok(self.show("MainPID")? != daemon.pid.to_string())
        })?;
        self.wait_for_restart(daemon)?;
        Ok(start.elapsed())
    }

    /// The processes that run a program.
    pub(crate) fn processes(&self, name: &str) -> Result<Vec<i32>> {
        let list = "for p in /proc/[0-9]*; do read -r c <$p/comm && [ $c = \"$1\" ] && \
                    echo ${p#/proc/}; done 2>/dev/null; true";
        let text = self.check(&["sh", "-c", list, "sh", name])?;
        text.lines()
            .map(|pid| pid.parse().context("a process"))
            .collect()
    }

    /// The one dnsmasq.
    pub(crate) fn dnsmasq(&self) -> Result<i32> {
        match self.processes("dnsmasq")?.as_slice() {
            [one] => Ok(*one),
            others => bail!("dnsmasqs: {others:?}\n{}", self.journal()),
        }
    }

    /// The unit's journal: lines of its processes and of systemd.
    pub(crate) fn journal(&self) -> String {
        let words = ["journalctl", "--unit", UNIT, "--output=cat", "--no-pager"];
        let said = self.run(&words).map(|output| output.stdout);
        said.unwrap_or_else(|error| format!("{error:#}"))
    }

    /// Fails unless the journal contains `text`.
    pub(crate) fn has_logged(&self, text: &str) -> Result<()> {
        let journal = self.journal();
        ensure!(journal.contains(text), "no {text:?} in:\n{journal}");
        Ok(())
    }

    /// The console of the container and errors of the script, as part of an error.
    fn console(&self) -> String {
        let said = fs::read(self.folder.join("console")).unwrap_or_default();
        format!("; its console:\n{}", String::from_utf8_lossy(&said))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The test runner shows this if the test has failed.
        if self.leader.is_some() {
            eprintln!("the journal:\n{}{}", self.journal(), self.console());
        }
        // The container ends with its first process. The script then removes the rest and ends.
        if let Some(leader) = self.leader.take() {
            let _gone = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(i32::try_from(leader).unwrap_or(i32::MAX)),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
        self.switch = None;
        let deadline = Instant::now() + END_LIMIT;
        while Instant::now() < deadline && matches!(self.script.try_wait(), Ok(None)) {
            std::thread::sleep(POLL);
        }
        let _ended = self.script.kill();
        let _ended = self.script.wait();
    }
}

/// The next message of systemd-nspawn, or nothing if there is none at once.
fn hear(notify: &UnixDatagram) -> Result<String> {
    let mut buffer = [0; 4096];
    match notify.recv(&mut buffer) {
        Ok(length) => Ok(String::from_utf8_lossy(&buffer[..length]).into_owned()),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            Ok(String::new())
        }
        Err(error) => Err(error).context("hear of the container"),
    }
}

/// Waits until something is so, and returns how long that took.
pub(crate) fn eventually(what: &str, is_so: impl Fn() -> Result<bool>) -> Result<Duration> {
    let start = Instant::now();
    while !is_so()? {
        let waited = start.elapsed();
        ensure!(
            waited < patience(EVENTUALLY),
            "{what}: not after {waited:?}"
        );
        std::thread::sleep(POLL);
    }
    Ok(start.elapsed())
}

/// The container's first process: the only child of systemd-nspawn, below unshare and the script.
fn first_process(unshare: u32) -> Option<u32> {
    let only_child = |pid: u32| {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        children.trim().parse().ok()
    };
    only_child(unshare)
        .and_then(only_child)
        .and_then(only_child)
}

/// Starts the script in separate namespaces. If the test ends, the kernel ends the script and the
/// container.
fn boot_script(folder: &Path, host: &Host) -> Result<Child> {
    let root = std::env::var_os(ROOT);
    let root = root.with_context(|| format!("{ROOT} is not set: cargo xtask test systemd"))?;
    let script = folder.join("boot.sh");
    fs::write(&script, BOOT_SCRIPT).context("write the boot script")?;
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--", "unshare", "--mount"])
        .args([
            "--propagation",
            "private",
            "--pid",
            "--fork",
            "--mount-proc",
            "--kill-child",
            "sh",
        ])
        .arg(script)
        .arg(root)
        .arg(folder)
        .arg(Path::new("/run/netns").join(host.namespace()))
        .arg(Natbpf::binary()?)
        .env("NOTIFY_SOCKET", folder.join(NOTIFY))
        .stdin(Stdio::piped())
        .stdout(File::create(folder.join("said")).context("a file")?)
        .stderr(File::create(folder.join("console")).context("a file")?);
    command.spawn().context("start the boot script")
}
