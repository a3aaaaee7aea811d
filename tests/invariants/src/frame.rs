//! Frames as the tests read them: field by field, independent of the code under test.
//!
//! A checksum is right when the one's complement sum over it and all that it covers is 0 (RFC
//! 1071). Whether it is right or not, a translation must leave that sum as it is.

use std::{iter, ops::Range};

use nat_common::wire::protocol::{ICMP, TCP, UDP};

use kit::{ipv4::Ip, packets::ETHERNET};

/// UDP-Lite and DCCP have a checksum where UDP has it.
pub(crate) const UDP_LITE: u8 = 136;
pub(crate) const DCCP: u8 = 33;

/// Offsets in an IPv4 header.
const TOTAL_LEN: usize = 2;
const ID: usize = 4;
const FRAGMENT: usize = 6;
const PROTOCOL: usize = 9;
const IP_CHECKSUM: usize = 10;
const SOURCE: usize = 12;
const DESTINATION: usize = 16;

const MIN_HEADER: usize = 20;
const ICMP_HEADER: usize = 8;

/// See [`View::ends`].
pub(crate) type Ends = (u8, [(Ip, u16); 2], Option<u16>);

/// What a NAT may know about a packet from its IP header on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    bytes: &'a [u8],
    pub(crate) header_len: usize,
    pub(crate) protocol: u8,
    pub(crate) source: Ip,
    pub(crate) destination: Ip,
    pub(crate) offset: u16,
    pub(crate) more: bool,
}

impl<'a> View<'a> {
    /// A packet in a frame, without the padding behind it; `None` if its header is not whole.
    pub(crate) fn of_frame(frame: &'a [u8]) -> Option<Self> {
        Self::new(frame.get(ETHERNET..)?)
    }

    /// A packet that is whole.
    pub(crate) fn new(bytes: &'a [u8]) -> Option<Self> {
        let view = Self::quoted(bytes)?;
        let total_len = usize::from(word(bytes, TOTAL_LEN)?);
        let is_whole = (view.header_len..=bytes.len()).contains(&total_len);
        is_whole.then(|| Self {
            bytes: &bytes[..total_len],
            ..view
        })
    }

    /// A packet that may have been cut off behind its header.
    fn quoted(bytes: &'a [u8]) -> Option<Self> {
        let first = *bytes.first()?;
        let header_len = usize::from(first & 0xf) * 4;
        if first >> 4 != 4 || header_len < MIN_HEADER || bytes.len() < header_len {
            return None;
        }
        let fragment = word(bytes, FRAGMENT)?;
        Some(Self {
            bytes,
            header_len,
            protocol: bytes[PROTOCOL],
            source: address(bytes, SOURCE),
            destination: address(bytes, DESTINATION),
            offset: (fragment & 0x1fff) * 8,
            more: fragment & 0x2000 != 0,
        })
    }

