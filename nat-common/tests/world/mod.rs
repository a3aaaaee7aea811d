//! A host with one uplink and one network, its guests and some remotes, in memory.

mod tables;

use std::net::Ipv4Addr;

use etherparse::{IpNumber, PacketBuilder, PacketHeaders, TransportHeader};
use nat_common::{
    pipeline::{self, Place, Verdict},
    session::ending,
    wire::{
        address::Addr4,
        packet::SlicePacket,
        protocol::{ICMP, TCP, UDP},
    },
    work::Work,
};
pub(crate) use tables::MemoryTables;

/// The protocols that traffic is made of: with ports, with an identifier, and with neither.
pub(crate) const PROTOCOLS: [u8; 4] = [UDP, TCP, ICMP, 47];

pub(crate) const UPLINK: u32 = 1;
pub(crate) const LAN: u32 = 2;
pub(crate) const PUBLIC: [u8; 4] = [19, 19, 8, 10];
/// The guest that ports are forwarded to.
pub(crate) const SERVER: u8 = 0;

const L3: usize = 14;

/// What a packet came out as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Dropped,
    Untouched(Vec<u8>),
    Translated(Vec<u8>),
}

/// Addresses and ports of a packet whose checksums are right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flow {
    pub(crate) protocol: u8,
    pub(crate) source: ([u8; 4], u16),
    pub(crate) destination: ([u8; 4], u16),
}

/// What a remote has received, and the guest's endpoint that it came from.
type Received = (Flow, ([u8; 4], u16));

pub(crate) struct World {
    tables: MemoryTables,
    work: Work<Addr4>,
    /// What each remote has last received, and from which guest's endpoint it came.
    received: [Option<Received>; 3],
}

fn guest(number: u8) -> [u8; 4] {
    [172, 22, 161, 170 + number]
}

