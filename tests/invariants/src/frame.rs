//! Frames as the tests read them: field by field, independent of the code under test.
//!
//! A checksum is right when the one's complement sum over it and all that it covers is 0 (RFC
//! 1071). Whether it is right or not, a translation must leave that sum as it is.

use std::ops::Range;

use nat_common::wire::protocol::{TCP, UDP};

use crate::header::{Header, Read, sum, word};
use kit::packets::ETHERNET;

/// UDP-Lite and DCCP have a checksum where UDP has it.
pub(crate) const UDP_LITE: u8 = 136;
pub(crate) const DCCP: u8 = 33;

const ICMP_HEADER: usize = 8;

/// See [`View::ends`].
pub(crate) type Ends<I> = (u8, [(I, u16); 2], Option<u16>);

/// What a NAT may know about a packet from its IP header on.
#[derive(Debug, Clone)]
pub(crate) struct View<'a, I> {
    pub(crate) bytes: &'a [u8],
    pub(crate) header: Header<I>,
}

impl<'a, I: Read> View<'a, I> {
    /// A packet in a frame, without the padding behind it; `None` if its header is not whole.
    pub(crate) fn of_frame(frame: &'a [u8]) -> Option<Self> {
        Self::new(frame.get(ETHERNET..)?)
    }

    /// A packet that is whole.
    pub(crate) fn new(bytes: &'a [u8]) -> Option<Self> {
        let header = I::header(bytes)?;
        let is_whole = (header.len..=bytes.len()).contains(&header.total_len);
        is_whole.then(|| Self {
            bytes: &bytes[..header.total_len],
            header,
        })
    }

    /// A packet that may have been cut off behind its header.
    pub(crate) fn quoted(bytes: &'a [u8]) -> Option<Self> {
        let header = I::header(bytes)?;
        Some(Self { bytes, header })
    }

    pub(crate) fn protocol(&self) -> u8 {
        self.header.protocol
    }

    pub(crate) fn source(&self) -> I {
        self.header.source
    }

    pub(crate) fn destination(&self) -> I {
        self.header.destination
    }

    pub(crate) fn message(&self) -> &'a [u8] {
        self.bytes.get(self.header.len..).unwrap_or_default()
    }

    pub(crate) fn is_fragment(&self) -> bool {
        self.header.offset != 0 || self.header.more
    }

    fn icmp_type(&self) -> Option<u8> {
        let is_icmp = self.header.protocol == I::ICMP && self.header.offset == 0;
        self.message().first().copied().filter(|_| is_icmp)
    }

    pub(crate) fn is_icmp_error(&self) -> bool {
        self.icmp_type()
            .is_some_and(|kind| I::ERRORS.contains(&kind))
    }

    pub(crate) fn is_icmp_query(&self) -> bool {
        let is = |kind| I::QUERIES.iter().flatten().any(|query| *query == kind);
        self.icmp_type().is_some_and(is)
    }

    pub(crate) fn is_icmp_reply(&self) -> bool {
        let is = |kind| I::QUERIES.iter().any(|[_, answer]| *answer == kind);
        self.icmp_type().is_some_and(is)
    }

    /// The packet that an ICMP error quotes.
    pub(crate) fn quote(&self) -> Option<Self> {
        let quote = self.message().get(ICMP_HEADER..)?;
        let view = Self::quoted(quote).filter(|_| self.is_icmp_error())?;
        let protocol = view.header.protocol;
        let min_len = match protocol {
            TCP | UDP => 8,
            _ if protocol == I::ICMP => 8,
            _ => 0,
        };
        (view.header.offset == 0 && view.message().len() >= min_len).then_some(view)
    }

    /// Where the checksum stands in the message, if it is all there.
    pub(crate) fn checksum(&self) -> Option<Range<usize>> {
        let start = match self.header.protocol {
            TCP => 16,
            UDP | UDP_LITE | DCCP => 6,
            protocol if protocol == I::ICMP => 2,
            _ => return None,
        };
        (self.header.offset == 0 && start + 2 <= self.message().len()).then_some(start..start + 2)
    }

    /// Where checksums stand other than those of UDP, from the IP header on, a quotation's
    /// included.
    fn checksums(&self) -> Vec<Range<usize>> {
        let own = self.checksum().filter(|_| self.header.protocol != UDP);
        let own = own.map(|field| self.header.len + field.start..self.header.len + field.end);
        let mut fields: Vec<_> = I::CHECKSUM.into_iter().chain(own).collect();
        if let Some(quote) = self.quote() {
            let start = self.header.len + ICMP_HEADER;
            let quoted = quote.checksums().into_iter();
            fields.extend(quoted.map(|field| start + field.start..start + field.end));
        }
        fields
    }

    /// The sum over the message, and over the pseudo-header too if its checksum covers that.
    pub(crate) fn message_sum(&self) -> Option<u16> {
        let field = self.checksum()?;
        let message = self.message();
        if self.header.protocol == I::ICMP {
            let (source, destination) = (self.header.source, self.header.destination);
            let pseudo = I::icmp_pseudo_header(source, destination, message.len());
            return Some(sum(&[&pseudo, message]));
        }
        if self.header.protocol == UDP && message[field] == [0, 0] {
            return None;
        }
        let addresses = &self.bytes[I::ADDRESSES];
        let len = (message.len() as u16).to_be_bytes();
        Some(sum(&[addresses, &[0, self.header.protocol], &len, message]))
    }

    /// The sums of header and message; 0 if headers have none.
    pub(crate) fn sums(&self) -> (u16, Option<u16>) {
        let header = match I::CHECKSUM {
            Some(_) => sum(&[&self.bytes[..self.header.len]]),
            None => 0,
        };
        (header, self.message_sum())
    }

    /// Whether the checksums of a packet that is no fragment are right.
    pub(crate) fn is_right(&self) -> bool {
        let (header, message) = self.sums();
        header == 0 && message.unwrap_or(0) == 0
    }

    /// The ports, or 0 where there are none.
    pub(crate) fn ports(&self) -> [u16; 2] {
        let has_ports = matches!(self.header.protocol, TCP | UDP) && self.header.offset == 0;
        [0, 2].map(|at| word(self.message(), at).filter(|_| has_ports).unwrap_or(0))
    }

    /// What tells its session: protocol, ends, and the identifier of an ICMP query.
    pub(crate) fn ends(&self) -> Ends<I> {
        let id = word(self.message(), 4).filter(|_| self.is_icmp_query());
        let ports = self.ports();
        let ends = [(self.source(), ports[0]), (self.destination(), ports[1])];
        (self.header.protocol, ends, id)
    }

    /// Which bytes a translation may change, from the IP header on.
    fn changeable(&self) -> Vec<Range<usize>> {
        let mut ranges = vec![I::ADDRESSES];
        ranges.extend(I::CHECKSUM);
        if self.is_fragment() {
            ranges.push(self.header.id.clone());
        }
        let mut in_message = |range: Range<usize>| {
            ranges.push(self.header.len + range.start..self.header.len + range.end);
        };
        match self.header.protocol {
            TCP | UDP if self.header.offset == 0 => in_message(0..4),
            _ if self.is_icmp_query() => in_message(4..6),
            _ => {}
        }
        if let Some(field) = self.checksum() {
            in_message(field);
        }
        if let Some(options) = self.mss() {
            in_message(options);
        }
        if let Some(quote) = self.quote() {
            let start = self.header.len + ICMP_HEADER;
            let quoted = quote.changeable().into_iter();
            ranges.extend(quoted.map(|range| start + range.start..start + range.end));
        }
        ranges
    }

    /// The options of a TCP segment that opens a connection: one of them is the segment size.
    fn mss(&self) -> Option<Range<usize>> {
        let message = self.message();
        if self.header.protocol != TCP || self.header.offset != 0 || message.len() < 20 {
            return None;
        }
        let is_syn = message[13] & 2 != 0;
        is_syn.then(|| 20..usize::from(message[12] >> 4) * 4)
    }
}

