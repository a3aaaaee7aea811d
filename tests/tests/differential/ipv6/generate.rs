//! Random packets of IPv6, the same for the same seed.

use kit::packets::{ACK, At, PSH, SYN};
use nat_common::wire::protocol::{ICMPV6, TCP, UDP};

use super::flows::{Cause, ESP, End, Flow, Kind, Model, Shape, Step, remote};
use super::twin::{Ip, PUBLIC, Place, SECOND, VM1, VM2};
use crate::differential::generate::Random;

const GUESTS: [Ip; 2] = [VM1, VM2];
const REMOTE_PORTS: [u16; 5] = [53, 80, 443, 3478, 7000];
/// The forwards of ports: protocol, external port, guest, its port.
const FORWARDS: [(u8, u16, Ip, u16); 5] = [
    (TCP, 10000, VM1, 10000),
    (TCP, 10019, VM1, 10019),
    (TCP, 8000, VM2, 80),
    (UDP, 10000, VM2, 10000),
    (UDP, 10013, VM2, 10013),
];
/// How many flows, the last ones, still get packets.
const RECENT: usize = 60;
/// Types and codes of errors that are translated.
const ERRORS: [[u8; 2]; 8] = [
    [1, 0],
    [1, 1],
    [1, 3],
    [1, 4],
    [2, 0],
    [3, 0],
    [4, 1],
    [2, 0],
];

/// Makes steps for a model.
pub(super) struct Generator {
    random: Random,
    /// The last remote of a flow without ports: there is one flow for each.
    lonely: u16,
    id: u16,
}

