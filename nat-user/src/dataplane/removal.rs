//! Removing data planes: programs leave their hooks, then pins and directories go.

use std::{fs, io, path::Path};

use anyhow::{Context as _, Result};
use nat_common::wire::address::Addr6;
use nix::{errno::Errno, mount::umount};

use super::{
    attach,
    family::{END_SESSIONS, EXPIRE_FRAGMENTS, name_of},
    layout, local,
    pins::{MOUNT_SOURCE, Pins, SYSTEM_BPFFS, data_planes, is_mount_point, remove_directory},
};

/// What the kernel adds to every new bpffs (`bpf_preload`, `kernel/bpf/inode.c`).
const PRELOADED: [&str; 2] = ["maps.debug", "progs.debug"];

impl Pins {
    /// Removes all pins and directories of this data plane, and everything that only they hold.
    ///
    /// # Errors
    ///
    /// When one cannot be removed.
    pub(super) fn remove_own(&self) -> Result<()> {
        // Links first: a program leaves its hook before its maps go, and is off when this returns.
        attach::detach_programs(self)?;
        local::detach_local(self)?;
        for directory in [
            self.links(),
            self.directory().join("programs"),
            self.marker(),
            self.directory().to_owned(),
        ] {
            remove_files(&directory)?;
            remove_directory(&directory)?;
        }
        Ok(())
    }

    /// Removes what there is of IPv6 if it is not complete: a daemon died while it made or removed
    /// it.
    ///
    /// # Errors
    ///
    /// When a pin cannot be removed.
    pub(super) fn remove_unfinished_ipv6(&self) -> Result<()> {
        match self.have_ipv6() {
            true => Ok(()),
            false => self.remove_ipv6(),
        }
    }

    /// Removes the maps of IPv6 and the programs that the daemon runs on them, first the one that
    /// says that they are complete.
    ///
    /// # Errors
    ///
    /// When a pin cannot be removed.
    pub(super) fn remove_ipv6(&self) -> Result<()> {
        let programs = [EXPIRE_FRAGMENTS, END_SESSIONS].map(name_of::<Addr6>);
        let programs = programs.iter().map(|name| self.program(name));
        let names = layout::CURRENT.ipv6_names();
        let names = names.chain([local::DESTINATIONS_OF_IPV6]);
        let maps = names.map(|name| self.map(name));
        for pin in programs.chain(maps) {
            match fs::remove_file(&pin) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("remove {}", pin.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes the data planes of all layouts, and the bpffs if natbpf mounted it.
    ///
    /// # Errors
    ///
    /// When something cannot be removed.
    pub fn remove(&self) -> Result<()> {
        self.check_owners()?;
        for name in data_planes(self.bpffs())? {
            Self::named(self.bpffs(), &name).remove_own()?;
        }
        unmount_if_ours(self.bpffs())?;
        if is_empty(self.bpffs()) && !is_mount_point(self.bpffs()) {
            remove_directory(self.bpffs())?;
        }
        match self.bpffs().starts_with(SYSTEM_BPFFS) {
            true => unmount_if_ours(Path::new(SYSTEM_BPFFS)),
            false => Ok(()),
        }
    }
}

/// Unmounts a bpffs that natbpf has mounted and no other software uses. Without `CAP_SYS_ADMIN`,
/// which the systemd unit lacks, the empty bpffs stays.
fn unmount_if_ours(path: &Path) -> Result<()> {
    if !(is_mount_point(path) && is_ours(path) && is_empty(path)) {
        return Ok(());
    }
    match umount(path) {
        Err(Errno::EPERM) => {
            log::info!(
                "{} stays mounted: unmounting it needs CAP_SYS_ADMIN",
                path.display()
            );
            Ok(())
        }
        result => result.with_context(|| format!("unmount {}", path.display())),
    }
}

/// A mount of natbpf has its name as the source.
fn is_ours(path: &Path) -> bool {
    let Ok(mounts) = fs::read_to_string("/proc/self/mounts") else {
        return false;
    };
    mounts.lines().any(|line| {
        let mut fields = line.split(' ');
        let source = fields.next();
        source == Some(MOUNT_SOURCE) && fields.next().map(Path::new) == Some(path)
    })
}

/// Whether a directory contains nothing except what the kernel adds.
fn is_empty(path: &Path) -> bool {
    let is_preloaded = |entry: io::Result<fs::DirEntry>| {
        entry.is_ok_and(|entry| PRELOADED.iter().any(|name| entry.file_name() == *name))
    };
    fs::read_dir(path).is_ok_and(|mut entries| entries.all(is_preloaded))
}

fn remove_files(directory: &Path) -> Result<()> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).context(format!("read {}", directory.display())),
    };
    for entry in entries {
        let path = entry?.path();
        if !path.is_dir() {
            fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        }
    }
    Ok(())
}
