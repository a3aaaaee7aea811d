//! One session's two ends, and what has gone between them.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Instant;

use super::pattern::{fill, mix, right};
use super::routes::Protocol;

/// "natb": foreign packets are not checked.
const MAGIC: u32 = 0x6e61_7462;
/// Magic, slot, incarnation, direction, number.
const HEADER: usize = 21;
const SHORTEST: usize = 48;
const LONGEST: usize = 400;
/// What opens a connection: magic, slot, incarnation.
pub(super) const GREETING: usize = 12;
/// Small enough for one segment, so that packets can be counted.
const LONGEST_CHUNK: u64 = 1200;

/// Both ends of a session as natbpf names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Its protocol.
    pub protocol: Protocol,
    /// The guest's end.
    pub internal: SocketAddrV4,
    /// The same, as the outside sees it.
    pub external: SocketAddrV4,
    /// The end outside.
    pub remote: SocketAddrV4,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            protocol,
            internal,
            external,
            remote,
        } = self;
        write!(f, "{protocol:?} {internal} by {external} with {remote}")
    }
}

/// Which session something belongs to: a slot's sessions follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Id {
    pub(super) slot: u32,
    pub(super) incarnation: u32,
}

impl Id {
    /// What the bytes of this session in one direction follow from.
    pub(super) fn pattern(self, answer: bool) -> u64 {
        let id = u64::from(self.slot) << 32 | u64::from(self.incarnation);
        mix(id) ^ u64::from(answer)
    }

    pub(super) fn greeting(self) -> [u8; GREETING] {
        let mut bytes = [0; GREETING];
        bytes[..4].copy_from_slice(&MAGIC.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.slot.to_be_bytes());
        bytes[8..].copy_from_slice(&self.incarnation.to_be_bytes());
        bytes
    }

    pub(super) fn greeted(bytes: &[u8; GREETING]) -> Option<Self> {
        let word = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|n| bytes[at + n]));
        (word(0) == MAGIC).then(|| Self {
            slot: word(4),
            incarnation: word(8),
        })
    }
}

/// A datagram's contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Datagram {
    pub(super) id: Id,
    pub(super) answer: bool,
    pub(super) number: u64,
}

impl Datagram {
    /// Writes it, and returns its length, which follows from its number.
    pub(super) fn write(self, buffer: &mut [u8; LONGEST]) -> usize {
        buffer[..GREETING].copy_from_slice(&self.id.greeting());
        buffer[GREETING] = u8::from(self.answer);
        buffer[GREETING + 1..HEADER].copy_from_slice(&self.number.to_be_bytes());
        let length = self.length();
        fill(self.key(), self.number, &mut buffer[HEADER..length]);
        length
    }

    /// Reads one; the error says what is wrong with it.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let short = || format!("a datagram of {} bytes that nobody has sent", bytes.len());
        let (head, rest) = bytes.split_at_checked(HEADER).ok_or_else(short)?;
        let greeting = head.first_chunk().and_then(Id::greeted).ok_or_else(short)?;
        let mut number = [0; 8];
        number.copy_from_slice(&head[GREETING + 1..]);
        let read = Self {
            id: greeting,
            answer: head[GREETING] != 0,
            number: u64::from_be_bytes(number),
        };
        let (length, count) = (read.length(), bytes.len());
        let good = right(read.key(), read.number, rest);
        match () {
            () if count != length => Err(format!("{count} bytes instead of {length}")),
            () if good != rest.len() => Err(format!("byte {} is wrong", HEADER + good)),
            () => Ok(read),
        }
    }

    fn key(self) -> u64 {
        self.id.pattern(self.answer)
    }

    fn length(self) -> usize {
        SHORTEST + (mix(self.key() ^ self.number) % (LONGEST - SHORTEST) as u64) as usize
    }

    pub(super) const BUFFER: [u8; LONGEST] = [0; LONGEST];
}

/// A datagram on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) number: u64,
    pub(super) at: Instant,
    /// When the server has sent it back.
    pub(super) answered: Option<Instant>,
}

/// A client that sends datagrams; its server is shared with others.
#[derive(Debug)]
pub(super) struct Udp {
    pub(super) socket: UdpSocket,
    /// How many it has sent; they are numbered from 0.
    pub(super) sent: u64,
    /// Those without an answer.
    pub(super) unanswered: VecDeque<Sent>,
    /// The number that comes next at the server, if none is lost.
    pub(super) next_at_server: u64,
    pub(super) answers: u64,
}

