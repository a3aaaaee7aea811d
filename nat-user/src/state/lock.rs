//! The lock on the run directory: one natbpf runs there.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use crate::owned;

/// How long a child of a killed natbpf may take to execute another program.
pub(super) const CHILD_LIMIT: Duration = Duration::from_secs(1);
/// The pause between two checks of that.
pub(super) const CHILD_PAUSE: Duration = Duration::from_millis(10);

pub(super) const LOCK_FILE: &str = "lock";

/// The lock that makes a natbpf the only one of a run directory, until it is dropped or the process
/// ends.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

/// Creates the run directory if it is missing, and takes its lock.
///
/// # Errors
/// When another natbpf holds it, or the directory cannot be used.
pub fn lock(run_dir: &Path) -> Result<Lock> {
    make_run_dir(run_dir).with_context(|| format!("create {}", run_dir.display()))?;
    owned::check(run_dir)?;
    let path = run_dir.join(LOCK_FILE);
    // Not truncated: until it is locked, its content belongs to another process.
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .with_context(|| format!("open {}", path.display()))?;
    let mut file = match take(file) {
        Ok(file) => file,
        Err((file, Errno::EWOULDBLOCK)) => return Err(held(run_dir, file)),
        Err((_, error)) => return Err(error).with_context(|| format!("lock {}", path.display())),
    };
    if file.metadata().is_ok_and(|metadata| metadata.nlink() == 0) {
        // `natbpf down` removed it between the two steps: this lock is on a deleted file.
        return lock(run_dir);
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .with_context(|| format!("write {}", path.display()))?;
    Ok(Lock { _file: file })
}

/// (dnsmasq enters it as another user, whatever the umask of this process is.)
fn make_run_dir(run_dir: &Path) -> io::Result<()> {
    if run_dir.is_dir() {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(run_dir)?;
    fs::set_permissions(run_dir, fs::Permissions::from_mode(0o755))
}

/// Takes the lock. A child that a killed natbpf has just forked also holds it until it executes
/// another program, so wait for that.
fn take(mut file: File) -> Result<Flock<File>, (File, Errno)> {
    let deadline = Instant::now() + CHILD_LIMIT;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Err((other, Errno::EWOULDBLOCK)) if Instant::now() < deadline => {
                if holder(&other).is_none_or(runs) {
                    return Err((other, Errno::EWOULDBLOCK));
                }
                file = other;
                thread::sleep(CHILD_PAUSE);
            }
            result => return result,
        }
    }
}

/// The process that has written its number into the lock, if one has.
fn holder(mut file: &File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Whether such a process exists; a zombie does not count.
fn runs(pid: u32) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok()
}

fn held(run_dir: &Path, file: File) -> anyhow::Error {
    // Without its pid the error is still clear enough.
    let holder = match holder(&file) {
        Some(pid) => format!("another natbpf (pid {pid})"),
        None => "another natbpf".to_owned(),
    };
    anyhow!(
        "{holder} uses --run-dir {}; stop it or choose another --run-dir",
        run_dir.display()
    )
}
