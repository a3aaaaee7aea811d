//! TCP connections from a port of one's own choice, which the standard library does not make.

use std::net::{SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::Host;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

/// How long connecting and reading may take: a SYN is sent again after 1 s and after 3 s.
const LIMIT_S: i64 = 6;

/// Connects by TCP from this port of `host`, also when an old connection still holds it.
///
/// # Errors
/// When there is no answer within 6 s.
pub fn connect_from(host: &Host, port: u16, to: SocketAddrV4) -> Result<TcpStream> {
    let made = host.enter(|| {
        let fd = socket(
            AddressFamily::Inet,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
        // For connecting as well, socket(7).
        setsockopt(&fd, sockopt::SendTimeout, &TimeVal::new(LIMIT_S, 0))?;
        bind(fd.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, port))?;
        connect(fd.as_raw_fd(), &SockaddrIn::from(to))?;
        Ok::<_, nix::Error>(TcpStream::from(fd))
    })?;
    let stream = made.with_context(|| format!("{} from port {port} to {to}", host.name()))?;
    stream
        .set_read_timeout(Some(Duration::from_secs(3)))
        .context("set a time limit")?;
    Ok(stream)
}
