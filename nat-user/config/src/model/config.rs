//! The whole configuration.

use std::{collections::BTreeSet, net::Ipv6Addr};

use super::{
    forward::ForwardRule,
    forwarding::Forwarding,
    guest::Guest,
    limits::{Limits, Timeouts},
    nat::NatRule,
    nat::PrefixRule,
    nat64::Nat64,
    network::{Action, Network, NetworkId},
    policy::PolicyRule,
    route::Route,
    snat::SnatRule,
    uplink::{Uplink, UplinkId},
};

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
    /// What the rules say about IPv6; `None` if the file names no IPv6 address. If it does, every
    /// policy is about both families.
    pub ipv6: Option<Ipv6Rules>,
    /// `[limits]`.
    pub limits: Limits,
    /// `[timeouts]`.
    pub timeouts: Timeouts,
}

/// What rules say about IPv6. A rule about both families is in both lists, under one name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ipv6Rules {
    /// `[[snat]]`, in the order in which they are tried.
    pub snat: Vec<SnatRule<Ipv6Addr>>,
    /// `[[forward]]`, in the order in which they are tried.
    pub forwards: Vec<ForwardRule<Ipv6Addr>>,
    /// `[[policy]]`, as many as there are in [`Config::policies`].
    pub policies: Vec<PolicyRule<Ipv6Addr>>,
    /// `[[nat]]` of prefixes, in the order of the file.
    pub prefixes: Vec<PrefixRule>,
    /// `[nat64]`.
    pub nat64: Option<Nat64>,
}

impl Config {
    /// `[nat64]`.
    #[must_use]
    pub fn nat64(&self) -> Option<&Nat64> {
        self.ipv6.as_ref()?.nat64.as_ref()
    }

    /// The networks whose guests may not use NAT64.
    #[must_use]
    pub fn networks_without_nat64(&self) -> Vec<NetworkId> {
        let nat64 = self.nat64();
        let Some((nat64, users)) = nat64.and_then(|one| Some((one, one.networks.as_ref()?))) else {
            return Vec::new();
        };
        let all = (0..self.networks.len()).map(NetworkId);
        all.filter(|id| *id != nat64.network && !users.contains(id))
            .collect()
    }

    /// The uplinks by which packets of NAT64 may not leave.
    #[must_use]
    pub fn uplinks_without_nat64(&self) -> Vec<UplinkId> {
        let Some(only) = self.nat64().and_then(|nat64| nat64.uplink) else {
            return Vec::new();
        };
        let all = (0..self.uplinks.len()).map(UplinkId);
        all.filter(|id| *id != only).collect()
    }

    /// What a policy, by its place, says about IPv6 addresses, if it names any.
    #[must_use]
    pub fn ipv6_policy(&self, index: usize) -> Option<&PolicyRule<Ipv6Addr>> {
        let policy = self.ipv6.as_ref()?.policies.get(index)?;
        policy.names_address().then_some(policy)
    }

    /// How many rules have a number.
    #[must_use]
    pub fn rule_count(&self) -> usize {
        let translating = self.snat_count() + self.forward_count() + self.nat_count();
        translating + self.policies.len() + self.networks.len()
    }

    /// How many `[[snat]]` there are.
    #[must_use]
    pub fn snat_count(&self) -> usize {
        let ipv4 = self.snat.iter().map(|rule| &rule.name);
        let ipv6 = self.ipv6.iter().flat_map(|ipv6| &ipv6.snat);
        ipv4.chain(ipv6.map(|rule| &rule.name))
            .collect::<BTreeSet<_>>()
            .len()
    }

    /// How many `[[forward]]` there are.
    #[must_use]
    pub fn forward_count(&self) -> usize {
        let ipv4 = self.forwards.iter().map(|rule| &rule.name);
        let ipv6 = self.ipv6.iter().flat_map(|ipv6| &ipv6.forwards);
        ipv4.chain(ipv6.map(|rule| &rule.name))
            .collect::<BTreeSet<_>>()
            .len()
    }

    /// How many `[[nat]]` there are.
    #[must_use]
    pub fn nat_count(&self) -> usize {
        self.nats.len() + self.ipv6.as_ref().map_or(0, |ipv6| ipv6.prefixes.len())
    }

    /// Whether prefixes of IPv6 become others at an uplink.
    #[must_use]
    pub fn translates_prefixes_at(&self, uplink: &Uplink) -> bool {
        let mut rules = self.ipv6.iter().flat_map(|ipv6| &ipv6.prefixes);
        rules.any(|rule| self.uplinks[rule.uplink.0].name == uplink.name)
    }

    /// Whether policies have any effect.
    #[must_use]
    pub fn has_policies(&self) -> bool {
        let has_ipv6 = self.ipv6.is_some();
        let has_route = self.routes.iter().any(|route| !route.addresses6.is_empty());
        let keeps_out = |network: &Network| {
            let ipv4 = network.address.is_some() && network.inbound.ipv4 == Action::Drop;
            let is_ipv6 = has_route || !network.addresses6.is_empty() || network.follow;
            ipv4 || has_ipv6 && is_ipv6 && network.inbound.ipv6 == Action::Drop
        };
        let says_something = |network: &Network| {
            network.policy == Action::Drop || network.host.is_some() || keeps_out(network)
        };
        let has_closed =
            !self.networks_without_nat64().is_empty() || !self.uplinks_without_nat64().is_empty();
        has_closed || !self.policies.is_empty() || self.networks.iter().any(says_something)
    }
}
