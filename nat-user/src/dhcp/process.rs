//! A dnsmasq or an unbound as a process: found again, started, ended.

use std::{
    env,
    ffi::OsStr,
    fmt,
    fs::{self, File},
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nat_config::visible::visible;
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::time::{Instant, sleep};

use super::{
    conf::Conf,
    dns64,
    files::{Files, Program},
    holder, lease,
};

/// Further places, for users whose PATH lacks them.
const FOLDERS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// The interval of polling for something that happens soon.
const POLL: Duration = Duration::from_millis(10);
/// It has bound its sockets after some milliseconds.
const START_LIMIT: Duration = Duration::from_secs(2);
/// How long it may take to end.
const END_LIMIT: Duration = Duration::from_secs(2);

/// One that runs, or has run.
#[derive(Debug)]
pub(super) enum Process {
    /// Started by this daemon.
    Own(Program, Child),
    /// Started by an earlier one.
    Found {
        program: Program,
        pid: i32,
        /// The argument that identifies it.
        argument: Vec<u8>,
    },
}

/// The program, as a search would find it.
pub(super) fn find_program(program: Program) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(FOLDERS.map(PathBuf::from));
    find_in(folders, program.name())
}

fn find_in(mut folders: impl Iterator<Item = PathBuf>, name: &str) -> Option<PathBuf> {
    let is_program = |path: &PathBuf| {
        fs::metadata(path)
            .is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
    };
    folders.find_map(|folder| Some(folder.join(name)).filter(is_program))
}

/// Starts a program, and returns when it serves.
///
/// # Errors
/// When it is missing or ends at once; the error says why.
pub(super) async fn start(files: &Files, conf: &Conf) -> Result<Process> {
    let (name, package) = (files.program.name(), files.program.package());
    let program = find_program(files.program)
        .with_context(|| format!("{name} is not installed; install Debian's package {package}"))?;
    // A former one may have left it.
    let _missing = fs::remove_file(&files.pid);
    let errors = File::create(&files.errors)
        .with_context(|| format!("create {}", files.errors.display()))?;
    let with_path = |option: &str, path: &Path| {
        let mut argument = OsStr::new(option).to_owned();
        argument.push(path);
        argument
    };
    let mut command = Command::new(&program);
    match files.program {
        Program::Dnsmasq => command
            .arg(OsStr::from_bytes(&files.argument()))
            .arg("--keep-in-foreground")
            .arg(with_path("--pid-file=", &files.pid))
            .arg(with_path("--dhcp-leasefile=", &files.leases))
            .arg(with_path("--addn-hosts=", &files.hosts)),
        // In the foreground, with messages to where errors go.
        Program::Unbound => command.args(["-d", "-c"]).arg(&files.conf),
    };
    let mut child = command
        // systemd's variables for this process are not meant for it.
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors)
        // So that Ctrl-C does not end it.
        .process_group(0)
        .spawn()
        .with_context(|| format!("start {}", program.display()))?;
    let deadline = Instant::now() + START_LIMIT;
    while Instant::now() < deadline && !serves(files, conf, &child)? {
        if let Some(status) = child
            .try_wait()
            .with_context(|| format!("wait for {name}"))?
        {
            let words = last_words(files);
            let folder = files.conf.parent().unwrap_or(&files.conf);
            let why = holder::explain(&words, conf.address, folder);
            bail!("{name} does not start ({status}): {words}{why}");
        }
        sleep(POLL).await;
    }
    Ok(Process::Own(files.program, child))
}

/// Whether a program that was just started has its sockets. (AppArmor lets unbound write no file
/// for its process id, so natbpf does.)
fn serves(files: &Files, conf: &Conf, child: &Child) -> Result<bool> {
    match files.program {
        Program::Dnsmasq => Ok(pid_in(&files.pid).is_some()),
        Program::Unbound => {
            fs::write(&files.pid, child.id().to_string())
                .with_context(|| format!("write {}", files.pid.display()))?;
            Ok(dns64::is_served(conf.index))
        }
    }
}

/// Its last message about why it cannot continue.
pub(super) fn last_words(files: &Files) -> String {
    let bytes = lease::begin_of(&files.errors);
    let text = String::from_utf8_lossy(&bytes);
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    let last = last.unwrap_or_default().trim();
    visible(last.strip_prefix("dnsmasq: ").unwrap_or(last)).into_owned()
}

fn pid_in(file: &Path) -> Option<i32> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

