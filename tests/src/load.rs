//! A steady stream of packets, to see whether anything is lost while something else happens.

use std::collections::BTreeSet;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::Host;
use lab::patience::patience;

/// One datagram in so many; few enough that the sockets' buffers hold them on a busy machine.
const PAUSE: Duration = Duration::from_millis(2);
/// How long the last answers may take.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// Numbered datagrams from a client to a server that sends them back, until [`Load::finish`].
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<Result<u32>>,
    server: JoinHandle<BTreeSet<SocketAddr>>,
    answers: JoinHandle<BTreeSet<u32>>,
}

impl Load {
    /// Starts sending from `client` to `to`, where `server` is expected to listen at `port`, and
    /// returns when the first answer has come.
    ///
    /// # Errors
    /// When a socket cannot be made, or nothing is answered.
    pub fn start(client: &Host, to: SocketAddrV4, server: &Host, port: u16) -> Result<Self> {
        let server = server.udp(&format!("0.0.0.0:{port}"))?;
        let client = client.udp("0.0.0.0:0")?;
        server.set_read_timeout(Some(PAUSE)).context("time limit")?;
        let stop = Arc::new(AtomicBool::new(false));
        let far = thread::spawn({
            let stop = Arc::clone(&stop);
            move || send_back(&server, &stop)
        });
        client
            .send_to(&u32::MAX.to_be_bytes(), to)
            .context("send")?;
        client
            .recv(&mut [0; 4])
            .context("no answer to the first packet")?;
        let near = client.try_clone().context("clone a socket")?;
        near.set_read_timeout(Some(PAUSE)).context("time limit")?;
        Ok(Self {
            answers: thread::spawn({
                let stop = Arc::clone(&stop);
                move || collect(&near, &stop)
            }),
            sender: thread::spawn({
                let stop = Arc::clone(&stop);
                move || send(&client, to, &stop)
            }),
            server: far,
            stop,
        })
    }

    /// Stops; everything that was sent must have been answered. Gives the only address by which
    /// the server has seen the client, and how many packets the client has sent.
    ///
    /// # Errors
    /// When something was lost, or the client was seen by several addresses.
    ///
    /// # Panics
    /// When one of the threads has.
    pub fn finish(self) -> Result<(SocketAddr, u32)> {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.join().expect("the sender does not panic")?;
        let answers = self.answers.join().expect("the receiver does not panic");
        let seen = self.server.join().expect("the server does not panic");
        let lost: Vec<u32> = (0..sent).filter(|n| !answers.contains(n)).collect();
        ensure!(sent > 0, "nothing was sent");
        ensure!(
            lost.is_empty(),
            "{} of {sent} packets were not answered, the first is {}",
            lost.len(),
            lost[0]
        );
        match seen.first() {
            // (One more, before it began.)
            Some(one) if seen.len() == 1 => Ok((*one, sent + 1)),
            _ => bail!("the client was seen as {seen:?}"),
        }
    }
}

fn send(client: &UdpSocket, to: SocketAddrV4, stop: &AtomicBool) -> Result<u32> {
    let mut number = 0_u32;
    while !stop.load(Ordering::Relaxed) {
        client.send_to(&number.to_be_bytes(), to).context("send")?;
        number += 1;
        thread::sleep(PAUSE);
    }
    Ok(number)
}

/// Answers until nothing has come for a while after the end.
fn send_back(server: &UdpSocket, stop: &AtomicBool) -> BTreeSet<SocketAddr> {
    let (mut peers, mut buffer) = (BTreeSet::new(), [0; 16]);
    let mut quiet = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) || quiet < patience(LAST_ANSWERS) {
        match server.recv_from(&mut buffer) {
            Ok((length, peer)) => {
                peers.insert(peer);
                quiet = Duration::ZERO;
                // What is not sent is counted as lost.
                let _ = server.send_to(&buffer[..length], peer);
            }
            Err(_) => quiet += PAUSE,
        }
    }
    peers
}

fn collect(client: &UdpSocket, stop: &AtomicBool) -> BTreeSet<u32> {
    let (mut numbers, mut buffer) = (BTreeSet::new(), [0; 4]);
    let mut quiet = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) || quiet < patience(LAST_ANSWERS) {
        match client.recv(&mut buffer) {
            Ok(_) => {
                numbers.insert(u32::from_be_bytes(buffer));
                quiet = Duration::ZERO;
            }
            Err(_) => quiet += PAUSE,
        }
    }
    numbers
}
