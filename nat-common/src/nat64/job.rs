//! The work area of one packet.
//!
//! What is read from a packet stands here before anything is decided: a BPF program then continues
//! from one state of its registers, whichever headers it has found.

use super::{fields::Fields, plan::Plan};
use crate::{
    drop_reason::DropReason,
    family::{Family, Header},
    verifier::{read_here, verifier_barrier},
    wire::packet::Packet,
};

/// The work area of one packet.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct Job {
    /// What becomes of the packet.
    pub plan: Plan,
    pub(super) ipv6: Read<crate::wire::address::Addr6>,
    pub(super) ipv4: Read<crate::wire::address::Addr4>,
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
