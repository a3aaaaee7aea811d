//! The tables as ordinary maps.
//!
//! Entries are leaked: references to them live as long as the table, as in the kernel.

use std::{cell::RefCell, collections::HashMap, hash::Hash};

use nat_common::{
    atomics::Shared,
    drop_reason::DropReason,
    tables::{
        addresses::{ExternalAddress, ExternalAddresses},
        counters::{Counters, Traffic},
        datagrams::{Datagram, Datagrams},
        environment::Environment,
        excludes::Excludes,
        forward_sources::{ForwardSource4, ForwardSources},
        forwards::{Forward4, Forwards, forward_flags},
        fragments::{FragmentKey4, FragmentPorts, Fragments},
        guests::{Guest, GuestKey4, Guests},
        host::{HostSocket, HostSockets},
        insert::InsertError,
        inside::{Inside4, InsideAddresses},
        interfaces::{Interface, Interfaces, role},
        mappings::{MappingKey4, MappingRecord4, Mappings},
        next_hops::{self, NextHop, NextHopKey, NextHops, Tag},
        origin::Origin,
        permits::{PermitKey4, Permits},
        policies::{Chain, ChainKey, Policies, Policy4},
        ports::{PortKey4, PortOwner, PortRecord4, Ports},
        queued::{Queued, QueuedFragments},
        references::References,
        refusals::RateLimiters,
        routes::{Routes, way},
        rules::Rules,
        sessions::{Session, SessionKey4, SessionRecord4, Sessions},
        settings::{CurrentSettings, Settings},
        snats::{self, Snat4, Snats},
        uplinks::{Uplink, Uplinks},
    },
    wire::{
        address::{Addr4, Endpoint, Port},
        protocol::{ICMP, TCP, UDP},
    },
};

use super::{LAN, PUBLIC, UPLINK, guest};

type Table<K, V> = RefCell<HashMap<K, &'static V>>;

pub(crate) struct MemoryTables {
    now_s: u32,
    random: RefCell<u32>,
    settings: Settings,
    interfaces: HashMap<u32, Interface>,
    external: ExternalAddress,
    forward: Forward4,
    forward_source: ForwardSource4,
    inside: Inside4,
    snat: Snat4,
    sessions: Table<SessionKey4, Session<Addr4>>,
    mappings: Table<MappingKey4, MappingRecord4>,
    ports: Table<PortKey4, PortOwner<Addr4>>,
    permits: Table<PermitKey4, References>,
    guests: Table<GuestKey4, Guest>,
    fragments: Table<FragmentKey4, FragmentPorts>,
    datagrams: RefCell<HashMap<FragmentKey4, &'static Datagram>>,
    queued: RefCell<HashMap<u32, &'static Queued<Addr4>>>,
    rate_limiters: RefCell<HashMap<u32, &'static Shared>>,
}

fn add<K: Hash + Eq, V>(table: &Table<K, V>, key: K, value: V) -> Result<(), InsertError> {
    let mut table = table.borrow_mut();
    if table.contains_key(&key) {
        return Err(InsertError::Exists);
    }
    table.insert(key, Box::leak(Box::new(value)));
    Ok(())
}

