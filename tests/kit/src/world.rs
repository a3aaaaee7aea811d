//! A host with one uplink and two networks in memory, and the way that packets take through it.

use std::{collections::HashMap, ops::RangeInclusive};

use nat_common::{
    drop_reason::DropReason,
    pipeline::{self, Place, Verdict},
    session::ending,
    tables::{
        addresses::ExternalAddress,
        counters::RuleCounters,
        excludes::ExcludeKey,
        forward_sources::{FORWARD_SOURCE_FIXED_BITS, ForwardSource, ForwardSourceKey},
        forwards::{
            FORWARD_FIXED_BITS, Forward, ForwardFlags, ForwardKey, Forwards as _, OTHER_PROTOCOLS,
        },
        guests::{GuestKey, is_from_outside},
        inside::{INSIDE_FIXED_BITS, Inside, InsideAddresses as _, InsideFlags, InsideKey},
        interfaces::{Interface, InterfaceFlags, role},
        mappings::Mappings as _,
        permits::PermitKey,
        policies::{Chain, ChainKey, Policy, Side, side},
        ports::{PortKey, Ports as _},
        sessions::{Session, SessionFlags, SessionKey, Sessions as _, View},
        settings::Settings,
        snats::{self, SNAT_FIXED_BITS, Snat, SnatKey},
    },
    wire::{
        address::{Address, Endpoint, Port},
        packet::SlicePacket,
        protocol::{TCP, UDP},
    },
};

use crate::{
    ipv4,
    octets::Octets,
    packets::{At, ETHERNET},
    tables::{MemoryTables, Socket},
};

const GENERATION: u16 = 1;

/// The uplink.
pub const UPLINK: u32 = 1;
/// The first network.
pub const LAN: u32 = 2;
/// The second network.
pub const DMZ: u32 = 3;
/// An interface that natbpf knows nothing of.
pub const ELSEWHERE: u32 = 9;

/// The rule that guests hide by.
pub const SNAT_RULE: u32 = 1;
/// The rule of all forwards.
pub const FORWARD_RULE: u32 = 2;
/// The rule of one-to-one NAT.
pub const NAT_RULE: u32 = 3;

/// The ways in which the rule that guests hide by can choose external ports.
pub const MAPPINGS: [u8; 2] = [
    snats::mapping::ENDPOINT_INDEPENDENT,
    snats::mapping::ADDRESS_AND_PORT_DEPENDENT,
];

/// Where a packet has ended up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Nowhere.
    Dropped(DropReason),
    /// Into a slot, until the first fragment of its packet comes.
    Queued,
    /// In the host's own stack.
    Host(Vec<u8>),
    /// On the uplink.
    Uplink(Vec<u8>),
    /// In the network of this interface.
    Network(u32, Vec<u8>),
    /// On an interface that natbpf knows nothing of.
    Elsewhere(Vec<u8>),
}

impl Fate {
    /// The packet that left by the uplink.
    #[track_caller]
    pub fn uplink(self) -> Vec<u8> {
        match self {
            Self::Uplink(packet) => packet,
            other => panic!("not on the uplink: {other:?}"),
        }
    }

    /// The packet that a guest has received.
    #[track_caller]
    pub fn guest(self) -> Vec<u8> {
        match self {
            Self::Network(_, packet) => packet,
            other => panic!("not at a guest: {other:?}"),
        }
    }

    /// The packet that the host itself has received.
    #[track_caller]
    pub fn host(self) -> Vec<u8> {
        match self {
            Self::Host(packet) => packet,
            other => panic!("not at the host: {other:?}"),
        }
    }

    /// Why it was dropped.
    #[track_caller]
    pub fn reason(self) -> DropReason {
        match self {
            Self::Dropped(reason) => reason,
            other => panic!("not dropped: {other:?}"),
        }
    }
}

/// One of the four hooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// The ingress of the uplink.
    Inbound,
    /// The egress of the uplink.
    Outbound,
    /// The ingress of a network.
    FromGuest,
    /// The egress of a network.
    ToGuest,
}

impl Hook {
    /// All hooks.
    pub const ALL: [Self; 4] = [
        Self::Inbound,
        Self::Outbound,
        Self::FromGuest,
        Self::ToGuest,
    ];
}

/// A number of entries in each of the tables: sessions, mappings, ports, permits.
pub type Entries = [usize; 4];

