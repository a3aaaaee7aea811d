//! Reading many entries of a map by one system call.
//!
//! aya reads a map by two calls per entry; a million sessions are to be looked through every
//! second.

use std::{io, os::fd::RawFd};

use bytemuck::{Pod, Zeroable};

/// `BPF_MAP_LOOKUP_BATCH` in `enum bpf_cmd` (`include/uapi/linux/bpf.h`).
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;

/// Entries that are asked for by one call. A bucket that does not fit is an error of the kernel's,
/// and no bucket of a hash that is not overfull comes near.
const BATCH: usize = 8192;

/// `union bpf_attr`, the `batch` member.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Calls `visit` with every entry of a hash map. Entries that are added or removed meanwhile may or
/// may not be among them; none comes twice.
///
/// # Errors
///
/// What the kernel says.
pub(super) fn for_each<K: Pod, V: Pod>(
    map: RawFd,
    mut visit: impl FnMut(&K, &V),
) -> io::Result<()> {
    let mut keys = vec![K::zeroed(); BATCH];
    let mut values = vec![V::zeroed(); BATCH];
    // The kernel's place in the map, 4 bytes for hashes.
    let mut place = 0u64;
    let mut is_first = true;
    loop {
        let mut attr = BatchAttr {
            in_batch: if is_first {
                0
            } else {
                (&raw const place) as u64
            },
            out_batch: (&raw mut place) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: BATCH as u32,
            map_fd: map as u32,
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: the attribute is a prefix of `union bpf_attr` whose pointers lead to buffers of
        // at least `count` keys and values, and to a place of 8 bytes; all live through the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_MAP_LOOKUP_BATCH,
                &raw mut attr,
                size_of::<BatchAttr>(),
            )
        };
        let end = match result {
            0 => false,
            _ => match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::ENOENT) => true,
                error => return Err(error),
            },
        };
        let count = attr.count as usize;
        for (key, value) in keys.iter().zip(&values).take(count) {
            visit(key, value);
        }
        if end {
            return Ok(());
        }
        is_first = false;
    }
}
