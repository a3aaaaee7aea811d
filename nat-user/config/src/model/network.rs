//! `[network.NAME]`.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use super::{
    port::ForwardProtocol,
    service::{Dhcp, Dhcp6, Dns, Ra},
    uplink::UplinkId,
};

/// Index into [`super::Config::networks`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkId(pub usize);

/// An inside network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// The name in `[network.NAME]`.
    pub name: String,
    /// The bridge or plain interface.
    pub interface: String,
    /// The host's address in the network and the length of its prefix; `None` if the network has
    /// IPv6 alone.
    pub address: Option<Ipv4Net>,
    /// The host's IPv6 addresses in the network and the lengths of their prefixes.
    pub addresses6: Vec<Ipv6Net>,
    /// The uplink on whose link the IPv6 prefixes are: the host answers there for the guests.
    pub ndp: Option<UplinkId>,
    /// Whether IPv6 prefixes that other software puts on the interface are the network's too.
    pub follow: bool,
    /// How many of [`Self::addresses6`], the last ones, others have put on the interface.
    pub followed: usize,
    /// Whether natbpf creates the bridge if it is missing.
    pub create: bool,
    /// Whether its interface is NAT64's device, which natbpf creates too, and not a bridge.
    pub is_nat64: bool,
    /// Interfaces to attach to a bridge that natbpf creates.
    pub ports: Vec<String>,
    /// Whether its guests may send only from addresses that are theirs.
    pub anti_spoof: bool,
    /// Whether the ports that natbpf attaches may not reach each other by the bridge.
    pub isolated: bool,
    /// The default policy for flows to and from its guests.
    pub policy: Action,
    /// What may be opened from uplinks to addresses that its guests hold themselves, if no policy
    /// applies.
    pub inbound: Inbound,
    /// The services of the host that its guests may use; `None` is everything.
    pub host: Option<Vec<HostService>>,
    /// How its guests get their IPv4 addresses, if this host serves DHCP.
    pub dhcp: Option<Dhcp>,
    /// How its guests get IPv6 addresses, if this host serves DHCPv6.
    pub dhcp6: Option<Dhcp6>,
    /// What this host says to its guests as a router of IPv6, if it does.
    pub ra: Option<Ra>,
    /// How this host answers its guests' DNS queries, if it does.
    pub dns: Option<Dns>,
}

impl Network {
    /// Whether this host serves addresses, router advertisements or names there.
    #[must_use]
    pub fn is_served(&self) -> bool {
        self.dhcp.is_some() || self.dhcp6.is_some() || self.ra.is_some() || self.dns.is_some()
    }

    /// The domain in which its guests' names are.
    #[must_use]
    pub fn domain(&self) -> Option<&str> {
        let ipv4 = self.dhcp.iter().map(|dhcp| &dhcp.domain);
        let mut both = ipv4.chain(self.dhcp6.iter().map(|dhcp| &dhcp.domain));
        both.find_map(Option::as_deref)
    }

    /// Whether an IPv4 address is in it.
    #[must_use]
    pub fn holds(&self, address: Ipv4Addr) -> bool {
        self.address.is_some_and(|own| own.contains(&address))
    }

    /// The IPv6 addresses that the file says.
    #[must_use]
    pub fn written6(&self) -> &[Ipv6Net] {
        &self.addresses6[..self.addresses6.len() - self.followed]
    }

    /// Replaces the IPv6 addresses that others have put on the interface.
    pub fn set_followed(&mut self, addresses: &[Ipv6Net]) {
        self.addresses6
            .truncate(self.addresses6.len() - self.followed);
        let own = self.addresses6.clone();
        let is_new = |net: &&Ipv6Net| !own.iter().any(|own| own.trunc() == net.trunc());
        let mut others: Vec<Ipv6Net> = addresses.iter().filter(is_new).copied().collect();
        others.dedup_by_key(|net| net.trunc());
        self.followed = others.len();
        self.addresses6.append(&mut others);
    }

    /// The addresses with a suffix in the prefixes that others have put on the interface.
    #[must_use]
    pub fn followed_addresses(&self, suffix: Ipv6Addr) -> Vec<Ipv6Addr> {
        let prefixes = self.addresses6[self.addresses6.len() - self.followed..].iter();
        let joined = prefixes.filter_map(|own| {
            let suffix = u128::from(suffix);
            let fits = suffix & u128::from(own.netmask()) == 0;
            fits.then(|| Ipv6Addr::from(u128::from(own.network()) | suffix))
        });
        joined.collect()
    }

    /// Its unique local IPv6 prefixes (RFC 4193), which never leave untranslated.
    pub fn unique_local(&self) -> impl Iterator<Item = Ipv6Net> {
        let prefixes = self.addresses6.iter();
        let local = prefixes.filter(|prefix| prefix.addr().is_unique_local());
        local.map(Ipv6Net::trunc)
    }
}

/// What may be opened from uplinks, by family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inbound {
    /// To IPv4 addresses.
    pub ipv4: Action,
    /// To IPv6 addresses.
    pub ipv6: Action,
}

impl Default for Inbound {
    /// A guest with a public IPv6 address is not published by that alone (RFC 6092).
    fn default() -> Self {
        Self {
            ipv4: Action::Accept,
            ipv6: Action::Drop,
        }
    }
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