/// The host.
pub struct World<I: Octets> {
    /// All tables of the data plane.
    pub tables: MemoryTables<I>,
    snat: Snat<I::Address>,
}

impl<I: Octets> Default for World<I> {
    fn default() -> Self {
        Self::new()
    }
}

impl<I: Octets> World<I> {
    fn public() -> I {
        I::of_host(ipv4::PUBLIC)
    }

    /// Guests of both networks hide behind the host's address; nothing is forwarded.
    pub fn new() -> Self {
        let snat = Snat {
            first: Self::public().address(),
            last: Self::public().address(),
            rule: SNAT_RULE,
            first_port: 1024,
            last_port: 65535,
            mapping: snats::mapping::ENDPOINT_INDEPENDENT,
            filtering: snats::filtering::ADDRESS_DEPENDENT,
            has_excludes: 0,
            by_destination: 0,
        };
        let mut world = Self {
            tables: MemoryTables {
                now_s: 1000,
                host_sessions: u32::MAX,
                settings: Some(settings()),
                interfaces: interfaces(),
                ..MemoryTables::default()
            },
            snat,
        };
        world.external(Self::public(), true);
        for (prefix, network) in [(ipv4::C1, 1), (ipv4::C3, 2)] {
            let prefix = I::of_host(prefix);
            let key = InsideKey {
                generation: GENERATION,
                reserved: [0; 2],
                address: prefix.address(),
            };
            let inside = Inside {
                network,
                flags: InsideFlags::empty(),
                gateway: gateway_of(prefix).address(),
                mac: [0; 6],
                reserved: [0; 2],
            };
            world
                .tables
                .inside
                .insert(INSIDE_FIXED_BITS + I::PREFIX_BITS + 24, &key, inside);
        }
        world.snat(|_| ());
        world
    }

    /// The same with one of [`MAPPINGS`].
    pub fn with_mapping(mapping: u8) -> Self {
        let mut world = Self::new();
        world.snat(|snat| snat.mapping = mapping);
        world
    }

    /// Makes an address an external one.
    pub fn external(&mut self, address: I, is_host: bool) {
        let external = ExternalAddress {
            uplink: 1,
            is_host: is_host.into(),
            is_silent: 0,
        };
        self.tables.addresses.insert(address.address(), external);
    }

    /// Changes the rule that guests hide by.
    pub fn snat(&mut self, change: impl FnOnce(&mut Snat<I::Address>)) {
        change(&mut self.snat);
        for (network, address) in [(1, ipv4::C1), (2, ipv4::C3)] {
            let key = SnatKey {
                generation: GENERATION,
                uplink: 1,
                network,
                reserved: [0; 2],
                source: I::of_host(address).address(),
            };
            let snats = &mut self.tables.snats;
            snats.insert(SNAT_FIXED_BITS + I::PREFIX_BITS + 24, &key, self.snat);
        }
    }

    /// Lets the rule that guests hide by be for sources of any address, as in `source =
    /// "0.0.0.0/0"`.
    pub fn snat_of_everything(&mut self) {
        for network in 0..=2 {
            let key = SnatKey {
                generation: GENERATION,
                uplink: 1,
                network,
                reserved: [0; 2],
                source: I::Address::UNSPECIFIED,
            };
            let snats = &mut self.tables.snats;
            snats.insert(SNAT_FIXED_BITS, &key, self.snat);
        }
    }

    /// Leaves a guest without a rule to hide by.
    pub fn without_snat(&mut self, guest: I) {
        let key = SnatKey {
            generation: GENERATION,
            uplink: 1,
            network: 1,
            reserved: [0; 2],
            source: guest.address(),
        };
        let none = Snat {
            mapping: snats::mapping::NONE,
            ..self.snat
        };
        let snats = &mut self.tables.snats;
        snats.insert(SNAT_FIXED_BITS + I::PREFIX_BITS + 32, &key, none);
    }

    /// Excludes a prefix of destinations from the rule that guests hide by.
    pub fn exclude(&mut self, destination: I, prefix_len: u32) {
        self.snat(|snat| snat.has_excludes = 1);
        let key = ExcludeKey {
            rule: SNAT_RULE,
            generation: GENERATION,
            reserved: [0; 2],
            destination: destination.address(),
        };
        let excludes = &mut self.tables.excludes;
        excludes.insert(SNAT_FIXED_BITS + I::PREFIX_BITS + prefix_len, &key, ());
    }

