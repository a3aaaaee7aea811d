//! The output of each host in a comparable form.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv6Addr;

use kit::octets::{FRAGMENT, Octets};
use kit::packets::{At, ones_complement_sum};
use nat_common::wire::protocol::{ICMPV6, TCP, UDP};

use super::flows::{End, Model, Step};
use super::twin::{GATEWAY, Ip, PUBLIC, Place, SECOND};

/// Stands for the port that a host has chosen.
const SYMBOL: [u8; 2] = [0xee, 0xee];
const HEADER: usize = 40;
const ICMP_HEADER: usize = 8;

/// A packet that came out, from its IP header on, in one piece.
pub(super) type Out = (Place, Vec<u8>);

/// The outcome of a packet on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Came {
    /// Nothing came out.
    Nothing,
    /// The packet, translated as its flow demands, and nothing else.
    Translated,
    /// The packet as it was, but for its hop limit, and nothing else.
    Untranslated,
    /// A reset or an ICMPv6 message of the host's own to the sender, and nothing else.
    Answered,
    /// Anything else.
    Otherwise,
}

/// Puts fragments together, in any order; incomplete packets stay as they are.
pub(super) fn reassembled(caught: Vec<Out>) -> Vec<Out> {
    let mut whole = Vec::new();
    let mut parts: BTreeMap<(Place, Vec<u8>), Vec<Vec<u8>>> = BTreeMap::new();
    for (place, packet) in caught {
        match packet.get(6) == Some(&FRAGMENT) && packet.len() >= 48 {
            true => {
                let key = [&packet[8..40], &packet[44..48]].concat();
                parts.entry((place, key)).or_default().push(packet);
            }
            false => whole.push((place, packet)),
        }
    }
    for ((place, _), mut parts) in parts {
        let field = |part: &[u8]| u16::from_be_bytes([part[42], part[43]]);
        parts.sort_by_key(|part| field(part) & !7);
        let mut end = 0;
        let is_whole = parts.iter().all(|part| {
            let is_next = usize::from(field(part) & !7) == end;
            end += part.len() - 48;
            is_next
        });
        let has_last = parts.last().is_some_and(|part| field(part) & 1 == 0);
        if is_whole && has_last {
            let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            whole.push((place, Ip::join(&parts)));
        } else {
            whole.extend(parts.into_iter().map(|part| (place, part)));
        }
    }
    whole
}

/// Source and destination, with ports; the identifier of an echo is on the client's side.
pub(super) fn ends(packet: &[u8]) -> Option<[End; 2]> {
    let l4 = packet.get(HEADER..)?;
    let word = |at: usize| match l4.get(at..at + 2) {
        Some(&[a, b]) => u16::from_be_bytes([a, b]),
        _ => 0,
    };
    let ports = match (packet[6], l4.first()) {
        (TCP | UDP, _) => [word(0), word(2)],
        (ICMPV6, Some(128)) => [word(4), 0],
        (ICMPV6, Some(129)) => [0, word(4)],
        _ => [0; 2],
    };
    let [source, destination] = [8, 24].map(|at| Ip::at(packet, at));
    Some([At(source, ports[0]), At(destination, ports[1])])
}

/// A packet without what a host may choose, and of each checksum only by how much it is wrong.
fn plain((place, packet): &Out, symbol: Option<End>) -> (Place, Vec<u8>, Vec<u16>) {
    let (mut bytes, mut errors) = (packet.clone(), Vec::new());
    strip(&mut bytes, symbol, &mut errors);
    (*place, bytes, errors)
}

