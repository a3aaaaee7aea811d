//! Packets: made field by field, and read with every checksum checked.

use etherparse::{
    IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, PacketHeaders, TcpHeader, TransportHeader,
    UdpHeader,
};
use nat_common::wire::protocol::{ICMP, TCP, UDP};

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

const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;

/// An IPv4 address.
pub type Ip = [u8; 4];

/// An address and a port; of an ICMP query, its identifier; 0 where there is neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct At(pub Ip, pub u16);

/// A packet that is being made.
#[derive(Debug, Clone)]
pub struct Make {
    source: At,
    destination: At,
    what: What,
    payload: Vec<u8>,
    options: Vec<u8>,
    id: u16,
    has_checksum: bool,
    /// Sequence number of a segment, and what it acknowledges.
    numbers: (u32, u32),
}

#[derive(Debug, Clone, Copy)]
enum What {
    Udp,
    Tcp { flags: u8 },
    Echo { is_reply: bool },
    Error { kind: u8, code: u8, rest: [u8; 4] },
    Raw { protocol: u8 },
}

impl Make {
    fn new(source: At, destination: At, what: What) -> Self {
        Self {
            source,
            destination,
            what,
            payload: Vec::new(),
            options: Vec::new(),
            id: 1,
            has_checksum: true,
            numbers: (1, 1),
        }
    }

    /// What it carries.
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// Its IP options, a multiple of four bytes.
    pub fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self
    }

    /// Its identification for reassembly.
    pub fn id(mut self, id: u16) -> Self {
        self.id = id;
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

    /// The bytes, from the Ethernet header on.
    pub fn bytes(&self) -> Vec<u8> {
        let transport = self.transport();
        let (source, destination) = (self.source.0, self.destination.0);
        let mut ip = Ipv4Header::new(0, 64, self.protocol(), source, destination).unwrap();
        ip.options = Ipv4Options::try_from(&self.options[..]).unwrap();
        ip.identification = self.id;
        ip.dont_fragment = false;
        ip.set_payload_len(transport.len()).unwrap();
        ip.header_checksum = ip.calc_header_checksum();
        [&frame()[..], &ip.to_bytes(), &transport].concat()
    }

    fn protocol(&self) -> IpNumber {
        IpNumber(match self.what {
            What::Udp => UDP,
            What::Tcp { .. } => TCP,
            What::Echo { .. } | What::Error { .. } => ICMP,
            What::Raw { protocol } => protocol,
        })
    }

    fn transport(&self) -> Vec<u8> {
        let (from, to) = (self.source, self.destination);
        match self.what {
            What::Raw { .. } => self.payload.clone(),
            What::Error { kind, code, rest } => icmp([kind, code], rest, &self.payload),
            What::Echo { is_reply } => {
                let (kind, id) = match is_reply {
                    true => (ECHO_REPLY, to.1),
                    false => (ECHO_REQUEST, from.1),
                };
                let [high, low] = id.to_be_bytes();
                icmp([kind, 0], [high, low, 0, 1], &self.payload)
            }
            What::Udp => {
                let len = u16::try_from(UdpHeader::LEN + self.payload.len()).unwrap();
                let mut udp = UdpHeader {
                    source_port: from.1,
                    destination_port: to.1,
                    length: len,
                    checksum: 0,
                };
                if self.has_checksum {
                    let sum = udp.calc_checksum_ipv4_raw(from.0, to.0, &self.payload);
                    udp.checksum = sum.unwrap();
                }
                [&udp.to_bytes()[..], &self.payload].concat()
            }
            What::Tcp { flags } => {
                let (sequence, acknowledged) = self.numbers;
                let mut tcp = TcpHeader::new(from.1, to.1, sequence, 64_240);
                tcp.acknowledgment_number = acknowledged;
                (tcp.fin, tcp.syn) = (flags & FIN != 0, flags & SYN != 0);
                (tcp.rst, tcp.ack) = (flags & RST != 0, flags & ACK != 0);
                let sum = tcp.calc_checksum_ipv4_raw(from.0, to.0, &self.payload);
                tcp.checksum = sum.unwrap();
                [&tcp.to_bytes()[..], &self.payload].concat()
            }
        }
    }
}

/// A UDP datagram.
pub fn udp(source: At, destination: At) -> Make {
    Make::new(source, destination, What::Udp).payload(b"datagram")
}

/// A TCP segment without data.
pub fn tcp(source: At, destination: At, flags: u8) -> Make {
    Make::new(source, destination, What::Tcp { flags })
}

/// An echo request, whose identifier is the source's.
pub fn ping(source: At, destination: Ip) -> Make {
    Make::new(source, At(destination, 0), What::Echo { is_reply: false }).payload(b"ping")
}

/// An echo reply, whose identifier is the destination's.
pub fn pong(source: Ip, destination: At) -> Make {
    Make::new(At(source, 0), destination, What::Echo { is_reply: true }).payload(b"ping")
}

/// A packet of a protocol without ports.
pub fn raw(protocol: u8, source: Ip, destination: Ip) -> Make {
    let what = What::Raw { protocol };
    Make::new(At(source, 0), At(destination, 0), what).payload(b"no ports in here")
}

/// The first packet of a flow of any protocol.
pub fn request(protocol: u8, source: At, destination: At) -> Make {
    match protocol {
        UDP => udp(source, destination),
        TCP => tcp(source, destination, SYN),
        ICMP => ping(source, destination.0),
        other => raw(other, source.0, destination.0),
    }
}