fn remote(number: u8) -> [u8; 4] {
    [198, 51, 100, 2 + number]
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            tables: MemoryTables::new(),
            work: Work::new(),
            received: [None; 3],
        }
    }

    pub(crate) fn request(&self, protocol: u8) -> Vec<u8> {
        build(
            Flow {
                protocol,
                source: (remote(0), 4000),
                destination: (PUBLIC, 10_000),
            },
            true,
        )
    }

    pub(crate) fn guest_sends(&mut self, from: u8, to: u8, port: u8, protocol: u8) {
        let internal = (guest(from), 5000 + u16::from(port));
        let flow = Flow {
            protocol,
            source: internal,
            destination: (remote(to), 7000),
        };
        let Some(outside) = self.out(&build(flow, true)) else {
            return;
        };
        assert_eq!(outside.source.0, PUBLIC, "left with an inside address");
        assert_eq!(outside.destination, read(&build(flow, true)).destination);
        self.received[usize::from(to)] = Some((outside, internal));
    }

    pub(crate) fn remote_answers(&mut self, from: u8) {
        let Some((received, internal)) = self.received[usize::from(from)] else {
            return;
        };
        let answer = Flow {
            protocol: received.protocol,
            source: received.destination,
            destination: received.source,
        };
        match self.inbound(&build(answer, false)) {
            Outcome::Translated(packet) => {
                let seen = read(&packet);
                assert_eq!(seen.destination.0, internal.0, "answer to the wrong guest");
                if received.protocol != 47 {
                    assert_eq!(seen.destination.1, internal.1, "answer to the wrong port");
                }
            }
            // Its session has expired.
            Outcome::Dropped | Outcome::Untouched(_) => {}
        }
    }

    pub(crate) fn remote_asks(&mut self, from: u8, port: u8, protocol: u8) {
        let external = (PUBLIC, 10_000 + u16::from(port));
        let asked = Flow {
            protocol,
            source: (remote(from), 4000),
            destination: external,
        };
        let Outcome::Translated(packet) = self.inbound(&build(asked, true)) else {
            return;
        };
        let seen = read(&packet);
        assert_eq!(seen.destination.0, guest(SERVER));
        let answer = Flow {
            protocol,
            source: seen.destination,
            destination: seen.source,
        };
        let outside = self.out(&build(answer, false)).expect("an answer leaves");
        let expected = read(&build(
            Flow {
                protocol,
                source: asked.destination,
                destination: asked.source,
            },
            false,
        ));
        assert_eq!(outside, expected);
    }

    pub(crate) fn guest_asks_by_public_address(&mut self, from: u8, port: u8, protocol: u8) {
        let client = (guest(from), 5000 + u16::from(port));
        let asked = Flow {
            protocol,
            source: client,
            destination: (PUBLIC, 10_000 + u16::from(port)),
        };
        let Some(seen) = self.between_guests(&build(asked, true)) else {
            return;
        };
        assert_eq!((seen.source.0, seen.destination.0), (PUBLIC, guest(SERVER)));
        let answer = Flow {
            protocol,
            source: seen.destination,
            destination: seen.source,
        };
        let back = self
            .between_guests(&build(answer, false))
            .expect("an answer passes");
        let expected = read(&build(
            Flow {
                protocol,
                source: asked.destination,
                destination: asked.source,
            },
            false,
        ));
        assert_eq!(back, expected);
    }

    /// Time passes, and the daemon looks for idle sessions.
    pub(crate) fn wait(&mut self, seconds: u32) {
        self.tables.advance(seconds);
        for key in self.tables.session_keys() {
            let tables = &self.tables;
            if let Some(session) = nat_common::tables::sessions::Sessions::session(tables, &key) {
                ending::expire(tables, tables.settings(), tables.now(), &key, session);
            }
        }
    }

    pub(crate) fn assert_empty(&self) {
        assert_eq!(
            self.tables.entries(),
            [0; 5],
            "sessions, mappings, ports, permits, guests"
        );
    }

    pub(crate) fn at_every_hook(&mut self, bytes: &[u8]) -> Vec<Outcome> {
        vec![
            self.inbound(bytes),
            self.run(bytes, UPLINK, LAN, Hook::Outbound),
            self.run(bytes, UPLINK, 0, Hook::Outbound),
            self.run(bytes, LAN, LAN, Hook::FromGuest),
            self.run(bytes, LAN, LAN, Hook::ToGuest),
            self.run(bytes, LAN, 0, Hook::ToGuest),
        ]
    }

    fn inbound(&mut self, bytes: &[u8]) -> Outcome {
        self.run(bytes, UPLINK, UPLINK, Hook::Inbound)
    }

    /// From a guest by the kernel's routing to the uplink.
    fn out(&mut self, bytes: &[u8]) -> Option<Flow> {
        let packet = match self.run(bytes, LAN, LAN, Hook::FromGuest) {
            Outcome::Untouched(packet) => packet,
            other => panic!("{other:?} at the network's ingress"),
        };
        match self.run(&packet, UPLINK, LAN, Hook::Outbound) {
            Outcome::Translated(packet) => Some(read(&packet)),
            Outcome::Dropped => None,
            Outcome::Untouched(_) => panic!("left untranslated"),
        }
    }

    /// From a guest by the kernel's routing to a guest.
    fn between_guests(&mut self, bytes: &[u8]) -> Option<Flow> {
        let packet = match self.run(bytes, LAN, LAN, Hook::FromGuest) {
            Outcome::Translated(packet) => packet,
            Outcome::Dropped => return None,
            Outcome::Untouched(_) => panic!("not hairpinned"),
        };
        match self.run(&packet, LAN, LAN, Hook::ToGuest) {
            Outcome::Translated(packet) => Some(read(&packet)),
            other => panic!("{other:?} at the network's egress"),
        }
    }

    fn run(&mut self, bytes: &[u8], interface: u32, ingress: u32, hook: Hook) -> Outcome {
        let mut bytes = bytes.to_vec();
        let mut packet = SlicePacket::new(&mut bytes, ingress);
        let place = Place {
            l3: L3,
            interface,
            is_to_host: true,
        };
        // It lies in a map: each packet finds there what the one before has left.
        let (tables, mut work) = (&self.tables, self.work);
        let outcome = match hook {
            Hook::Inbound => pipeline::inbound(&mut packet, tables, place, &mut work),
            Hook::Outbound => pipeline::outbound(&mut packet, tables, place, &mut work),
            Hook::FromGuest => pipeline::from_guest(&mut packet, tables, place, &mut work),
            Hook::ToGuest => pipeline::to_guest(&mut packet, tables, place, &mut work),
        };
        self.work = work;
        match outcome {
            Ok(Verdict::Untouched) => Outcome::Untouched(bytes),
            Ok(Verdict::Translated | Verdict::Opened | Verdict::ReceivedAnew) => {
                Outcome::Translated(bytes)
            }
            Ok(Verdict::Forwarded) => panic!("there is no next hop"),
            Ok(Verdict::Beyond) => panic!("undecided"),
            Ok(Verdict::Kept) | Err(_) => Outcome::Dropped,
        }
    }
}

