//! Packets of either family: made field by field, and read with every checksum checked.

use etherparse::{TcpHeader, UdpHeader};
use nat_common::wire::protocol::{TCP, UDP};

use crate::octets::{Octets, Outside};

/// Length of an Ethernet header in bytes.
pub const ETHERNET: usize = 14;
/// The protocol without ports that represents all of them.
pub const GRE: u8 = 47;

/// The TCP flag that ends one direction.
pub const FIN: u8 = 0x01;
/// The TCP flag that opens a connection.
pub const SYN: u8 = 0x02;
/// The TCP flag that resets a connection.
pub const RST: u8 = 0x04;
/// The TCP flag of data to deliver at once.
pub const PSH: u8 = 0x08;
/// The TCP flag that acknowledges.
pub const ACK: u8 = 0x10;
/// The TCP flag of urgent data.
pub const URG: u8 = 0x20;

/// An address and a port; of an ICMP query, its identifier; 0 where there is neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct At<I>(pub I, pub u16);

/// A packet that is being made.
#[derive(Debug, Clone)]
pub struct Make<I> {
    outside: Outside<I>,
    /// Source and destination port.
    ports: (u16, u16),
    what: What,
    payload: Vec<u8>,
    has_checksum: bool,
    /// Sequence number of a segment, and what it acknowledges.
    numbers: (u32, u32),
}

#[derive(Debug, Clone, Copy)]
enum What {
    Udp,
    Tcp { flags: u8 },
    Echo { is_reply: bool },
    Icmp { kind: u8, code: u8, rest: [u8; 4] },
    Raw,
}

impl<I: Octets> Make<I> {
    fn new(source: At<I>, destination: At<I>, protocol: u8, what: What) -> Self {
        Self {
            outside: Outside {
                source: source.0,
                destination: destination.0,
                protocol,
                id: 1,
                before: Vec::new(),
            },
            ports: (source.1, destination.1),
            what,
            payload: Vec::new(),
            has_checksum: true,
            numbers: (1, 1),
        }
    }

    /// What it carries.
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// Sends it to this address.
    pub fn to(mut self, destination: I) -> Self {
        self.outside.destination = destination;
        self
    }

    /// Its identification for reassembly.
    pub fn id(mut self, id: u16) -> Self {
        self.outside.id = id;
        self
    }

    /// The sequence number of a segment, and what it acknowledges (or, without ACK, what stands
    /// there).
    pub fn numbers(mut self, sequence: u32, acknowledged: u32) -> Self {
        self.numbers = (sequence, acknowledged);
        self
    }

    /// UDP without a checksum.
    pub fn unsummed(mut self) -> Self {
        self.has_checksum = false;
        self
    }

    /// Options, a multiple of four bytes: of the IP header, or in an IPv6 header of options for the
    /// destination.
    pub fn options(mut self, options: &[u8]) -> Self {
        self.outside.before = vec![I::options(options)];
        self
    }

    /// The bytes, from the Ethernet header on.
    pub fn bytes(&self) -> Vec<u8> {
        [frame::<I>(), I::packet(&self.outside, &self.transport())].concat()
    }

    fn transport(&self) -> Vec<u8> {
        let (from, to) = self.ports;
        let bytes = match self.what {
            What::Raw => return self.payload.clone(),
            What::Icmp { kind, code, rest } => self.icmp([kind, code], rest),
            What::Echo { is_reply } => {
                let [request, reply] = I::ECHO;
                let (kind, id) = if is_reply {
                    (reply, to)
                } else {
                    (request, from)
                };
                let [high, low] = id.to_be_bytes();
                self.icmp([kind, 0], [high, low, 0, 1])
            }
            What::Udp => {
                let len = u16::try_from(UdpHeader::LEN + self.payload.len()).unwrap();
                let mut udp = UdpHeader {
                    source_port: from,
                    destination_port: to,
                    length: len,
                    checksum: 0,
                };
                if self.has_checksum {
                    // A checksum of 0 means none.
                    udp.checksum = match self.checksum(&udp.to_bytes()) {
                        0 => 0xffff,
                        checksum => checksum,
                    };
                }
                udp.to_bytes().to_vec()
            }
            What::Tcp { flags } => {
                let (sequence, acknowledged) = self.numbers;
                let mut tcp = TcpHeader::new(from, to, sequence, 64_240);
                tcp.acknowledgment_number = acknowledged;
                (tcp.fin, tcp.syn) = (flags & FIN != 0, flags & SYN != 0);
                (tcp.rst, tcp.ack) = (flags & RST != 0, flags & ACK != 0);
                tcp.checksum = self.checksum(&tcp.to_bytes());
                tcp.to_bytes().to_vec()
            }
        };
        [bytes, self.payload.clone()].concat()
    }

