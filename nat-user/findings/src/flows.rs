//! The flows of a configuration as netfilter sees them: with inside addresses, in both directions.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nat_config::model::{
    Action, Address, Config, ForwardProtocol, ForwardRule, Network, PortRange, PrefixRule, Route,
    SnatRule, SnatSource, Uplink, UplinkAddresses, UplinkId,
};

use crate::{fits::Flow, rules::State};

pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;
/// The same in ICMPv6.
const ECHO_REQUEST6: u8 = 128;
const ECHO_REPLY6: u8 = 129;

/// An address in the internet, for flows without a particular remote.
pub(super) const REMOTE: Ipv4Addr = Ipv4Addr::new(20, 0, 0, 1);
/// The same for IPv6.
pub(super) const REMOTE6: Ipv6Addr = Ipv6Addr::new(0x2600, 0, 0, 0, 0, 0, 0, 1);

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
    pub(super) guests: IpNet,
    pub(super) protocols: Vec<u8>,
    /// Of the guest, and outside; none are all of them.
    pub(super) ports: Vec<(PortRange, PortRange)>,
    /// The destination of connections from outside.
    pub(super) external: Vec<IpAddr>,
}

/// All connections of IPv4 for which a configuration has rules. `own` returns the addresses of an
/// interface.
pub(super) fn ways<'a>(config: &'a Config, own: &dyn Fn(&str) -> Vec<Ipv4Addr>) -> Vec<Way<'a>> {
    let mut ways = Vec::new();
    for rule in &config.snat {
        let guests = match rule.source {
            SnatSource::Network(id) => {
                let network = config.networks.get(id.0);
                network.and_then(|network| network.address.map(|own| own.trunc()))
            }
            SnatSource::Prefix(prefix) => Some(prefix),
        };
        let guests = guests.into_iter().map(IpNet::from);
        ways.extend(guests.filter_map(|guests| leaving(config, rule, guests)));
    }
    let forwards = config.forwards.iter();
    ways.extend(forwards.filter_map(|rule| {
        let uplink = uplink(config, rule.uplink)?;
        forward(config, rule, (uplink, &uplink.addresses), own)
    }));
    for route in &config.routes {
        let guests = route.addresses.iter().map(|prefix| IpNet::from(*prefix));
        ways.extend(routed(config, route, guests));
    }
    for rule in &config.nats {
        let (Some(to), Some(uplink)) = (rule.to.now(), uplink(config, rule.uplink)) else {
            continue;
        };
        let guests = IpNet::from(IpAddr::from(to));
        let Some(network) = network_of(config, guests) else {
            continue;
        };
        for direction in [Direction::Out, Direction::In] {
            let name = format!("[[nat]] \"{}\"", rule.name);
            ways.push(Way {
                external: vec![rule.address.into()],
                ..Way::new(direction, name, (network, uplink), guests)
            });
        }
    }
    ways
}

/// The same for IPv6, and the connections of public addresses, which need no rule.
pub(super) fn ways6<'a>(config: &'a Config, own: &dyn Fn(&str) -> Vec<Ipv6Addr>) -> Vec<Way<'a>> {
    let Some(ipv6) = &config.ipv6 else {
        return Vec::new();
    };
    let mut ways = Vec::new();
    for rule in &ipv6.snat {
        let guests: Vec<Ipv6Net> = match rule.source {
            SnatSource::Network(id) => {
                let network = config.networks.get(id.0).into_iter();
                network.flat_map(Network::unique_local).collect()
            }
            SnatSource::Prefix(prefix) => vec![prefix],
        };
        let guests = guests.into_iter().map(IpNet::from);
        ways.extend(guests.filter_map(|guests| leaving(config, rule, guests)));
    }
    ways.extend(ipv6.forwards.iter().filter_map(|rule| {
        let uplink = uplink(config, rule.uplink)?;
        forward(config, rule, (uplink, &uplink.addresses6), own)
    }));
    for route in &config.routes {
        let guests = route.addresses6.iter().map(|prefix| IpNet::from(*prefix));
        ways.extend(routed(config, route, guests));
    }
    ways.extend(ipv6.prefixes.iter().flat_map(|rule| prefix(config, rule)));
    ways.extend(
        config
            .networks
            .iter()
            .flat_map(|network| public(config, network)),
    );
    ways
}

