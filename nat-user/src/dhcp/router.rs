//! What the host is to guests as a router of IPv6, and its goodbye.

use ipnet::Ipv6Net;
use nat_config::model::{Network, RaMode};

use super::farewell;

/// What the host is to guests as a router of IPv6.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Router {
    /// The index of the interface.
    pub(super) ifindex: u32,
    /// For how long it is a default router, in seconds.
    pub(super) lifetime_s: u16,
    /// The prefixes.
    pub(super) prefixes: Vec<Ipv6Net>,
}

impl Router {
    pub(super) fn of(network: &Network, ifindex: u32) -> Option<Self> {
        let ra = network.ra.as_ref().filter(|ra| ra.mode != RaMode::Off)?;
        Some(Self {
            ifindex,
            lifetime_s: u16::try_from(ra.lifetime_s).unwrap_or(u16::MAX),
            prefixes: network.written6().iter().map(Ipv6Net::trunc).collect(),
        })
    }

    /// Says what guests had from this router and no longer have from the next one, if there is one.
    pub(super) fn say_goodbye(&self, next: Option<&Self>) {
        let gone = self
            .prefixes
            .iter()
            .filter(|prefix| next.is_none_or(|next| !next.prefixes.contains(prefix)));
        let gone: Vec<Ipv6Net> = gone.copied().collect();
        let lifetime_s = next.map_or(0, |next| next.lifetime_s);
        if (next.is_none() || !gone.is_empty())
            && let Err(error) = farewell::say(self.ifindex, lifetime_s, &gone)
        {
            log::debug!("last router advertisement: {error}");
        }
    }
}
