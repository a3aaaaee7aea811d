//! IPv4 packets for raw sockets, for what no other socket sends.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, TcpHeader, UdpHeader};

use crate::packets::ones_complement_sum;

/// The outside of a packet: everything in the IP header that a test may want to choose.
#[derive(Clone, Debug)]
pub struct Ip {
    /// Where it comes from.
    pub source: Ipv4Addr,
    /// Where it goes.
    pub destination: Ipv4Addr,
    /// Hops left.
    pub ttl: u8,
    /// IP options; their length must be a multiple of four.
    pub options: Vec<u8>,
    /// The byte with DSCP and ECN.
    pub tos: u8,
    /// Whether routers may cut it into fragments (DF is not set).
    pub may_fragment: bool,
    /// The identification that fragments share.
    pub id: u16,
}

/// The fields of a TCP header except ports and checksum.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// FIN 1, SYN 2, RST 4, PSH 8, ACK 16.
    pub flags: u8,
    /// Sequence number.
    pub sequence: u32,
    /// The data.
    pub payload: &'a [u8],
}

impl Ip {
    /// A header from one address to another, with TTL 64.
    #[must_use]
    pub fn new(source: Ipv4Addr, destination: Ipv4Addr) -> Self {
        Self {
            source,
            destination,
            ttl: 64,
            options: Vec::new(),
            tos: 0,
            may_fragment: false,
            id: 0,
        }
    }

    /// The same with another TTL.
    #[must_use]
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// A packet of any protocol.
    ///
    /// # Errors
    /// When it is too long, or the options are.
    pub fn raw(&self, protocol: u8, inside: &[u8]) -> Result<Vec<u8>> {
        let mut header = self.header(protocol, inside.len())?;
        header.header_checksum = header.calc_header_checksum();
        Ok([&header.to_bytes()[..], inside].concat())
    }

    /// A UDP datagram.
    ///
    /// # Errors
    /// As for [`Ip::raw`].
    pub fn udp(&self, source: u16, destination: u16, payload: &[u8]) -> Result<Vec<u8>> {
        let ip = self.header(IpNumber::UDP.0, UdpHeader::LEN + payload.len())?;
        let header = UdpHeader::with_ipv4_checksum(source, destination, &ip, payload)
            .context("UDP header")?;
        self.raw(IpNumber::UDP.0, &[&header.to_bytes()[..], payload].concat())
    }

    /// A UDP datagram without checksum.
    ///
    /// # Errors
    /// As for [`Ip::raw`].
    pub fn udp_unsummed(&self, source: u16, destination: u16, payload: &[u8]) -> Result<Vec<u8>> {
        let header = UdpHeader::without_ipv4_checksum(source, destination, payload.len())
            .context("UDP header")?;
        self.raw(IpNumber::UDP.0, &[&header.to_bytes()[..], payload].concat())
    }

    /// A TCP SYN with options; their length must be a multiple of four.
    ///
    /// # Errors
    /// As for [`Ip::raw`], or when the options are too long.
    pub fn syn(&self, source: u16, destination: u16, options: &[u8]) -> Result<Vec<u8>> {
        let mut header = TcpHeader::new(source, destination, 0x0102_0304, 64_240);
        header.syn = true;
        header.set_options_raw(options).context("TCP options")?;
        let ip = self.header(IpNumber::TCP.0, header.header_len())?;
        header.checksum = header
            .calc_checksum_ipv4(&ip, &[])
            .context("TCP checksum")?;
        self.raw(IpNumber::TCP.0, &header.to_bytes())
    }

    /// A TCP segment without options.
    ///
    /// # Errors
    /// As for [`Ip::raw`].
    pub fn tcp(&self, source: u16, destination: u16, segment: &Segment<'_>) -> Result<Vec<u8>> {
        self.tcp_answer(source, destination, segment, 0)
    }

