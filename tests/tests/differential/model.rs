//! What the test knows: flows, and how each of the two hosts shows them.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;

use crate::differential::twin::{Manner, PUBLIC, Place};
use kit::flawed::{Body, Dress, End, Flaw, Query, Written, has_ports};
use kit::packets::{ACK, FIN, RST, SYN};

/// The two hosts, as indices.
pub(crate) const NFTABLES: usize = 0;
pub(crate) const NATBPF: usize = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// From a guest to the internet.
    Out,
    /// From the internet to a guest, by a forward.
    In,
    /// From a guest to a guest, by a public address.
    Hairpin,
    /// From the internet to the host itself, or to an unused address.
    Host,
    /// From the host itself to the internet.
    Own,
}

/// Of a packet: as the flow's initiator sends it, or the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Request,
    Reply,
}

/// The state of a TCP connection, as its ends see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    New,
    SynSent,
    SynAnswered,
    Open,
    /// FIN both ways.
    Closed,
    Reset,
}

#[derive(Clone, Debug)]
pub(crate) struct Flow {
    pub(crate) kind: Kind,
    pub(crate) protocol: u8,
    /// Where the client is; not what its address says, when it lies.
    pub(crate) at: Place,
    /// Who begins, under its own address.
    pub(crate) client: End,
    /// Whom it sends to.
    pub(crate) target: End,
    /// Who that is, behind a forward; otherwise the target.
    pub(crate) server: End,
    /// The port under which each host shows the client.
    pub(crate) shown_port: [Option<u16>; 2],
    pub(crate) phase: Phase,
    /// Of a flow of ICMP.
    pub(crate) query: Query,
    /// The next sequence numbers of client and server.
    pub(crate) next: [u32; 2],
    pub(crate) has_finished: [bool; 2],
    /// Whether packets may still be sent on it: not after the two hosts went different ways.
    pub(crate) is_usable: bool,
}

impl Flow {
    pub(crate) fn new(kind: Kind, protocol: u8, ends: [End; 3], next: [u32; 2]) -> Self {
        let [client, target, server] = ends;
        let at = match kind {
            Kind::In | Kind::Host => Place::Net,
            Kind::Out | Kind::Hairpin => Place::of(client.0),
            Kind::Own => Place::Host,
        };
        Self {
            kind,
            protocol,
            at,
            client,
            target,
            server,
            shown_port: [None; 2],
            phase: Phase::New,
            query: Query::Echo,
            next,
            has_finished: [false; 2],
            is_usable: true,
        }
    }

    /// The client as the server and what lies between sees it.
    pub(crate) fn shown(&self, side: usize) -> End {
        let address = match self.kind {
            Kind::In | Kind::Host => self.client.0,
            Kind::Out | Kind::Hairpin | Kind::Own => PUBLIC,
        };
        (address, self.shown_port[side].unwrap_or(self.client.1))
    }

    /// Source and destination of its packets before translation.
    pub(crate) fn before(&self, direction: Direction, side: usize) -> [End; 2] {
        match direction {
            Direction::Request => [self.client, self.target],
            Direction::Reply => [self.server, self.shown(side)],
        }
    }

    /// Source and destination of its packets after translation.
    pub(crate) fn after(&self, direction: Direction, side: usize) -> [End; 2] {
        match direction {
            Direction::Request => [self.shown(side), self.server],
            Direction::Reply => [self.target, self.client],
        }
    }

    /// Whether a packet of it goes to the host itself: then nothing comes out but what the host
    /// answers.
    pub(crate) fn is_for_host(&self, direction: Direction) -> bool {
        (self.kind, direction) == (Kind::Own, Direction::Reply)
    }

    /// Whether both hosts have let its first packet pass.
    pub(crate) fn is_known(&self) -> bool {
        self.shown_port.iter().all(Option::is_some)
    }

    /// Goes on after a segment that begins at `seq` and has `length` bytes of data.
    fn follow(&mut self, direction: Direction, flags: u8, seq: u32, length: u32) {
        let sender = direction as usize;
        let mut length = length;
        if flags & (SYN | FIN) != 0 {
            length += 1;
        }
        self.next[sender] = seq.wrapping_add(length);
        self.has_finished[sender] |= flags & FIN != 0;
        self.phase = match (self.phase, direction) {
            _ if flags & RST != 0 => Phase::Reset,
            (_, Direction::Request) if flags & (SYN | ACK) == SYN => {
                self.has_finished = [false; 2];
                Phase::SynSent
            }
            (Phase::SynSent, Direction::Reply) => Phase::SynAnswered,
            (Phase::SynAnswered, Direction::Request) => Phase::Open,
            _ if self.has_finished == [true; 2] => Phase::Closed,
            (phase, _) => phase,
        };
    }
}

