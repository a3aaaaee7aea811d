//! Translation of ICMP errors and of the packets that they quote (RFC 5508).

use crate::{
    drop_reason::DropReason,
    family::Family,
    headers::{offloads::is_sound, parsed::Parsed, quoted::Quoted},
    wire::{
        address::Endpoint,
        checksum::Diff,
        offload::Offload,
        packet::{ChecksumKind, Packet},
        protocol::{DCCP, ICMP_CHECKSUM, TCP, UDP, UDP_CHECKSUM, UDP_LITE},
    },
};

/// The new addresses of an ICMP error and of its quotation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ErrorTranslation<A> {
    /// Source of the error itself.
    pub source: A,
    /// Destination of the error itself.
    pub destination: A,
    /// Source of the quoted packet.
    pub quoted_source: Endpoint<A>,
    /// Destination of the quoted packet.
    pub quoted_destination: Endpoint<A>,
}

/// Translates an ICMP error and the quoted packet.
///
/// # Errors
///
/// [`DropReason::RewriteFailed`] if the packet cannot be written to, [`DropReason::FalseOffload`]
/// if a device would write over the translation; the caller drops it.
#[inline(always)]
pub fn rewrite_error<A: Family, P: Packet>(
    packet: &mut P,
    error: &Parsed<A>,
    quoted: &Quoted<A>,
    to: &ErrorTranslation<A>,
) -> Result<(), DropReason> {
    if !is_sound(error, packet.offload()) {
        return Err(DropReason::FalseOffload);
    }
    let addresses = Diff::NONE.replace(
        error.header.source.sum() + error.header.destination.sum(),
        to.source.sum() + to.destination.sum(),
    );
    write_quoted(packet, error, quoted, to)
        .and_then(|message| {
            let field = error.l4 + ICMP_CHECKSUM;
            packet.update_checksum(
                field,
                A::ICMP_CHECKSUM,
                Offload::UNKNOWN,
                A::icmp_change(addresses),
                message,
            )
        })
        .and_then(|()| A::write_addresses(packet, error.l3, to.source, to.destination, addresses))
        .ok_or(DropReason::RewriteFailed)
}

/// Writes the quoted packet and returns the change for the error's own checksum.
#[inline(always)]
fn write_quoted<A: Family, P: Packet>(
    packet: &mut P,
    error: &Parsed<A>,
    quoted: &Quoted<A>,
    to: &ErrorTranslation<A>,
) -> Option<Diff> {
    let (source, destination) = (to.quoted_source, to.quoted_destination);
    let addresses = Diff::NONE.replace(
        quoted.source.address.sum() + quoted.destination.address.sum(),
        source.address.sum() + destination.address.sum(),
    );
    let ports = Diff::NONE.replace(
        quoted.source.port.sum() + quoted.destination.port.sum(),
        source.port.sum() + destination.port.sum(),
    );
    // Where the quoted header has a checksum, it follows its addresses, and its sum stays the same:
    // the error's own checksum is then not affected.
    A::write_addresses(
        packet,
        quoted.l3,
        source.address,
        destination.address,
        addresses,
    )?;
    let (field, kind) = match quoted.protocol {
        TCP => (quoted.l4 + 16, ChecksumKind::Tcp),
        UDP => (quoted.l4 + UDP_CHECKSUM, ChecksumKind::Udp),
        icmp if icmp == A::ICMP => (quoted.l4 + ICMP_CHECKSUM, A::ICMP_CHECKSUM),
        UDP_LITE | DCCP => (quoted.l4 + UDP_CHECKSUM, ChecksumKind::Tcp),
        _ => return Some(A::quoted_change(addresses)),
    };
    if matches!(quoted.protocol, UDP_LITE | DCCP) {
        // They also have ports, which stay.
    } else if quoted.protocol == A::ICMP {
        let id = if quoted.is_answer {
            destination.port
        } else {
            source.port
        };
        packet.write(quoted.l4 + 4, id.0)?;
    } else {
        packet.write(quoted.l4, source.port.0)?;
        packet.write(quoted.l4 + 2, destination.port.0)?;
    }
    let checksum = write_quoted_checksum(packet, error.end(), field, kind, addresses, ports);
    Some(ports.and(checksum).and(A::quoted_change(addresses)))
}

/// Corrects the quoted packet's own checksum, if the quotation includes it, and returns the field's
/// change.
#[inline(always)]
fn write_quoted_checksum<P: Packet>(
    packet: &mut P,
    end: usize,
    field: usize,
    kind: ChecksumKind,
    addresses: Diff,
    ports: Diff,
) -> Diff {
    if field + 2 > end {
        return Diff::NONE;
    }
    let Some(old) = packet.read::<2>(field) else {
        return Diff::NONE;
    };
    let new = match kind {
        ChecksumKind::Tcp => addresses.and(ports).apply(old),
        ChecksumKind::Udp => addresses.and(ports).apply_udp(old),
        ChecksumKind::Icmp => ports.apply(old),
    };
    match packet.write(field, new) {
        Some(()) => Diff::NONE.replace(
            u32::from(u16::from_ne_bytes(old)),
            u32::from(u16::from_ne_bytes(new)),
        ),
        None => Diff::NONE,
    }
}
