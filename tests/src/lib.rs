//! What natbpf's tests have in common: packets made by hand, the wire watched for what must never
//! be on it, bulk transfers, and the kernel's own NAT as an oracle for the tests themselves.
//!
//! Nothing in here shares code with natbpf: a fault there must not look right here.

pub mod bulk;
mod connect;
pub mod following;
pub mod foreign_program;
pub mod kernel_sum;
mod load;
mod nat;
mod oracle;
pub mod order;
pub mod owners;
pub mod snapshot;
pub mod traffic;
mod watch;

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};

use anyhow::{Context, Result, ensure};

pub use connect::connect_from;
pub use load::Load;
pub use nat::Nat;
pub use watch::Watch;

/// An address of either family with a port.
pub trait Endpoint: Into<SocketAddr> + Copy + PartialEq + fmt::Display {
    /// The address, if it is of this family.
    fn of(address: SocketAddr) -> Option<Self>;
}

impl Endpoint for SocketAddr {
    fn of(address: SocketAddr) -> Option<Self> {
        Some(address)
    }
}

impl Endpoint for SocketAddrV4 {
    fn of(address: SocketAddr) -> Option<Self> {
        match address {
            SocketAddr::V4(address) => Some(address),
            SocketAddr::V6(_) => None,
        }
    }
}

impl Endpoint for SocketAddrV6 {
    fn of(address: SocketAddr) -> Option<Self> {
        match address {
            SocketAddr::V4(_) => None,
            SocketAddr::V6(address) => Some(address),
        }
    }
}

/// An IPv6 address with a port.
#[must_use]
pub fn at6(address: Ipv6Addr, port: u16) -> SocketAddrV6 {
    SocketAddrV6::new(address, port, 0, 0)
}

/// An address with a port.
#[must_use]
pub fn at(address: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(address, port)
}

/// Sends a datagram that must arrive at `server` unchanged; returns the source that it shows there.
///
/// # Errors
/// When nothing arrives within 3 s, or something else.
pub fn deliver<A: Endpoint>(
    client: &UdpSocket,
    to: A,
    server: &UdpSocket,
    payload: &[u8],
) -> Result<A> {
    client
        .send_to(payload, to.into())
        .with_context(|| format!("send to {to}"))?;
    let mut buffer = [0; 2048];
    let (length, from) = server
        .recv_from(&mut buffer)
        .with_context(|| format!("nothing sent to {to} arrived"))?;
    ensure!(
        buffer[..length] == *payload,
        "{length} other bytes arrived than were sent to {to}"
    );
    A::of(from).with_context(|| format!("arrived from {from}"))
}

/// Sends a datagram to `server`, which answers where it came from: both must arrive as they are,
/// the answer from where the question went. Gives the client's address as the server saw it.
///
/// # Errors
/// When one of the two does not arrive as it should.
pub fn exchange<A: Endpoint>(
    client: &UdpSocket,
    to: A,
    server: &UdpSocket,
    payload: &[u8],
) -> Result<A> {
    let seen = deliver(client, to, server, payload)?;
    let answer: Vec<u8> = payload.iter().rev().copied().collect();
    let from = deliver(server, seen, client, &answer).context("the answer")?;
    ensure!(from == to, "sent to {to}, answered from {from}");
    Ok(seen)
}

/// Whether anything arrives at a socket in half a second, for what must not.
///
/// # Errors
/// When the time limit cannot be set.
pub fn hears(socket: &UdpSocket) -> Result<Option<(Vec<u8>, SocketAddr)>> {
    let usual = socket.read_timeout().context("time limit")?;
    socket
        .set_read_timeout(Some(std::time::Duration::from_millis(500)))
        .context("time limit")?;
    let mut buffer = [0; 2048];
    let heard = socket.recv_from(&mut buffer).ok();
    socket.set_read_timeout(usual).context("time limit")?;
    Ok(heard.map(|(length, from)| (buffer[..length].to_vec(), from)))
}
