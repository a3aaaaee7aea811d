//! Next hops: where the fast path sends the packets of an established session.
//!
//! The daemon computes `NEXT_HOPS` from the host's neighbours, bridges and links, and names each by
//! a [`Tag`]. A session learns the tag at the egress hook of one of its packets, from the
//! link-layer address that the kernel has chosen. The next hop behind a tag never changes: when
//! anything about it changes, the tag is taken out of use, and its sessions learn another one from
//! their next packet, which takes the slow path.

use bitflags::bitflags;
use bytemuck::{Pod, Zeroable};

use crate::atomics::Shared;

/// How many next hops there can be.
pub const SLOTS: u32 = 1 << 14;

/// Names a next hop: the slot in the low half, and the number of former next hops of the slot in
/// the high half. [`NONE`] is no next hop.
pub type Tag = u32;

/// The tag of no next hop.
pub const NONE: Tag = 0;

/// A tag from its parts.
#[inline(always)]
#[must_use]
pub const fn tag(slot: u16, epoch: u16) -> Tag {
    (epoch as u32) << 16 | slot as u32
}

/// The slot that a tag names.
#[inline(always)]
#[must_use]
pub const fn slot(tag: Tag) -> u32 {
    tag & 0xffff
}

/// Value of `NEXT_HOPS` at the index of its slot, as the daemon writes it. [`NextHop`] is the same
/// memory while packets read it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct NextHopRecord<Word = u32> {
    /// Its [`Tag`], [`NONE`] while the slot is not in use. It is written last and removed first.
    pub tag: Word,
    /// Index of the interface to which packets go: the port of a bridge, or another device.
    pub port: u32,
    /// The largest packet in bytes for this next hop, without the link-layer header.
    pub mtu: u32,
    /// Link-layer address of the other side.
    pub destination: [u8; 6],
    /// Link-layer address of the device by which the kernel would send.
    pub source: [u8; 6],
    /// Its properties.
    pub flags: NextHopFlags,
    /// The last tag's high half.
    pub epoch: u16,
    /// When a packet was last sent there, in seconds of the monotonic clock.
    pub used_s: Word,
}

/// [`NextHopRecord`] in the table, while packets on several CPUs use it.
pub type NextHop = NextHopRecord<Shared>;

bitflags! {
    /// Bits of [`NextHopRecord::flags`].
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
    #[repr(transparent)]
    pub struct NextHopFlags: u16 {
        /// A program of natbpf is at the egress of the port.
        const HAS_EGRESS = 1 << 0;
        /// The port accepts frames that XDP redirects.
        const TAKES_FRAMES = 1 << 1;
    }
}

/// Key of `NEXT_HOP_TAGS`, whose value is a [`Tag`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(C)]
pub struct NextHopKey {
    /// Index of the device by which the kernel sends: a bridge, not its port.
    pub device: u32,
    /// Link-layer address of the other side.
    pub destination: [u8; 6],
    /// Zero.
    pub reserved: [u8; 2],
}

impl NextHopKey {
    /// From its parts.
    #[inline(always)]
    #[must_use]
    pub const fn new(device: u32, destination: [u8; 6]) -> Self {
        Self {
            device,
            destination,
            reserved: [0; 2],
        }
    }
}

impl NextHop {
    /// Records its use, at most once a second.
    #[inline(always)]
    pub fn touch(&self, now_s: u32) {
        if self.used_s.load() != now_s {
            self.used_s.store(now_s);
        }
    }
}

/// The tables of next hops.
pub trait NextHops {
    /// The next hop of this tag, if it is in use.
    fn next_hop(&self, tag: Tag) -> Option<&NextHop>;
    /// The tag of the next hop behind a link-layer address, [`crate::tables::next_hops::NONE`] if
    /// it has none.
    fn next_hop_tag(&self, key: &NextHopKey) -> Tag;
    /// Whether sessions may take the fast path at this second.
    fn is_fast_path_on(&self, now_s: u32) -> bool;
}

crate::map_layout!(NextHopRecord, 32);
crate::map_layout!(NextHopKey, 12);
const _: () = assert!(size_of::<NextHop>() == size_of::<NextHopRecord>());

const _: () = assert!(SLOTS <= 1 << 16);
