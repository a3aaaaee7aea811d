//! The tables that decisions are made from, a file for the layout of each.

pub mod addresses;
pub mod asked;
pub mod bindings;
pub mod counters;
pub mod datagrams;
pub mod environment;
pub mod excludes;
pub mod forward_sources;
pub mod forwards;
pub mod fragments;
pub mod guests;
pub mod held;
pub mod host;
pub mod insert;
pub mod inside;
pub mod interfaces;
pub mod mappings;
pub mod next_hops;
pub mod origin;
pub mod permits;
pub mod policies;
pub mod ports;
pub mod references;
pub mod refusals;
pub mod routes;
pub mod rules;
pub mod sessions;
pub mod settings;
pub mod snats;
pub mod uplinks;

use crate::{
    address::{Address, Endpoint},
    atomics::Shared,
    drop_reason::DropReason,
    tables::{
        addresses::ExternalAddress,
        counters::Traffic,
        datagrams::Datagram,
        forward_sources::ForwardSource,
        forwards::Forward,
        fragments::{FragmentKey, FragmentPorts},
        guests::{Guest, GuestKey},
        held::Held,
        host::HostSocket,
        insert::InsertError,
        inside::Inside,
        interfaces::Interface,
        mappings::{MappingKey, MappingRecord},
        next_hops::{NextHop, NextHopKey, Tag},
        origin::Origin,
        permits::PermitKey,
        policies::{Chain, ChainKey, Policy},
        ports::{PortKey, PortOwner, PortRecord},
        references::References,
        sessions::{Session, SessionKey, SessionRecord},
        settings::Settings,
        snats::Snat,
        uplinks::Uplink,
    },
};

/// The tables, the clock and the chance of a data plane.
///
/// Adding never replaces an entry. Entries are shared with other CPUs: what may change in one is
/// atomic.
pub trait Tables<A: Address> {
    /// The monotonic clock in seconds.
    fn now_s(&self) -> u32;
    /// A random number.
    fn random(&self) -> u32;
    /// Calls `step` with 0, 1, … as long as it says so, at the most `times` times.
    fn repeat(&self, times: u32, step: impl FnMut(u32) -> bool);
    /// Called before another look at what another CPU is about to change.
    fn pause(&self);
    /// How many flows of the host's own are noted at the most.
    fn host_sessions(&self) -> u32;
    /// What the configuration sets for all packets.
    fn settings(&self) -> Option<&Settings>;
    /// The role of an interface.
    fn interface(&self, index: u32) -> Option<&Interface>;
    /// The same, copied, and without a search where that can be.
    fn near_interface(&self, index: u32) -> Option<Interface>;

    /// Looks a session's entry up.
    fn session(&self, key: &SessionKey<A>) -> Option<&Session<A>>;
    /// Adds a session's entry.
    fn add_session(
        &self,
        key: &SessionKey<A>,
        record: &SessionRecord<A>,
    ) -> Result<(), InsertError>;
    /// Removes a session's entry.
    fn remove_session(&self, key: &SessionKey<A>);

    /// Looks the external endpoint of an internal one up.
    fn mapping(&self, key: &MappingKey<A>) -> Option<&MappingRecord<A>>;
    /// Adds a mapping.
    fn add_mapping(
        &self,
        key: &MappingKey<A>,
        record: &MappingRecord<A>,
    ) -> Result<(), InsertError>;
    /// Removes a mapping.
    fn remove_mapping(&self, key: &MappingKey<A>);

    /// Looks the owner of an external port up.
    fn port(&self, key: &PortKey<A>) -> Option<&PortOwner<A>>;
    /// Claims an external port.
    fn add_port(&self, key: &PortKey<A>, record: &PortRecord<A>) -> Result<(), InsertError>;
    /// Gives an external port back.
    fn remove_port(&self, key: &PortKey<A>);

    /// Looks up whether a remote address may send to an external port.
    fn permit(&self, key: &PermitKey<A>) -> Option<&References>;
    /// Adds a permit with one reference.
    fn add_permit(&self, key: &PermitKey<A>) -> Result<(), InsertError>;
    /// Removes a permit.
    fn remove_permit(&self, key: &PermitKey<A>);

