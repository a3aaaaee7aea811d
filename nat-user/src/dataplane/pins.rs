//! Where the data plane is pinned, and whether what is there fits.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use aya::maps::MapInfo;
use nat_common::{
    address::Addr4,
    counter::RuleCounters,
    fragment::{Datagram, FragmentKey4, FragmentPorts, Held},
    guest::{GuestKey4, GuestRecord},
    mapping::{MappingKey4, MappingRecord4, PermitKey4, PortKey4, PortRecord4},
    next_hop::{NextHopKey, NextHopRecord},
    rule::{
        AddressKey4, ExcludeKey4, ExternalAddress, Forward4, ForwardKey4, Inside4, InsideKey4,
        Interface, Settings, Snat4, SnatKey4,
    },
    session::{SessionKey4, SessionRecord4},
};
use nix::{
    mount::{MsFlags, mount, umount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

/// Where natbpf's own bpffs directory stands by default, on the system's bpffs.
const SYSTEM_BPFFS: &str = "/sys/fs/bpf";

/// Bytes before the data in the key of a longest-prefix match.
const PREFIX_LEN: usize = size_of::<u32>();

/// Every pinned map with the sizes of its key and value in bytes.
const MAPS: &[(&str, usize, usize)] = &[
    (
        "SESSIONS",
        size_of::<SessionKey4>(),
        size_of::<SessionRecord4>(),
    ),
    (
        "MAPPINGS",
        size_of::<MappingKey4>(),
        size_of::<MappingRecord4>(),
    ),
    ("PORTS", size_of::<PortKey4>(), size_of::<PortRecord4>()),
    ("PERMITS", size_of::<PermitKey4>(), size_of::<u32>()),
    (
        "FORWARDS",
        PREFIX_LEN + size_of::<ForwardKey4>(),
        size_of::<Forward4>(),
    ),
    (
        "SNATS",
        PREFIX_LEN + size_of::<SnatKey4>(),
        size_of::<Snat4>(),
    ),
    (
        "EXCLUDES",
        PREFIX_LEN + size_of::<ExcludeKey4>(),
        size_of::<u8>(),
    ),
    (
        "INSIDE",
        PREFIX_LEN + size_of::<InsideKey4>(),
        size_of::<Inside4>(),
    ),
    (
        "ADDRESSES",
        size_of::<AddressKey4>(),
        size_of::<ExternalAddress>(),
    ),
    ("INTERFACES", size_of::<u32>(), size_of::<Interface>()),
    ("SETTINGS", size_of::<u32>(), size_of::<Settings>()),
    (
        "FRAGMENTS",
        size_of::<FragmentKey4>(),
        size_of::<FragmentPorts>(),
    ),
    ("GUESTS", size_of::<GuestKey4>(), size_of::<GuestRecord>()),
    (
        "DATAGRAMS",
        size_of::<FragmentKey4>(),
        size_of::<Datagram>(),
    ),
    ("HELD", size_of::<u32>(), size_of::<Held<Addr4>>()),
    ("NEXT_HOPS", size_of::<u32>(), size_of::<NextHopRecord>()),
    ("NEXT_HOP_TAGS", size_of::<NextHopKey>(), size_of::<u32>()),
    ("FAST_UNTIL", size_of::<u32>(), size_of::<u32>()),
    ("RULES", size_of::<u32>(), size_of::<u32>()),
    ("COUNTERS", size_of::<u32>(), size_of::<RuleCounters>()),
    ("DROPS", size_of::<u32>(), size_of::<u64>()),
];

/// The paths of a data plane's pins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pins {
    bpffs: PathBuf,
    directory: PathBuf,
}

impl Pins {
    /// Below the directory that `--bpffs` names.
    #[must_use]
    pub fn below(bpffs: &Path) -> Self {
        Self {
            bpffs: bpffs.to_owned(),
            directory: super::versioned(bpffs),
        }
    }

    /// The directory that carries the layout's version.
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

    /// Whether there is a data plane.
    #[must_use]
    pub fn exist(&self) -> bool {
        self.map("SESSIONS").exists()
    }

    /// Makes the directories, and mounts a bpffs if they would not be on one.
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
            fs::create_dir_all(directory)
                .with_context(|| format!("make directory {}", directory.display()))?;
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
        fs::create_dir_all(&self.bpffs)
            .with_context(|| format!("make directory {}", self.bpffs.display()))?;
        mount_bpffs(&self.bpffs)
    }

    /// Compares every pinned map with what this version of natbpf expects.
    ///
    /// # Errors
    ///
    /// When one is missing or has another shape.
    pub(super) fn check(&self) -> Result<()> {
        if !self.exist() {
            bail!(
                "no data plane in {}; start it with natbpf run, or name another --bpffs",
                self.directory.display()
            );
        }
        MAPS.iter()
            .try_for_each(|&(name, key, value)| self.check_map(name, key, value))
    }

    fn check_map(&self, name: &str, key: usize, value: usize) -> Result<()> {
        let path = self.map(name);
        let info =
            MapInfo::from_pin(&path).with_context(|| format!("open map {}", path.display()))?;
        let found = (info.key_size() as usize, info.value_size() as usize);
        if found != (key, value) {
            bail!(
                "map {} has keys of {} and values of {} bytes, not {key} and {value}: another \
                 program or version made it; take it down with that one, or name another --bpffs",
                path.display(),
                found.0,
                found.1,
            );
        }
        Ok(())
    }

    /// Removes all pins and directories, and with them what nothing else holds.
    ///
    /// # Errors
    ///
    /// When one cannot be removed.
    pub fn remove(&self) -> Result<()> {
        // Links first: a program leaves its hook before its maps go.
        for directory in [
            self.links(),
            self.directory.join("programs"),
            self.directory.clone(),
        ] {
            remove_files(&directory)?;
            remove_directory(&directory)?;
        }
        if is_mount_point(&self.bpffs) && is_empty(&self.bpffs) && self.is_ours() {
            umount(&self.bpffs).with_context(|| format!("unmount {}", self.bpffs.display()))?;
        }
        match is_empty(&self.bpffs) && !is_mount_point(&self.bpffs) {
            true => remove_directory(&self.bpffs),
            false => Ok(()),
        }
    }

    /// A mount that natbpf made carries its name as the source.
    fn is_ours(&self) -> bool {
        let Ok(mounts) = fs::read_to_string("/proc/self/mounts") else {
            return false;
        };
        mounts.lines().any(|line| {
            let mut fields = line.split(' ');
            let source = fields.next();
            source == Some(MOUNT_SOURCE) && fields.next().map(Path::new) == Some(&self.bpffs)
        })
    }
}

/// What `/proc/mounts` shows as the source of a bpffs that natbpf has mounted.
const MOUNT_SOURCE: &str = "natbpf";

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

fn is_mount_point(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
    path.parent()
        .is_some_and(|parent| device(path).is_some() && device(path) != device(parent))
}

fn is_empty(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
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

fn remove_directory(path: &Path) -> Result<()> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).context(format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
