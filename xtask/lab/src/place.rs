//! Where a lab's namespaces and files are, and how to remove them: by name alone, so that a signal
//! handler, a later process or another command can do it too.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Named network namespaces, as `ip netns` keeps them.
pub(crate) const NETNS_FOLDER: &str = "/run/netns";
/// Labs that end with their process: followed by its pid.
const PREFIX: &str = "nb";
/// Labs that are kept: never removed, even if the process that created them is gone.
const LASTING_PREFIX: &str = "nbkeep";
const FOLDER_PREFIX: &str = "natbpf-lab-";

/// The names of a lab: the prefix of its namespaces and its temporary folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    prefix: String,
    folder: PathBuf,
}

impl Place {
    /// The place of the lab with this prefix, as [`Place::prefix`] gave it.
    #[must_use]
    pub fn from_prefix(prefix: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("{FOLDER_PREFIX}{prefix}"));
        Self {
            prefix: prefix.to_owned(),
            folder,
        }
    }

    pub(crate) fn of_this_process(number: u32) -> Self {
        Self::from_prefix(&format!("{PREFIX}{}-{number}", std::process::id()))
    }

    pub(crate) fn lasting() -> Self {
        Self::from_prefix(&format!("{LASTING_PREFIX}{}", std::process::id()))
    }

    pub(crate) fn is_lasting(&self) -> bool {
        self.prefix.starts_with(LASTING_PREFIX)
    }

    /// What the names of the lab's namespaces begin with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The name of a host's namespace, as `ip netns` shows it.
    #[must_use]
    pub fn namespace(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }

    /// The lab's temporary folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The lab's bpffs.
    #[must_use]
    pub fn bpffs(&self) -> PathBuf {
        self.folder.join("bpf")
    }

    /// Whether any of the lab's namespaces exists.
    #[must_use]
    pub fn exists(&self) -> bool {
        !self.namespaces().is_empty()
    }

    /// The lab's namespaces that stand: each host's name and its namespace's.
    #[must_use]
    pub fn namespaces(&self) -> Vec<(String, String)> {
        let start = format!("{}-", self.prefix);
        let mut found: Vec<(String, String)> = names_in(Path::new(NETNS_FOLDER))
            .into_iter()
            .filter_map(|name| Some((name.strip_prefix(&start)?.to_owned(), name)))
            .collect();
        found.sort();
        found
    }

    pub(crate) fn make_folder(&self) -> Result<()> {
        let bpffs = self.bpffs();
        fs::create_dir_all(&bpffs).with_context(|| format!("make {}", bpffs.display()))?;
        let none: Option<&str> = None;
        mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), none)
            .with_context(|| format!("mount a bpffs at {}", bpffs.display()))
    }

    /// Ends the lab's processes and removes its namespaces, bpffs and folder. What is already
    /// gone is no error.
    ///
    /// # Errors
    /// When something stays behind; the rest is removed nevertheless.
    pub fn remove(&self) -> Result<()> {
        let namespaces: Vec<PathBuf> = self
            .namespaces()
            .into_iter()
            .map(|(_, name)| Path::new(NETNS_FOLDER).join(name))
            .collect();
        end_processes_in(&namespaces);
        let mut problems = Vec::new();
        for path in &namespaces {
            // The name is a mount point on an empty file: both go, the namespace itself with
            // its last user.
            let _ = umount2(path, MntFlags::MNT_DETACH);
            if let Err(error) = fs::remove_file(path) {
                problems.push(format!("{}: {error}", path.display()));
            }
        }
        while umount2(&self.bpffs(), MntFlags::MNT_DETACH).is_ok() {}
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                problems.push(format!("{}: {error}", self.folder.display()));
            }
            _ => {}
        }
        if !problems.is_empty() {
            bail!("left behind: {}", problems.join(", "));
        }
        Ok(())
    }
}

/// Removes the remains of labs whose process is dead.
pub(crate) fn sweep() {
    let mut prefixes = BTreeSet::new();
    for name in names_in(Path::new(NETNS_FOLDER)) {
        prefixes.extend(prefix_of_dead_lab(&name));
    }
    for name in names_in(&std::env::temp_dir()) {
        prefixes.extend(
            name.strip_prefix(FOLDER_PREFIX)
                .and_then(prefix_of_dead_lab),
        );
    }
    for prefix in prefixes {
        // Another process may be sweeping the same: what it removed first is no problem.
        let _ = Place::from_prefix(&prefix).remove();
    }
}

/// `nb<pid>-<number>` of a namespace's or folder's name, when process `pid` is gone.
fn prefix_of_dead_lab(name: &str) -> Option<String> {
    let mut parts = name.splitn(3, '-');
    let (owner, number) = (parts.next()?, parts.next()?);
    let pid: u32 = owner.strip_prefix(PREFIX)?.parse().ok()?;
    let number: u32 = number.parse().ok()?;
    let alive = Path::new("/proc").join(pid.to_string()).exists() && !is_zombie(pid);
    (!alive).then(|| format!("{PREFIX}{pid}-{number}"))
}

/// Ends every process in one of these namespaces: first by SIGTERM, then by SIGKILL. They belong to
/// the lab, because no other process knows the namespaces.
fn end_processes_in(namespaces: &[PathBuf]) {
    let inodes: BTreeSet<(u64, u64)> = namespaces
        .iter()
        .filter_map(|path| fs::metadata(path).ok())
        .map(|data| (data.dev(), data.ino()))
        .collect();
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        let living = processes_in(&inodes);
        if living.is_empty() {
            return;
        }
        let late = Instant::now() > deadline;
        let signal = if late {
            Signal::SIGKILL
        } else {
            Signal::SIGTERM
        };
        for pid in living {
            let _ = kill(pid, signal);
        }
        std::thread::sleep(Duration::from_millis(if late { 5 } else { 50 }));
        if late && Instant::now() > deadline + Duration::from_secs(2) {
            return;
        }
    }
}

fn processes_in(inodes: &BTreeSet<(u64, u64)>) -> Vec<Pid> {
    let own = std::process::id();
    names_in(Path::new("/proc"))
        .into_iter()
        .filter_map(|name| name.parse::<u32>().ok())
        .filter(|pid| *pid != own && !is_zombie(*pid))
        .filter(|pid| {
            fs::metadata(format!("/proc/{pid}/ns/net"))
                .is_ok_and(|data| inodes.contains(&(data.dev(), data.ino())))
        })
        .filter_map(|pid| i32::try_from(pid).ok().map(Pid::from_raw))
        .collect()
}

/// A zombie holds nothing any more.
fn is_zombie(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        stat.rsplit(')')
            .next()
            .is_some_and(|rest| rest.starts_with(" Z"))
    })
}

fn names_in(folder: &Path) -> Vec<String> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_labs_of_dead_processes_are_swept() {
        let own = std::process::id();
        // Pids end at 2^22.
        assert_eq!(
            prefix_of_dead_lab("nb4194305-3-cli").as_deref(),
            Some("nb4194305-3")
        );
        assert_eq!(
            prefix_of_dead_lab("nb4194305-3").as_deref(),
            Some("nb4194305-3")
        );
        assert_eq!(prefix_of_dead_lab(&format!("nb{own}-3-cli")), None);
        assert_eq!(prefix_of_dead_lab("nbkeep4194305-cli"), None);
        assert_eq!(prefix_of_dead_lab("nb-cli"), None);
        assert_eq!(prefix_of_dead_lab("neighbour"), None);
    }
}
