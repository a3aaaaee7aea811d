//! `NEIGHBOURS6`: IPv6 addresses for which natbpf answers neighbours on an uplink's link.

use crate::wire::address::Addr6;

/// Key of `NEIGHBOURS6`, a longest-prefix match.
///
/// The daemon writes for each uplink:
///
/// * with [`Neighbour::is_answered`] 1, every prefix of a network whose `ndp` names the uplink, and
///   every prefix of a route with `ndp`;
/// * with 0, in these prefixes, every address at the uplink's own interface, for which the kernel
///   answers, and every address that another host on the link has: gateways, and the kernel's
///   neighbours at the uplink.
///
/// The host's addresses at other interfaces need no entry: the kernel does not answer for them
/// there. External addresses need none either: they are in `ADDRESSES6`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C, packed(4))]
pub struct NeighbourKey {
    /// Generation of the rule set.
    pub generation: u16,
    /// Number of the uplink.
    pub uplink: u16,
    /// The address.
    pub address: Addr6,
}

/// Value of `NEIGHBOURS6`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Neighbour {
    /// 1 if natbpf answers for the prefix.
    pub is_answered: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

/// The table of addresses for which natbpf answers.
pub trait Neighbours {
    /// The entry of an address at an uplink.
    fn neighbour(&self, generation: u16, uplink: u16, address: Addr6) -> Option<&Neighbour>;
}

crate::map_layout!(NeighbourKey, 20);
crate::map_layout!(Neighbour, 4);

/// Bits before the address in [`NeighbourKey`].
pub const NEIGHBOUR_FIXED_BITS: u32 = 32;
