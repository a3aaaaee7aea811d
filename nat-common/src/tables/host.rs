//! The host's own sockets.

use crate::wire::address::{Address, Endpoint};

/// Which socket of the host would receive a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostSocket {
    /// None.
    None,
    /// A listener.
    Listening,
    /// One that is connected to this remote.
    Connected,
}

/// The host's sockets.
pub trait HostSockets<A: Address> {
    /// Which socket of the host receives packets of `protocol` from `remote` to `local`.
    fn host_socket(&self, protocol: u8, remote: Endpoint<A>, local: Endpoint<A>) -> HostSocket;
}
