//! `[limits]` and `[timeouts]`.

use std::num::NonZeroU32;

/// `[limits]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest number of sessions; both directions of a connection are one session.
    pub sessions: u32,
    /// The largest number of IPv6 sessions.
    pub sessions_ipv6: u32,
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

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions: 262_144,
            sessions_ipv6: 65_536,
            sessions_per_guest: None,
            ports_per_guest: None,
        }
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
