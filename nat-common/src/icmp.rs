//! ICMP errors: they quote the packet that they are about, and both are translated (RFC 5508).

use network_types::icmp::Icmpv4Hdr;

use crate::{
    address::{Address, Endpoint, Port},
    checksum::{Diff, fold},
    counter::DropReason,
    offload::{Offload, is_sound},
    packet::{ChecksumKind, Packet},
    parse::{ICMP, Parsed, TCP, UDP},
    rewrite::{DCCP, ICMP_CHECKSUM, UDP_CHECKSUM, UDP_LITE},
    session::{SessionKey, View},
};

/// What an ICMP type is to a NAT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IcmpClass {
    /// A query.
    Request,
    /// An answer to a query.
    Reply,
    /// An error about another packet.
    Error,
    /// For one link only, or obsolete.
    Other,
}

/// Sorts the ICMP types (RFC 792, RFC 950, RFC 5508).
#[inline(always)]
#[must_use]
pub const fn classify(icmp_type: u8) -> IcmpClass {
    match icmp_type {
        8 | 13 | 15 | 17 => IcmpClass::Request,
        0 | 14 | 16 | 18 => IcmpClass::Reply,
        3 | 11 | 12 => IcmpClass::Error,
        _ => IcmpClass::Other,
    }
}

/// What an ICMP query asks for: stands for the port of the host that is asked, as the identifier
/// does for that of the host that asks. It is the type of the query, the same for its answer; other
/// messages have 0 on both sides, so that nothing is taken for an answer to what it does not answer.
#[inline(always)]
#[must_use]
pub const fn service(icmp_type: u8) -> Port {
    const ECHO: u8 = 8;
    Port::new(match icmp_type {
        0 => ECHO as u16,
        // Timestamp, information, address mask: the answer's type comes after the query's.
        14 | 16 | 18 => icmp_type as u16 - 1,
        query => query as u16,
    })
}

/// The packet that an ICMP error quotes: its header and the first 8 bytes of what follows, at
/// least (RFC 792).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quoted<A> {
    l3: usize,
    l4: usize,
    /// Whether it answers an ICMP query: then its identifier is that of its destination.
    is_answer: bool,
    /// Its IP protocol number.
    pub protocol: u8,
    /// Its source.
    pub source: Endpoint<A>,
    /// Its destination.
    pub destination: Endpoint<A>,
}

/// The addresses that an ICMP error is to have, outside and inside of the quotation.
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

impl<A: Address> Quoted<A> {
    /// The key under which the quoted packet itself was looked up in `view`.
    #[inline(always)]
    pub fn key(&self, view: View, network: u16) -> SessionKey<A> {
        SessionKey {
            source: self.source.address,
            destination: self.destination.address,
            source_port: self.source.port,
            destination_port: self.destination.port,
            network,
            protocol: self.protocol,
            view: view as u8,
        }
    }

    /// The key of packets that answer the quoted one.
    #[inline(always)]
    pub fn answer_key(&self, view: View, network: u16) -> SessionKey<A> {
        self.key(view, network).reversed()
    }
}

/// The addresses of the packet that an ICMP error quotes, source and destination; `None` if the
/// quotation does not reach that far.
#[inline(always)]
pub fn quoted_addresses<A: Address, P: Packet>(packet: &P, error: &Parsed<A>) -> Option<(A, A)> {
    let header = A::parse_header(packet, error.l4 + Icmpv4Hdr::LEN)?;
    Some((header.source, header.destination))
}

