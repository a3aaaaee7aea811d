//! Reading and writing many map entries per system call.
//!
//! aya reads a map by two calls per entry, and writes it by one; there may be millions.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, RawFd},
};

use aya::maps::MapData;
use bytemuck::{Pod, Zeroable};

/// `BPF_MAP_LOOKUP_BATCH` in `enum bpf_cmd` (`include/uapi/linux/bpf.h`).
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
/// `BPF_MAP_UPDATE_BATCH` in `enum bpf_cmd`.
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;

/// Entries that are asked for by one call. The kernel fails if a bucket does not fit, but no bucket
/// of a hash table within its size comes near.
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

/// Where to continue reading a map: initially, and after the last entry, at its beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Place(Option<u32>);

/// Reads a map in batches.
pub(super) struct Reader<K, V> {
    map: RawFd,
    keys: Vec<K>,
    values: Vec<V>,
}

impl<K: Pod, V: Pod> Reader<K, V> {
    /// Of a hash map, which must stay open.
    pub(super) fn new(map: RawFd) -> Self {
        Self {
            map,
            keys: vec![K::zeroed(); BATCH],
            values: vec![V::zeroed(); BATCH],
        }
    }

    /// Calls `visit` with the next entries, at most [`BATCH`], and returns how many these were. The
    /// map may change at the same time.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(super) fn read(
        &mut self,
        place: &mut Place,
        mut visit: impl FnMut(&K, &V),
    ) -> io::Result<usize> {
        // The kernel's place in a hash map is a bucket's number.
        let from = place.0.unwrap_or(0);
        let mut to = 0_u32;
        let mut attr = BatchAttr {
            in_batch: match place.0 {
                None => 0,
                Some(_) => (&raw const from) as u64,
            },
            out_batch: (&raw mut to) as u64,
            keys: self.keys.as_mut_ptr() as u64,
            values: self.values.as_mut_ptr() as u64,
            count: BATCH as u32,
            map_fd: self.map as u32,
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: the pointers lead to buffers of at least `count` keys and values, and to places
        // of 4 bytes, which is what hash maps use; all live through the call.
        *place = match unsafe { call(BPF_MAP_LOOKUP_BATCH, &mut attr) } {
            Ok(()) => Place(Some(to)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Place::default(),
            Err(error) => return Err(error),
        };
        let count = attr.count as usize;
        for (key, value) in self.keys.iter().zip(&self.values).take(count) {
            visit(key, value);
        }
        Ok(count)
    }
}

/// # Safety
///
/// The pointers of `attr` must lead to what the command expects.
unsafe fn call(command: libc::c_long, attr: &mut BatchAttr) -> io::Result<()> {
    let attr = std::ptr::from_mut(attr);
    // SAFETY: the attribute is a prefix of `union bpf_attr`, and the caller answers for its
    // pointers.
    match unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<BatchAttr>()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Writes entries into a hash map; those that are there under the same keys are replaced.
///
/// # Errors
///
/// What the kernel says: `E2BIG` if the map is full. Some of the entries may have been written.
pub(super) fn write_all<K: Pod, V: Pod>(
    map: &MapData,
    entries: impl IntoIterator<Item = (K, V)>,
) -> io::Result<()> {
    let (mut keys, mut values) = (Vec::with_capacity(BATCH), Vec::with_capacity(BATCH));
    let mut entries = entries.into_iter();
    loop {
        keys.clear();
        values.clear();
        for (key, value) in entries.by_ref().take(BATCH) {
            keys.push(key);
            values.push(value);
        }
        if keys.is_empty() {
            return Ok(());
        }
        let mut attr = BatchAttr {
            keys: keys.as_ptr() as u64,
            values: values.as_ptr() as u64,
            count: keys.len() as u32,
            map_fd: map.fd().as_fd().as_raw_fd() as u32,
            ..BatchAttr::zeroed()
        };
        // SAFETY: the pointers lead to `count` keys and values, which live through the call.
        unsafe { call(BPF_MAP_UPDATE_BATCH, &mut attr)? };
    }
}

/// Calls `visit` with every entry of a hash map. Entries that are added or removed at the same time
/// may or may not be included; none appears twice.
///
/// # Errors
///
/// What the kernel says.
pub(super) fn for_each<K: Pod, V: Pod>(
    map: &MapData,
    mut visit: impl FnMut(&K, &V),
) -> io::Result<()> {
    let mut reader = Reader::new(map.fd().as_fd().as_raw_fd());
    let mut place = Place::default();
    loop {
        reader.read(&mut place, &mut visit)?;
        if place == Place::default() {
            return Ok(());
        }
    }
}
