//! The flows of a configuration as netfilter sees them: with inside addresses, in both directions.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use nat_config::model::{
    Config, ForwardProtocol, ForwardRule, Network, PortRange, Route, SnatSource, Uplink,
    UplinkAddresses, UplinkId,
};

use crate::{fits::Flow, rules::State};

pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;

/// An address in the internet, for flows without a particular remote.
pub(super) const REMOTE: Ipv4Addr = Ipv4Addr::new(20, 0, 0, 1);

/// How many port ranges of one rule are checked: on a maintained host, the others have the same
/// outcome.
const RANGES_MAX: usize = 16;

/// The side that opens a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Direction {
    /// Guests.
    Out,
    /// A remote outside.
    In,
}

/// Connections of one rule of the configuration, through one network and one uplink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Way<'a> {
    pub(super) direction: Direction,
    /// As the configuration names it: `[[forward]] "web"`.
    pub(super) rule: String,
    pub(super) network: &'a Network,
    pub(super) uplink: &'a Uplink,
    pub(super) guests: Ipv4Net,
    pub(super) protocols: Vec<u8>,
    /// Of the guest, and outside; none are all of them.
    pub(super) ports: Vec<(PortRange, PortRange)>,
    /// The destination of connections from outside.
    pub(super) external: Vec<Ipv4Addr>,
}

/// All connections for which a configuration has rules. `own` returns the addresses of an
/// interface.
pub(super) fn ways<'a>(config: &'a Config, own: &dyn Fn(&str) -> Vec<Ipv4Addr>) -> Vec<Way<'a>> {
    let mut ways = Vec::new();
    for rule in &config.snat {
        let (network, guests) = match rule.source {
            SnatSource::Network(id) => {
                let network = config.networks.get(id.0);
                (network, network.and_then(inside_of))
            }
            SnatSource::Prefix(prefix) => (network_of(config, prefix), Some(prefix)),
        };
        if let (Some(network), Some(guests), Some(uplink)) =
            (network, guests, uplink(config, rule.uplink))
        {
            let rule = format!("[[snat]] \"{}\"", rule.name);
            ways.push(Way::new(Direction::Out, rule, (network, uplink), guests));
        }
    }
    ways.extend((config.forwards.iter()).filter_map(|rule| forward(config, rule, own)));
    for route in &config.routes {
        ways.extend(routed(config, route));
    }
    for rule in &config.nats {
        let (Some(to), Some(uplink)) = (rule.to.now(), uplink(config, rule.uplink)) else {
            continue;
        };
        let guests = Ipv4Net::from(to);
        let Some(network) = network_of(config, guests) else {
            continue;
        };
        for direction in [Direction::Out, Direction::In] {
            let name = format!("[[nat]] \"{}\"", rule.name);
            ways.push(Way {
                external: vec![rule.address],
                ..Way::new(direction, name, (network, uplink), guests)
            });
        }
    }
    ways
}

/// Both directions for all addresses of a route. (Nothing is translated, so there is no external
/// one.)
fn routed<'a>(config: &'a Config, route: &Route) -> Vec<Way<'a>> {
    let (Some(network), Some(uplink)) = (
        config.networks.get(route.network.0),
        uplink(config, route.uplink),
    ) else {
        return Vec::new();
    };
    let way = |direction, guests: Ipv4Net| {
        let rule = format!("[[route]] \"{}\"", route.name);
        Way::new(direction, rule, (network, uplink), guests)
    };
    let prefixes = route.addresses.iter().copied();
    let ways =
        prefixes.flat_map(|guests| [way(Direction::Out, guests), way(Direction::In, guests)]);
    ways.collect()
}

fn forward<'a>(
    config: &'a Config,
    rule: &ForwardRule,
    own: &dyn Fn(&str) -> Vec<Ipv4Addr>,
) -> Option<Way<'a>> {
    let guests = Ipv4Net::from(rule.to.now()?);
    let uplink = uplink(config, rule.uplink)?;
    let external = match (&rule.address, &uplink.addresses) {
        (Some(address), _) => vec![*address],
        (None, UplinkAddresses::Fixed(addresses)) => addresses.clone(),
        (None, UplinkAddresses::Interface) => own(&uplink.interface),
    };
    let protocols = rule.matches.protocols.iter();
    let ports = rule.matches.ports.iter().take(RANGES_MAX);
    let name = format!("[[forward]] \"{}\"", rule.name);
    let ends = (network_of(config, guests)?, uplink);
    Some(Way {
        protocols: protocols.flat_map(|one| numbers(*one)).copied().collect(),
        ports: ports.map(|one| (one.internal, one.external)).collect(),
        external,
        ..Way::new(Direction::In, name, ends, guests)
    })
}

