//! Where the data plane is pinned, and whether what is there fits.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use nat_common::LAYOUT_VERSION;
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use crate::owned;

/// Where natbpf's bpffs directory is by default, on the system's bpffs.
pub(super) const SYSTEM_BPFFS: &str = "/sys/fs/bpf";

/// The program of IPv6 that is pinned last.
pub(super) const LAST_OF_IPV6: &str = "expire_fragments6";

/// The paths of a data plane's pins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pins {
    bpffs: PathBuf,
    directory: PathBuf,
}

/// The lock that makes a daemon the only one of a directory of pins.
#[derive(Debug)]
pub struct Lock {
    _directory: Flock<File>,
}

impl Pins {
    /// Below the directory that `--bpffs` names.
    #[must_use]
    pub fn below(bpffs: &Path) -> Self {
        Self::named(bpffs, &format!("v{LAYOUT_VERSION}"))
    }

    /// Beside these: where a data plane is created that will replace them.
    #[must_use]
    pub(super) fn beside(&self) -> Self {
        Self::named(&self.bpffs, &format!("v{LAYOUT_VERSION}-next"))
    }

    /// Of a layout of this version.
    #[must_use]
    pub(super) fn of_layout(&self, version: u32) -> Self {
        Self::named(&self.bpffs, &format!("v{version}"))
    }

    pub(super) fn named(bpffs: &Path, name: &str) -> Self {
        Self {
            bpffs: bpffs.to_owned(),
            directory: bpffs.join(name),
        }
    }

    /// The directory below which data planes of all layouts are.
    #[must_use]
    pub(super) fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// The directory named after the layout's version.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A map's pin.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A program's pin.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.directory.join("programs").join(name)
    }

    /// The directory of the links' pins.
    #[must_use]
    pub fn links(&self) -> PathBuf {
        self.directory.join("links")
    }

    /// Exists while links move from one data plane to the other.
    pub(super) fn marker(&self) -> PathBuf {
        self.directory.join("switching")
    }

    /// Whether there is a data plane.
    #[must_use]
    pub fn exist(&self) -> bool {
        self.map("SESSIONS").exists()
    }

    /// Whether the data plane carries IPv6. Of what IPv6 has, this is made last and removed first.
    #[must_use]
    pub(super) fn have_ipv6(&self) -> bool {
        self.program(LAST_OF_IPV6).exists()
    }

    /// Whether there is a data plane of any layout.
    #[must_use]
    pub fn are_any(&self) -> bool {
        data_planes(&self.bpffs).is_ok_and(|names| !names.is_empty())
    }

    /// Takes the lock of this directory, until the result is dropped or the process ends. It does
    /// not depend on --run-dir.
    ///
    /// # Errors
    ///
    /// When another has it, or there can be no bpffs.
    pub fn lock(&self) -> Result<Lock> {
        self.mount_if_needed()?;
        make_shared(&self.bpffs)?;
        self.check_owners()?;
        let directory = File::open(&self.bpffs)
            .with_context(|| format!("open directory {}", self.bpffs.display()))?;
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(directory) => Ok(Lock {
                _directory: directory,
            }),
            Err((_, Errno::EWOULDBLOCK)) => bail!(
                "another natbpf uses --bpffs {}; stop it or choose another --bpffs",
                self.bpffs.display()
            ),
            Err((_, error)) => Err(error).with_context(|| format!("lock {}", self.bpffs.display())),
        }
    }

    /// Creates the directories, and mounts a bpffs if they would not be on one.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub(super) fn create(&self) -> Result<()> {
        self.mount_if_needed()?;
        for directory in [
            &self.directory,
            &self.links(),
            &self.directory.join("programs"),
        ] {
            owned::make(directory)?;
        }
        Ok(())
    }

    /// Refuses pins that another user has created or may change.
    pub(super) fn check_owners(&self) -> Result<()> {
        if !self.bpffs.exists() {
            return Ok(());
        }
        owned::check_shared(&self.bpffs)?;
        for name in data_planes(&self.bpffs)? {
            let plane = Self::named(&self.bpffs, &name);
            owned::check(&plane.directory)?;
            for within in [
                plane.links(),
                plane.directory.join("programs"),
                plane.marker(),
            ] {
                if within.symlink_metadata().is_ok() {
                    owned::check(&within)?;
                }
            }
        }
        Ok(())
    }

    fn mount_if_needed(&self) -> Result<()> {
        let system = Path::new(SYSTEM_BPFFS);
        if self.bpffs.starts_with(system) && !is_bpffs(system) && system.is_dir() {
            return mount_bpffs(system);
        }
        let existing = self.bpffs.ancestors().find(|path| path.exists());
        if existing.is_some_and(is_bpffs) {
            return Ok(());
        }
        make_shared(&self.bpffs)?;
        mount_bpffs(&self.bpffs)
    }
}

/// Creates the directory of `--bpffs` if it is missing. An existing one may be a whole bpffs with
/// pins of other software.
fn make_shared(path: &Path) -> Result<()> {
    match path.exists() {
        true => owned::check_shared(path),
        false => owned::make(path),
    }
}

/// What `/proc/mounts` shows as the source of a bpffs that natbpf has mounted.
pub(super) const MOUNT_SOURCE: &str = "natbpf";

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|stat| stat.filesystem_type() == BPF_FS_MAGIC)
}

fn mount_bpffs(path: &Path) -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(
        Some(MOUNT_SOURCE),
        path,
        Some("bpf"),
        flags,
        Some("mode=0700"),
    )
    .with_context(|| format!("mount a bpffs on {}; needs CAP_SYS_ADMIN", path.display()))
}

pub(super) fn is_mount_point(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
    path.parent()
        .is_some_and(|parent| device(path).is_some() && device(path) != device(parent))
}

pub(super) fn remove_directory(path: &Path) -> Result<()> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).context(format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// The names of all data planes below `bpffs`.
pub(super) fn data_planes(bpffs: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(bpffs) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context(format!("read {}", bpffs.display())),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name().into_string();
        names.extend(name.ok().filter(|name| version_of(name).is_some()));
    }
    names.sort();
    Ok(names)
}

/// The version in the name of a data plane's directory.
pub(super) fn version_of(name: &str) -> Option<u32> {
    let version = name.strip_prefix('v')?;
    version
        .strip_suffix("-next")
        .unwrap_or(version)
        .parse()
        .ok()
}
