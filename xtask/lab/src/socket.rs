//! Packet sockets: the only place that speaks AF_PACKET.

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use crate::frame::Frame;

/// Room for what a capture has not yet read: a second of a fast stream.
const RECEIVE_BUFFER: libc::c_int = 64 << 20;
/// The socket option for virtio headers (`linux/if_packet.h`).
const PACKET_VNET_HDR: libc::c_int = 15;
/// A GSO packet with its headers.
const LARGEST_FRAME: usize = 66 << 10;

/// A packet socket on one interface.
#[derive(Debug)]
pub struct RawSocket {
    fd: OwnedFd,
    interface: String,
}

impl RawSocket {
    /// A socket that only sends. To be called in the host's namespace.
    pub(crate) fn sending(interface: &str) -> Result<Self> {
        // Protocol 0 receives nothing.
        Self::open(interface, 0)
    }

    /// A socket that receives every frame. To be called in the host's namespace.
    pub(crate) fn receiving(interface: &str) -> Result<Self> {
        let protocol = u16::try_from(libc::ETH_P_ALL).context("ETH_P_ALL")?;
        let socket = Self::open(interface, protocol)?;
        socket.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &RECEIVE_BUFFER)?;
        socket.set(libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, &1)?;
        socket.set(libc::SOL_PACKET, libc::PACKET_AUXDATA, &1)?;
        let membership = libc::packet_mreq {
            mr_ifindex: index(interface)?,
            mr_type: u16::try_from(libc::PACKET_MR_PROMISC).context("PACKET_MR_PROMISC")?,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        socket.set(libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &membership)?;
        Ok(socket)
    }

    fn open(interface: &str, protocol: u16) -> Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: no pointers are passed. Protocol 0: nothing is received before the bind.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error()).context("packet socket");
        }
        // SAFETY: the descriptor was just created and has no other owner.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let address = libc::sockaddr_ll {
            sll_family: u16::try_from(libc::AF_PACKET).context("AF_PACKET")?,
            sll_protocol: protocol.to_be(),
            sll_ifindex: index(interface)?,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        // SAFETY: `address` is a sockaddr_ll of the length given and outlives the call.
        let done = unsafe {
            libc::bind(
                fd.as_raw_fd(),
                (&raw const address).cast(),
                length_of(&address),
            )
        };
        if done < 0 {
            return Err(io::Error::last_os_error()).context(format!("bind to {interface}"));
        }
        Ok(Self {
            fd,
            interface: interface.to_owned(),
        })
    }

    fn set<T>(&self, level: libc::c_int, option: libc::c_int, value: &T) -> Result<()> {
        let value = std::ptr::from_ref(value);
        let length = libc::socklen_t::try_from(size_of::<T>()).context("option length")?;
        // SAFETY: `value` points at a live T of the length given; the kernel only reads it.
        let done =
            unsafe { libc::setsockopt(self.fd.as_raw_fd(), level, option, value.cast(), length) };
        if done < 0 {
            return Err(io::Error::last_os_error()).context(format!("socket option {option}"));
        }
        Ok(())
    }

    /// Makes the kernel drop packets for this socket for which the classic BPF program returns 0.
    /// Earlier packets can still be read.
    ///
    /// # Errors
    /// When the kernel refuses the program.
    pub fn keep_only(&self, program: &[libc::sock_filter]) -> Result<()> {
        let filter = libc::sock_fprog {
            len: u16::try_from(program.len()).context("instructions")?,
            // The kernel copies the program and does not write to it.
            filter: program.as_ptr().cast_mut(),
        };
        self.set(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &filter)
    }

    /// From now on each frame that is sent begins with a virtio header of ten bytes (`struct
    /// virtio_net_hdr`), as QEMU hands a guest's frames to a tap.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn set_virtio_header(&self) -> Result<()> {
        self.set(libc::SOL_PACKET, PACKET_VNET_HDR, &1)
    }

    /// Sends a frame on the interface unchanged, from the link layer up (from the IP header up on
    /// an interface without one).
    ///
    /// # Errors
    /// When the interface is down or the frame larger than it takes.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        // SAFETY: the pointer and length are those of a live slice, which is only read.
        let sent =
            unsafe { libc::send(self.fd.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if sent < 0 {
            let error = io::Error::last_os_error();
            return Err(error).context(format!("{} bytes out of {}", frame.len(), self.interface));
        }
        Ok(())
    }

    /// Waits until there is something to read, no longer than `limit`.
    pub fn wait(&self, limit: Duration) {
        let mut entry = libc::pollfd {
            fd: self.fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let limit_ms = libc::c_int::try_from(limit.as_millis()).unwrap_or(libc::c_int::MAX);
        // SAFETY: `entry` is one live pollfd. A failure is the same as nothing to read.
        unsafe { libc::poll(&raw mut entry, 1, limit_ms) };
    }

    /// The next frame, or `None` when there is none now; always `None` on a socket that only
    /// sends.
    ///
    /// # Errors
    /// When the interface is gone or down.
    pub fn receive(&self) -> io::Result<Option<Frame>> {
        let mut bytes = vec![0_u8; LARGEST_FRAME];
        let mut control = [0_u64; 16];
        // SAFETY: all of these are plain C structures for which zero is a valid value.
        let (mut from, mut message): (libc::sockaddr_ll, libc::msghdr) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        let mut part = libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: bytes.len(),
        };
        message.msg_name = (&raw mut from).cast();
        message.msg_namelen = length_of(&from);
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control) as _;
        // SAFETY: `message` points at live buffers with their lengths; they are written only
        // within those.
        let got = unsafe { libc::recvmsg(self.fd.as_raw_fd(), &raw mut message, 0) };
        let Ok(length) = usize::try_from(got) else {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::WouldBlock {
                Ok(None)
            } else {
                Err(error)
            };
        };
        bytes.truncate(length);
        bytes.shrink_to_fit();
        let mut frame = Frame {
            at: SystemTime::now(),
            outgoing: from.sll_pkttype == libc::PACKET_OUTGOING,
            has_ethernet: from.sll_hatype == libc::ARPHRD_ETHER
                || from.sll_hatype == libc::ARPHRD_LOOPBACK,
            vlan: None,
            checksum_pending: false,
            bytes,
        };
        read_control(&message, &mut frame);
        Ok(Some(frame))
    }
}

