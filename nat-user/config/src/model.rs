//! The meaning of a valid configuration.
//!
//! Every value here is checked: prefixes contain their addresses, ranges are not inverted, names
//! resolve. The rest of the program never sees the text of the file. Indices such as [`UplinkId`]
//! point into the vectors of [`Config`].

use std::{fmt, net::Ipv4Addr, num::NonZeroU32};

use ipnet::Ipv4Net;

/// A whole configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The path of packets of established sessions, unless a rule says otherwise.
    pub forwarding: Forwarding,
    /// `[uplink.NAME]`, in the order of the file.
    pub uplinks: Vec<Uplink>,
    /// `[network.NAME]`, in the order of the file.
    pub networks: Vec<Network>,
    /// `[[guest]]`, in the order of the file.
    pub guests: Vec<Guest>,
    /// `[[route]]`, in the order of the file.
    pub routes: Vec<Route>,
    /// `[[snat]]`, in the order in which they are tried.
    pub snat: Vec<SnatRule>,
    /// `[[forward]]`, in the order in which they are tried.
    pub forwards: Vec<ForwardRule>,
    /// `[[nat]]`, in the order of the file.
    pub nats: Vec<NatRule>,
    /// `[[policy]]`, in the order in which they are tried.
    pub policies: Vec<PolicyRule>,
    /// `[limits]`.
    pub limits: Limits,
    /// `[timeouts]`.
    pub timeouts: Timeouts,
}

impl Config {
    /// How many rules have a number.
    #[must_use]
    pub fn rule_count(&self) -> usize {
        let translating = self.snat.len() + self.forwards.len() + self.nats.len();
        translating + self.policies.len() + self.networks.len()
    }

    /// Whether policies have any effect.
    #[must_use]
    pub fn has_policies(&self) -> bool {
        let says_something =
            |network: &Network| network.policy == Action::Drop || network.host.is_some();
        !self.policies.is_empty() || self.networks.iter().any(says_something)
    }
}

/// Index into [`Config::uplinks`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UplinkId(pub usize);

/// Index into [`Config::networks`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkId(pub usize);

/// A way to the outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// The name in `[uplink.NAME]`.
    pub name: String,
    /// The network interface.
    pub interface: String,
    /// The external addresses.
    pub addresses: UplinkAddresses,
    /// Which hook carries inbound packets.
    pub mode: Mode,
    /// Ports (of tcp or udp only) of the host's own addresses that a forward takes only if it names
    /// them individually, not by a range, by `all` or without ports.
    pub reserved_ports: Vec<(ForwardProtocol, u16)>,
    /// The largest segment that TCP connections through it may announce.
    pub mss_clamp: MssClamp,
    /// What is done for external addresses that no interface of the host holds.
    pub claim: Claim,
}

/// What is done for external addresses that no interface of the host holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// The programs answer ARP for them.
    Arp,
    /// natbpf adds them to the uplink's interface.
    Add,
    /// Nothing: other software handles them.
    None,
}

/// The largest segment that TCP connections through an uplink may announce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MssClamp {
    /// What fits the narrowest interface, where the interfaces differ.
    Auto,
    /// Whatever the ends announce.
    Off,
    /// This many bytes, from 88 to 65495.
    Bytes(u16),
}

impl MssClamp {
    /// Segments that any IPv4 host takes, with room for options (`TCP_MIN_MSS` in the kernel's
    /// `include/net/tcp.h`), in bytes.
    pub const LEAST: u16 = 88;
    /// The largest segment in the largest packet without options, in bytes.
    pub const MOST: u16 = u16::MAX - 40;
}

/// Where an uplink's external addresses come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UplinkAddresses {
    /// The interface's own addresses, followed as they change.
    Interface,
    /// Exactly these, in this order; the first is the one that masquerade uses.
    Fixed(Vec<Ipv4Addr>),
}

/// Which hook carries inbound packets of an uplink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The one that is best for the interface.
    Auto,
    /// Traffic control.
    Tc,
    /// XDP for what it can carry, traffic control for the rest.
    Xdp,
}

/// The path of packets of established sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarding {
    /// Straight to the port of the other side.
    Fast,
    /// All through the kernel's routing and netfilter.
    Kernel,
}