fn strip(bytes: &mut [u8], symbol: Option<End>, errors: &mut Vec<u16>) {
    let Some([source, destination]) = ends(bytes) else {
        return;
    };
    let (head, l4) = bytes.split_at_mut(HEADER);
    let protocol = head[6];
    let field = match protocol {
        TCP => 16,
        UDP => 6,
        ICMPV6 => 2,
        _ => return,
    };
    if l4.len() >= field + 2 {
        let length = (l4.len() as u16).to_be_bytes();
        let sum = ones_complement_sum(&[&head[8..40], &[0, protocol], &length, l4].concat());
        errors.push(!sum % 0xffff);
        l4[field..field + 2].fill(0);
    }
    let kind = l4.first().copied();
    let places: &[(usize, End)] = match (protocol, kind) {
        (TCP | UDP, _) => &[(0, source), (2, destination)],
        (ICMPV6, Some(128)) => &[(4, source)],
        (ICMPV6, Some(129)) => &[(4, destination)],
        (ICMPV6, Some(1..=4)) if l4.len() > ICMP_HEADER => {
            return strip(&mut l4[ICMP_HEADER..], symbol, errors);
        }
        _ => &[],
    };
    for (at, end) in places {
        if Some(*end) == symbol
            && let Some(field) = l4.get_mut(*at..at + 2)
        {
            field.copy_from_slice(&SYMBOL);
        }
    }
}

/// The outcome of a step on both hosts.
pub(super) struct Pair<'a> {
    pub(super) model: &'a Model,
    pub(super) step: &'a Step,
    pub(super) outs: &'a [Vec<Out>; 2],
}

impl Pair<'_> {
    fn symbol(&self, side: usize) -> Option<End> {
        let flow = &self.model.flows[self.step.flow];
        flow.shown_port[side].map(|_| flow.shown(side))
    }

    /// Whether the same came out of both.
    pub(super) fn is_alike(&self) -> bool {
        let [theirs, ours] = [0, 1].map(|side| {
            let plain = |out| plain(out, self.symbol(side));
            let mut all: Vec<_> = self.outs[side].iter().map(plain).collect();
            all.sort();
            all
        });
        theirs == ours
    }

    /// Whether both hosts answered with the same but for its source.
    pub(super) fn differs_in_source(&self) -> bool {
        let [theirs, ours] = [0, 1].map(|side| {
            let mut outs = self.outs[side].clone();
            for (_, packet) in &mut outs {
                packet[8..24].fill(0);
            }
            let plain = |out| plain(out, self.symbol(side));
            let mut all: Vec<_> = outs.iter().map(plain).collect();
            // The checksum covers the source.
            all.iter_mut().for_each(|(_, _, errors)| {
                errors.remove(0);
            });
            all.sort();
            all
        });
        theirs == ours
    }

    /// The outcome of the packet on a host.
    pub(super) fn came(&self, side: usize) -> Came {
        let [out] = &self.outs[side][..] else {
            return match self.outs[side].is_empty() {
                true => Came::Nothing,
                false => Came::Otherwise,
            };
        };
        let (at, mut untouched) = self.model.whole(self.step, side);
        let sender = Ip::at(&untouched, 8);
        let is = |expected: &Out| {
            let symbol = self.symbol(side);
            plain(out, symbol) == plain(expected, symbol)
        };
        let to = Place::of(Ip::at(&untouched, 24));
        untouched[Ip::HOPS] = untouched[Ip::HOPS].wrapping_sub(1);
        if is(&self.model.translated(self.step, side)) {
            Came::Translated
        } else if is(&(to, untouched)) {
            Came::Untranslated
        } else if is_answer(out, at, sender) {
            Came::Answered
        } else {
            Came::Otherwise
        }
    }
}

/// Whether it is a message of the host's own to the sender.
fn is_answer((place, packet): &Out, at: Place, sender: Ip) -> bool {
    let l4 = packet.get(HEADER..).unwrap_or_default();
    let is_message = match packet[6] {
        TCP => l4.get(13).is_some_and(|flags| flags & 4 != 0),
        ICMPV6 => matches!(l4.first(), Some(1..=4 | 129)),
        _ => false,
    };
    let [source, destination] = [8, 24].map(|at| Ip::at(packet, at));
    let is_host = [PUBLIC, SECOND, GATEWAY].contains(&source);
    *place == at && is_message && destination == sender && is_host
}

/// A packet at a place, with its ends and in full.
pub(super) fn show(text: &mut String, way: &str, (place, packet): &Out) {
    let [from, to] = [8, 24].map(|at| Ipv6Addr::from(Ip::at(packet, at)));
    let _ = write!(text, "    {way} {place:?}: {from} to {to}\n        ");
    for byte in packet.iter().take(160) {
        let _ = write!(text, "{byte:02x}");
    }
    let _ = writeln!(text);
}
