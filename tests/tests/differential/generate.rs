//! Random packets, the same for the same seed.

use std::net::Ipv4Addr;

use crate::differential::model::{Cause, Direction, Flow, Kind, Model, Phase, Shape, Stimulus};
use crate::differential::twin::{GATEWAY, MARKER_PORTS, PUBLIC, Place, ROUTER, SECOND, VM1, VM2};
use kit::flawed::{Body, Dress, ESP, End, Flaw, IPIP, OSPF, Query, SCTP, Written, has_ports};
use kit::packets::{ACK, FIN, GRE, PSH, RST, SYN, URG};
use nat_common::wire::protocol::{ICMP, TCP, UDP};

const REMOTES: [Ipv4Addr; 4] = [
    Ipv4Addr::new(198, 51, 100, 2),
    Ipv4Addr::new(198, 51, 100, 3),
    Ipv4Addr::new(198, 51, 100, 4),
    Ipv4Addr::new(192, 0, 2, 7),
];
/// Remotes that only probe, to whom no guest ever sends.
const STRANGERS: [Ipv4Addr; 2] = [
    Ipv4Addr::new(198, 51, 100, 66),
    Ipv4Addr::new(192, 0, 2, 66),
];
const REMOTE_PORTS: [u16; 5] = [53, 80, 443, 3478, 7000];
const GUESTS: [Ipv4Addr; 2] = [VM1, VM2];
/// The forwards of ports: protocol, external port, guest, its port.
const FORWARDS: [(u8, u16, Ipv4Addr, u16); 8] = [
    (TCP, 10000, VM1, 10000),
    (TCP, 10007, VM1, 10007),
    (TCP, 10019, VM1, 10019),
    (TCP, 8000, VM2, 80),
    (UDP, 10000, VM2, 10000),
    (UDP, 10013, VM2, 10013),
    (UDP, 10019, VM2, 10019),
    (UDP, 5300, VM1, 53),
];

/// Whether the first public address's port is forwarded to a guest.
pub(crate) fn is_forwarded(protocol: u8, port: u16) -> bool {
    match protocol {
        TCP => (10000..=10019).contains(&port) || port == 8000,
        UDP => (10000..=10019).contains(&port) || port == 5300 || MARKER_PORTS.contains(&port),
        _ => false,
    }
}

/// SplitMix64: small, and the same everywhere.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn word(&mut self) -> u16 {
        self.next() as u16
    }

    pub(super) fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    pub(super) fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    pub(super) fn bytes(&mut self, limit: usize) -> Vec<u8> {
        // Short ones, and none at all, as often as long ones.
        let limit = self.of(&[0, 1, 2, 9, 64, limit]);
        let length = self.below(limit.min(1300) + 1);
        (0..length).map(|_| self.next() as u8).collect()
    }
}

/// A packet as the host's kernel sends and takes it: it writes options itself, nothing behind the
/// packet, and refuses what it may not cut.
fn plain(step: &mut Stimulus) {
    step.dress.dont_fragment = false;
    step.dress.options = Vec::new();
    step.dress.padding = 0;
}

/// Makes packets for a model.
pub(crate) struct Generator {
    random: Random,
    /// Fragmented packets so far.
    fragmented: u16,
}