/// An inside network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// The name in `[network.NAME]`.
    pub name: String,
    /// The bridge or plain interface.
    pub interface: String,
    /// The host's address in the network and the length of its prefix.
    pub address: Ipv4Net,
    /// Whether natbpf creates the bridge if it is missing.
    pub create: bool,
    /// Interfaces to attach to a bridge that natbpf creates.
    pub ports: Vec<String>,
    /// Whether its guests may send only from addresses that are theirs.
    pub anti_spoof: bool,
    /// Whether the ports that natbpf attaches may not reach each other by the bridge.
    pub isolated: bool,
    /// The default policy for flows to and from its guests.
    pub policy: Action,
    /// The services of the host that its guests may use; `None` is everything.
    pub host: Option<Vec<HostService>>,
    /// How its guests get their addresses, if this host serves DHCP.
    pub dhcp: Option<Dhcp>,
    /// How this host answers its guests' DNS queries, if it does.
    pub dns: Option<Dns>,
}

/// The outcome for a new flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It is opened, and what answers it passes.
    Accept,
    /// Its packets are dropped.
    Drop,
}

/// A service of the host for guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HostService {
    /// An address, by DHCP.
    Dhcp,
    /// Names, by UDP and TCP.
    Dns,
    /// ICMP echo.
    Ping,
    /// A port of TCP or UDP.
    Port(ForwardProtocol, u16),
}

/// A `[[policy]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyRule {
    /// Unique among the policies.
    pub name: String,
    /// The side that opens the flow: any of these.
    pub from: Vec<PolicyEnd>,
    /// The other side: any of these.
    pub to: Vec<PolicyEnd>,
    /// The protocols, each once. `All` stands alone.
    pub protocols: Vec<ForwardProtocol>,
    /// Destination ports on the guest; empty means all. For tcp and udp only.
    pub ports: Vec<PortRange>,
    /// Its outcome.
    pub action: Action,
}

/// One end of the flows of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PolicyEnd {
    /// Any, except the host itself.
    Any,
    /// The host itself; only as a destination.
    Host,
    /// All hosts behind an uplink.
    Uplink(UplinkId),
    /// All guests of a network.
    Network(NetworkId),
    /// All hosts with such an address.
    Prefix(Ipv4Net),
    /// A guest.
    Guest(GuestAddress),
}

/// `[network.NAME.dhcp]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dhcp {
    /// The lowest address that is leased; all addresses of the range are in the network, and none
    /// is the host's or the gateway's.
    pub first: Ipv4Addr,
    /// The highest one, itself included.
    pub last: Ipv4Addr,
    /// For how long an address is leased, in seconds.
    pub lease_time_s: u32,
    /// The gateway that guests receive.
    pub gateway: Ipv4Addr,
    /// The name servers that guests receive.
    pub dns: Vec<Ipv4Addr>,
    /// The domain that guests receive and in which their names are.
    pub domain: Option<String>,
}

/// `[network.NAME.dns]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// Servers for names that are not guests'.
    pub forwarders: Forwarders,
    /// Whether these may answer with private addresses.
    pub private_answers: bool,
}

/// Servers for names that are not guests'.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Forwarders {
    /// Those in the host's `/etc/resolv.conf`, as it changes.
    Host,
    /// Exactly these; none if the list is empty.
    Fixed(Vec<Ipv4Addr>),
}

/// Where a guest is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum GuestAddress {
    /// At a fixed address.
    Fixed(Ipv4Addr),
    /// At the address of its lease.
    Leased {
        /// Whose lease it is.
        tenant: Tenant,
        /// The leased address. `None` after the file is read, and while there is no lease.
        now: Option<Ipv4Addr>,
    },
}

/// The owner of a lease.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tenant {
    /// The network in which the lease is; `None` is any.
    pub network: Option<NetworkId>,
    /// How it is identified.
    pub identity: Identity,
}

/// How the owner of a lease is identified.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Identity {
    /// The name that it gives itself, in lower case.
    Name(String),
    /// Its link-layer address.
    Mac([u8; 6]),
}

/// A guest with a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// Unique among the `[[guest]]` tables.
    pub name: String,
    /// The network that it is in.
    pub network: NetworkId,
    /// Its address, which no other guest has; a lease only if the network has DHCP.
    pub address: GuestAddress,
    /// Its link-layer address, which no other guest of the network has.
    pub mac: [u8; 6],
    /// Its port of the network's bridge, if that is known.
    pub port: Option<String>,
}

