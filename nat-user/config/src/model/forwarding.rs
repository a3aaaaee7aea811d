//! The path of packets.

/// The path of packets of established sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarding {
    /// Straight to the port of the other side.
    Fast,
    /// All through the kernel's routing and netfilter.
    Kernel,
}
