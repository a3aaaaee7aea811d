//! Neighbour solicitations and advertisements (RFC 4861): who has an IPv6 address on this link.

use crate::{
    verifier::{read_here, unknown},
    wire::{
        address::{Addr6, Address as _},
        checksum::{fold, sum},
        packet::Packet,
        protocol::ICMPV6,
    },
};

/// Length of an Ethernet header in bytes.
const ETHERNET: usize = 14;

/// Length of an IPv6 header in bytes.
const HEADER_LEN: usize = 40;

/// Where a frame without extension headers has its message.
const MESSAGE: usize = ETHERNET + HEADER_LEN;

/// Length of a solicitation and of an advertisement without options in bytes.
const MESSAGE_LEN: usize = 24;

/// Length of an option with an Ethernet address in bytes.
const OPTION_LEN: usize = 8;

/// Length of an advertisement's frame in bytes.
pub const FRAME_LEN: usize = ETHERNET + HEADER_LEN + MESSAGE_LEN + OPTION_LEN;

/// What a packet has that no router has sent on (RFC 4861 section 3.1).
const HOP_LIMIT: u8 = 255;

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

const SOURCE_LINK_LAYER_ADDRESS: u8 = 1;
const TARGET_LINK_LAYER_ADDRESS: u8 = 2;

/// How long the options of a solicitation may be in units of eight bytes. Today's hosts send one or
/// two units: their Ethernet address, and a nonce against loops (RFC 7527).
const MAX_OPTIONS: u8 = 8;

/// All nodes of a link, ff02::1, and the Ethernet address that stands for them (RFC 2464).
const ALL_NODES: Addr6 = Addr6::of_words([0xff02_0000_u32.to_be(), 0, 0, 1_u32.to_be()]);
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

/// Flags of an advertisement: the sender forwards, was asked, and its Ethernet address replaces
/// another one (RFC 4861 section 4.4).
const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// Somebody asks who has an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Solicitation {
    /// The address that is asked for.
    pub target: Addr6,
    /// Who asks; unspecified if it is about to take the address for itself (RFC 4862 section 5.4).
    pub source: Addr6,
    /// The Ethernet address of who asks.
    pub mac: [u8; 6],
}

/// Reads a valid solicitation from an Ethernet frame (RFC 4861 section 7.1.1); `None` of everything
/// else. Extension headers, and so fragments (RFC 6980), make it none.
#[inline(always)]
pub fn solicitation<P: Packet>(packet: &mut P) -> Option<Solicitation> {
    packet.make_readable(MESSAGE + MESSAGE_LEN + usize::from(MAX_OPTIONS) * OPTION_LEN);
    let [.., a, b, c, d, e, f, high, low] = packet.read::<ETHERNET>(0)?;
    let header = packet.read::<8>(ETHERNET)?;
    let is_ipv6 = [high, low] == [0x86, 0xdd] && header[0] >> 4 == 6;
    if !is_ipv6 || header[6] != ICMPV6 || header[7] != HOP_LIMIT {
        return None;
    }
    let len = u16::from_be_bytes([header[4], header[5]]);
    let [kind, code] = packet.read::<2>(MESSAGE)?;
    if (kind, code) != (SOLICITATION, 0) {
        return None;
    }
    let (source, destination) = (
        Addr6::new(packet.read::<16>(ETHERNET + 8)?),
        Addr6::new(packet.read::<16>(ETHERNET + 24)?),
    );
    let target = Addr6::new(packet.read::<16>(MESSAGE + 8)?);
    let pseudo = source.sum() + destination.sum() + word(len) + word(ICMPV6.into());
    let is_right = fold(u32::from(message_sum(packet)) + pseudo) == u16::MAX;
    if !is_right || target.is_group() || target == Addr6::UNSPECIFIED {
        return None;
    }
    let is_detection = source == Addr6::UNSPECIFIED;
    match options(packet) {
        options::MALFORMED => return None,
        options::WITH_SOURCE if is_detection => return None,
        _ if is_detection && destination != solicited_node(target) => return None,
        _ => {}
    }
    Some(Solicitation {
        target,
        source,
        mac: [a, b, c, d, e, f],
    })
}

/// How long the options are in units of eight bytes; `None` if they are too long or end within one.
#[inline(always)]
fn options_len<P: Packet>(packet: &P) -> Option<u8> {
    let [high, low] = packet.read::<2>(ETHERNET + 4)?;
    let units = (low >> 3).wrapping_sub((MESSAGE_LEN / OPTION_LEN) as u8);
    (high == 0 && low & 7 == 0 && units <= MAX_OPTIONS).then_some(units)
}

