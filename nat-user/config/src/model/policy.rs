//! `[[policy]]`.

use ipnet::Ipv4Net;

use super::{
    guest::GuestAddress,
    network::{Action, NetworkId},
    port::{ForwardProtocol, PortRange},
    uplink::UplinkId,
};

/// A `[[policy]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyRule {
    /// Unique among the policies.
    pub name: String,
    /// The side that opens the flow: any of these.
    pub from: Vec<PolicyEnd>,
    /// The other side: any of these.
    pub to: Vec<PolicyEnd>,
    /// The protocols, each once. `All` stands alone.
    pub protocols: Vec<ForwardProtocol>,
    /// Destination ports on the guest; empty means all. For tcp and udp only.
    pub ports: Vec<PortRange>,
    /// Its outcome.
    pub action: Action,
}

/// One end of the flows of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PolicyEnd {
    /// Any, except the host itself.
    Any,
    /// The host itself; only as a destination.
    Host,
    /// All hosts behind an uplink.
    Uplink(UplinkId),
    /// All guests of a network.
    Network(NetworkId),
    /// All hosts with such an address.
    Prefix(Ipv4Net),
    /// A guest.
    Guest(GuestAddress),
}

impl PolicyEnd {
    /// The guest's address, if it is one.
    pub fn guest_mut(&mut self) -> Option<&mut GuestAddress> {
        match self {
            Self::Guest(address) => Some(address),
            _ => None,
        }
    }
}
