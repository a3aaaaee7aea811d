//! The output of each host in a comparable form.

use std::fmt;
use std::net::Ipv4Addr;

use lab::{Packet, ones_complement_sum};

use crate::differential::model::{Cause, Model, NATBPF, NFTABLES, Stimulus};
use crate::differential::twin::{Caught, GATEWAY, PUBLIC, Place, SECOND};
use kit::flawed::{End, SCTP, Written, crc32c};
use nat_common::wire::protocol::{ICMP, TCP, UDP};

/// Stands for the port that a host has chosen.
const SYMBOL: [u8; 2] = [0xee, 0xee];
/// Stands for the identification of a packet that the host itself has made.
const OWN_ID: [u8; 2] = [0xdd, 0xdd];

/// A packet that came out.
#[derive(Clone, Debug)]
pub(crate) struct Out {
    pub(crate) place: Place,
    /// From the IP header on; in one piece.
    pub(crate) bytes: Vec<u8>,
    /// Whether the checksum inside was left to a device.
    is_pending: bool,
}

/// A packet without what the two hosts may choose: the port becomes a symbol, and of each
/// checksum only stays by how much it is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Plain {
    place: Place,
    bytes: Vec<u8>,
    errors: Vec<u16>,
}

/// The outcome of a packet on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Came {
    /// Nothing came out.
    Nothing,
    /// The packet, translated as its flow demands, and nothing else.
    Translated,
    /// The packet as it was, but for its TTL, and nothing else.
    Untranslated,
    /// A reset or an ICMP message of the host's own to the sender, and nothing else.
    Answered,
    /// Anything else.
    Otherwise,
}

/// The packets of one step that came out on a host, fragments put together.
pub(crate) fn outputs(caught: &Caught) -> Vec<Out> {
    let mut outs: Vec<Out> = Vec::new();
    for (place, frame) in caught {
        // Not Frame::ipv4: a packet that is cut short came out as well, if it did.
        let bytes = frame.bytes.get(14..).unwrap_or_default();
        let bytes = frame.ipv4().unwrap_or(bytes).to_vec();
        outs.push(Out {
            place: *place,
            bytes,
            is_pending: frame.checksum_pending,
        });
    }
    reassembled(outs)
}

/// Reassembles fragments in any order, including duplicates; incomplete packets stay unchanged.
fn reassembled(outs: Vec<Out>) -> Vec<Out> {
    let (mut fragments, mut whole): (Vec<_>, Vec<_>) = outs
        .into_iter()
        .partition(|out| fragment_of(&out.bytes) != (0, false));
    let key = |out: &Out| (out.place, out.bytes[4..6].to_vec());
    fragments.sort_by_key(|out| (key(out), fragment_of(&out.bytes).0));
    fragments.dedup_by(|out, before| out.is_same(before));
    for out in fragments {
        let (offset, more) = fragment_of(&out.bytes);
        match whole.last_mut() {
            Some(first)
                if fragment_of(&first.bytes) == (0, true)
                    && key(first) == key(&out)
                    && offset == inside(&first.bytes).len() =>
            {
                first.bytes.extend_from_slice(inside(&out.bytes));
                set_whole(&mut first.bytes, more);
            }
            _ => whole.push(out),
        }
    }
    whole
}

fn fragment_of(bytes: &[u8]) -> (usize, bool) {
    match bytes.get(6..8) {
        Some(&[a, b]) => {
            let field = u16::from_be_bytes([a, b]);
            (usize::from(field & 0x1fff) * 8, field & 0x2000 != 0)
        }
        _ => (0, false),
    }
}

fn header_length(bytes: &[u8]) -> usize {
    usize::from(bytes.first().copied().unwrap_or(0) & 0x0f) * 4
}

fn inside(bytes: &[u8]) -> &[u8] {
    bytes.get(header_length(bytes)..).unwrap_or_default()
}

/// Corrects total length, fragment field and checksum of a packet put together so far.
fn set_whole(bytes: &mut [u8], more: bool) {
    let header = header_length(bytes);
    let total = (bytes.len() as u16).to_be_bytes();
    bytes[2..4].copy_from_slice(&total);
    bytes[6..8].copy_from_slice(&(u16::from(more) << 13).to_be_bytes());
    bytes[10..12].fill(0);
    let sum = !ones_complement_sum(&[&bytes[..header]]);
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
}

