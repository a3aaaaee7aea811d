//! IPv4 packets taken apart (by etherparse), and the judgement on their checksums, sharing no code
//! with natbpf.

use std::fmt;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail, ensure};
use etherparse::{Icmpv4Slice, Icmpv6Slice, IpNumber, Ipv4HeaderSlice, TcpSlice, UdpSlice};

/// An IPv4 packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Where it comes from.
    pub source: Ipv4Addr,
    /// Where it goes.
    pub destination: Ipv4Addr,
    /// Hops left.
    pub ttl: u8,
    /// The byte with DSCP and ECN.
    pub tos: u8,
    /// The identification that the fragments of a packet share.
    pub id: u16,
    /// The number of the protocol inside.
    pub protocol: u8,
    /// IP options, as they are.
    pub options: Vec<u8>,
    /// What is inside.
    pub l4: L4,
    /// The packet, from the IP header on.
    pub bytes: Vec<u8>,
}

/// What an IP packet holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum L4 {
    /// A TCP segment.
    Tcp {
        /// The port it comes from.
        source: u16,
        /// The port it goes to.
        destination: u16,
        /// FIN 1, SYN 2, RST 4, PSH 8, ACK 16, ….
        flags: u8,
        /// TCP options, as they are.
        options: Vec<u8>,
        /// The data.
        payload: Vec<u8>,
    },
    /// A UDP datagram.
    Udp {
        /// The port it comes from.
        source: u16,
        /// The port it goes to.
        destination: u16,
        /// The checksum field; 0 for none.
        checksum: u16,
        /// The data.
        payload: Vec<u8>,
    },
    /// An ICMP or ICMPv6 message.
    Icmp {
        /// The type.
        kind: u8,
        /// The code.
        code: u8,
        /// The four bytes after the checksum: identifier and sequence of an echo, MTU of 3/4.
        rest: [u8; 4],
        /// Everything after the first eight bytes: the inner packet of an error.
        payload: Vec<u8>,
    },
    /// A fragment, or another protocol, or too short for the above: everything after the header.
    Other(Vec<u8>),
}

impl Packet {
    /// Takes a packet apart; `None` when it is no whole IPv4 packet.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes = ipv4_of(bytes)?;
        let header = Ipv4HeaderSlice::from_slice(bytes).ok()?;
        let inside = bytes.get(header.slice().len()..)?;
        Some(Self {
            source: header.source_addr(),
            destination: header.destination_addr(),
            ttl: header.ttl(),
            tos: bytes[1],
            id: header.identification(),
            protocol: header.protocol().0,
            options: header.options().to_vec(),
            l4: L4::parse(header.protocol(), header.is_fragmenting_payload(), inside),
            bytes: bytes.to_vec(),
        })
    }

    /// The ports of TCP and UDP; the identifier of an ICMP echo twice.
    #[must_use]
    pub fn ports(&self) -> Option<(u16, u16)> {
        match &self.l4 {
            L4::Tcp {
                source,
                destination,
                ..
            }
            | L4::Udp {
                source,
                destination,
                ..
            } => Some((*source, *destination)),
            L4::Icmp {
                kind: 0 | 8,
                rest: [a, b, ..],
                ..
            } => {
                let id = u16::from_be_bytes([*a, *b]);
                Some((id, id))
            }
            _ => None,
        }
    }

    /// Type and code of an ICMP message.
    #[must_use]
    pub fn icmp(&self) -> Option<(u8, u8)> {
        match &self.l4 {
            L4::Icmp { kind, code, .. } => Some((*kind, *code)),
            _ => None,
        }
    }

    /// The data of TCP, UDP and ICMP.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        match &self.l4 {
            L4::Tcp { payload, .. } | L4::Udp { payload, .. } | L4::Icmp { payload, .. } => payload,
            L4::Other(bytes) => bytes,
        }
    }

    /// The packet that an ICMP error is about, in as many bytes as were quoted.
    #[must_use]
    pub fn quoted(&self) -> Option<&[u8]> {
        match &self.l4 {
            L4::Icmp {
                kind: 3 | 5 | 11 | 12,
                payload,
                ..
            } => Some(payload),
            _ => None,
        }
    }
}

