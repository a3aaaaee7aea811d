//! Foreign BPF programs on a host: they count the packets that they see.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use lab::Host;

/// A program at a hook of an interface. It leaves with the value.
#[derive(Debug)]
pub struct ForeignProgram {
    counter: OwnedFd,
    program: OwnedFd,
    _link: Option<OwnedFd>,
}

/// Where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Traffic control, after all that are there.
    TcIngress,
    /// Traffic control, before all that are there.
    TcIngressFirst,
    /// Traffic control, packets that leave, after all that are there.
    TcEgress,
    /// XDP in the driver.
    Xdp,
}

/// What a program says of each packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The next program is to see it.
    Next,
    /// It passes, and no other program of the hook sees it.
    Pass,
}

// `enum bpf_cmd`, `bpf_prog_type`, `bpf_attach_type` and flags of `linux/bpf.h`.
const MAP_CREATE: libc::c_long = 0;
const MAP_LOOKUP_ELEM: libc::c_long = 1;
const PROG_LOAD: libc::c_long = 5;
const OBJ_PIN: libc::c_long = 6;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const LINK_CREATE: libc::c_long = 28;
const MAP_TYPE_ARRAY: u32 = 2;
pub(crate) const PROG_TYPE_SCHED_CLS: u32 = 3;
const PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;
const BPF_F_BEFORE: u32 = 1 << 3;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
const XDP_PASS: i32 = 2;
pub(crate) const TC_ACT_UNSPEC: i32 = -1;
const TC_ACT_OK: i32 = 0;

/// The beginnings of `union bpf_attr`; omitted fields are 0.
#[repr(C)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

#[repr(C)]
struct MapLookup {
    map: u32,
    _padding: u32,
    key: *const u32,
    value: *mut u8,
    flags: u64,
}

#[repr(C)]
struct ProgramLoad {
    kind: u32,
    length: u32,
    instructions: *const u64,
    license: *const libc::c_char,
    log_level: u32,
    log_size: u32,
    log: *const u8,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

#[repr(C)]
struct ObjectPin {
    path: *const libc::c_char,
    fd: u32,
    flags: u32,
}

#[repr(C)]
struct InfoByFd {
    fd: u32,
    length: u32,
    info: *mut [u32; 2],
}

#[repr(C)]
struct LinkCreate {
    program: u32,
    interface: u32,
    attach_type: u32,
    flags: u32,
}

impl ForeignProgram {
    /// Attaches a program of this name (15 bytes at the most) to an interface of a host.
    ///
    /// # Errors
    /// When there is no such interface, or the kernel refuses.
    pub fn attach(
        host: &Host,
        interface: &str,
        hook: Hook,
        name: &str,
        verdict: Verdict,
    ) -> Result<Self> {
        let counter = array_of(size_of::<u64>())?;
        let program = program(&counter, hook, name, verdict)?;
        let link = link(&program, host, interface, hook)
            .with_context(|| format!("attach {name} to {interface}"))?;
        Ok(Self {
            counter,
            program,
            _link: Some(link),
        })
    }

    /// Makes a program for traffic control that is attached to nothing, and pins it on a bpffs, for
    /// a tool that attaches it from there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn pinned(path: &Path, name: &str) -> Result<Self> {
        let counter = array_of(size_of::<u64>())?;
        let program = program(&counter, Hook::TcIngress, name, Verdict::Next)?;
        let path_bytes = CString::new(path.as_os_str().as_bytes())?;
        let pin = ObjectPin {
            path: path_bytes.as_ptr(),
            fd: number(&program)?,
            flags: 0,
        };
        bpf(OBJ_PIN, &pin).with_context(|| format!("pin {}", path.display()))?;
        Ok(Self {
            counter,
            program,
            _link: None,
        })
    }

    /// How many packets it has seen.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn seen(&self) -> Result<u64> {
        let [value] = read(&self.counter)?;
        Ok(value)
    }

    /// Its number, as `bpftool prog` shows it.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn id(&self) -> Result<u32> {
        // The beginning of `struct bpf_prog_info`: its type and its number.
        let mut info = [0; 2];
        let ask = InfoByFd {
            fd: number(&self.program)?,
            length: 8,
            info: &mut info,
        };
        bpf(OBJ_GET_INFO_BY_FD, &ask).context("ask for a program's number")?;
        Ok(info[1])
    }
}

