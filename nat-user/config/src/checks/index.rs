//! Everything that has been read, and searches in it by address.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::{
    model::{Address, Family, ForwardRule, NatRule, Network, Prefix as _, Route, SnatRule, Uplink},
    tables::{Item, Parts},
};

/// The tables of one family, and their addresses.
pub(super) struct Surroundings<'c, A: Family> {
    pub(super) uplinks: &'c [Item<'c, Uplink>],
    pub(super) snat: &'c [Item<'c, SnatRule<A>>],
    pub(super) forwards: &'c [Item<'c, ForwardRule<A>>],
    pub(super) nats: &'c [Item<'c, NatRule<A>>],
    pub(super) networks: NetworkIndex<'c, A>,
    pub(super) routes: RouteIndex<'c, A>,
}

impl<'c> Surroundings<'c, Ipv4Addr> {
    pub(super) fn of_ipv4(parts: &'c Parts<'c>) -> Self {
        Self {
            uplinks: &parts.uplinks,
            snat: &parts.snat,
            forwards: &parts.forwards,
            nats: &parts.nats,
            networks: NetworkIndex::new(&parts.networks),
            routes: RouteIndex::new(&parts.routes),
        }
    }
}

impl<'c> Surroundings<'c, Ipv6Addr> {
    pub(super) fn of_ipv6(parts: &'c Parts<'c>) -> Self {
        Self {
            uplinks: &parts.uplinks,
            snat: &parts.snat6,
            forwards: &parts.forwards6,
            nats: &[],
            networks: NetworkIndex::new(&parts.networks),
            routes: RouteIndex::new(&parts.routes),
        }
    }
}

/// The prefixes of networks, for a search by address.
#[derive(Debug)]
pub(super) struct NetworkIndex<'n, A: Address> {
    sorted: Vec<(A::Prefix, &'n Network)>,
}

impl<'n, A: Family> NetworkIndex<'n, A> {
    /// Prefixes that overlap are an error anyway, so one of them is enough of an answer.
    pub(super) fn new(networks: &'n [Item<'_, Network>]) -> Self {
        let all = networks.iter().flat_map(|network| {
            let own = A::of_network(&network.value).iter();
            own.map(|own| (*own, &network.value))
        });
        let mut sorted: Vec<_> = all.collect();
        sorted.sort_by_key(|(own, _)| own.network());
        Self { sorted }
    }

    /// The network of an address, and the host's own address beside it.
    pub(super) fn find(&self, address: A) -> Option<(A::Prefix, &'n Network)> {
        let after = self
            .sorted
            .partition_point(|(own, _)| own.network() <= address);
        let (own, network) = self.sorted[..after].last()?;
        own.holds(address).then_some((*own, *network))
    }

    /// The first network that has an address in common with a prefix.
    pub(super) fn overlapping(&self, with: A::Prefix) -> Option<&'n Network> {
        let mut sorted = self.sorted.iter();
        let meets = |own: &A::Prefix| own.covers(&with) || with.covers(&own.trunc());
        let found = sorted.find(|(own, _)| meets(own))?;
        Some(found.1)
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

impl<'r, A: Family> RouteIndex<'r, A> {
    pub(super) fn new(routes: &'r [Item<'r, Route>]) -> Self {
        let all = routes.iter().flat_map(|route| {
            let prefixes = A::of_route(&route.value).iter();
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
