//! Reading a packet's headers.
//!
//! Parsing checks all lengths once. Later code can rely on a complete transport header.

use network_types::icmp::Icmpv4Hdr;
use network_types::tcp::TcpHdr;
use network_types::udp::UdpHdr;

use crate::{
    drop_reason::DropReason,
    family::{Family, Header},
    verifier::verifier_barrier,
    wire::{
        address::{Address, Endpoint, Port},
        icmp::IcmpClass,
        packet::Packet,
        protocol::{DCCP, TCP, UDP, UDP_LITE},
        tcp,
    },
};

/// [`Parsed::acknowledged`] of a packet that acknowledges nothing, and of the one number that looks
/// the same.
pub const NO_ACKNOWLEDGEMENT: u32 = 1 << 11;

/// The type of routing headers that no node may obey (RFC 5095).
const DEPRECATED_ROUTE: u8 = 0;

/// What follows the network header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// TCP.
    Tcp {
        /// Byte 13 of the header.
        flags: u8,
    },
    /// UDP.
    Udp,
    /// An ICMP query or its answer.
    IcmpQuery {
        /// Whether it is the answer.
        is_reply: bool,
    },
    /// An ICMP error about another packet.
    IcmpError,
    /// ICMP of any other kind: redirects, router discovery of IPv4.
    IcmpOther,
    /// A protocol without ports that a NAT could rewrite.
    Opaque,
    /// A fragment other than the first. Only the first one has the ports.
    LaterFragment,
    /// ICMP between neighbours of a link (IPv6): it is never translated, tracked or refused.
    Neighbours,
}

/// A packet's headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parsed<A> {
    /// Where the network header starts.
    pub l3: usize,
    /// Where the transport header starts.
    pub l4: usize,
    /// The network header.
    pub header: Header<A>,
    /// The header that follows.
    pub transport: Transport,
    /// Length of the transport header in bytes.
    pub transport_len: usize,
    /// Source port, or the identifier of an ICMP query; [`Family::service`] in its answer.
    pub source_port: Port,
    /// Destination port, or the identifier of an answer to an ICMP query; [`Family::service`] in a
    /// query.
    pub destination_port: Port,
    /// Sequence number of a TCP segment.
    pub sequence: u32,
    /// What a TCP segment acknowledges, [`NO_ACKNOWLEDGEMENT`] if nothing.
    pub acknowledged: u32,
    /// Whether the ports are known: a later fragment has none.
    pub has_ports: bool,
}

impl<A: Address> Parsed<A> {
    /// Where the packet ends. The rest of the frame is padding.
    #[inline(always)]
    pub fn end(&self) -> usize {
        self.l3 + self.header.total_len
    }

    /// The source.
    #[inline(always)]
    pub fn source(&self) -> Endpoint<A> {
        Endpoint::new(self.header.source, self.source_port)
    }

    /// The destination.
    #[inline(always)]
    pub fn destination(&self) -> Endpoint<A> {
        Endpoint::new(self.header.destination, self.destination_port)
    }

    /// Length of its network and transport headers in bytes.
    #[inline(always)]
    pub fn headers_len(&self) -> usize {
        self.l4 - self.l3 + self.transport_len
    }

    /// Whether data follows the transport header.
    #[inline(always)]
    pub fn has_data(&self) -> bool {
        self.l4 + self.transport_len < self.end()
    }

    /// Whether it could be the first packet of a session.
    #[inline(always)]
    pub fn may_open(&self) -> bool {
        match self.transport {
            Transport::Tcp { flags } => flags & tcp::RST == 0,
            // An answer without a query opens nothing.
            Transport::IcmpQuery { is_reply } => !is_reply,
            Transport::Udp | Transport::Opaque => true,
            Transport::IcmpError
            | Transport::IcmpOther
            | Transport::Neighbours
            | Transport::LaterFragment => false,
        }
    }

    /// Checks that it can be answered: its ports are not 0, and its source differs from its
    /// destination.
    ///
    /// # Errors
    ///
    /// Which of the two.
    #[inline(always)]
    pub fn check_ends(&self) -> Result<(), DropReason> {
        let has_ports = matches!(self.header.protocol, TCP | UDP) && self.has_ports;
        if has_ports && (self.source_port == Port::ZERO || self.destination_port == Port::ZERO) {
            return Err(DropReason::PortZero);
        }
        if self.header.source == self.header.destination {
            return Err(DropReason::SameEndpoints);
        }
        Ok(())
    }

