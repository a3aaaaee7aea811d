//! The IPv6 addresses of guests on an uplink's link, and external ones: the daemon announces that
//! they are at this host, so that neighbours know it before they ask, and learn that its Ethernet
//! address has changed. (The programs answer those who ask.)

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
    time::{Duration, Instant},
};

use nat_sys::netlink::{Layer, Link};

use crate::host::{advertise::Advertiser, setup::Plan};

/// How often an address is announced, and the pause in between (RFC 4861 section 10 has three
/// announcements and a second).
const ANNOUNCEMENTS: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);
/// How many addresses of an uplink are announced.
const MOST: usize = 256;

/// The announcements that remain to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Remaining {
    count: u32,
    next: Instant,
}

/// The addresses at one interface.
#[derive(Debug, Default)]
struct Uplink {
    advertiser: Option<Advertiser>,
    addresses: BTreeMap<Ipv6Addr, Remaining>,
}

/// All addresses that are announced, by their uplinks' interfaces.
#[derive(Debug, Default)]
pub(super) struct Advertised {
    uplinks: BTreeMap<String, Uplink>,
    /// Whether a missing socket was reported.
    has_complained: bool,
}

impl Advertised {
    /// Follows a plan and the host's interfaces. `held` are the addresses that interfaces hold and
    /// that natbpf has not put there.
    pub(super) fn follow(&mut self, plan: &Plan, links: &[Link], held: &BTreeSet<Ipv6Addr>) {
        let now = Instant::now();
        let mut wanted: BTreeMap<&str, BTreeSet<Ipv6Addr>> = BTreeMap::new();
        for (uplink, address) in plan.reached_by_links() {
            let addresses = wanted.entry(uplink).or_default();
            if addresses.len() < MOST && !held.contains(&address) {
                addresses.insert(address);
            }
        }
        (self.uplinks).retain(|name, _| wanted.contains_key(name.as_str()));
        for (name, addresses) in wanted {
            let link = links.iter().find(|link| link.name == name);
            let link = link.filter(|link| link.layer == Layer::Ethernet && link.up && link.running);
            let place = link.and_then(|link| Some((link.index, link.mac?)));
            let complain = !self.has_complained;
            let uplink = self.uplinks.entry(name.to_owned()).or_default();
            if let Err(error) = uplink.place_at(place, now)
                && complain
            {
                self.has_complained = true;
                log::warn!(
                    "guests on the link of {name} are not announced there: {error}; needs \
                     CAP_NET_RAW"
                );
            }
            uplink.follow(&addresses, now);
        }
    }

    /// Announces, as far as due.
    pub(super) fn care(&mut self) {
        let now = Instant::now();
        for uplink in self.uplinks.values_mut() {
            uplink.care(now);
        }
    }

    /// When [`Self::care`] has something to do.
    pub(super) fn is_due_at(&self) -> Option<Instant> {
        let able = self.uplinks.values().filter(|one| one.advertiser.is_some());
        let all = able.flat_map(|uplink| uplink.addresses.values());
        let due = all.filter(|remaining| remaining.count > 0);
        due.map(|remaining| remaining.next).min()
    }
}

impl Uplink {
    /// Follows an interface: at a new place, all addresses are announced again.
    fn place_at(&mut self, place: Option<(u32, [u8; 6])>, now: Instant) -> std::io::Result<()> {
        let is_same = |one: &Advertiser| place.is_some_and(|(index, mac)| one.is_for(index, mac));
        if self.advertiser.as_ref().is_some_and(is_same) {
            return Ok(());
        }
        self.advertiser = None;
        for remaining in self.addresses.values_mut() {
            *remaining = Remaining::all(now);
        }
        let opened = place.map(|(index, mac)| Advertiser::open(index, mac));
        self.advertiser = opened.transpose()?;
        Ok(())
    }

    fn follow(&mut self, wanted: &BTreeSet<Ipv6Addr>, now: Instant) {
        self.addresses.retain(|address, _| wanted.contains(address));
        for address in wanted {
            let new = || Remaining::all(now);
            self.addresses.entry(*address).or_insert_with(new);
        }
    }

    fn care(&mut self, now: Instant) {
        let Some(advertiser) = &self.advertiser else {
            return;
        };
        let all = self.addresses.iter_mut();
        for (address, remaining) in all.filter(|(_, one)| one.count > 0 && one.next <= now) {
            let _unheard = advertiser.announce(*address);
            *remaining = Remaining {
                count: remaining.count - 1,
                next: now + PAUSE,
            };
        }
    }
}

impl Remaining {
    fn all(now: Instant) -> Self {
        Self {
            count: ANNOUNCEMENTS,
            next: now,
        }
    }
}
