//! The host's own access to forwards: programs at the root of all control groups, which see every
//! `connect` of the machine and act on those of this network namespace. Each family has its own.
//!
//! Attachments are links, pinned beside those of the interfaces. The destinations that sockets have
//! named are in a separate pinned map, which is not part of a layout: it is created if it is
//! missing. Failures here do not prevent translation, so they are reported instead of being errors.

use std::{
    ffi::CString,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{Array, MapData},
    programs::{CgroupAttachMode, CgroupSockAddr, links::FdLink},
};
use bytemuck::{Pod, Zeroable};
use nat_common::{
    tables::destinations::{MAX_OWN, OwnAddresses},
    wire::address::Address,
};

use super::{
    Pins, Plain, Programs, Rulesets, link,
    object::{LOCAL_PROGRAMS, LOCAL_PROGRAMS_6},
};

/// What the names of their links' pins begin with. (Those of interfaces begin with a number.)
const PIN_PREFIX: &str = "local-";

/// The destinations that sockets have named.
const DESTINATIONS: &str = "DESTINATIONS";
/// Its name up to layout 4.
const DESTINATIONS_4: &str = "ASKED";
/// Those of IPv6.
pub(super) const DESTINATIONS_OF_IPV6: &str = "DESTINATIONS6";

/// `BPF_OBJ_GET` in `enum bpf_cmd` (`include/uapi/linux/bpf.h`).
const BPF_OBJ_GET: libc::c_long = 7;
/// `BPF_LINK_UPDATE` in `enum bpf_cmd`.
const BPF_LINK_UPDATE: libc::c_long = 29;

/// `union bpf_attr`, the member of `BPF_OBJ_GET`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct ObjGetAttr {
    path: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// `union bpf_attr`, the `link_update` member.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct LinkUpdateAttr {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// Gives the host access to the forwards of the families that have such rules, and removes it from
/// the others. Returns the state of the access in words, for `natbpf status`.
pub fn attach_local(programs: &mut Programs, pins: &Pins, rulesets: &Rulesets) -> String {
    match try_attach(programs, pins, rulesets) {
        Ok(None) => "off".to_owned(),
        Ok(Some(root)) => format!("on, for sockets below control group {}", root.display()),
        Err(error) => {
            let why = format!("off: {error:#}");
            log::warn!("local access to forwards is {why}");
            // Programs of an earlier natbpf would follow outdated rules.
            for programs in [LOCAL_PROGRAMS, LOCAL_PROGRAMS_6] {
                if let Err(error) = detach(pins, programs) {
                    log::warn!("{error:#}");
                }
            }
            why
        }
    }
}

/// Returns the control group of the programs, if there are any.
fn try_attach(
    programs: &mut Programs,
    pins: &Pins,
    rulesets: &Rulesets,
) -> Result<Option<PathBuf>> {
    let wanted = prepare(programs, pins, rulesets)?;
    if wanted.is_empty() {
        return Ok(None);
    }
    let mounts = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    let root = control_groups(&mounts)
        .context("cgroup2 is not mounted (mount -t cgroup2 none /sys/fs/cgroup)")?;
    let group = File::open(&root).with_context(|| format!("open {}", root.display()))?;
    // Load all programs first, so that a refusal by the kernel changes nothing.
    for &name in &wanted {
        programs.local(name)?;
    }
    for &name in &wanted {
        let path = pins.links().join(format!("{PIN_PREFIX}{name}"));
        attach_one(programs.local(name)?, &group, &path)
            .with_context(|| format!("attach {name} to {}", root.display()))?;
    }
    Ok(Some(root))
}

/// Tells the families with such rules what their loopback addresses stand for, and detaches the
/// programs of the others. Returns the programs that are to run.
fn prepare(programs: &mut Programs, pins: &Pins, rulesets: &Rulesets) -> Result<Vec<&'static str>> {
    let mut wanted = Vec::new();
    match &rulesets.ipv4.own {
        Some(own) => {
            set_own_addresses(&mut programs.ebpf, own)?;
            wanted.extend(LOCAL_PROGRAMS);
        }
        None => detach(pins, LOCAL_PROGRAMS)?,
    }
    let ipv6 = rulesets.ipv6.as_ref();
    match ipv6.and_then(|ruleset| ruleset.own.as_ref()) {
        Some(own) => {
            let object = programs.ipv6.as_mut();
            set_own_addresses(object.context("IPv6's programs are not loaded")?, own)?;
            wanted.extend(LOCAL_PROGRAMS_6);
        }
        None => detach(pins, LOCAL_PROGRAMS_6)?,
    }
    Ok(wanted)
}

