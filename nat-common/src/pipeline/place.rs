//! The hook at which a packet is.

use crate::{
    family::Family,
    tables::{
        Tables,
        interfaces::{Interface, InterfaceFlags},
    },
    translation::{Translation, Verdict},
};

/// Where a packet is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Offset of its network header.
    pub l3: usize,
    /// Index of the interface.
    pub interface: u32,
    /// Whether the frame is addressed to the host, so that it may be forwarded.
    pub is_to_host: bool,
}

/// Lets the kernel receive a translated packet again if netfilter has seen it before an ingress
/// hook: its conntrack entry has the addresses before translation.
#[inline(always)]
pub(crate) fn receive_anew<A: Family, T: Tables<A>>(
    tables: &T,
    place: Place,
    translation: &mut Translation<A>,
) {
    let is_first =
        |interface: &Interface| interface.flags.contains(InterfaceFlags::NETFILTER_FIRST);
    if tables.interface(place.interface).is_some_and(is_first) {
        translation.verdict = Verdict::ReceivedAnew;
    }
}