    fn icmp(&self, kind: [u8; 2], rest: [u8; 4]) -> Vec<u8> {
        let mut header = [&kind[..], &[0, 0], &rest].concat();
        let (source, destination) = (self.outside.source, self.outside.destination);
        let len = header.len() + self.payload.len();
        let pseudo = I::icmp_pseudo_header(source, destination, len);
        let sum = !ones_complement_sum(&[&pseudo[..], &header, &self.payload].concat());
        header[2..4].copy_from_slice(&sum.to_be_bytes());
        header
    }

    /// The checksum of TCP and UDP behind a header without one. Of both families' pseudo-headers
    /// the words have the same sum.
    fn checksum(&self, header: &[u8]) -> u16 {
        let (source, destination) = (self.outside.source, self.outside.destination);
        let len = u16::try_from(header.len() + self.payload.len()).unwrap();
        !ones_complement_sum(
            &[
                source.as_ref(),
                destination.as_ref(),
                &[0, self.outside.protocol],
                &len.to_be_bytes(),
                header,
                &self.payload,
            ]
            .concat(),
        )
    }
}

impl Make<[u8; 16]> {
    /// One extension header more behind those that it has: its number, and its bytes behind next
    /// header and length.
    pub fn extension(mut self, number: u8, bytes: &[u8]) -> Self {
        self.outside.before.push((number, bytes.to_vec()));
        self
    }
}

/// A UDP datagram.
pub fn udp<I: Octets>(source: At<I>, destination: At<I>) -> Make<I> {
    Make::new(source, destination, UDP, What::Udp).payload(b"datagram")
}

/// A TCP segment without data.
pub fn tcp<I: Octets>(source: At<I>, destination: At<I>, flags: u8) -> Make<I> {
    Make::new(source, destination, TCP, What::Tcp { flags })
}

/// An echo request, whose identifier is the source's.
pub fn ping<I: Octets>(source: At<I>, destination: I) -> Make<I> {
    let what = What::Echo { is_reply: false };
    Make::new(source, At(destination, 0), I::ICMP, what).payload(b"ping")
}

/// An echo reply, whose identifier is the destination's.
pub fn pong<I: Octets>(source: I, destination: At<I>) -> Make<I> {
    let what = What::Echo { is_reply: true };
    Make::new(At(source, 0), destination, I::ICMP, what).payload(b"ping")
}

/// A packet of a protocol without ports.
pub fn raw<I: Octets>(protocol: u8, source: I, destination: I) -> Make<I> {
    let (source, destination) = (At(source, 0), At(destination, 0));
    Make::new(source, destination, protocol, What::Raw).payload(b"no ports in here")
}

/// The first packet of a flow of any protocol.
pub fn request<I: Octets>(protocol: u8, source: At<I>, destination: At<I>) -> Make<I> {
    match protocol {
        UDP => udp(source, destination),
        TCP => tcp(source, destination, SYN),
        icmp if icmp == I::ICMP => ping(source, destination.0),
        other => raw(other, source.0, destination.0),
    }
}

/// The answer to [`request`].
pub fn answer<I: Octets>(protocol: u8, source: At<I>, destination: At<I>) -> Make<I> {
    match protocol {
        UDP => udp(source, destination),
        TCP => tcp(source, destination, SYN | ACK),
        icmp if icmp == I::ICMP => pong(source.0, destination),
        other => raw(other, source.0, destination.0),
    }
}

/// An ICMP error about a packet, of whose bytes from the IP header on it quotes the first `len`.
pub fn error<I: Octets>(source: I, about: &[u8], kind: u8, len: usize) -> Make<I> {
    let is_unreachable = kind == I::UNREACHABLE;
    let code = if is_unreachable {
        I::HOST_UNREACHABLE
    } else {
        0
    };
    error_with_code(source, about, [kind, code], len)
}

/// The same of any type and code.
pub fn error_with_code<I: Octets>(source: I, about: &[u8], kind: [u8; 2], len: usize) -> Make<I> {
    let quoted = &about[ETHERNET..];
    let (to, [kind, code]) = (I::at(quoted, I::SOURCE), kind);
    icmp(source, to, [kind, code, 0, 0, 0, 0]).payload(&quoted[..len.min(quoted.len())])
}

/// An ICMP message with any type and code, and the four bytes behind its checksum.
pub fn icmp<I: Octets>(source: I, destination: I, header: [u8; 6]) -> Make<I> {
    let [kind, code, a, b, c, d] = header;
    let what = What::Icmp {
        kind,
        code,
        rest: [a, b, c, d],
    };
    Make::new(At(source, 0), At(destination, 0), I::ICMP, what)
}

/// The packet with other bytes in the second word of its ICMP header.
pub fn with_rest<I>(make: Make<I>, word: [u8; 4]) -> Make<I> {
    let what = match make.what {
        What::Icmp { kind, code, .. } => What::Icmp {
            kind,
            code,
            rest: word,
        },
        other => other,
    };
    Make { what, ..make }
}

