//! What the test of IPv6 knows: flows, how each of the two hosts shows them, and their packets.

use std::collections::HashSet;

use kit::octets::Octets;
use kit::packets::{
    ACK, At, ETHERNET, Make, SYN, error_with_code, fragments, ping, pong, raw, tcp, udp, with_rest,
};
use nat_common::wire::protocol::{ICMPV6, TCP, UDP};

use super::twin::{Ip, PUBLIC, Place};

pub(super) type End = At<Ip>;

/// The protocol without ports that represents all of them.
pub(super) const ESP: u8 = 50;

/// A remote's address.
pub(super) fn remote(number: u16) -> Ip {
    let [high, low] = number.to_be_bytes();
    Ip::of_host([198, 51, high, low])
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// From a guest to the internet.
    Out,
    /// From the internet to a guest, by a forward.
    In,
    /// From a guest to a guest, by a public address.
    Hairpin,
}

/// A flow, and how each host shows its client.
#[derive(Clone, Debug)]
pub(super) struct Flow {
    pub(super) kind: Kind,
    pub(super) protocol: u8,
    pub(super) client: End,
    /// Whom it sends to, and who that is behind a forward.
    pub(super) target: End,
    pub(super) server: End,
    pub(super) shown_port: [Option<u16>; 2],
    /// How many segments of the handshake were sent.
    pub(super) handshake: u8,
    pub(super) next: [u32; 2],
    pub(super) is_usable: bool,
}

impl Flow {
    /// The client as the server sees it.
    pub(super) fn shown(&self, side: usize) -> End {
        let address = match self.kind {
            Kind::In => self.client.0,
            Kind::Out | Kind::Hairpin => PUBLIC,
        };
        At(address, self.shown_port[side].unwrap_or(self.client.1))
    }

    /// Source and destination of its packets before translation.
    pub(super) fn before(&self, is_reply: bool, side: usize) -> [End; 2] {
        match is_reply {
            false => [self.client, self.target],
            true => [self.server, self.shown(side)],
        }
    }

    /// Source and destination of its packets after translation.
    pub(super) fn after(&self, is_reply: bool, side: usize) -> [End; 2] {
        match is_reply {
            false => [self.shown(side), self.server],
            true => [self.target, self.client],
        }
    }
}

/// Why a packet is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// It begins a flow, or belongs to one, as it should.
    Regular,
    /// To a guest's external port, from somewhere that it has not sent to.
    Probe,
    /// An error about a packet of a flow.
    Error,
    /// An error about a packet that was never sent.
    ErrorAboutNothing,
    /// With a wrong checksum.
    Flawed,
    /// From an address that no host there can have.
    Spoofed,
    /// With hop limit 1.
    LastHop,
    /// To an inside address, from outside.
    ToInside,
}

/// What is sent.
#[derive(Clone, Debug)]
pub(super) enum Shape {
    Own(Vec<u8>, u8, [u32; 2]),
    Error {
        by: Option<Ip>,
        kind: [u8; 2],
        rest: u32,
        quoted: usize,
    },
}

/// One step: a packet to be sent on both hosts.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) cause: Cause,
    pub(super) flow: usize,
    /// Of the packet; of the quoted one, in an error.
    pub(super) is_reply: bool,
    pub(super) shape: Shape,
    pub(super) class: u8,
    pub(super) hops: u8,
    /// Bytes of each fragment, 0 for a whole packet; and whether the last one comes first.
    pub(super) piece: usize,
    pub(super) is_reversed: bool,
    /// The flow label, which becomes the fragments' identification: natbpf gives another one to a
    /// packet whose own another packet to the same receiver has had a short time ago.
    pub(super) id: u16,
    /// Another source than the flow's.
    pub(super) source: Option<Ip>,
}

/// Everything that is known.
#[derive(Default)]
pub(super) struct Model {
    pub(super) flows: Vec<Flow>,
    pub(super) taken: HashSet<(u8, End, End)>,
}

impl Model {
    fn make(flow: &Flow, is_reply: bool, ends: [End; 2], shape: &Shape) -> Make<Ip> {
        let Shape::Own(payload, flags, [sequence, acknowledged]) = shape else {
            unreachable!("an error")
        };
        let [from, to] = ends;
        let make = match (flow.protocol, is_reply) {
            (TCP, _) => tcp(from, to, *flags).numbers(*sequence, *acknowledged),
            (UDP, _) => udp(from, to),
            (ICMPV6, false) => ping(from, to.0),
            (ICMPV6, true) => pong(from.0, to),
            (protocol, _) => raw(protocol, from.0, to.0),
        };
        make.payload(payload)
    }

