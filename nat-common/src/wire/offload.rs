//! What the kernel has left to a device for a packet: finishing a checksum, segmentation.

/// The known state, as a word for one register.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Offload(u64);

/// A placeholder call for access to the kernel's own record of a packet (`struct sk_buff`). No
/// helper has this number. The loader replaces it with what the running kernel offers.
pub const RECORD_CALL: i32 = 0x6e61_7462;

/// Bytes of the record that are copied if a program cannot read it in place.
pub const WINDOW: usize = 64;
/// How many places of fields there are.
pub const FIELDS: usize = 10;

/// Places of fields: the byte at which a field starts, and for bit fields the lowest bit.
pub mod field {
    /// Start of the window in the record; the other places are relative to it. 0 if unknown.
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

/// Reads fields of a record by their offsets in its window.
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
        // Without branches: the verifier would follow each one through all later code.
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

    /// Nothing is left to a device.
    pub const NOTHING: Self = Self(Self::KNOWN);

    /// Only a checksum is left, to be written at this offset from the start of the network header
    /// (or before it).
    #[inline(always)]
    #[must_use]
    pub const fn unfinished(field: i16) -> Self {
        let field = (field.cast_unsigned() as u64) << Self::FIELD;
        Self(Self::KNOWN | Self::UNFINISHED | field)
    }

    /// The same, if the receiving device has already computed the sum.
    #[inline(always)]
    #[must_use]
    pub const fn and_summed(self) -> Self {
        Self(self.0 | Self::SUMMED)
    }

    /// The same, in a tunnel: with the offsets of the inner headers from the network header.
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

    /// Offset of an unfinished checksum from the network header; `None` if there is none, or if
    /// that is unknown.
    #[inline(always)]
    #[must_use]
    pub const fn field(self) -> Option<i16> {
        match self.has(Self::UNFINISHED) {
            true => Some((self.0 >> Self::FIELD) as i16),
            false => None,
        }
    }

    /// Offsets of the inner headers from the network header, in a tunnel.
    #[inline(always)]
    #[must_use]
    pub fn inner(self) -> Option<(usize, usize)> {
        let at = |shift: u32| (self.0 >> shift) as u16 as usize;
        match self.is_encapsulated() {
            true => Some((at(Self::INNER_NETWORK), at(Self::INNER_TRANSPORT))),
            false => None,
        }
    }

    /// The same for [`Self::sum_at`] only, relative to the start of the frame, whose network header
    /// is at `l3`.
    #[inline(always)]
    #[must_use]
    pub const fn of_frame(self, l3: usize) -> Self {
        Self(self.0.wrapping_add((l3 as u64) << Self::FIELD))
    }

    /// What the TCP or UDP checksum field at `field` contains, for a packet before segmentation or
    /// not.
    ///
    /// A tunnel's own checksum is final while the inner one is not: its sum is known before the
    /// inner field is filled in (local checksum offload). It is left to the device only for
    /// segmentation.
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

/// The content of a checksum field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sum {
    /// The checksum.
    Final,
    /// The sum of the pseudo-header, which a device completes.
    OfPseudoHeader,
    /// One of the two: the carrier must correct it in its own way.
    AsKernelKnows,
}
