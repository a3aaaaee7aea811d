//! The rule compiler: from a configuration to the entries of the rule tables.
//!
//! The order of the rules is resolved here, once, so that a packet costs the same with one rule and
//! with a hundred thousand: each port of each address belongs to at most one forward rule, and each
//! source prefix to one source translation rule. Ranges of ports are cut into prefixes, which the
//! tables match by the longest.
//!
//! Input and output are plain values. The compiler does not access the kernel.

mod in_order;
mod policy;
mod route;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::Ipv4Addr,
};

use ipnet::Ipv4Net;
use nat_common::{
    tables::{
        addresses::ExternalAddress,
        excludes::ExcludeKey4,
        forward_sources::{FORWARD_SOURCE_FIXED_BITS, ForwardSource4, ForwardSourceKey4},
        forwards::{FORWARD_FIXED_BITS, Forward4, ForwardKey4, OTHER_PROTOCOLS, forward_flags},
        inside::{INSIDE_FIXED_BITS, Inside4, InsideKey4, inside_flags},
        policies::{Chain, Policy4, Side},
        snats::{self, SNAT_FIXED_BITS, Snat4, SnatKey4},
    },
    wire::{
        address::{Addr4, Port},
        protocol::{ICMP, TCP, UDP},
    },
};

pub use self::in_order::InOrder;
use crate::model::{
    Config, FilteringBehaviour, ForwardProtocol, ForwardRule, MappingBehaviour, NatRule, NetworkId,
    PortForward, PortRange, SnatRule, SnatSource, SnatTarget, Uplink, UplinkAddresses, UplinkId,
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

/// What the configuration leaves to the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// The own addresses of each uplink's interface, in the kernel's order, by [`UplinkId`].
    pub uplink_addresses: Vec<Vec<Ipv4Addr>>,
    /// All addresses that the host holds on any interface.
    pub host_addresses: HashSet<Ipv4Addr>,
    /// From which addresses each uplink's destinations are reached, by [`UplinkId`].
    pub sources: Vec<Sources>,
    /// The networks behind which the host's routes place single addresses, `None` if behind none of
    /// them. The routes say nothing about missing addresses.
    pub places: HashMap<Ipv4Addr, Option<NetworkId>>,
    /// External addresses for which the programs do not answer ARP: another host has them, or may
    /// have them.
    pub silent: BTreeSet<Ipv4Addr>,
}

/// From which addresses an uplink's destinations are reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// The one for most of them.
    pub first: Option<Ipv4Addr>,
    /// The exceptions, by longest prefix.
    pub others: Vec<(Ipv4Net, Ipv4Addr)>,
}

/// Addresses that are inside addresses if they are behind a network (RFC 1918, RFC 6598): a rule
/// that hides the network hides them, unless another rule does.
const PRIVATE: [(Ipv4Addr, u8); 4] = [
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
];

/// The numbers that the data plane uses for the names of the configuration.
pub trait Numbering {
    /// An uplink's number, from 1.
    fn uplink(&mut self, name: &str) -> u16;
    /// A network's number, from 1.
    fn network(&mut self, name: &str) -> u16;
    /// The number of a `[[snat]]` rule, from 1.
    fn snat(&mut self, name: &str) -> u32;
    /// The number of a `[[forward]]` rule, from 1.
    fn forward(&mut self, name: &str) -> u32;
    /// The number of a `[[nat]]` rule, from 1.
    fn nat(&mut self, name: &str) -> u32;
    /// The number of a `[[policy]]`, from 1.
    fn policy(&mut self, name: &str) -> u32;
    /// The number of a network's default policy, from 1.
    fn default_of(&mut self, network: &str) -> u32;
}

/// A key of a longest-prefix match and the number of its bits that count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix<K> {
    /// How many bits count.
    pub bits: u32,
    /// The key; its generation is set when it is written.
    pub key: K,
}