/// Where the hierarchy of version 2 is mounted: the first place, as `/proc/self/mounts` has them.
fn control_groups(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (path, kind) = (fields.next()?, fields.next()?);
        // (Blanks are escaped; the path usually contains none.)
        (kind == "cgroup2").then(|| PathBuf::from(path))
    })
}

fn attach_one(program: &mut CgroupSockAddr, group: &File, path: &Path) -> Result<()> {
    if path.exists() {
        if replace(path, program.fd()?.as_fd()).is_ok() {
            return Ok(());
        }
        fs::remove_file(path)?;
    }
    // A link always allows other programs and takes no flag for that.
    let id = program.attach(group, CgroupAttachMode::Single)?;
    let link: FdLink = program.take_link(id)?.try_into()?;
    link.pin(path)?;
    Ok(())
}

/// Replaces the program of a pinned link. (aya does so for other hooks.)
fn replace(path: &Path, program: BorrowedFd<'_>) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let get = ObjGetAttr {
        path: path.as_ptr() as u64,
        bpf_fd: 0,
        file_flags: 0,
    };
    let link = bpf(BPF_OBJ_GET, &get)?;
    // SAFETY: the kernel has just created it, and it has no other owner.
    let link = unsafe { OwnedFd::from_raw_fd(link) };
    let update = LinkUpdateAttr {
        link_fd: link.as_raw_fd() as u32,
        new_prog_fd: program.as_raw_fd() as u32,
        flags: 0,
        old_prog_fd: 0,
    };
    bpf(BPF_LINK_UPDATE, &update).map(drop)
}

fn bpf<T: Pod>(command: libc::c_long, attr: &T) -> io::Result<RawFd> {
    // SAFETY: the attribute is as long as it says and lives for the whole call, as what it points
    // to does; these commands read it alone.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attr),
            size_of::<T>(),
        )
    };
    match RawFd::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Detaches a family's programs.
fn detach(pins: &Pins, programs: &[&str]) -> Result<()> {
    for name in programs {
        let path = pins.links().join(format!("{PIN_PREFIX}{name}"));
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether a link's pin is one of these.
pub(super) fn is_pin(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with(PIN_PREFIX))
}

/// Detaches the programs from the control groups.
///
/// # Errors
///
/// When a pin cannot be removed.
pub(super) fn detach_local(pins: &Pins) -> Result<()> {
    let Ok(entries) = fs::read_dir(pins.links()) else {
        return Ok(());
    };
    for entry in entries {
        let path = entry?.path();
        if is_pin(&path) {
            link::remove(&path)?;
        }
    }
    Ok(())
}

/// Shares the destinations that sockets have named with another data plane.
///
/// # Errors
///
/// When the map cannot be pinned there.
pub(super) fn share_destinations(former: &Pins, next: &Pins) -> Result<()> {
    for (name, names) in [
        (DESTINATIONS, &[DESTINATIONS, DESTINATIONS_4][..]),
        (DESTINATIONS_OF_IPV6, &[DESTINATIONS_OF_IPV6]),
    ] {
        let mut paths = names.iter().map(|name| former.map(name));
        let Some(path) = paths.find(|path| path.exists()) else {
            continue;
        };
        let map = MapData::from_pin(&path);
        let map = map.with_context(|| format!("open map {}", path.display()))?;
        map.pin(next.map(name))
            .with_context(|| format!("share map {name}"))?;
    }
    Ok(())
}

/// Writes what a family's loopback address stands for, as many addresses as there is room for.
fn set_own_addresses<A: Address>(object: &mut Ebpf, own: &[A]) -> Result<()> {
    let mut value = OwnAddresses::<A>::zeroed();
    for (place, address) in value.addresses.iter_mut().zip(own) {
        *place = *address;
    }
    value.count = own.len().min(MAX_OWN) as u32;
    let map = object.map_mut("OWN_ADDRESSES");
    let map = map.context("no map OWN_ADDRESSES")?;
    let mut map = Array::<_, Plain<OwnAddresses<A>>>::try_from(map)?;
    let result = map.set(0, Plain(value), 0);
    result.context("write map OWN_ADDRESSES")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_is_found_wherever_it_is_mounted() {
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                      cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let unified = "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";
        let found = |mounts| control_groups(mounts).map(|path| path.display().to_string());
        assert_eq!(found(hybrid).as_deref(), Some("/sys/fs/cgroup/unified"));
        assert_eq!(found(unified).as_deref(), Some("/sys/fs/cgroup"));
        assert_eq!(found("proc /proc proc rw 0 0\n"), None);
    }
}