fn frame<I: Octets>() -> Vec<u8> {
    [&[2, 2, 2, 2, 2, 2, 4, 4, 4, 4, 4, 4][..], &I::ETHERTYPE].concat()
}

/// The one's complement sum of 16-bit words in network byte order (RFC 1071).
pub fn ones_complement_sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2);
    let words = words.map(|word| u64::from(word[0]) << 8 | word.get(1).map_or(0, |&b| b.into()));
    let mut sum: u64 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// A packet cut into fragments with so many bytes of payload each, a multiple of eight.
pub fn fragments<I: Octets>(packet: &[u8], size: usize) -> Vec<Vec<u8>> {
    let inside = I::inside(&packet[ETHERNET..]);
    let count = inside.len().div_ceil(size);
    let parts = inside.chunks(size).enumerate();
    let cut =
        parts.map(|(number, part)| piece_of::<I>(packet, number * size, part, number + 1 < count));
    cut.collect()
}

/// A fragment of a packet with these bytes of it, which start so many bytes behind its header, a
/// multiple of eight.
pub fn piece_of<I: Octets>(packet: &[u8], start: usize, part: &[u8], more: bool) -> Vec<u8> {
    let (frame, packet) = packet.split_at(ETHERNET);
    [frame, &I::fragment(packet, start, part, more)].concat()
}

/// A fragment at another block of eight bytes.
pub fn placed<I: Octets>(fragment: &[u8], block: u16, more_fragments: bool) -> Vec<u8> {
    let mut bytes = fragment.to_vec();
    I::place(&mut bytes[ETHERNET..], block, more_fragments);
    bytes
}

/// The packet from all its fragments, in any order.
pub fn reassemble<I: Octets>(fragments: &[Vec<u8>]) -> Vec<u8> {
    let parts: Vec<_> = fragments.iter().map(|part| &part[ETHERNET..]).collect();
    [frame::<I>(), I::join(&parts)].concat()
}

/// What a receiver sees of a packet whose checksums are right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen<I> {
    /// The protocol of the IP header.
    pub protocol: u8,
    /// Where it comes from.
    pub source: At<I>,
    /// Where it goes.
    pub destination: At<I>,
    /// What stands behind the transport header: of an ICMP error, the packet that it quotes.
    pub payload: Vec<u8>,
}

impl<I: Octets> Seen<I> {
    /// Source and destination.
    pub fn ends(&self) -> (At<I>, At<I>) {
        (self.source, self.destination)
    }
}

/// Reads a packet that is no fragment and checks all its checksums.
pub fn read<I: Octets>(packet: &[u8]) -> Seen<I> {
    let ip = &packet[ETHERNET..];
    let (protocol, mut message) = I::open(ip);
    if protocol == UDP {
        // What follows the datagram is no part of it.
        message = &message[..u16::from_be_bytes([message[4], message[5]]).into()];
    }
    let source = I::at(ip, I::SOURCE);
    let destination = I::at(ip, I::SOURCE + size_of::<I>());
    let len = u16::try_from(message.len()).unwrap().to_be_bytes();
    let addresses = [source.as_ref(), destination.as_ref()].concat();
    // Of both families' pseudo-headers the words have the same sum.
    let pseudo = [&addresses[..], &[0, protocol], &len].concat();
    let is_right = |pseudo: &[u8]| ones_complement_sum(&[pseudo, message].concat()) == 0xffff;
    let (ports, payload) = match protocol {
        UDP => {
            let (udp, payload) = UdpHeader::from_slice(message).unwrap();
            let is_right = udp.checksum == 0 || is_right(&pseudo);
            assert!(is_right, "UDP checksum: {packet:02x?}");
            ((udp.source_port, udp.destination_port), payload)
        }
        TCP => {
            let (tcp, payload) = TcpHeader::from_slice(message).unwrap();
            assert!(is_right(&pseudo), "TCP checksum: {packet:02x?}");
            ((tcp.source_port, tcp.destination_port), payload)
        }
        icmp if icmp == I::ICMP => {
            let pseudo = I::icmp_pseudo_header(source, destination, message.len());
            assert!(is_right(&pseudo), "ICMP checksum: {packet:02x?}");
            let id = u16::from_be_bytes([message[4], message[5]]);
            let ports = match I::ECHO.iter().position(|kind| *kind == message[0]) {
                Some(0) => (id, 0),
                Some(_) => (0, id),
                None => (0, 0),
            };
            (ports, &message[8..])
        }
        _ => ((0, 0), message),
    };
    Seen {
        protocol,
        source: At(source, ports.0),
        destination: At(destination, ports.1),
        payload: payload.to_vec(),
    }
}