#[derive(Clone, Copy)]
enum Hook {
    Inbound,
    Outbound,
    FromGuest,
    ToGuest,
}

/// A packet of a flow; a request opens a connection or asks for an echo, the other answers.
fn build(flow: Flow, is_request: bool) -> Vec<u8> {
    let Flow {
        protocol,
        source,
        destination,
    } = flow;
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(source.0, destination.0, 64);
    let mut packet = Vec::new();
    let payload = b"payload";
    let written = match (protocol, is_request) {
        (UDP, _) => builder
            .udp(source.1, destination.1)
            .write(&mut packet, payload),
        (TCP, true) => builder
            .tcp(source.1, destination.1, 1, 9)
            .syn()
            .write(&mut packet, b""),
        (TCP, false) => builder
            .tcp(source.1, destination.1, 1, 9)
            .syn()
            .ack(2)
            .write(&mut packet, b""),
        (ICMP, true) => builder
            .icmpv4_echo_request(source.1, 1)
            .write(&mut packet, payload),
        (ICMP, false) => builder
            .icmpv4_echo_reply(destination.1, 1)
            .write(&mut packet, payload),
        (other, _) => builder.write(&mut packet, IpNumber(other), payload),
    };
    written.unwrap();
    packet
}

/// Reads a packet and checks all its checksums.
fn read(packet: &[u8]) -> Flow {
    let headers = PacketHeaders::from_ethernet_slice(packet).unwrap();
    let Some(etherparse::NetHeaders::Ipv4(ip, _)) = &headers.net else {
        panic!("not IPv4")
    };
    assert_eq!(ip.header_checksum, ip.calc_header_checksum(), "IP checksum");
    let payload = headers.payload.slice();
    let (source, destination) = match &headers.transport {
        Some(TransportHeader::Udp(udp)) => {
            assert_eq!(udp.checksum, udp.calc_checksum_ipv4(ip, payload).unwrap());
            (udp.source_port, udp.destination_port)
        }
        Some(TransportHeader::Tcp(tcp)) => {
            assert_eq!(tcp.checksum, tcp.calc_checksum_ipv4(ip, payload).unwrap());
            (tcp.source_port, tcp.destination_port)
        }
        Some(TransportHeader::Icmpv4(icmp)) => {
            assert_eq!(icmp.checksum, icmp.icmp_type.calc_checksum(payload));
            match icmp.icmp_type {
                etherparse::Icmpv4Type::EchoRequest(echo) => (echo.id, 0),
                etherparse::Icmpv4Type::EchoReply(echo) => (0, echo.id),
                ref other => panic!("{other:?}"),
            }
        }
        _ => (0, 0),
    };
    Flow {
        protocol: ip.protocol.0,
        source: (Ipv4Addr::from(ip.source).octets(), source),
        destination: (Ipv4Addr::from(ip.destination).octets(), destination),
    }
}