    /// A TCP segment without options that acknowledges all bytes before `acknowledged`.
    ///
    /// # Errors
    /// As for [`Ip::raw`].
    pub fn tcp_answer(
        &self,
        source: u16,
        destination: u16,
        segment: &Segment<'_>,
        acknowledged: u32,
    ) -> Result<Vec<u8>> {
        let mut header = TcpHeader::new(source, destination, segment.sequence, 64_240);
        header.acknowledgment_number = acknowledged;
        header.fin = segment.flags & 1 != 0;
        header.syn = segment.flags & 2 != 0;
        header.rst = segment.flags & 4 != 0;
        header.psh = segment.flags & 8 != 0;
        header.ack = segment.flags & 16 != 0;
        let ip = self.header(IpNumber::TCP.0, header.header_len() + segment.payload.len())?;
        header.checksum = header
            .calc_checksum_ipv4(&ip, segment.payload)
            .context("TCP checksum")?;
        let inside = [&header.to_bytes()[..], segment.payload].concat();
        self.raw(IpNumber::TCP.0, &inside)
    }

    /// An ICMP message: type, code, the four bytes after the checksum, and the rest.
    ///
    /// # Errors
    /// As for [`Ip::raw`].
    pub fn icmp(&self, kind: u8, code: u8, rest: [u8; 4], payload: &[u8]) -> Result<Vec<u8>> {
        let mut message = [&[kind, code, 0, 0], &rest[..], payload].concat();
        let checksum = !ones_complement_sum(&message);
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
        self.raw(IpNumber::ICMP.0, &message)
    }

    fn header(&self, protocol: u8, inside: usize) -> Result<Ipv4Header> {
        let length = u16::try_from(inside).context("a packet of more than 64 KiB")?;
        let (source, destination) = (self.source.octets(), self.destination.octets());
        let mut header = Ipv4Header::new(length, self.ttl, IpNumber(protocol), source, destination)
            .context("IPv4 header")?;
        header.dscp = (self.tos >> 2).try_into().context("DSCP")?;
        header.ecn = (self.tos & 3).try_into().context("ECN")?;
        header.dont_fragment = !self.may_fragment;
        header.identification = self.id;
        header.options = Ipv4Options::try_from(&self.options[..]).context("IP options")?;
        // Kernels drop a packet whose total length and header length disagree.
        header.set_payload_len(inside).context("IPv4 header")?;
        Ok(header)
    }
}

/// The packet cut into fragments with `size` bytes of payload each (a multiple of 8), under an
/// identification.
///
/// # Errors
/// When it is no IPv4 packet.
pub fn fragments(packet: &[u8], id: u16, size: usize) -> Result<Vec<Vec<u8>>> {
    let (whole, inside) = Ipv4Header::from_slice(packet).context("IPv4 header")?;
    let count = inside.len().div_ceil(size);
    let parts = inside.chunks(size).enumerate().map(|(index, part)| {
        let offset = u16::try_from(index * size).context("fragment offset")?;
        fragment(&whole, id, offset, index + 1 < count, part)
    });
    parts.collect()
}

/// One fragment, at any offset in bytes (a multiple of 8).
///
/// # Errors
/// When it does not fit into a packet.
pub fn fragment(
    whole: &Ipv4Header,
    id: u16,
    offset: u16,
    more_fragments: bool,
    part: &[u8],
) -> Result<Vec<u8>> {
    let mut header = whole.clone();
    header.identification = id;
    header.dont_fragment = false;
    header.more_fragments = more_fragments;
    header.fragment_offset = IpFragOffset::try_new(offset / 8).context("fragment offset")?;
    header.set_payload_len(part.len()).context("IPv4 header")?;
    header.header_checksum = header.calc_header_checksum();
    Ok([&header.to_bytes()[..], part].concat())
}

/// The packet with the fields of the IP header set to 0 that change at every hop.
#[must_use]
pub fn without_hops(packet: &[u8]) -> Vec<u8> {
    let mut bytes = packet.to_vec();
    bytes[8] = 0;
    bytes[10..12].fill(0);
    bytes
}
