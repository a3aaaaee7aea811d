//! The data plane's tables as ordinary maps.
//!
//! Entries stay in memory as long as their table, also removed ones, as a BPF program may go on
//! reading an entry that another CPU has removed.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap, HashSet},
    fmt::Debug,
    hash::Hash,
    ptr,
};

use nat_common::{
    atomics::Shared,
    drop_reason::DropReason,
    tables::{
        addresses::{ExternalAddress, ExternalAddresses},
        bindings::{Binding, BindingRecord, Bindings, Name},
        counters::{Counters, RuleCounters, Traffic},
        datagrams::{Datagram, Datagrams},
        environment::Environment,
        excludes::{ExcludeKey, Excludes},
        forward_sources::{ForwardSource, ForwardSourceKey, ForwardSources},
        forwards::{Forward, ForwardKey, Forwards, OTHER_PROTOCOLS},
        fragments::{FragmentKey, FragmentPorts, Fragments},
        guests::{Guest, GuestKey, Guests},
        host::{HostSocket, HostSockets},
        insert::InsertError,
        inside::{Inside, InsideAddresses, InsideKey},
        interfaces::{Interface, Interfaces},
        mappings::{MappingKey, MappingRecord, Mappings},
        neighbours::{Neighbour, NeighbourKey, Neighbours},
        next_hops::{self, NextHop, NextHopKey, NextHops, Tag},
        origin::Origin,
        permits::{PermitKey, Permits},
        policies::{Chain, ChainKey, Policies, Policy},
        ports::{PortKey, PortOwner, PortRecord, Ports},
        queued::{Queued, QueuedFragments},
        references::References,
        refusals::RateLimiters,
        routes::{Routes, target},
        rules::Rules,
        sessions::{Session, SessionKey, SessionRecord, Sessions},
        settings::{CurrentSettings, Settings},
        snats::{Snat, SnatKey, Snats},
        uplinks::{Uplink, Uplinks},
    },
    wire::{
        address::{Addr6, Address, Endpoint, Port},
        protocol::{TCP, UDP},
    },
};

use crate::{
    interleave,
    octets::{AddressOf, Octets},
    world::{ELSEWHERE, UPLINK, network_of},
};

/// A longest-prefix match over the bits of a key in memory order.
#[derive(Debug)]
pub struct Lpm<V>(BTreeMap<u32, HashMap<Vec<u8>, V>>);

impl<V> Default for Lpm<V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<V> Lpm<V> {
    /// Adds an entry with `bits` significant bits.
    pub fn insert(&mut self, bits: u32, key: &impl Key, value: V) {
        let entries = self.0.entry(bits).or_default();
        entries.insert(prefix(key, bits), value);
    }

    /// The entry with the longest prefix of `key`.
    pub fn get(&self, key: &impl Key) -> Option<&V> {
        let mut by_length = self.0.iter().rev();
        by_length.find_map(|(&bits, entries)| entries.get(&prefix(key, bits)))
    }
}

fn prefix<K: Key>(key: &K, bits: u32) -> Vec<u8> {
    // SAFETY: the key has no padding, so all its bytes are initialised.
    let key =
        unsafe { std::slice::from_raw_parts(ptr::from_ref(key).cast::<u8>(), size_of::<K>()) };
    let (whole, rest) = (bits as usize / 8, bits % 8);
    let mut prefix = key[..whole].to_vec();
    if rest > 0 {
        prefix.push(key[whole] & !(0xff >> rest));
    }
    prefix
}

/// The key of a longest-prefix match, in either family.
///
/// # Safety
/// It has no padding.
pub unsafe trait Key {}

// SAFETY: their fields fill them for addresses of four and of sixteen bytes (`map_layout!`).
unsafe impl<A: Address> Key for ForwardKey<A> {}
// SAFETY: as above.
unsafe impl<A: Address> Key for ForwardSourceKey<A> {}
// SAFETY: as above.
unsafe impl<A: Address> Key for SnatKey<A> {}
// SAFETY: as above.
unsafe impl<A: Address> Key for ExcludeKey<A> {}
// SAFETY: as above.
unsafe impl<A: Address> Key for InsideKey<A> {}
// SAFETY: as above.
unsafe impl Key for NeighbourKey {}

