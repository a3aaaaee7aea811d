//! Compiled rules: what the daemon makes of the configuration, and what a lookup gives.
//!
//! Every key starts with the generation of the rule set, so that a new set is written beside the
//! one in use and taken into use by one write of [`Settings::generation`].

use crate::address::{Addr4, Port};

/// Key of `FORWARDS`, a longest-prefix match over the last bits of the port.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
pub struct ForwardKey<A> {
    /// Generation of the rule set.
    pub generation: u16,
    /// IP protocol number, or [`OTHER_PROTOCOLS`].
    pub protocol: u8,
    /// Zero.
    pub reserved: u8,
    /// External address.
    pub address: A,
    /// External port; 0 for protocols without ports and for ICMP queries.
    pub port: Port,
    /// Zero, behind the prefix.
    pub padding: [u8; 2],
}

/// [`ForwardKey::protocol`] of all protocols but TCP, UDP and ICMP. (0 is the IPv6 hop-by-hop
/// option, which no IPv4 packet carries as its protocol.)
pub const OTHER_PROTOCOLS: u8 = 0;

/// Value of `FORWARDS`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Forward<A> {
    /// The guest's address.
    pub to: A,
    /// Number of the rule.
    pub rule: u32,
    /// Number of the guest's network, 0 if none has its address.
    pub network: u16,
    /// First external port of the range.
    pub first_external: u16,
    /// The guest's port for it.
    pub first_internal: u16,
    /// Bits of [`forward_flags`].
    pub flags: u8,
    /// Zero.
    pub reserved: u8,
}

/// Bits of [`Forward::flags`].
pub mod forward_flags {
    /// All ports of the range go to the first internal one.
    pub const MANY_TO_ONE: u8 = 1 << 0;
    /// Guests reach it by the external address as well.
    pub const HAIRPIN: u8 = 1 << 1;
    /// The host itself reaches it by the external address, and by its loopback address.
    pub const LOCAL: u8 = 1 << 2;
    /// It names what the guest serves: that is accepted where no policy says otherwise.
    pub const ACCEPTED: u8 = 1 << 3;
    /// It takes whatever comes to the address. Source translation may use ports of the address all
    /// the same: there would be none left, and what answers a session finds that first.
    pub const WHOLE: u8 = 1 << 4;
}

/// Key of `FORWARD_SOURCES`, a longest-prefix match over the last bits of the port.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
pub struct ForwardSourceKey<A> {
    /// Generation of the rule set.
    pub generation: u16,
    /// Number of the uplink.
    pub uplink: u16,
    /// Number of the guest's network, 0 if none has its address.
    pub network: u16,
    /// IP protocol number of TCP or UDP.
    pub protocol: u8,
    /// Zero.
    pub reserved: u8,
    /// The guest's address.
    pub address: A,
    /// The guest's port.
    pub port: Port,
    /// Zero, behind the prefix.
    pub padding: [u8; 2],
}

/// Value of `FORWARD_SOURCES`: what a forward's target sends from a forwarded port leaves from the
/// port by which that is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct ForwardSource<A> {
    /// The first external address of the rule.
    pub address: A,
    /// First port of the guest's range.
    pub first_internal: u16,
    /// The external port for it.
    pub first_external: u16,
}

/// Key of `SNATS`, a longest-prefix match over the source address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
pub struct SnatKey<A> {
    /// Generation of the rule set.
    pub generation: u16,
    /// Number of the uplink.
    pub uplink: u16,
    /// Number of the network that the packet came from, 0 if from none; or [`BY_DESTINATION`].
    pub network: u16,
    /// Zero.
    pub reserved: [u8; 2],
    /// Source address.
    pub source: A,
}

/// [`SnatKey::network`] of entries that only say by which address the host reaches a destination, which
/// stands in the place of the source.
pub const BY_DESTINATION: u16 = u16::MAX;

/// Value of `SNATS`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Snat<A> {
    /// First external address; unspecified if the uplink has none, and then nothing leaves.
    pub first: A,
    /// Last external address.
    pub last: A,
    /// Number of the rule.
    pub rule: u32,
    /// First external port.
    pub first_port: u16,
    /// Last external port.
    pub last_port: u16,
    /// [`mapping`].
    pub mapping: u8,
    /// [`filtering`].
    pub filtering: u8,
    /// 1 if the rule has entries in `EXCLUDES`.
    pub has_excludes: u8,
    /// 1 if the uplink has entries [`BY_DESTINATION`] and the rule heeds them: destinations are reached by
    /// different addresses.
    pub by_destination: u8,
}

/// Mapping behaviour (RFC 4787 section 4.1).
pub mod mapping {
    /// One external endpoint for an internal one.
    pub const ENDPOINT_INDEPENDENT: u8 = 0;
    /// An external port may be shared towards different remotes.
    pub const ADDRESS_AND_PORT_DEPENDENT: u8 = 1;
    /// No translation: an address of the host's own within the prefix of a rule.
    pub const NONE: u8 = 2;
    /// One external address for one guest, with all ports of all protocols unchanged.
    pub const ONE_TO_ONE: u8 = 3;
}