fn settings() -> Settings {
    Settings {
        generation: 1,
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

fn forward() -> Forward4 {
    Forward4 {
        to: Addr4(guest(super::SERVER)),
        rule: 2,
        network: 1,
        first_external: 10_000,
        first_internal: 80,
        flags: forward_flags::HAIRPIN,
        reserved: 0,
    }
}

fn snat() -> Snat4 {
    Snat4 {
        first: Addr4(PUBLIC),
        last: Addr4(PUBLIC),
        rule: 1,
        first_port: 1024,
        last_port: 65535,
        mapping: snats::mapping::ENDPOINT_INDEPENDENT,
        filtering: snats::filtering::ADDRESS_DEPENDENT,
        has_excludes: 0,
        by_destination: 0,
    }
}

impl MemoryTables {
    pub(crate) fn new() -> Self {
        Self {
            now_s: 100,
            random: RefCell::new(12345),
            settings: settings(),
            interfaces: HashMap::from([
                (
                    UPLINK,
                    Interface {
                        role: role::UPLINK,
                        number: 1,
                        ..Interface::default()
                    },
                ),
                (
                    LAN,
                    Interface {
                        role: role::NETWORK,
                        number: 1,
                        ..Interface::default()
                    },
                ),
            ]),
            external: ExternalAddress {
                uplink: 1,
                is_host: 1,
                is_silent: 0,
            },
            forward: forward(),
            forward_source: ForwardSource4 {
                address: Addr4(PUBLIC),
                first_internal: 80,
                first_external: 10_000,
            },
            inside: Inside4 {
                network: 1,
                flags: 0,
                gateway: Addr4([172, 22, 161, 254]),
                mac: [0; 6],
                reserved: [0; 2],
            },
            snat: snat(),
            sessions: Table::default(),
            mappings: Table::default(),
            ports: Table::default(),
            permits: Table::default(),
            guests: Table::default(),
            fragments: Table::default(),
            datagrams: RefCell::default(),
            queued: RefCell::default(),
            rate_limiters: RefCell::default(),
        }
    }

    pub(crate) fn advance(&mut self, seconds: u32) {
        self.now_s += seconds;
    }

    pub(crate) fn now(&self) -> u32 {
        self.now_s
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) fn session_keys(&self) -> Vec<SessionKey4> {
        self.sessions.borrow().keys().copied().collect()
    }

    /// Sessions' entries, mappings, ports, permits, guests.
    pub(crate) fn entries(&self) -> [usize; 5] {
        [
            self.sessions.borrow().len(),
            self.mappings.borrow().len(),
            self.ports.borrow().len(),
            self.permits.borrow().len(),
            self.guests.borrow().len(),
        ]
    }
}

impl Environment for MemoryTables {
    fn now_s(&self) -> u32 {
        self.now_s
    }

    fn random(&self) -> u32 {
        let mut random = self.random.borrow_mut();
        *random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *random
    }

    fn repeat(&self, times: u32, mut step: impl FnMut(u32) -> bool) {
        let _stopped = (0..times).all(&mut step);
    }

    fn pause(&self) {}
}

impl Sessions<Addr4> for MemoryTables {
    fn host_sessions(&self) -> u32 {
        u32::MAX
    }

    fn session(&self, key: &SessionKey4) -> Option<&Session<Addr4>> {
        self.sessions.borrow().get(key).copied()
    }

    fn add_session(&self, key: &SessionKey4, record: &SessionRecord4) -> Result<(), InsertError> {
        add(&self.sessions, *key, record.in_table())
    }

    fn remove_session(&self, key: &SessionKey4) {
        self.sessions.borrow_mut().remove(key);
    }
}

impl CurrentSettings for MemoryTables {
    fn settings(&self) -> Option<&Settings> {
        Some(&self.settings)
    }
}

impl Interfaces for MemoryTables {
    fn interface(&self, index: u32) -> Option<&Interface> {
        self.interfaces.get(&index)
    }

    fn near_interface(&self, index: u32) -> Option<Interface> {
        self.interface(index).copied()
    }
}

impl Mappings<Addr4> for MemoryTables {
    fn mapping(&self, key: &MappingKey4) -> Option<&MappingRecord4> {
        self.mappings.borrow().get(key).copied()
    }

    fn add_mapping(&self, key: &MappingKey4, record: &MappingRecord4) -> Result<(), InsertError> {
        add(&self.mappings, *key, *record)
    }

    fn remove_mapping(&self, key: &MappingKey4) {
        self.mappings.borrow_mut().remove(key);
    }
}

impl Ports<Addr4> for MemoryTables {
    fn port(&self, key: &PortKey4) -> Option<&PortOwner<Addr4>> {
        self.ports.borrow().get(key).copied()
    }

    fn add_port(&self, key: &PortKey4, record: &PortRecord4) -> Result<(), InsertError> {
        add(&self.ports, *key, record.in_table())
    }

    fn remove_port(&self, key: &PortKey4) {
        self.ports.borrow_mut().remove(key);
    }
}

impl Permits<Addr4> for MemoryTables {
    fn permit(&self, key: &PermitKey4) -> Option<&References> {
        self.permits.borrow().get(key).copied()
    }

    fn add_permit(&self, key: &PermitKey4) -> Result<(), InsertError> {
        add(&self.permits, *key, References::new(1))
    }

    fn remove_permit(&self, key: &PermitKey4) {
        self.permits.borrow_mut().remove(key);
    }
}

impl Guests<Addr4> for MemoryTables {
    fn guest(&self, key: &GuestKey4) -> Option<&Guest> {
        self.guests.borrow().get(key).copied()
    }

    fn port_of(&self, _address: Addr4, _network: u16) -> u32 {
        0
    }

    fn add_guest(&self, key: &GuestKey4, port: u32) -> Result<(), InsertError> {
        let guest = Guest {
            port: Shared::new(port),
            references: References::new(0),
            sessions: Shared::new(0),
            ports: Shared::new(0),
        };
        add(&self.guests, *key, guest)
    }

    fn remove_guest(&self, key: &GuestKey4) {
        self.guests.borrow_mut().remove(key);
    }
}

impl Forwards<Addr4> for MemoryTables {
    fn forward(&self, _: u16, protocol: u8, to: Endpoint<Addr4>) -> Option<&Forward4> {
        let is_range = (10_000..10_100).contains(&to.port.number());
        let is_forwarded = match protocol {
            TCP | UDP => is_range,
            ICMP => true,
            _ => false,
        };
        (to.address == Addr4(PUBLIC) && is_forwarded).then_some(&self.forward)
    }
}

impl ForwardSources<Addr4> for MemoryTables {
    fn forward_source(
        &self,
        _: &Origin,
        protocol: u8,
        internal: Endpoint<Addr4>,
    ) -> Option<&ForwardSource4> {
        let is_served = (80..180).contains(&internal.port.number());
        let is_target = internal.address == Addr4(guest(super::SERVER)) && is_served;
        (is_target && matches!(protocol, TCP | UDP)).then_some(&self.forward_source)
    }
}

impl Snats<Addr4> for MemoryTables {
    fn snat(&self, _: u16, _: u16, _: u16, source: Addr4) -> Option<&Snat4> {
        (source.0[..3] == [172, 22, 161]).then_some(&self.snat)
    }
}

impl Excludes<Addr4> for MemoryTables {
    fn is_excluded(&self, _: u16, _: u32, _: Addr4) -> bool {
        false
    }
}

impl ExternalAddresses<Addr4> for MemoryTables {
    fn external_address(&self, _: u16, address: Addr4) -> Option<&ExternalAddress> {
        (address == Addr4(PUBLIC)).then_some(&self.external)
    }
}

impl InsideAddresses<Addr4> for MemoryTables {
    fn inside(&self, _: u16, address: Addr4) -> Option<&Inside4> {
        (address.0[..3] == [172, 22, 161]).then_some(&self.inside)
    }
}

impl Policies<Addr4> for MemoryTables {
    fn chain(&self, _: &ChainKey) -> Option<&Chain> {
        None
    }

    fn policy(&self, _: u32, _: u32) -> Option<&Policy4> {
        None
    }
}

impl Routes<Addr4> for MemoryTables {
    fn route_lookup(&self, _: u32, _: Addr4, _: Addr4) -> u32 {
        way::NOWHERE
    }

    fn is_there(&self, _: u32) -> bool {
        true
    }
}

impl Uplinks for MemoryTables {
    fn uplink(&self, _: u32) -> Option<&Uplink> {
        None
    }

    fn is_exit(&self, _: u32) -> bool {
        true
    }
}

impl Fragments<Addr4> for MemoryTables {
    fn fragment(&self, key: &FragmentKey4) -> Option<&FragmentPorts> {
        self.fragments.borrow().get(key).copied()
    }

    fn put_fragment(&self, key: &FragmentKey4, ports: &FragmentPorts) {
        self.fragments
            .borrow_mut()
            .insert(*key, Box::leak(Box::new(*ports)));
    }

    fn add_fragment(&self, key: &FragmentKey4, ports: &FragmentPorts) -> Result<(), InsertError> {
        if self.fragments.borrow().contains_key(key) {
            return Err(InsertError::Exists);
        }
        self.put_fragment(key, ports);
        Ok(())
    }
}

impl Datagrams<Addr4> for MemoryTables {
    fn datagram(&self, key: &FragmentKey4) -> Option<&Datagram> {
        self.datagrams.borrow().get(key).copied()
    }

    fn add_datagram(&self, key: &FragmentKey4) -> Result<(), InsertError> {
        let mut datagrams = self.datagrams.borrow_mut();
        if datagrams.contains_key(key) {
            return Err(InsertError::Exists);
        }
        datagrams.insert(*key, Box::leak(Box::default()));
        Ok(())
    }

    fn remove_datagram(&self, key: &FragmentKey4) {
        self.datagrams.borrow_mut().remove(key);
    }
}

impl QueuedFragments<Addr4> for MemoryTables {
    fn queued(&self, slot: u32) -> Option<&Queued<Addr4>> {
        let mut queued = self.queued.borrow_mut();
        Some(
            queued
                .entry(slot)
                .or_insert_with(|| Box::leak(Box::default())),
        )
    }
}

impl RateLimiters for MemoryTables {
    fn rate_limiter(&self, number: u32) -> Option<&Shared> {
        let mut clocks = self.rate_limiters.borrow_mut();
        let clock = clocks.entry(number);
        Some(clock.or_insert_with(|| Box::leak(Box::new(Shared::new(0)))))
    }
}

impl NextHops for MemoryTables {
    fn next_hop(&self, _: Tag) -> Option<&NextHop> {
        None
    }

    fn next_hop_tag(&self, _: &NextHopKey) -> Tag {
        next_hops::NONE
    }

    fn is_fast_path_on(&self, _: u32) -> bool {
        false
    }
}

impl Rules for MemoryTables {
    fn is_rule_fast(&self, _: u32) -> bool {
        false
    }
}

impl HostSockets<Addr4> for MemoryTables {
    fn host_socket(&self, _: u8, _: Endpoint<Addr4>, local: Endpoint<Addr4>) -> HostSocket {
        // A service of the host on a port that guests would like to have.
        if local.port == Port::new(5001) {
            HostSocket::Listening
        } else {
            HostSocket::None
        }
    }
}

impl Counters for MemoryTables {
    fn count(&self, _: u32, _: Traffic) {}

    fn count_drop(&self, _: DropReason) {}

    fn count_opened(&self, _: u32) {}

    fn count_closed(&self, _: u32) {}
}