/// Sum of the words of the message; 0 if it cannot be read.
///
/// (This and [`options()`] are functions of their own that read the length themselves: the verifier
/// checks what follows them once, not for each length.)
#[inline(never)]
fn message_sum<P: Packet>(packet: &P) -> u16 {
    let packet = read_here(packet);
    let Some(units) = options_len(packet) else {
        return 0;
    };
    let mut total = 0;
    let mut unit = 0;
    while unit < (MESSAGE_LEN / OPTION_LEN) as u8 + units {
        // The compiler would count from the packet's end, which the verifier does not allow.
        let at = unknown((MESSAGE + usize::from(unit) * OPTION_LEN) as u64);
        let Some([a, b, c, d, e, f, g, h]) = packet.read::<OPTION_LEN>(at as usize) else {
            return 0;
        };
        for pair in [[a, b], [c, d], [e, f], [g, h]] {
            total += u32::from(u16::from_ne_bytes(pair));
        }
        unit += 1;
    }
    fold(total)
}

/// What the options of a message are.
mod options {
    pub(super) const MALFORMED: u32 = 0;
    /// None of them says the asker's Ethernet address.
    pub(super) const WITHOUT_SOURCE: u32 = 1;
    pub(super) const WITH_SOURCE: u32 = 2;
}

/// Reads the options of the message; see [`options()`].
#[inline(never)]
fn options<P: Packet>(packet: &P) -> u32 {
    let packet = read_here(packet);
    let Some(mut left) = options_len(packet) else {
        return options::MALFORMED;
    };
    let mut at = MESSAGE + MESSAGE_LEN;
    let mut found = options::WITHOUT_SOURCE;
    let mut seen = 0;
    while left > 0 && seen < MAX_OPTIONS {
        let Some([kind, units]) = packet.read::<2>(at) else {
            return options::MALFORMED;
        };
        if units == 0 || units > left {
            return options::MALFORMED;
        }
        if kind == SOURCE_LINK_LAYER_ADDRESS {
            found = options::WITH_SOURCE;
        }
        at += usize::from(units) * OPTION_LEN;
        left -= units;
        seen += 1;
    }
    found
}

/// The frame that answers: the sender has the address, and forwards. It comes from the address that
/// was asked for, since some networks drop what comes from a link-local one.
///
/// It does not override what a neighbour has heard from a host that holds the address (RFC 4861
/// section 7.2.8).
#[inline(always)]
#[must_use]
pub fn advertisement(solicitation: &Solicitation, mac: [u8; 6]) -> [u8; FRAME_LEN] {
    let is_detection = solicitation.source == Addr6::UNSPECIFIED;
    let (flags, to, to_mac) = match is_detection {
        true => (ROUTER, ALL_NODES, ALL_NODES_MAC),
        false => (ROUTER | SOLICITED, solicitation.source, solicitation.mac),
    };
    frame(flags, solicitation.target, (to, to_mac), mac)
}

/// The frame that tells all nodes of the link, unasked, that the sender has an address: its
/// Ethernet address replaces another one that they have heard (RFC 4861 section 7.2.6).
#[inline(always)]
#[must_use]
pub fn announcement(target: Addr6, mac: [u8; 6]) -> [u8; FRAME_LEN] {
    frame(ROUTER | OVERRIDE, target, (ALL_NODES, ALL_NODES_MAC), mac)
}

/// An advertisement of the sender's Ethernet address.
#[inline(always)]
fn frame(
    flags: u8,
    target: Addr6,
    (to, to_mac): (Addr6, [u8; 6]),
    mac: [u8; 6],
) -> [u8; FRAME_LEN] {
    let mut frame = [0; FRAME_LEN];
    frame[..6].copy_from_slice(&to_mac);
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    frame[14] = 0x60;
    frame[19] = (MESSAGE_LEN + OPTION_LEN) as u8;
    frame[20] = ICMPV6;
    frame[21] = HOP_LIMIT;
    frame[22..38].copy_from_slice(&target.bytes());
    frame[38..54].copy_from_slice(&to.bytes());
    frame[54] = ADVERTISEMENT;
    frame[58] = flags;
    frame[62..78].copy_from_slice(&target.bytes());
    frame[78..80].copy_from_slice(&[TARGET_LINK_LAYER_ADDRESS, 1]);
    frame[80..86].copy_from_slice(&mac);
    let pseudo =
        target.sum() + to.sum() + word((MESSAGE_LEN + OPTION_LEN) as u16) + word(ICMPV6.into());
    let check = !fold(u32::from(fold(sum(&frame[54..]))) + pseudo);
    frame[56..58].copy_from_slice(&check.to_ne_bytes());
    frame
}

/// The group that a solicitation for an address goes to, ff02::1:ff00:0/104 with its last 24 bits
/// (RFC 4291 section 2.7.1).
#[inline(always)]
#[must_use]
pub fn solicited_node(target: Addr6) -> Addr6 {
    let last = u32::from_be(target.words()[3]) | 0xff00_0000;
    Addr6::of_words([0xff02_0000_u32.to_be(), 0, 1_u32.to_be(), last.to_be()])
}

/// A number of 16 bits as the sum has it.
#[inline(always)]
const fn word(number: u16) -> u32 {
    number.to_be() as u32
}