/// Checks that a frame was translated as a whole: what it has more than addresses, ports and their
/// checksums is as before, and so is every sum.
#[track_caller]
pub(crate) fn assert_translated<I: Read>(before: &[u8], after: &[u8]) {
    assert_eq!(before.len(), after.len());
    let Some((old, new)) = View::<I>::of_frame(before).zip(View::<I>::of_frame(after)) else {
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
pub(crate) fn canonical<I: Read>(frame: &[u8]) -> Vec<u8> {
    let mut canonical = frame.to_vec();
    let view = View::<I>::of_frame(frame);
    for field in view.map_or_else(Vec::new, |view| view.checksums()) {
        let field = &mut canonical[ETHERNET + field.start..ETHERNET + field.end];
        if *field == [0xff, 0xff] {
            field.fill(0);
        }
    }
    canonical
}

/// Makes all checksums right that the frame is long enough for.
pub(crate) fn correct<I: Read>(frame: &mut [u8]) {
    let Some(view) = View::<I>::of_frame(frame) else {
        return;
    };
    let start = ETHERNET + view.header.len;
    let (protocol, message_end) = (view.header.protocol, ETHERNET + view.bytes.len());
    let field = view.checksum().filter(|_| !view.is_fragment());
    let field = field.map(|field| start + field.start..start + field.end);
    if let Some(place) = I::CHECKSUM {
        let place = ETHERNET + place.start..ETHERNET + place.end;
        frame[place.clone()].fill(0);
        let right = checksum(sum(&[&frame[ETHERNET..start]]));
        frame[place].copy_from_slice(&right.to_be_bytes());
    }
    if let Some(field) = field {
        // Not 0, which UDP takes for none, and without a change of the sum.
        frame[field.clone()].fill(0xff);
        let packet = &frame[ETHERNET..message_end];
        let sum = View::<I>::new(packet).and_then(|view| view.message_sum());
        let right = match checksum(sum.unwrap_or(0)) {
            0 if protocol == UDP => 0xffff,
            right => right,
        };
        frame[field].copy_from_slice(&right.to_be_bytes());
    }
}

/// The packet as its receiver would send it back: ends swapped, a query answered.
pub(crate) fn reversed<I: Read>(frame: &[u8]) -> Vec<u8> {
    let mut reversed = frame.to_vec();
    let Some(view) = View::<I>::of_frame(frame) else {
        return reversed;
    };
    let (ip, message) = (ETHERNET, ETHERNET + view.header.len);
    let len = size_of::<I>();
    for at in I::SOURCE..I::SOURCE + len {
        reversed.swap(ip + at, ip + at + len);
    }
    match view.icmp_type() {
        Some(kind) => {
            for [query, answer] in I::QUERIES {
                match kind {
                    _ if kind == *query => reversed[message] = *answer,
                    _ if kind == *answer => reversed[message] = *query,
                    _ => {}
                }
            }
            correct::<I>(&mut reversed);
        }
        None if matches!(view.protocol(), TCP | UDP) && view.message().len() >= 4 => {
            for at in 0..2 {
                reversed.swap(message + at, message + 2 + at);
            }
        }
        None => {}
    }
    reversed
}

/// The checksum that makes a sum 0. The words of a packet are not all 0, so theirs is the other 0.
fn checksum(sum: u16) -> u16 {
    if sum == 0 { 0 } else { !sum }
}