/// A hash table that is full at some number of entries.
#[derive(Debug)]
pub struct Table<K, V> {
    entries: RefCell<HashMap<K, *mut V>>,
    /// What was ever in the table, and is freed with it.
    added: RefCell<Vec<*mut V>>,
    /// How many entries there is room for.
    pub capacity: usize,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self {
            entries: RefCell::default(),
            added: RefCell::default(),
            capacity: usize::MAX,
        }
    }
}

impl<K, V> Drop for Table<K, V> {
    fn drop(&mut self) {
        for value in self.added.take() {
            // SAFETY: it came from a box, once; references to it do not outlive the table.
            drop(unsafe { Box::from_raw(value) });
        }
    }
}

impl<K: Hash + Eq + Copy, V> Table<K, V> {
    /// All entries at this moment.
    pub fn entries(&self) -> Vec<(K, &V)> {
        let entries = self.entries.borrow();
        // SAFETY: what was added is freed with the table only, and never changed by it.
        let entry = |(key, value): (&K, &*mut V)| (*key, unsafe { &**value });
        entries.iter().map(entry).collect()
    }

    /// The entry of `key`.
    pub fn get(&self, key: &K) -> Option<&V> {
        let value = self.entries.borrow().get(key).copied()?;
        // SAFETY: as above.
        Some(unsafe { &*value })
    }

    /// [`get`](Self::get) where another CPU may come in between.
    fn look_up(&self, key: &K) -> Option<&V>
    where
        K: Debug,
        V: interleave::Seen,
    {
        interleave::before("look up", key);
        let value = self.entries.borrow().get(key).copied();
        // SAFETY: as above.
        interleave::found(value.map(|value| unsafe { &*value }));
        // SAFETY: as above.
        value.map(|value| unsafe { &*value })
    }

    /// [`add`](Self::add) where another CPU may come in between.
    fn add_shared(&self, key: K, value: V) -> Result<(), InsertError>
    where
        K: Debug,
        V: Debug,
    {
        interleave::before("add", &(key, &value));
        let result = self.add(key, value);
        interleave::added(result.is_ok());
        result
    }

    /// [`remove`](Self::remove) where another CPU may come in between.
    fn remove_shared(&self, key: &K)
    where
        K: Debug,
    {
        interleave::before("remove", key);
        self.remove(key);
    }

    fn contents(&self) -> Vec<String>
    where
        K: Debug,
        V: Debug,
    {
        let entries = self.entries();
        entries.iter().map(|entry| format!("{entry:?}")).collect()
    }

    /// Adds an entry.
    ///
    /// # Errors
    /// When there is one with this key, or no room.
    pub fn add(&self, key: K, value: V) -> Result<(), InsertError> {
        let entries = self.entries.borrow();
        if entries.contains_key(&key) {
            return Err(InsertError::Exists);
        }
        if entries.len() >= self.capacity {
            return Err(InsertError::Full);
        }
        drop(entries);
        self.put(key, value);
        Ok(())
    }

    fn put(&self, key: K, value: V) {
        let value = Box::into_raw(Box::new(value));
        self.added.borrow_mut().push(value);
        self.entries.borrow_mut().insert(key, value);
    }

    /// The entry of `key`, which is there from now on.
    fn get_or_put(&self, key: K, value: impl FnOnce() -> V) -> Option<&V> {
        if self.get(&key).is_none() {
            self.put(key, value());
        }
        self.get(&key)
    }

    fn remove(&self, key: &K) {
        self.entries.borrow_mut().remove(key);
    }
}

/// A socket of the host's.
#[derive(Debug, Clone, Copy)]
pub struct Socket<A> {
    /// TCP or UDP.
    pub protocol: u8,
    /// Where it listens, or its own end.
    pub local: Endpoint<A>,
    /// `None` if it accepts packets from any remote.
    pub remote: Option<Endpoint<A>>,
}

