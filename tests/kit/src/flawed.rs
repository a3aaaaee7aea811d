//! IPv4 packets with every field and flaw of choice, for the differential test.

use std::net::Ipv4Addr;

use nat_common::wire::protocol::{ICMP, TCP, UDP};

use crate::packets::ones_complement_sum;

/// IPv4 in IPv4.
pub const IPIP: u8 = 4;
/// Encrypted payloads of IPsec.
pub const ESP: u8 = 50;
/// A routing protocol.
pub const OSPF: u8 = 89;
/// A transport protocol with ports and a checksum that natbpf does not know.
pub const SCTP: u8 = 132;

/// Whether natbpf knows ports of a protocol.
pub fn has_ports(protocol: u8) -> bool {
    matches!(protocol, ICMP | TCP | UDP)
}

/// An address with a port, or with the identifier of an echo; port 0 where there is neither.
pub type End = (Ipv4Addr, u16);

/// The outside of a packet: what a NAT must not change.
#[derive(Clone, Debug)]
pub struct Dress {
    /// Hops left.
    pub ttl: u8,
    /// The byte with DSCP and ECN.
    pub tos: u8,
    /// The identification for reassembly.
    pub id: u16,
    /// Whether routers may not cut it.
    pub dont_fragment: bool,
    /// IP options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// Into how many fragments the packet is cut: 1 for none.
    pub fragments: usize,
    /// Whether the fragments are sent last one first.
    pub is_reversed: bool,
    /// Bytes behind the packet that only fill the frame.
    pub padding: usize,
}

/// What an IP packet holds.
#[derive(Clone, Debug)]
pub enum Body {
    /// A UDP datagram.
    Udp {
        /// Its data.
        payload: Vec<u8>,
        /// Whether it has a checksum.
        summed: bool,
    },
    /// A TCP segment without options.
    Tcp {
        /// Its sequence number.
        seq: u32,
        /// What it acknowledges.
        ack: u32,
        /// Its flags.
        flags: u8,
        /// Its data.
        payload: Vec<u8>,
    },
    /// The identifier is the sender's port in a request, the receiver's in an answer.
    Echo {
        /// What is asked.
        query: Query,
        /// Whether this is the answer.
        is_reply: bool,
        /// The number of the question.
        sequence: u16,
        /// Its data.
        payload: Vec<u8>,
    },
    /// Another protocol, whose bytes a NAT has no business with.
    Opaque {
        /// Its number.
        protocol: u8,
        /// Its bytes.
        payload: Vec<u8>,
    },
    /// An INIT chunk, which begins an association.
    SctpInit,
    /// An ICMP error, with so many bytes of the packet that it is about.
    Error {
        /// The type.
        kind: u8,
        /// The code.
        code: u8,
        /// The packet that it is about.
        quoted: Box<Written>,
        /// How many of its bytes are quoted.
        quoted_bytes: usize,
    },
}

/// What an ICMP query asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Query {
    /// Whether the receiver is there.
    Echo,
    /// What time it has (RFC 792).
    Timestamp,
    /// Its netmask (RFC 950).
    AddressMask,
}

/// What is wrong with a packet, if anything is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Nothing.
    None,
    /// The checksum of what the IP packet holds.
    Checksum,
    /// The checksum of the IP header.
    HeaderChecksum,
    /// The IP header says more bytes than there are.
    TotalLengthTooLong,
    /// The IP header says fewer bytes than it has itself.
    TotalLengthTooShort,
    /// The IP header's own length is less than 20.
    HeaderLength,
    /// Everything after the first so many bytes inside of IP is missing, and IP says so.
    Cut(usize),
    /// UDP's length is more than there is, or TCP's header shorter than one can be.
    InnerLength,
    /// IP version 5.
    Version,
    /// UDP says less than IP does.
    Trailing,
}

/// A packet with all its addresses.
#[derive(Clone, Debug)]
pub struct Written {
    /// The sender.
    pub from: End,
    /// The receiver.
    pub to: End,
    /// What is inside of IP.
    pub body: Body,
    /// The IP header, and how it is cut.
    pub dress: Dress,
    /// What is wrong with it.
    pub flaw: Flaw,
}

impl Body {
    /// The protocol of the IP header.
    pub fn protocol(&self) -> u8 {
        match self {
            Self::Udp { .. } => UDP,
            Self::Tcp { .. } => TCP,
            Self::Echo { .. } | Self::Error { .. } => ICMP,
            Self::Opaque { protocol, .. } => *protocol,
            Self::SctpInit => SCTP,
        }
    }

    /// Offset of the checksum in it.
    fn checksum_at(&self) -> Option<usize> {
        match self {
            Self::Udp { .. } => Some(6),
            Self::Tcp { .. } => Some(16),
            Self::Echo { .. } | Self::Error { .. } => Some(2),
            Self::SctpInit => Some(8),
            Self::Opaque { .. } => None,
        }
    }
}

impl Written {
    /// The IP packet, or its fragments in the order in which they are sent.
    pub fn packets(&self) -> Vec<Vec<u8>> {
        let inside = self.inside();
        let count = self.dress.fragments;
        if count < 2 {
            return vec![self.with_header(&inside, 0, false)];
        }
        // Every fragment but the last holds a multiple of eight bytes.
        let piece = inside.len().div_ceil(count).next_multiple_of(8);
        let pieces: Vec<_> = inside.chunks(piece).collect();
        let last = pieces.len() - 1;
        let parts = pieces.iter().enumerate();
        let mut packets: Vec<_> = parts
            .map(|(n, part)| self.with_header(part, n * piece, n < last))
            .collect();
        if self.dress.is_reversed {
            packets.reverse();
        }
        packets
    }

