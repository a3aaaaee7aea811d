//! What the kernel has put off of a packet for a device to do: finishing a checksum, cutting it
//! into segments.

/// What is known of it. A word, so that it can be handed over in a register.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Offload(u64);

/// A placeholder call for access to the kernel's own record of a packet (`struct sk_buff`). No
/// helper has this number. The loader replaces it by what the running kernel offers.
pub const RECORD_CALL: i32 = 0x6e61_7462;

/// Bytes that are copied of the record where a program cannot read in it.
pub const WINDOW: usize = 64;
/// How many places of fields there are.
pub const FIELDS: usize = 10;

/// Places of fields: the byte at which a field starts, and for bit fields the lowest bit.
pub mod field {
    /// Where the window starts in the record; the other places count from there. 0 if unknown.
    pub const WINDOW: usize = 0;
    /// `ip_summed`.
    pub const SUMMED: usize = 1;
    /// Its lowest bit.
    pub const SUMMED_BIT: usize = 2;
    /// `encapsulation`.
    pub const ENCAPSULATION: usize = 3;
    /// Its bit.
    pub const ENCAPSULATION_BIT: usize = 4;
    /// `csum_start`.
    pub const CSUM_START: usize = 5;
    /// `csum_offset`.
    pub const CSUM_OFFSET: usize = 6;
    /// `network_header`.
    pub const NETWORK: usize = 7;
    /// `inner_network_header`.
    pub const INNER_NETWORK: usize = 8;
    /// `inner_transport_header`.
    pub const INNER_TRANSPORT: usize = 9;
}

/// Reads fields of a record by where they stand in its window.
pub trait Record {
    /// The byte there.
    fn byte(&self, place: usize) -> u8;
    /// The word of 16 bits there.
    fn word(&self, place: usize) -> u16;
}

/// A copy of the window, in words.
impl Record for [u16; WINDOW / 2] {
    #[inline(always)]
    fn byte(&self, place: usize) -> u8 {
        let is_high = (place % 2 == 1) == cfg!(target_endian = "little");
        (self.word(place) >> (u32::from(is_high) * u8::BITS)) as u8
    }

    #[inline(always)]
    fn word(&self, place: usize) -> u16 {
        self[place / 2 % (WINDOW / 2)]
    }
}

/// Values of `ip_summed` (`linux/skbuff.h`).
const CHECKSUM_COMPLETE: u8 = 2;
const CHECKSUM_PARTIAL: u8 = 3;

impl Offload {
    /// Reads a record, given the places of its fields.
    #[inline(always)]
    pub fn read<R: Record>(record: &R, place: impl Fn(usize) -> usize) -> Self {
        let word = |field| record.word(place(field));
        let bits = |field, bit| record.byte(place(field)) >> (place(bit) & 7);
        let network = word(field::NETWORK);
        let behind = |at: u16, shift: u32| u64::from(at.wrapping_sub(network)) << shift;
        let filled_in = word(field::CSUM_START).wrapping_add(word(field::CSUM_OFFSET));
        let summed = bits(field::SUMMED, field::SUMMED_BIT) & 3;
        let is_encapsulated = bits(field::ENCAPSULATION, field::ENCAPSULATION_BIT) & 1;
        // Without a branch: the verifier would follow each one through all that comes after.
        Self(
            Self::KNOWN
                | (u64::from(summed == CHECKSUM_PARTIAL) * Self::UNFINISHED)
                | (u64::from(summed == CHECKSUM_COMPLETE) * Self::SUMMED)
                | (u64::from(is_encapsulated) * Self::ENCAPSULATED)
                | behind(filled_in, Self::FIELD)
                | behind(word(field::INNER_NETWORK), Self::INNER_NETWORK)
                | behind(word(field::INNER_TRANSPORT), Self::INNER_TRANSPORT),
        )
    }

    /// Nothing is known.
    pub const UNKNOWN: Self = Self(0);

