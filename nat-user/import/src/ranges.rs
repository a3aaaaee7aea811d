//! Sets of numbers: addresses, ports, protocols. Conditions of rules are compared by them.

use std::net::Ipv4Addr;

use ipnet::{Ipv4Net, Ipv4Subnets};

/// A set of the numbers from 0 to `MAX`, as ascending ranges with a gap between each two.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ranges<const MAX: u32>(Vec<(u32, u32)>);

pub(super) type Addresses = Ranges<{ u32::MAX }>;
pub(super) type Ports = Ranges<65535>;
pub(super) type Protocols = Ranges<255>;

impl<const MAX: u32> Ranges<MAX> {
    pub(super) fn full() -> Self {
        Self(vec![(0, MAX)])
    }

    pub(super) fn empty() -> Self {
        Self(Vec::new())
    }

    /// The numbers from `first` to `last`; none if they are in the wrong order.
    pub(super) fn range(first: u32, last: u32) -> Self {
        Self::from_ranges(vec![(first, last)])
    }

    pub(super) fn one(number: u32) -> Self {
        Self::range(number, number)
    }

    fn from_ranges(mut ranges: Vec<(u32, u32)>) -> Self {
        ranges.retain(|(first, last)| first <= last && *last <= MAX);
        ranges.sort_unstable();
        let mut joined: Vec<(u32, u32)> = Vec::new();
        for (first, last) in ranges {
            match joined.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => {
                    before.1 = before.1.max(last);
                }
                _ => joined.push((first, last)),
            }
        }
        Self(joined)
    }

    pub(super) fn is_full(&self) -> bool {
        self.0 == [(0, MAX)]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn ranges(&self) -> &[(u32, u32)] {
        &self.0
    }

    /// How many numbers there are.
    pub(super) fn count(&self) -> u64 {
        let sizes = self
            .0
            .iter()
            .map(|(first, last)| u64::from(last - first) + 1);
        sizes.sum()
    }

    /// The number, if there is just one.
    pub(super) fn single(&self) -> Option<u32> {
        match self.0[..] {
            [(first, last)] if first == last => Some(first),
            _ => None,
        }
    }

    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> {
        self.0.iter().flat_map(|(first, last)| *first..=*last)
    }

    pub(super) fn contains(&self, number: u32) -> bool {
        let inside = |(first, last): &(u32, u32)| (*first..=*last).contains(&number);
        self.0.iter().any(inside)
    }

    pub(super) fn complement(&self) -> Self {
        let mut gaps = Vec::new();
        let mut next = Some(0);
        for (first, last) in &self.0 {
            if let Some(start) = next.filter(|start| start < first) {
                gaps.push((start, first - 1));
            }
            next = last.checked_add(1).filter(|next| *next <= MAX);
        }
        gaps.extend(next.map(|start| (start, MAX)));
        Self(gaps)
    }

    pub(super) fn and(&self, other: &Self) -> Self {
        let mut common = Vec::new();
        for (first, last) in &self.0 {
            for (other_first, other_last) in &other.0 {
                common.push((*first.max(other_first), *last.min(other_last)));
            }
        }
        Self::from_ranges(common)
    }

    pub(super) fn or(&self, other: &Self) -> Self {
        Self::from_ranges([&self.0[..], &other.0].concat())
    }

    pub(super) fn without(&self, other: &Self) -> Self {
        self.and(&other.complement())
    }

    pub(super) fn covers(&self, other: &Self) -> bool {
        let within = |(first, last): &(u32, u32)| {
            let behind = self.0.partition_point(|(_, own)| own < last);
            self.0.get(behind).is_some_and(|(own, _)| own <= first)
        };
        other.0.iter().all(within)
    }

    pub(super) fn meets(&self, other: &Self) -> bool {
        let (mut ours, mut theirs) = (&self.0[..], &other.0[..]);
        while let ([our, our_rest @ ..], [their, their_rest @ ..]) = (ours, theirs) {
            if our.1 < their.0 {
                ours = our_rest;
            } else if their.1 < our.0 {
                theirs = their_rest;
            } else {
                return true;
            }
        }
        false
    }
}

impl Addresses {
    pub(super) fn address(address: Ipv4Addr) -> Self {
        Self::one(address.into())
    }

    pub(super) fn prefix(prefix: Ipv4Net) -> Self {
        Self::range(prefix.network().into(), prefix.broadcast().into())
    }

    /// The fewest prefixes that make up the set.
    pub(super) fn prefixes(&self) -> Vec<Ipv4Net> {
        let whole = |(first, last): &(u32, u32)| {
            Ipv4Subnets::new(Ipv4Addr::from(*first), Ipv4Addr::from(*last), 0)
        };
        self.0.iter().flat_map(whole).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complement_is_everything_else() {
        assert_eq!(Ports::full().complement(), Ports::empty());
        assert_eq!(Ports::empty().complement(), Ports::full());
        let ports = Ports::range(0, 79).or(&Ports::range(81, 65535));
        assert_eq!(ports.complement(), Ports::one(80));
        assert_eq!(ports.complement().complement(), ports);
        assert_eq!(
            Addresses::one(u32::MAX).complement().complement().count(),
            1
        );
    }

    proptest::proptest! {
        #[test]
        fn sets_are_compared_as_their_parts_are(
            a in proptest::collection::vec((0u32..40, 0u32..40), 0..5),
            b in proptest::collection::vec((0u32..40, 0u32..40), 0..5),
        ) {
            let (a, b) = (Ports::from_ranges(a), Ports::from_ranges(b));
            proptest::prop_assert_eq!(a.meets(&b), !a.and(&b).is_empty());
            proptest::prop_assert_eq!(a.covers(&b), b.without(&a).is_empty());
            proptest::prop_assert!(a.or(&b).covers(&a) && a.covers(&a.and(&b)));
        }
    }

    #[test]
    fn neighbouring_ranges_are_joined() {
        let ports = Ports::range(10, 20)
            .or(&Ports::range(21, 30))
            .or(&Ports::one(32));
        assert_eq!(ports.ranges(), [(10, 30), (32, 32)]);
        assert_eq!(ports.count(), 22);
        assert_eq!(
            ports.without(&Ports::range(12, 31)).ranges(),
            [(10, 11), (32, 32)]
        );
    }

    #[test]
    fn a_range_of_addresses_is_cut_into_prefixes() {
        let outside = Addresses::prefix("128.0.0.0/2".parse().unwrap()).complement();
        let prefixes: Vec<String> = outside.prefixes().iter().map(ToString::to_string).collect();
        assert_eq!(prefixes, ["0.0.0.0/1", "192.0.0.0/2"]);
        assert_eq!(Addresses::full().prefixes().len(), 1);
    }
}
