//! Mappings: who owns an external port, and whom its owner has sent to.
//!
//! Three tables. `MAPPINGS` gives the external endpoint of an internal one (endpoint-independent
//! mapping). `PORTS` gives the owner of an external port; adding an entry there *is* the claim.
//! `PERMITS` holds the remote addresses that may answer (address-dependent filtering). Sessions
//! hold references to entries of the latter two, which go with their last session.

use crate::{
    address::{Addr4, Address, Endpoint, Port},
    shared::Shared,
};

/// Key of `MAPPINGS`: an internal endpoint and the uplink by which it sends.
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
#[repr(C)]
pub struct MappingRecord<A> {
    /// External address.
    pub address: A,
    /// External port.
    pub port: Port,
    /// Zero.
    pub reserved: [u8; 2],
}

/// Key of `PORTS`: an external port.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
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

/// Value of `PORTS`, as it is written and read as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct PortRecord<A> {
    /// The owner's internal address, unspecified if the port is [`SHARED`].
    pub address: A,
    /// The owner's internal port.
    pub port: Port,
    /// Number of the owner's network.
    pub network: u16,
    /// Number of the uplink.
    pub uplink: u16,
    /// A filtering mode of [`crate::rule`].
    pub filtering: u8,
    /// [`SHARED`] or 0.
    pub flags: u8,
    /// Number of the rule that made it.
    pub rule: u32,
    /// How many sessions use it.
    pub references: u32,
}

/// Bit of [`PortRecord::flags`]: the port serves several internal endpoints towards different
/// remotes (address and port-dependent mapping).
pub const SHARED: u8 = 1;

/// [`PortRecord`] in a table.
#[derive(Debug)]
#[repr(C)]
pub struct PortOwner<A> {
    /// See [`PortRecord::address`].
    pub address: A,
    /// See [`PortRecord::port`].
    pub port: Port,
    /// See [`PortRecord::network`].
    pub network: u16,
    /// See [`PortRecord::uplink`].
    pub uplink: u16,
    /// See [`PortRecord::filtering`].
    pub filtering: u8,
    /// See [`PortRecord::flags`].
    pub flags: u8,
    /// See [`PortRecord::rule`].
    pub rule: u32,
    /// See [`PortRecord::references`].
    pub references: References,
}

/// Key of `PERMITS`: a remote address that may send to an external port.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
pub struct PermitKey<A> {
    /// External address.
    pub external: A,
    /// Remote address.
    pub remote: A,
    /// External port.
    pub port: Port,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub reserved: u8,
}

/// How many sessions use an entry. The last one takes the entry along.
#[derive(Debug)]
#[repr(transparent)]
pub struct References(Shared);

/// The count of an entry that is being removed.
const GONE: u32 = 1 << 31;

/// [`PortRecord::references`] of a port whose mapping is yet to be made: nobody can take one.
pub const CLAIMED: u32 = GONE;

impl References {
    /// This many.
    #[cfg(not(target_arch = "bpf"))]
    #[must_use]
    pub const fn new(count: u32) -> Self {
        Self(Shared::new(count))
    }

    /// How many there are.
    #[cfg(not(target_arch = "bpf"))]
    #[must_use]
    pub fn count(&self) -> u32 {
        self.0.load()
    }

    /// One more; `false` if the entry is being removed.
    #[inline(always)]
    pub fn acquire(&self) -> bool {
        if self.0.fetch_add(1) & GONE == 0 {
            return true;
        }
        self.0.fetch_add(u32::MAX);
        false
    }

    /// Whether the entry is being removed, or not yet in use.
    #[inline(always)]
    pub fn is_gone(&self) -> bool {
        self.0.load() & GONE != 0
    }

    /// The first one of an entry that was [`CLAIMED`].
    #[inline(always)]
    pub fn begin(&self) {
        // Others may be about to take back what they have added in vain.
        self.0.fetch_add(GONE + 1);
    }

    /// One less; `true` if it was the last and the caller must now remove the entry.
    #[inline(always)]
    pub fn release(&self) -> bool {
        self.0.fetch_add(u32::MAX) == 1 && self.0.exchange_if(0, GONE) == 0
    }
}

impl<A: Address> PortOwner<A> {
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
}

impl<A: Address> PortRecord<A> {
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
}

impl<A: Address> MappingRecord<A> {
    /// Of this external endpoint.
    #[inline(always)]
    pub fn new(external: Endpoint<A>) -> Self {
        Self {
            address: external.address,
            port: external.port,
            reserved: [0; 2],
        }
    }
}

impl<A: Address> PortKey<A> {
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

impl<A: Address> PermitKey<A> {
    /// The key of a remote address that may send to an external endpoint.
    #[inline(always)]
    pub fn new(external: Endpoint<A>, remote: A, protocol: u8) -> Self {
        Self {
            external: external.address,
            remote,
            port: external.port,
            protocol,
            reserved: 0,
        }
    }
}

/// IPv4 key of `MAPPINGS`.
pub type MappingKey4 = MappingKey<Addr4>;
/// IPv4 value of `MAPPINGS`.
pub type MappingRecord4 = MappingRecord<Addr4>;
/// IPv4 key of `PORTS`.
pub type PortKey4 = PortKey<Addr4>;
/// IPv4 value of `PORTS`.
pub type PortRecord4 = PortRecord<Addr4>;
/// IPv4 key of `PERMITS`.
pub type PermitKey4 = PermitKey<Addr4>;

crate::map_layout!(MappingKey4, 12);
crate::map_layout!(MappingRecord4, 8);
crate::map_layout!(PortKey4, 8);
crate::map_layout!(PortRecord4, 20);
crate::map_layout!(PermitKey4, 12);
const _: () = assert!(size_of::<PortOwner<Addr4>>() == size_of::<PortRecord4>());
