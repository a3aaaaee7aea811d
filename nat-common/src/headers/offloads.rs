//! Compares what a device will do to a packet later with the packet's headers.
//!
//! A guest says in a virtio header where a device must write its packet's checksum, and the kernel
//! believes it. This place must not overlap or precede the fields that a translation writes: the
//! device would write an address or a port of the guest's choice.

use crate::{
    headers::parsed::{Parsed, Transport},
    wire::{
        address::Address,
        offload::Offload,
        packet::Packet,
        protocol::{TCP, TCP_CHECKSUM, UDP, UDP_CHECKSUM},
    },
};

/// Where an IPv4 or IPv6 header names the protocol that follows it.
const PROTOCOL_AT: [usize; 2] = [9, 6];
/// Offset of a TCP header's own length.
const TCP_LENGTH: usize = 12;
/// Length of a UDP header in bytes.
const UDP_HEADER: usize = 8;

/// Whether a device that fills in a packet's checksum leaves the translated fields unchanged.
#[inline(always)]
pub fn is_sound<A: Address>(parsed: &Parsed<A>, offload: Offload) -> bool {
    let Some(field) = offload.field() else {
        return true;
    };
    let l4 = parsed.l4 - parsed.l3;
    let first = match parsed.transport {
        Transport::Tcp { .. } => l4 + TCP_CHECKSUM,
        Transport::Udp => l4 + UDP_CHECKSUM,
        Transport::Opaque | Transport::LaterFragment => l4,
        // Linux leaves no checksum of ICMP to a device, and the quoted packet is translated too.
        Transport::IcmpQuery { .. }
        | Transport::IcmpError
        | Transport::IcmpOther
        | Transport::Neighbours => return false,
    };
    field as isize >= first as isize
}

/// Bytes from the network header on that each segment of a packet repeats, inner headers included;
/// `None` if that is unknown.
#[inline(always)]
pub fn segment_headers<A: Address, P: Packet>(packet: &P, parsed: &Parsed<A>) -> Option<usize> {
    let own = parsed.headers_len();
    match parsed.transport {
        Transport::Tcp { .. } => Some(own),
        Transport::Udp => non_zero(datagram_headers(packet, parsed.l3, own)),
        _ => non_zero(inner_headers(packet, parsed.l3)),
    }
}

#[inline(always)]
const fn non_zero(len: usize) -> Option<usize> {
    match len {
        0 => None,
        len => Some(len),
    }
}

/// The same for a datagram whose own headers are `own` bytes long; 0 if that is unknown.
#[inline(always)]
fn datagram_headers<P: Packet>(packet: &P, l3: usize, own: usize) -> usize {
    let offload = packet.offload();
    if offload.is_encapsulated() {
        return inner_headers(packet, l3);
    }
    match offload.is_known() {
        true => own,
        false => 0,
    }
}

/// The same for a packet in a tunnel; 0 if it is in none, or contains neither TCP nor UDP. (A
/// separate function, because few packets need it.)
#[inline(never)]
fn inner_headers<P: Packet>(packet: &P, l3: usize) -> usize {
    packet
        .offload()
        .inner()
        .and_then(|(network, transport)| {
            let [version, _] = packet.read::<2>(l3 + network)?;
            let at = PROTOCOL_AT[usize::from(version >> 4 == 6)];
            let [protocol, _] = packet.read::<2>(l3 + network + at)?;
            match protocol {
                TCP => {
                    let [len, _] = packet.read::<2>(l3 + transport + TCP_LENGTH)?;
                    Some(transport + usize::from(len >> 4) * 4)
                }
                UDP => Some(transport + UDP_HEADER),
                _ => None,
            }
        })
        .unwrap_or(0)
}