/// Filtering behaviour (RFC 4787 section 5).
pub mod filtering {
    /// Anybody may send.
    pub const ENDPOINT_INDEPENDENT: u8 = 0;
    /// Addresses that the guest has sent to.
    pub const ADDRESS_DEPENDENT: u8 = 1;
    /// Endpoints that the guest has sent to.
    pub const ADDRESS_AND_PORT_DEPENDENT: u8 = 2;
}

/// Key of `EXCLUDES`, a longest-prefix match over the destination address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
pub struct ExcludeKey<A> {
    /// Number of the rule.
    pub rule: u32,
    /// Generation of the rule set.
    pub generation: u16,
    /// Zero.
    pub reserved: [u8; 2],
    /// Destination address.
    pub destination: A,
}

/// Key of `ADDRESSES`: an external address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
pub struct AddressKey<A> {
    /// The address.
    pub address: A,
    /// Generation of the rule set.
    pub generation: u16,
    /// Zero.
    pub reserved: [u8; 2],
}

/// Value of `ADDRESSES`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct ExternalAddress {
    /// Number of the uplink.
    pub uplink: u16,
    /// 1 if the host holds the address, so that what natbpf does not know is the host's.
    pub is_host: u8,
    /// 1 if the programs do not answer ARP for it.
    pub is_silent: u8,
}

/// Key of `INSIDE`, a longest-prefix match over inside addresses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
pub struct InsideKey<A> {
    /// Generation of the rule set.
    pub generation: u16,
    /// Zero.
    pub reserved: [u8; 2],
    /// The address.
    pub address: A,
}

/// Value of `INSIDE`: of a network's prefix, or of a single guest in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Inside<A> {
    /// Number of the network, 0 if the prefix stands in a rule alone.
    pub network: u16,
    /// Bits of [`inside_flags`].
    pub flags: u16,
    /// The host's address in the network, from which it sends ICMP errors; unspecified if the
    /// prefix stands in a rule alone.
    pub gateway: A,
    /// The guest's link-layer address, if [`inside_flags::HAS_MAC`] is set.
    pub mac: [u8; 6],
    /// Zero.
    pub reserved: [u8; 2],
}

/// Bits of [`Inside::flags`].
pub mod inside_flags {
    /// Only frames from [`super::Inside::mac`] may have this source address.
    pub const HAS_MAC: u16 = 1 << 0;
    /// Of a network's own prefix: each address belongs to the port that uses it first.
    pub const ON_LINK: u16 = 1 << 1;
}

/// Value of `INTERFACES`, whose key is the interface's index.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Interface {
    /// [`role`].
    pub role: u16,
    /// Number of the uplink or network, from 1; of a port that of its network.
    pub number: u16,
    /// Of an uplink: the largest TCP segment in bytes that a connection through it may announce
    /// (RFC 9293 section 3.7.1), 0 to leave announcements alone.
    pub mss: u16,
    /// Bits of [`interface_flags`].
    pub flags: u16,
    /// Its link-layer address, zero if it has none; of a port that of its bridge.
    pub mac: [u8; 6],
    /// Zero.
    pub reserved: [u8; 2],
}

/// Value of `NEAR_INTERFACES`: an interface where it is found without a search, at the index of the
/// interface modulo [`NEAR_INTERFACES`], unless another has that place.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct NearInterface {
    /// What is known of it.
    pub interface: Interface,
    /// Its index, 0 if the place is free.
    pub index: u32,
}

/// How many places for interfaces there are.
pub const NEAR_INTERFACES: u32 = 1024;

/// Value of `UPLINKS`: an uplink by which guests' packets leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Uplink {
    /// Index of the interface that has the programs, 0 if there is none.
    pub index: u32,
    /// Its number, 0 behind the last one.
    pub number: u16,
    /// Zero.
    pub reserved: [u8; 2],
}

/// How many uplinks have a place in `UPLINKS`. Where there are more, the last place stands for one that is
/// never there.
pub const UPLINKS: u32 = 16;

/// How many interfaces `EXITS` holds.
pub const EXITS: u32 = 4096;

/// What an interface is.
pub mod role {
    /// A way to the outside.
    pub const UPLINK: u16 = 1;
    /// An inside network.
    pub const NETWORK: u16 = 2;
    /// A port of an inside network's bridge.
    pub const PORT: u16 = 3;
}

/// Bits of [`Interface::flags`].
pub mod interface_flags {
    /// Guests of this network may send only from addresses that are theirs.
    pub const ANTI_SPOOF: u16 = 1 << 0;
    /// Guests are right behind this interface, which has the fast path: it is no bridge, whose ports
    /// have it.
    pub const NO_BRIDGE: u16 = 1 << 1;
    /// It is not the only uplink: sessions may have the address of another.
    pub const ONE_OF_SEVERAL: u16 = 1 << 2;
    /// There are policies.
    pub const POLICED: u16 = 1 << 3;
    /// Netfilter sees packets before the hook at its ingress does, as on a bridge with
    /// `bridge-nf-call-iptables`. A packet that is translated there is received anew, so that
    /// netfilter sees it as it is now.
    pub const NETFILTER_FIRST: u16 = 1 << 4;
    /// Its frames come from a stack on the same machine, which may have left checksums unfinished.
    pub const MAY_BE_UNFINISHED: u16 = 1 << 5;
    /// Frames that come by this port are judged ([`crate::guard`]).
    pub const GUARDED: u16 = 1 << 6;
    /// This port is up and has a carrier: what is bound to it stays so.
    pub const CARRIES: u16 = 1 << 7;
    /// Packets that come by this port do not take the fast path.
    pub const SLOW: u16 = 1 << 8;
}

