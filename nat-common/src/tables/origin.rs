//! Where a packet that opens a session comes from.

/// Where a packet that opens a session comes from, and under which rule set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Origin {
    /// Generation of the rule set.
    pub generation: u16,
    /// Number of the uplink by which it leaves or arrived.
    pub uplink: u16,
    /// Number of the network from which it came.
    pub network: u16,
}