    /// Forwards ports of the host's address, each to one of the guest's from `to` on.
    pub fn forward(&mut self, protocol: u8, ports: RangeInclusive<u16>, to: At<I>) {
        self.forward_with(protocol, ports, to, ForwardFlags::empty());
    }

    /// Forwards all ports of a range to one of the guest's.
    pub fn forward_to_one(&mut self, protocol: u8, ports: RangeInclusive<u16>, to: At<I>) {
        self.forward_with(protocol, ports, to, ForwardFlags::MANY_TO_ONE);
    }

    /// Forwards ports for the host itself as well.
    pub fn forward_local(&mut self, protocol: u8, ports: RangeInclusive<u16>, to: At<I>) {
        self.forward_with(protocol, ports, to, ForwardFlags::LOCAL);
    }

    fn forward_with(
        &mut self,
        protocol: u8,
        ports: RangeInclusive<u16>,
        to: At<I>,
        flags: ForwardFlags,
    ) {
        let network = self.tables.inside(GENERATION, to.0.address());
        let forward = Forward {
            to: to.0.address(),
            rule: FORWARD_RULE,
            network: network.map_or(0, |inside| inside.network),
            first_external: *ports.start(),
            first_internal: to.1,
            flags: flags | ForwardFlags::HAIRPIN | ForwardFlags::ACCEPTED,
            reserved: 0,
        };
        for port in ports {
            let bits = FORWARD_FIXED_BITS + I::PREFIX_BITS + 16;
            let key = forward_key::<I>(protocol, port);
            self.tables.forwards.insert(bits, &key, forward);
            let internal = forward.internal_port(Port::new(port));
            let key = source_key(protocol, to.0, forward.network, internal);
            let is_known = self.tables.forward_sources.get(&key).is_some();
            if is_known || !matches!(protocol, TCP | UDP) {
                continue;
            }
            let source = ForwardSource {
                address: Self::public().address(),
                first_internal: internal.number(),
                first_external: port,
            };
            let sources = &mut self.tables.forward_sources;
            sources.insert(
                FORWARD_SOURCE_FIXED_BITS + I::PREFIX_BITS + 16,
                &key,
                source,
            );
        }
    }

    /// Forwards everything that is sent to the host's address.
    pub fn forward_all(&mut self, to: I) {
        for protocol in [TCP, UDP, I::ICMP, OTHER_PROTOCOLS] {
            self.forward_with(protocol, 0..=0, At(to, 0), ForwardFlags::WHOLE);
            let key = forward_key::<I>(protocol, 0);
            let all = *self
                .tables
                .forward(GENERATION, protocol, at(Self::public(), 0))
                .unwrap();
            let forwards = &mut self.tables.forwards;
            forwards.insert(FORWARD_FIXED_BITS + I::PREFIX_BITS, &key, all);
            let key = source_key(protocol, to, all.network, Port::ZERO);
            if let Some(source) = self.tables.forward_sources.get(&key).copied() {
                let sources = &mut self.tables.forward_sources;
                sources.insert(FORWARD_SOURCE_FIXED_BITS + I::PREFIX_BITS, &key, source);
            }
        }
    }

    /// Gives an external address that the host does not hold to one guest alone.
    pub fn one_to_one(&mut self, address: I, guest: I) {
        self.external(address, false);
        let network = self.tables.inside(GENERATION, guest.address());
        let network = network.map_or(0, |inside| inside.network);
        let snat = Snat {
            first: address.address(),
            last: address.address(),
            rule: NAT_RULE,
            first_port: 1,
            mapping: snats::mapping::ONE_TO_ONE,
            filtering: snats::filtering::ENDPOINT_INDEPENDENT,
            ..self.snat
        };
        let key = SnatKey {
            generation: GENERATION,
            uplink: 1,
            network,
            reserved: [0; 2],
            source: guest.address(),
        };
        let snats = &mut self.tables.snats;
        snats.insert(SNAT_FIXED_BITS + I::PREFIX_BITS + 32, &key, snat);
        let forward = Forward {
            to: guest.address(),
            rule: NAT_RULE,
            network,
            first_external: 0,
            first_internal: 0,
            flags: ForwardFlags::HAIRPIN,
            reserved: 0,
        };
        for protocol in [TCP, UDP, I::ICMP, OTHER_PROTOCOLS] {
            let key = ForwardKey {
                address: address.address(),
                ..forward_key::<I>(protocol, 0)
            };
            let forwards = &mut self.tables.forwards;
            forwards.insert(FORWARD_FIXED_BITS + I::PREFIX_BITS, &key, forward);
        }
    }

