//! The host's own routes.

/// Where the kernel sends a packet, other than out by an interface.
pub mod way {
    /// To the host itself.
    pub const HOST: u32 = 0;
    /// Nowhere: it drops it.
    pub const NOWHERE: u32 = u32::MAX;
    /// Into a tunnel of the route's own: no interface that the configuration names.
    pub const TUNNEL: u32 = u32::MAX - 1;
}