fn numbers(protocol: ForwardProtocol) -> &'static [u8] {
    match protocol {
        ForwardProtocol::Tcp => &[TCP],
        ForwardProtocol::Udp => &[UDP],
        ForwardProtocol::Icmp => &[ICMP],
        ForwardProtocol::All => &[TCP, UDP],
    }
}

fn uplink(config: &Config, id: UplinkId) -> Option<&Uplink> {
    config.uplinks.get(id.0)
}

/// The network that a guest is in. The configuration does not say behind which interface guests are
/// that other software routes.
fn network_of(config: &Config, guests: Ipv4Net) -> Option<&Network> {
    let is_in = |network: &&Network| inside_of(network).is_some_and(|own| own.contains(&guests));
    let is_routed = |route: &&Route| {
        route
            .addresses
            .iter()
            .any(|prefix| prefix.contains(&guests))
    };
    config.networks.iter().find(is_in).or_else(|| {
        let route = config.routes.iter().find(is_routed)?;
        config.networks.get(route.network.0)
    })
}

/// The prefix of a network; `None` if it has IPv6 alone.
pub(super) fn inside_of(network: &Network) -> Option<Ipv4Net> {
    network.address.map(|own| own.trunc())
}

fn anywhere() -> Ipv4Net {
    Ipv4Net::default()
}

impl<'a> Way<'a> {
    /// Connections of TCP and UDP by all ports.
    fn new(
        direction: Direction,
        rule: String,
        (network, uplink): (&'a Network, &'a Uplink),
        guests: Ipv4Net,
    ) -> Self {
        Self {
            direction,
            rule,
            network,
            uplink,
            guests,
            protocols: vec![TCP, UDP],
            ports: Vec::new(),
            external: Vec::new(),
        }
    }

    /// The packets that open connections, after natbpf has translated their destination and before
    /// it translates their source: as the FORWARD chains see them.
    pub(super) fn openings(&self) -> Vec<Flow<'_>> {
        self.flows(State::New)
    }

    /// The packets that answer them.
    pub(super) fn answers(&self) -> Vec<Flow<'_>> {
        self.flows(State::Established)
    }

    fn flows(&self, state: State) -> Vec<Flow<'_>> {
        let is_answer = state == State::Established;
        let (inside, outside) = (&self.network.interface, &self.uplink.interface);
        // Whether it goes from the guests to the outside.
        let goes_out = (self.direction == Direction::Out) != is_answer;
        let flow = |protocol: u8, ports: Option<(u16, u16)>| Flow {
            input: if goes_out { inside } else { outside },
            output: if goes_out { outside } else { inside },
            source: if goes_out { self.guests } else { anywhere() },
            destination: if goes_out { anywhere() } else { self.guests },
            inside: inside_of(self.network).unwrap_or(self.guests),
            protocol,
            from_ports: ports.filter(|_| goes_out),
            to_ports: ports.filter(|_| !goes_out),
            icmp_type: if is_answer { ECHO_REPLY } else { ECHO_REQUEST },
            state,
            is_to_host: false,
            has_no_way_back: false,
        };
        let mut flows = Vec::new();
        for &protocol in &self.protocols {
            match self.ports.as_slice() {
                ports if protocol != ICMP && !ports.is_empty() => flows.extend(
                    (ports.iter()).map(|(own, _)| flow(protocol, Some((own.first, own.last)))),
                ),
                _ => flows.push(flow(protocol, None)),
            }
        }
        flows
    }

    /// The packets that open connections as they come from outside, not translated yet.
    pub(super) fn untranslated(&self) -> Vec<Flow<'_>> {
        let outer = |own: (u16, u16)| {
            let of_own = |(inner, _): &&(PortRange, PortRange)| (inner.first, inner.last) == own;
            let ports = self.ports.iter().find(of_own);
            ports.map(|(_, outer)| (outer.first, outer.last))
        };
        let mut flows = Vec::new();
        for flow in self.openings() {
            flows.extend(self.external.iter().map(|address| Flow {
                output: "",
                destination: (*address).into(),
                to_ports: flow.to_ports.and_then(outer),
                is_to_host: true,
                ..flow.clone()
            }));
        }
        flows
    }
}