/// The entries of all rule tables, without their generation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// `FORWARDS`.
    pub forwards: Vec<(Prefix<ForwardKey4>, Forward4)>,
    /// `FORWARD_SOURCES`.
    pub forward_sources: Vec<(Prefix<ForwardSourceKey4>, ForwardSource4)>,
    /// `SNATS`.
    pub snats: Vec<(Prefix<SnatKey4>, Snat4)>,
    /// `EXCLUDES`.
    pub excludes: Vec<Prefix<ExcludeKey4>>,
    /// `ADDRESSES`.
    pub addresses: Vec<(Addr4, ExternalAddress)>,
    /// `INSIDE`.
    pub inside: Vec<(Prefix<InsideKey4>, Inside4)>,
    /// `CHAINS`: runs of the policies that follow.
    pub chains: Vec<((Side, Side), Chain)>,
    /// `POLICIES`.
    pub policies: Vec<Policy4>,
    /// What 127.0.0.1 stands for, if the host itself has access to any forward.
    pub own: Option<Vec<Addr4>>,
}

/// Compiles a configuration.
pub fn compile(
    config: &Config,
    environment: &Environment,
    numbers: &mut impl Numbering,
) -> Ruleset {
    let mut compiler = Compiler::new(config, environment, numbers);
    compiler.addresses();
    compiler.inside();
    compiler.forwards(numbers);
    compiler.forward_sources();
    compiler.own();
    compiler.snats(numbers);
    compiler.policies(numbers);
    compiler.ruleset
}

/// An IPv4 address in wire order.
#[must_use]
pub fn wire(address: Ipv4Addr) -> Addr4 {
    Addr4(address.octets())
}

/// Where a rule sends packets.
#[derive(Clone, Copy)]
struct Target {
    to: Ipv4Addr,
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
struct Place<'t> {
    protocol: u8,
    address: Ipv4Addr,
    reserved: BTreeSet<u16>,
    taken: &'t mut Taken,
}

/// A range of external ports that one rule has.
struct ForwardedRange {
    uplink: u16,
    protocol: u8,
    address: Ipv4Addr,
    external: PortRange,
    entry: Forward4,
}

impl ForwardedRange {
    /// The guest's ports; one if all go to one.
    fn internal(&self) -> PortRange {
        let internal = |port| self.entry.internal_port(Port::new(port)).number();
        PortRange {
            first: internal(self.external.first),
            last: internal(self.external.last),
        }
    }

    fn source_key(&self, port: u16) -> ForwardSourceKey4 {
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

    fn source(&self) -> ForwardSource4 {
        ForwardSource4 {
            address: wire(self.address),
            first_internal: self.internal().first,
            first_external: self.external.first,
        }
    }
}

struct Compiler<'a> {
    config: &'a Config,
    environment: &'a Environment,
    uplinks: Vec<u16>,
    networks: Vec<u16>,
    /// The forwards, for the reverse direction.
    ranges: Vec<ForwardedRange>,
    ruleset: Ruleset,
}

impl<'a> Compiler<'a> {
    fn new(config: &'a Config, environment: &'a Environment, numbers: &mut impl Numbering) -> Self {
        Self {
            config,
            environment,
            uplinks: config
                .uplinks
                .iter()
                .map(|uplink| numbers.uplink(&uplink.name))
                .collect(),
            networks: config
                .networks
                .iter()
                .map(|net| numbers.network(&net.name))
                .collect(),
            ranges: Vec::new(),
            ruleset: Ruleset::default(),
        }
    }

