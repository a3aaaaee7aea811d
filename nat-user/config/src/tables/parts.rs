//! Everything that has been read.

use std::net::Ipv6Addr;

use super::{item::Item, policy::BothFamilies};
use crate::model::{
    Config, ForwardRule, Forwarding, Guest, Ipv6Rules, Limits, Nat64, NatRule, Network, PrefixRule,
    Route, SnatRule, Timeouts, Uplink, UplinkAddresses,
};

/// Everything that has been read.
#[derive(Debug)]
pub(crate) struct Parts<'a> {
    pub(crate) forwarding: Forwarding,
    pub(crate) uplinks: Vec<Item<'a, Uplink>>,
    pub(crate) networks: Vec<Item<'a, Network>>,
    pub(crate) guests: Vec<Item<'a, Guest>>,
    pub(crate) routes: Vec<Item<'a, Route>>,
    pub(crate) snat: Vec<Item<'a, SnatRule>>,
    pub(crate) snat6: Vec<Item<'a, SnatRule<Ipv6Addr>>>,
    pub(crate) forwards: Vec<Item<'a, ForwardRule>>,
    pub(crate) forwards6: Vec<Item<'a, ForwardRule<Ipv6Addr>>>,
    pub(crate) nats: Vec<Item<'a, NatRule>>,
    /// `[[nat]]` of IPv6 prefixes.
    pub(crate) prefixes: Vec<Item<'a, PrefixRule>>,
    /// Each by family.
    pub(crate) policies: Vec<Item<'a, BothFamilies>>,
    pub(crate) nat64: Option<Nat64>,
    pub(crate) limits: Limits,
    pub(crate) timeouts: Timeouts,
}

impl Parts<'_> {
    /// Whether the file names an IPv6 address.
    fn has_ipv6(&self) -> bool {
        let mut uplinks = self.uplinks.iter();
        let mut networks = self.networks.iter();
        let mut routes = self.routes.iter();
        let mut policies = self.policies.iter();
        uplinks.any(|uplink| uplink.value.addresses6 != UplinkAddresses::Interface)
            || networks.any(|network| !network.value.addresses6.is_empty() || network.value.follow)
            || routes.any(|route| !route.value.addresses6.is_empty())
            || self.snat6.iter().any(|rule| rule.value.names_address())
            || !self.forwards6.is_empty()
            || policies.any(|policy| policy.value.1.names_address())
            || !self.prefixes.is_empty()
    }

    pub(crate) fn into_config(self) -> Config {
        let has_ipv6 = self.has_ipv6();
        let (policies, policies6) = values_of(self.policies).into_iter().unzip();
        Config {
            forwarding: self.forwarding,
            uplinks: values_of(self.uplinks),
            networks: values_of(self.networks),
            guests: values_of(self.guests),
            routes: values_of(self.routes),
            snat: values_of(self.snat),
            forwards: values_of(self.forwards),
            nats: values_of(self.nats),
            policies,
            ipv6: has_ipv6.then_some(Ipv6Rules {
                snat: values_of(self.snat6),
                forwards: values_of(self.forwards6),
                policies: policies6,
                prefixes: values_of(self.prefixes),
                nat64: self.nat64,
            }),
            limits: self.limits,
            timeouts: self.timeouts,
        }
    }
}

fn values_of<T>(items: Vec<Item<'_, T>>) -> Vec<T> {
    items.into_iter().map(|item| item.value).collect()
}