    /// Adds a chain of policies between two sides, in their order.
    pub fn chain(&mut self, from: Side, to: Side, policies: &[Policy<I::Address>]) {
        let key = |from, to| ChainKey {
            generation: GENERATION,
            from,
            to,
            reserved: 0,
        };
        let chain = Chain {
            first: self.tables.policies.len() as u32,
            count: policies.len() as u32,
        };
        self.tables.policies.extend(policies);
        self.tables.chains.insert(key(from, to), chain);
        let any = self.tables.chains.entry(key(side::ANY, side::ANY));
        any.or_default();
        for interface in self.tables.interfaces.values_mut() {
            interface.flags |= InterfaceFlags::POLICED;
        }
    }

    /// The host has an address that is no external one.
    pub fn host_address(&mut self, address: I) {
        self.tables.host_addresses.insert(address.address());
    }

    /// Lets each guest have so many sessions and external ports; 0 is no limit.
    pub fn caps(&mut self, sessions: u32, ports: u32) {
        let settings = self.tables.settings.as_mut().unwrap();
        settings.sessions_per_guest = sessions;
        settings.ports_per_guest = ports;
    }

    /// Lets TCP connections through the uplink announce segments of so many bytes.
    pub fn mss(&mut self, mss: u16) {
        self.tables.interfaces.get_mut(&UPLINK).unwrap().mss = mss;
    }

    /// Has netfilter see packets on the bridges, before the hooks at their ingress do.
    pub fn netfilter_first(&mut self) {
        for interface in self.tables.interfaces.values_mut() {
            interface.flags |= InterfaceFlags::NETFILTER_FIRST;
        }
    }

    /// Lets guests of the first network send from their own addresses only, and says whose one is.
    pub fn anti_spoof(&mut self, guest: I, mac: [u8; 6]) {
        self.tables.interfaces.get_mut(&LAN).unwrap().flags = InterfaceFlags::ANTI_SPOOF;
        self.known_by(guest, InsideFlags::HAS_MAC, mac);
    }

    /// How a guest of the first network is known.
    pub fn known_by(&mut self, guest: I, flags: InsideFlags, mac: [u8; 6]) {
        let key = InsideKey {
            generation: GENERATION,
            reserved: [0; 2],
            address: guest.address(),
        };
        let inside = Inside {
            network: 1,
            flags,
            gateway: gateway_of(guest).address(),
            mac,
            reserved: [0; 2],
        };
        let table = &mut self.tables.inside;
        table.insert(INSIDE_FIXED_BITS + I::PREFIX_BITS + 32, &key, inside);
    }

    /// Opens a socket of the host's.
    pub fn socket(&mut self, protocol: u8, local: At<I>, remote: Option<At<I>>) {
        self.tables.sockets.push(Socket {
            protocol,
            local: at(local.0, local.1),
            remote: remote.map(|remote| at(remote.0, remote.1)),
        });
    }

    /// A guest sends a packet, in the network that its address is in.
    pub fn guest_sends(&self, packet: &[u8]) -> Fate {
        let source: I = source_of(packet);
        self.network_sends(network_of(source).unwrap_or(LAN), packet)
    }

    /// A packet comes in from a network.
    pub fn network_sends(&self, interface: u32, packet: &[u8]) -> Fate {
        match self.run(Hook::FromGuest, packet, interface, interface) {
            Ok((Verdict::Queued, _)) => Fate::Queued,
            Ok((_, packet)) => self.route(&packet, interface),
            Err(reason) => Fate::Dropped(reason),
        }
    }

    /// A packet comes in by the uplink.
    pub fn outside_sends(&self, packet: &[u8]) -> Fate {
        match self.run(Hook::Inbound, packet, UPLINK, UPLINK) {
            Ok((Verdict::Queued, _)) => Fate::Queued,
            Ok((_, packet)) => self.route(&packet, UPLINK),
            Err(reason) => Fate::Dropped(reason),
        }
    }