impl Process {
    /// The dnsmasq that an earlier daemon has started with these files, if it still runs.
    pub(super) fn find(files: &Files) -> Option<Self> {
        let found = Self::Found {
            program: files.program,
            pid: pid_in(&files.pid)?,
            argument: files.argument(),
        };
        (found.is_running() && found.is_in_this_network()).then_some(found)
    }

    pub(super) fn pid(&self) -> i32 {
        match self {
            Self::Own(_, child) => i32::try_from(child.id()).unwrap_or(i32::MAX),
            Self::Found { pid, .. } => *pid,
        }
    }

    /// How it has ended, if it has.
    pub(super) fn ended(&mut self) -> Option<String> {
        match self {
            Self::Own(_, child) => match child.try_wait() {
                Ok(None) => None,
                Ok(Some(status)) => Some(status.to_string()),
                Err(error) => Some(error.to_string()),
            },
            Self::Found { .. } => (!self.is_running()).then(|| "unknown status".to_owned()),
        }
    }

    /// The pid may belong to another process by now. A zombie has no arguments.
    fn is_running(&self) -> bool {
        let Self::Found { pid, argument, .. } = self else {
            return true;
        };
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        arguments
            .split(|byte| *byte == 0)
            .any(|one| one == argument)
    }

    /// Kills it: a hanging process reacts to no other signal.
    pub(super) fn kill(&self) {
        let _gone_already = kill(Pid::from_raw(self.pid()), Signal::SIGKILL);
    }

    /// A container may have a process with the same arguments.
    fn is_in_this_network(&self) -> bool {
        let network = |process: &str| fs::read_link(format!("/proc/{process}/ns/net"));
        match (network("self"), network(&self.pid().to_string())) {
            (Ok(own), Ok(its)) => own == its,
            _ => true, // Nobody may look, so take its arguments' word for it.
        }
    }

    /// Ends it, and returns when it is gone.
    ///
    /// # Errors
    /// When it cannot be signalled, or does not end.
    pub(super) async fn end(mut self) -> Result<()> {
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            match kill(Pid::from_raw(self.pid()), signal) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => return Err(error).with_context(|| format!("{signal} to {self}")),
            }
            let deadline = Instant::now() + END_LIMIT;
            while Instant::now() < deadline {
                if self.ended().is_some() {
                    return Ok(());
                }
                sleep(POLL).await;
            }
        }
        bail!("{self} does not end")
    }
}

impl fmt::Display for Process {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Own(program, _) | Self::Found { program, .. }) = self;
        write!(formatter, "{} (pid {})", program.name(), self.pid())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_found_where_it_may_be_run() {
        let folder = tempfile::tempdir().unwrap();
        let [empty, text, program] =
            ["empty", "text", "program"].map(|name| folder.path().join(name));
        for (folder, mode) in [
            (&empty, None),
            (&text, Some(0o644)),
            (&program, Some(0o755)),
        ] {
            fs::create_dir(folder).unwrap();
            if let Some(mode) = mode {
                let file = folder.join("dnsmasq");
                fs::write(&file, "").unwrap();
                fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            }
        }
        let without = [empty.clone(), text.clone()];
        assert_eq!(find_in(without.into_iter(), "dnsmasq"), None);
        let found = find_in([empty, text, program.clone()].into_iter(), "dnsmasq");
        assert_eq!(found, Some(program.join("dnsmasq")));
    }

    #[test]
    fn a_file_tells_its_interface() {
        let files = Files::of(Path::new("/run"), "eno1.100");
        let name = files.leases.file_name().unwrap();
        assert_eq!(Files::interface_of(name).as_deref(), Some("eno1.100"));
        assert_eq!(Files::interface_of(OsStr::new("warnings.json")), None);
    }

    #[test]
    fn a_process_with_other_arguments_is_not_taken_for_a_dnsmasq() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::of(folder.path(), "vmbr1");
        assert!(Process::find(&files).is_none());
        fs::write(&files.pid, std::process::id().to_string()).unwrap();
        assert!(Process::find(&files).is_none());
    }

    #[test]
    fn the_last_words_are_the_last_line() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::of(folder.path(), "vmbr1");
        assert_eq!(last_words(&files), "");
        fs::write(&files.errors, "one\n\ndnsmasq: failed to bind\n\n").unwrap();
        assert_eq!(last_words(&files), "failed to bind");
    }
}
