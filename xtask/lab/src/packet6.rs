//! IPv6 packets taken apart (by etherparse), and the judgement on their checksums, sharing no code
//! with natbpf.

use std::fmt;
use std::net::Ipv6Addr;

use anyhow::{Context, Result, ensure};
use etherparse::{IpNumber, Ipv6Slice};

use crate::packet::{L4, ones_complement_sum};

/// An IPv6 packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet6 {
    /// Where it comes from.
    pub source: Ipv6Addr,
    /// Where it goes.
    pub destination: Ipv6Addr,
    /// Hops left.
    pub hop_limit: u8,
    /// The traffic class.
    pub class: u8,
    /// The flow label.
    pub flow_label: u32,
    /// The number of the protocol behind all extension headers.
    pub protocol: u8,
    /// Whether it is a fragment.
    pub is_fragment: bool,
    /// What is inside.
    pub l4: L4,
    /// The packet, from the IP header on.
    pub bytes: Vec<u8>,
}

impl Packet6 {
    /// Takes a packet apart; `None` when it is no whole IPv6 packet.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes = ipv6_of(bytes)?;
        let slice = Ipv6Slice::from_slice(bytes).ok()?;
        let (header, inside) = (slice.header(), slice.payload());
        Some(Self {
            source: header.source_addr(),
            destination: header.destination_addr(),
            hop_limit: header.hop_limit(),
            class: header.traffic_class(),
            flow_label: header.flow_label().value(),
            protocol: inside.ip_number.0,
            is_fragment: inside.fragmented,
            l4: L4::parse(inside.ip_number, inside.fragmented, inside.payload),
            bytes: bytes.to_vec(),
        })
    }

    /// The ports of TCP and UDP; the identifier of an ICMPv6 echo twice.
    #[must_use]
    pub fn ports(&self) -> Option<(u16, u16)> {
        match self.l4 {
            L4::Tcp {
                source,
                destination,
                ..
            }
            | L4::Udp {
                source,
                destination,
                ..
            } => Some((source, destination)),
            L4::Icmp {
                kind: 128 | 129,
                rest: [a, b, ..],
                ..
            } => {
                let id = u16::from_be_bytes([a, b]);
                Some((id, id))
            }
            _ => None,
        }
    }

    /// Type and code of an ICMPv6 message.
    #[must_use]
    pub fn icmp(&self) -> Option<(u8, u8)> {
        match &self.l4 {
            L4::Icmp { kind, code, .. } => Some((*kind, *code)),
            _ => None,
        }
    }

    /// The target of a neighbour solicitation or advertisement (RFC 4861, 4.3 and 4.4).
    #[must_use]
    pub fn target(&self) -> Option<Ipv6Addr> {
        let (135 | 136, 0) = self.icmp()? else {
            return None;
        };
        let octets: [u8; 16] = self.payload().get(..16)?.try_into().ok()?;
        Some(octets.into())
    }

    /// The data of TCP, UDP and ICMPv6.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        match &self.l4 {
            L4::Tcp { payload, .. } | L4::Udp { payload, .. } | L4::Icmp { payload, .. } => payload,
            L4::Other(bytes) => bytes,
        }
    }

    /// The packet that an ICMPv6 error is about, in as many bytes as were quoted.
    #[must_use]
    pub fn quoted(&self) -> Option<&[u8]> {
        match &self.l4 {
            L4::Icmp {
                kind: 1..=4,
                payload,
                ..
            } => Some(payload),
            _ => None,
        }
    }
}

impl fmt::Display for Packet6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to, hops) = (self.source, self.destination, self.hop_limit);
        let length = self.payload().len();
        match &self.l4 {
            L4::Tcp {
                source,
                destination,
                flags,
                ..
            } => write!(
                f,
                "tcp [{from}]:{source} > [{to}]:{destination} flags {flags:#04x} "
            )?,
            L4::Udp {
                source,
                destination,
                ..
            } => write!(f, "udp [{from}]:{source} > [{to}]:{destination} ")?,
            L4::Icmp {
                kind, code, rest, ..
            } => write!(f, "icmpv6 {kind}/{code} {from} > {to} {rest:02x?} ")?,
            L4::Other(_) => write!(f, "protocol {} {from} > {to} ", self.protocol)?,
        }
        write!(f, "hop limit {hops} {length} bytes")
    }
}