/// The rules, sessions, clock and chance of a data plane in memory.
#[derive(Default)]
pub struct MemoryTables<I: Octets> {
    /// The clock in seconds.
    pub now_s: u32,
    /// How many flows of the host's own are noted at most.
    pub host_sessions: u32,
    /// Timeouts and limits; `None` before the first configuration.
    pub settings: Option<Settings>,
    /// Interfaces by index.
    pub interfaces: HashMap<u32, Interface>,
    /// Forward rules by external endpoint.
    pub forwards: Lpm<Forward<AddressOf<I>>>,
    /// External endpoints by the target of a forward.
    pub forward_sources: Lpm<ForwardSource<AddressOf<I>>>,
    /// Source NAT rules by source.
    pub snats: Lpm<Snat<AddressOf<I>>>,
    /// Destinations that a source NAT rule leaves out.
    pub excludes: Lpm<()>,
    /// Addresses inside, and whose they are.
    pub inside: Lpm<Inside<AddressOf<I>>>,
    /// External addresses.
    pub addresses: HashMap<AddressOf<I>, ExternalAddress>,
    /// IPv6 addresses for which natbpf answers neighbours.
    pub neighbours: Lpm<Neighbour>,
    /// The host's sockets.
    pub sockets: Vec<Socket<AddressOf<I>>>,
    /// Sessions, an entry for each direction.
    pub sessions: Table<SessionKey<AddressOf<I>>, Session<AddressOf<I>>>,
    /// Mappings by internal endpoint.
    pub mappings: Table<MappingKey<AddressOf<I>>, MappingRecord<AddressOf<I>>>,
    /// Owners of external ports.
    pub ports: Table<PortKey<AddressOf<I>>, PortOwner<AddressOf<I>>>,
    /// Remotes that may send to an external port.
    pub permits: Table<PermitKey<AddressOf<I>>, References>,
    /// Each guest's use.
    pub guests: Table<GuestKey<AddressOf<I>>, Guest>,
    /// The ports to which addresses are bound.
    pub bindings: Table<Name, Binding>,
    /// How many names a port has, if its names are judged.
    pub names: Table<u32, Shared>,
    /// Chains of policies by their two sides.
    pub chains: HashMap<ChainKey, Chain>,
    /// All policies; a chain is a part of them.
    pub policies: Vec<Policy<AddressOf<I>>>,
    /// Uplinks by place.
    pub uplinks: Vec<Uplink>,
    /// Interfaces that are gone.
    pub gone: HashSet<u32>,
    /// Interfaces of which the daemon knows whether it must translate what leaves there.
    pub exits: HashSet<u32>,
    /// The host's own addresses besides external ones.
    pub host_addresses: HashSet<AddressOf<I>>,
    /// Ports of datagrams whose first fragment has passed.
    pub fragments: Table<FragmentKey<AddressOf<I>>, FragmentPorts>,
    /// Which parts of a datagram have come.
    pub datagrams: Table<FragmentKey<AddressOf<I>>, Datagram>,
    /// Fragments that wait for the first one.
    pub queued: Table<u32, Queued<AddressOf<I>>>,
    /// Clocks of what the host sends at a limited rate.
    pub rate_limiters: Table<u32, Shared>,
    /// Next hops by slot.
    pub next_hops: HashMap<u32, NextHop>,
    /// The tag under which a next hop is known.
    pub next_hop_tags: HashMap<NextHopKey, Tag>,
    /// Whether the daemon lets the fast path be used.
    pub is_fast_path_on: bool,
    /// Rules whose sessions the kernel forwards.
    pub slow_rules: HashSet<u32>,
    /// What rules have counted.
    pub counters: RefCell<HashMap<u32, RuleCounters>>,
    /// Why packets were dropped, in their order.
    pub drops: RefCell<Vec<DropReason>>,
    /// Frames that were kept and sent on, for which hook and which interface.
    pub sent: RefCell<Vec<Vec<u8>>>,
    /// The last value of the generator.
    pub random: Cell<u32>,
    /// Numbers that come before those of the generator.
    pub foretold: Cell<Option<u32>>,
}

impl<I: Octets> MemoryTables<I> {
    /// All that packets change, as text.
    pub fn contents(&self) -> Vec<String> {
        let mut contents = vec![format!("{}", self.random.get())];
        contents.extend(self.sessions.contents());
        contents.extend(self.mappings.contents());
        contents.extend(self.ports.contents());
        contents.extend(self.permits.contents());
        contents.extend(self.guests.contents());
        contents.sort();
        contents
    }