    fn uplink_addresses(&self, id: UplinkId) -> &'a [Ipv4Addr] {
        match &self.config.uplinks[id.0].addresses {
            UplinkAddresses::Fixed(addresses) => addresses,
            UplinkAddresses::Interface => self
                .environment
                .uplink_addresses
                .get(id.0)
                .map_or(&[], Vec::as_slice),
        }
    }

    /// The uplinks' addresses, and all others that rules name.
    fn addresses(&mut self) {
        let mut seen = BTreeMap::new();
        for (id, _) in self.config.uplinks.iter().enumerate() {
            for address in self.uplink_addresses(UplinkId(id)) {
                seen.entry(*address).or_insert(id);
            }
        }
        // (A guest without a lease has no entry yet.)
        let named = self.config.named_addresses();
        for named in named.filter(|named| named.guest.is_none_or(|guest| guest.now().is_some())) {
            for address in named.addresses() {
                seen.entry(address).or_insert(named.uplink.0);
            }
        }
        for (address, uplink) in seen {
            let is_host = self.environment.host_addresses.contains(&address);
            let external = ExternalAddress {
                uplink: self.uplinks[uplink],
                is_host: is_host.into(),
                is_silent: self.environment.silent.contains(&address).into(),
            };
            self.ruleset.addresses.push((wire(address), external));
        }
    }

    /// The networks' prefixes, single guests, and prefixes that only a rule names. A prefix that
    /// holds an external address of the host's (`0.0.0.0/0`, say) does not make its addresses
    /// inside addresses.
    fn inside(&mut self) {
        let mut prefixes = BTreeMap::new();
        for rule in &self.config.snat {
            if let SnatSource::Prefix(prefix) = rule.source
                && !self.holds_external_address(prefix)
            {
                prefixes.insert(prefix.trunc(), self.place_of(prefix));
            }
        }
        for (prefix, route) in self.routed() {
            prefixes.insert(prefix, self.place_of_network(route.network));
        }
        for to in self.config.nats.iter().filter_map(|rule| rule.to.now()) {
            let guest = to.into();
            prefixes.insert(guest, self.place_of(guest));
        }
        for network in &self.config.networks {
            let prefix = network.address.trunc();
            prefixes.insert(prefix, self.place_of(prefix));
        }
        for to in self.config.forwards.iter().filter_map(|rule| rule.to.now()) {
            // Behind another interface than that of its prefix.
            if self.environment.places.contains_key(&to) {
                prefixes.insert(to.into(), self.place_of(to.into()));
            }
        }
        let guests = self.config.guests.iter();
        let guests =
            guests.filter_map(|guest| Some((Ipv4Net::from(guest.address.now()?), guest.mac)));
        let guests: Vec<(Ipv4Net, [u8; 6])> = guests.collect();
        for (prefix, _) in &guests {
            prefixes.remove(prefix);
        }
        for (prefix, (network, gateway)) in prefixes {
            self.push_inside(prefix, network, gateway, None);
        }
        for (prefix, mac) in guests {
            let (network, gateway) = self.place_of(prefix);
            self.push_inside(prefix, network, gateway, Some(mac));
        }
    }

    fn push_inside(
        &mut self,
        prefix: Ipv4Net,
        network: u16,
        gateway: Ipv4Addr,
        mac: Option<[u8; 6]>,
    ) {
        let key = InsideKey4 {
            generation: 0,
            reserved: [0; 2],
            address: wire(prefix.addr()),
        };
        let bits = INSIDE_FIXED_BITS + u32::from(prefix.prefix_len());
        let inside = Inside4 {
            network,
            flags: match mac {
                Some(_) => inside_flags::HAS_MAC,
                None if self.is_on_link(prefix) => inside_flags::ON_LINK,
                None => 0,
            },
            gateway: wire(gateway),
            mac: mac.unwrap_or_default(),
            reserved: [0; 2],
        };
        self.ruleset.inside.push((Prefix { bits, key }, inside));
    }

    /// Whether a prefix is of a network that keeps guests to their addresses.
    fn is_on_link(&self, prefix: Ipv4Net) -> bool {
        let mut networks = self.config.networks.iter();
        networks.any(|network| network.anti_spoof && network.address.contains(&prefix))
    }

    fn holds_external_address(&self, prefix: Ipv4Net) -> bool {
        let mut ids = (0..self.config.uplinks.len()).map(UplinkId);
        ids.any(|id| {
            self.uplink_addresses(id)
                .iter()
                .any(|address| prefix.contains(address))
        })
    }

    /// Number and gateway of the network behind which the host's routes place a prefix. If they say
    /// nothing: of the network that contains it, or to which it is routed. 0 if other software
    /// routes it.
    fn place_of(&self, prefix: Ipv4Net) -> (u16, Ipv4Addr) {
        if let Some(place) = self.environment.places.get(&prefix.addr()) {
            let none = (0, Ipv4Addr::UNSPECIFIED);
            return place.map_or(none, |network| self.place_of_network(network));
        }
        let mut networks = self.config.networks.iter().zip(&self.networks);
        networks
            .find(|(network, _)| network.address.contains(&prefix))
            .map(|(network, number)| (*number, network.address.addr()))
            .or_else(|| self.routed_place_of(prefix))
            .unwrap_or((0, Ipv4Addr::UNSPECIFIED))
    }

    /// The number of the network that an address is in, 0 if it is in none.
    fn network_of(&self, address: Ipv4Addr) -> u16 {
        self.place_of(address.into()).0
    }

    fn forwards(&mut self, numbers: &mut impl Numbering) {
        let mut taken: BTreeMap<(u8, Ipv4Addr), Taken> = BTreeMap::new();
        for forward in &self.config.forwards {
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
                for protocol in wire_protocols(&forward.matches.protocols) {
                    let taken = taken.entry((protocol, address)).or_default();
                    self.forward(forward, target, protocol, address, taken);
                }
            }
        }
        // The ports that earlier rules have of such an address are exceptions.
        for nat in &self.config.nats {
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
            for protocol in [TCP, UDP, ICMP, OTHER_PROTOCOLS] {
                let taken = taken.entry((protocol, nat.address)).or_default();
                self.nat(nat, target, protocol, taken);
            }
        }
    }

    /// The uplinks' addresses, if a rule also serves the host.
    fn own(&mut self) {
        let mut forwards = self.ruleset.forwards.iter();
        if !forwards.any(|(_, forward)| forward.flags & forward_flags::LOCAL != 0) {
            return;
        }
        let mut own = Vec::new();
        for id in (0..self.config.uplinks.len()).map(UplinkId) {
            for address in self.uplink_addresses(id).iter().copied().map(wire) {
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
        forward: &ForwardRule,
        target: Target,
        protocol: u8,
        address: Ipv4Addr,
        taken: &mut Taken,
    ) {
        let all = [ALL_PORTS];
        // Ports apply only to tcp and udp; icmp queries are forwarded in any case.
        let (ports, whole) = match forward.matches.ports.as_slice() {
            ports if protocol != ICMP && !ports.is_empty() => (ports, false),
            _ => (all.as_slice(), true),
        };
        let target = Target { whole, ..target };
        let reserved = self.reserved_ports(&self.config.uplinks[forward.uplink.0], protocol, address);
        let place = Place {
            protocol,
            address,
            reserved,
            taken,
        };
        self.forward_ports(target, place, ports);
    }

    /// One protocol of a guest's own external address.
    fn nat(&mut self, nat: &NatRule, target: Target, protocol: u8, taken: &mut Taken) {
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
        held.any(|held| self.config.nats.iter().all(|nat| nat.address != *held))
    }

    fn forward_ports(&mut self, target: Target, place: Place<'_>, ports: &[PortForward]) {
        let Place {
            protocol,
            address,
            reserved,
            taken,
        } = place;
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
                        let bits = FORWARD_FIXED_BITS + bits;
                        self.ruleset.forwards.push((Prefix { bits, key }, entry));
                    }
                }
            }
        }
    }

    /// Packets of a forward's target from a forwarded port leave from the external port that leads
    /// there: of several, from the first; rules without ports come last.
    fn forward_sources(&mut self) {
        let (whole, named): (Vec<_>, Vec<_>) = std::mem::take(&mut self.ranges)
            .into_iter()
            .partition(|range| range.entry.flags & forward_flags::WHOLE != 0);
        let mut led_to: BTreeMap<(u16, u8, Addr4), Taken> = BTreeMap::new();
        for range in named.into_iter().chain(whole) {
            let to = (range.uplink, range.protocol, range.entry.to);
            for piece in led_to.entry(to).or_default().take(range.internal()) {
                for (port, bits) in prefixes(piece) {
                    let bits = FORWARD_SOURCE_FIXED_BITS + bits;
                    let key = range.source_key(port);
                    let source = (Prefix { bits, key }, range.source());
                    self.ruleset.forward_sources.push(source);
                }
            }
        }
    }

    fn forward_entry(&self, target: Target, ports: PortForward) -> Forward4 {
        let is_many_to_one = ports.internal.count() != ports.external.count();
        let mut flags = 0;
        if is_many_to_one {
            flags |= forward_flags::MANY_TO_ONE;
        }
        if target.hairpin {
            flags |= forward_flags::HAIRPIN;
        }
        if target.local {
            flags |= forward_flags::LOCAL;
        }
        if target.accepted {
            flags |= forward_flags::ACCEPTED;
        }
        if target.whole {
            flags |= forward_flags::WHOLE;
        }
        Forward4 {
            to: wire(target.to),
            rule: target.rule,
            network: self.network_of(target.to),
            first_external: ports.external.first,
            first_internal: ports.internal.first,
            flags,
            reserved: 0,
        }
    }

    /// Ports of the host's own address that no range and no `all` takes, in order.
    fn reserved_ports(&self, uplink: &Uplink, protocol: u8, address: Ipv4Addr) -> BTreeSet<u16> {
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

    fn snats(&mut self, numbers: &mut impl Numbering) {
        let config = self.config;
        let snat = config.snat.iter().map(|rule| numbers.snat(&rule.name));
        let rules: Vec<u32> = snat.collect();
        let nats = config.nats.iter().map(|rule| numbers.nat(&rule.name));
        let nats: Vec<u32> = nats.collect();
        for (rule, &number) in config.snat.iter().zip(&rules) {
            for prefix in &rule.exclude {
                let key = ExcludeKey4 {
                    rule: number,
                    generation: 0,
                    reserved: [0; 2],
                    destination: wire(prefix.network()),
                };
                let bits = SNAT_FIXED_BITS + u32::from(prefix.prefix_len());
                self.ruleset.excludes.push(Prefix { bits, key });
            }
        }
        for uplink in (0..self.config.uplinks.len()).map(UplinkId) {
            // A packet from no network is identified by its address alone.
            self.snats_of(uplink, None, &rules, &nats);
            self.sources_of(uplink);
            for network in (0..self.config.networks.len()).map(NetworkId) {
                self.snats_of(uplink, Some(network), &rules, &nats);
            }
        }
    }

    /// The rules for packets of one network that leave by one uplink.
    fn snats_of(
        &mut self,
        uplink: UplinkId,
        network: Option<NetworkId>,
        snat_numbers: &[u32],
        nat_numbers: &[u32],
    ) {
        let nats = self.config.nats.iter().zip(nat_numbers);
        // Before the others: a guest with its own address uses no other.
        let mut rules: Vec<(Ipv4Net, Snat4)> = nats
            .filter(|(rule, _)| rule.uplink == uplink)
            .filter_map(|(rule, &number)| Some((rule.to.now()?.into(), one_to_one(rule, number))))
            .collect();
        rules.extend(self.untranslated(network));
        let mut behind = Vec::new();
        for (rule, &number) in self.config.snat.iter().zip(snat_numbers) {
            if rule.uplink == uplink
                && network.is_some_and(|network| rule.source == SnatSource::Network(network))
            {
                let entry = self.snat_entry(rule, number);
                let private = PRIVATE.map(|(address, length)| Ipv4Net::new(address, length));
                behind.extend(private.into_iter().flatten().map(|prefix| (prefix, entry)));
            }
            let prefix = match rule.source {
                SnatSource::Prefix(prefix) => prefix.trunc(),
                SnatSource::Network(id) if network.is_none_or(|network| network == id) => {
                    self.config.networks[id.0].address.trunc()
                }
                SnatSource::Network(_) => continue,
            };
            if rule.uplink == uplink {
                rules.push((prefix, self.snat_entry(rule, number)));
            }
        }
        // After all that name a prefix.
        rules.extend(behind);
        let prefixes: BTreeSet<Ipv4Net> = rules.iter().map(|(prefix, _)| *prefix).collect();
        let number = network.map_or(0, |id| self.networks[id.0]);
        for prefix in prefixes {
            // The first rule that covers this prefix.
            let covering = rules
                .iter()
                .find(|(covering, _)| covering.contains(&prefix));
            if let Some((_, entry)) = covering {
                self.push_snat(uplink, number, prefix, *entry);
            }
        }
        if network.is_none() {
            self.spare_host(uplink, &rules);
        }
    }

    /// The host's own traffic is not a guest's, even where a rule's prefix holds its address.
    fn spare_host(&mut self, uplink: UplinkId, rules: &[(Ipv4Net, Snat4)]) {
        for &address in self.uplink_addresses(uplink) {
            let host = Ipv4Net::from(address);
            if rules.iter().any(|(prefix, _)| prefix.contains(&host)) {
                let entry = Snat4 {
                    mapping: snats::mapping::NONE,
                    ..rules[0].1
                };
                self.push_snat(uplink, 0, host, entry);
            }
        }
    }

    fn push_snat(&mut self, uplink: UplinkId, network: u16, prefix: Ipv4Net, entry: Snat4) {
        let key = SnatKey4 {
            generation: 0,
            uplink: self.uplinks[uplink.0],
            network,
            reserved: [0; 2],
            source: wire(prefix.addr()),
        };
        let bits = SNAT_FIXED_BITS + u32::from(prefix.prefix_len());
        self.ruleset.snats.push((Prefix { bits, key }, entry));
    }

    /// Masquerade whose address depends on the destination.
    fn sources_of(&mut self, uplink: UplinkId) {
        let is_masquerade =
            |rule: &&SnatRule| rule.uplink == uplink && rule.to == SnatTarget::Masquerade;
        let sources = self.environment.sources.get(uplink.0);
        let Some(sources) =
            sources.filter(|_| self.config.snat.iter().any(|rule| is_masquerade(&rule)))
        else {
            return;
        };
        for (prefix, address) in &sources.others {
            let entry = Snat4 {
                first: wire(*address),
                last: wire(*address),
                ..route::as_it_is()
            };
            self.push_snat(uplink, snats::BY_DESTINATION, *prefix, entry);
        }
    }

    fn snat_entry(&self, rule: &SnatRule, number: u32) -> Snat4 {
        let sources = self.environment.sources.get(rule.uplink.0);
        let (first, last) = match rule.to {
            SnatTarget::Pool { first, last } => (first, last),
            SnatTarget::Masquerade => {
                let first = sources.and_then(|sources| sources.first);
                let first = first.or_else(|| self.uplink_addresses(rule.uplink).first().copied());
                let address = first.unwrap_or(Ipv4Addr::UNSPECIFIED);
                (address, address)
            }
        };
        let is_masquerade = rule.to == SnatTarget::Masquerade;
        let has_others = sources.is_some_and(|sources| !sources.others.is_empty());
        Snat4 {
            first: wire(first),
            last: wire(last),
            rule: number,
            first_port: rule.ports.first,
            last_port: rule.ports.last,
            mapping: match rule.mapping {
                MappingBehaviour::EndpointIndependent => snats::mapping::ENDPOINT_INDEPENDENT,
                MappingBehaviour::AddressAndPortDependent => {
                    snats::mapping::ADDRESS_AND_PORT_DEPENDENT
                }
            },
            filtering: match rule.filtering {
                FilteringBehaviour::EndpointIndependent => snats::filtering::ENDPOINT_INDEPENDENT,
                FilteringBehaviour::AddressDependent => snats::filtering::ADDRESS_DEPENDENT,
                FilteringBehaviour::AddressAndPortDependent => {
                    snats::filtering::ADDRESS_AND_PORT_DEPENDENT
                }
            },
            has_excludes: (!rule.exclude.is_empty()).into(),
            by_destination: (is_masquerade && has_others).into(),
        }
    }
}

