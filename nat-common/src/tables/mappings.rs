//! `MAPPINGS`: the external endpoint of an internal one (endpoint-independent mapping).

use crate::{
    tables::insert::InsertError,
    wire::address::{Addr4, Addr6, Address, Endpoint, Port},
};

/// Key of `MAPPINGS`: an internal endpoint and its uplink.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
pub struct MappingKey<A> {
    /// The guest's address.
    pub address: A,
    /// The guest's port.
    pub port: Port,
    /// Number of the guest's network.
    pub network: u16,
    /// Number of the uplink.
    pub uplink: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub reserved: u8,
}

/// Value of `MAPPINGS`: the external endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C, packed(4))]
pub struct MappingRecord<A> {
    /// External address.
    pub address: A,
    /// External port.
    pub port: Port,
    /// Zero.
    pub reserved: [u8; 2],
}

impl<A: Address> MappingRecord<A> {
    /// From this external endpoint.
    #[inline(always)]
    pub fn new(external: Endpoint<A>) -> Self {
        Self {
            address: external.address,
            port: external.port,
            reserved: [0; 2],
        }
    }
}

/// The table of mappings.
pub trait Mappings<A: Address> {
    /// Looks up the external endpoint of an internal one.
    fn mapping(&self, key: &MappingKey<A>) -> Option<&MappingRecord<A>>;
    /// Adds a mapping.
    fn add_mapping(
        &self,
        key: &MappingKey<A>,
        record: &MappingRecord<A>,
    ) -> Result<(), InsertError>;
    /// Removes a mapping.
    fn remove_mapping(&self, key: &MappingKey<A>);
}

/// IPv4 key of `MAPPINGS`.
pub type MappingKey4 = MappingKey<Addr4>;

/// IPv4 value of `MAPPINGS`.
pub type MappingRecord4 = MappingRecord<Addr4>;

crate::map_layouts!(MappingKey, 12, 24);
crate::map_layouts!(MappingRecord, 8, 20);