    fn counters(&self, rule: u32, change: impl FnOnce(&mut RuleCounters)) {
        change(self.counters.borrow_mut().entry(rule).or_default());
    }
}

impl<I: Octets> Bindings for MemoryTables<I> {
    fn binding(&self, name: &Name) -> Option<&Binding> {
        self.bindings.get(name)
    }

    fn add_binding(&self, name: &Name, record: &BindingRecord) -> Result<(), InsertError> {
        let binding = Binding {
            port: Shared::new(record.port),
            seen_s: Shared::new(record.seen_s),
        };
        self.bindings.add(*name, binding)
    }

    fn names(&self, port: u32) -> Option<&Shared> {
        self.names.get(&port)
    }
}

impl<I: Octets> Environment for MemoryTables<I> {
    fn now_s(&self) -> u32 {
        self.now_s
    }

    fn random(&self) -> u32 {
        interleave::before("random", &());
        if let Some(number) = self.foretold.take() {
            return number;
        }
        let next = self.random.get().wrapping_mul(1_664_525);
        self.random.set(next.wrapping_add(1_013_904_223));
        self.random.get()
    }

    fn repeat(&self, times: u32, mut step: impl FnMut(u32) -> bool) {
        let _stopped = (0..times).all(&mut step);
    }

    fn pause(&self) {
        interleave::pause();
    }
}

impl<I: Octets> Sessions<I::Address> for MemoryTables<I> {
    fn host_sessions(&self) -> u32 {
        self.host_sessions
    }

    fn session(&self, key: &SessionKey<I::Address>) -> Option<&Session<I::Address>> {
        self.sessions.look_up(key)
    }

    fn add_session(
        &self,
        key: &SessionKey<I::Address>,
        record: &SessionRecord<I::Address>,
    ) -> Result<(), InsertError> {
        self.sessions.add_shared(*key, record.in_table())
    }

    fn remove_session(&self, key: &SessionKey<I::Address>) {
        self.sessions.remove_shared(key);
    }
}

impl<I: Octets> CurrentSettings for MemoryTables<I> {
    fn settings(&self) -> Option<&Settings> {
        self.settings.as_ref()
    }
}

impl<I: Octets> Interfaces for MemoryTables<I> {
    fn interface(&self, index: u32) -> Option<&Interface> {
        self.interfaces.get(&index)
    }

    fn cached_interface(&self, index: u32) -> Option<Interface> {
        self.interface(index).copied()
    }
}

impl<I: Octets> Mappings<I::Address> for MemoryTables<I> {
    fn mapping(&self, key: &MappingKey<I::Address>) -> Option<&MappingRecord<I::Address>> {
        self.mappings.look_up(key)
    }

    fn add_mapping(
        &self,
        key: &MappingKey<I::Address>,
        record: &MappingRecord<I::Address>,
    ) -> Result<(), InsertError> {
        self.mappings.add_shared(*key, *record)
    }

    fn remove_mapping(&self, key: &MappingKey<I::Address>) {
        self.mappings.remove_shared(key);
    }
}

impl<I: Octets> Ports<I::Address> for MemoryTables<I> {
    fn port(&self, key: &PortKey<I::Address>) -> Option<&PortOwner<I::Address>> {
        self.ports.look_up(key)
    }

    fn add_port(
        &self,
        key: &PortKey<I::Address>,
        record: &PortRecord<I::Address>,
    ) -> Result<(), InsertError> {
        self.ports.add_shared(*key, record.in_table())
    }

    fn remove_port(&self, key: &PortKey<I::Address>) {
        self.ports.remove_shared(key);
    }
}

impl<I: Octets> Permits<I::Address> for MemoryTables<I> {
    fn permit(&self, key: &PermitKey<I::Address>) -> Option<&References> {
        self.permits.look_up(key)
    }

    fn add_permit(&self, key: &PermitKey<I::Address>) -> Result<(), InsertError> {
        self.permits.add_shared(*key, References::new(1))
    }

    fn remove_permit(&self, key: &PermitKey<I::Address>) {
        self.permits.remove_shared(key);
    }
}

impl<I: Octets> Guests<I::Address> for MemoryTables<I> {
    fn guest(&self, key: &GuestKey<I::Address>) -> Option<&Guest> {
        self.guests.look_up(key)
    }

