//! The external ports of a forward, for the reverse direction.

use nat_common::{
    tables::{
        forward_sources::{ForwardSource, ForwardSourceKey},
        forwards::Forward,
    },
    wire::address::Port,
};

use super::family::WireFamily;
use crate::model::PortRange;

/// A range of external ports that one rule has.
pub(super) struct ForwardedRange<A: WireFamily> {
    pub(super) uplink: u16,
    pub(super) protocol: u8,
    pub(super) address: A,
    pub(super) external: PortRange,
    pub(super) entry: Forward<A::Wire>,
}

impl<A: WireFamily> ForwardedRange<A> {
    /// The guest's ports; one if all go to one.
    pub(super) fn internal(&self) -> PortRange {
        let internal = |port| self.entry.internal_port(Port::new(port)).number();
        PortRange {
            first: internal(self.external.first),
            last: internal(self.external.last),
        }
    }

    pub(super) fn source_key(&self, port: u16) -> ForwardSourceKey<A::Wire> {
        ForwardSourceKey {
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

    pub(super) fn source(&self) -> ForwardSource<A::Wire> {
        ForwardSource {
            address: self.address.wire(),
            first_internal: self.internal().first,
            first_external: self.external.first,
        }
    }
}
