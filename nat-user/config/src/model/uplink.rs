//! `[uplink.NAME]`.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::port::ForwardProtocol;

/// Index into [`super::Config::uplinks`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UplinkId(pub usize);

/// A way to the outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// The name in `[uplink.NAME]`.
    pub name: String,
    /// The network interface.
    pub interface: String,
    /// The external addresses.
    pub addresses: UplinkAddresses,
    /// The same for IPv6.
    pub addresses6: UplinkAddresses<Ipv6Addr>,
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
pub enum UplinkAddresses<A = Ipv4Addr> {
    /// The interface's own addresses, followed as they change.
    Interface,
    /// Exactly these, in this order; the first is the one that masquerade uses.
    Fixed(Vec<A>),
}

impl<A> UplinkAddresses<A> {
    /// The addresses, of which `own` are the interface's.
    #[must_use]
    pub fn or<'a>(&'a self, own: &'a [A]) -> &'a [A] {
        match self {
            Self::Interface => own,
            Self::Fixed(addresses) => addresses,
        }
    }
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