    fn port_of(&self, address: I::Address, network: u16) -> u32 {
        let binding = self.binding(&I::of_address(address).name(network));
        binding.map_or(0, |binding| binding.port.load())
    }

    fn add_guest(&self, key: &GuestKey<I::Address>, port: u32) -> Result<(), InsertError> {
        let guest = Guest {
            port: Shared::new(port),
            references: References::new(0),
            sessions: Shared::new(0),
            ports: Shared::new(0),
        };
        self.guests.add_shared(*key, guest)
    }

    fn remove_guest(&self, key: &GuestKey<I::Address>) {
        self.guests.remove_shared(key);
    }
}

impl<I: Octets> Forwards<I::Address> for MemoryTables<I> {
    fn forward(
        &self,
        generation: u16,
        protocol: u8,
        to: Endpoint<I::Address>,
    ) -> Option<&Forward<I::Address>> {
        let (protocol, port) = match protocol {
            TCP | UDP => (protocol, to.port),
            icmp if icmp == I::ICMP => (protocol, Port::ZERO),
            _ => (OTHER_PROTOCOLS, Port::ZERO),
        };
        self.forwards.get(&ForwardKey {
            generation,
            protocol,
            reserved: 0,
            address: to.address,
            port,
            padding: [0; 2],
        })
    }
}

impl<I: Octets> ForwardSources<I::Address> for MemoryTables<I> {
    fn forward_source(
        &self,
        origin: &Origin,
        protocol: u8,
        internal: Endpoint<I::Address>,
    ) -> Option<&ForwardSource<I::Address>> {
        self.forward_sources.get(&ForwardSourceKey {
            generation: origin.generation,
            uplink: origin.uplink,
            network: origin.network,
            protocol,
            reserved: 0,
            address: internal.address,
            port: internal.port,
            padding: [0; 2],
        })
    }
}

impl<I: Octets> Snats<I::Address> for MemoryTables<I> {
    fn snat(
        &self,
        generation: u16,
        uplink: u16,
        network: u16,
        source: I::Address,
    ) -> Option<&Snat<I::Address>> {
        self.snats.get(&SnatKey {
            generation,
            uplink,
            network,
            reserved: [0; 2],
            source,
        })
    }
}

impl<I: Octets> Excludes<I::Address> for MemoryTables<I> {
    fn is_excluded(&self, generation: u16, rule: u32, destination: I::Address) -> bool {
        let key = ExcludeKey {
            rule,
            generation,
            reserved: [0; 2],
            destination,
        };
        self.excludes.get(&key).is_some()
    }
}

impl<I: Octets> ExternalAddresses<I::Address> for MemoryTables<I> {
    fn external_address(&self, _generation: u16, address: I::Address) -> Option<&ExternalAddress> {
        self.addresses.get(&address)
    }
}

impl<I: Octets> InsideAddresses<I::Address> for MemoryTables<I> {
    fn inside(&self, generation: u16, address: I::Address) -> Option<&Inside<I::Address>> {
        let key = InsideKey {
            generation,
            reserved: [0; 2],
            address,
        };
        self.inside.get(&key)
    }
}

impl<I: Octets> Neighbours for MemoryTables<I> {
    fn neighbour(&self, generation: u16, uplink: u16, address: Addr6) -> Option<&Neighbour> {
        self.neighbours.get(&NeighbourKey {
            generation,
            uplink,
            address,
        })
    }
}

impl<I: Octets> Policies<I::Address> for MemoryTables<I> {
    fn chain(&self, key: &ChainKey) -> Option<&Chain> {
        self.chains.get(key)
    }

    fn policy(&self, _: u32, index: u32) -> Option<&Policy<I::Address>> {
        self.policies.get(index as usize)
    }
}

impl<I: Octets> Routes<I::Address> for MemoryTables<I> {
    fn route_lookup(&self, _: u32, _: I::Address, destination: I::Address) -> u32 {
        let is_host = self.addresses.get(&destination);
        if is_host.is_some_and(|external| external.is_host != 0)
            || self.host_addresses.contains(&destination)
        {
            return target::HOST;
        }
        let destination = I::of_address(destination);
        match network_of(destination) {
            Some(network) => network,
            None if destination.host()[0] == 192 => ELSEWHERE,
            None => UPLINK,
        }
    }

