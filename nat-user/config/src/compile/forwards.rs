//! Forward rules and one-to-one rules, inbound: which rule takes each port of each address.

use nat_common::{
    tables::{
        forward_sources::ForwardSourceKey,
        forwards::{Forward, ForwardFlags, ForwardKey, OTHER_PROTOCOLS},
    },
    wire::{
        address::Port,
        protocol::{TCP, UDP},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    mem::offset_of,
};

use super::{
    compiler::Compiler,
    family::WireFamily,
    ranges::ForwardedRange,
    ruleset::{Numbering, Prefix},
    taken::{Taken, prefixes, without},
};
use crate::model::{
    ForwardProtocol, ForwardRule, NatRule, PortForward, PortRange, Uplink, UplinkId,
};

/// All ports of a protocol, which a rule without ports forwards.
const ALL_PORTS: PortForward = PortForward {
    external: PortRange {
        first: 0,
        last: u16::MAX,
    },
    internal: PortRange {
        first: 0,
        last: u16::MAX,
    },
};

/// Where a rule sends packets.
#[derive(Clone, Copy)]
struct Target<A> {
    to: A,
    rule: u32,
    hairpin: bool,
    /// Whether the host itself reaches it.
    local: bool,
    /// Whether it is accepted where no policy says otherwise.
    accepted: bool,
    /// Whether it takes all ports, including those by which guests leave.
    whole: bool,
    /// The uplink by which it leaves from the forwarded ports; `None` if another rule says by
    /// which.
    leaves_by: Option<u16>,
}

/// The ports of an external address and protocol that earlier rules have, and those that the host
/// keeps.
struct Place<'t, A> {
    protocol: u8,
    address: A,
    reserved: BTreeSet<u16>,
    taken: &'t mut Taken,
}