impl L4 {
    pub(crate) fn parse(protocol: IpNumber, fragment: bool, bytes: &[u8]) -> Self {
        let parsed = match protocol {
            _ if fragment => None,
            IpNumber::TCP => TcpSlice::from_slice(bytes).ok().map(|tcp| Self::Tcp {
                source: tcp.source_port(),
                destination: tcp.destination_port(),
                flags: bytes[13],
                options: tcp.options().to_vec(),
                payload: tcp.payload().to_vec(),
            }),
            IpNumber::UDP => UdpSlice::from_slice(bytes).ok().map(|udp| Self::Udp {
                source: udp.source_port(),
                destination: udp.destination_port(),
                checksum: udp.checksum(),
                payload: udp.payload().to_vec(),
            }),
            IpNumber::ICMP => Icmpv4Slice::from_slice(bytes).ok().map(|icmp| Self::Icmp {
                kind: icmp.type_u8(),
                code: icmp.code_u8(),
                rest: icmp.bytes5to8(),
                payload: bytes[8..].to_vec(),
            }),
            IpNumber::IPV6_ICMP => Icmpv6Slice::from_slice(bytes).ok().map(|icmp| Self::Icmp {
                kind: icmp.type_u8(),
                code: icmp.code_u8(),
                rest: icmp.bytes5to8(),
                payload: bytes[8..].to_vec(),
            }),
            _ => None,
        };
        parsed.unwrap_or_else(|| Self::Other(bytes.to_vec()))
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to, ttl) = (self.source, self.destination, self.ttl);
        match &self.l4 {
            L4::Tcp {
                source,
                destination,
                flags,
                payload,
                ..
            } => {
                let length = payload.len();
                write!(
                    f,
                    "tcp {from}:{source} > {to}:{destination} flags {flags:#04x} "
                )?;
                write!(f, "ttl {ttl} {length} bytes")
            }
            L4::Udp {
                source,
                destination,
                payload,
                ..
            } => {
                let length = payload.len();
                write!(
                    f,
                    "udp {from}:{source} > {to}:{destination} ttl {ttl} {length} bytes"
                )
            }
            L4::Icmp {
                kind,
                code,
                rest,
                payload,
            } => {
                write!(f, "icmp {kind}/{code} {from} > {to} ttl {ttl} {rest:02x?}")?;
                match (self.quoted(), Self::parse(payload)) {
                    (Some(_), Some(inner)) => write!(f, " about [{inner}]"),
                    _ => Ok(()),
                }
            }
            L4::Other(bytes) => {
                let (number, length) = (self.protocol, bytes.len());
                write!(
                    f,
                    "protocol {number} {from} > {to} ttl {ttl} {length} bytes"
                )
            }
        }
    }
}

/// The IPv4 packet at the start of `bytes`, without the padding after it.
pub(crate) fn ipv4_of(bytes: &[u8]) -> Option<&[u8]> {
    let first = bytes.first()?;
    let total = u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]);
    (first >> 4 == 4).then(|| bytes.get(..total.into()))?
}

/// Judges the checksums of an IPv4 packet: of the IP header, of TCP, UDP and ICMP, and of the IP
/// header that an ICMP error quotes. With `pending`, the L4 checksum is one that a device will
/// finish, and must hold the pseudo header's sum.
///
/// # Errors
/// Says which checksum is wrong, and what it should be.
pub fn checksums(bytes: &[u8], pending: bool) -> Result<()> {
    let (header, inside) = ip_header(bytes)?;
    if header.is_fragmenting_payload() {
        return Ok(());
    }
    if pending {
        return pending_checksum(&header, inside);
    }
    l4_checksum(&header, inside)?;
    if let Some(quoted) = Packet::parse(bytes).as_ref().and_then(Packet::quoted) {
        ip_header(quoted).context("quoted in an ICMP error")?;
    }
    Ok(())
}

/// Checks the checksums of the packet that an ICMP error quotes, as far as it is complete. Not for
/// errors about packets whose checksum was unfinished.
///
/// # Errors
/// When `bytes` is no ICMP error, or a checksum in the quoted packet is wrong.
pub fn inner_checksums(bytes: &[u8]) -> Result<()> {
    let packet = Packet::parse(bytes).context("no IPv4 packet")?;
    let quoted = packet.quoted().context("no ICMP error")?;
    let (header, inside) = ip_header(quoted)?;
    match inside.get(..usize::from(header.total_len()).saturating_sub(header.slice().len())) {
        Some(whole) => l4_checksum(&header, whole).context("quoted in an ICMP error"),
        None => Ok(()),
    }
}