    pub(crate) fn message(&self) -> &'a [u8] {
        &self.bytes[self.header_len..]
    }

    pub(crate) fn is_fragment(&self) -> bool {
        self.offset != 0 || self.more
    }

    fn icmp_type(&self) -> Option<u8> {
        let is_icmp = self.protocol == ICMP && self.offset == 0;
        self.message().first().copied().filter(|_| is_icmp)
    }

    pub(crate) fn is_icmp_error(&self) -> bool {
        matches!(self.icmp_type(), Some(3 | 11 | 12))
    }

    pub(crate) fn is_icmp_query(&self) -> bool {
        matches!(self.icmp_type(), Some(0 | 8 | 13..=18))
    }

    pub(crate) fn is_icmp_reply(&self) -> bool {
        matches!(self.icmp_type(), Some(0 | 14 | 16 | 18))
    }

    /// The packet that an ICMP error quotes.
    pub(crate) fn quote(&self) -> Option<View<'a>> {
        let quote = self.message().get(ICMP_HEADER..)?;
        let view = Self::quoted(quote).filter(|_| self.is_icmp_error())?;
        let min_len = match view.protocol {
            TCP | UDP | ICMP => 8,
            _ => 0,
        };
        (view.offset == 0 && view.message().len() >= min_len).then_some(view)
    }

    /// Where the checksum stands in the message, if it is all there.
    fn checksum(&self) -> Option<Range<usize>> {
        let start = match self.protocol {
            TCP => 16,
            UDP | UDP_LITE | DCCP => 6,
            ICMP => 2,
            _ => return None,
        };
        (self.offset == 0 && start + 2 <= self.message().len()).then_some(start..start + 2)
    }

    /// Where checksums stand other than those of UDP, from the IP header on, a quotation's
    /// included.
    fn checksums(&self) -> Vec<Range<usize>> {
        let own = self.checksum().filter(|_| self.protocol != UDP);
        let own = own.map(|field| self.header_len + field.start..self.header_len + field.end);
        let header = IP_CHECKSUM..IP_CHECKSUM + 2;
        let mut fields: Vec<_> = iter::once(header).chain(own).collect();
        if let Some(quote) = self.quote() {
            let start = self.header_len + ICMP_HEADER;
            let quoted = quote.checksums().into_iter();
            fields.extend(quoted.map(|field| start + field.start..start + field.end));
        }
        fields
    }

    /// The sum over the message, and over the addresses too if its checksum covers those.
    fn message_sum(&self) -> Option<u16> {
        let field = self.checksum()?;
        let message = self.message();
        if self.protocol == ICMP {
            return Some(sum(&[message]));
        }
        if self.protocol == UDP && message[field] == [0, 0] {
            return None;
        }
        let addresses = &self.bytes[SOURCE..DESTINATION + 4];
        let len = (message.len() as u16).to_be_bytes();
        Some(sum(&[addresses, &[0, self.protocol], &len, message]))
    }

    /// The sums of header and message.
    pub(crate) fn sums(&self) -> (u16, Option<u16>) {
        (sum(&[&self.bytes[..self.header_len]]), self.message_sum())
    }

    /// Whether the checksums of a packet that is no fragment are right.
    pub(crate) fn is_right(&self) -> bool {
        let (header, message) = self.sums();
        header == 0 && message.unwrap_or(0) == 0
    }

    /// The ports, or 0 where there are none.
    pub(crate) fn ports(&self) -> [u16; 2] {
        let has_ports = matches!(self.protocol, TCP | UDP) && self.offset == 0;
        [0, 2].map(|at| word(self.message(), at).filter(|_| has_ports).unwrap_or(0))
    }

    /// What tells its session: protocol, ends, and the identifier of an ICMP query.
    pub(crate) fn ends(&self) -> Ends {
        let id = word(self.message(), 4).filter(|_| self.is_icmp_query());
        let ports = self.ports();
        let ends = [(self.source, ports[0]), (self.destination, ports[1])];
        (self.protocol, ends, id)
    }

    /// Which bytes a translation may change, from the IP header on.
    fn changeable(&self) -> Vec<Range<usize>> {
        let mut ranges = vec![IP_CHECKSUM..SOURCE, SOURCE..DESTINATION + 4];
        if self.is_fragment() {
            ranges.push(ID..FRAGMENT);
        }
        let mut in_message = |range: Range<usize>| {
            ranges.push(self.header_len + range.start..self.header_len + range.end);
        };
        match self.protocol {
            TCP | UDP if self.offset == 0 => in_message(0..4),
            ICMP if self.is_icmp_query() => in_message(4..6),
            _ => {}
        }
        if let Some(field) = self.checksum() {
            in_message(field);
        }
        if let Some(options) = self.mss() {
            in_message(options);
        }
        if let Some(quote) = self.quote() {
            let start = self.header_len + ICMP_HEADER;
            let quoted = quote.changeable().into_iter();
            ranges.extend(quoted.map(|range| start + range.start..start + range.end));
        }
        ranges
    }

    /// The options of a TCP segment that opens a connection: one of them is the segment size.
    fn mss(&self) -> Option<Range<usize>> {
        let message = self.message();
        if self.protocol != TCP || self.offset != 0 || message.len() < 20 {
            return None;
        }
        let is_syn = message[13] & 2 != 0;
        is_syn.then(|| 20..usize::from(message[12] >> 4) * 4)
    }
}