impl Generator {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            fragmented: 0,
        }
    }

    /// One of so many.
    pub(crate) fn choice(&mut self, limit: usize) -> usize {
        self.random.below(limit)
    }

    /// The next step.
    pub(crate) fn next(&mut self, model: &mut Model) -> Stimulus {
        loop {
            let step = match self.random.below(100) {
                0..14 => self.new_flow(model),
                14..66 => self.on_flow(model),
                66..76 => self.error(model),
                76..82 => self.probe(model),
                82..92 => self.stray(model),
                _ => self.flawed(model),
            };
            if let Some(step) = step {
                return step;
            }
        }
    }

    fn dress(&mut self) -> Dress {
        let random = &mut self.random;
        Dress {
            ttl: random.of(&[2, 3, 64, 128, 255]),
            tos: random.next() as u8,
            // Not 0, which the kernel uses for its own packets.
            id: random.word() | 1,
            dont_fragment: random.percent(50),
            options: if random.percent(5) {
                vec![1, 1, 1, 0]
            } else {
                Vec::new()
            },
            fragments: 1,
            is_reversed: false,
            padding: if random.percent(5) {
                random.below(19)
            } else {
                0
            },
        }
    }

    /// Sends a packet in fragments. Each packet has its own identification: natbpf gives another
    /// one to a packet whose own another packet to the same receiver has had a short time ago, and
    /// the two hosts' clocks are not what is compared.
    fn cut(&mut self, dress: &mut Dress, count: usize) {
        self.fragmented = self.fragmented.wrapping_add(1);
        dress.fragments = count;
        dress.id = self.fragmented;
        dress.dont_fragment = false;
        dress.options = Vec::new();
    }

    fn step(&mut self, cause: Cause, flow: usize, direction: Direction, shape: Shape) -> Stimulus {
        Stimulus {
            cause,
            flow,
            direction,
            shape,
            dress: self.dress(),
            flaw: Flaw::None,
            is_doubled: false,
        }
    }

    fn request(&mut self, cause: Cause, flow: usize, body: Body) -> Stimulus {
        self.step(cause, flow, Direction::Request, Shape::Own(body))
    }

    /// A port of a client: often one of a few, so that guests meet.
    fn client_port(&mut self) -> u16 {
        if self.random.percent(3) {
            return self.random.of(&[0, 0, 65535]);
        }
        match self.random.below(10) {
            0..5 => 40000 + self.random.below(12) as u16,
            5 => 1 + self.random.below(599) as u16,
            6 => 10000 + self.random.below(20) as u16,
            _ => 20000 + self.random.below(40000) as u16,
        }
    }

    fn remote(&mut self) -> End {
        (self.random.of(&REMOTES), self.random.of(&REMOTE_PORTS))
    }

    /// A flow that is not in the model before.
    fn flow(&mut self, model: &mut Model, kind: Kind, protocol: u8) -> Option<usize> {
        let ends = match kind {
            Kind::Out => self.ends_out(protocol),
            Kind::In => self.ends_in(protocol),
            Kind::Hairpin => self.ends_hairpin(protocol),
            // Every ping is a guest's.
            Kind::Host if protocol == ICMP => None,
            Kind::Host => self.ends_host(),
            Kind::Own => self.ends_own(model, protocol),
        };
        let ends = ends?;
        let next = [self.random.next() as u32, self.random.next() as u32];
        let mut flow = Flow::new(kind, protocol, ends, next);
        // Only echoes are forwarded.
        if kind == Kind::Out && self.random.percent(20) {
            flow.query = self.random.of(&[Query::Timestamp, Query::AddressMask]);
        }
        model.add(flow)
    }

    fn ends_out(&mut self, protocol: u8) -> Option<[End; 3]> {
        let guest = self.random.of(&GUESTS);
        let remote = self.remote();
        Some(match protocol {
            TCP | UDP | SCTP => [(guest, self.client_port()), remote, remote],
            ICMP => {
                let remote = (remote.0, 0);
                [(guest, self.client_port()), remote, remote]
            }
            _ => {
                let remote = (self.lonely_remote(), 0);
                [(guest, 0), remote, remote]
            }
        })
    }

    fn forward(&mut self, protocol: u8) -> Option<[End; 2]> {
        if self.random.percent(20) {
            let port = match protocol {
                TCP | UDP => self.random.of(&[21, 80, 443, 10003, 65535]),
                _ => 0,
            };
            return Some([(SECOND, port), (VM2, port)]);
        }
        if protocol == ICMP {
            return Some([(PUBLIC, 0), (VM1, 0)]);
        }
        let (forwarded, port, guest, to_port) = self.random.of(&FORWARDS);
        (forwarded == protocol).then_some([(PUBLIC, port), (guest, to_port)])
    }

    fn ends_in(&mut self, protocol: u8) -> Option<[End; 3]> {
        let [target, server] = match protocol {
            TCP | UDP | ICMP => self.forward(protocol)?,
            _ => [(SECOND, 0), (VM2, 0)],
        };
        let client = match protocol {
            TCP | UDP | ICMP => (self.random.of(&REMOTES), self.client_port()),
            _ => (self.lonely_remote(), 0),
        };
        Some([client, target, server])
    }

    fn ends_hairpin(&mut self, protocol: u8) -> Option<[End; 3]> {
        let [target, server] = self.forward(protocol)?;
        let mut client = (self.random.of(&GUESTS), self.client_port());
        if self.random.percent(2) {
            client = server;
        }
        // Else the chosen port could not be told from the one that is sent to, by the server or, if
        // it sends to itself, between the hooks.
        let is_clear = (target.0 != PUBLIC && client != server) || client.1 != target.1;
        is_clear.then_some([client, target, server])
    }

    /// To the host itself: ports that are no forward's and no guest's.
    fn ends_host(&mut self) -> Option<[End; 3]> {
        let client = (
            self.random.of(&STRANGERS),
            1024 + self.random.below(60000) as u16,
        );
        // Neither host gives a guest one of these.
        let host = (PUBLIC, 700 + self.random.below(200) as u16);
        Some([client, host, host])
    }

    /// From the host itself: by the ports that guests use too, and by those of forwards.
    fn ends_own(&mut self, model: &Model, protocol: u8) -> Option<[End; 3]> {
        let remote = match protocol {
            TCP | UDP => self.remote(),
            ICMP => (self.random.of(&REMOTES), 0),
            _ => (self.lonely_remote(), 0),
        };
        let port = match protocol {
            // (A connection has a socket, or can be told by the forward alone.)
            TCP => self.forwarded_port(TCP),
            UDP if self.random.percent(30) => self.forwarded_port(UDP),
            UDP | ICMP => 40000 + self.random.below(12) as u16,
            _ => 0,
        };
        let has_another = |flow: &Flow| flow.protocol == protocol && flow.server.0 == remote.0;
        let is_free = has_ports(protocol) || !model.flows.iter().any(has_another);
        is_free.then_some([(PUBLIC, port), remote, remote])
    }

    fn forwarded_port(&mut self, protocol: u8) -> u16 {
        let all = FORWARDS.iter().filter(|forward| forward.0 == protocol);
        let all: Vec<u16> = all.map(|forward| forward.1).collect();
        self.random.of(&all)
    }

    /// A remote of flows without ports, of which there is one for each remote: they need many.
    fn lonely_remote(&mut self) -> Ipv4Addr {
        Ipv4Addr::new(203, 0, 113, 2 + self.random.below(200) as u8)
    }

    /// The first packet of a new flow on a wire that has ports, and that nothing is in the way of.
    pub(crate) fn beginning(&mut self, model: &mut Model) -> Stimulus {
        loop {
            if let Some(step) = self.new_flow(model) {
                let flow = &model.flows[step.flow];
                let is_answered = flow.protocol == ICMP || flow.client.1 != 0;
                if has_ports(flow.protocol) && is_answered && flow.kind != Kind::Own {
                    return step;
                }
            }
        }
    }

    fn new_flow(&mut self, model: &mut Model) -> Option<Stimulus> {
        let kind = self
            .random
            .of(&[Kind::Out, Kind::Out, Kind::In, Kind::In, Kind::Hairpin]);
        let kind = match self.random.percent(10) {
            true => Kind::Own,
            false => kind,
        };
        let protocol = match self.random.below(20) {
            0..7 => UDP,
            7..14 => TCP,
            14..18 => ICMP,
            _ if kind == Kind::Hairpin => UDP,
            18 => self.random.of(&[GRE, IPIP, OSPF]),
            _ => self.random.of(&[ESP, SCTP]),
        };
        let flow = self.flow(model, kind, protocol)?;
        let body = self.body(model, flow, Direction::Request)?;
        let mut step = self.request(Cause::Regular, flow, body);
        if kind == Kind::Own {
            plain(&mut step);
        }
        Some(step)
    }

    /// The next packet of a flow in a direction; none if TCP has none to send.
    fn body(&mut self, model: &Model, flow: usize, direction: Direction) -> Option<Body> {
        let flow = &model.flows[flow];
        Some(match flow.protocol {
            UDP => Body::Udp {
                payload: match self.random.percent(10) {
                    true => self.vxlan(),
                    false => self.random.bytes(1300),
                },
                summed: !self.random.percent(10),
            },
            TCP => return self.segment(flow, direction),
            ICMP => Body::Echo {
                query: flow.query,
                is_reply: direction == Direction::Reply,
                sequence: self.random.word(),
                payload: self.random.bytes(1300),
            },
            SCTP => Body::SctpInit,
            IPIP => Body::Opaque {
                protocol: IPIP,
                payload: self.inner_packet(),
            },
            GRE if self.random.percent(50) => Body::Opaque {
                protocol: GRE,
                payload: [&[0, 0, 0x08, 0x00][..], &self.inner_packet()].concat(),
            },
            protocol => {
                // GRE's version 0 without any option, and an inner protocol. netfilter drops GRE
                // of less than eight bytes, since it looks for a call identifier there.
                let head = if protocol == ESP { 4 } else { 8 };
                let head = &[0, 0, 0x65, 0x58, 0, 0, 0, 0][..head];
                Body::Opaque {
                    protocol,
                    payload: [head, &self.random.bytes(600)].concat(),
                }
            }
        })
    }

    /// A packet in a tunnel: of any addresses, including inside ones and the host's own.
    fn inner_packet(&mut self) -> Vec<u8> {
        let ends = [VM1, VM2, PUBLIC, GATEWAY, REMOTES[0]];
        let [from, to] = [self.random.of(&ends), self.random.of(&ends)];
        let dress = Dress {
            ttl: self.random.of(&[1, 64]),
            options: Vec::new(),
            fragments: 1,
            padding: 0,
            ..self.dress()
        };
        let body = match self.random.percent(50) {
            true => Body::Udp {
                payload: self.random.bytes(400),
                summed: !self.random.percent(30),
            },
            false => Body::Tcp {
                seq: self.random.next() as u32,
                ack: 0,
                flags: self.random.of(&[SYN, ACK, RST, FIN | ACK]),
                payload: Vec::new(),
            },
        };
        let ports = [self.client_port(), self.random.of(&REMOTE_PORTS)];
        // A sum that a guest left to its device is wrong in the tunnel.
        let flaw = match self.random.percent(30) {
            true => Flaw::Checksum,
            false => Flaw::None,
        };
        let inner = Written {
            from: (from, ports[0]),
            to: (to, ports[1]),
            body,
            dress,
            flaw,
        };
        inner.whole()
    }

    /// What VXLAN puts into a datagram (RFC 7348): its header, and a frame.
    fn vxlan(&mut self) -> Vec<u8> {
        let network = self.random.next() as u8;
        let header = [0x08, 0, 0, 0, 0, 0, network, 0];
        let ethernet = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00];
        [&header[..], &ethernet, &self.inner_packet()].concat()
    }

    fn segment(&mut self, flow: &Flow, direction: Direction) -> Option<Body> {
        use Direction::{Reply, Request};
        let sender = direction as usize;
        let flags = match (flow.phase, direction) {
            (Phase::New | Phase::SynSent, Request) => SYN,
            (Phase::SynSent, Reply) => SYN | ACK,
            (Phase::SynAnswered, Request) => ACK,
            (Phase::Open, _) if flow.has_finished[sender] => ACK,
            (Phase::Open, _) => match self.random.below(20) {
                0..2 => FIN | ACK,
                2 => RST | ACK,
                3..6 => ACK,
                6 => ACK | URG,
                _ => ACK | PSH,
            },
            (Phase::Closed, _) => ACK,
            _ => return None,
        };
        let payload = match flags & PSH {
            0 => Vec::new(),
            _ => self.random.bytes(400),
        };
        Some(self.tcp(flow, direction, flags, payload, 0))
    }

    /// A segment whose sequence number is `beyond` the next one.
    fn tcp(
        &self,
        flow: &Flow,
        direction: Direction,
        flags: u8,
        payload: Vec<u8>,
        beyond: u32,
    ) -> Body {
        let [client, server] = flow.next;
        let (seq, ack) = match direction {
            Direction::Request => (client, server),
            Direction::Reply => (server, client),
        };
        // A SYN that is sent again has the number that it had.
        let again = u32::from(flags & (SYN | ACK) == SYN && flow.phase == Phase::SynSent);
        Body::Tcp {
            seq: seq.wrapping_sub(again).wrapping_add(beyond),
            ack: if flags & ACK == 0 { 0 } else { ack },
            flags,
            payload,
        }
    }

    fn some_flow(&mut self, model: &Model, fits: impl Fn(&Flow) -> bool) -> Option<usize> {
        // Late ones more often, so that a flow gets several packets and then its rest.
        for _ in 0..20 {
            let back = self.random.below(model.flows.len().clamp(1, 60));
            let Some(index) = model.flows.len().checked_sub(back + 1) else {
                continue;
            };
            let flow = &model.flows[index];
            if flow.is_usable && flow.is_known() && fits(flow) {
                return Some(index);
            }
        }
        None
    }

    /// A packet of a flow that is there.
    fn on_flow(&mut self, model: &mut Model) -> Option<Stimulus> {
        let index = self.some_flow(model, |_| true)?;
        let flow = &model.flows[index];
        let mut direction = self.random.of(&[Direction::Request, Direction::Reply]);
        if flow.protocol == TCP && self.random.percent(12) {
            return self.odd_segment(model, index);
        }
        // A handshake continues with the next side.
        match flow.phase {
            Phase::SynSent if self.random.percent(80) => direction = Direction::Reply,
            Phase::SynAnswered => direction = Direction::Request,
            _ => {}
        }
        let body = self.body(model, index, direction)?;
        let mut step = self.step(Cause::Regular, index, direction, Shape::Own(body));
        let protocol = model.flows[index].protocol;
        if model.flows[index].kind == Kind::Own {
            plain(&mut step);
        } else if matches!(protocol, UDP | ICMP) && self.random.percent(10) {
            let count = 2 + self.random.below(3);
            step.dress.is_reversed = self.random.percent(50);
            self.cut(&mut step.dress, count);
        } else if protocol != TCP && self.random.percent(2) {
            step.dress.ttl = 1;
            step.cause = Cause::LastHop;
        } else if protocol != TCP && self.random.percent(2) {
            // Record route, with room for one address, which the host writes.
            step.dress.options = vec![7, 7, 4, 0, 0, 0, 0, 0];
        }
        // A second reset or FIN is another matter.
        let flags = step.flags().unwrap_or(0);
        step.is_doubled =
            step.cause == Cause::Regular && flags & (RST | FIN) == 0 && self.random.percent(5);
        Some(step)
    }

    /// A segment that its connection does not expect.
    fn odd_segment(&mut self, model: &Model, index: usize) -> Option<Stimulus> {
        let flow = &model.flows[index];
        let direction = self.random.of(&[Direction::Request, Direction::Reply]);
        let off = 1_000_000 + self.random.below(1 << 30) as u32;
        let (cause, flags, beyond) = match flow.phase {
            Phase::Open => match self.random.below(4) {
                0 => (Cause::OffWindow, ACK | PSH, off),
                1 => (Cause::OffWindow, RST, off),
                2 => (
                    Cause::NearReset,
                    self.random.of(&[RST, RST | ACK]),
                    self.near(),
                ),
                _ => (Cause::WrongState, self.odd_flags(), 0),
            },
            Phase::Closed | Phase::Reset => match self.random.below(2) {
                0 => (
                    Cause::Late,
                    self.random.of(&[ACK, ACK | PSH, FIN | ACK, RST]),
                    0,
                ),
                _ if direction == Direction::Request => (Cause::Reopening, SYN, 100_000),
                _ => return None,
            },
            _ => return None,
        };
        let payload = match flags & PSH {
            0 => Vec::new(),
            _ => self.random.bytes(100),
        };
        let body = self.tcp(flow, direction, flags, payload, beyond);
        Some(self.step(cause, index, direction, Shape::Own(body)))
    }

    /// How far from the next sequence number: one or some bytes, up to a window, before it or
    /// behind it.
    fn near(&mut self) -> u32 {
        let most = self.random.of(&[1, 2, 1460, 65_535]);
        let distance = 1 + self.random.below(most) as u32;
        match self.random.percent(50) {
            true => distance,
            false => distance.wrapping_neg(),
        }
    }

    fn odd_flags(&mut self) -> u8 {
        self.random.of(&[
            0,
            SYN,
            SYN | ACK,
            SYN | FIN,
            SYN | RST,
            FIN | RST | ACK,
            FIN | PSH | URG,
            FIN,
            PSH,
        ])
    }

    fn error(&mut self, model: &Model) -> Option<Stimulus> {
        let index = self.some_flow(model, |flow| {
            flow.kind != Kind::Own
                && (flow.protocol != SCTP && flow.phase != Phase::New
                    || matches!(flow.protocol, UDP | ICMP | GRE | ESP))
        })?;
        let direction = self.random.of(&[Direction::Request, Direction::Reply]);
        let flow = &model.flows[index];
        let original = match flow.protocol {
            TCP => self.tcp(flow, direction, ACK, self.random.clone().bytes(40), 0),
            _ => self.body(model, index, direction)?,
        };
        let is_outside = matches!(
            (flow.kind, direction),
            (Kind::Out, Direction::Request) | (Kind::In, Direction::Reply)
        );
        let by = (is_outside && self.random.percent(50)).then_some(ROUTER);
        let (kind, code) = self.random.of(&[
            (3, 0),
            (3, 1),
            (3, 3),
            (3, 4),
            (3, 13),
            (11, 0),
            (11, 1),
            (12, 0),
        ]);
        let mut quoted_bytes = self.random.of(&[28, 28, 36, 48, 128, 548]);
        let mut cause = Cause::Error;
        let mut flaw = Flaw::None;
        let (mut kind, mut code) = (kind, code);
        // Of protocols without ports there are few flows.
        let is_rare = !has_ports(flow.protocol);
        match self.random.below(20) {
            0 => {
                cause = Cause::Flawed;
                flaw = Flaw::Checksum;
            }
            n if n == 1 || is_rare && (4..8).contains(&n) => {
                cause = Cause::ErrorTooShort;
                quoted_bytes = self.random.of(&[0, 8, 19, 20, 24, 27]);
            }
            2 if is_outside => cause = Cause::ErrorToAnother,
            3 => {
                cause = Cause::OtherError;
                (kind, code) = self.random.of(&[(4, 0), (5, 0), (5, 1)]);
            }
            _ => {}
        }
        let shape = Shape::Error {
            by,
            kind,
            code,
            quoted_bytes,
            original,
        };
        let mut step = self.step(cause, index, direction, shape);
        step.flaw = flaw;
        if let Shape::Error { quoted_bytes, .. } = &mut step.shape
            && cause != Cause::ErrorTooShort
        {
            *quoted_bytes += step.dress.options.len();
        }
        Some(step)
    }

    /// To a guest's external port from elsewhere.
    fn probe(&mut self, model: &Model) -> Option<Stimulus> {
        let index = self.some_flow(model, |flow| {
            flow.kind == Kind::Out && matches!(flow.protocol, UDP | TCP)
        })?;
        let flow = &model.flows[index];
        // From ports that no flow has: of the same address, or of an unknown one.
        let port = 61_000 + self.random.below(4000) as u16;
        let from = match self.random.below(2) {
            0 => (flow.target.0, port),
            _ => (self.random.of(&STRANGERS), port),
        };
        let body = match flow.protocol {
            UDP => Body::Udp {
                payload: self.random.bytes(100),
                summed: true,
            },
            _ => Body::Tcp {
                seq: self.random.next() as u32,
                ack: 0,
                flags: self.random.of(&[SYN, SYN, SYN | ACK, ACK, RST, FIN | ACK]),
                payload: Vec::new(),
            },
        };
        Some(self.step(
            Cause::Probe,
            index,
            Direction::Reply,
            Shape::Probe(from, body),
        ))
    }

    /// A packet of a flow that is used for this packet only.
    fn stray(&mut self, model: &mut Model) -> Option<Stimulus> {
        let kind = self
            .random
            .of(&[Kind::Out, Kind::In, Kind::Hairpin, Kind::Host]);
        match self.random.below(8) {
            0..3 => self.no_handshake(model, kind),
            3 => self.answer_to_nothing(model, kind),
            4 => self.error_about_nothing(model, kind),
            5 => self.spoofed(model),
            6 => self.straight_to_guest(model),
            7 if self.random.percent(30) => self.among_guests(model),
            _ => self.for_the_host(model),
        }
    }

    fn burnt(&mut self, model: &mut Model, kind: Kind, protocol: u8) -> Option<usize> {
        let index = self.flow(model, kind, protocol)?;
        model.flows[index].is_usable = false;
        Some(index)
    }

    fn no_handshake(&mut self, model: &mut Model, kind: Kind) -> Option<Stimulus> {
        let index = self.burnt(model, kind, TCP)?;
        let flags = match self.random.below(3) {
            0 => ACK,
            1 => self.random.of(&[SYN | ACK, FIN | ACK, ACK | PSH]),
            _ => self.odd_flags(),
        };
        let flags = if flags & (SYN | RST) == SYN && flags & (ACK | FIN) == 0 {
            ACK
        } else {
            flags
        };
        let payload = self.random.bytes(100);
        let body = self.tcp(&model.flows[index], Direction::Request, flags, payload, 0);
        Some(self.request(Cause::NoHandshake, index, body))
    }

    fn answer_to_nothing(&mut self, model: &mut Model, kind: Kind) -> Option<Stimulus> {
        let protocol = self.random.of(&[TCP, ICMP]);
        let index = self.burnt(model, kind, protocol)?;
        if protocol == ICMP {
            // An answer's identifier is that of its target: one under which no client is shown.
            let id = 950 + self.random.below(50) as u16;
            (model.flows[index].target.1, model.flows[index].server.1) = (id, id);
        }
        let body = match protocol {
            TCP => self.tcp(&model.flows[index], Direction::Request, RST, Vec::new(), 0),
            _ => Body::Echo {
                query: self
                    .random
                    .of(&[Query::Echo, Query::Echo, Query::Timestamp]),
                is_reply: true,
                sequence: self.random.word(),
                payload: self.random.bytes(100),
            },
        };
        Some(self.request(Cause::AnswerToNothing, index, body))
    }

    fn error_about_nothing(&mut self, model: &mut Model, kind: Kind) -> Option<Stimulus> {
        let protocol = self.random.of(&[TCP, UDP, ICMP]);
        let index = self.burnt(model, kind, protocol)?;
        // A port under which no client is shown.
        model.flows[index].client.1 = 950 + self.random.below(50) as u16;
        let direction = self.random.of(&[Direction::Request, Direction::Reply]);
        let original = match protocol {
            TCP => self.tcp(&model.flows[index], direction, ACK, Vec::new(), 0),
            _ => self.body(model, index, direction)?,
        };
        let shape = Shape::Error {
            by: None,
            kind: self.random.of(&[3, 11]),
            code: self.random.of(&[0, 1]),
            quoted_bytes: 48,
            original,
        };
        Some(self.step(Cause::ErrorAboutNothing, index, direction, shape))
    }

    /// From outside with a source that is not outside, or from a guest with none that is inside.
    fn spoofed(&mut self, model: &mut Model) -> Option<Stimulus> {
        let kind = self.random.of(&[Kind::In, Kind::Out]);
        let protocol = self.random.of(&[TCP, UDP]);
        let index = self.burnt(model, kind, protocol)?;
        let flow = &mut model.flows[index];
        // No two of these come from the same port.
        flow.client.1 = 1024 + (index % 60_000) as u16;
        flow.client.0 = self.random.of(&[
            Ipv4Addr::new(172, 22, 161, 7),
            Ipv4Addr::UNSPECIFIED,
            Ipv4Addr::LOCALHOST,
            Ipv4Addr::BROADCAST,
            Ipv4Addr::new(224, 0, 0, 1),
            Ipv4Addr::new(239, 255, 255, 250),
            Ipv4Addr::new(10, 1, 2, 3),
            Ipv4Addr::new(240, 0, 0, 1),
        ]);
        let body = self.body(model, index, Direction::Request)?;
        Some(self.request(Cause::Spoofed, index, body))
    }

    /// From outside straight to a guest.
    fn straight_to_guest(&mut self, model: &mut Model) -> Option<Stimulus> {
        let protocol = self.random.of(&[TCP, UDP]);
        let index = self.burnt(model, Kind::Host, protocol)?;
        let flow = &mut model.flows[index];
        let guest = (self.random.of(&[VM1, VM2, GATEWAY]), flow.target.1);
        flow.client.1 = 1024 + (index % 60_000) as u16;
        (flow.target, flow.server) = (guest, guest);
        let body = self.body(model, index, Direction::Request)?;
        Some(self.request(Cause::ToInside, index, body))
    }

    /// From a guest to the other, by the gateway instead of the bridge; or to everybody.
    fn among_guests(&mut self, model: &mut Model) -> Option<Stimulus> {
        let index = self.burnt(model, Kind::Host, UDP)?;
        let flow = &mut model.flows[index];
        flow.client = (VM1, 1024 + (index % 60_000) as u16);
        flow.at = Place::Vm1;
        flow.target.0 = self.random.of(&[
            VM2,
            VM2,
            Ipv4Addr::BROADCAST,
            Ipv4Addr::new(224, 0, 0, 251),
            Ipv4Addr::new(172, 22, 161, 255),
        ]);
        flow.server = flow.target;
        let body = self.body(model, index, Direction::Request)?;
        Some(self.request(Cause::Regular, index, body))
    }

    fn for_the_host(&mut self, model: &mut Model) -> Option<Stimulus> {
        let protocol = self.random.of(&[TCP, UDP, GRE, ESP]);
        let index = self.burnt(model, Kind::Host, protocol)?;
        let flow = &mut model.flows[index];
        if protocol == TCP && self.random.percent(30) {
            flow.target = (SECOND, 22);
        } else if self.random.percent(30) {
            // A guest's packet to its gateway.
            flow.client.0 = self.random.of(&GUESTS);
            flow.at = Place::of(flow.client.0);
            flow.target.0 = GATEWAY;
        }
        flow.server = flow.target;
        let body = self.body(model, index, Direction::Request)?;
        Some(self.request(Cause::Regular, index, body))
    }

    /// A packet with a flaw, on a separate flow or on an existing one.
    fn flawed(&mut self, model: &mut Model) -> Option<Stimulus> {
        let protocol = self.random.of(&[TCP, UDP, ICMP]);
        let kind = self
            .random
            .of(&[Kind::Out, Kind::In, Kind::Hairpin, Kind::Host]);
        let index = if self.random.percent(40) {
            self.some_flow(model, |flow| {
                // (The host's kernel sends none with flaws.)
                flow.protocol == protocol
                    && flow.kind != Kind::Own
                    && (protocol != TCP || flow.phase == Phase::Open)
            })?
        } else {
            self.burnt(model, kind, protocol)?
        };
        let direction = Direction::Request;
        let body = self.body(model, index, direction)?;
        let mut step = self.step(Cause::Flawed, index, direction, Shape::Own(body));
        // It could be taken for what is missing.
        step.dress.padding = 0;
        if self.random.percent(10) && protocol == UDP {
            step.cause = Cause::FirstFragmentOnly;
            self.cut(&mut step.dress, 2);
            return Some(step);
        }
        let header = if protocol == TCP { 20 } else { 8 };
        step.flaw = match self.random.below(8) {
            0 | 1 => Flaw::Checksum,
            2 => Flaw::HeaderChecksum,
            3 => Flaw::TotalLengthTooLong,
            4 => Flaw::TotalLengthTooShort,
            5 => self.random.of(&[Flaw::HeaderLength, Flaw::Version]),
            6 => Flaw::Cut(self.random.below(header)),
            _ if protocol == ICMP => Flaw::Checksum,
            7 if protocol == UDP && self.random.percent(50) => Flaw::Trailing,
            _ => Flaw::InnerLength,
        };
        Some(step)
    }
}
