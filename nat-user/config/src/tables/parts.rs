//! Everything that has been read.

use std::net::Ipv6Addr;

use super::{item::Item, policy::BothFamilies};
use crate::model::{
    Config, ForwardRule, Forwarding, Guest, Ipv6Rules, Limits, NatRule, Network, PolicyEnd, Route,
    SnatRule, Timeouts, Uplink, UplinkAddresses,
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
    pub(crate) forwards: Vec<Item<'a, ForwardRule>>,
    pub(crate) nats: Vec<Item<'a, NatRule>>,
    /// Each by family.
    pub(crate) policies: Vec<Item<'a, BothFamilies>>,
    pub(crate) limits: Limits,
    pub(crate) timeouts: Timeouts,
}

impl Parts<'_> {
    /// Whether the file names an IPv6 address.
    fn has_ipv6(&self) -> bool {
        let is_fixed =
            |end: &PolicyEnd<Ipv6Addr>| matches!(end, PolicyEnd::Prefix(_) | PolicyEnd::Guest(_));
        let mut uplinks = self.uplinks.iter();
        let mut networks = self.networks.iter();
        let mut routes = self.routes.iter();
        let policies = self.policies.iter().map(|policy| &policy.value.1);
        let mut ends = policies.flat_map(|policy| policy.from.iter().chain(&policy.to));
        uplinks.any(|uplink| uplink.value.addresses6 != UplinkAddresses::Interface)
            || networks.any(|network| !network.value.addresses6.is_empty())
            || routes.any(|route| !route.value.addresses6.is_empty())
            || ends.any(is_fixed)
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
                policies: policies6,
            }),
            limits: self.limits,
            timeouts: self.timeouts,
        }
    }
}

fn values_of<T>(items: Vec<Item<'_, T>>) -> Vec<T> {
    items.into_iter().map(|item| item.value).collect()
}
