//! The packet that an ICMP error quotes.

use network_types::icmp::Icmpv4Hdr;

use crate::{
    drop_reason::DropReason,
    family::{Family, Header},
    headers::parsed::Parsed,
    wire::{
        address::{Address, Endpoint, Port},
        checksum::fold,
        icmp::IcmpClass,
        packet::Packet,
    },
};

/// The packet that an ICMP error quotes: its header and the first 8 bytes of what follows, at
/// least (RFC 792).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quoted<A> {
    pub(crate) l3: usize,
    pub(crate) l4: usize,
    /// Whether it answers an ICMP query: then its identifier is that of its destination.
    pub(crate) is_answer: bool,
    /// Its IP protocol number.
    pub protocol: u8,
    /// Its source.
    pub source: Endpoint<A>,
    /// Its destination.
    pub destination: Endpoint<A>,
}

impl<A: Address> Quoted<A> {
    /// Source and destination of the packet; `None` if the quotation does not reach that far.
    #[inline(always)]
    pub(crate) fn addresses(&self) -> Option<(A, A)> {
        (self.l3 != 0).then_some((self.source.address, self.destination.address))
    }

    /// The value before any packet is read.
    pub const EMPTY: Self = {
        let nowhere = Endpoint {
            address: A::UNSPECIFIED,
            port: Port::ZERO,
        };
        Self {
            l3: 0,
            l4: 0,
            is_answer: false,
            protocol: 0,
            source: nowhere,
            destination: nowhere,
        }
    };
}

/// The addresses of the packet that an ICMP error quotes, source and destination; `None` if the
/// quotation does not reach that far.
#[inline(always)]
pub fn quoted_addresses<A: Family, P: Packet>(packet: &P, error: &Parsed<A>) -> Option<(A, A)> {
    let mut room = Header::EMPTY;
    let header = A::read_header(packet, error.l4 + Icmpv4Hdr::LEN, &mut room)?;
    Some((header.source, header.destination))
}

/// Reads the packet that an ICMP error quotes, as far as the quotation reaches. Returns `false` if
/// that is too little to find a session, though its addresses may be there.
#[inline(always)]
pub fn read_quoted<A: Family, P: Packet>(
    packet: &P,
    error: &Parsed<A>,
    quoted: &mut Quoted<A>,
) -> bool {
    quoted.l3 = 0;
    read_flow(packet, error, quoted).is_some()
}

#[inline(always)]
fn read_flow<A: Family, P: Packet>(
    packet: &P,
    error: &Parsed<A>,
    quoted: &mut Quoted<A>,
) -> Option<()> {
    let l3 = error.l4 + Icmpv4Hdr::LEN;
    let mut room = Header::EMPTY;
    let header = A::read_header(packet, l3, &mut room)?;
    let l4 = l3 + header.header_len;
    *quoted = Quoted {
        l3,
        l4,
        is_answer: false,
        protocol: header.protocol,
        source: Endpoint::new(header.source, Port::ZERO),
        destination: Endpoint::new(header.destination, Port::ZERO),
    };
    if header.fragment_offset != 0 {
        return None;
    }
    let is_opaque = !A::has_ports(header.protocol);
    // Eight bytes, or the whole payload of a packet that has fewer and needs no more.
    let len = header.total_len.saturating_sub(header.header_len);
    let quoted_len = if is_opaque && len < 8 { len } else { 8 };
    if l4 + quoted_len > error.end() {
        return None;
    }
    if is_opaque {
        return Some(());
    }
    let bytes = packet.read::<8>(l4)?;
    let (source_port, destination_port) = match header.protocol {
        icmp if icmp == A::ICMP => match A::classify(bytes[0]) {
            IcmpClass::Request => (Port([bytes[4], bytes[5]]), A::service(bytes[0])),
            IcmpClass::Reply => {
                quoted.is_answer = true;
                (A::service(bytes[0]), Port([bytes[4], bytes[5]]))
            }
            // No error is ever sent about an error (RFC 1122 section 3.2.2).
            IcmpClass::Error | IcmpClass::Other => return None,
        },
        _ => (Port([bytes[0], bytes[1]]), Port([bytes[2], bytes[3]])),
    };
    (quoted.source.port, quoted.destination.port) = (source_port, destination_port);
    Some(())
}

/// Checks the ICMP checksum of a whole message (RFC 5508 REQ-3).
///
/// # Errors
///
/// [`DropReason::BadChecksum`].
#[inline(always)]
pub fn verify_checksum<A: Family, P: Packet>(
    packet: &P,
    error: &Parsed<A>,
) -> Result<(), DropReason> {
    let pseudo = A::icmp_pseudo_sum(&error.header, error.end() - error.l4);
    match packet.sum(error.l4, error.end()) {
        Some(sum) if fold(u32::from(fold(sum)) + pseudo) == 0xffff => Ok(()),
        _ => Err(DropReason::BadChecksum),
    }
}
