//! The host's own sockets.

/// Which socket of the host would take a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostSocket {
    /// None.
    None,
    /// One that waits for anybody.
    Listening,
    /// One that is connected to this remote.
    Connected,
}
