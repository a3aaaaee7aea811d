//! Sets of numbers: addresses, ports, protocols. Conditions of rules are compared by them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, IpSubnets, Ipv4Subnets, Ipv6Subnets};

use super::family::Family;

/// A set of the numbers from 0 to `MAX`, as ascending ranges with a gap between each two.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ranges<const MAX: u128>(Vec<(u128, u128)>);

/// Addresses of one family. Its bits are the first ones of the number, so that sets of IPv4 and
/// of IPv6 are compared and inverted in the same way: an IPv4 address is a prefix of 32 bits.
pub(super) type Addresses = Ranges<{ u128::MAX }>;
pub(super) type Ports = Ranges<65535>;
pub(super) type Protocols = Ranges<255>;

impl<const MAX: u128> Ranges<MAX> {
    pub(super) fn full() -> Self {
        Self(vec![(0, MAX)])
    }

    pub(super) fn empty() -> Self {
        Self(Vec::new())
    }

    /// The numbers from `first` to `last`; none if they are in the wrong order.
    pub(super) fn range(first: u128, last: u128) -> Self {
        Self::from_ranges(vec![(first, last)])
    }

    pub(super) fn one(number: u128) -> Self {
        Self::range(number, number)
    }

    fn from_ranges(mut ranges: Vec<(u128, u128)>) -> Self {
        ranges.retain(|(first, last)| first <= last && *last <= MAX);
        ranges.sort_unstable();
        let mut joined: Vec<(u128, u128)> = Vec::new();
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

    pub(super) fn ranges(&self) -> &[(u128, u128)] {
        &self.0
    }

    /// How many numbers there are; of more than fit, as many as fit.
    pub(super) fn count(&self) -> u128 {
        let sizes = self.0.iter().map(|(first, last)| last - first);
        sizes.fold(0, |all: u128, size| {
            all.saturating_add(size).saturating_add(1)
        })
    }

    /// The number, if there is just one.
    pub(super) fn single(&self) -> Option<u128> {
        match self.0[..] {
            [(first, last)] if first == last => Some(first),
            _ => None,
        }
    }

    pub(super) fn numbers(&self) -> impl Iterator<Item = u128> {
        self.0.iter().flat_map(|(first, last)| *first..=*last)
    }

    pub(super) fn contains(&self, number: u128) -> bool {
        let inside = |(first, last): &(u128, u128)| (*first..=*last).contains(&number);
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
        let within = |(first, last): &(u128, u128)| {
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
    pub(super) fn address(address: IpAddr) -> Self {
        Self::prefix(address.into())
    }

    pub(super) fn prefix(prefix: IpNet) -> Self {
        Self::span(prefix.network(), prefix.broadcast())
    }

    /// The host's own addresses.
    pub(super) fn loopback(family: Family) -> Self {
        Self::prefix(match family {
            Family::V4 => IpNet::new_assert(Ipv4Addr::new(127, 0, 0, 0).into(), 8),
            Family::V6 => IpAddr::from(Ipv6Addr::LOCALHOST).into(),
        })
    }

    /// Multicast, limited broadcast and addresses of one link, which natbpf never translates.
    pub(super) fn never_translated(family: Family) -> Self {
        match family {
            Family::V4 => {
                let groups = IpNet::new_assert(Ipv4Addr::new(224, 0, 0, 0).into(), 4);
                Self::prefix(groups).or(&Self::address(Ipv4Addr::BROADCAST.into()))
            }
            Family::V6 => Self::prefix(IpNet::new_assert(GROUPS.into(), 8))
                .or(&Self::prefix(IpNet::new_assert(LINK.into(), 10))),
        }
    }

    /// The addresses from `first` to `last`, of one family.
    pub(super) fn span(first: IpAddr, last: IpAddr) -> Self {
        let rest = u128::MAX.checked_shr(Family::of(last).bits()).unwrap_or(0);
        Self::range(bits(first), bits(last) | rest)
    }

    /// Whether these are less than half of all addresses.
    pub(super) fn are_few(&self) -> bool {
        self.count() < 1 << 127
    }

    /// How many addresses of a family there are.
    pub(super) fn hosts(&self, family: Family) -> u128 {
        self.count() >> (u128::BITS - family.bits())
    }

    /// The addresses one by one.
    pub(super) fn each(&self, family: Family) -> impl Iterator<Item = IpAddr> {
        let one = 1u128 << (u128::BITS - family.bits());
        let first = move |(first, last): &(u128, u128)| (*first, (last - first) / one);
        let each = move |(first, more)| (0..=more).map(move |at| family.address(first + at * one));
        self.0.iter().map(first).flat_map(each)
    }

    /// The fewest prefixes that make up the set.
    pub(super) fn prefixes(&self, family: Family) -> Vec<IpNet> {
        let whole =
            |(first, last): &(u128, u128)| match (family.address(*first), family.address(*last)) {
                (IpAddr::V4(first), IpAddr::V4(last)) => {
                    IpSubnets::V4(Ipv4Subnets::new(first, last, 0))
                }
                (IpAddr::V6(first), IpAddr::V6(last)) => {
                    IpSubnets::V6(Ipv6Subnets::new(first, last, 0))
                }
                _ => unreachable!("both ends are of one family"),
            };
        self.0.iter().flat_map(whole).collect()
    }
}

const LINK: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0);
const GROUPS: Ipv6Addr = Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0);

/// An address as the first bits of a number.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
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
        let last = Addresses::address([255; 4].into());
        assert_eq!(last.complement().complement().hosts(Family::V4), 1);
    }

    proptest::proptest! {
        #[test]
        fn sets_are_compared_as_their_parts_are(
            a in proptest::collection::vec((0u128..40, 0u128..40), 0..5),
            b in proptest::collection::vec((0u128..40, 0u128..40), 0..5),
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
        let prefixes: Vec<String> = outside
            .prefixes(Family::V4)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(prefixes, ["0.0.0.0/1", "192.0.0.0/2"]);
        assert_eq!(Addresses::full().prefixes(Family::V4).len(), 1);
    }
}