    /// The host itself sends a packet.
    pub fn host_sends(&self, packet: &[u8]) -> Fate {
        self.route(packet, 0)
    }

    /// A fragment comes in at one end; all fragments that then go on, in their order.
    pub fn fragment(&self, hook: Hook, packet: &[u8]) -> Vec<Fate> {
        let interface = match hook {
            Hook::Inbound => UPLINK,
            _ => network_of(source_of::<I>(packet)).unwrap_or(LAN),
        };
        let mut fates = Vec::new();
        let mut waiting = vec![(packet.to_vec(), false)];
        while let Some((packet, was_queued)) = waiting.pop() {
            match run_frame(
                &self.tables,
                hook,
                &packet,
                interface,
                interface,
                was_queued,
            ) {
                Ok((Verdict::Queued, _)) => {}
                Ok((_, packet)) => fates.push(self.route(&packet, interface)),
                Err(reason) => fates.push(Fate::Dropped(reason)),
            }
            let sent = self.tables.sent.take();
            waiting.extend(sent.into_iter().rev().map(|frame| (frame, true)));
        }
        fates
    }

    /// What the kernel does between the hooks, and the hook by which the packet leaves.
    fn route(&self, packet: &[u8], ingress: u32) -> Fate {
        let destination: I = destination_of(packet);
        if destination == Self::public()
            || self.tables.host_addresses.contains(&destination.address())
        {
            return Fate::Host(packet.to_vec());
        }
        let (hook, egress) = match network_of(destination) {
            Some(interface) => (Hook::ToGuest, interface),
            None if destination.host()[0] == 192 => return Fate::Elsewhere(packet.to_vec()),
            None => (Hook::Outbound, UPLINK),
        };
        match self.run(hook, packet, egress, ingress) {
            Ok((_, packet)) if egress == UPLINK => Fate::Uplink(packet),
            Ok((_, packet)) => Fate::Network(egress, packet),
            Err(reason) => Fate::Dropped(reason),
        }
    }

    /// A packet at one hook, wherever it comes from.
    pub fn run(
        &self,
        hook: Hook,
        packet: &[u8],
        interface: u32,
        ingress_interface: u32,
    ) -> Result<(Verdict, Vec<u8>), DropReason> {
        run(&self.tables, hook, packet, interface, ingress_interface)
    }

    /// Time passes without expiry.
    pub fn advance(&mut self, seconds: u32) {
        self.tables.now_s += seconds;
    }

    /// The daemon ends idle sessions; returns how many have ended.
    pub fn expire(&self) -> usize {
        let sessions = self.tables.sessions.entries();
        let settings = settings();
        let now_s = self.tables.now_s;
        let expires = |(key, session): &(SessionKey<I::Address>, &Session<I::Address>)| {
            ending::expire(&self.tables, &settings, now_s, key, session) == ending::Fate::Ended
        };
        sessions.iter().filter(|entry| expires(entry)).count()
    }

    /// Time passes, and idle sessions end.
    pub fn wait(&mut self, seconds: u32) -> usize {
        self.advance(seconds);
        self.expire()
    }

    /// Asserts that the only session ends after being idle for exactly so long.
    #[track_caller]
    pub fn assert_ends_after(&mut self, seconds: u32) {
        assert_eq!(self.wait(seconds - 1), 0, "ended before {seconds} s");
        assert_eq!(self.wait(1), 1, "did not end after {seconds} s");
        assert_eq!(self.entries(), [0; 4]);
    }

    /// The daemon ends all sessions at once.
    pub fn end_all(&self) {
        for (key, session) in self.tables.sessions.entries() {
            ending::end(&self.tables, &key, session);
        }
    }

    /// How many entries the tables have.
    pub fn entries(&self) -> Entries {
        let tables = &self.tables;
        [
            tables.sessions.entries().len(),
            tables.mappings.entries().len(),
            tables.ports.entries().len(),
            tables.permits.entries().len(),
        ]
    }

    /// What a rule has counted.
    pub fn counters(&self, rule: u32) -> RuleCounters {
        let counters = self.tables.counters.borrow();
        counters.get(&rule).copied().unwrap_or_default()
    }