/// The source translation of a guest with an external address of its own.
fn one_to_one(rule: &NatRule, number: u32) -> Snat4 {
    Snat4 {
        first: wire(rule.address),
        last: wire(rule.address),
        rule: number,
        first_port: 1,
        last_port: u16::MAX,
        mapping: snats::mapping::ONE_TO_ONE,
        filtering: snats::filtering::ENDPOINT_INDEPENDENT,
        has_excludes: 0,
        by_destination: 0,
    }
}

/// The protocol numbers in the table for a rule's protocols.
fn wire_protocols(protocols: &[ForwardProtocol]) -> BTreeSet<u8> {
    let mut numbers = BTreeSet::new();
    for protocol in protocols {
        match protocol {
            ForwardProtocol::Tcp => numbers.extend([TCP]),
            ForwardProtocol::Udp => numbers.extend([UDP]),
            ForwardProtocol::Icmp => numbers.extend([ICMP]),
            ForwardProtocol::All => numbers.extend([TCP, UDP, ICMP, OTHER_PROTOCOLS]),
        }
    }
    numbers
}

fn forward_key(protocol: u8, address: Ipv4Addr, port: u16) -> ForwardKey4 {
    ForwardKey4 {
        generation: 0,
        protocol,
        reserved: 0,
        address: wire(address),
        port: Port::new(port),
        padding: [0; 2],
    }
}