impl Out {
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        (self.place, &self.bytes) == (other.place, &other.bytes)
    }

    /// In one piece, as it would be on the wire.
    pub(crate) fn new(place: Place, bytes: Vec<u8>) -> Self {
        Self {
            place,
            bytes,
            is_pending: false,
        }
    }

    /// Source and destination, with ports; the identifier of an echo is on the client's side. 0 if
    /// there is none.
    pub(crate) fn ends(&self) -> Option<[End; 2]> {
        let packet = Packet::parse(&self.bytes)?;
        let word = |at: usize| match inside(&self.bytes).get(at..at + 2) {
            Some(&[a, b]) => u16::from_be_bytes([a, b]),
            _ => 0,
        };
        let ports = match (packet.protocol, inside(&self.bytes).first()) {
            (UDP | TCP | SCTP, _) => (word(0), word(2)),
            (ICMP, Some(8 | 13 | 17)) => (word(4), 0),
            (ICMP, Some(0 | 14 | 18)) => (0, word(4)),
            _ => (0, 0),
        };
        Some([(packet.source, ports.0), (packet.destination, ports.1)])
    }

    /// Without what a host may choose: the port, and the identification of a packet of its own.
    pub(crate) fn plain(&self, symbol: Option<End>, is_own: bool) -> Plain {
        let mut bytes = self.bytes.clone();
        let mut errors = Vec::new();
        strip(&mut bytes, symbol, self.is_pending, &mut errors, false);
        if is_own {
            bytes[4..6].copy_from_slice(&OWN_ID);
        }
        Plain {
            place: self.place,
            bytes,
            errors,
        }
    }
}

/// Takes checksums and chosen ports out of an IP packet, and notes by how much the checksums are
/// wrong.
fn strip(
    bytes: &mut [u8],
    symbol: Option<End>,
    is_pending: bool,
    errors: &mut Vec<u16>,
    is_quoted: bool,
) {
    let header = header_length(bytes);
    if header < 20 || bytes.len() < header {
        return;
    }
    errors.push(!ones_complement_sum(&[&bytes[..header]]));
    bytes[10..12].fill(0);
    if fragment_of(bytes).0 > 0 {
        return;
    }
    let protocol = bytes[9];
    let (head, l4) = bytes.split_at_mut(header);
    let length = (l4.len() as u16).to_be_bytes();
    let pseudo = [&head[12..20], &[0, protocol], &length].concat();
    if protocol == SCTP && l4.len() >= 12 {
        let field = [l4[8], l4[9], l4[10], l4[11]];
        l4[8..12].fill(0);
        let is_right = u32::from_le_bytes(field) == crc32c(l4);
        // One that is cut off in a quotation cannot be judged.
        errors.push(u16::from(!is_right && !is_quoted));
    }
    let at = match protocol {
        UDP => 6,
        TCP => 16,
        ICMP => 2,
        SCTP => usize::MAX - 2,
        _ => return,
    };
    if l4.len() >= at + 2 {
        let has_none = protocol == UDP && l4[at..at + 2] == [0, 0];
        let pseudo = if protocol == ICMP { &[][..] } else { &pseudo };
        let sum = match is_pending {
            // What is written is the pseudo header's sum, as the device expects it.
            true => ones_complement_sum(&[
                &l4[at..at + 2],
                &(!ones_complement_sum(&[pseudo])).to_be_bytes(),
            ]),
            false => ones_complement_sum(&[pseudo, l4]),
        };
        errors.push(if has_none { 0xffff } else { !sum % 0xffff });
        l4[at..at + 2].fill(0);
    }
    let address = |at: usize| Ipv4Addr::new(head[at], head[at + 1], head[at + 2], head[at + 3]);
    let (source, destination) = (address(12), address(16));
    match protocol {
        UDP | TCP | SCTP => {
            replace(l4, 0, source, symbol);
            replace(l4, 2, destination, symbol);
        }
        ICMP => match l4.first() {
            Some(8 | 13 | 17) => replace(l4, 4, source, symbol),
            Some(0 | 14 | 18) => replace(l4, 4, destination, symbol),
            Some(3..=5 | 11 | 12) if !is_quoted && l4.len() > 8 => {
                strip(&mut l4[8..], symbol, false, errors, true);
            }
            _ => {}
        },
        _ => {}
    }
}

fn replace(l4: &mut [u8], at: usize, address: Ipv4Addr, symbol: Option<End>) {
    let Some((shown, port)) = symbol else { return };
    if let Some(field) = l4.get_mut(at..at + 2)
        && shown == address
        && *field == port.to_be_bytes()
    {
        field.copy_from_slice(&SYMBOL);
    }
}

/// The outcome of a step on both hosts.
pub(crate) struct Pair<'a> {
    pub(crate) model: &'a Model,
    pub(crate) stimulus: &'a Stimulus,
    pub(crate) outs: &'a [Vec<Out>; 2],
}

