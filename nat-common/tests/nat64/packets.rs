//! Packets of both families, written by another library, and the addresses that stand for each
//! other.

use std::collections::BTreeMap;

use etherparse::{IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, PacketBuilder};
use nat_common::{
    drop_reason::DropReason,
    nat64::{self, Counterparts, Job, Plan, Prefix, Reshape, Version},
    wire::{
        address::{Addr4, Addr6},
        checksum,
        offload::Offload,
        packet::{Frames, Packet},
    },
};

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

/// Addresses that stand for each other.
pub(crate) struct Table(pub(crate) BTreeMap<[u8; 4], [u8; 16]>);

impl Table {
    pub(crate) fn new() -> Self {
        Self([(GUEST_4, ipv6(GUEST))].into())
    }
}

impl Counterparts for Table {
    fn prefix(&self) -> Prefix {
        Prefix::WELL_KNOWN
    }

    fn ipv4_of(&self, guest: Addr6) -> Option<Addr4> {
        self.known_ipv4_of(guest)
    }

    fn known_ipv4_of(&self, guest: Addr6) -> Option<Addr4> {
        let mut entries = self.0.iter();
        entries
            .find(|(_, address)| **address == guest.bytes())
            .map(|(address, _)| Addr4(*address))
    }

    fn ipv6_of(&self, address: Addr4) -> Option<Addr6> {
        self.0.get(&address.0).copied().map(Addr6::new)
    }

    fn ipv4_of_strangers(&self) -> Addr4 {
        Addr4(STRANGER)
    }

    fn random(&self) -> u32 {
        RANDOM
    }
}

/// A packet whose length can change, without a link's header.
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl Packet for Bytes {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.get(offset..)?.first_chunk().copied()
    }

    fn make_readable(&mut self, _end: usize) {}

    fn write<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        *self.0.get_mut(offset..)?.first_chunk_mut()? = bytes;
        Some(())
    }

    fn sum(&self, offset: usize, end: usize) -> Option<u32> {
        Some(checksum::sum(self.0.get(offset..end)?))
    }

    fn frames(&self) -> Frames {
        Frames { segment_len: 0 }
    }

    fn offload(&self) -> Offload {
        Offload::NOTHING
    }

    fn ingress_interface(&self) -> u32 {
        0
    }
}

impl Reshape for Bytes {
    fn reshape(&mut self, l3: usize, plan: &Plan) -> Option<()> {
        self.0.truncate(l3 + plan.kept_len);
        let start = plan.start.get(..plan.start_len)?;
        self.0
            .splice(l3..l3 + plan.replaced_len, start.iter().copied());
        let version = match plan.version {
            Version::V4 => 4,
            Version::V6 => 6,
        };
        assert_eq!(self.0[l3] >> 4, version);
        assert_eq!(self.0.len(), l3 + plan.new_len());
        Some(())
    }
}

/// The packet as one of the other family.
pub(crate) fn translated(packet: &[u8]) -> Result<Vec<u8>, DropReason> {
    translated_by(&Table::new(), packet)
}

pub(crate) fn translated_by(table: &Table, packet: &[u8]) -> Result<Vec<u8>, DropReason> {
    let mut bytes = Bytes(packet.to_vec());
    let mut job = Job::EMPTY;
    if packet[0] >> 4 == 6 {
        nat64::to_ipv4(&bytes, 0, table, &mut job)?;
    } else {
        nat64::to_ipv6(&bytes, 0, table, &mut job)?;
    }
    nat64::apply(&mut bytes, 0, &job.plan).ok_or(DropReason::RewriteFailed)?;
    Ok(bytes.0)
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