/// The ports of one address and protocol that earlier rules have, as ranges that do not touch.
#[derive(Debug, Default)]
struct Taken {
    /// First port to last port.
    ranges: BTreeMap<u16, u16>,
}

impl Taken {
    /// Takes a range and returns its parts that were free.
    fn take(&mut self, range: PortRange) -> Vec<PortRange> {
        let mut free = Vec::new();
        let mut next = u32::from(range.first);
        let before = self
            .ranges
            .range(..range.first)
            .next_back()
            .map(|(&first, _)| first);
        let start = before.unwrap_or(range.first);
        for (&first, &last) in self.ranges.range(start..=range.last) {
            if u32::from(first) > next {
                free.push(PortRange {
                    first: next as u16,
                    last: first - 1,
                });
            }
            next = next.max(u32::from(last) + 1);
        }
        if next <= u32::from(range.last) {
            free.push(PortRange {
                first: next as u16,
                last: range.last,
            });
        }
        for piece in &free {
            self.ranges.insert(piece.first, piece.last);
        }
        free
    }
}

/// A range without some ports.
fn without(range: PortRange, ports: &BTreeSet<u16>) -> Vec<PortRange> {
    let mut taken = Taken::default();
    for &port in ports {
        taken.take(PortRange {
            first: port,
            last: port,
        });
    }
    taken.take(range)
}

/// Cuts a range of ports into prefixes: the first port of each and how many of its bits count.
fn prefixes(range: PortRange) -> Vec<(u16, u32)> {
    let (mut first, last) = (u32::from(range.first), u32::from(range.last));
    let mut cut = Vec::new();
    while first <= last {
        let aligned = first.trailing_zeros().min(16);
        let fitting = (last - first + 1).ilog2();
        let free_bits = aligned.min(fitting);
        cut.push((first as u16, 16 - free_bits));
        first += 1 << free_bits;
    }
    cut
}

#[cfg(test)]
mod tests;