    /// Whether its source is one that a host can have.
    ///
    /// # Errors
    ///
    /// Why it is not valid.
    #[inline(always)]
    pub fn check_source(&self) -> Result<(), DropReason> {
        let source = self.header.source;
        if source.is_valid_source() {
            Ok(())
        } else if source.is_group() {
            Err(DropReason::BroadcastSource)
        } else {
            Err(DropReason::MartianSource)
        }
    }
}

/// Reads the headers of the packet whose network header starts at `l3`.
///
/// # Errors
///
/// [`DropReason::Malformed`] if a header is cut off or contradicts itself.
#[inline(always)]
pub fn parse<A: Family, P: Packet>(
    packet: &P,
    l3: usize,
    parsed: &mut Parsed<A>,
) -> Result<(), DropReason> {
    *parsed = parse_network::<A, P, false>(packet, l3, &mut parsed.header)?;
    verifier_barrier(parsed);
    let header = parsed.header;
    if header.fragment_offset == 0 {
        parse_transport(packet, parsed).ok_or(match header.more_fragments {
            true => DropReason::FragmentTiny,
            false => DropReason::Malformed,
        })?;
    }
    if header.header_len != A::HEADER_LEN
        && let Some(route) = A::route_ahead(packet, l3)
    {
        if route == DEPRECATED_ROUTE {
            return Err(DropReason::Malformed);
        }
        // The transport's checksum covers another destination, so nothing can be translated.
        parsed.has_ports = false;
    }
    verifier_barrier(parsed);
    Ok(())
}

/// Reads the headers of a packet that has no options, is no fragment and has a right header
/// checksum; `None` for all others, and for those that [`parse`] refuses. This is fast, because all
/// offsets are known in advance.
#[inline(always)]
pub fn parse_plain<A: Family, P: Packet>(packet: &P, l3: usize) -> Option<Parsed<A>> {
    let mut parsed = parse_network::<A, P, true>(packet, l3, &mut { Header::EMPTY }).ok()?;
    if parsed.header.header_len != A::HEADER_LEN || parsed.is_fragment() {
        return None;
    }
    // A router drops it (RFC 1812 section 5.2.2).
    if !A::is_intact(packet, l3) {
        return None;
    }
    parsed.header.header_len = A::HEADER_LEN;
    parsed.l4 = l3 + A::HEADER_LEN;
    parse_transport(packet, &mut parsed)?;
    Some(parsed)
}

#[inline(always)]
fn parse_network<A: Family, P: Packet, const IS_PLAIN: bool>(
    packet: &P,
    l3: usize,
    room: &mut Header<A>,
) -> Result<Parsed<A>, DropReason> {
    let header = match IS_PLAIN {
        true => A::parse_plain_header(packet, l3),
        false => A::read_header(packet, l3, room),
    };
    let mut header = header.ok_or(DropReason::Malformed)?;
    let room = packet.len().saturating_sub(l3);
    if header.total_len == 0 && packet.frames().segment_len != 0 {
        // A packet of more than 64 KiB before segmentation (BIG TCP).
        header.total_len = room;
    }
    if header.total_len < header.header_len || header.total_len > room {
        return Err(DropReason::Malformed);
    }
    Ok(Parsed {
        l3,
        l4: l3 + header.header_len,
        header,
        transport: Transport::LaterFragment,
        transport_len: 0,
        source_port: Port::ZERO,
        destination_port: Port::ZERO,
        sequence: 0,
        acknowledged: NO_ACKNOWLEDGEMENT,
        has_ports: header.fragment_offset == 0,
    })
}

#[inline(always)]
fn parse_transport<A: Family, P: Packet>(packet: &P, parsed: &mut Parsed<A>) -> Option<()> {
    let room = parsed.header.total_len - parsed.header.header_len;
    match parsed.header.protocol {
        TCP => parse_tcp(packet, parsed, room),
        UDP => parse_udp(packet, parsed, room),
        icmp if icmp == A::ICMP => parse_icmp(packet, parsed, room),
        extension if A::is_extension(extension) => None,
        // The caller will rewrite their checksum.
        UDP_LITE | DCCP if room < UdpHdr::LEN => None,
        _ => {
            parsed.transport = Transport::Opaque;
            Some(())
        }
    }
}