/// Reads the packet that an ICMP error quotes; `None` if it says too little to find its session.
#[inline(always)]
pub fn parse_quoted<A: Address, P: Packet>(packet: &P, error: &Parsed<A>) -> Option<Quoted<A>> {
    let l3 = error.l4 + Icmpv4Hdr::LEN;
    let header = A::parse_header(packet, l3)?;
    let l4 = l3 + header.header_len;
    if header.fragment_offset != 0 {
        return None;
    }
    let mut quoted = Quoted {
        l3,
        l4,
        is_answer: false,
        protocol: header.protocol,
        source: Endpoint::new(header.source, Port::ZERO),
        destination: Endpoint::new(header.destination, Port::ZERO),
    };
    let is_opaque = !matches!(header.protocol, TCP | UDP | ICMP);
    // Eight bytes; or all that there are, of a packet that has fewer and needs no more.
    let len = header.total_len.saturating_sub(header.header_len);
    let quoted_len = if is_opaque && len < 8 { len } else { 8 };
    if l4 + quoted_len > error.end() {
        return None;
    }
    if is_opaque {
        return Some(quoted);
    }
    let bytes = packet.read::<8>(l4)?;
    let (source_port, destination_port) = match header.protocol {
        ICMP => match classify(bytes[0]) {
            IcmpClass::Request => (Port([bytes[4], bytes[5]]), service(bytes[0])),
            IcmpClass::Reply => {
                quoted.is_answer = true;
                (service(bytes[0]), Port([bytes[4], bytes[5]]))
            }
            // No error is ever sent about an error (RFC 1122 section 3.2.2).
            IcmpClass::Error | IcmpClass::Other => return None,
        },
        _ => (Port([bytes[0], bytes[1]]), Port([bytes[2], bytes[3]])),
    };
    (quoted.source.port, quoted.destination.port) = (source_port, destination_port);
    Some(quoted)
}

/// Checks the ICMP checksum of a whole message (RFC 5508 REQ-3).
///
/// # Errors
///
/// [`DropReason::BadChecksum`].
#[inline(always)]
pub fn verify_checksum<A: Address, P: Packet>(
    packet: &P,
    error: &Parsed<A>,
) -> Result<(), DropReason> {
    match packet.sum(error.l4, error.end()) {
        Some(sum) if fold(sum) == 0xffff => Ok(()),
        _ => Err(DropReason::BadChecksum),
    }
}

/// Translates an ICMP error and the packet in it.
///
/// # Errors
///
/// [`DropReason::RewriteFailed`] if the packet cannot be written to, [`DropReason::FalseOffload`] if a
/// device would write over the translation; the caller drops it.
#[inline(always)]
pub fn rewrite_error<A: Address, P: Packet>(
    packet: &mut P,
    error: &Parsed<A>,
    quoted: &Quoted<A>,
    to: &ErrorTranslation<A>,
) -> Result<(), DropReason> {
    if !is_sound(error, packet.offload()) {
        return Err(DropReason::FalseOffload);
    }
    write_quoted(packet, error, quoted, to)
        .and_then(|message| {
            let field = error.l4 + ICMP_CHECKSUM;
            packet.update_checksum(
                field,
                ChecksumKind::Icmp,
                Offload::UNKNOWN,
                Diff::NONE,
                message,
            )
        })
        .and_then(|()| {
            let addresses = Diff::NONE.replace(
                error.header.source.sum() + error.header.destination.sum(),
                to.source.sum() + to.destination.sum(),
            );
            A::write_addresses(packet, error.l3, to.source, to.destination, addresses)
        })
        .ok_or(DropReason::RewriteFailed)
}

/// Writes the quoted packet and gives the change that the error's own checksum must follow.
#[inline(always)]
fn write_quoted<A: Address, P: Packet>(
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
    // The quoted header's sum does not change, since its checksum follows its addresses: nothing
    // of it reaches the error's own checksum.
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
        ICMP => (quoted.l4 + ICMP_CHECKSUM, ChecksumKind::Icmp),
        UDP_LITE | DCCP => (quoted.l4 + UDP_CHECKSUM, ChecksumKind::Tcp),
        _ => return Some(Diff::NONE),
    };
    if matches!(quoted.protocol, UDP_LITE | DCCP) {
        // They have ports as well, which stay.
    } else if quoted.protocol == ICMP {
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
    Some(ports.and(checksum))
}

/// Corrects the quoted packet's own checksum, if the quotation reaches that far, and gives the
/// field's change.
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
