//! `ADDRESSES`: external addresses.

use crate::wire::address::{Addr4, Addr6, Address};

/// Key of `ADDRESSES`: an external address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C, packed(4))]
pub struct AddressKey<A> {
    /// The address.
    pub address: A,
    /// Generation of the rule set.
    pub generation: u16,
    /// Zero.
    pub reserved: [u8; 2],
}

/// Value of `ADDRESSES`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct ExternalAddress {
    /// Number of the uplink.
    pub uplink: u16,
    /// 1 if the host holds the address, so that packets unknown to natbpf are the host's.
    pub is_host: u8,
    /// 1 if the programs do not answer neighbours that ask for it (ARP, RFC 4861).
    pub is_silent: u8,
}

/// The table of external addresses.
pub trait ExternalAddresses<A: Address> {
    /// The uplink of an external address.
    fn external_address(&self, generation: u16, address: A) -> Option<&ExternalAddress>;
}

/// IPv4 key of `ADDRESSES`.
pub type AddressKey4 = AddressKey<Addr4>;

crate::map_layouts!(AddressKey, 8, 20);
crate::map_layout!(ExternalAddress, 4);