/// Connections whose source a rule translates.
fn leaving<'a, A: Address>(
    config: &'a Config,
    rule: &SnatRule<A>,
    guests: IpNet,
) -> Option<Way<'a>> {
    let network = match rule.source {
        SnatSource::Network(id) => config.networks.get(id.0)?,
        SnatSource::Prefix(_) => network_of(config, guests)?,
    };
    let ends = (network, uplink(config, rule.uplink)?);
    let name = format!("[[snat]] \"{}\"", rule.name);
    Some(Way::new(Direction::Out, name, ends, guests))
}

/// Both directions for the prefixes of a route. (Nothing is translated, so there is no external
/// address.)
fn routed<'a>(
    config: &'a Config,
    route: &Route,
    prefixes: impl Iterator<Item = IpNet>,
) -> Vec<Way<'a>> {
    let (Some(network), Some(uplink)) = (
        config.networks.get(route.network.0),
        uplink(config, route.uplink),
    ) else {
        return Vec::new();
    };
    let way = |direction, guests: IpNet| {
        let rule = format!("[[route]] \"{}\"", route.name);
        Way::new(direction, rule, (network, uplink), guests)
    };
    let ways =
        prefixes.flat_map(|guests| [way(Direction::Out, guests), way(Direction::In, guests)]);
    ways.collect()
}

/// Both directions for the networks with addresses of a translated prefix.
fn prefix<'a>(config: &'a Config, rule: &PrefixRule) -> Vec<Way<'a>> {
    let Some(uplink) = uplink(config, rule.uplink) else {
        return Vec::new();
    };
    let internal = IpNet::from(rule.internal);
    let mut ways = Vec::new();
    for network in &config.networks {
        let guests = prefixes(network).find_map(|own| match own {
            own if own.contains(&internal) => Some(internal),
            own => internal.contains(&own).then_some(own),
        });
        let name = || format!("[[nat]] \"{}\"", rule.name);
        for direction in [Direction::Out, Direction::In] {
            ways.extend(
                guests.map(|guests| Way::new(direction, name(), (network, uplink), guests)),
            );
        }
    }
    ways
}

/// What guests with public addresses of a network open, and what is opened to them if the network
/// lets everything in. It is unknown by which of several uplinks.
fn public<'a>(config: &'a Config, network: &'a Network) -> Vec<Way<'a>> {
    let uplink = match (network.ndp, config.uplinks.as_slice()) {
        (Some(id), _) => uplink(config, id),
        (None, [uplink]) => Some(uplink),
        (None, _) => None,
    };
    let Some(uplink) = uplink.filter(|_| network.policy == Action::Accept) else {
        return Vec::new();
    };
    let directions: &[Direction] = match network.inbound.ipv6 {
        Action::Accept => &[Direction::Out, Direction::In],
        Action::Drop => &[Direction::Out],
    };
    let public = network.addresses6.iter();
    let public = public.filter(|own| !own.addr().is_unique_local());
    let ways = public.flat_map(|own| {
        let way = |direction: &Direction| {
            let name = format!("[network.{}]", network.name);
            Way::new(*direction, name, (network, uplink), own.trunc().into())
        };
        directions.iter().map(way)
    });
    ways.collect()
}

fn forward<'a, A: Address + Into<IpAddr>>(
    config: &'a Config,
    rule: &ForwardRule<A>,
    (uplink, addresses): (&'a Uplink, &UplinkAddresses<A>),
    own: &dyn Fn(&str) -> Vec<A>,
) -> Option<Way<'a>> {
    let guests = IpNet::from(rule.to.now()?.into());
    let external = match (&rule.address, addresses) {
        (Some(address), _) => vec![*address],
        (None, UplinkAddresses::Fixed(addresses)) => addresses.clone(),
        (None, UplinkAddresses::Interface) => own(&uplink.interface),
    };
    let protocols = rule.matches.protocols.iter();
    let protocols = protocols.flat_map(|one| numbers(*one, guests));
    let ports = rule.matches.ports.iter().take(RANGES_MAX);
    let name = format!("[[forward]] \"{}\"", rule.name);
    let ends = (network_of(config, guests)?, uplink);
    Some(Way {
        protocols: protocols.copied().collect(),
        ports: ports.map(|one| (one.internal, one.external)).collect(),
        external: external.into_iter().map(Into::into).collect(),
        ..Way::new(Direction::In, name, ends, guests)
    })
}