/// Addresses that guests of a network hold themselves. Their packets are routed, never translated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Unique among the `[[route]]` tables.
    pub name: String,
    /// Where the guests are.
    pub network: NetworkId,
    /// The addresses. No other table has any of them. Every address of a prefix belongs to a guest,
    /// including the first and the last.
    pub addresses: Vec<Ipv4Net>,
    /// The uplink whose address the host uses towards the guests, and to which `arp` applies.
    pub uplink: UplinkId,
    /// An address of the host that natbpf adds to the network's interface too.
    pub gateway: Option<Ipv4Addr>,
    /// Whether the host answers ARP of guests for other addresses.
    pub proxy_arp: bool,
    /// Whether the host answers ARP on the uplink for the addresses.
    pub arp: bool,
}

/// A source translation rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnatRule {
    /// Unique among the `[[snat]]` rules.
    pub name: String,
    /// Whose packets it translates.
    pub source: SnatSource,
    /// The uplink by which they leave.
    pub uplink: UplinkId,
    /// The external addresses.
    pub to: SnatTarget,
    /// External ports that it may use.
    pub ports: PortRange,
    /// Mapping behaviour (RFC 4787 section 4.1).
    pub mapping: MappingBehaviour,
    /// Filtering behaviour (RFC 4787 section 5).
    pub filtering: FilteringBehaviour,
    /// Destinations that are not translated.
    pub exclude: Vec<Ipv4Net>,
    /// The path of packets of its sessions.
    pub forwarding: Forwarding,
}

/// Whose packets a `[[snat]]` rule translates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnatSource {
    /// Those of a network.
    Network(NetworkId),
    /// Those from a prefix, at any interface.
    Prefix(Ipv4Net),
}

/// The external addresses of a `[[snat]]` rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnatTarget {
    /// The uplink's first address, followed as it changes.
    Masquerade,
    /// One address (`first == last`) or a pool of consecutive ones.
    Pool {
        /// The lowest address.
        first: Ipv4Addr,
        /// The highest address, itself included.
        last: Ipv4Addr,
    },
}

/// Ports from `first` to `last`, both included, `1 <= first <= last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    /// The lowest port.
    pub first: u16,
    /// The highest port.
    pub last: u16,
}

/// Mapping behaviour (RFC 4787 section 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MappingBehaviour {
    /// One external endpoint for an internal endpoint, whatever the remote is.
    EndpointIndependent,
    /// An external port may serve several internal endpoints towards different remotes.
    AddressAndPortDependent,
}

/// Filtering behaviour (RFC 4787 section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilteringBehaviour {
    /// Any remote may send to a mapping.
    EndpointIndependent,
    /// Any port of an address that the internal endpoint has sent to.
    AddressDependent,
    /// Only the endpoints that the internal endpoint has sent to.
    AddressAndPortDependent,
}

/// A destination translation rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardRule {
    /// Unique among the `[[forward]]` rules.
    pub name: String,
    /// The uplink whose addresses it forwards.
    pub uplink: UplinkId,
    /// What it forwards.
    pub matches: ForwardMatch,
    /// The external address; `None` is every address of the uplink.
    pub address: Option<Ipv4Addr>,
    /// The guest.
    pub to: GuestAddress,
    /// Whether guests also reach it by the public address.
    pub hairpin: bool,
    /// Whether the host itself reaches it by the public address, and by 127.0.0.1.
    pub local: bool,
    /// The path of packets of its sessions.
    pub forwarding: Forwarding,
}

/// What a `[[forward]]` rule forwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardMatch {
    /// The protocols, each once. `All` stands alone.
    pub protocols: Vec<ForwardProtocol>,
    /// Which ports go to which; empty means all ports, unchanged (and always for a rule that has
    /// neither tcp nor udp). Ranges do not overlap within one rule.
    pub ports: Vec<PortForward>,
}

/// A protocol in a `[[forward]]` rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ForwardProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP queries. Errors follow the sessions that they are about.
    Icmp,
    /// Every IP protocol.
    All,
}

/// External ports and the guest's ports to which they lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortForward {
    /// The external ports.
    pub external: PortRange,
    /// The guest's ports: a range of the same size (port by port, maybe shifted) or one port
    /// (many to one).
    pub internal: PortRange,
}