    /// Looks up what a guest has.
    fn guest(&self, key: &GuestKey<A>) -> Option<&Guest>;
    /// Adds a guest with nothing and no reference, behind this port.
    fn add_guest(&self, key: &GuestKey<A>, port: u32) -> Result<(), InsertError>;
    /// The index of the port that an address of a network is bound to, 0 for none.
    fn port_of(&self, address: A, network: u16) -> u32;
    /// Removes a guest.
    fn remove_guest(&self, key: &GuestKey<A>);

    /// The forward rule for packets to an external endpoint.
    fn forward(&self, generation: u16, protocol: u8, to: Endpoint<A>) -> Option<&Forward<A>>;
    /// The external source of what a forward's target sends from a forwarded port, by TCP or UDP.
    fn forward_source(
        &self,
        origin: &Origin,
        protocol: u8,
        internal: Endpoint<A>,
    ) -> Option<&ForwardSource<A>>;
    /// The source translation rule for packets of `source` that leave by `uplink`.
    fn snat(&self, generation: u16, uplink: u16, network: u16, source: A) -> Option<&Snat<A>>;
    /// Whether a source translation rule leaves packets to `destination` alone.
    fn is_excluded(&self, generation: u16, rule: u32, destination: A) -> bool;
    /// The uplink of an external address.
    fn external_address(&self, generation: u16, address: A) -> Option<&ExternalAddress>;
    /// What is known of an inside address.
    fn inside(&self, generation: u16, address: A) -> Option<&Inside<A>>;

    /// The policies between two sides.
    fn chain(&self, key: &ChainKey) -> Option<&Chain>;
    /// One entry of the policies of a generation.
    fn policy(&self, generation: u32, index: u32) -> Option<&Policy<A>>;
    /// Where the kernel sends a packet that came in by an interface: the index of another one, or a
    /// [`way`](crate::tables::routes::way).
    fn way(&self, interface: u32, source: A, destination: A) -> u32;
    /// The uplink at a place from 0 to [`crate::tables::uplinks::UPLINKS`].
    fn uplink(&self, place: u32) -> Option<&Uplink>;
    /// Whether there is an interface of this index.
    fn is_there(&self, interface: u32) -> bool;
    /// Whether the daemon knows by this interface whether what leaves there is to be translated, and, if so, has
    /// attached the programs to it.
    fn is_exit(&self, interface: u32) -> bool;

    /// What the first fragment of a packet said.
    fn fragment(&self, key: &FragmentKey<A>) -> Option<&FragmentPorts>;
    /// Remembers what the first fragment of a packet says; the oldest make room.
    fn put_fragment(&self, key: &FragmentKey<A>, ports: &FragmentPorts);
    /// Adds what the first fragment of a packet said; the oldest make room.
    fn add_fragment(&self, key: &FragmentKey<A>, ports: &FragmentPorts) -> Result<(), InsertError>;
    /// Looks a packet up that is being sent in fragments.
    fn datagram(&self, key: &FragmentKey<A>) -> Option<&Datagram>;
    /// Adds one of which nothing has come; the oldest make room.
    fn add_datagram(&self, key: &FragmentKey<A>) -> Result<(), InsertError>;
    /// Removes one.
    fn remove_datagram(&self, key: &FragmentKey<A>);
    /// A slot for a fragment that waits for the first one.
    fn held(&self, slot: u32) -> Option<&Held<A>>;

    /// The clock of refusals with this number, below [`crate::tables::refusals::CLOCKS`].
    fn refusal_clock(&self, number: u32) -> Option<&Shared>;

    /// The next hop of this tag, if it is in use.
    fn next_hop(&self, tag: Tag) -> Option<&NextHop>;
    /// The tag of the next hop behind a link-layer address, [`crate::tables::next_hops::NONE`] if it has none.
    fn next_hop_tag(&self, key: &NextHopKey) -> Tag;
    /// Whether sessions may take the fast path at this second.
    fn is_fast_path_on(&self, now_s: u32) -> bool;
    /// Whether sessions that count under a rule may take the fast path.
    fn is_rule_fast(&self, rule: u32) -> bool;

    /// Which socket of the host takes packets of `protocol` from `remote` to `local`.
    fn host_socket(&self, protocol: u8, remote: Endpoint<A>, local: Endpoint<A>) -> HostSocket;

    /// Counts a packet under a rule.
    fn count(&self, rule: u32, traffic: Traffic);
    /// Counts a dropped packet.
    fn count_drop(&self, reason: DropReason);
    /// Counts a session that was opened.
    fn count_opened(&self, rule: u32);
    /// Counts a session that has ended.
    fn count_closed(&self, rule: u32);
}
