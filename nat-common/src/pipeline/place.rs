//! Where a packet is, and what a rewritten one needs there.

use crate::{
    tables::{
        Tables,
        interfaces::{Interface, interface_flags},
    },
    translation::{Translation, Verdict},
    wire::address::Address,
};

/// Where a packet is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Offset of its network header.
    pub l3: usize,
    /// Index of the interface.
    pub interface: u32,
    /// Whether it is a frame for the host itself, so that it may be sent on for it.
    pub is_to_host: bool,
}

/// Lets the kernel receive a packet anew that an ingress hook translates, where netfilter has seen
/// it before: its conntrack entry is that of the addresses before translation.
#[inline(always)]
pub(crate) fn receive_anew<A: Address, T: Tables<A>>(
    tables: &T,
    place: Place,
    translation: &mut Translation<A>,
) {
    let is_first = |interface: &Interface| interface.flags & interface_flags::NETFILTER_FIRST != 0;
    if tables.interface(place.interface).is_some_and(is_first) {
        translation.verdict = Verdict::ReceivedAnew;
    }
}