fn ip_header(bytes: &[u8]) -> Result<(Ipv4HeaderSlice<'_>, &[u8])> {
    let header = Ipv4HeaderSlice::from_slice(bytes).context("no IPv4 header")?;
    // Over the bytes: etherparse's own sum leaves the reserved flag out.
    ensure!(
        ones_complement_sum(&[header.slice()]) == 0xffff,
        "the IP header checksum is wrong"
    );
    let inside = &bytes[header.slice().len()..];
    Ok((header, inside))
}

fn l4_checksum(header: &Ipv4HeaderSlice<'_>, inside: &[u8]) -> Result<()> {
    // With a right checksum in place, all of it sums up to all ones (RFC 1071). Both zeros of
    // ones' complement are right in TCP; in UDP, a field of 0 means that there is none.
    let (name, sum) = match header.protocol() {
        IpNumber::UDP if inside.get(6..8) == Some(&[0, 0]) => return Ok(()),
        IpNumber::UDP => (
            "UDP",
            ones_complement_sum(&[&pseudo_header(header, inside)?, inside]),
        ),
        IpNumber::TCP => (
            "TCP",
            ones_complement_sum(&[&pseudo_header(header, inside)?, inside]),
        ),
        IpNumber::ICMP => ("ICMP", ones_complement_sum(&[inside])),
        _ => return Ok(()),
    };
    ensure!(
        sum == 0xffff,
        "the {name} checksum is wrong: all of it sums up to {sum:#06x}"
    );
    Ok(())
}

/// Addresses, protocol and length, which the checksums of TCP and UDP cover (RFC 9293, 3.1).
fn pseudo_header(header: &Ipv4HeaderSlice<'_>, inside: &[u8]) -> Result<Vec<u8>> {
    let length = u32::try_from(inside.len()).context("a packet of more than 4 GiB")?;
    let protocol = [0, header.protocol().0];
    Ok([
        &header.source()[..],
        &header.destination(),
        &protocol,
        &length.to_be_bytes(),
    ]
    .concat())
}

/// An unfinished checksum must be the sum of the pseudo header, which the device takes as its
/// start. 0 and 0xffff are the same sum.
fn pending_checksum(header: &Ipv4HeaderSlice<'_>, inside: &[u8]) -> Result<()> {
    let at = match header.protocol() {
        IpNumber::TCP => 16,
        IpNumber::UDP => 6,
        other => bail!("an unfinished checksum in protocol {}", other.0),
    };
    let Some(field) = inside.get(at..at + 2) else {
        bail!("L4 header cut off")
    };
    let sum = ones_complement_sum(&[&pseudo_header(header, inside)?]);
    let is = u16::from_be_bytes([field[0], field[1]]);
    ensure!(
        is % 0xffff == sum % 0xffff,
        "unfinished checksum {is:#06x}, should be {sum:#06x}"
    );
    Ok(())
}

/// The sum of RFC 1071 over parts; only the last may have an odd length; its complement is the
/// Internet checksum.
#[must_use]
pub fn ones_complement_sum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    words.fold(0, |sum: u16, word| {
        let word = u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]);
        let (sum, carry) = sum.overflowing_add(word);
        sum + u16::from(carry)
    })
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    fn udp() -> Vec<u8> {
        let mut bytes = Vec::new();
        PacketBuilder::ipv4([192, 0, 2, 1], [192, 0, 2, 2], 7)
            .udp(1000, 2000)
            .write(&mut bytes, b"hello")
            .expect("a Vec takes everything");
        bytes
    }

    #[test]
    fn a_packet_comes_apart() {
        let packet = Packet::parse(&udp()).expect("a whole packet");
        assert_eq!(packet.ports(), Some((1000, 2000)));
        assert_eq!(packet.payload(), b"hello");
        assert_eq!(
            packet.to_string(),
            "udp 192.0.2.1:1000 > 192.0.2.2:2000 ttl 7 5 bytes"
        );
    }

    #[test]
    fn right_checksums_are_right_and_any_flipped_bit_is_noticed() {
        let good = udp();
        checksums(&good, false).expect("untouched");
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(checksums(&bad, false).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn an_unfinished_checksum_must_be_that_of_the_pseudo_header() {
        let mut bytes = udp();
        // 192.0.2.1 + 192.0.2.2 + protocol 17 + length 13, folded.
        bytes[26..28].copy_from_slice(&0x8422_u16.to_be_bytes());
        assert!(checksums(&bytes, false).is_err());
        checksums(&bytes, true).expect("c000 + 0201 + c000 + 0202 + 11 + d = 8422");
        bytes[27] += 1;
        assert!(checksums(&bytes, true).is_err());
    }
}
