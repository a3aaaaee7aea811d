//! Packets as the generator means them, written out with chosen flaws.

use std::net::Ipv4Addr;

use lab::ones_complement_sum;

pub(crate) const ICMP: u8 = 1;
pub(crate) const IPIP: u8 = 4;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const GRE: u8 = 47;
pub(crate) const ESP: u8 = 50;
pub(crate) const OSPF: u8 = 89;
pub(crate) const SCTP: u8 = 132;

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const URG: u8 = 0x20;

/// Whether natbpf knows ports of a protocol.
pub(crate) fn has_ports(protocol: u8) -> bool {
    matches!(protocol, ICMP | TCP | UDP)
}

/// An address with a port, or with the identifier of an echo; port 0 where there is neither.
pub(crate) type End = (Ipv4Addr, u16);

/// The outside of a packet: what a NAT must not change.
#[derive(Clone, Debug)]
pub(crate) struct Dress {
    pub(crate) ttl: u8,
    pub(crate) tos: u8,
    pub(crate) id: u16,
    pub(crate) dont_fragment: bool,
    /// IP options, a multiple of four bytes.
    pub(crate) options: Vec<u8>,
    /// Into how many fragments the packet is cut: 1 for none.
    pub(crate) fragments: usize,
    /// Whether the fragments are sent last one first.
    pub(crate) is_reversed: bool,
    /// Bytes behind the packet that only fill the frame.
    pub(crate) padding: usize,
}

/// What an IP packet holds.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    Udp {
        payload: Vec<u8>,
        summed: bool,
    },
    Tcp {
        seq: u32,
        ack: u32,
        flags: u8,
        payload: Vec<u8>,
    },
    /// The identifier is the sender's port in a request, the receiver's in an answer.
    Echo {
        query: Query,
        is_reply: bool,
        sequence: u16,
        payload: Vec<u8>,
    },
    /// Another protocol, whose bytes a NAT has no business with.
    Opaque {
        protocol: u8,
        payload: Vec<u8>,
    },
    /// An INIT chunk, which begins an association.
    SctpInit,
    /// An ICMP error, with so many bytes of the packet that it is about.
    Error {
        kind: u8,
        code: u8,
        quoted: Box<Written>,
        quoted_bytes: usize,
    },
}

/// What an ICMP query asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Query {
    Echo,
    Timestamp,
    AddressMask,
}

/// What is wrong with a packet, if anything is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
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
pub(crate) struct Written {
    pub(crate) from: End,
    pub(crate) to: End,
    pub(crate) body: Body,
    pub(crate) dress: Dress,
    pub(crate) flaw: Flaw,
}

impl Body {
    pub(crate) fn protocol(&self) -> u8 {
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
    pub(crate) fn packets(&self) -> Vec<Vec<u8>> {
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
    pub(crate) fn whole(&self) -> Vec<u8> {
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
            Body::Echo { .. } | Body::Error { .. } => !ones_complement_sum(&[bytes]),
            _ => !ones_complement_sum(&[&self.pseudo_header(bytes.len()), bytes]),
        };
        // A wrong one is wrong by the same amount for all addresses, because a NAT corrects it only
        // by their change.
        let sum = if flawed {
            ones_complement_sum(&[&sum.to_be_bytes(), &[0x12, 0x34]])
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
        let mut sum = !ones_complement_sum(&[&header]);
        if self.flaw == Flaw::HeaderChecksum {
            sum ^= 0x0100;
        }
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        [&header, inside].concat()
    }
}

/// The checksum of SCTP (RFC 9260 appendix A).
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
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
