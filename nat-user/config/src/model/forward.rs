//! `[[forward]]`.

use std::net::Ipv4Addr;

use super::{
    address::Address,
    forwarding::Forwarding,
    guest::GuestAddress,
    port::{ForwardProtocol, PortRange},
    uplink::UplinkId,
};

/// A destination translation rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardRule<A: Address = Ipv4Addr> {
    /// Unique among the `[[forward]]` rules.
    pub name: String,
    /// The uplink whose addresses it forwards.
    pub uplink: UplinkId,
    /// What it forwards.
    pub matches: ForwardMatch,
    /// The external address; `None` is every address of the uplink.
    pub address: Option<A>,
    /// The guest.
    pub to: GuestAddress<A>,
    /// Whether guests also reach it by the public address.
    pub hairpin: bool,
    /// Whether the host itself reaches it by the public address, and by its loopback address.
    pub local: bool,
    /// The path of packets of its sessions.
    pub forwarding: Forwarding,
}

/// What a `[[forward]]` rule forwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardMatch {
    /// The protocols, each once. `All` stands alone.
    pub protocols: Vec<ForwardProtocol>,
    /// Which ports go to which; empty means all ports, unchanged (and always for a rule that has
    /// neither tcp nor udp). Ranges do not overlap within one rule.
    pub ports: Vec<PortForward>,
}

/// External ports and the guest's ports to which they lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortForward {
    /// The external ports.
    pub external: PortRange,
    /// The guest's ports: a range of the same size (port by port, maybe shifted) or one port
    /// (many to one).
    pub internal: PortRange,
}