impl Pair<'_> {
    /// Whether the same came out of both.
    pub(crate) fn is_alike(&self) -> bool {
        self.plain(NFTABLES) == self.plain(NATBPF)
    }

    fn plain(&self, side: usize) -> Vec<Plain> {
        let symbol = self.model.symbols(self.stimulus, side);
        let (at, sent) = self.model.sent(self.stimulus, side);
        let plain = |out: &Out| out.plain(symbol, is_answer(out, at, sent.from.0));
        let mut all: Vec<_> = self.outs[side].iter().map(plain).collect();
        all.sort();
        all
    }

    /// The source of the one packet that came out on a host.
    pub(crate) fn source(&self, side: usize) -> Option<Ipv4Addr> {
        match &self.outs[side][..] {
            [out] => out.ends().map(|[source, _]| source.0),
            _ => None,
        }
    }

    /// The outcome of the packet on a host.
    pub(crate) fn came(&self, side: usize) -> Came {
        let outs = &self.outs[side];
        let (at, sent) = self.model.sent(self.stimulus, side);
        if self.model.flows[self.stimulus.flow].is_for_host(self.stimulus.direction)
            && outs.iter().all(|out| is_answer(out, at, sent.from.0))
        {
            return Came::Translated;
        }
        let [out] = &outs[..] else {
            return if outs.is_empty() {
                Came::Nothing
            } else {
                Came::Otherwise
            };
        };
        let (to, translated) = self.model.translated(self.stimulus, side);
        let mut untouched = sent.clone();
        untouched.dress.ttl = untouched.dress.ttl.wrapping_sub(1);
        // What is sent as a fragment comes out as one.
        let bytes = |packet: &Written| match self.stimulus.cause {
            Cause::FirstFragmentOnly => packet.packets().swap_remove(0),
            _ => packet.whole(),
        };
        let is = |place, packet: &Written| {
            let symbol = self.model.symbols(self.stimulus, side);
            out.plain(symbol, false) == Out::new(place, bytes(packet)).plain(symbol, false)
        };
        if is(to, &translated) {
            Came::Translated
        } else if is(Place::of(sent.to.0), &untouched) {
            Came::Untranslated
        } else if is_answer(out, at, sent.from.0) {
            Came::Answered
        } else {
            Came::Otherwise
        }
    }
}

impl Pair<'_> {
    /// Whether the packet came out translated, and besides only copies of some of its fragments.
    pub(crate) fn came_with_copies(&self, side: usize) -> bool {
        let is_piece = |out: &Out| fragment_of(&out.bytes) != (0, false);
        let (copies, whole): (Vec<_>, Vec<_>) = self.outs[side].iter().cloned().partition(is_piece);
        let Some(packet) = whole.first().map(|packet| packet.bytes.clone()) else {
            return false;
        };
        let is_copy = |copy: &Out| {
            let (start, bytes) = (fragment_of(&copy.bytes).0, inside(&copy.bytes));
            inside(&packet).get(start..start + bytes.len()) == Some(bytes)
        };
        let mut outs = [Vec::new(), Vec::new()];
        outs[side] = whole;
        let pair = Pair {
            outs: &outs,
            model: self.model,
            stimulus: self.stimulus,
        };
        pair.came(side) == Came::Translated && copies.iter().all(is_copy)
    }
}

/// Whether it is a message of the host's own to the sender.
fn is_answer(out: &Out, at: Place, sender: Ipv4Addr) -> bool {
    let host = [PUBLIC, SECOND, GATEWAY];
    let Some(packet) = Packet::parse(&out.bytes) else {
        return false;
    };
    let is_message = match packet.protocol {
        TCP => inside(&out.bytes)
            .get(13)
            .is_some_and(|flags| flags & 4 != 0),
        ICMP => packet.quoted().is_some() || packet.icmp() == Some((0, 0)),
        _ => false,
    };
    out.place == at && is_message && packet.destination == sender && host.contains(&packet.source)
}

impl fmt::Display for Out {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(f, self.place, &self.bytes)
    }
}

/// A packet at a place, decoded and in full.
pub(crate) fn show(f: &mut impl fmt::Write, place: Place, bytes: &[u8]) -> fmt::Result {
    match Packet::parse(bytes) {
        Some(packet) => {
            write!(f, "{place:?}: {packet}")?;
            if let Err(error) = lab::checksums(bytes, false) {
                write!(f, " ({error:#})")?;
            }
        }
        None => write!(f, "{place:?}: no whole IPv4 packet")?,
    }
    write!(f, "\n        ")?;
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}