#[inline(always)]
fn parse_tcp<A: Family, P: Packet>(packet: &P, parsed: &mut Parsed<A>, room: usize) -> Option<()> {
    let bytes = packet.read::<14>(parsed.l4)?;
    let len = usize::from(bytes[12] >> 4) * 4;
    if len < TcpHdr::LEN || len > room {
        return None;
    }
    parsed.transport = Transport::Tcp { flags: bytes[13] };
    parsed.transport_len = len;
    parsed.source_port = Port([bytes[0], bytes[1]]);
    parsed.destination_port = Port([bytes[2], bytes[3]]);
    parsed.sequence = u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
    if bytes[13] & tcp::ACK != 0 {
        parsed.acknowledged = u32::from_be_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
    }
    // The checksum, which the caller will rewrite.
    packet.read::<{ TcpHdr::LEN }>(parsed.l4).map(|_| ())
}

#[inline(always)]
fn parse_udp<A: Family, P: Packet>(packet: &P, parsed: &mut Parsed<A>, room: usize) -> Option<()> {
    let bytes = packet.read::<{ UdpHdr::LEN }>(parsed.l4)?;
    let len = usize::from(u16::from_be_bytes([bytes[4], bytes[5]]));
    // A first fragment lacks the rest of the datagram. Datagrams of more than 64 KiB have a length
    // of 0 before segmentation.
    let fits = parsed.header.more_fragments || len <= room;
    if room < UdpHdr::LEN || (len < UdpHdr::LEN && packet.frames().segment_len == 0) || !fits {
        return None;
    }
    parsed.transport = Transport::Udp;
    parsed.transport_len = UdpHdr::LEN;
    parsed.source_port = Port([bytes[0], bytes[1]]);
    parsed.destination_port = Port([bytes[2], bytes[3]]);
    Some(())
}

#[inline(always)]
fn parse_icmp<A: Family, P: Packet>(packet: &P, parsed: &mut Parsed<A>, room: usize) -> Option<()> {
    if room < Icmpv4Hdr::LEN {
        return None;
    }
    let bytes = packet.read::<{ Icmpv4Hdr::LEN }>(parsed.l4)?;
    let id = Port([bytes[4], bytes[5]]);
    parsed.transport_len = Icmpv4Hdr::LEN;
    parsed.transport = match A::classify(bytes[0]) {
        IcmpClass::Request => {
            (parsed.source_port, parsed.destination_port) = (id, A::service(bytes[0]));
            Transport::IcmpQuery { is_reply: false }
        }
        IcmpClass::Reply => {
            (parsed.source_port, parsed.destination_port) = (A::service(bytes[0]), id);
            Transport::IcmpQuery { is_reply: true }
        }
        IcmpClass::Error => Transport::IcmpError,
        IcmpClass::Other if A::is_between_neighbours(bytes[0], &parsed.header) => {
            Transport::Neighbours
        }
        IcmpClass::Other => Transport::IcmpOther,
    };
    Some(())
}

impl<A: Family> Parsed<A> {
    /// Why a packet whose ports are not known cannot be translated.
    #[inline(always)]
    pub fn without_ports(&self) -> DropReason {
        match A::HAS_NEIGHBOURS && self.transport != Transport::LaterFragment {
            true => DropReason::RoutingHeader,
            false => DropReason::FragmentUnknown,
        }
    }

    /// Whether it is a message between neighbours of a link. (Only a family that has such messages
    /// looks.)
    #[inline(always)]
    pub fn is_between_neighbours(&self) -> bool {
        A::HAS_NEIGHBOURS && self.transport == Transport::Neighbours
    }
}

impl<A: Address> Parsed<A> {
    /// Whether it is a fragment. (A packet with a fragment header that is nevertheless complete, an
    /// atomic fragment, is not.)
    #[inline(always)]
    pub fn is_fragment(&self) -> bool {
        self.header.more_fragments || self.header.fragment_offset != 0
    }
}

impl<A: Address> Parsed<A> {
    /// Before any packet.
    pub const EMPTY: Self = Self {
        l3: 0,
        l4: 0,
        header: Header::EMPTY,
        transport: crate::headers::parsed::Transport::Opaque,
        transport_len: 0,
        source_port: Port::ZERO,
        destination_port: Port::ZERO,
        sequence: 0,
        acknowledged: crate::headers::parsed::NO_ACKNOWLEDGEMENT,
        has_ports: false,
    };
}
