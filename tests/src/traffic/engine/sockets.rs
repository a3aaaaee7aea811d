//! Sockets, whose they are, and whose turn it is.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, connect, setsockopt, socket, sockopt,
};

use crate::traffic::routes::Protocol;
use crate::traffic::session::Id;

/// Datagrams that are sent in one go: what a busy machine has kept from being sent follows in
/// portions that the queues hold.
const SENT_AT_ONCE: u32 = 48;
/// Packets that are overdue by more than this are skipped.
const MOST_DEBT: Duration = Duration::from_secs(3);

/// Whose descriptor is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Client(Id),
    ServerEnd(Id),
    UdpServer(u32),
    Listener(u32),
    Newcomer(u32),
}

impl Token {
    pub(super) fn encode(self) -> u64 {
        let of = |kind: u64, incarnation: u32, index: u32| {
            kind << 56 | u64::from(incarnation & 0xff_ffff) << 32 | u64::from(index)
        };
        match self {
            Self::Client(id) => of(0, id.incarnation, id.slot),
            Self::ServerEnd(id) => of(1, id.incarnation, id.slot),
            Self::UdpServer(n) => of(2, 0, n),
            Self::Listener(n) => of(3, 0, n),
            Self::Newcomer(n) => of(4, 0, n),
        }
    }

    pub(super) fn decode(code: u64) -> Self {
        let id = Id {
            slot: code as u32,
            incarnation: (code >> 32) as u32 & 0xff_ffff,
        };
        match code >> 56 {
            0 => Self::Client(id),
            1 => Self::ServerEnd(id),
            2 => Self::UdpServer(id.slot),
            3 => Self::Listener(id.slot),
            _ => Self::Newcomer(id.slot),
        }
    }
}

/// Slots that take turns in sending.
#[derive(Debug)]
pub(super) struct Round {
    slots: Vec<usize>,
    next: usize,
    due: Instant,
    interval: Duration,
}

impl Round {
    pub(super) fn new(slots: Vec<usize>, interval: Duration) -> Self {
        Self {
            slots,
            next: 0,
            due: Instant::now(),
            interval,
        }
    }

    /// The slots whose turn it is.
    pub(super) fn take(&mut self, now: Instant) -> Vec<usize> {
        let mut taken = Vec::new();
        if let Some(oldest) = now.checked_sub(MOST_DEBT) {
            self.due = self.due.max(oldest);
        }
        while self.due <= now && taken.len() < SENT_AT_ONCE as usize && !self.slots.is_empty() {
            taken.push(self.slots[self.next]);
            self.next = (self.next + 1) % self.slots.len();
            self.due += self.interval;
        }
        taken
    }
}

/// A client's socket.
pub(super) enum Opened {
    Udp(UdpSocket),
    Tcp(TcpStream),
}

/// Makes a client's socket, in the namespace that it is in.
pub(super) fn open((protocol, to): (Protocol, SocketAddrV4)) -> io::Result<(SocketAddrV4, Opened)> {
    if protocol == Protocol::Udp {
        let socket = UdpSocket::bind((IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0))?;
        socket.connect(to)?;
        socket.set_nonblocking(true)?;
        return Ok((to, Opened::Udp(socket)));
    }
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
    match connect(fd.as_raw_fd(), &SockaddrIn::from(to)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok((to, Opened::Tcp(TcpStream::from(fd)))),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn watch(epoll: &Epoll, what: impl AsFd, token: Token, flags: EpollFlags) -> Result<()> {
    let event = EpollEvent::new(flags, token.encode());
    epoll.add(what, event).context("watch a socket")
}
