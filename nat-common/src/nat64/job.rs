//! The work area of one packet.
//!
//! What is read from a packet stands here before anything is decided: a BPF program then continues
//! from one state of its registers, whichever headers it has found.

use super::{fields::Fields, plan::Plan};
use crate::{
    drop_reason::DropReason,
    family::{Family, Header},
    verifier::{read_here, verifier_barrier},
    wire::{
        address::{Addr4, Addr6},
        icmp::IcmpClass,
        packet::Packet,
    },
};

/// The work area of one packet.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct Job {
    /// What becomes of the packet.
    pub plan: Plan,
    pub(super) ipv6: Read<Addr6>,
    pub(super) ipv4: Read<Addr4>,
}

/// A network header, of the packet or of the one that it quotes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub(super) struct Read<A> {
    pub(super) header: Header<A>,
    pub(super) fields: Fields,
    /// Where the transport header is.
    pub(super) l4: usize,
}

impl Job {
    /// Before any packet.
    pub const EMPTY: Self = Self {
        plan: Plan::EMPTY,
        ipv6: Read::EMPTY,
        ipv4: Read::EMPTY,
    };
}

impl<A: Family> Read<A> {
    const EMPTY: Self = Self {
        header: Header::EMPTY,
        fields: Fields::EMPTY,
        l4: 0,
    };

    /// Reads the header at `at`.
    ///
    /// # Errors
    ///
    /// [`DropReason::Malformed`] if it is cut off, contradicts itself or would be translated only
    /// in part.
    #[inline(always)]
    pub(super) fn read<P: Packet>(&mut self, packet: &P, at: usize) -> Result<(), DropReason> {
        let is_read = read(packet, at, self);
        verifier_barrier(self);
        is_read.then_some(()).ok_or(DropReason::Malformed)
    }
}

impl<A: Family> Read<A> {
    /// Reads the header of the packet itself, at `l3`.
    ///
    /// # Errors
    ///
    /// As [`Self::read`], and if the packet is shorter than it says.
    #[inline(always)]
    pub(super) fn read_own<P: Packet>(&mut self, packet: &P, l3: usize) -> Result<(), DropReason> {
        self.read(packet, l3)?;
        if l3 + self.header.total_len > packet.len() {
            return Err(DropReason::Malformed);
        }
        // The kernel decrements it twice: before this device, and behind it.
        self.fields.ttl = self.fields.ttl.saturating_add(1);
        Ok(())
    }

    /// Whether the packet is an ICMP error.
    ///
    /// # Errors
    ///
    /// [`DropReason::Untranslatable`] of a fragment of ICMP: the checksum of ICMPv6 covers the
    /// length of the whole message, which no fragment says.
    #[inline(always)]
    pub(super) fn is_error<P: Packet>(&self, packet: &P) -> Result<bool, DropReason> {
        if self.header.protocol != A::ICMP {
            return Ok(false);
        }
        if self.fields.is_fragment() {
            return Err(DropReason::Untranslatable);
        }
        let first = packet.read::<2>(self.l4).ok_or(DropReason::Malformed)?;
        Ok(A::classify(first[0]) == IcmpClass::Error)
    }
}

/// A separate function: families' headers are long to read.
#[inline(never)]
fn read<A: Family, P: Packet>(packet: &P, at: usize, to: &mut Read<A>) -> bool {
    let packet = read_here(packet);
    let Some(header) = A::parse_header(packet, at) else {
        return false;
    };
    to.header = header;
    to.l4 = at + header.header_len;
    match Fields::of(packet, at, &header) {
        Some(fields) => {
            to.fields = fields;
            A::route_ahead(packet, at).is_none()
        }
        None => false,
    }
}
