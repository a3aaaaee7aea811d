//! `SETTINGS`: what the configuration sets for all packets.
//!
//! The key of every rule starts with the generation of the rule set. A new set is written beside
//! the one in use and activated by one write of [`Settings::generation`].

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
    /// Sessions that a guest may have, 0 for no limit.
    pub sessions_per_guest: u32,
    /// External ports that a guest may have, 0 for no limit.
    pub ports_per_guest: u32,
}

/// The port of DNS servers.
pub const DNS_PORT: u16 = 53;

/// Idle time in seconds of an answered question to [`DNS_PORT`] (RFC 4787 REQ-5c allows shorter
/// ones for well-known ports). A guest that sends again after an answer does more than ask: its
/// session has [`Settings::udp_s`].
pub const DNS_S: u32 = 10;

/// The table of settings.
pub trait CurrentSettings {
    /// What the configuration sets for all packets.
    fn settings(&self) -> Option<&Settings>;
}

crate::map_layout!(Settings, 40);