/// Why a packet is sent; what it is in the eyes of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Cause {
    /// Begins a flow, or belongs to one, as it should.
    Regular,
    /// A segment far out of the window.
    OffWindow,
    /// A reset that is near the window or in it, and not where it would have to be (RFC 5961).
    NearReset,
    /// A segment with flags that do not go together, or not with the connection's state.
    WrongState,
    /// A segment on a connection that is over.
    Late,
    /// A SYN on a connection that is over.
    Reopening,
    /// The first segment of a flow, and no SYN.
    NoHandshake,
    /// An answer to nothing: an echo reply, a reset.
    AnswerToNothing,
    /// To a guest's external port, from somewhere that it has not sent to.
    Probe,
    /// An ICMP error about a packet of a flow.
    Error,
    /// An ICMP error about a packet that was never sent.
    ErrorAboutNothing,
    /// An ICMP error to another address than the quoted source.
    ErrorToAnother,
    /// An ICMP error with too little of the packet.
    ErrorTooShort,
    /// A redirect or source quench about a packet of a flow.
    OtherError,
    /// A packet with a flaw.
    Flawed,
    /// From an invalid source.
    Spoofed,
    /// With TTL 1.
    LastHop,
    /// The first fragment, and never the others.
    FirstFragmentOnly,
    /// To an inside address, from outside.
    ToInside,
}

/// What is sent.
#[derive(Clone, Debug)]
pub(crate) enum Shape {
    /// A packet of the flow.
    Own(Body),
    /// A packet to the flow's external endpoint, from another remote.
    Probe(End, Body),
    /// An error about a packet of the flow, by who received it or by a router before.
    Error {
        by: Option<Ipv4Addr>,
        kind: u8,
        code: u8,
        quoted_bytes: usize,
        original: Body,
    },
}

/// One step: a packet to be sent on both hosts.
#[derive(Clone, Debug)]
pub(crate) struct Stimulus {
    pub(crate) cause: Cause,
    pub(crate) flow: usize,
    /// Of the packet; of the quoted packet, in an error.
    pub(crate) direction: Direction,
    pub(crate) shape: Shape,
    pub(crate) dress: Dress,
    pub(crate) flaw: Flaw,
    /// Whether each packet or fragment is sent twice, as a network may double it.
    pub(crate) is_doubled: bool,
}

impl Stimulus {
    /// TCP flags, of a segment.
    pub(crate) fn flags(&self) -> Option<u8> {
        match self.shape {
            Shape::Own(Body::Tcp { flags, .. }) | Shape::Probe(_, Body::Tcp { flags, .. }) => {
                Some(flags)
            }
            _ => None,
        }
    }

    /// Whether neither host takes notice of it but for what comes out.
    pub(crate) fn leaves_no_trace(&self) -> bool {
        let fleeting = [
            Cause::OffWindow,
            Cause::LastHop,
            Cause::Probe,
            Cause::Flawed,
        ];
        self.is_error() || fleeting.contains(&self.cause)
    }

    pub(crate) fn is_error(&self) -> bool {
        matches!(self.shape, Shape::Error { .. })
    }
}

/// Everything that is known.
pub(crate) struct Model {
    pub(crate) manner: Manner,
    pub(crate) flows: Vec<Flow>,
    /// Endpoints, separate for each flow, so that no packet belongs to two flows.
    taken: HashSet<(u8, End, End)>,
    /// How clients are shown to servers, on each host: no two may be shown alike.
    shown: [HashMap<(u8, Query, End, End), usize>; 2],
}

impl Model {
    pub(crate) fn new(manner: Manner) -> Self {
        Self {
            manner,
            flows: Vec::new(),
            taken: HashSet::new(),
            shown: Default::default(),
        }
    }

    /// Adds a flow, unless one with these ends was there before.
    pub(crate) fn add(&mut self, flow: Flow) -> Option<usize> {
        let key = (flow.protocol, flow.client, flow.server);
        let mirrored = (flow.protocol, flow.server, flow.client);
        if self.taken.contains(&mirrored) || !self.taken.insert(key) {
            return None;
        }
        self.flows.push(flow);
        Some(self.flows.len() - 1)
    }

    /// The packet of a step as it is sent on a host, and where.
    pub(crate) fn sent(&self, stimulus: &Stimulus, side: usize) -> (Place, Written) {
        let flow = &self.flows[stimulus.flow];
        let direction = stimulus.direction;
        let [from, to] = flow.before(direction, side);
        match &stimulus.shape {
            Shape::Own(body) => {
                let at = match direction {
                    Direction::Request => flow.at,
                    Direction::Reply => Place::of(flow.server.0),
                };
                (at, written(stimulus, from, to, body.clone()))
            }
            Shape::Probe(from, body) => (
                Place::Net,
                written(stimulus, *from, flow.shown(side), body.clone()),
            ),
            Shape::Error { by, .. } => {
                let [first, second] = flow.after(direction, side);
                let at = Place::of(second.0);
                (
                    at,
                    self.error(stimulus, by.unwrap_or(second.0), first, second),
                )
            }
        }
    }

