//! What the tables of NAT64 hold.

use super::prefix::Prefix;
use crate::wire::address::Addr4;

/// What the daemon has configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Nat64Settings {
    /// The prefix of addresses that stand for IPv4 addresses.
    pub prefix: Prefix,
    /// The IPv4 source of errors by nodes that have none.
    pub strangers: Addr4,
    /// The first IPv4 address for guests.
    pub first: Addr4,
    /// How many follow it, itself included; 0 if there is no NAT64.
    pub count: u32,
}
crate::map_layout!(Nat64Settings, 24);

/// A guest's IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Counterpart {
    /// The address.
    pub address: Addr4,
    /// When the guest has last sent, in seconds.
    pub used_s: u32,
}
crate::map_layout!(Counterpart, 8);
