//! Everything that has been read, and searches in it by address.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::{
    model::{Address, Network, Prefix as _, Route},
    tables::{Item, Parts},
};

/// The tables, and their addresses.
pub(super) struct Surroundings<'c> {
    pub(super) parts: &'c Parts<'c>,
    pub(super) networks: NetworkIndex<'c>,
    pub(super) routes: RouteIndex<'c, Ipv4Addr>,
    pub(super) routes6: RouteIndex<'c, Ipv6Addr>,
}

impl<'c> Surroundings<'c> {
    pub(super) fn new(parts: &'c Parts<'c>) -> Self {
        Self {
            parts,
            networks: NetworkIndex::new(&parts.networks),
            routes: RouteIndex::new(&parts.routes, |route| &route.addresses),
            routes6: RouteIndex::new(&parts.routes, |route| &route.addresses6),
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
pub(super) type Routed<'r, A> = Written<'r, A, Route>;

/// The routed prefixes, for a search by address.
#[derive(Debug)]
pub(super) struct RouteIndex<'r, A: Address> {
    /// Sorted by their beginning, the wider one first. Those that overlap are an error anyway.
    sorted: Vec<Routed<'r, A>>,
}

impl<'r, A: Address> RouteIndex<'r, A> {
    /// `addresses` are those of a route.
    pub(super) fn new(
        routes: &'r [Item<'r, Route>],
        addresses: impl Fn(&'r Route) -> &'r [A::Prefix],
    ) -> Self {
        let all = routes.iter().flat_map(|route| {
            let prefixes = addresses(&route.value).iter();
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
    pub(super) fn find(&self, address: A) -> Option<&'r Item<'r, Route>> {
        self.holding(address).map(|(_, route)| route)
    }

    pub(super) fn holding(&self, address: A) -> Option<Routed<'r, A>> {
        let after = (self.sorted).partition_point(|(prefix, _)| prefix.network() <= address);
        let last = self.sorted[..after].last()?;
        last.0.holds(address).then_some(*last)
    }

    /// The first routed prefix that contains an address, or begins after it.
    pub(super) fn first_from(&self, address: A) -> Option<Routed<'r, A>> {
        let before = (self.sorted).partition_point(|(prefix, _)| prefix.last() < address);
        self.sorted.get(before).copied()
    }

    /// The routed prefixes that have an address in common with another prefix.
    pub(super) fn overlapping(&self, with: A::Prefix) -> impl Iterator<Item = Routed<'r, A>> {
        let first = (self.sorted).partition_point(|(prefix, _)| prefix.last() < with.network());
        let rest = self.sorted[first..].iter();
        rest.take_while(move |(prefix, _)| prefix.network() <= with.last())
            .copied()
    }

    /// Pairs of prefixes with a common address.
    pub(super) fn overlaps(&self) -> Vec<[Routed<'r, A>; 2]> {
        overlaps::<A, Route>(self.sorted.clone())
    }
}

/// A prefix, and the table that names it.
pub(super) type Written<'r, A, T> = (<A as Address>::Prefix, &'r Item<'r, T>);

/// Pairs of prefixes with a common address, each in the order of the file.
pub(super) fn overlaps<A: Address, T>(
    mut prefixes: Vec<Written<'_, A, T>>,
) -> Vec<[Written<'_, A, T>; 2]> {
    prefixes.sort_by_key(|(prefix, item)| (prefix.network(), prefix.prefix_len(), item.section.at));
    let mut pairs = Vec::new();
    let mut widest: Option<Written<'_, A, T>> = None;
    for one in prefixes {
        match widest.filter(|(wider, _)| wider.covers(&one.0.trunc())) {
            Some(wider) => {
                let mut pair = [wider, one];
                pair.sort_by_key(|(_, item)| item.section.at);
                pairs.push(pair);
            }
            None => widest = Some(one),
        }
    }
    pairs
}