/// One external address for one guest, in both directions and for every protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatRule {
    /// Unique among the `[[nat]]` rules.
    pub name: String,
    /// The uplink by which the address is reached, and by which the guest leaves with it.
    pub uplink: UplinkId,
    /// The external address; no other `[[nat]]` rule has it.
    pub address: Ipv4Addr,
    /// The guest; no other `[[nat]]` rule of this uplink has it.
    pub to: GuestAddress,
    /// Whether guests also reach it by the external address.
    pub hairpin: bool,
    /// The path of packets of its sessions.
    pub forwarding: Forwarding,
}

/// `[limits]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest number of sessions; both directions of a connection are one session.
    pub sessions: u32,
    /// Sessions that one guest may have; `None` is [`Self::guest_sessions`].
    pub sessions_per_guest: Option<NonZeroU32>,
    /// External ports that one guest may have; `None` is [`Self::GUEST_PORTS`].
    pub ports_per_guest: Option<NonZeroU32>,
}

impl Limits {
    /// External ports that one guest may have by default: more than the 28,232 that Linux uses for
    /// connections, and half of those of an address.
    pub const GUEST_PORTS: u32 = 32_768;

    /// Sessions that one guest may have: by default half of all.
    #[must_use]
    pub fn guest_sessions(&self) -> u32 {
        let half = self.sessions.div_ceil(2);
        self.sessions_per_guest.map_or(half, NonZeroU32::get)
    }

    /// External ports that one guest may have.
    #[must_use]
    pub fn guest_ports(&self) -> u32 {
        let ports = self.ports_per_guest;
        ports.map_or(Self::GUEST_PORTS, NonZeroU32::get)
    }
}

/// `[timeouts]`, idle time after which a session ends, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// UDP (RFC 4787 REQ-5).
    pub udp_s: u32,
    /// TCP before the handshake is complete (RFC 5382 REQ-5).
    pub tcp_opening_s: u32,
    /// TCP after the handshake (RFC 5382 REQ-5).
    pub tcp_established_s: u32,
    /// TCP after FIN both ways or RST (RFC 5382 REQ-5, RFC 7857 section 2).
    pub tcp_closing_s: u32,
    /// ICMP queries (RFC 5508 REQ-2).
    pub icmp_s: u32,
    /// Every other protocol.
    pub other_s: u32,
    /// Fragments of one packet (RFC 4787 section 11).
    pub fragment_s: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions: 262_144,
            sessions_per_guest: None,
            ports_per_guest: None,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            udp_s: 300,
            tcp_opening_s: 240,
            tcp_established_s: 7440,
            tcp_closing_s: 240,
            icmp_s: 60,
            other_s: 600,
            fragment_s: 30,
        }
    }
}

impl GuestAddress {
    /// The current address, if there is one.
    #[must_use]
    pub fn now(&self) -> Option<Ipv4Addr> {
        match self {
            Self::Fixed(address) => Some(*address),
            Self::Leased { now, .. } => *now,
        }
    }

    /// The address, if it is not leased.
    #[must_use]
    pub fn fixed(&self) -> Option<Ipv4Addr> {
        match self {
            Self::Fixed(address) => Some(*address),
            Self::Leased { .. } => None,
        }
    }

    /// At the address of a lease.
    #[must_use]
    pub fn leased(network: Option<NetworkId>, identity: Identity) -> Self {
        let tenant = Tenant { network, identity };
        Self::Leased { tenant, now: None }
    }
}

impl From<Ipv4Addr> for GuestAddress {
    fn from(address: Ipv4Addr) -> Self {
        Self::Fixed(address)
    }
}

impl fmt::Display for GuestAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(address) => address.fmt(formatter),
            Self::Leased { tenant, .. } => tenant.identity.fmt(formatter),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => formatter.write_str(name),
            Self::Mac(mac) => formatter.write_str(&mac_text(*mac)),
        }
    }
}

/// A link-layer address as people write it.
#[must_use]
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

impl PortRange {
    /// How many ports it contains, 1 to 65535.
    #[must_use]
    pub fn count(self) -> u32 {
        u32::from(self.last) - u32::from(self.first) + 1
    }

    /// Whether the two share a port.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl PolicyEnd {
    /// The guest's address, if it is one.
    pub fn guest_mut(&mut self) -> Option<&mut GuestAddress> {
        match self {
            Self::Guest(address) => Some(address),
            _ => None,
        }
    }
}
