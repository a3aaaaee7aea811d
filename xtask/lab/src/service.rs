//! Servers for the lab's hosts, and the clients that go with them.

use std::fmt::Display;
use std::io::{ErrorKind, Read, Write};
use std::net::{AddrParseError, SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::Host;
use crate::patience::{PATIENCE, patience};

/// How soon a server sees that it shall stop, and how long a connection waits to be accepted.
const STOP_CHECK: Duration = Duration::from_millis(10);

/// A server on one of the hosts; ends when dropped.
#[derive(Debug)]
pub struct Service {
    stop: Arc<AtomicBool>,
    peers: Arc<Mutex<Vec<SocketAddr>>>,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    /// A web server that answers every request with a line that says who it is and whom it sees:
    /// `vm1 sees 198.51.100.2:40000`.
    ///
    /// # Errors
    /// When the address is not the host's or taken.
    pub fn http(host: &Host, address: &str) -> Result<Self> {
        let name = host.name().to_owned();
        Self::tcp(host, address, move |mut stream, peer| {
            let body = format!("{name} sees {peer}\n");
            let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/plain\r\n";
            read_until_blank_line(&mut stream)?;
            write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len())
        })
    }

    /// A server that sends back what it gets.
    ///
    /// # Errors
    /// When the address is not the host's or taken.
    pub fn tcp_echo(host: &Host, address: &str) -> Result<Self> {
        Self::tcp(host, address, |stream, _| {
            std::io::copy(&mut &stream, &mut &stream).map(drop)
        })
    }

    /// A server that passes each connection to `serve`, on a separate thread.
    ///
    /// # Errors
    /// When the address is not the host's or taken.
    pub fn tcp(
        host: &Host,
        address: &str,
        serve: impl Fn(TcpStream, SocketAddr) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Result<Self> {
        let listener = host.tcp_listen(address)?;
        listener
            .set_nonblocking(true)
            .context("listen without waiting")?;
        let serve = Arc::new(serve);
        Ok(Self::start(move |stop, peers| {
            accept_all(&listener, stop, peers, &serve);
        }))
    }

    /// A UDP server that sends back what it gets.
    ///
    /// # Errors
    /// When the address is not the host's or taken.
    pub fn udp_echo(host: &Host, address: &str) -> Result<Self> {
        Self::udp(host, address, |payload, _| payload.to_vec())
    }

    /// A UDP server that answers with the address and port that it sees the client at.
    ///
    /// # Errors
    /// When the address is not the host's or taken.
    pub fn udp_mirror(host: &Host, address: &str) -> Result<Self> {
        Self::udp(host, address, |_, peer| peer.to_string().into_bytes())
    }

    fn udp(
        host: &Host,
        address: &str,
        answer: impl Fn(&[u8], SocketAddr) -> Vec<u8> + Send + 'static,
    ) -> Result<Self> {
        let socket = host.udp(address)?;
        socket
            .set_read_timeout(Some(STOP_CHECK))
            .context("set a time limit")?;
        Ok(Self::start(move |stop, peers| {
            answer_all(&socket, stop, peers, answer);
        }))
    }

    fn start(work: impl FnOnce(&AtomicBool, &Mutex<Vec<SocketAddr>>) + Send + 'static) -> Self {
        let (stop, peers) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let thread = thread::spawn({
            let (stop, peers) = (stop.clone(), Arc::clone(&peers));
            move || work(&stop, &peers)
        });
        Self {
            stop,
            peers,
            thread: Some(thread),
        }
    }

    /// Who has connected or sent something, in order, as the server saw it.
    #[must_use]
    pub fn peers(&self) -> Vec<SocketAddr> {
        self.peers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn accept_all(
    listener: &TcpListener,
    stop: &AtomicBool,
    peers: &Mutex<Vec<SocketAddr>>,
    serve: &Arc<impl Fn(TcpStream, SocketAddr) -> std::io::Result<()> + Send + Sync + 'static>,
) {
    while !stop.load(Ordering::Relaxed) {
        let Ok((stream, peer)) = listener.accept() else {
            thread::sleep(STOP_CHECK);
            continue;
        };
        peers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(peer);
        let serve = Arc::clone(serve);
        thread::spawn(move || {
            // A client that goes away is its own affair; one that says nothing is left.
            let _ = stream.set_nonblocking(false);
            let _ = stream.set_read_timeout(Some(2 * patience(PATIENCE)));
            let _ = serve(stream, peer);
        });
    }
}

fn answer_all(
    socket: &UdpSocket,
    stop: &AtomicBool,
    peers: &Mutex<Vec<SocketAddr>>,
    answer: impl Fn(&[u8], SocketAddr) -> Vec<u8>,
) {
    let mut buffer = vec![0; 1 << 16];
    while !stop.load(Ordering::Relaxed) {
        // An error is the time limit, or an ICMP error about an answer: neither ends a server.
        if let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            peers
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(peer);
            let _ = socket.send_to(&answer(&buffer[..length], peer), peer);
        }
    }
}

fn read_until_blank_line(stream: &mut TcpStream) -> std::io::Result<()> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        head.push(byte[0]);
    }
    Ok(())
}

/// Requests a web server's page and returns its text.
///
/// # Errors
/// When there is no answer, or not with 200.
pub fn http_get(host: &Host, to: impl Into<SocketAddr>) -> Result<String> {
    let to = to.into();
    let mut stream = host.tcp(to)?;
    write!(
        stream,
        "GET / HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .with_context(|| format!("answer of http://{to}/"))?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body.trim().to_owned()),
        _ => bail!("http://{to}/ answered {answer:?}"),
    }
}

/// Asks a [`Service::udp_mirror`] where it sees this host's socket.
///
/// # Errors
/// When there is no answer within 3 s, or another host answers.
pub fn seen_at<A>(socket: &UdpSocket, mirror: A) -> Result<A>
where
    A: Into<SocketAddr> + ToSocketAddrs + FromStr<Err = AddrParseError> + Copy + Display,
{
    socket
        .send_to(b"where am I?", mirror)
        .with_context(|| format!("send to {mirror}"))?;
    let mut buffer = [0; 64];
    let (length, from) = socket
        .recv_from(&mut buffer)
        .with_context(|| format!("no answer from {mirror}"))?;
    if from != mirror.into() {
        bail!("asked {mirror}, answered by {from}");
    }
    let text = std::str::from_utf8(&buffer[..length]).context("answer of a mirror")?;
    text.parse()
        .with_context(|| format!("answer of a mirror: {text}"))
}
