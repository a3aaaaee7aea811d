//! The external ports of a forward, for the reverse direction.

use std::net::Ipv4Addr;

use nat_common::{
    tables::{
        forward_sources::{ForwardSource4, ForwardSourceKey4},
        forwards::Forward4,
    },
    wire::address::Port,
};

use super::ruleset::wire;
use crate::model::PortRange;

/// A range of external ports that one rule has.
pub(super) struct ForwardedRange {
    pub(super) uplink: u16,
    pub(super) protocol: u8,
    pub(super) address: Ipv4Addr,
    pub(super) external: PortRange,
    pub(super) entry: Forward4,
}

impl ForwardedRange {
    /// The guest's ports; one if all go to one.
    pub(super) fn internal(&self) -> PortRange {
        let internal = |port| self.entry.internal_port(Port::new(port)).number();
        PortRange {
            first: internal(self.external.first),
            last: internal(self.external.last),
        }
    }

    pub(super) fn source_key(&self, port: u16) -> ForwardSourceKey4 {
        ForwardSourceKey4 {
            generation: 0,
            uplink: self.uplink,
            network: self.entry.network,
            protocol: self.protocol,
            reserved: 0,
            address: self.entry.to,
            port: Port::new(port),
            padding: [0; 2],
        }
    }

    pub(super) fn source(&self) -> ForwardSource4 {
        ForwardSource4 {
            address: wire(self.address),
            first_internal: self.internal().first,
            first_external: self.external.first,
        }
    }
}
