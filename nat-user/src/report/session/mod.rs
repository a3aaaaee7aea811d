//! A session as users see it, from its two entries in the data plane.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use nat_common::{
    family::Family,
    session::{
        ending::idle_s,
        tracking::{self, Phase},
    },
    tables::{
        sessions::{OPENING, SessionFlags, SessionKey, SessionRecord},
        settings::Settings,
    },
    wire::{
        address::{Addr4, Addr6, Port},
        protocol::TCP,
    },
};
use serde::Serialize;

use super::protocol::Protocol;

/// An address and a port; the identifier of an ICMP echo, 0 if there is neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Endpoint {
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
}

/// A family whose addresses can be shown.
pub trait Shown: Family {
    /// The address as the standard library has it.
    fn ip(self) -> IpAddr;
}

impl Shown for Addr4 {
    fn ip(self) -> IpAddr {
        self.0.into()
    }
}

impl Shown for Addr6 {
    fn ip(self) -> IpAddr {
        self.bytes().into()
    }
}

/// A session. Sorts by protocol, then by its endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionView {
    /// The protocol.
    pub protocol: Protocol,
    /// The guest; of two guests, the one that is reached by the external address.
    pub internal: Endpoint,
    /// The guest's external endpoint.
    pub external: Endpoint,
    /// The remote, as the guest sees it.
    pub remote: Endpoint,
    /// Number of the rule under which it counts.
    pub rule_number: u32,
    /// Its state.
    pub state: SessionState,
    /// Seconds since a packet passed either way.
    pub idle_s: u32,
    /// Seconds until it ends if no packet comes.
    pub expires_s: u32,
}

/// The state of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionState {
    /// TCP before the handshake is complete.
    Opening,
    /// TCP after it.
    Established,
    /// TCP after FIN both ways or RST.
    Closing,
    /// Another protocol, without an answer so far.
    Unreplied,
    /// Another protocol, with packets in both directions.
    Replied,
}

impl SessionView {
    /// From the entries of both directions at `now_s` of the monotonic clock.
    ///
    /// `None` if the first is not the session's primary entry, if the session is being removed, or
    /// if it is the host's own.
    #[must_use]
    pub fn from_entries<A: Shown>(
        key: &SessionKey<A>,
        record: &SessionRecord<A>,
        peer: Option<&SessionRecord<A>>,
        settings: &Settings,
        now_s: u32,
    ) -> Option<Self> {
        let has = |flag| record.flags.contains(flag);
        if !has(SessionFlags::PRIMARY) || has(SessionFlags::HOST) || record.seen_s >= OPENING {
            return None;
        }
        let ports = Ports::new(key, record);
        let [internal, external, remote] = if has(SessionFlags::HAIRPIN) {
            // This is the client's direction: its destination, the translated destination, and the
            // translated source.
            [
                Endpoint::new(record.destination, ports.destination_after),
                Endpoint::new(key.destination, ports.destination_before),
                Endpoint::new(record.source, ports.source_after),
            ]
        } else {
            [
                Endpoint::new(key.source, ports.source_before),
                Endpoint::new(record.source, ports.source_after),
                Endpoint::new(record.destination, ports.destination_after),
            ]
        };
        let peer_seen_s = peer
            .map(|peer| peer.seen_s)
            .filter(|seen_s| *seen_s < OPENING);
        let seen_s = peer_seen_s.unwrap_or(0).max(record.seen_s);
        // A remote alone does not keep a mapping alive, as in
        // `nat_common::session::ending::expire`.
        let is_kept_by_peer = has(SessionFlags::HAIRPIN)
            || has(SessionFlags::FROM_INITIATOR)
            || record.state & tracking::REPLIED != 0
            || !has(SessionFlags::REFS_PORT);
        let counted_s = if is_kept_by_peer {
            seen_s
        } else {
            record.seen_s
        };
        let timeout_s = idle_s(settings, key.protocol, record.flags, record.state);
        Some(Self {
            protocol: Protocol(key.protocol),
            internal,
            external,
            remote,
            rule_number: record.rule,
            state: SessionState::new(key.protocol, record.state),
            idle_s: now_s.saturating_sub(seen_s),
            expires_s: timeout_s.saturating_sub(now_s.saturating_sub(counted_s)),
        })
    }
}

/// The ports of an entry before and after translation.
struct Ports {
    source_before: Port,
    destination_before: Port,
    source_after: Port,
    destination_after: Port,
}

impl Ports {
    fn new<A: Shown>(key: &SessionKey<A>, record: &SessionRecord<A>) -> Self {
        let mut ports = Self {
            source_before: key.source_port,
            destination_before: key.destination_port,
            source_after: record.source_port,
            destination_after: record.destination_port,
        };
        if key.protocol == A::ICMP {
            // The identifier is on the client's side, and is the same for both ends.
            let (before, after) = if record.flags.contains(SessionFlags::FROM_INITIATOR) {
                (key.source_port, record.source_port)
            } else {
                (key.destination_port, record.destination_port)
            };
            (ports.source_before, ports.destination_before) = (before, before);
            (ports.source_after, ports.destination_after) = (after, after);
        }
        ports
    }
}

impl Endpoint {
    fn new<A: Shown>(address: A, port: Port) -> Self {
        Self {
            address: address.ip(),
            port: port.number(),
        }
    }
}

impl SessionState {
    fn new(protocol: u8, state: u32) -> Self {
        match tracking::phase(state) {
            Phase::Opening if protocol == TCP => Self::Opening,
            Phase::Established if protocol == TCP => Self::Established,
            Phase::Closing if protocol == TCP => Self::Closing,
            _ if state & tracking::REPLIED != 0 => Self::Replied,
            _ => Self::Unreplied,
        }
    }

    /// The name in all reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Unreplied => "unreplied",
            Self::Replied => "replied",
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            0 => f.pad(&self.address.to_string()),
            port => f.pad(&SocketAddr::new(self.address, port).to_string()),
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
