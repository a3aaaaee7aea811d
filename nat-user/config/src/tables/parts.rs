//! Everything that has been read.

use super::item::Item;
use crate::model::{
    Config, ForwardRule, Forwarding, Guest, Limits, NatRule, Network, PolicyRule, Route, SnatRule,
    Timeouts, Uplink,
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
    pub(crate) policies: Vec<Item<'a, PolicyRule>>,
    pub(crate) limits: Limits,
    pub(crate) timeouts: Timeouts,
}

impl Parts<'_> {
    pub(crate) fn into_config(self) -> Config {
        Config {
            forwarding: self.forwarding,
            uplinks: values_of(self.uplinks),
            networks: values_of(self.networks),
            guests: values_of(self.guests),
            routes: values_of(self.routes),
            snat: values_of(self.snat),
            forwards: values_of(self.forwards),
            nats: values_of(self.nats),
            policies: values_of(self.policies),
            limits: self.limits,
            timeouts: self.timeouts,
        }
    }
}

fn values_of<T>(items: Vec<Item<'_, T>>) -> Vec<T> {
    items.into_iter().map(|item| item.value).collect()
}
