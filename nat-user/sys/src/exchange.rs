//! Blocking netlink requests of kinds that `rtnetlink` does not know, or whose answers it would
//! read in full.
//!
//! An exchange blocks. The kernel answers at once, without waiting for anything outside of it.

use std::{collections::BTreeMap, io};

use rtnetlink::{
    packet_core::{Emitable as _, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NlasIterator},
    sys::{Socket, SocketAddr},
};

/// Length of `struct nlmsghdr` in bytes.
pub const HEADER: usize = 16;
/// Messages of a dump are put together up to this many bytes (`NLMSG_GOODSIZE` and more).
const DATAGRAM: usize = 64 << 10;

/// Attributes by their number.
pub type Attributes = BTreeMap<u16, Vec<u8>>;

/// A socket for requests.
pub struct Exchange {
    socket: Socket,
    datagram: Vec<u8>,
}

impl Exchange {
    /// Opens a socket of a netlink protocol, in the calling thread's network namespace.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            datagram: Vec::with_capacity(DATAGRAM),
        })
    }

    /// Sends a request and returns the body of each message of the answer.
    ///
    /// # Errors
    /// When the kernel refuses the request, or its answer is no list of messages.
    pub fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        request: &[u8],
        mut take: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.length = (HEADER + request.len()) as u32;
        header.message_type = kind;
        header.flags = NLM_F_REQUEST | flags;
        let mut bytes = vec![0; HEADER];
        header.emit(&mut bytes);
        bytes.extend(request);
        self.socket.send(&bytes, 0)?;
        loop {
            self.datagram.clear();
            self.socket.recv(&mut self.datagram, 0)?;
            if read_messages(&self.datagram, &mut take)? || flags & NLM_F_DUMP == 0 {
                return Ok(());
            }
        }
    }

    /// The socket itself, for listening.
    pub fn into_socket(self) -> Socket {
        self.socket
    }
}

/// Collects the bodies of the messages of a datagram; `true` if no more will come.
fn read_messages(
    datagram: &[u8],
    take: &mut impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<bool> {
    let mut rest = datagram;
    while let Some((header, _)) = rest.split_first_chunk::<HEADER>() {
        let [l0, l1, l2, l3, t0, t1, ..] = *header;
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let body = rest.get(HEADER..length).ok_or(io::ErrorKind::InvalidData)?;
        match i32::from(u16::from_ne_bytes([t0, t1])) {
            libc::NLMSG_DONE => return Ok(true),
            libc::NLMSG_ERROR => {
                let code = body.first_chunk().copied().map_or(0, i32::from_ne_bytes);
                return match code {
                    0 => Ok(true),
                    code => Err(io::Error::from_raw_os_error(-code)),
                };
            }
            _ => take(body)?,
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// The attributes of a message's body, or of a nested attribute.
pub fn attributes_of(bytes: &[u8]) -> Attributes {
    NlasIterator::new(bytes)
        .map_while(Result::ok)
        .map(|attribute| (attribute.kind(), attribute.value().to_vec()))
        .collect()
}