impl Generator {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            lonely: 256,
            id: 0,
        }
    }

    pub(super) fn next(&mut self, model: &mut Model) -> Step {
        loop {
            let step = match self.random.below(100) {
                0..20 => self.new_flow(model),
                20..66 => self.on_flow(model, Cause::Regular),
                66..84 => self.error(model),
                84..88 => self.on_flow(model, Cause::Probe),
                88..91 => self.on_flow(model, Cause::Flawed),
                91..93 => self.on_flow(model, Cause::LastHop),
                93..96 => self.spoofed(model),
                96..98 => self.error_about_nothing(model),
                _ => self.direct(model),
            };
            if let Some(step) = step {
                return step;
            }
        }
    }

    fn step(&mut self, cause: Cause, flow: usize, is_reply: bool, shape: Shape) -> Step {
        self.id = self.id.wrapping_add(1);
        Step {
            cause,
            flow,
            is_reply,
            shape,
            class: self.random.next() as u8,
            hops: self.random.of(&[2, 3, 64, 255]),
            piece: 0,
            is_reversed: false,
            id: self.id,
            source: None,
        }
    }

    fn port(&mut self) -> u16 {
        match self.random.percent(60) {
            true => 40000 + self.random.below(12) as u16,
            false => 20000 + self.random.below(40000) as u16,
        }
    }

    fn ends(&mut self, kind: Kind, protocol: u8) -> Option<[End; 3]> {
        let port = if protocol == ESP { 0 } else { self.port() };
        let guest = self.random.of(&GUESTS);
        let number = 2 + self.random.below(3) as u16;
        if kind == Kind::Out {
            let port_there = match protocol {
                TCP | UDP => self.random.of(&REMOTE_PORTS),
                ESP => {
                    self.lonely = self.lonely.wrapping_add(1);
                    0
                }
                _ => 0,
            };
            let number = if protocol == ESP { self.lonely } else { number };
            let to = At(remote(number), port_there);
            return Some([At(guest, port), to, to]);
        }
        let [target, server] = match (self.random.percent(25), protocol) {
            (true, TCP | UDP) => [443, 443].map(|port| At(SECOND, port)),
            (true, _) => [At(SECOND, 0); 2],
            (false, ICMPV6) => [At(PUBLIC, 0), At(VM1, 0)],
            (false, ESP) => return None,
            (false, _) => {
                let (forwarded, port, guest, to_port) = self.random.of(&FORWARDS);
                if forwarded != protocol {
                    return None;
                }
                [At(PUBLIC, port), At(guest, to_port)]
            }
        };
        let server = match target.0 {
            SECOND => At(VM2, target.1),
            _ => server,
        };
        let client = match kind {
            Kind::In if protocol == ESP => {
                self.lonely = self.lonely.wrapping_add(1);
                remote(self.lonely)
            }
            Kind::In => remote(number),
            _ => guest,
        };
        let is_odd = kind == Kind::Hairpin && (client == server.0 || protocol == ESP);
        (!is_odd).then_some([At(client, port), target, server])
    }

    fn new_flow(&mut self, model: &mut Model) -> Option<Step> {
        let kind = self
            .random
            .of(&[Kind::Out, Kind::Out, Kind::In, Kind::In, Kind::Hairpin]);
        let protocol = self
            .random
            .of(&[UDP, UDP, TCP, TCP, TCP, ICMPV6, ICMPV6, ESP]);
        let [client, target, server] = self.ends(kind, protocol)?;
        let key = (protocol, client, server);
        if model.taken.contains(&(protocol, server, client)) || !model.taken.insert(key) {
            return None;
        }
        model.flows.push(Flow {
            kind,
            protocol,
            client,
            target,
            server,
            shown_port: [None; 2],
            handshake: 0,
            next: [self.random.next() as u32, self.random.next() as u32],
            is_usable: true,
        });
        let flow = model.flows.len() - 1;
        let (is_reply, shape) = self.packet(&model.flows[flow]);
        Some(self.cut(Cause::Regular, flow, is_reply, shape))
    }

    /// The next packet of a flow.
    fn packet(&mut self, flow: &Flow) -> (bool, Shape) {
        let mut is_reply = flow.shown_port[0].is_some() && self.random.percent(50);
        let mut payload = self.random.bytes(1300);
        let mut flags = PSH | ACK;
        if flow.protocol == TCP && flow.handshake < 3 {
            is_reply = flow.handshake == 1;
            flags = [SYN, SYN | ACK, ACK][usize::from(flow.handshake)];
            payload.clear();
        }
        if flow.protocol == ESP {
            payload = [&[0; 8], &payload[..]].concat();
        }
        let [own, other] = match is_reply {
            false => flow.next,
            true => [flow.next[1], flow.next[0]],
        };
        let acknowledged = if flags & ACK == 0 { 0 } else { other };
        (is_reply, Shape::Own(payload, flags, [own, acknowledged]))
    }

    /// A step that may be cut into fragments.
    fn cut(&mut self, cause: Cause, flow: usize, is_reply: bool, shape: Shape) -> Step {
        let mut step = self.step(cause, flow, is_reply, shape);
        if let Shape::Own(payload, ..) = &step.shape
            && payload.len() > 16
            && cause == Cause::Regular
            && self.random.percent(30)
        {
            step.piece = self.random.of(&[64, 248, 640]);
            step.is_reversed = self.random.percent(30);
        }
        step
    }

    /// One of the last flows: what a guest has not answered ends after ten seconds.
    fn known(&mut self, model: &Model) -> Option<usize> {
        let is_known = |index: &usize| {
            let flow = &model.flows[*index];
            flow.is_usable && flow.shown_port.iter().all(Option::is_some)
        };
        let count = model.flows.len();
        let last: Vec<usize> = (count.saturating_sub(RECENT)..count)
            .filter(is_known)
            .collect();
        (!last.is_empty()).then(|| self.random.of(&last))
    }

    fn on_flow(&mut self, model: &Model, cause: Cause) -> Option<Step> {
        let index = self.known(model)?;
        let flow = &model.flows[index];
        if cause == Cause::Probe && (flow.kind != Kind::Out || !matches!(flow.protocol, TCP | UDP))
        {
            return None;
        }
        let (mut is_reply, shape) = self.packet(flow);
        let is_open = flow.protocol != TCP || flow.handshake > 2;
        if cause == Cause::Flawed && (!is_open || flow.protocol == ESP) {
            return None;
        }
        if let (Cause::Flawed, Shape::Own(payload, ..)) = (cause, &shape)
            && payload.is_empty()
        {
            return None;
        }
        if cause == Cause::Probe {
            is_reply = true;
        }
        let mut step = self.cut(cause, index, is_reply, shape);
        if cause == Cause::LastHop {
            step.hops = 1;
        }
        Some(step)
    }

    fn error_shape(&mut self) -> Shape {
        let kind = self.random.of(&ERRORS);
        let rest = match kind {
            [2, _] => self.random.of(&[1000, 1279, 1280, 1400, 1500, 9000]),
            [4, _] => 6,
            _ => 0,
        };
        Shape::Error {
            by: self.random.percent(50).then(|| remote(200)),
            kind,
            rest,
            quoted: self.random.of(&[48, 52, 60, 61, 68, 100, 108]),
        }
    }

    fn error(&mut self, model: &Model) -> Option<Step> {
        let index = self.known(model)?;
        let flow = &model.flows[index];
        let is_reply = self.random.percent(50);
        let mut shape = self.error_shape();
        // A router is outside: it sends errors about what goes there.
        let goes_out = Place::of(flow.after(is_reply, 0)[1].0) == Place::Net;
        if let Shape::Error { by, .. } = &mut shape
            && !goes_out
        {
            *by = None;
        }
        Some(self.step(Cause::Error, index, is_reply, shape))
    }

    /// About an unknown flow, from the host that would have received its packet.
    fn error_about_nothing(&mut self, model: &mut Model) -> Option<Step> {
        let index = self.burnt(model)?;
        let mut shape = self.error_shape();
        if let Shape::Error { by, kind, rest, .. } = &mut shape {
            *by = None;
            if *kind == [2, 0] {
                // Of an echo the host has no socket, and takes the MTU for that of its own path.
                (*kind, *rest) = ([1, 0], 0);
            }
        }
        let is_reply = self.random.percent(50);
        // A host may show another flow just so.
        let flow = &model.flows[index];
        let is_shown = |other: &Flow, side: usize| {
            other.protocol == flow.protocol
                && other.server.0 == flow.server.0
                && other.shown_port[side].is_some()
                && other.shown(side).1 == flow.client.1
        };
        let mut others = model.flows.iter();
        if others.any(|other| is_shown(other, 0) || is_shown(other, 1)) {
            return None;
        }
        Some(self.step(Cause::ErrorAboutNothing, index, is_reply, shape))
    }

    /// A flow without any packet sent.
    fn burnt(&mut self, model: &mut Model) -> Option<usize> {
        let step = self.new_flow(model)?;
        let flow = &mut model.flows[step.flow];
        flow.is_usable = false;
        // A port that no other flow has: netfilter would take a forgery for a packet of that one.
        if flow.client.1 != 0 {
            flow.client.1 = 1024 + self.random.below(1000) as u16;
        }
        (model.flows[step.flow].kind != Kind::Hairpin).then_some(step.flow)
    }

    fn spoofed(&mut self, model: &mut Model) -> Option<Step> {
        let index = self.burnt(model)?;
        let (is_reply, shape) = self.packet(&model.flows[index]);
        let mut step = self.step(Cause::Spoofed, index, is_reply, shape);
        let mut multicast = remote(1);
        multicast[..2].copy_from_slice(&[0xff, 0x0e]);
        let mut loopback = Ip::default();
        loopback[15] = 1;
        step.source = Some(self.random.of(&[VM1, Ip::default(), loopback, multicast]));
        (model.flows[index].kind == Kind::In).then_some(step)
    }

    fn direct(&mut self, model: &mut Model) -> Option<Step> {
        let index = self.burnt(model)?;
        let (is_reply, shape) = self.packet(&model.flows[index]);
        let step = self.step(Cause::ToInside, index, is_reply, shape);
        (model.flows[index].kind == Kind::In).then_some(step)
    }
}