    const KNOWN: u64 = 1 << 0;
    const UNFINISHED: u64 = 1 << 1;
    const SUMMED: u64 = 1 << 2;
    const ENCAPSULATED: u64 = 1 << 3;
    const FIELD: u32 = 16;
    const INNER_NETWORK: u32 = 32;
    const INNER_TRANSPORT: u32 = 48;

    /// Nothing has been put off.
    pub const NOTHING: Self = Self(Self::KNOWN);

    /// Nothing but a checksum, which is to be filled in so many bytes behind the start of the
    /// network header (or before it).
    #[inline(always)]
    #[must_use]
    pub const fn unfinished(field: i16) -> Self {
        let field = (field.cast_unsigned() as u64) << Self::FIELD;
        Self(Self::KNOWN | Self::UNFINISHED | field)
    }

    /// The same, where the device has summed the packet up.
    #[inline(always)]
    #[must_use]
    pub const fn and_summed(self) -> Self {
        Self(self.0 | Self::SUMMED)
    }

    /// The same, in a tunnel: with the starts of the inner headers, behind that of the network
    /// header.
    #[inline(always)]
    #[must_use]
    pub const fn and_encapsulated(self, inner_network: u16, inner_transport: u16) -> Self {
        let inner = (inner_network as u64) << Self::INNER_NETWORK
            | (inner_transport as u64) << Self::INNER_TRANSPORT;
        Self(self.0 | Self::ENCAPSULATED | inner)
    }

    const fn has(self, flag: u64) -> bool {
        self.0 & flag != 0
    }

    /// Whether anything is known.
    #[inline(always)]
    #[must_use]
    pub const fn is_known(self) -> bool {
        self.has(Self::KNOWN)
    }

    /// Whether the packet is in a tunnel.
    #[inline(always)]
    #[must_use]
    pub const fn is_encapsulated(self) -> bool {
        self.has(Self::ENCAPSULATED)
    }

    /// Where a checksum is to be filled in, behind the start of the network header; `None` if
    /// nowhere, or if that is not known.
    #[inline(always)]
    #[must_use]
    pub const fn field(self) -> Option<i16> {
        match self.has(Self::UNFINISHED) {
            true => Some((self.0 >> Self::FIELD) as i16),
            false => None,
        }
    }

    /// Starts of the inner headers behind that of the network header, in a tunnel.
    #[inline(always)]
    #[must_use]
    pub fn inner(self) -> Option<(usize, usize)> {
        let at = |shift: u32| (self.0 >> shift) as u16 as usize;
        match self.is_encapsulated() {
            true => Some((at(Self::INNER_NETWORK), at(Self::INNER_TRANSPORT))),
            false => None,
        }
    }

    /// The same for [`Self::sum_at`] alone, with its place behind the start of the frame, in which
    /// the network header stands at `l3`.
    #[inline(always)]
    #[must_use]
    pub const fn of_frame(self, l3: usize) -> Self {
        Self(self.0.wrapping_add((l3 as u64) << Self::FIELD))
    }

    /// What a TCP or UDP checksum field holds that stands at `field`, of a packet that is still to
    /// be cut into segments or not.
    ///
    /// A tunnel's own checksum is final while the inner one is not: its sum is known before the
    /// inner field is filled in (local checksum offload). Only of segments it is put off as well.
    #[inline(always)]
    #[must_use]
    pub const fn sum_at(self, field: usize, is_segmented: bool) -> Sum {
        if !self.is_known() || self.has(Self::SUMMED) {
            return Sum::AsKernelKnows;
        }
        match self.field() {
            Some(at) if is_segmented || at as isize == field as isize => Sum::OfPseudoHeader,
            _ => Sum::Final,
        }
    }
}

/// What a checksum field holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sum {
    /// The checksum.
    Final,
    /// The sum of the pseudo-header, for a device to go on from.
    OfPseudoHeader,
    /// One of the two: the carrier's own way of correcting it must be used.
    AsKernelKnows,
}