/// The way of bytes from one end of a connection to the other.
#[derive(Debug, Default)]
pub(super) struct Stream {
    key: u64,
    pub(super) written: u64,
    pub(super) read: u64,
    /// When something was last written or read.
    pub(super) moved: Option<Instant>,
}

/// Both ends of a connection.
#[derive(Debug)]
pub(super) struct Tcp {
    pub(super) client: TcpStream,
    pub(super) server: Option<TcpStream>,
    pub(super) greeted: bool,
    /// From client to server, and back.
    pub(super) streams: [Stream; 2],
}

impl Tcp {
    pub(super) fn new(client: TcpStream, id: Id) -> Self {
        let streams = [false, true].map(|answer| Stream {
            key: id.pattern(answer),
            ..Stream::default()
        });
        Self {
            client,
            server: None,
            greeted: false,
            streams,
        }
    }

    fn end(&self, of_server: bool) -> Option<&TcpStream> {
        match of_server {
            false => Some(&self.client),
            true => self.server.as_ref(),
        }
    }

    /// Sends something from one end, unless what it has sent before is still on its way.
    pub(super) fn send(&mut self, from_server: bool, now: Instant) -> io::Result<()> {
        let stream = &self.streams[usize::from(from_server)];
        if stream.read != stream.written || self.server.is_none() {
            return Ok(());
        }
        let length = 1 + mix(stream.key ^ stream.written) % LONGEST_CHUNK;
        let mut chunk = vec![0; length as usize];
        fill(stream.key, stream.written, &mut chunk);
        let Some(mut end) = self.end(from_server) else {
            return Ok(());
        };
        let written = match end.write(&chunk) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            result => result?,
        };
        let stream = &mut self.streams[usize::from(from_server)];
        stream.written += written as u64;
        stream.moved = Some(now);
        Ok(())
    }

    /// Reads everything that has arrived at one end; returns how much, and what is wrong with it.
    pub(super) fn receive(&mut self, at_server: bool, now: Instant) -> Result<u64, String> {
        let mut buffer = [0; 4096];
        let mut all = 0;
        loop {
            let Some(mut end) = self.end(at_server) else {
                return Ok(all);
            };
            let length = match end.read(&mut buffer) {
                Ok(0) => return Err("the other end has closed".to_owned()),
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(all),
                Err(error) => return Err(error.to_string()),
            };
            let stream = &mut self.streams[usize::from(!at_server)];
            let good = right(stream.key, stream.read, &buffer[..length]);
            if good != length {
                return Err(format!("byte {} is wrong", stream.read + good as u64));
            }
            stream.read += length as u64;
            stream.moved = Some(now);
            all += length as u64;
        }
    }

    /// Segments that the client and the server have sent, as the kernel counts them.
    pub(super) fn segments(&self) -> io::Result<[u64; 2]> {
        let server = self.server.as_ref().ok_or(ErrorKind::NotConnected)?;
        Ok([segments_sent(&self.client)?, segments_sent(server)?])
    }

    /// Makes both ends go with a reset: neither port rests afterwards.
    pub(super) fn abort(&self) {
        for end in std::iter::once(&self.client).chain(&self.server) {
            // A closed connection needs no reset.
            let _ = nix::sys::socket::setsockopt(
                end,
                nix::sys::socket::sockopt::Linger,
                &libc::linger {
                    l_onoff: 1,
                    l_linger: 0,
                },
            );
        }
    }
}

/// `tcpi_segs_out` (include/uapi/linux/tcp.h): eight bytes, 24 words and four double words come
/// before it.
fn segments_sent(stream: &TcpStream) -> io::Result<u64> {
    const AT: usize = 8 + 24 * 4 + 4 * 8;
    let mut info = [0_u8; 256];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: `info` is a live buffer of the length given, and the kernel writes within it.
    let done = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    let word = [0, 1, 2, 3].map(|n| info[AT + n]);
    Ok(u64::from(u32::from_ne_bytes(word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_is_read_as_it_was_written_and_not_otherwise() {
        let datagram = Datagram {
            id: Id {
                slot: 5,
                incarnation: 2,
            },
            answer: true,
            number: 77,
        };
        let mut bytes = Datagram::BUFFER;
        let length = datagram.write(&mut bytes);
        assert_eq!(Datagram::read(&bytes[..length]), Ok(datagram));
        for at in 0..length {
            bytes[at] ^= 1;
            let read = Datagram::read(&bytes[..length]);
            assert!(read.is_err(), "byte {at}: {read:?}");
            bytes[at] ^= 1;
        }
        assert!(Datagram::read(&bytes[..length - 1]).is_err());
    }
}
