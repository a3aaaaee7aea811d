//! The translation of one file.

use std::net::IpAddr;

use super::{
    dump::Dump,
    findings::Findings,
    plan::Plan,
    topology::{Network, Topology},
};

pub(super) struct Part<'d> {
    pub(super) file: String,
    pub(super) dump: &'d Dump,
    pub(super) topology: Topology,
    pub(super) plan: Plan,
    pub(super) findings: Findings<'d>,
}

impl Part<'_> {
    pub(super) fn network(&self, interface: &str) -> Option<(usize, &Network)> {
        let mut networks = self.topology.networks.iter().enumerate();
        networks.find(|(_, network)| network.interface == interface)
    }

    /// The addresses of an uplink, and those that it does not have, but that forwards name.
    pub(super) fn addresses(&self, interface: &str) -> Option<(&[IpAddr], Vec<IpAddr>)> {
        let mut uplinks = self.topology.uplinks.iter();
        let number = uplinks.position(|uplink| uplink.interface == interface)?;
        let own = &self.topology.uplinks[number].addresses;
        let forwards = self.plan.forwards.iter();
        let of_forwards = forwards.filter(|forward| forward.uplink == number);
        let mut more: Vec<IpAddr> = of_forwards.filter_map(|forward| forward.address).collect();
        more.sort();
        more.dedup();
        let is_pool = |address: &IpAddr| {
            let pools = self.plan.snats.iter().filter(|snat| snat.uplink == number);
            let mut pools = pools.filter_map(|snat| snat.to);
            pools.any(|(first, last)| (first..=last).contains(address))
        };
        more.retain(|address| !own.contains(address) && !is_pool(address));
        (!more.is_empty()).then_some((own, more))
    }
}
