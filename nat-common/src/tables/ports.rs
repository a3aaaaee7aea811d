//! `PORTS`: the owner of an external port. Adding an entry there *is* the claim.
//!
//! Sessions hold references to an entry, and the last one removes it.

use crate::{
    tables::{insert::InsertError, mappings::MappingKey, references::References},
    wire::address::{Addr4, Addr6, Address, Endpoint, Port},
};

/// Key of `PORTS`: an external port.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C, packed(4))]
pub struct PortKey<A> {
    /// External address.
    pub address: A,
    /// External port.
    pub port: Port,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub reserved: u8,
}

/// Value of `PORTS`, as it is written and read as a whole. A [`PortOwner`] is the same memory while
/// packets take and release references.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct PortRecord<A, Count = u32> {
    /// The owner's internal address, unspecified if the port is [`SHARED`].
    pub address: A,
    /// The owner's internal port.
    pub port: Port,
    /// Number of the owner's network.
    pub network: u16,
    /// Number of the uplink.
    pub uplink: u16,
    /// A filtering mode of [`crate::tables::settings`].
    pub filtering: u8,
    /// [`SHARED`] or 0.
    pub flags: u8,
    /// Number of the rule that made it.
    pub rule: u32,
    /// How many sessions use it.
    pub references: Count,
}

/// [`PortRecord`] in the table.
pub type PortOwner<A> = PortRecord<A, References>;

/// Bit of [`PortRecord::flags`]: the port serves several internal endpoints towards different
/// remotes (address and port-dependent mapping).
pub const SHARED: u8 = 1;

impl<A: Address, Count> PortRecord<A, Count> {
    /// Whether the port belongs to one internal endpoint alone.
    #[inline(always)]
    pub fn is_exclusive(&self) -> bool {
        self.flags & SHARED == 0
    }

    /// The owner's key in `MAPPINGS`.
    #[inline(always)]
    pub fn mapping_key(&self, protocol: u8) -> MappingKey<A> {
        MappingKey {
            address: self.address,
            port: self.port,
            network: self.network,
            uplink: self.uplink,
            protocol,
            reserved: 0,
        }
    }

    /// The same with another count of references.
    #[cfg(not(target_arch = "bpf"))]
    pub fn with_references<Other>(&self, references: Other) -> PortRecord<A, Other> {
        PortRecord {
            address: self.address,
            port: self.port,
            network: self.network,
            uplink: self.uplink,
            filtering: self.filtering,
            flags: self.flags,
            rule: self.rule,
            references,
        }
    }
}

#[cfg(not(target_arch = "bpf"))]
impl<A: Address> PortRecord<A> {
    /// The same in a table in memory of the host.
    #[must_use]
    pub fn in_table(&self) -> PortOwner<A> {
        self.with_references(References::new(self.references))
    }
}

impl<A: Address> PortRecord<A> {
    /// The value before an owner is known.
    pub const EMPTY: Self = Self {
        address: A::UNSPECIFIED,
        port: Port::ZERO,
        network: 0,
        uplink: 0,
        filtering: 0,
        flags: 0,
        rule: 0,
        references: 0,
    };
}

impl<A: Address> PortKey<A> {
    /// The value before a port is known.
    pub const EMPTY: Self = Self {
        address: A::UNSPECIFIED,
        port: Port::ZERO,
        protocol: 0,
        reserved: 0,
    };

    /// The key of an external endpoint.
    #[inline(always)]
    pub fn new(external: Endpoint<A>, protocol: u8) -> Self {
        Self {
            address: external.address,
            port: external.port,
            protocol,
            reserved: 0,
        }
    }
}

/// The table of external ports.
pub trait Ports<A: Address> {
    /// Looks the owner of an external port up.
    fn port(&self, key: &PortKey<A>) -> Option<&PortOwner<A>>;
    /// Claims an external port.
    fn add_port(&self, key: &PortKey<A>, record: &PortRecord<A>) -> Result<(), InsertError>;
    /// Gives an external port back.
    fn remove_port(&self, key: &PortKey<A>);
}

/// IPv4 key of `PORTS`.
pub type PortKey4 = PortKey<Addr4>;

/// IPv4 value of `PORTS`.
pub type PortRecord4 = PortRecord<Addr4>;

crate::map_layouts!(PortKey, 8, 20);
crate::map_layouts!(PortRecord, 20, 32);
const _: () = assert!(size_of::<PortOwner<Addr4>>() == size_of::<PortRecord4>());