/// Takes the time stamp and the auxiliary data of a received message over into `frame`.
fn read_control(message: &libc::msghdr, frame: &mut Frame) {
    // SAFETY: the kernel has filled the control buffer of `message`, and CMSG_FIRSTHDR and
    // CMSG_NXTHDR stay within it; the data may be unaligned, hence read_unaligned, and its type
    // is the one that level and type say.
    unsafe {
        let mut entry = libc::CMSG_FIRSTHDR(message);
        while !entry.is_null() {
            let data = libc::CMSG_DATA(entry);
            match ((*entry).cmsg_level, (*entry).cmsg_type) {
                (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                    let time: libc::timespec = data.cast::<libc::timespec>().read_unaligned();
                    if let (Ok(s), Ok(ns)) = (time.tv_sec.try_into(), time.tv_nsec.try_into()) {
                        frame.at = UNIX_EPOCH + Duration::new(s, ns);
                    }
                }
                (libc::SOL_PACKET, libc::PACKET_AUXDATA) => {
                    let aux = data.cast::<libc::tpacket_auxdata>().read_unaligned();
                    frame.checksum_pending = aux.tp_status & libc::TP_STATUS_CSUMNOTREADY != 0;
                    if aux.tp_status & libc::TP_STATUS_VLAN_VALID != 0 {
                        frame.vlan = Some(aux.tp_vlan_tci & 0x0fff);
                    }
                }
                _ => {}
            }
            entry = libc::CMSG_NXTHDR(message, entry);
        }
    }
}

fn index(interface: &str) -> Result<libc::c_int> {
    let name = CString::new(interface).context("interface name")?;
    // SAFETY: `name` is a live NUL-terminated string.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(io::Error::last_os_error()).context(format!("interface {interface}"));
    }
    libc::c_int::try_from(index).context("interface index")
}

/// The length of a socket address: a few bytes, whatever the type.
fn length_of<T>(_address: &T) -> libc::socklen_t {
    size_of::<T>() as libc::socklen_t
}