    /// Checks that the tables agree with one another.
    pub fn check(&self) {
        let mut held = HashMap::new();
        self.check_guests();
        for (key, session) in self.tables.sessions.entries() {
            self.check_entry(&key, session);
            if !session.has(SessionFlags::PRIMARY) {
                continue;
            }
            for (port, permit) in references(&key, session) {
                let count = match permit {
                    None => held.entry((port, None)),
                    Some(remote) => held.entry((port, Some(remote))),
                };
                *count.or_insert(0) += 1;
            }
        }
        for (key, owner) in self.tables.ports.entries() {
            let count = held.remove(&(key, None));
            assert_eq!(count, Some(owner.references.count()), "{key:?}");
            if owner.is_exclusive() {
                let mapping = self.tables.mapping(&owner.mapping_key(key.protocol));
                let external = mapping.map(|mapping| (mapping.address, mapping.port));
                assert_eq!(external, Some((key.address, key.port)), "{owner:?}");
            }
        }
        for (key, references) in self.tables.permits.entries() {
            let port = PortKey::new(Endpoint::new(key.external, key.port), key.protocol);
            let count = held.remove(&(port, Some(key)));
            assert_eq!(count, Some(references.count()), "{key:?}");
        }
        assert!(held.is_empty(), "sessions hold what is not there: {held:?}");
        for (key, mapping) in self.tables.mappings.entries() {
            let external = Endpoint::new(mapping.address, mapping.port);
            let owner = self.tables.port(&PortKey::new(external, key.protocol));
            let owner = owner.map(|owner| owner.mapping_key(key.protocol));
            assert_eq!(owner, Some(key), "whose port is {external:?}");
        }
    }

    /// Checks that what guests have is what they are said to have.
    fn check_guests(&self) {
        let mut expected: HashMap<_, (u32, u32)> = HashMap::new();
        for (key, session) in self.tables.sessions.entries() {
            if session.has(SessionFlags::PRIMARY) {
                let guest = GuestKey::of_session(&key, session.flags);
                expected.entry(guest).or_default().0 += 1;
                if is_from_outside(session.flags) {
                    expected.entry(GuestKey::outside()).or_default().0 += 1;
                }
            }
        }
        for (_, owner) in self.tables.ports.entries() {
            if owner.is_exclusive() {
                let guest = GuestKey::new(owner.address, owner.network);
                expected.entry(guest).or_default().1 += 1;
            }
        }
        let guests = self.tables.guests.entries();
        let counted = guests.iter().map(|(key, guest)| {
            let counts = (guest.sessions.load(), guest.ports.load());
            assert_eq!(guest.references.count(), counts.0 + counts.1);
            (*key, counts)
        });
        assert_eq!(counted.collect::<HashMap<_, _>>(), expected);
    }

    /// Checks that an entry's session is whole.
    fn check_entry(&self, key: &SessionKey<I::Address>, session: &Session<I::Address>) {
        let peer_key = session.peer_key(key.protocol);
        let peer = self.tables.session(&peer_key).expect("the other direction");
        if key.view == View::Between as u8 {
            return;
        }
        assert_eq!(peer.peer_key(key.protocol), *key, "{session:?}");
        let primary = [session, peer].map(|entry| entry.has(SessionFlags::PRIMARY));
        assert!(primary[0] != primary[1], "{key:?}: {session:?}, {peer:?}");
        if session.has(SessionFlags::HAIRPIN) && session.has(SessionFlags::FROM_INITIATOR) {
            let request = SessionKey {
                source_port: session.source_port,
                destination: session.destination,
                destination_port: session.destination_port,
                view: View::Between as u8,
                ..*key
            };
            let answer = SessionKey {
                network: session.peer_network,
                ..request.reversed()
            };
            for between in [request, answer] {
                assert!(self.tables.session(&between).is_some(), "{between:?}");
            }
        }
    }
}

type Reference<A> = (PortKey<A>, Option<PermitKey<A>>);

/// What a session's primary entry says that it holds.
fn references<A: Address>(key: &SessionKey<A>, session: &Session<A>) -> Vec<Reference<A>> {
    let external = session.source_endpoint();
    let port = PortKey::new(external, key.protocol);
    let remote = match session.has(SessionFlags::HAIRPIN) {
        true => key.destination,
        false => session.destination,
    };
    let mut references = Vec::new();
    if session.has(SessionFlags::REFS_PORT) {
        references.push((port, None));
    }
    if session.has(SessionFlags::REFS_SERVER) {
        let server = PortKey::new(key.destination_endpoint(), key.protocol);
        references.push((server, None));
    }
    if session.has(SessionFlags::REFS_PERMIT) {
        let permit = PermitKey::new(external, remote, key.protocol);
        references.push((port, Some(permit)));
    }
    references
}

