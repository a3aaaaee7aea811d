//! Policies: from the words of the configuration to the chains in which a flow is looked up.

use std::collections::BTreeMap;

use nat_common::{
    tables::{
        counters::NO_RULE,
        policies::{Chain, DEFAULTS, Policy, Side, action, side},
    },
    wire::protocol::{TCP, UDP},
};

use super::{compiler::Compiler, family::WireFamily, ruleset::Numbering};
use crate::model::{
    Action, Address, ForwardProtocol, HostService, Nat64, PolicyEnd, PolicyRule, PortRange,
    Prefix as _,
};

/// All ports, and no port.
const ALL_PORTS: PortRange = PortRange {
    first: 0,
    last: u16::MAX,
};

/// [`nat_common::tables::policies::Policy::protocol`] of all.
const ANY_PROTOCOL: u8 = 0;

/// Networks' defaults come after the services of the host that they allow.
const DROPPED: u32 = DEFAULTS + (1 << 16);

/// Flows that are accepted by default, so that their answers are recognised.
const TRACKED: u32 = u32::MAX - 1;

/// Both sides of flows.
type Sides = (Side, Side);

/// The policies of a rule set, by their sides.
struct Chains<A: WireFamily>(BTreeMap<Sides, Vec<Policy<A::Wire>>>);

/// One end: its side, and the addresses there.
type End<A> = (Side, <A as Address>::Prefix);

/// What a policy matches besides the two ends.
#[derive(Clone, Copy)]
struct Service {
    protocol: u8,
    ports: PortRange,
}

const EVERYTHING: Service = Service {
    protocol: ANY_PROTOCOL,
    ports: ALL_PORTS,
};

/// Which rule an entry belongs to, its place, and what it says.
#[derive(Clone, Copy)]
struct Saying {
    rule: u32,
    order: u32,
    action: u8,
}

impl<A: WireFamily> Chains<A> {
    fn add(&mut self, from: End<A>, to: End<A>, service: Service, saying: Saying) {
        let policy = Policy {
            source: from.1.network().wire(),
            source_mask: from.1.netmask().wire(),
            destination: to.1.network().wire(),
            destination_mask: to.1.netmask().wire(),
            first_port: service.ports.first,
            last_port: service.ports.last,
            protocol: service.protocol,
            action: saying.action,
            reserved: 0,
            rule: saying.rule,
            order: saying.order,
        };
        self.0.entry((from.0, to.0)).or_default().push(policy);
    }
}