    fn is_there(&self, interface: u32) -> bool {
        !self.gone.contains(&interface)
    }
}

impl<I: Octets> Uplinks for MemoryTables<I> {
    fn uplink(&self, place: u32) -> Option<&Uplink> {
        self.uplinks.get(place as usize)
    }

    fn is_exit(&self, interface: u32) -> bool {
        self.exits.contains(&interface)
    }
}

impl<I: Octets> Fragments<I::Address> for MemoryTables<I> {
    fn fragment(&self, key: &FragmentKey<I::Address>) -> Option<&FragmentPorts> {
        self.fragments.get(key)
    }

    fn put_fragment(&self, key: &FragmentKey<I::Address>, ports: &FragmentPorts) {
        self.fragments.put(*key, *ports);
    }

    fn add_fragment(
        &self,
        key: &FragmentKey<I::Address>,
        ports: &FragmentPorts,
    ) -> Result<(), InsertError> {
        self.fragments.add(*key, *ports)
    }
}

impl<I: Octets> Datagrams<I::Address> for MemoryTables<I> {
    fn datagram(&self, key: &FragmentKey<I::Address>) -> Option<&Datagram> {
        self.datagrams.get(key)
    }

    fn add_datagram(&self, key: &FragmentKey<I::Address>) -> Result<(), InsertError> {
        self.datagrams.add(*key, Datagram::default())
    }

    fn remove_datagram(&self, key: &FragmentKey<I::Address>) {
        self.datagrams.remove(key);
    }
}

impl<I: Octets> QueuedFragments<I::Address> for MemoryTables<I> {
    fn queued(&self, slot: u32) -> Option<&Queued<I::Address>> {
        self.queued.get_or_put(slot, Queued::default)
    }
}

impl<I: Octets> RateLimiters for MemoryTables<I> {
    fn rate_limiter(&self, number: u32) -> Option<&Shared> {
        self.rate_limiters.get_or_put(number, || Shared::new(0))
    }
}

impl<I: Octets> NextHops for MemoryTables<I> {
    fn next_hop(&self, tag: Tag) -> Option<&NextHop> {
        let hop = self.next_hops.get(&next_hops::slot(tag))?;
        (tag != next_hops::NONE && hop.tag.load() == tag).then_some(hop)
    }

    fn next_hop_tag(&self, key: &NextHopKey) -> Tag {
        let tag = self.next_hop_tags.get(key);
        tag.copied().unwrap_or(next_hops::NONE)
    }

    fn is_fast_path_on(&self, _: u32) -> bool {
        self.is_fast_path_on
    }
}

impl<I: Octets> Rules for MemoryTables<I> {
    fn is_rule_fast(&self, rule: u32) -> bool {
        !self.slow_rules.contains(&rule)
    }
}

impl<I: Octets> HostSockets<I::Address> for MemoryTables<I> {
    fn host_socket(
        &self,
        protocol: u8,
        remote: Endpoint<I::Address>,
        local: Endpoint<I::Address>,
    ) -> HostSocket {
        let mut found = HostSocket::None;
        for socket in &self.sockets {
            if (socket.protocol, socket.local) != (protocol, local) {
                continue;
            }
            match socket.remote {
                Some(peer) if peer == remote => return HostSocket::Connected,
                Some(_) => {}
                None => found = HostSocket::Listening,
            }
        }
        found
    }
}

impl<I: Octets> Counters for MemoryTables<I> {
    fn count(&self, rule: u32, traffic: Traffic) {
        self.counters(rule, |counters| {
            if traffic.is_in {
                counters.packets_in += traffic.packets;
                counters.bytes_in += traffic.bytes;
            } else {
                counters.packets_out += traffic.packets;
                counters.bytes_out += traffic.bytes;
            }
        });
    }

    fn count_drop(&self, reason: DropReason) {
        self.drops.borrow_mut().push(reason);
    }

    fn count_opened(&self, rule: u32) {
        self.counters(rule, |counters| counters.opened += 1);
    }

    fn count_closed(&self, rule: u32) {
        self.counters(rule, |counters| counters.closed += 1);
    }
}
