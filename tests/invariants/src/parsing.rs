//! Reading headers: nothing beyond the packet, and what an independent reader sees in it.

use etherparse::{Ipv4HeaderSlice, TcpHeaderSlice, UdpHeaderSlice};
use nat_common::{
    headers::parsed::{Parsed, parse},
    wire::{
        address::Addr4,
        packet::SlicePacket,
        protocol::{ICMP, TCP, UDP},
    },
};

use crate::{
    frame::{DCCP, UDP_LITE},
    input::Input,
};

/// Parses any bytes, with the network header at any offset.
///
/// # Panics
///
/// If a packet is refused that etherparse takes, or taken that it refuses, or if both see another
/// thing in it.
pub(crate) fn parsing(data: &[u8]) {
    let mut input = Input::new(data);
    // Behind Ethernet, on a device without a link header, or anywhere.
    let anywhere = usize::from(input.byte());
    let l3 = input.one_of(&[14, 0, anywhere]);
    let bytes = input.rest();
    let mut copy = bytes.to_vec();
    let mut parsed = Parsed::<Addr4>::EMPTY;
    let outcome = parse(&SlicePacket::new(&mut copy, 1), l3, &mut parsed);
    assert_eq!(copy, bytes, "reading changes nothing");
    let expected = bytes.get(l3..).and_then(expected);
    let Some(expected) = expected else {
        assert!(outcome.is_err(), "malformed, but taken: {parsed:?}");
        return;
    };
    assert_eq!(outcome, Ok(()), "well-formed, but refused: {expected:?}");
    assert_eq!(seen(&parsed), expected);
    assert_eq!((parsed.l3, parsed.l4), (l3, l3 + expected.header_len));
    assert!(parsed.end() <= bytes.len());
    assert!(parsed.l4 + parsed.transport_len <= parsed.end());
}

/// What both readers tell.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    header_len: usize,
    total_len: usize,
    protocol: u8,
    addresses: [[u8; 4]; 2],
    id: u32,
    fragment: (u16, bool),
    ports: [u16; 2],
    transport_len: usize,
}

fn seen(parsed: &Parsed<Addr4>) -> Seen {
    let header = &parsed.header;
    Seen {
        header_len: header.header_len,
        total_len: header.total_len,
        protocol: header.protocol,
        addresses: [header.source.0, header.destination.0],
        id: header.id,
        fragment: (header.fragment_offset, header.more_fragments),
        ports: [
            parsed.source_port.number(),
            parsed.destination_port.number(),
        ],
        transport_len: parsed.transport_len,
    }
}

/// What etherparse sees; `None` if it sees no packet that could be translated.
fn expected(bytes: &[u8]) -> Option<Seen> {
    let ip = Ipv4HeaderSlice::from_slice(bytes).ok()?;
    let header_len = ip.slice().len();
    let total_len = usize::from(ip.total_len());
    let message = bytes.get(header_len..total_len)?;
    let offset = ip.fragments_offset().value() * 8;
    let protocol = ip.protocol().0;
    let (ports, transport_len) = match offset {
        0 => transport(protocol, message, ip.more_fragments())?,
        _ => ([0; 2], 0),
    };
    Some(Seen {
        header_len,
        total_len,
        protocol,
        addresses: [ip.source(), ip.destination()],
        id: ip.identification().into(),
        fragment: (offset, ip.more_fragments()),
        ports,
        transport_len,
    })
}

/// Ports and length of the header of a message that is whole, or the first part of one.
fn transport(protocol: u8, message: &[u8], more_fragments: bool) -> Option<([u16; 2], usize)> {
    match protocol {
        TCP => {
            let tcp = TcpHeaderSlice::from_slice(message).ok()?;
            let ports = [tcp.source_port(), tcp.destination_port()];
            Some((ports, tcp.slice().len()))
        }
        UDP => {
            let udp = UdpHeaderSlice::from_slice(message).ok()?;
            let len = usize::from(udp.length());
            let fits = len >= 8 && (more_fragments || len <= message.len());
            fits.then(|| ([udp.source_port(), udp.destination_port()], 8))
        }
        ICMP => {
            let header: &[u8; 8] = message.first_chunk()?;
            let id = u16::from_be_bytes([header[4], header[5]]);
            // The query's type replaces the server's port.
            let ports = match header[0] {
                query @ (8 | 13 | 15 | 17) => [id, query.into()],
                0 => [8, id],
                answer @ (14 | 16 | 18) => [u16::from(answer) - 1, id],
                _ => [0; 2],
            };
            Some((ports, 8))
        }
        UDP_LITE | DCCP if message.len() < 8 => None,
        _ => Some(([0; 2], 0)),
    }
}
