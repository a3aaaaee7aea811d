//! Large transfers, compared byte by byte through their hashes.

use std::hash::{DefaultHasher, Hasher};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::Host;
use lab::patience::patience;

use crate::Endpoint;

/// Far longer than 100 MB take on a busy machine.
const STALL_LIMIT: Duration = Duration::from_secs(20);
const PIECE: usize = 1 << 16;

/// Which end of a connection sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The one that connects.
    Client,
    /// The one that listens.
    Server,
}

/// Connects `client` to `to`, where `server` is expected to listen at `port`, and sends `bytes`
/// in one direction. Gives the client as the server saw it.
///
/// # Errors
/// When the connection fails or stalls, or when other bytes arrive than were sent.
pub fn transfer<A: Endpoint>(
    client: &Host,
    to: A,
    server: &Host,
    port: u16,
    sender: Sender,
    bytes: usize,
) -> Result<A> {
    let everywhere = match to.into() {
        SocketAddr::V4(_) => "0.0.0.0",
        SocketAddr::V6(_) => "[::]",
    };
    let listener = server.tcp_listen(&format!("{everywhere}:{port}"))?;
    let near = client.tcp(to)?;
    let (far, peer) = accept(&listener)?;
    let peer = A::of(peer).with_context(|| format!("connected from {peer}"))?;
    for stream in [&near, &far] {
        stream
            .set_read_timeout(Some(patience(STALL_LIMIT)))
            .context("set a time limit")?;
        stream
            .set_write_timeout(Some(patience(STALL_LIMIT)))
            .context("set a time limit")?;
    }
    let (source, sink) = match sender {
        Sender::Client => (near, far),
        Sender::Server => (far, near),
    };
    let sending = thread::spawn(move || send(source, bytes));
    let received = receive(sink);
    let sent = sending
        .join()
        .expect("the sender does not panic")
        .context("send")?;
    let (length, hash) = received.context("receive")?;
    ensure!(length == bytes, "{length} of {bytes} bytes arrived");
    ensure!(hash == sent, "other bytes arrived than were sent");
    Ok(peer)
}

/// Accepts a connection that has been made already.
fn accept(listener: &TcpListener) -> Result<(TcpStream, SocketAddr)> {
    listener
        .set_nonblocking(true)
        .context("listen without waiting")?;
    for _ in 0..300 {
        match listener.accept() {
            Ok((stream, peer)) => {
                stream.set_nonblocking(false).context("wait for data")?;
                return Ok((stream, peer));
            }
            _ => thread::sleep(Duration::from_millis(10)),
        }
    }
    anyhow::bail!(
        "the connection ended somewhere else than at {:?}",
        listener.local_addr()
    )
}

fn send(mut stream: TcpStream, bytes: usize) -> std::io::Result<u64> {
    let (mut hasher, mut state) = (DefaultHasher::new(), 0x9e37_79b9_7f4a_7c15_u64);
    let mut piece = vec![0; PIECE];
    let mut left = bytes;
    while left > 0 {
        for word in piece.chunks_exact_mut(8) {
            // Xorshift: no two pieces are the same, so that none can stand for another.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_ne_bytes());
        }
        let part = &piece[..left.min(PIECE)];
        hasher.write(part);
        stream.write_all(part)?;
        left -= part.len();
    }
    Ok(hasher.finish())
}

fn receive(mut stream: TcpStream) -> std::io::Result<(usize, u64)> {
    let (mut hasher, mut length) = (DefaultHasher::new(), 0);
    let mut piece = vec![0; PIECE];
    loop {
        match stream.read(&mut piece)? {
            0 => return Ok((length, hasher.finish())),
            got => {
                hasher.write(&piece[..got]);
                length += got;
            }
        }
    }
}
