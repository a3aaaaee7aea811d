//! Sockets for whole frames on an interface's link.

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd},
};

/// A socket in the calling thread's network namespace, which receives nothing before it is bound.
/// Needs CAP_NET_RAW.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn open() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no pointers are passed. Protocol 0: nothing is received.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just created and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// An interface's link, for frames of a protocol (`ETH_P_…`).
pub(super) fn address(ifindex: u32, protocol: i32) -> libc::sockaddr_ll {
    libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (protocol as u16).to_be(),
        sll_ifindex: ifindex.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    }
}