/// Runs a packet through one hook.
pub fn run<I: Octets>(
    tables: &MemoryTables<I>,
    hook: Hook,
    packet: &[u8],
    interface: u32,
    ingress_interface: u32,
) -> Result<(Verdict, Vec<u8>), DropReason> {
    run_frame(tables, hook, packet, interface, ingress_interface, false)
}

/// Runs a packet, which may be one that was kept and is sent on, through one hook.
pub fn run_frame<I: Octets>(
    tables: &MemoryTables<I>,
    hook: Hook,
    packet: &[u8],
    interface: u32,
    ingress_interface: u32,
    was_queued: bool,
) -> Result<(Verdict, Vec<u8>), DropReason> {
    let mut bytes = packet.to_vec();
    let mut send = |frame: &[u8]| tables.sent.borrow_mut().push(frame.to_vec());
    let mut packet = SlicePacket {
        was_queued,
        send_queued: Some(&mut send),
        ..SlicePacket::new(&mut bytes, ingress_interface)
    };
    let place = Place {
        l3: ETHERNET,
        interface,
        is_to_host: true,
    };
    let mut work = I::work().take();
    let verdict = match hook {
        Hook::Inbound => pipeline::inbound(&mut packet, tables, place, &mut work),
        Hook::Outbound => pipeline::outbound(&mut packet, tables, place, &mut work),
        Hook::FromGuest => pipeline::from_guest(&mut packet, tables, place, &mut work),
        Hook::ToGuest => pipeline::to_guest(&mut packet, tables, place, &mut work),
    };
    I::work().set(work);
    match verdict {
        Verdict::Dropped(reason) => Err(reason),
        verdict => Ok((verdict, bytes)),
    }
}

/// The network that an address is in; `None` if it is no guest's.
pub fn network_of<I: Octets>(address: I) -> Option<u32> {
    match address.host() {
        [172, 22, 161, _] => Some(LAN),
        [10, 50, 0, _] => Some(DMZ),
        _ => None,
    }
}

/// The host's address in the network that an address is in.
fn gateway_of<I: Octets>(address: I) -> I {
    let [a, b, c, _] = address.host();
    I::of_host([a, b, c, 254])
}

fn source_of<I: Octets>(packet: &[u8]) -> I {
    I::at(packet, ETHERNET + I::SOURCE)
}

fn destination_of<I: Octets>(packet: &[u8]) -> I {
    I::at(packet, ETHERNET + I::SOURCE + size_of::<I>())
}

fn forward_key<I: Octets>(protocol: u8, port: u16) -> ForwardKey<I::Address> {
    ForwardKey {
        generation: GENERATION,
        protocol,
        reserved: 0,
        address: I::of_host(ipv4::PUBLIC).address(),
        port: Port::new(port),
        padding: [0; 2],
    }
}

fn source_key<I: Octets>(
    protocol: u8,
    guest: I,
    network: u16,
    port: Port,
) -> ForwardSourceKey<I::Address> {
    ForwardSourceKey {
        generation: GENERATION,
        uplink: 1,
        network,
        protocol,
        reserved: 0,
        address: guest.address(),
        port,
        padding: [0; 2],
    }
}

fn at<I: Octets>(address: I, port: u16) -> Endpoint<I::Address> {
    Endpoint::new(address.address(), Port::new(port))
}

fn interfaces() -> HashMap<u32, Interface> {
    let interface = |role, number| Interface {
        role,
        number,
        ..Interface::default()
    };
    HashMap::from([
        (UPLINK, interface(role::UPLINK, 1)),
        (LAN, interface(role::NETWORK, 1)),
        (DMZ, interface(role::NETWORK, 2)),
    ])
}

fn settings() -> Settings {
    Settings {
        generation: GENERATION.into(),
        udp_s: 300,
        tcp_opening_s: 240,
        tcp_established_s: 7440,
        tcp_closing_s: 240,
        icmp_s: 60,
        other_s: 600,
        fragment_s: 30,
        sessions_per_guest: 0,
        ports_per_guest: 0,
    }
}
