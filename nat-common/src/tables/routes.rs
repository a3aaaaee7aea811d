//! The host's own routes.

use crate::wire::address::Address;

/// Where the kernel sends a packet, if not out by an interface.
pub mod target {
    /// To the host itself.
    pub const HOST: u32 = 0;
    /// Nowhere: it drops it.
    pub const NOWHERE: u32 = u32::MAX;
    /// Into a tunnel of the route: no interface of the configuration.
    pub const TUNNEL: u32 = u32::MAX - 1;
}

/// The host's routes and interfaces.
pub trait Routes<A: Address> {
    /// The kernel's route for a packet that came in by an interface: the index of another one, or a
    /// [`crate::tables::routes::target`].
    fn route_lookup(&self, interface: u32, source: A, destination: A) -> u32;
    /// Whether there is an interface of this index.
    fn is_there(&self, interface: u32) -> bool;
}