    fn error(&self, step: &Step, [first, second]: [End; 2]) -> Vec<u8> {
        let Shape::Error {
            by,
            kind,
            rest,
            quoted,
        } = step.shape
        else {
            unreachable!("no error")
        };
        let flow = &self.flows[step.flow];
        let data = Shape::Own(vec![0x5a; 60], ACK, [7, 9]);
        let mut about = Self::make(flow, step.is_reply, [first, second], &data).bytes();
        about[ETHERNET + Ip::HOPS] = 3;
        let by = by.unwrap_or(second.0);
        with_rest(
            error_with_code(by, &about, kind, quoted),
            rest.to_be_bytes(),
        )
        .bytes()
    }

    /// The packets of a step as they are sent on a host, and where.
    pub(super) fn sent(&self, step: &Step, side: usize) -> (Place, Vec<Vec<u8>>) {
        let (at, whole) = self.whole(step, side);
        let framed = [&[0; ETHERNET], &whole[..]].concat();
        let mut packets = match step.piece {
            0 => vec![framed],
            size => fragments::<Ip>(&framed, size),
        };
        if step.is_reversed {
            packets.reverse();
        }
        let packets = packets.iter().map(|packet| packet[ETHERNET..].to_vec());
        (at, packets.collect())
    }

    /// The same in one piece.
    pub(super) fn whole(&self, step: &Step, side: usize) -> (Place, Vec<u8>) {
        let flow = &self.flows[step.flow];
        let (at, frame) = match &step.shape {
            Shape::Own(..) => {
                let [mut from, mut to] = flow.before(step.is_reply, side);
                let at = match (step.cause, flow.kind, step.is_reply) {
                    (_, Kind::In, false) => Place::Net,
                    _ => Place::of(from.0),
                };
                let at = if step.cause == Cause::Probe {
                    Place::Net
                } else {
                    at
                };
                match step.cause {
                    Cause::Probe => (from, to) = (At(remote(66), 4000), flow.shown(side)),
                    Cause::ToInside => to.0 = flow.server.0,
                    _ => {}
                }
                from.0 = step.source.unwrap_or(from.0);
                let is_reply = step.is_reply && step.cause != Cause::Probe;
                (
                    at,
                    Self::make(flow, is_reply, [from, to], &step.shape).bytes(),
                )
            }
            Shape::Error { .. } => {
                let [first, second] = flow.after(step.is_reply, side);
                (Place::of(second.0), self.error(step, [first, second]))
            }
        };
        (
            at,
            self.dressed(step, frame[ETHERNET..].to_vec(), step.hops),
        )
    }

    /// The packet of a step as it comes out when it is translated, and where.
    pub(super) fn translated(&self, step: &Step, side: usize) -> (Place, Vec<u8>) {
        let flow = &self.flows[step.flow];
        let [from, to] = match step.cause {
            Cause::Probe => [At(remote(66), 4000), flow.client],
            _ => flow.after(step.is_reply, side),
        };
        let (at, frame) = match &step.shape {
            Shape::Own(..) => {
                let make = Self::make(flow, step.is_reply, [from, to], &step.shape);
                (Place::of(to.0), make.bytes())
            }
            Shape::Error { by, .. } => {
                let [first, second] = flow.before(step.is_reply, side);
                // A guest's own error comes from what stands for the guest.
                let shown = by.unwrap_or(second.0);
                let mut step = step.clone();
                if let Shape::Error { by, .. } = &mut step.shape {
                    *by = Some(shown);
                }
                (Place::of(first.0), self.error(&step, [first, second]))
            }
        };
        let bytes = frame[ETHERNET..].to_vec();
        (at, self.dressed(step, bytes, step.hops.wrapping_sub(1)))
    }

    fn dressed(&self, step: &Step, mut packet: Vec<u8>, hops: u8) -> Vec<u8> {
        packet[0] |= step.class >> 4;
        packet[1] |= step.class << 4;
        packet[2..4].copy_from_slice(&step.id.to_be_bytes());
        packet[Ip::HOPS] = hops;
        if step.cause == Cause::Flawed {
            // A byte of data; of an error, one of the quoted addresses' zeros.
            let last = packet.len() - 1;
            packet[last] ^= 0x55;
        }
        packet
    }

    /// Goes on after a packet that both hosts have translated.
    pub(super) fn follow(&mut self, step: &Step) {
        let flow = &mut self.flows[step.flow];
        if let (Shape::Own(payload, flags, _), Cause::Regular) = (&step.shape, step.cause) {
            let length = payload.len() as u32 + u32::from(flags & SYN != 0);
            let next = &mut flow.next[usize::from(step.is_reply)];
            *next = next.wrapping_add(length);
            if flow.protocol == TCP {
                flow.handshake = flow.handshake.saturating_add(1);
            }
        }
    }
}
