//! Reading IPv6 headers: nothing beyond the packet, and what another reader sees in it.

use etherparse::{Ipv6HeaderSlice, TcpHeaderSlice, UdpHeaderSlice};
use nat_common::{
    drop_reason::DropReason,
    family::Family as _,
    headers::{
        parsed::{Parsed, parse, parse_plain},
        quoted::{Quoted, read_quoted},
    },
    wire::{
        address::Addr6,
        packet::SlicePacket,
        protocol::{ICMPV6, TCP, UDP},
    },
};

use crate::{
    frame::{DCCP, UDP_LITE},
    header::{Header, Read as _, is_extension},
    input::Input,
};

/// Parses any bytes, with the network header at any offset.
///
/// # Panics
///
/// If a packet is refused that the other reader takes, or taken that it refuses, if both see
/// another thing in it, or if the fast path sees another thing than the slow one.
pub(crate) fn parsing_ipv6(data: &[u8]) {
    let mut input = Input::new(data);
    // Behind Ethernet, on a device without a link header, or anywhere.
    let anywhere = usize::from(input.byte());
    let l3 = input.one_of(&[14, 0, anywhere]);
    let bytes = input.rest();
    let mut copy = bytes.to_vec();
    let packet = SlicePacket::new(&mut copy, 1);
    let mut parsed = Parsed::<Addr6>::EMPTY;
    let outcome = parse(&packet, l3, &mut parsed);
    let plain = parse_plain::<Addr6, _>(&packet, l3);
    let has_quote = outcome.is_ok() && read_quoted(&packet, &parsed, &mut { Quoted::EMPTY });
    let ahead = Addr6::route_ahead(&packet, l3);
    assert_eq!(copy, bytes, "reading changes nothing");
    let expected = bytes.get(l3..).and_then(expected);
    let Some(expected) = expected else {
        assert!(outcome.is_err(), "malformed, but taken: {parsed:?}");
        assert_eq!(plain, None);
        return;
    };
    if ahead == Some(0) {
        assert_eq!(outcome, Err(DropReason::Malformed), "RFC 5095");
        return;
    }
    assert_eq!(outcome, Ok(()), "well-formed, but refused: {expected:?}");
    assert_eq!(seen(&parsed), expected);
    assert_eq!((parsed.l3, parsed.l4), (l3, l3 + expected.header_len));
    assert!(parsed.end() <= bytes.len());
    assert!(parsed.l4 + parsed.transport_len <= parsed.end());
    let is_plain = expected.header_len == Addr6::HEADER_LEN;
    assert_eq!(plain, is_plain.then_some(parsed));
    // At least the quoted header has been there.
    assert!(!has_quote || parsed.end() - parsed.l4 >= 8 + Addr6::HEADER_LEN);
}

/// What both readers tell.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    header_len: usize,
    total_len: usize,
    protocol: u8,
    addresses: [[u8; 16]; 2],
    id: u32,
    fragment: (u16, bool),
    ports: [u16; 2],
    transport_len: usize,
}

fn seen(parsed: &Parsed<Addr6>) -> Seen {
    let header = &parsed.header;
    Seen {
        header_len: header.header_len,
        total_len: header.total_len,
        protocol: header.protocol,
        addresses: [header.source.bytes(), header.destination.bytes()],
        id: header.id,
        fragment: (header.fragment_offset, header.more_fragments),
        ports: [
            parsed.source_port.number(),
            parsed.destination_port.number(),
        ],
        transport_len: parsed.transport_len,
    }
}

/// What the other reader sees; `None` if it sees no packet that could be translated.
fn expected(bytes: &[u8]) -> Option<Seen> {
    let ip = Ipv6HeaderSlice::from_slice(bytes).ok()?;
    let Header {
        len: header_len,
        total_len,
        protocol,
        offset,
        more,
        id,
        ..
    } = <[u8; 16]>::header(bytes)?;
    let message = bytes.get(header_len..total_len)?;
    let is_reached = offset != 0 || !is_extension(protocol);
    // A payload of 0 bytes is that of a packet before segmentation, or of one that has nothing.
    if !is_reached || ip.payload_length() == 0 && ip.next_header().0 != 59 {
        return None;
    }
    let (ports, transport_len) = match offset {
        0 => transport(protocol, message, more)?,
        _ => ([0; 2], 0),
    };
    let id = bytes.get(id).and_then(<[u8]>::first_chunk).copied();
    Some(Seen {
        header_len,
        total_len,
        protocol,
        addresses: [ip.source(), ip.destination()],
        id: id.map_or(0, u32::from_be_bytes),
        fragment: (offset, more),
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
        ICMPV6 => {
            let header: &[u8; 8] = message.first_chunk()?;
            let id = u16::from_be_bytes([header[4], header[5]]);
            // The query's type replaces the server's port.
            let ports = match header[0] {
                128 => [id, 128],
                129 => [128, id],
                _ => [0; 2],
            };
            Some((ports, 8))
        }
        UDP_LITE | DCCP if message.len() < 8 => None,
        _ => Some(([0; 2], 0)),
    }
}
