//! Detaching links at once.
//!
//! When the last reference to a link goes, the kernel detaches the program a moment later
//! (`bpf_link_put` in `kernel/bpf/syscall.c`). Until then, the program is still visible.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use anyhow::{Context as _, Result};
use bytemuck::{Pod, Zeroable};

/// `BPF_OBJ_GET` and `BPF_LINK_DETACH` in `enum bpf_cmd` (`include/uapi/linux/bpf.h`).
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_LINK_DETACH: libc::c_long = 34;

/// `union bpf_attr`, the member of `BPF_OBJ_GET`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct GetAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

/// `union bpf_attr`, the member of `BPF_LINK_DETACH`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct DetachAttr {
    link: u32,
}

/// Detaches a link's program and removes the link's pin.
///
/// # Errors
///
/// When the pin cannot be removed.
pub(super) fn remove(pin: &Path) -> Result<()> {
    // The interface may be gone, and then there is nothing to detach.
    if let Err(error) = detach(pin) {
        log::debug!("detach {}: {error}", pin.display());
    }
    fs::remove_file(pin).with_context(|| format!("remove {}", pin.display()))
}

fn detach(pin: &Path) -> io::Result<()> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let get = GetAttr {
        path: path.as_ptr() as u64,
        fd: 0,
        flags: 0,
    };
    let fd = bpf(BPF_OBJ_GET, &get)?;
    // SAFETY: the kernel has just created the descriptor, and it has no other owner.
    let link = unsafe { OwnedFd::from_raw_fd(fd) };
    let attr = DetachAttr {
        link: link.as_raw_fd().cast_unsigned(),
    };
    bpf(BPF_LINK_DETACH, &attr).map(drop)
}

fn bpf<A: Pod>(command: libc::c_long, attr: &A) -> io::Result<i32> {
    let size = size_of::<A>() as libc::c_long;
    // SAFETY: the attributes are plain data of that size, which the kernel only reads here; what
    // they point to outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attr, size) };
    match i32::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}
