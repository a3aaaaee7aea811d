//! `PERMITS`: the remote addresses that may send to an external port (address-dependent filtering).
//!
//! Sessions hold references to an entry, and the last one removes it.

use crate::{
    tables::{insert::InsertError, references::References},
    wire::address::{Addr4, Addr6, Address, Endpoint, Port},
};

/// Key of `PERMITS`: a remote address that may send to an external port.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C, packed(4))]
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

/// The table of permits.
pub trait Permits<A: Address> {
    /// Looks up whether a remote address may send to an external port.
    fn permit(&self, key: &PermitKey<A>) -> Option<&References>;
    /// Adds a permit with one reference.
    fn add_permit(&self, key: &PermitKey<A>) -> Result<(), InsertError>;
    /// Removes a permit.
    fn remove_permit(&self, key: &PermitKey<A>);
}

/// IPv4 key of `PERMITS`.
pub type PermitKey4 = PermitKey<Addr4>;

crate::map_layouts!(PermitKey, 12, 36);
