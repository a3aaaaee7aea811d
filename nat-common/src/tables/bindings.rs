//! `BINDINGS` and `NAMES`: the port of a bridge to which an Ethernet or IPv4 address belongs.

use crate::{atomics::Shared, tables::insert::InsertError, wire::address::Addr4};

/// [`Binding::seen_s`] of a name that the configuration binds.
pub const FIXED: u32 = u32::MAX;

/// Key of `BINDINGS`: a name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(C)]
pub struct Name {
    /// An Ethernet address; or 1, 0, with which no interface's address begins, and an IPv4 address.
    pub bytes: [u8; 6],
    /// Number of the network.
    pub network: u16,
}

/// Value of `BINDINGS`, as it is written and read as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct BindingRecord {
    /// Index of the port, 0 if there is none.
    pub port: u32,
    /// When it last used the name, in seconds of the monotonic clock; or [`FIXED`].
    pub seen_s: u32,
}

/// [`BindingRecord`] in a table.
#[derive(Debug)]
#[repr(C)]
pub struct Binding {
    /// See [`BindingRecord::port`].
    pub port: Shared,
    /// See [`BindingRecord::seen_s`].
    pub seen_s: Shared,
}

impl Name {
    /// The key of an Ethernet address.
    #[inline(always)]
    #[must_use]
    pub const fn of_mac(mac: [u8; 6], network: u16) -> Self {
        Self {
            bytes: mac,
            network,
        }
    }

    /// The key of an IPv4 address.
    #[inline(always)]
    #[must_use]
    pub const fn of_address(address: Addr4, network: u16) -> Self {
        let Addr4([a, b, c, d]) = address;
        Self {
            bytes: [1, 0, a, b, c, d],
            network,
        }
    }

    /// Whether it is an IPv4 address.
    #[inline(always)]
    #[must_use]
    pub const fn is_address(&self) -> bool {
        self.bytes[0] & 1 != 0
    }
}

/// The table of names.
pub trait Bindings {
    /// Looks a name up.
    fn binding(&self, name: &Name) -> Option<&Binding>;
    /// Adds a name.
    ///
    /// # Errors
    ///
    /// When it exists already, or there is no room.
    fn add_binding(&self, name: &Name, record: &BindingRecord) -> Result<(), InsertError>;
    /// How many names a port has, if its names are checked.
    fn names(&self, port: u32) -> Option<&Shared>;
}

crate::map_layout!(Name, 8);
crate::map_layout!(BindingRecord, 8);
const _: () = assert!(size_of::<Binding>() == size_of::<BindingRecord>());