/// The answer to [`request`].
pub fn answer(protocol: u8, source: At, destination: At) -> Make {
    match protocol {
        UDP => udp(source, destination),
        TCP => tcp(source, destination, SYN | ACK),
        ICMP => pong(source.0, destination),
        other => raw(other, source.0, destination.0),
    }
}

/// An ICMP error about a packet, of whose bytes from the IP header on it quotes the first `len`.
pub fn error(source: Ip, about: &[u8], kind: u8, len: usize) -> Make {
    let quoted = &about[ETHERNET..];
    let to = Ip::try_from(&quoted[12..16]).unwrap();
    let (code, rest) = (u8::from(kind == 3), [0; 4]);
    let what = What::Error { kind, code, rest };
    Make::new(At(source, 0), At(to, 0), what).payload(&quoted[..len.min(quoted.len())])
}

/// The packet with other bytes in the second word of its ICMP header.
pub fn with_rest(make: Make, word: [u8; 4]) -> Make {
    let what = match make.what {
        What::Error { kind, code, .. } => What::Error {
            kind,
            code,
            rest: word,
        },
        other => other,
    };
    Make { what, ..make }
}

fn frame() -> [u8; ETHERNET] {
    [2, 2, 2, 2, 2, 2, 4, 4, 4, 4, 4, 4, 8, 0]
}

fn icmp(kind: [u8; 2], rest: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut message = [&kind[..], &[0, 0], &rest, payload].concat();
    let sum = !ones_complement_sum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
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
pub fn fragments(packet: &[u8], size: usize) -> Vec<Vec<u8>> {
    let (ip, payload) = Ipv4Header::from_slice(&packet[ETHERNET..]).unwrap();
    let count = payload.len().div_ceil(size);
    let cut = |(index, part): (usize, &[u8])| {
        let mut ip = ip.clone();
        ip.fragment_offset = IpFragOffset::try_new((index * size / 8) as u16).unwrap();
        ip.more_fragments = index + 1 < count;
        ip.set_payload_len(part.len()).unwrap();
        ip.header_checksum = ip.calc_header_checksum();
        [&packet[..ETHERNET], &ip.to_bytes(), part].concat()
    };
    payload.chunks(size).enumerate().map(cut).collect()
}

/// The packet from all its fragments, in any order.
pub fn reassemble(fragments: &[Vec<u8>]) -> Vec<u8> {
    let mut whole = Vec::new();
    let mut first = None;
    for fragment in fragments {
        let (ip, payload) = Ipv4Header::from_slice(&fragment[ETHERNET..]).unwrap();
        assert_eq!(ip.header_checksum, ip.calc_header_checksum());
        let start = usize::from(ip.fragment_offset.value()) * 8;
        whole.resize(whole.len().max(start + payload.len()), 0);
        whole[start..start + payload.len()].copy_from_slice(payload);
        if start == 0 {
            first = Some(ip);
        }
    }
    let mut ip = first.expect("a first fragment");
    ip.more_fragments = false;
    ip.set_payload_len(whole.len()).unwrap();
    ip.header_checksum = ip.calc_header_checksum();
    [&frame()[..], &ip.to_bytes(), &whole].concat()
}

/// What a receiver sees of a packet whose checksums are right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The protocol of the IP header.
    pub protocol: u8,
    /// Where it comes from.
    pub source: At,
    /// Where it goes.
    pub destination: At,
    /// What stands behind the transport header: of an ICMP error, the packet that it quotes.
    pub payload: Vec<u8>,
}

impl Seen {
    /// Source and destination.
    pub fn ends(&self) -> (At, At) {
        (self.source, self.destination)
    }
}

/// Source and destination of a packet whose checksums are all right.
pub fn ends(packet: &[u8]) -> (At, At) {
    read(packet).ends()
}

/// Reads a packet that is no fragment and checks all its checksums.
pub fn read(packet: &[u8]) -> Seen {
    let headers = PacketHeaders::from_ethernet_slice(packet).unwrap();
    let Some(etherparse::NetHeaders::Ipv4(ip, _)) = &headers.net else {
        panic!("not IPv4: {packet:02x?}")
    };
    let right = ip.calc_header_checksum();
    assert_eq!(ip.header_checksum, right, "IP checksum: {packet:02x?}");
    let mut payload = headers.payload.slice().to_vec();
    let (source, destination) = match &headers.transport {
        Some(TransportHeader::Udp(udp)) => {
            let right = udp.calc_checksum_ipv4(ip, &payload).unwrap();
            let is_right = udp.checksum == 0 || udp.checksum == right;
            assert!(is_right, "UDP checksum: {packet:02x?}");
            (udp.source_port, udp.destination_port)
        }
        Some(TransportHeader::Tcp(tcp)) => {
            let right = tcp.calc_checksum_ipv4(ip, &payload).unwrap();
            assert_eq!(tcp.checksum, right, "TCP checksum: {packet:02x?}");
            (tcp.source_port, tcp.destination_port)
        }
        Some(TransportHeader::Icmpv4(_)) => {
            let message = &packet[ETHERNET + ip.header_len()..][..ip.payload_len().unwrap().into()];
            let sum = ones_complement_sum(message);
            assert_eq!(sum, 0xffff, "ICMP checksum: {packet:02x?}");
            payload = message[8..].to_vec();
            let id = u16::from_be_bytes([message[4], message[5]]);
            match message[0] {
                ECHO_REQUEST => (id, 0),
                ECHO_REPLY => (0, id),
                _ => (0, 0),
            }
        }
        _ => (0, 0),
    };
    Seen {
        protocol: ip.protocol.0,
        source: At(ip.source, source),
        destination: At(ip.destination, destination),
        payload,
    }
}
