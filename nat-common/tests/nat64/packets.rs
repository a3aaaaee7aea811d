//! Packets of both families, written by another library, and the addresses that stand for each
//! other.

use etherparse::{IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, PacketBuilder};
use kit::nat64::Table;
use nat_common::{drop_reason::DropReason, nat64::Prefix};

pub(crate) const GUEST: &str = "2001:db8:7::10";
pub(crate) const SERVER: [u8; 4] = [203, 0, 113, 2];
/// The guest's counterpart, and the one of nodes that have none.
pub(crate) const GUEST_4: [u8; 4] = [100, 64, 46, 10];
pub(crate) const STRANGER: [u8; 4] = [100, 64, 46, 1];
/// Hop limit and time to live of packets that come in; one more comes out.
pub(crate) const TTL: u8 = 63;
/// The random number behind identifications.
pub(crate) const RANDOM: u32 = 0x1234_5678;

pub(crate) fn ipv6(text: &str) -> [u8; 16] {
    let address: core::net::Ipv6Addr = text.parse().expect("an IPv6 address");
    address.octets()
}

pub(crate) fn server_6() -> [u8; 16] {
    ipv6("64:ff9b::203.0.113.2")
}

/// The guest and its counterpart.
pub(crate) fn table() -> Table {
    Table {
        prefix: Prefix::WELL_KNOWN,
        guests: [(GUEST_4, ipv6(GUEST))].into(),
        strangers: STRANGER,
        random: RANDOM,
    }
}

/// The packet as one of the other family.
pub(crate) fn translated(packet: &[u8]) -> Result<Vec<u8>, DropReason> {
    table().translate(packet)
}

/// A header of IPv4 as the translation writes it.
pub(crate) fn header_4(source: [u8; 4], destination: [u8; 4], len: usize) -> Ipv4Header {
    let mut header = Ipv4Header::new(len as u16, TTL + 1, IpNumber(255), source, destination)
        .expect("a length for IPv4");
    header.dont_fragment = len + 20 > 1260;
    header.identification = match header.dont_fragment {
        true => 0,
        false => RANDOM as u16,
    };
    header.dscp = 0x2e_u8.try_into().expect("a class");
    header
}

/// A header of IPv6 as guests send it.
pub(crate) fn header_6(source: [u8; 16], destination: [u8; 16]) -> Ipv6Header {
    Ipv6Header {
        traffic_class: 0xb8,
        flow_label: Ipv6FlowLabel::ZERO,
        payload_length: 0,
        next_header: IpNumber(255),
        hop_limit: TTL,
        source,
        destination,
    }
}

/// What a packet carries.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Carried {
    Tcp,
    Udp,
    EchoRequest,
    EchoReply,
}

pub(crate) const ALL: [Carried; 4] = [
    Carried::Tcp,
    Carried::Udp,
    Carried::EchoRequest,
    Carried::EchoReply,
];

/// An IPv6 packet with right checksums.
pub(crate) fn packet_6(header: Ipv6Header, what: Carried, data: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ip(etherparse::IpHeaders::Ipv6(header, Default::default()));
    let mut bytes = Vec::new();
    match what {
        Carried::Tcp => builder.tcp(40000, 443, 7, 1000).write(&mut bytes, data),
        Carried::Udp => builder.udp(40000, 53).write(&mut bytes, data),
        Carried::EchoRequest => builder.icmpv6_echo_request(9, 2).write(&mut bytes, data),
        Carried::EchoReply => builder.icmpv6_echo_reply(9, 2).write(&mut bytes, data),
    }
    .expect("a packet");
    bytes
}

/// The same of IPv4.
pub(crate) fn packet_4(header: Ipv4Header, what: Carried, data: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ip(etherparse::IpHeaders::Ipv4(header, Default::default()));
    let mut bytes = Vec::new();
    match what {
        Carried::Tcp => builder.tcp(40000, 443, 7, 1000).write(&mut bytes, data),
        Carried::Udp => builder.udp(40000, 53).write(&mut bytes, data),
        Carried::EchoRequest => builder.icmpv4_echo_request(9, 2).write(&mut bytes, data),
        Carried::EchoReply => builder.icmpv4_echo_reply(9, 2).write(&mut bytes, data),
    }
    .expect("a packet");
    bytes
}

/// Length of a transport's header in bytes.
pub(crate) fn transport_len(what: Carried) -> usize {
    match what {
        Carried::Tcp => 20,
        Carried::Udp | Carried::EchoRequest | Carried::EchoReply => 8,
    }
}