/// Makes a map with one value of so many bytes.
pub(crate) fn array_of(bytes: usize) -> Result<OwnedFd> {
    let create = MapCreate {
        kind: MAP_TYPE_ARRAY,
        key_size: 4,
        value_size: u32::try_from(bytes)?,
        max_entries: 1,
    };
    owned(bpf(MAP_CREATE, &create).context("make a map")?)
}

/// The value of a map that has one, of so many words.
pub(crate) fn read<const N: usize>(map: &OwnedFd) -> Result<[u64; N]> {
    let mut value = [0; N];
    let lookup = MapLookup {
        map: number(map)?,
        _padding: 0,
        key: &0,
        value: value.as_mut_ptr().cast(),
        flags: 0,
    };
    bpf(MAP_LOOKUP_ELEM, &lookup).context("read a map")?;
    Ok(value)
}

/// Attaches a program to an interface of a host, until the link is closed.
pub(crate) fn link(program: &OwnedFd, host: &Host, interface: &str, hook: Hook) -> Result<OwnedFd> {
    let (attach_type, flags) = match hook {
        Hook::TcIngress => (BPF_TCX_INGRESS, 0),
        Hook::TcIngressFirst => (BPF_TCX_INGRESS, BPF_F_BEFORE),
        Hook::TcEgress => (BPF_TCX_EGRESS, 0),
        Hook::Xdp => (BPF_XDP, XDP_FLAGS_DRV_MODE),
    };
    let create = LinkCreate {
        program: number(program)?,
        interface: host.index(interface)?,
        attach_type,
        flags,
    };
    // The index is one of the host's namespace.
    owned(host.enter(|| bpf(LINK_CREATE, &create))??)
}

fn program(counter: &OwnedFd, hook: Hook, name: &str, verdict: Verdict) -> Result<OwnedFd> {
    let (kind, next, pass) = match hook {
        Hook::Xdp => (PROG_TYPE_XDP, XDP_PASS, XDP_PASS),
        _ => (PROG_TYPE_SCHED_CLS, TC_ACT_UNSPEC, TC_ACT_OK),
    };
    let verdict = match verdict {
        Verdict::Next => next,
        Verdict::Pass => pass,
    };
    let immediate = |value: u32| u64::from(value) << 32;
    let instructions = [
        // r1 = address of the counter, of two instructions (BPF_PSEUDO_MAP_VALUE)
        0x2118 | immediate(number(counter)?),
        0,
        // r2 = 1
        0x02b7 | immediate(1),
        // lock *(u64 *)(r1 + 0) += r2
        0x21db,
        // r0 = verdict
        0x00b7 | immediate(verdict.cast_unsigned()),
        // exit
        0x0095,
    ];
    load(kind, name, &instructions)
}

/// Loads a program of this kind and name.
pub(crate) fn load(kind: u32, name: &str, instructions: &[u64]) -> Result<OwnedFd> {
    ensure!(name.len() < 16, "{name} is longer than 15 bytes");
    let mut name_bytes = [0; 16];
    name_bytes[..name.len()].copy_from_slice(name.as_bytes());
    let license = CString::new("MIT")?;
    let load = ProgramLoad {
        kind,
        length: u32::try_from(instructions.len())?,
        instructions: instructions.as_ptr(),
        license: license.as_ptr(),
        log_level: 0,
        log_size: 0,
        log: std::ptr::null(),
        kernel_version: 0,
        flags: 0,
        name: name_bytes,
    };
    owned(bpf(PROG_LOAD, &load).with_context(|| format!("load {name}"))?)
}

pub(crate) fn number(fd: &OwnedFd) -> Result<u32> {
    Ok(fd.as_raw_fd().try_into()?)
}

/// `bpf(2)` with the beginning of its attributes.
fn bpf<A>(command: libc::c_long, attributes: &A) -> io::Result<i32> {
    // SAFETY: the attributes are as long as said; what they point to is alive in the caller and as
    // large as the command says.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<A>(),
        )
    };
    match i32::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

fn owned(fd: i32) -> Result<OwnedFd> {
    ensure!(fd >= 0, "no file descriptor");
    // SAFETY: the kernel has just created it, and it has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