/// The numbers of a protocol between guests of this family.
fn numbers(protocol: ForwardProtocol, guests: IpNet) -> &'static [u8] {
    match (protocol, guests) {
        (ForwardProtocol::Tcp, _) => &[TCP],
        (ForwardProtocol::Udp, _) => &[UDP],
        (ForwardProtocol::Icmp, IpNet::V4(_)) => &[ICMP],
        (ForwardProtocol::Icmp, IpNet::V6(_)) => &[ICMPV6],
        (ForwardProtocol::All, _) => &[TCP, UDP],
    }
}

fn uplink(config: &Config, id: UplinkId) -> Option<&Uplink> {
    config.uplinks.get(id.0)
}

/// The network that a guest is in. The configuration does not say behind which interface guests are
/// that other software routes.
fn network_of(config: &Config, guests: IpNet) -> Option<&Network> {
    let is_in = |network: &&Network| prefixes(network).any(|own| own.contains(&guests));
    let is_routed = |route: &&Route| {
        let ipv4 = route.addresses.iter().copied().map(IpNet::from);
        let ipv6 = route.addresses6.iter().copied().map(IpNet::from);
        ipv4.chain(ipv6).any(|prefix| prefix.contains(&guests))
    };
    config.networks.iter().find(is_in).or_else(|| {
        let route = config.routes.iter().find(is_routed)?;
        config.networks.get(route.network.0)
    })
}

/// The prefixes of a network.
fn prefixes(network: &Network) -> impl Iterator<Item = IpNet> {
    let ipv4 = network.address.iter().map(|own| IpNet::from(own.trunc()));
    let ipv6 = network.addresses6.iter();
    ipv4.chain(ipv6.map(|own| IpNet::from(own.trunc())))
}

/// The prefix of a network in which guests are, or another one of their family.
pub(super) fn inside_of(network: &Network, guests: IpNet) -> Option<IpNet> {
    let is_ipv4 = |prefix: &IpNet| matches!(prefix, IpNet::V4(_));
    let family = || prefixes(network).filter(|own| is_ipv4(own) == is_ipv4(&guests));
    let own = family().find(|own| own.contains(&guests));
    own.or_else(|| family().next())
}

impl<'a> Way<'a> {
    /// Connections of TCP and UDP by all ports.
    fn new(
        direction: Direction,
        rule: String,
        (network, uplink): (&'a Network, &'a Uplink),
        guests: IpNet,
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
        let (anywhere, request, reply): (IpNet, _, _) = match self.guests {
            IpNet::V4(_) => (Ipv4Net::default().into(), ECHO_REQUEST, ECHO_REPLY),
            IpNet::V6(_) => (Ipv6Net::default().into(), ECHO_REQUEST6, ECHO_REPLY6),
        };
        let flow = |protocol: u8, ports: Option<(u16, u16)>| Flow {
            input: if goes_out { inside } else { outside },
            output: if goes_out { outside } else { inside },
            source: if goes_out { self.guests } else { anywhere },
            destination: if goes_out { anywhere } else { self.guests },
            inside: inside_of(self.network, self.guests).unwrap_or(self.guests),
            protocol,
            from_ports: ports.filter(|_| goes_out),
            to_ports: ports.filter(|_| !goes_out),
            icmp_type: if is_answer { reply } else { request },
            state,
            is_to_host: false,
            has_no_way_back: false,
        };
        let mut flows = Vec::new();
        for &protocol in &self.protocols {
            match self.ports.as_slice() {
                ports if ![ICMP, ICMPV6].contains(&protocol) && !ports.is_empty() => flows.extend(
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
