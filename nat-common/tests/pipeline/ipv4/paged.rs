//! A packet whose bytes are readable only once they have been asked for, as in the kernel's pages.

use nat_common::wire::{
    offload::Offload,
    packet::{Frames, Packet, SlicePacket},
};

/// Of an untouched packet nothing is readable.
pub(crate) struct Paged<'a> {
    whole: SlicePacket<'a>,
    readable: usize,
}

impl<'a> Paged<'a> {
    /// A frame of a guest, on this host's way in.
    pub(crate) fn new(bytes: &'a mut [u8]) -> Self {
        Self {
            whole: SlicePacket::new(bytes, 0),
            readable: 0,
        }
    }

    /// How many bytes have been asked for.
    pub(crate) fn readable(&self) -> usize {
        self.readable
    }
}

impl Packet for Paged<'_> {
    fn len(&self) -> usize {
        self.whole.len()
    }

    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        (offset + N <= self.readable)
            .then(|| self.whole.read(offset))
            .flatten()
    }

    fn make_readable(&mut self, end: usize) {
        self.readable = self.readable.max(end);
    }

    fn write<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        self.whole.write(offset, bytes)
    }

    fn sum(&self, offset: usize, end: usize) -> Option<u32> {
        self.whole.sum(offset, end)
    }

    fn frames(&self) -> Frames {
        self.whole.frames()
    }

    fn offload(&self) -> Offload {
        self.whole.offload()
    }

    fn ingress_interface(&self) -> u32 {
        self.whole.ingress_interface()
    }
}