/// Checks that a frame was translated as a whole: what it has more than addresses, ports and their
/// checksums is as before, and so is every sum.
#[track_caller]
pub(crate) fn assert_translated(before: &[u8], after: &[u8]) {
    assert_eq!(before.len(), after.len());
    let Some((old, new)) = View::of_frame(before).zip(View::of_frame(after)) else {
        panic!("translated without a whole header: {before:02x?}");
    };
    let allowed = old.changeable();
    for at in (0..before.len()).filter(|&at| before[at] != after[at]) {
        let is_allowed = |range: &Range<usize>| at >= ETHERNET && range.contains(&(at - ETHERNET));
        assert!(
            allowed.iter().any(is_allowed),
            "byte {at} changed: {before:02x?} became {after:02x?}"
        );
    }
    assert_eq!(old.sums(), new.sums(), "{before:02x?} became {after:02x?}");
    let quotes = [old, new].map(|view| view.quote().map(|quote| quote.sums()));
    assert_eq!(quotes[0], quotes[1], "{before:02x?} became {after:02x?}");
}

/// The frame with 0 for checksums of 0xffff, which says the same, where it does (RFC 768: not in
/// UDP).
pub(crate) fn canonical(frame: &[u8]) -> Vec<u8> {
    let mut canonical = frame.to_vec();
    let view = View::of_frame(frame);
    for field in view.map_or_else(Vec::new, |view| view.checksums()) {
        let field = &mut canonical[ETHERNET + field.start..ETHERNET + field.end];
        if *field == [0xff, 0xff] {
            field.fill(0);
        }
    }
    canonical
}

/// Makes all checksums right that the frame is long enough for.
pub(crate) fn correct(frame: &mut [u8]) {
    let Some(view) = View::of_frame(frame) else {
        return;
    };
    let header = ETHERNET..ETHERNET + view.header_len;
    let (protocol, message_end) = (view.protocol, ETHERNET + view.bytes.len());
    let field = view.checksum().filter(|_| !view.is_fragment());
    let field = field.map(|field| header.end + field.start..header.end + field.end);
    frame[ETHERNET + IP_CHECKSUM..][..2].fill(0);
    let right = checksum(sum(&[&frame[header.clone()]]));
    frame[ETHERNET + IP_CHECKSUM..][..2].copy_from_slice(&right.to_be_bytes());
    if let Some(field) = field {
        // Not 0, which UDP takes for none, and without a change of the sum.
        frame[field.clone()].fill(0xff);
        let packet = &frame[ETHERNET..message_end];
        let sum = View::new(packet).and_then(|view| view.message_sum());
        let right = match checksum(sum.unwrap_or(0)) {
            0 if protocol == UDP => 0xffff,
            right => right,
        };
        frame[field].copy_from_slice(&right.to_be_bytes());
    }
}

/// The packet as its receiver would send it back: ends swapped, a query answered.
pub(crate) fn reversed(frame: &[u8]) -> Vec<u8> {
    let mut reversed = frame.to_vec();
    let Some(view) = View::of_frame(frame) else {
        return reversed;
    };
    let (ip, message) = (ETHERNET, ETHERNET + view.header_len);
    for at in 0..4 {
        reversed.swap(ip + SOURCE + at, ip + DESTINATION + at);
    }
    match view.icmp_type() {
        Some(kind) => {
            reversed[message] = match kind {
                0 => 8,
                8 => 0,
                13 | 15 | 17 => kind + 1,
                14 | 16 | 18 => kind - 1,
                other => other,
            };
            correct(&mut reversed);
        }
        None if matches!(view.protocol, TCP | UDP) && view.message().len() >= 4 => {
            for at in 0..2 {
                reversed.swap(message + at, message + 2 + at);
            }
        }
        None => {}
    }
    reversed
}

/// One's complement sum of words; 0xffff is given as 0, which is the same number.
fn sum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let words = words.map(|word| u64::from(word[0]) << 8 | word.get(1).map_or(0, |&b| b.into()));
    (words.sum::<u64>() % 0xffff) as u16
}

/// The checksum that makes a sum 0. The words of a packet are not all 0, so theirs is the other 0.
fn checksum(sum: u16) -> u16 {
    if sum == 0 { 0 } else { !sum }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    let word = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_be_bytes(*word))
}

fn address(bytes: &[u8], at: usize) -> Ip {
    bytes[at..].first_chunk().copied().unwrap_or_default()
}
