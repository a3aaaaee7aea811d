//! `[[policy]]`.

use std::net::Ipv4Addr;

use super::{
    address::Address,
    guest::GuestAddress,
    network::{Action, NetworkId},
    port::{ForwardProtocol, PortRange},
    uplink::UplinkId,
};

/// A `[[policy]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyRule<A: Address = Ipv4Addr> {
    /// Unique among the policies.
    pub name: String,
    /// The side that opens the flow: any of these; none if it is about the other family.
    pub from: Vec<PolicyEnd<A>>,
    /// The other side: any of these; none if it is about the other family.
    pub to: Vec<PolicyEnd<A>>,
    /// The protocols, each once. `All` stands alone.
    pub protocols: Vec<ForwardProtocol>,
    /// Destination ports on the guest; empty means all. For tcp and udp only.
    pub ports: Vec<PortRange>,
    /// Its outcome.
    pub action: Action,
}

/// One end of the flows of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PolicyEnd<A: Address = Ipv4Addr> {
    /// Any, except the host itself.
    Any,
    /// The host itself; only as a destination.
    Host,
    /// All hosts behind an uplink.
    Uplink(UplinkId),
    /// All guests of a network.
    Network(NetworkId),
    /// All hosts with such an address.
    Prefix(A::Prefix),
    /// A guest.
    Guest(GuestAddress<A>),
}

impl<A: Address> PolicyRule<A> {
    /// Whether it names an address of its family.
    #[must_use]
    pub fn names_address(&self) -> bool {
        let mut ends = self.from.iter().chain(&self.to);
        ends.any(|end| matches!(end, PolicyEnd::Prefix(_) | PolicyEnd::Guest(_)))
    }
}

impl<A: Address> PolicyEnd<A> {
    /// The guest's address, if it is one.
    pub fn guest_mut(&mut self) -> Option<&mut GuestAddress<A>> {
        match self {
            Self::Guest(address) => Some(address),
            _ => None,
        }
    }
}
