//! IPv6 packets with extension headers, built byte by byte.

use core::net::Ipv6Addr;

use nat_common::{
    drop_reason::DropReason,
    headers::parsed::{Parsed, parse},
    wire::{address::Addr6, packet::SlicePacket},
};

pub(crate) const GUEST: &str = "2001:db8:1::10";
pub(crate) const REMOTE: &str = "2001:db8:ffff::5";

/// Length of the link's header in front of each packet in bytes.
pub(crate) const L3: usize = 14;

pub(crate) const HOP_BY_HOP: u8 = 0;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ROUTING: u8 = 43;
pub(crate) const FRAGMENT: u8 = 44;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const NO_NEXT_HEADER: u8 = 59;
pub(crate) const DESTINATION_OPTIONS: u8 = 60;

pub(crate) fn address(text: &str) -> Addr6 {
    let address: Ipv6Addr = text.parse().expect("an IPv6 address");
    Addr6::new(address.octets())
}

/// A packet from [`GUEST`] to [`REMOTE`]: `extensions` by their numbers and bytes, the length and
/// the next header left out, and then `payload` of `protocol`.
pub(crate) fn packet(extensions: &[(u8, Vec<u8>)], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut behind = Vec::new();
    for (at, (number, bytes)) in extensions.iter().enumerate() {
        let next = extensions
            .get(at + 1)
            .map_or(protocol, |(number, _)| *number);
        let mut header = vec![next, 0];
        header.extend(bytes);
        assert_eq!(header.len() % 8, 0, "extension {number}");
        if *number != FRAGMENT {
            header[1] = (header.len() / 8 - 1) as u8;
        }
        behind.extend(header);
    }
    behind.extend(payload);
    let first = extensions.first().map_or(protocol, |(number, _)| *number);
    let mut bytes = vec![0; 12];
    bytes.extend([0x86, 0xdd, 0x6a, 0xbc, 0xde, 0xf0]);
    bytes.extend((behind.len() as u16).to_be_bytes());
    bytes.extend([first, 64]);
    bytes.extend(address(GUEST).bytes());
    bytes.extend(address(REMOTE).bytes());
    bytes.extend(behind);
    bytes
}

/// Options that say nothing: one padding of six bytes (RFC 8200 section 4.2).
pub(crate) fn padding() -> Vec<u8> {
    vec![1, 4, 0, 0, 0, 0]
}

pub(crate) fn fragment(offset: u16, more: bool, id: u32) -> Vec<u8> {
    let mut bytes = (offset | u16::from(more)).to_be_bytes().to_vec();
    bytes.extend(id.to_be_bytes());
    bytes
}

pub(crate) fn udp(data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x13, 0x88, 0, 53];
    bytes.extend((8 + data.len() as u16).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(data);
    bytes
}

pub(crate) fn read(bytes: &[u8]) -> Result<Parsed<Addr6>, DropReason> {
    let mut bytes = bytes.to_vec();
    let mut parsed = Parsed::EMPTY;
    parse(&SlicePacket::new(&mut bytes, 1), L3, &mut parsed).map(|()| parsed)
}

/// The one's complement sum of the pseudo-header and the transport's bytes, 0xffff if right.
pub(crate) fn transport_sum(bytes: &[u8], l4: usize, protocol: u8) -> u16 {
    let mut words = bytes[L3 + 8..L3 + 40].to_vec();
    words.extend(((bytes.len() - l4) as u32).to_be_bytes());
    words.extend([0, 0, 0, protocol]);
    words.extend(&bytes[l4..]);
    let mut sum = 0_u64;
    for pair in words.chunks(2) {
        sum += u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Fills the transport's checksum in at `field` bytes behind `l4`.
pub(crate) fn fill_in(bytes: &mut [u8], l4: usize, field: usize, protocol: u8) {
    bytes[l4 + field..l4 + field + 2].fill(0);
    let sum = !transport_sum(bytes, l4, protocol);
    bytes[l4 + field..l4 + field + 2].copy_from_slice(&sum.to_be_bytes());
}
