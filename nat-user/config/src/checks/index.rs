//! Everything that has been read, and searches in it by address.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::{
    model::{Network, Route},
    tables::{Item, Parts},
};

/// The tables, and their addresses.
pub(super) struct Surroundings<'c> {
    pub(super) parts: &'c Parts<'c>,
    pub(super) networks: NetworkIndex<'c>,
    pub(super) routes: RouteIndex<'c>,
}

impl<'c> Surroundings<'c> {
    pub(super) fn new(parts: &'c Parts<'c>) -> Self {
        Self {
            parts,
            networks: NetworkIndex::new(&parts.networks),
            routes: RouteIndex::new(&parts.routes),
        }
    }
}

/// The networks, for a search by address.
#[derive(Debug)]
pub(super) struct NetworkIndex<'n> {
    sorted: Vec<&'n Network>,
}

impl<'n> NetworkIndex<'n> {
    /// Networks that overlap are an error anyway, so one of them is enough of an answer.
    pub(super) fn new(networks: &'n [Item<'_, Network>]) -> Self {
        let mut sorted: Vec<_> = networks.iter().map(|network| &network.value).collect();
        sorted.sort_by_key(|network| network.address.network());
        Self { sorted }
    }

    pub(super) fn find(&self, address: Ipv4Addr) -> Option<&'n Network> {
        let after = self
            .sorted
            .partition_point(|network| network.address.network() <= address);
        let network = self.sorted[..after].last()?;
        network.address.contains(&address).then_some(*network)
    }
}

/// A routed prefix, and the table that routes it.
pub(super) type Routed<'r> = (Ipv4Net, &'r Item<'r, Route>);

/// The routed prefixes, for a search by address.
#[derive(Debug)]
pub(super) struct RouteIndex<'r> {
    /// Sorted by their beginning, the wider one first. Those that overlap are an error anyway.
    sorted: Vec<Routed<'r>>,
}

impl<'r> RouteIndex<'r> {
    pub(super) fn new(routes: &'r [Item<'r, Route>]) -> Self {
        let all = routes.iter().flat_map(|route| {
            let prefixes = route.value.addresses.iter();
            prefixes.map(move |prefix| (*prefix, route))
        });
        let mut sorted: Vec<_> = all.collect();
        sorted.sort_by_key(|(prefix, route)| {
            (prefix.network(), prefix.prefix_len(), route.section.at)
        });
        Self { sorted }
    }

    pub(super) fn items(&self) -> impl Iterator<Item = &'r Item<'r, Route>> {
        let mut items: Vec<_> = self.sorted.iter().map(|(_, route)| *route).collect();
        items.sort_by_key(|route| route.section.at);
        items.dedup_by_key(|route| route.section.at);
        items.into_iter()
    }

    /// The route of an address.
    pub(super) fn find(&self, address: Ipv4Addr) -> Option<&'r Item<'r, Route>> {
        self.holding(address).map(|(_, route)| route)
    }

    pub(super) fn holding(&self, address: Ipv4Addr) -> Option<Routed<'r>> {
        let after = (self.sorted).partition_point(|(prefix, _)| prefix.network() <= address);
        let last = self.sorted[..after].last()?;
        last.0.contains(&address).then_some(*last)
    }

    /// The first routed prefix that contains an address, or begins after it.
    pub(super) fn first_from(&self, address: Ipv4Addr) -> Option<Routed<'r>> {
        let before = (self.sorted).partition_point(|(prefix, _)| prefix.broadcast() < address);
        self.sorted.get(before).copied()
    }

    /// The routed prefixes that have an address in common with another prefix.
    pub(super) fn overlapping(&self, with: Ipv4Net) -> impl Iterator<Item = Routed<'r>> {
        let first =
            (self.sorted).partition_point(|(prefix, _)| prefix.broadcast() < with.network());
        let rest = self.sorted[first..].iter();
        rest.take_while(move |(prefix, _)| prefix.network() <= with.broadcast())
            .copied()
    }

    /// Pairs of prefixes with a common address, in the order of the file.
    pub(super) fn overlaps(&self) -> Vec<[Routed<'r>; 2]> {
        let mut pairs = Vec::new();
        let mut widest: Option<Routed<'_>> = None;
        for (prefix, route) in &self.sorted {
            if let Some((wider, before)) = widest.filter(|(wider, _)| wider.contains(prefix)) {
                let mut pair = [(wider, before), (*prefix, *route)];
                pair.sort_by_key(|(_, route)| route.section.at);
                pairs.push(pair);
            } else {
                widest = Some((*prefix, *route));
            }
        }
        pairs
    }
}