/// The IPv6 packet at the start of `bytes`, without the padding after it.
pub(crate) fn ipv6_of(bytes: &[u8]) -> Option<&[u8]> {
    let payload = u16::from_be_bytes([*bytes.get(4)?, *bytes.get(5)?]);
    let total = usize::from(payload) + HEADER_LEN;
    (bytes[0] >> 4 == 6).then(|| bytes.get(..total))?
}

const HEADER_LEN: usize = 40;

/// Judges the checksum of TCP, UDP or ICMPv6 in an IPv6 packet. With `pending`, it is one that a
/// device will finish, and must hold the pseudo header's sum.
///
/// # Errors
/// When it is wrong, or the packet is cut off.
pub(crate) fn checksums(bytes: &[u8], pending: bool) -> Result<()> {
    let slice = Ipv6Slice::from_slice(bytes).context("no IPv6 packet")?;
    let inside = slice.payload();
    let (name, at) = match inside.ip_number {
        _ if inside.fragmented => return Ok(()),
        IpNumber::TCP => ("TCP", 16),
        IpNumber::UDP => ("UDP", 6),
        IpNumber::IPV6_ICMP => ("ICMPv6", 2),
        _ => return Ok(()),
    };
    let header = slice.header();
    let length = u32::try_from(inside.payload.len()).context("a packet of more than 4 GiB")?;
    // RFC 8200, 8.1.
    let pseudo = [
        &header.source()[..],
        &header.destination(),
        &length.to_be_bytes(),
        &[0, 0, 0, inside.ip_number.0],
    ]
    .concat();
    let field = inside
        .payload
        .get(at..at + 2)
        .context("L4 header cut off")?;
    let field = u16::from_be_bytes([field[0], field[1]]);
    if pending {
        let sum = ones_complement_sum(&[&pseudo]);
        ensure!(
            field % 0xffff == sum % 0xffff,
            "unfinished checksum {field:#06x}, should be {sum:#06x}"
        );
        return Ok(());
    }
    if (name, field) == ("UDP", 0) {
        return Ok(());
    }
    let sum = ones_complement_sum(&[&pseudo, inside.payload]);
    ensure!(
        sum == 0xffff,
        "the {name} checksum is wrong: all of it sums up to {sum:#06x}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    fn udp() -> Vec<u8> {
        let [from, to] = ["2001:db8::1", "2001:db8::2"].map(|text| {
            let address: Ipv6Addr = text.parse().expect("an address");
            address.octets()
        });
        let mut bytes = Vec::new();
        PacketBuilder::ipv6(from, to, 7)
            .udp(1000, 2000)
            .write(&mut bytes, b"hello")
            .expect("a Vec takes everything");
        bytes
    }

    #[test]
    fn an_ipv6_packet_comes_apart_without_its_padding() {
        let padded = [&udp()[..], &[0; 6]].concat();
        let packet = Packet6::parse(&padded).expect("a whole packet");
        assert_eq!(packet.ports(), Some((1000, 2000)));
        assert_eq!(packet.payload(), b"hello");
        assert_eq!(
            packet.to_string(),
            "udp [2001:db8::1]:1000 > [2001:db8::2]:2000 hop limit 7 5 bytes"
        );
    }

    #[test]
    fn a_flipped_bit_in_addresses_or_datagram_makes_the_checksum_wrong() {
        let good = udp();
        checksums(&good, false).expect("untouched");
        for bit in 8 * 8..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(checksums(&bad, false).is_err(), "bit {bit}");
        }
    }
}
