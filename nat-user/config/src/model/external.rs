//! External addresses in the configuration, and those that natbpf adds to an interface.

use std::{collections::BTreeMap, net::Ipv4Addr};

use super::{
    config::Config,
    family::Family,
    guest::GuestAddress,
    snat::SnatTarget,
    uplink::{Claim, UplinkAddresses, UplinkId},
};

/// External addresses that an uplink or a rule names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named<'c, A = Ipv4Addr> {
    /// The lowest address.
    pub first: A,
    /// The highest address, itself included.
    pub last: A,
    /// The uplink by which they are reached.
    pub uplink: UplinkId,
    /// The guest behind them, if there is a single one.
    pub guest: Option<&'c GuestAddress<A>>,
}

impl<A: Family> Named<'_, A> {
    /// One after the other.
    pub fn addresses(&self) -> impl Iterator<Item = A> + use<A> {
        let (first, last) = (self.first, self.last);
        first.up_to(last)
    }
}

impl Config {
    /// The external IPv4 addresses that uplinks and rules name, whoever holds them. If an address
    /// appears twice, the first one counts.
    pub fn named_addresses(&self) -> impl Iterator<Item = Named<'_>> {
        self.named::<Ipv4Addr>()
    }

    /// The same for either family.
    pub fn named<A: Family>(&self) -> impl Iterator<Item = Named<'_, A>> {
        let one = |address, uplink, guest| Named {
            first: address,
            last: address,
            uplink,
            guest,
        };
        let uplinks = self.uplinks.iter().zip((0..).map(UplinkId));
        let fixed = uplinks.flat_map(move |(uplink, id)| {
            let addresses = match A::of_uplink(uplink) {
                UplinkAddresses::Fixed(addresses) => addresses.as_slice(),
                UplinkAddresses::Interface => &[],
            };
            addresses.iter().map(move |address| one(*address, id, None))
        });
        let nats = A::nats(self).iter();
        let nats = nats.map(move |rule| one(rule.address, rule.uplink, Some(&rule.to)));
        let pools = A::snat(self).iter().filter_map(|rule| match rule.to {
            SnatTarget::Pool { first, last } => Some(Named {
                first,
                last,
                uplink: rule.uplink,
                guest: None,
            }),
            SnatTarget::Masquerade => None,
        });
        let forwards = A::forwards(self).iter();
        let forwards =
            forwards.filter_map(move |rule| Some(one(rule.address?, rule.uplink, Some(&rule.to))));
        fixed.chain(nats).chain(pools).chain(forwards)
    }

    /// The IPv4 addresses to add to uplinks' interfaces if no interface holds them.
    #[must_use]
    pub fn claimed_addresses(&self) -> BTreeMap<Ipv4Addr, UplinkId> {
        self.claimed()
    }

    /// The same for either family.
    #[must_use]
    pub fn claimed<A: Family>(&self) -> BTreeMap<A, UplinkId> {
        let mut claimed = BTreeMap::new();
        for named in self.named::<A>() {
            if self.uplinks[named.uplink.0].claim == Claim::Add {
                for address in named.addresses() {
                    claimed.entry(address).or_insert(named.uplink);
                }
            }
        }
        claimed
    }
}