impl<A: WireFamily> Compiler<'_, A> {
    /// All policies; none if no packet is ever dropped.
    pub(super) fn policies(&mut self, numbers: &mut impl Numbering) {
        let mut chains = Chains(BTreeMap::new());
        for (order, rule) in (0..).zip(A::policies(self.config)) {
            let number = numbers.policy(&rule.name);
            self.policy(&mut chains, rule, number, order);
        }
        self.defaults(&mut chains, numbers);
        self.nat64(&mut chains, numbers);
        self.inbound(&mut chains, numbers);
        if chains.0.is_empty() {
            return;
        }
        self.track(&mut chains, numbers);
        // This entry says that there are policies.
        chains.0.entry((side::ANY, side::ANY)).or_default();
        for (sides, mut policies) in chains.0 {
            policies.sort_by_key(|policy| policy.order);
            let chain = Chain {
                first: self.ruleset.policies.len() as u32,
                count: policies.len() as u32,
            };
            self.ruleset.chains.push((sides, chain));
            self.ruleset.policies.append(&mut policies);
        }
    }

    fn policy(&self, chains: &mut Chains<A>, rule: &PolicyRule<A>, number: u32, order: u32) {
        let saying = Saying {
            rule: number,
            order,
            action: match rule.action {
                Action::Accept => action::ACCEPT,
                Action::Drop => action::DROP,
            },
        };
        let ports = match rule.ports.as_slice() {
            [] => &[ALL_PORTS],
            ports => ports,
        };
        for from in rule.from.iter().filter_map(|end| self.end(end)) {
            for to in rule.to.iter().filter_map(|end| self.end(end)) {
                for protocol in rule.protocols.iter().map(protocol_number::<A>) {
                    for &ports in ports {
                        chains.add(from, to, Service { protocol, ports }, saying);
                    }
                }
            }
        }
    }

    /// The side of an end, and its addresses; none for a guest that has no lease.
    fn end(&self, end: &PolicyEnd<A>) -> Option<End<A>> {
        let all = A::Prefix::ALL;
        let prefix = match end {
            PolicyEnd::Any => return Some((side::ANY, all)),
            PolicyEnd::Host => return Some((side::HOST, all)),
            PolicyEnd::Uplink(id) => return Some((side::UPLINKS | self.uplinks[id.0], all)),
            PolicyEnd::Network(id) => return Some((self.networks[id.0], all)),
            PolicyEnd::Prefix(prefix) => *prefix,
            PolicyEnd::Guest(address) => address.now()?.into(),
        };
        // (0 is any side.)
        Some((self.place_of(prefix).0, prefix))
    }

    /// The networks' defaults for flows without a policy.
    fn defaults(&self, chains: &mut Chains<A>, numbers: &mut impl Numbering) {
        for (network, &number) in self.config.networks.iter().zip(&self.networks) {
            let all = A::Prefix::ALL;
            let (here, any) = ((number, all), (side::ANY, all));
            if let Some(services) = &network.host {
                let rule = numbers.default_of(&network.name);
                let saying = |order, action| Saying {
                    rule,
                    order,
                    action,
                };
                let host = (side::HOST, all);
                for service in services.iter().flat_map(wire_services::<A>) {
                    chains.add(here, host, service, saying(DEFAULTS, action::ACCEPT));
                }
                chains.add(here, host, EVERYTHING, saying(DROPPED, action::DROP));
            }
            if network.policy == Action::Drop {
                let saying = Saying {
                    rule: numbers.default_of(&network.name),
                    order: DROPPED,
                    action: action::DROP,
                };
                chains.add(here, any, EVERYTHING, saying);
                chains.add(any, here, EVERYTHING, saying);
            }
        }
    }

    /// What `[nat64]` keeps apart.
    fn nat64(&self, chains: &mut Chains<A>, numbers: &mut impl Numbering) {
        for [from, to] in A::closed_by_nat64(self.config) {
            let saying = Saying {
                rule: numbers.default_of(Nat64::NETWORK),
                order: DROPPED,
                action: action::DROP,
            };
            if let (Some(from), Some(to)) = (self.end(&from), self.end(&to)) {
                chains.add(from, to, EVERYTHING, saying);
            }
        }
    }

    /// What uplinks may not open to addresses that guests hold themselves.
    fn inbound(&self, chains: &mut Chains<A>, numbers: &mut impl Numbering) {
        let all = A::Prefix::ALL;
        for (network, &number) in self.config.networks.iter().zip(&self.networks) {
            if A::of_network(network).is_empty() || A::inbound(network.inbound) == Action::Accept {
                continue;
            }
            let saying = Saying {
                rule: numbers.default_of(&network.name),
                order: DROPPED,
                action: action::DROP,
            };
            for uplink in &self.uplinks {
                let uplink = (side::UPLINKS | uplink, all);
                chains.add(uplink, (number, all), EVERYTHING, saying);
            }
        }
    }

    /// If a direction has drops, flows of the other direction are recorded even if they are
    /// allowed: their answers would not pass otherwise.
    fn track(&self, chains: &mut Chains<A>, numbers: &mut impl Numbering) {
        let all = A::Prefix::ALL;
        let drops = |policy: &Policy<A::Wire>| policy.action == action::DROP;
        let with_drops = chains.0.iter().filter(|(_, chain)| chain.iter().any(drops));
        let sides: Vec<Sides> = with_drops.map(|(sides, _)| *sides).collect();
        for (from, to) in sides {
            let mut networks = self.config.networks.iter().zip(&self.networks);
            let network = networks.find(|(_, number)| **number == from || **number == to);
            let saying = Saying {
                rule: network.map_or(NO_RULE, |(network, _)| numbers.default_of(&network.name)),
                order: TRACKED,
                action: action::ACCEPT,
            };
            chains.add((to, all), (from, all), EVERYTHING, saying);
        }
    }
}

fn protocol_number<A: WireFamily>(protocol: &ForwardProtocol) -> u8 {
    match protocol {
        ForwardProtocol::Tcp => TCP,
        ForwardProtocol::Udp => UDP,
        ForwardProtocol::Icmp => A::ICMP,
        ForwardProtocol::All => ANY_PROTOCOL,
    }
}

/// Protocol and port of a service of the host.
fn wire_services<A: WireFamily>(service: &HostService) -> Vec<Service> {
    let port = |protocol, port| Service {
        protocol,
        ports: PortRange {
            first: port,
            last: port,
        },
    };
    match service {
        HostService::Dhcp => vec![port(UDP, A::DHCP)],
        HostService::Dns => vec![port(UDP, 53), port(TCP, 53)],
        HostService::Ping => vec![Service {
            protocol: A::ICMP,
            ports: ALL_PORTS,
        }],
        HostService::Port(protocol, number) => vec![port(protocol_number::<A>(protocol), *number)],
    }
}
