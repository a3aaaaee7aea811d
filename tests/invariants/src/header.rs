//! Network headers as the tests read them, independent of the code under test.

use std::ops::Range;

use kit::octets::{DESTINATION_OPTIONS, FRAGMENT, HOP_BY_HOP, Octets, ROUTING};

/// Offsets in an IPv4 header.
const TOTAL_LEN: usize = 2;
const ID: usize = 4;
const FRAGMENT_FIELD: usize = 6;
const PROTOCOL: usize = 9;
const IP_CHECKSUM: usize = 10;

const MIN_HEADER: usize = 20;

/// Offsets in an IPv6 header, and its length.
const PAYLOAD_LEN: usize = 4;
const NEXT_HEADER: usize = 6;
const HEADER_6: usize = 40;

/// What follows where nothing does.
const NO_NEXT_HEADER: u8 = 59;

/// The most extension headers that are read past (docs/ipv6.md).
const MAX_EXTENSIONS: usize = 6;

/// What a network header says, and where.
#[derive(Debug, Clone)]
pub(crate) struct Header<I> {
    /// Length up to the transport header in bytes.
    pub(crate) len: usize,
    /// Length of the packet, as the header says.
    pub(crate) total_len: usize,
    pub(crate) protocol: u8,
    pub(crate) source: I,
    pub(crate) destination: I,
    /// Place in a larger packet in bytes.
    pub(crate) offset: u16,
    pub(crate) more: bool,
    /// Where the identification of a fragment is.
    pub(crate) id: Range<usize>,
}

/// A family whose headers the tests read.
pub(crate) trait Read: Octets {
    /// Where the header has a checksum.
    const CHECKSUM: Option<Range<usize>>;
    /// Types of ICMP errors that are translated.
    const ERRORS: &'static [u8];
    /// Types of ICMP queries, each with that of its answer.
    const QUERIES: &'static [[u8; 2]];

    /// Reads the header of a packet that may have been cut off behind it.
    fn header(bytes: &[u8]) -> Option<Header<Self>>;

    /// The addresses' place.
    const ADDRESSES: Range<usize> = Self::SOURCE..Self::SOURCE + 2 * size_of::<Self>();
}

impl Read for [u8; 4] {
    const CHECKSUM: Option<Range<usize>> = Some(IP_CHECKSUM..IP_CHECKSUM + 2);
    const ERRORS: &'static [u8] = &[3, 11, 12];
    const QUERIES: &'static [[u8; 2]] = &[[8, 0], [13, 14], [15, 16], [17, 18]];

    fn header(bytes: &[u8]) -> Option<Header<Self>> {
        let first = *bytes.first()?;
        let len = usize::from(first & 0xf) * 4;
        if first >> 4 != 4 || len < MIN_HEADER || bytes.len() < len {
            return None;
        }
        let fragment = word(bytes, FRAGMENT_FIELD)?;
        Some(Header {
            len,
            total_len: word(bytes, TOTAL_LEN)?.into(),
            protocol: bytes[PROTOCOL],
            source: Self::at(bytes, Self::SOURCE),
            destination: Self::at(bytes, Self::SOURCE + 4),
            offset: (fragment & 0x1fff) * 8,
            more: fragment & 0x2000 != 0,
            id: ID..FRAGMENT_FIELD,
        })
    }
}

impl Read for [u8; 16] {
    const CHECKSUM: Option<Range<usize>> = None;
    const ERRORS: &'static [u8] = &[1, 2, 3, 4];
    const QUERIES: &'static [[u8; 2]] = &[[128, 129]];

    fn header(bytes: &[u8]) -> Option<Header<Self>> {
        if bytes.len() < HEADER_6 || bytes[0] >> 4 != 6 {
            return None;
        }
        let mut header = Header {
            len: HEADER_6,
            total_len: HEADER_6 + usize::from(word(bytes, PAYLOAD_LEN)?),
            protocol: bytes[NEXT_HEADER],
            source: Self::at(bytes, Self::SOURCE),
            destination: Self::at(bytes, Self::SOURCE + 16),
            offset: 0,
            more: false,
            id: 0..0,
        };
        // The length of a packet before segmentation is 0.
        let is_unknown = header.total_len == HEADER_6 && header.protocol != NO_NEXT_HEADER;
        let end = if is_unknown {
            usize::MAX
        } else {
            header.total_len
        };
        for _ in 0..MAX_EXTENSIONS {
            if header.offset != 0 || !is_extension(header.protocol) || !header.pass(bytes, end) {
                break;
            }
        }
        Some(header)
    }
}

impl Header<[u8; 16]> {
    /// Reads the extension header that comes next; false, and nothing changes, if it does not end
    /// before the packet, or is a second one of a fragment.
    fn pass(&mut self, bytes: &[u8], end: usize) -> bool {
        let Some(&[next, units, a, b, ..]) = bytes.get(self.len..self.len + 8) else {
            return false;
        };
        let is_fragment = self.protocol == FRAGMENT;
        let len = match is_fragment {
            true => 8,
            false => 8 * (1 + usize::from(units)),
        };
        let is_second = is_fragment && !self.id.is_empty();
        if self.len + len > end || is_second {
            return false;
        }
        if is_fragment {
            let field = u16::from_be_bytes([a, b]);
            (self.offset, self.more) = (field & !7, field & 1 != 0);
            self.id = self.len + 4..self.len + 8;
        }
        self.len += len;
        self.protocol = next;
        true
    }
}

/// Whether this is the number of an extension header that is read past.
pub(crate) fn is_extension(protocol: u8) -> bool {
    matches!(
        protocol,
        HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS
    )
}

/// One's complement sum of words; 0xffff is given as 0, which is the same number.
pub(crate) fn sum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let words = words.map(|word| u64::from(word[0]) << 8 | word.get(1).map_or(0, |&b| b.into()));
    (words.sum::<u64>() % 0xffff) as u16
}

pub(crate) fn word(bytes: &[u8], at: usize) -> Option<u16> {
    let word = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_be_bytes(*word))
}