    /// The packet in one piece.
    pub fn whole(&self) -> Vec<u8> {
        self.with_header(&self.inside(), 0, false)
    }

    fn inside(&self) -> Vec<u8> {
        let mut bytes = self.message();
        if let Some(at) = self.body.checksum_at() {
            self.write_checksum(&mut bytes, at);
        }
        match self.flaw {
            Flaw::Cut(length) => bytes.truncate(length),
            Flaw::Trailing => bytes.extend_from_slice(b"behind the datagram"),
            Flaw::InnerLength if self.body.protocol() == UDP => bytes[4] |= 0x40,
            Flaw::InnerLength if self.body.protocol() == TCP => bytes[12] = 0x40,
            _ => {}
        }
        bytes
    }

    /// What is inside of IP, without checksum.
    fn message(&self) -> Vec<u8> {
        let (from, to) = (self.from.1.to_be_bytes(), self.to.1.to_be_bytes());
        match &self.body {
            Body::Udp { payload, .. } => {
                let length = (8 + payload.len() as u16).to_be_bytes();
                [&from[..], &to, &length, &[0, 0], payload].concat()
            }
            Body::Tcp {
                seq,
                ack,
                flags,
                payload,
            } => [
                &from[..],
                &to,
                &seq.to_be_bytes(),
                &ack.to_be_bytes(),
                &[0x50, *flags, 0xff, 0xff, 0, 0, 0, 0],
                payload,
            ]
            .concat(),
            Body::Echo {
                query,
                is_reply,
                sequence,
                payload,
            } => {
                let (request, reply) = match query {
                    Query::Echo => (8, 0),
                    Query::Timestamp => (13, 14),
                    Query::AddressMask => (17, 18),
                };
                let (kind, id) = if *is_reply {
                    (reply, to)
                } else {
                    (request, from)
                };
                [&[kind, 0, 0, 0], &id[..], &sequence.to_be_bytes(), payload].concat()
            }
            Body::Opaque { payload, .. } => payload.clone(),
            // Verification tag 0; chunk 1 of 20 bytes: tag, credit, streams out and in, TSN.
            Body::SctpInit => [
                &from[..],
                &to,
                &[0; 8],
                &[1, 0, 0, 20, 0, 0, 0, 7, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 9],
            ]
            .concat(),
            Body::Error {
                kind,
                code,
                quoted,
                quoted_bytes,
            } => {
                let quoted = quoted.whole();
                let quoted = &quoted[..quoted.len().min(*quoted_bytes)];
                // The MTU of "too big", which others leave at 0.
                let rest = match (kind, code) {
                    (3, 4) => [0, 0, 5, 0x14],
                    _ => [0; 4],
                };
                [&[*kind, *code, 0, 0], &rest[..], quoted].concat()
            }
        }
    }

    fn write_checksum(&self, bytes: &mut [u8], at: usize) {
        let flawed = self.flaw == Flaw::Checksum;
        let sum = match self.body {
            Body::SctpInit => {
                let sum = crc32c(bytes) ^ u32::from(flawed);
                bytes[at..at + 4].copy_from_slice(&sum.to_le_bytes());
                return;
            }
            Body::Udp { summed: false, .. } => return,
            Body::Echo { .. } | Body::Error { .. } => !ones_complement_sum(bytes),
            _ => !ones_complement_sum(&[&self.pseudo_header(bytes.len()), &*bytes].concat()),
        };
        // A wrong one is wrong by the same amount for all addresses, because a NAT corrects it only
        // by their change.
        let sum = if flawed {
            ones_complement_sum(&[sum.to_be_bytes(), [0x12, 0x34]].concat())
        } else {
            sum
        };
        let sum = if sum == 0 && self.body.protocol() == UDP {
            0xffff
        } else {
            sum
        };
        bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }

    fn pseudo_header(&self, length: usize) -> Vec<u8> {
        [
            &self.from.0.octets()[..],
            &self.to.0.octets(),
            &[0, self.body.protocol()],
            &(length as u16).to_be_bytes(),
        ]
        .concat()
    }

    fn with_header(&self, inside: &[u8], offset: usize, more: bool) -> Vec<u8> {
        let dress = &self.dress;
        let header_length = 20 + dress.options.len();
        let mut total = (header_length + inside.len()) as u16;
        let mut first = 0x40 | (header_length / 4) as u8;
        match self.flaw {
            Flaw::TotalLengthTooLong => total += 13,
            Flaw::TotalLengthTooShort => total = 12,
            Flaw::HeaderLength => first = 0x44,
            Flaw::Version => first = 0x55,
            _ => {}
        }
        let flags = u16::from(dress.dont_fragment) << 14 | u16::from(more) << 13;
        let mut header = [
            &[first, dress.tos],
            &total.to_be_bytes()[..],
            &dress.id.to_be_bytes(),
            &(flags | (offset / 8) as u16).to_be_bytes(),
            &[dress.ttl, self.body.protocol(), 0, 0],
            &self.from.0.octets(),
            &self.to.0.octets(),
            &dress.options,
        ]
        .concat();
        let mut sum = !ones_complement_sum(&header);
        if self.flaw == Flaw::HeaderChecksum {
            sum ^= 0x0100;
        }
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        [&header, inside].concat()
    }
}

/// The checksum of SCTP (RFC 9260 appendix A).
pub fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ (0x82f6_3b78 & 0_u32.wrapping_sub(crc & 1));
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), step)
    })
}

#[cfg(test)]
mod checks {
    use super::*;

    #[test]
    fn crc32c_is_that_of_rfc_3720() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