    /// The packet of a step as it comes out when it is translated, and where.
    pub(crate) fn translated(&self, stimulus: &Stimulus, side: usize) -> (Place, Written) {
        let flow = &self.flows[stimulus.flow];
        let direction = stimulus.direction;
        let [from, to] = flow.after(direction, side);
        let (at, mut packet) = match &stimulus.shape {
            Shape::Own(body) => (Place::of(to.0), written(stimulus, from, to, body.clone())),
            Shape::Probe(from, body) => (
                Place::of(flow.client.0),
                written(stimulus, *from, flow.client, body.clone()),
            ),
            Shape::Error { by, .. } => {
                let [first, second] = flow.before(direction, side);
                let by = by.unwrap_or(second.0);
                (Place::of(first.0), self.error(stimulus, by, first, second))
            }
        };
        if flow.at != Place::Host {
            packet.dress.ttl = packet.dress.ttl.wrapping_sub(1);
        }
        (at, packet)
    }

    /// An error about a packet from `first` to `second`, to `first`.
    fn error(&self, stimulus: &Stimulus, by: Ipv4Addr, first: End, second: End) -> Written {
        let Shape::Error {
            kind,
            code,
            quoted_bytes,
            original,
            ..
        } = &stimulus.shape
        else {
            unreachable!("asked for an error of another step")
        };
        let mut quoted = written(stimulus, first, second, original.clone());
        quoted.dress.ttl = 3;
        quoted.dress.fragments = 1;
        quoted.flaw = Flaw::None;
        let to = match stimulus.cause {
            // To the other public address, which is not the one that it quotes.
            Cause::ErrorToAnother => crate::differential::twin::SECOND,
            _ => first.0,
        };
        let body = Body::Error {
            kind: *kind,
            code: *code,
            quoted: Box::new(quoted),
            quoted_bytes: *quoted_bytes,
        };
        written(stimulus, (by, 0), (to, 0), body)
    }

    /// The ports that each host has chosen, as far as a step's packets can show them.
    pub(crate) fn symbols(&self, stimulus: &Stimulus, side: usize) -> Option<End> {
        let flow = &self.flows[stimulus.flow];
        flow.shown_port[side].map(|_| flow.shown(side))
    }

    /// Takes the port from the first packet of a flow that comes out; false if another flow is
    /// shown under it already.
    pub(crate) fn learn(&mut self, stimulus: &Stimulus, side: usize, source: End) -> bool {
        let flow = &mut self.flows[stimulus.flow];
        flow.shown_port[side] = Some(source.1);
        let key = (flow.protocol, flow.query, flow.shown(side), flow.server);
        let owner = self.shown[side].entry(key).or_insert(stimulus.flow);
        *owner == stimulus.flow || !has_ports(flow.protocol)
    }

    /// Goes on after a step that both hosts have translated.
    pub(crate) fn follow(&mut self, stimulus: &Stimulus) {
        if let Shape::Own(Body::Tcp {
            flags,
            seq,
            payload,
            ..
        }) = &stimulus.shape
            && matches!(stimulus.cause, Cause::Regular | Cause::Reopening)
        {
            let length = payload.len() as u32;
            self.flows[stimulus.flow].follow(stimulus.direction, *flags, *seq, length);
        }
    }

    /// Whether a guest's endpoint has sent to this address, by a flow that natbpf knows.
    pub(crate) fn has_sent_to(&self, protocol: u8, client: End, address: Ipv4Addr) -> bool {
        self.flows.iter().any(|flow| {
            matches!(flow.kind, Kind::Out | Kind::Hairpin)
                && (flow.protocol, flow.client) == (protocol, client)
                && flow.target.0 == address
                && flow.shown_port[NATBPF].is_some()
        })
    }

    /// Whether another flow of a protocol without ports has the same remote.
    pub(crate) fn remote_is_in_use(&self, index: usize) -> bool {
        let flow = &self.flows[index];
        self.flows.iter().enumerate().any(|(other, known)| {
            other != index
                && known.protocol == flow.protocol
                && known.shown_port[NATBPF].is_some()
                && [known.client.0, known.target.0]
                    .iter()
                    .any(|address| [flow.client.0, flow.target.0].contains(address))
        })
    }
}

fn written(stimulus: &Stimulus, from: End, to: End, body: Body) -> Written {
    Written {
        from,
        to,
        body,
        dress: stimulus.dress.clone(),
        flaw: stimulus.flaw,
    }
}