/// Bits of a value of `RULES`, whose key is a rule's number.
pub mod rule_flags {
    /// Its packets all go the kernel's way.
    pub const KERNEL: u32 = 1 << 0;
}

/// The only value of `SETTINGS`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Settings {
    /// Generation of the rule set in use.
    pub generation: u32,
    /// Idle time of UDP sessions in seconds.
    pub udp_s: u32,
    /// Idle time of TCP sessions before the handshake is complete in seconds.
    pub tcp_opening_s: u32,
    /// Idle time of established TCP sessions in seconds.
    pub tcp_established_s: u32,
    /// Idle time of closed TCP sessions in seconds.
    pub tcp_closing_s: u32,
    /// Idle time of ICMP queries in seconds.
    pub icmp_s: u32,
    /// Idle time of all other sessions in seconds.
    pub other_s: u32,
    /// How long fragments wait for the first one, and its ports are remembered, in seconds.
    pub fragment_s: u32,
    /// Sessions that a guest may have, 0 for as many as there is room for.
    pub sessions_per_guest: u32,
    /// External ports that a guest may have, 0 for as many as there are.
    pub ports_per_guest: u32,
}

/// The port of DNS servers.
pub const DNS_PORT: u16 = 53;

/// Idle time in seconds of a question to [`DNS_PORT`] that was answered (RFC 4787 REQ-5c lets well-known
/// ports have shorter ones). A guest that sends again after an answer does more than ask: its session
/// has [`Settings::udp_s`].
pub const DNS_S: u32 = 10;

impl<A> Forward<A> {
    /// The guest's port for an external port of the range.
    #[inline(always)]
    #[must_use]
    pub fn internal_port(&self, external: Port) -> Port {
        if self.flags & forward_flags::MANY_TO_ONE != 0 {
            return Port::new(self.first_internal);
        }
        let shift = self.first_internal.wrapping_sub(self.first_external);
        Port::new(external.number().wrapping_add(shift))
    }
}

impl<A> ForwardSource<A> {
    /// The external port for one of the guest's.
    #[inline(always)]
    #[must_use]
    pub fn external_port(&self, internal: Port) -> Port {
        let shift = self.first_external.wrapping_sub(self.first_internal);
        Port::new(internal.number().wrapping_add(shift))
    }
}

/// IPv4 key of `FORWARDS`.
pub type ForwardKey4 = ForwardKey<Addr4>;
/// IPv4 value of `FORWARDS`.
pub type Forward4 = Forward<Addr4>;
/// IPv4 key of `FORWARD_SOURCES`.
pub type ForwardSourceKey4 = ForwardSourceKey<Addr4>;
/// IPv4 value of `FORWARD_SOURCES`.
pub type ForwardSource4 = ForwardSource<Addr4>;
/// IPv4 key of `SNATS`.
pub type SnatKey4 = SnatKey<Addr4>;
/// IPv4 value of `SNATS`.
pub type Snat4 = Snat<Addr4>;
/// IPv4 key of `EXCLUDES`.
pub type ExcludeKey4 = ExcludeKey<Addr4>;
/// IPv4 key of `ADDRESSES`.
pub type AddressKey4 = AddressKey<Addr4>;
/// IPv4 key of `INSIDE`.
pub type InsideKey4 = InsideKey<Addr4>;
/// IPv4 value of `INSIDE`.
pub type Inside4 = Inside<Addr4>;

crate::map_layout!(ForwardKey4, 12);
crate::map_layout!(Forward4, 16);
crate::map_layout!(ForwardSourceKey4, 16);
crate::map_layout!(ForwardSource4, 8);
crate::map_layout!(SnatKey4, 12);
crate::map_layout!(Snat4, 20);
crate::map_layout!(ExcludeKey4, 12);
crate::map_layout!(AddressKey4, 8);
crate::map_layout!(ExternalAddress, 4);
crate::map_layout!(InsideKey4, 8);
crate::map_layout!(Inside4, 16);
crate::map_layout!(Interface, 16);
crate::map_layout!(NearInterface, 20);
crate::map_layout!(Uplink, 8);
crate::map_layout!(Settings, 40);

/// Bits before the port in [`ForwardKey4`].
pub const FORWARD_FIXED_BITS: u32 = 64;
/// Bits before the port in [`ForwardSourceKey4`].
pub const FORWARD_SOURCE_FIXED_BITS: u32 = 96;
/// Bits before the address in [`SnatKey4`] and [`ExcludeKey4`].
pub const SNAT_FIXED_BITS: u32 = 64;
/// Bits before the address in [`InsideKey4`].
pub const INSIDE_FIXED_BITS: u32 = 32;
