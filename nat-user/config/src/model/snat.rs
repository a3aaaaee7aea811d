//! `[[snat]]`.

use std::net::Ipv4Addr;

use super::{
    address::Address, forwarding::Forwarding, network::NetworkId, port::PortRange, uplink::UplinkId,
};

/// A source translation rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnatRule<A: Address = Ipv4Addr> {
    /// Unique among the `[[snat]]` rules.
    pub name: String,
    /// Whose packets it translates.
    pub source: SnatSource<A>,
    /// The uplink by which they leave.
    pub uplink: UplinkId,
    /// The external addresses.
    pub to: SnatTarget<A>,
    /// External ports that it may use.
    pub ports: PortRange,
    /// Mapping behaviour (RFC 4787 section 4.1).
    pub mapping: MappingBehaviour,
    /// Filtering behaviour (RFC 4787 section 5).
    pub filtering: FilteringBehaviour,
    /// Destinations that are not translated.
    pub exclude: Vec<A::Prefix>,
    /// The path of packets of its sessions.
    pub forwarding: Forwarding,
}

/// Whose packets a `[[snat]]` rule translates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnatSource<A: Address = Ipv4Addr> {
    /// Those of a network; of its IPv6 prefixes only the unique local ones.
    Network(NetworkId),
    /// Those from a prefix, at any interface.
    Prefix(A::Prefix),
}

/// The external addresses of a `[[snat]]` rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnatTarget<A = Ipv4Addr> {
    /// The uplink's first address, followed as it changes.
    Masquerade,
    /// One address (`first == last`) or a pool of consecutive ones.
    Pool {
        /// The lowest address.
        first: A,
        /// The highest address, itself included.
        last: A,
    },
}

impl<A: Address> SnatRule<A> {
    /// Whether it names an address of its family.
    #[must_use]
    pub fn names_address(&self) -> bool {
        let is_prefix = matches!(self.source, SnatSource::Prefix(_));
        is_prefix || self.to != SnatTarget::Masquerade || !self.exclude.is_empty()
    }
}

/// Mapping behaviour (RFC 4787 section 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MappingBehaviour {
    /// One external endpoint for an internal endpoint, whatever the remote is.
    EndpointIndependent,
    /// An external port may serve several internal endpoints towards different remotes.
    AddressAndPortDependent,
}

/// Filtering behaviour (RFC 4787 section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilteringBehaviour {
    /// Any remote may send to a mapping.
    EndpointIndependent,
    /// Any port of an address that the internal endpoint has sent to.
    AddressDependent,
    /// Only the endpoints that the internal endpoint has sent to.
    AddressAndPortDependent,
}
