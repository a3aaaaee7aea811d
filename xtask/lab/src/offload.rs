//! What `ethtool -K` and `ip link show` do, without either: an interface's offloads and address.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// An offload of a network interface that can be switched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offload {
    /// Checksums of sent packets are left to the device: packets keep unfinished ones.
    Checksum,
    /// Sending from several pieces of memory, which segmentation needs.
    ScatterGather,
    /// TCP segmentation by the device.
    Tso,
    /// Segmentation by the kernel, as late as possible.
    Gso,
    /// Merging of received packets. Makes a veth use NAPI.
    Gro,
}

impl Offload {
    /// The kernel's `ETHTOOL_S…` command (uapi/linux/ethtool.h).
    fn command(self) -> u32 {
        match self {
            Self::Checksum => 0x17,
            Self::ScatterGather => 0x19,
            Self::Tso => 0x1f,
            Self::Gso => 0x24,
            Self::Gro => 0x2c,
        }
    }
}

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// To be called in the host's namespace.
pub(crate) fn set(interface: &str, offload: Offload, on: bool) -> io::Result<()> {
    let mut value = Value {
        command: offload.command(),
        data: u32::from(on),
    };
    let mut request = request(interface)?;
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: SIOCETHTOOL reads the ethtool_value that ifr_data points at; both are alive.
    unsafe { ioctl(libc::SIOCETHTOOL, &mut request) }
}

/// To be called in the host's namespace.
pub(crate) fn hardware_address(interface: &str) -> io::Result<[u8; 6]> {
    let mut request = request(interface)?;
    // SAFETY: SIOCGIFHWADDR only writes into the request.
    unsafe { ioctl(libc::SIOCGIFHWADDR, &mut request)? };
    // SAFETY: after SIOCGIFHWADDR the union holds a sockaddr.
    let data = unsafe { request.ifr_ifru.ifru_hwaddr.sa_data };
    let mut address = [0; 6];
    for (to, from) in address.iter_mut().zip(data) {
        *to = from.cast_unsigned();
    }
    Ok(address)
}

fn request(interface: &str) -> io::Result<libc::ifreq> {
    // SAFETY: an ifreq is plain C data for which zero is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // One byte stays for the NUL.
    if interface.len() >= request.ifr_name.len() {
        return Err(io::Error::other(format!(
            "{interface}: too long for an interface"
        )));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    Ok(request)
}

/// # Safety
/// What `request` points at must fit `command`.
unsafe fn ioctl(command: libc::c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: no pointers are passed.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just created and has no other owner.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: `request` is alive; the rest is the caller's promise.
    match unsafe { libc::ioctl(fd.as_raw_fd(), command, std::ptr::from_mut(request)) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