impl<A: WireFamily> Compiler<'_, A> {
    pub(super) fn forwards(&mut self, numbers: &mut impl Numbering) {
        let mut taken: BTreeMap<(u8, A), Taken> = BTreeMap::new();
        for forward in A::forwards(self.config) {
            let number = numbers.forward(&forward.name);
            let Some(to) = forward.to.now() else {
                continue; // Its guest has no lease.
            };
            let target = Target {
                to,
                rule: number,
                hairpin: forward.hairpin,
                local: forward.local,
                accepted: true,
                whole: forward.matches.ports.is_empty(),
                leaves_by: Some(self.uplinks[forward.uplink.0]),
            };
            let addresses = match &forward.address {
                Some(address) => std::slice::from_ref(address),
                None => self.uplink_addresses(forward.uplink),
            };
            for &address in addresses {
                for protocol in wire_protocols::<A>(&forward.matches.protocols) {
                    let taken = taken.entry((protocol, address)).or_default();
                    self.forward(forward, target, protocol, address, taken);
                }
            }
        }
        // The ports that earlier rules have of such an address are exceptions.
        for nat in A::nats(self.config) {
            let number = numbers.nat(&nat.name);
            let Some(to) = nat.to.now() else {
                continue;
            };
            let target = Target {
                to,
                rule: number,
                hairpin: nat.hairpin,
                local: false,
                accepted: false,
                // No other guest leaves by the address of a single guest.
                whole: false,
                leaves_by: None,
            };
            for protocol in [TCP, UDP, A::ICMP, OTHER_PROTOCOLS] {
                let taken = taken.entry((protocol, nat.address)).or_default();
                self.nat(nat, target, protocol, taken);
            }
        }
    }

    /// The uplinks' addresses, if a rule also serves the host.
    pub(super) fn own(&mut self) {
        let mut forwards = self.ruleset.forwards.iter();
        if !forwards.any(|(_, forward)| forward.flags.contains(ForwardFlags::LOCAL)) {
            return;
        }
        let mut own = Vec::new();
        for id in (0..self.config.uplinks.len()).map(UplinkId) {
            for address in self.uplink_addresses(id).iter().copied().map(A::wire) {
                if !own.contains(&address) {
                    own.push(address);
                }
            }
        }
        self.ruleset.own = Some(own);
    }

    /// One rule for one protocol and address.
    fn forward(
        &mut self,
        forward: &ForwardRule<A>,
        target: Target<A>,
        protocol: u8,
        address: A,
        taken: &mut Taken,
    ) {
        let all = [ALL_PORTS];
        // Ports apply only to tcp and udp; icmp queries are forwarded in any case.
        let (ports, whole) = match forward.matches.ports.as_slice() {
            ports if protocol != A::ICMP && !ports.is_empty() => (ports, false),
            _ => (all.as_slice(), true),
        };
        let target = Target { whole, ..target };
        let reserved =
            self.reserved_ports(&self.config.uplinks[forward.uplink.0], protocol, address);
        let place = Place {
            protocol,
            address,
            reserved,
            taken,
        };
        self.forward_ports(target, place, ports);
    }

    /// One protocol of a guest's own external address.
    fn nat(&mut self, nat: &NatRule<A>, target: Target<A>, protocol: u8, taken: &mut Taken) {
        let reserved = if self.is_reached_otherwise(nat.uplink) {
            BTreeSet::new()
        } else {
            self.reserved_ports(&self.config.uplinks[nat.uplink.0], protocol, nat.address)
        };
        let place = Place {
            protocol,
            address: nat.address,
            reserved,
            taken,
        };
        self.forward_ports(target, place, &[ALL_PORTS]);
    }

    /// Whether the host holds an address of the uplink that belongs to no guest.
    fn is_reached_otherwise(&self, uplink: UplinkId) -> bool {
        let own = self.environment.uplink_addresses.get(uplink.0);
        let mut held = own
            .into_iter()
            .flatten()
            .chain(self.uplink_addresses(uplink))
            .filter(|address| self.environment.host_addresses.contains(address));
        held.any(|held| A::nats(self.config).iter().all(|nat| nat.address != *held))
    }

    fn forward_ports(&mut self, target: Target<A>, place: Place<'_, A>, ports: &[PortForward]) {
        let Place {
            protocol,
            address,
            reserved,
            taken,
        } = place;
        let fixed_bits = 8 * offset_of!(ForwardKey<A::Wire>, port) as u32;
        for mapping in ports {
            let names_one_port = mapping.external.count() == 1;
            let entry = self.forward_entry(target, *mapping);
            let range = |external| {
                let uplink = target.leaves_by.filter(|_| matches!(protocol, TCP | UDP))?;
                Some(ForwardedRange {
                    uplink,
                    protocol,
                    address,
                    external,
                    entry,
                })
            };
            for piece in taken.take(mapping.external) {
                let pieces = if names_one_port {
                    vec![piece]
                } else {
                    without(piece, &reserved)
                };
                for piece in pieces {
                    self.ranges.extend(range(piece));
                    for (port, bits) in prefixes(piece) {
                        let key = forward_key(protocol, address, port);
                        let bits = fixed_bits + bits;
                        self.ruleset.forwards.push((Prefix { bits, key }, entry));
                    }
                }
            }
        }
    }

    /// Packets of a forward's target from a forwarded port leave from the external port that leads
    /// there: of several, from the first; rules without ports come last.
    pub(super) fn forward_sources(&mut self) {
        let (whole, named): (Vec<_>, Vec<_>) = std::mem::take(&mut self.ranges)
            .into_iter()
            .partition(|range| range.entry.flags.contains(ForwardFlags::WHOLE));
        let fixed_bits = 8 * offset_of!(ForwardSourceKey<A::Wire>, port) as u32;
        let mut led_to: BTreeMap<(u16, u8, A::Wire), Taken> = BTreeMap::new();
        for range in named.into_iter().chain(whole) {
            let to = (range.uplink, range.protocol, range.entry.to);
            for piece in led_to.entry(to).or_default().take(range.internal()) {
                for (port, bits) in prefixes(piece) {
                    let bits = fixed_bits + bits;
                    let key = range.source_key(port);
                    let source = (Prefix { bits, key }, range.source());
                    self.ruleset.forward_sources.push(source);
                }
            }
        }
    }

    fn forward_entry(&self, target: Target<A>, ports: PortForward) -> Forward<A::Wire> {
        let is_many_to_one = ports.internal.count() != ports.external.count();
        let mut flags = ForwardFlags::empty();
        if is_many_to_one {
            flags |= ForwardFlags::MANY_TO_ONE;
        }
        if target.hairpin {
            flags |= ForwardFlags::HAIRPIN;
        }
        if target.local {
            flags |= ForwardFlags::LOCAL;
        }
        if target.accepted {
            flags |= ForwardFlags::ACCEPTED;
        }
        if target.whole {
            flags |= ForwardFlags::WHOLE;
        }
        Forward {
            to: target.to.wire(),
            rule: target.rule,
            network: self.network_of(target.to),
            first_external: ports.external.first,
            first_internal: ports.internal.first,
            flags,
            reserved: 0,
        }
    }

    /// Ports of the host's own address that no range and no `all` takes, in order.
    pub(super) fn reserved_ports(
        &self,
        uplink: &Uplink,
        protocol: u8,
        address: A,
    ) -> BTreeSet<u16> {
        if !self.environment.host_addresses.contains(&address) {
            return BTreeSet::new();
        }
        let is_protocol = |reserved: ForwardProtocol| match reserved {
            ForwardProtocol::Tcp => protocol == TCP,
            ForwardProtocol::Udp => protocol == UDP,
            ForwardProtocol::Icmp | ForwardProtocol::All => false,
        };
        let reserved = uplink.reserved_ports.iter();
        let reserved = reserved.filter(|(protocol, _)| is_protocol(*protocol));
        reserved.map(|(_, port)| *port).collect()
    }
}

/// The protocol numbers in the table for a rule's protocols.
pub(super) fn wire_protocols<A: WireFamily>(protocols: &[ForwardProtocol]) -> BTreeSet<u8> {
    let mut numbers = BTreeSet::new();
    for protocol in protocols {
        match protocol {
            ForwardProtocol::Tcp => numbers.extend([TCP]),
            ForwardProtocol::Udp => numbers.extend([UDP]),
            ForwardProtocol::Icmp => numbers.extend([A::ICMP]),
            ForwardProtocol::All => numbers.extend([TCP, UDP, A::ICMP, OTHER_PROTOCOLS]),
        }
    }
    numbers
}

pub(super) fn forward_key<A: WireFamily>(
    protocol: u8,
    address: A,
    port: u16,
) -> ForwardKey<A::Wire> {
    ForwardKey {
        generation: 0,
        protocol,
        reserved: 0,
        address: address.wire(),
        port: Port::new(port),
        padding: [0; 2],
    }
}
