//! Writing a translation into a packet.
//!
//! [`crate::headers::parsed`] has read everything that is written here, so a rewrite cannot stop
//! half way because of missing bytes.

use crate::{
    drop_reason::DropReason,
    family::Family,
    headers::{
        offloads::is_sound,
        parsed::{Parsed, Transport},
    },
    wire::{
        address::{Address, Endpoint, Port},
        checksum::Diff,
        offload::Offload,
        packet::{ChecksumKind, Packet},
        protocol::{DCCP, ICMP_CHECKSUM, TCP_CHECKSUM, UDP_CHECKSUM, UDP_LITE},
    },
};

/// Offset of the identifier in an ICMP query.
const ICMP_ID: usize = 4;

/// Gives the packet a new source and destination.
///
/// # Errors
///
/// [`DropReason::RewriteFailed`] if the packet cannot be written to, [`DropReason::FalseOffload`]
/// if a device would write over the translation; the caller drops it.
#[inline(always)]
pub fn rewrite<A: Family, P: Packet>(
    packet: &mut P,
    parsed: &Parsed<A>,
    source: Endpoint<A>,
    destination: Endpoint<A>,
) -> Result<(), DropReason> {
    let offload = packet.offload();
    if !is_sound(parsed, offload) {
        return Err(DropReason::FalseOffload);
    }
    write(packet, parsed, offload, source, destination).ok_or(DropReason::RewriteFailed)
}

/// As [`rewrite`], and decrements the time to live, as a router does.
///
/// # Errors
///
/// As [`rewrite`].
#[inline(always)]
pub fn rewrite_forwarded<A: Family, P: Packet>(
    packet: &mut P,
    parsed: &Parsed<A>,
    source: Endpoint<A>,
    destination: Endpoint<A>,
) -> Result<(), DropReason> {
    let offload = packet.offload_fast();
    if !is_sound(parsed, offload) {
        return Err(DropReason::FalseOffload);
    }
    let addresses = address_diff(parsed, source, destination);
    write_ports::<A, P, true>(packet, parsed, offload, [source, destination], addresses)
        .and_then(|()| {
            let (source, destination) = (source.address, destination.address);
            A::write_forwarded(packet, parsed.l3, source, destination, addresses)
        })
        .ok_or(DropReason::RewriteFailed)
}

#[inline(always)]
fn write<A: Family, P: Packet>(
    packet: &mut P,
    parsed: &Parsed<A>,
    offload: Offload,
    source: Endpoint<A>,
    destination: Endpoint<A>,
) -> Option<()> {
    let addresses = address_diff(parsed, source, destination);
    write_ports::<A, P, false>(packet, parsed, offload, [source, destination], addresses)?;
    let (source, destination) = (source.address, destination.address);
    A::write_addresses(packet, parsed.l3, source, destination, addresses)
}

#[inline(always)]
fn address_diff<A: Address>(
    parsed: &Parsed<A>,
    source: Endpoint<A>,
    destination: Endpoint<A>,
) -> Diff {
    Diff::NONE.replace(
        parsed.header.source.sum() + parsed.header.destination.sum(),
        source.address.sum() + destination.address.sum(),
    )
}

/// On the fast path with [`Packet::update_checksum_fast`].
#[inline(always)]
fn write_ports<A: Family, P: Packet, const IS_FAST: bool>(
    packet: &mut P,
    parsed: &Parsed<A>,
    offload: Offload,
    [source, destination]: [Endpoint<A>; 2],
    addresses: Diff,
) -> Option<()> {
    let ports = if (source.port, destination.port) == (parsed.source_port, parsed.destination_port)
    {
        Diff::NONE
    } else {
        Diff::NONE.replace(
            parsed.source_port.sum() + parsed.destination_port.sum(),
            source.port.sum() + destination.port.sum(),
        )
    };
    write_transport::<A, P, IS_FAST>(
        packet,
        parsed,
        offload,
        addresses,
        ports,
        [source.port, destination.port],
    )
}

#[inline(always)]
fn write_transport<A: Family, P: Packet, const IS_FAST: bool>(
    packet: &mut P,
    parsed: &Parsed<A>,
    offload: Offload,
    addresses: Diff,
    ports: Diff,
    [source, destination]: [Port; 2],
) -> Option<()> {
    let l4 = parsed.l4;
    let (field, kind, addresses, ports) = match parsed.transport {
        Transport::Tcp { .. } => {
            packet.write(l4, both(source, destination))?;
            (TCP_CHECKSUM, ChecksumKind::Tcp, addresses, ports)
        }
        Transport::Udp => {
            packet.write(l4, both(source, destination))?;
            (UDP_CHECKSUM, ChecksumKind::Udp, addresses, ports)
        }
        Transport::IcmpQuery { is_reply } => {
            let id = if is_reply { destination } else { source };
            packet.write(l4 + ICMP_ID, id.0)?;
            (
                ICMP_CHECKSUM,
                A::ICMP_CHECKSUM,
                A::icmp_change(addresses),
                ports,
            )
        }
        Transport::Opaque if matches!(parsed.header.protocol, UDP_LITE | DCCP) => {
            (UDP_CHECKSUM, ChecksumKind::Tcp, addresses, Diff::NONE)
        }
        Transport::Opaque
        | Transport::IcmpError
        | Transport::IcmpOther
        | Transport::Neighbours
        | Transport::LaterFragment => return Some(()),
    };
    let offload = offload.of_frame(parsed.l3);
    match IS_FAST {
        true => packet.update_checksum_fast(l4 + field, kind, offload, addresses, ports),
        false => packet.update_checksum(l4 + field, kind, offload, addresses, ports),
    }
}

#[inline(always)]
const fn both(source: Port, destination: Port) -> [u8; 4] {
    let ([a, b], [c, d]) = (source.0, destination.0);
    [a, b, c, d]
}
