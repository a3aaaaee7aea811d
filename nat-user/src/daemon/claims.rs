//! External addresses for which this host must answer: the daemon probes whether another host has
//! them, and then announces them (RFC 5227).
//!
//! An address in use elsewhere stays with its owner and is probed again later, so an address that
//! moves here is taken over automatically. An address that was taken stays taken: any host on the
//! link can claim it, so the daemon only reports a conflict.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use nat_config::model::{Claim, Config, UplinkId};
use nat_sys::netlink::{Layer, Link};

use super::advertised::Advertised;
use crate::host::arp::{Arp, Heard};

/// How often an address is probed before it is taken, and how long an answer may take. Shorter than
/// in RFC 5227, because guests wait.
const PROBES: u32 = 3;
const PROBE_PAUSE: Duration = Duration::from_millis(200);
/// How often an address is announced, and the pause in between (RFC 5227 section 1.1).
const ANNOUNCEMENTS: u32 = 2;
const ANNOUNCE_PAUSE: Duration = Duration::from_secs(2);
/// When an address that another host has is probed again.
const RETRY: Duration = Duration::from_secs(5);
/// For how long a conflict is reported after it was last seen (RFC 5227 section 1.1 defends no more
/// often than that).
const CONFLICT: Duration = Duration::from_secs(60);
const DEFEND_PAUSE: Duration = Duration::from_secs(10);
/// How many addresses of one uplink are probed. The other addresses of a larger pool are taken
/// without a probe.
const MOST: usize = 256;

/// The state of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// No host has answered so far. Another host may have had it before.
    Probing {
        left: u32,
        next: Instant,
        former: Option<[u8; 6]>,
    },
    /// This host answers for it.
    Ours {
        announcements: u32,
        next: Instant,
        rival: Option<([u8; 6], Instant)>,
    },
    /// Another host has it.
    Taken { by: [u8; 6], again: Instant },
}

/// The addresses of one uplink.
#[derive(Debug, Default)]
struct Uplink {
    arp: Option<Arp>,
    addresses: BTreeMap<Ipv4Addr, Standing>,
}

/// All addresses for which this host must answer.
#[derive(Debug, Default)]
pub(super) struct Claims {
    uplinks: BTreeMap<String, Uplink>,
    /// Those for which an earlier daemon answered.
    inherited: BTreeSet<Ipv4Addr>,
    /// Whether the missing probe was reported.
    has_complained: bool,
    /// Those of IPv6, which are not probed: they are in a prefix of the host's own.
    pub(super) ipv6: Advertised,
}

impl Claims {
    /// Takes over the addresses for which an earlier daemon answered: the programs have answered
    /// for them all the time.
    pub(super) fn inherit(&mut self, addresses: impl IntoIterator<Item = Ipv4Addr>) {
        self.inherited.extend(addresses);
    }

    /// Follows a configuration and the host: `held` are the addresses that interfaces hold and that
    /// natbpf has not put there.
    pub(super) fn follow(&mut self, config: &Config, links: &[Link], held: &BTreeSet<Ipv4Addr>) {
        let now = Instant::now();
        let names: BTreeSet<&String> = config.uplinks.iter().map(|uplink| &uplink.name).collect();
        self.uplinks.retain(|name, _| names.contains(name));
        for (uplink, id) in config.uplinks.iter().zip((0..).map(UplinkId)) {
            let link = links.iter().find(|link| link.name == uplink.interface);
            let link = link.filter(|link| link.layer == Layer::Ethernet && link.up);
            let entry = self.uplinks.entry(uplink.name.clone()).or_default();
            let mac = link.and_then(|link| Some((link.index, link.mac?)));
            let is_same = |arp: &Arp| mac.is_some_and(|(index, mac)| arp.is_for(index, mac));
            if !entry.arp.as_ref().is_some_and(is_same) {
                entry.arp = mac.and_then(|(index, mac)| match Arp::open(index, mac) {
                    Ok(arp) => Some(arp),
                    Err(error) => {
                        if !std::mem::replace(&mut self.has_complained, true) {
                            log::warn!(
                                "natbpf answers for external addresses without probing for other \
                                 hosts: ARP on {}: {error}; needs CAP_NET_RAW",
                                uplink.interface
                            );
                        }
                        None
                    }
                });
                entry.announce_again(now);
            }
            let wanted: BTreeSet<Ipv4Addr> = match uplink.claim {
                Claim::None => BTreeSet::new(),
                Claim::Arp | Claim::Add => addresses(config, id, held),
            };
            entry.follow(&wanted, &self.inherited, now);
        }
    }

    /// Probes, announces and listens, as far as due. Returns whether the set of answered addresses
    /// has changed.
    pub(super) fn care(&mut self) -> bool {
        let now = Instant::now();
        let mut has_changed = false;
        for uplink in self.uplinks.values_mut() {
            has_changed |= uplink.care(now);
        }
        self.ipv6.care();
        has_changed
    }

    /// When the next probe of a new address is due.
    pub(super) fn is_settled_after(&self) -> Option<Instant> {
        let standings = self
            .uplinks
            .values()
            .flat_map(|uplink| uplink.addresses.values());
        let first = standings.filter_map(|standing| match *standing {
            Standing::Probing {
                next, former: None, ..
            } => Some(next),
            _ => None,
        });
        first.min()
    }

    /// When [`Self::care`] has something to do again, if that is soon.
    pub(super) fn is_due_at(&self) -> Option<Instant> {
        let all = self.uplinks.values().filter(|uplink| uplink.arp.is_some());
        let standings = all.flat_map(|uplink| uplink.addresses.values());
        let due = standings.filter_map(|standing| match *standing {
            Standing::Probing { next, .. } => Some(next),
            Standing::Ours {
                announcements,
                next,
                ..
            } => (announcements > 0).then_some(next),
            Standing::Taken { again, .. } => Some(again),
        });
        due.chain(self.ipv6.is_due_at()).min()
    }

    /// Whether this host answers for the address.
    pub(super) fn is_ours(&self, address: Ipv4Addr) -> bool {
        let mut uplinks = self.uplinks.values();
        uplinks.any(|uplink| matches!(uplink.addresses.get(&address), Some(Standing::Ours { .. })))
    }

    /// The addresses for which this host does not answer.
    pub(super) fn silent(&self, config: &Config) -> BTreeSet<Ipv4Addr> {
        let unclaimed = config
            .named_addresses()
            .filter(|named| config.uplinks[named.uplink.0].claim == Claim::None);
        let unclaimed = unclaimed.flat_map(|named| named.addresses());
        let all = self.uplinks.values().flat_map(|uplink| &uplink.addresses);
        let others = all.filter(|(_, standing)| !matches!(standing, Standing::Ours { .. }));
        unclaimed
            .chain(others.map(|(address, _)| *address))
            .collect()
    }

    /// The other host that has the address, if any.
    pub(super) fn taken_by(&self, address: Ipv4Addr) -> Option<[u8; 6]> {
        self.uplinks
            .values()
            .find_map(|uplink| match uplink.addresses.get(&address) {
                Some(Standing::Taken { by, .. }) => Some(*by),
                Some(Standing::Probing { former, .. }) => *former,
                _ => None,
            })
    }

    /// What the operator must know.
    pub(super) fn findings(&self) -> Vec<String> {
        let all = self.uplinks.iter().flat_map(|(name, uplink)| {
            uplink
                .addresses
                .iter()
                .map(move |(address, standing)| (name, address, standing))
        });
        let finding = |(name, address, standing): (&String, &Ipv4Addr, &Standing)| match standing {
            Standing::Taken { by, .. }
            | Standing::Probing {
                former: Some(by), ..
            } => Some(format!(
                "external address {address} is in use by {}: natbpf does not answer for it, and \
                 probes again every {} s; if other software moves it between hosts, set claim = \
                 \"none\" in [uplink.{name}]",
                in_words(*by),
                RETRY.as_secs()
            )),
            Standing::Ours {
                rival: Some((by, at)),
                ..
            } if at.elapsed() < CONFLICT => Some(format!(
                "external address {address} is claimed twice: {} also claims it; remove it from \
                     one of the hosts, or set claim = \"none\" in [uplink.{name}]",
                in_words(*by)
            )),
            _ => None,
        };
        all.filter_map(finding).collect()
    }
}

impl Uplink {
    fn follow(
        &mut self,
        wanted: &BTreeSet<Ipv4Addr>,
        inherited: &BTreeSet<Ipv4Addr>,
        now: Instant,
    ) {
        self.addresses.retain(|address, _| wanted.contains(address));
        for address in wanted {
            let standing = match inherited.contains(address) || self.arp.is_none() {
                true => Standing::Ours {
                    announcements: ANNOUNCEMENTS,
                    next: now,
                    rival: None,
                },
                false => Standing::Probing {
                    left: PROBES,
                    next: now,
                    former: None,
                },
            };
            self.addresses.entry(*address).or_insert(standing);
        }
    }

    /// The interface has changed or comes up: a switch must learn where the addresses are.
    fn announce_again(&mut self, now: Instant) {
        for standing in self.addresses.values_mut() {
            if let Standing::Ours {
                announcements,
                next,
                ..
            } = standing
            {
                (*announcements, *next) = (ANNOUNCEMENTS, now);
            }
        }
    }

    fn care(&mut self, now: Instant) -> bool {
        let Some(arp) = &self.arp else {
            return false;
        };
        let heard = arp.heard().unwrap_or_default();
        let mut has_changed = false;
        for one in heard {
            for address in [one.sender, one.target] {
                if let Some(standing) = self.addresses.get_mut(&address) {
                    has_changed |= standing.hear(arp, address, one, now);
                }
            }
        }
        for (address, standing) in &mut self.addresses {
            has_changed |= standing.step(arp, *address, now);
        }
        has_changed
    }
}

impl Standing {
    /// Handles an ARP packet about the address. Returns whether this host stops answering for it.
    fn hear(&mut self, arp: &Arp, address: Ipv4Addr, heard: Heard, now: Instant) -> bool {
        let has_it = heard.sender == address;
        let asks_for_it = heard.sender.is_unspecified() && heard.target == address;
        match self {
            Self::Probing { .. } if has_it || asks_for_it => {
                *self = Self::Taken {
                    by: heard.mac,
                    again: now + RETRY,
                };
                true
            }
            Self::Taken { by, again } if has_it => {
                (*by, *again) = (heard.mac, now + RETRY);
                false
            }
            Self::Ours { rival, .. } if has_it => {
                let is_quiet = rival.is_none_or(|(_, at)| now - at > DEFEND_PAUSE);
                if is_quiet {
                    let _unheard = arp.announce(address);
                    *rival = Some((heard.mac, now));
                }
                false
            }
            _ => false,
        }
    }

    /// Does what is due. Returns whether this host answers for the address from now on.
    fn step(&mut self, arp: &Arp, address: Ipv4Addr, now: Instant) -> bool {
        match self {
            Self::Probing { left, next, .. } if *next <= now => {
                if *left > 0 {
                    let _unheard = arp.probe(address);
                    (*left, *next) = (*left - 1, now + PROBE_PAUSE);
                    return false;
                }
                *self = Self::Ours {
                    announcements: ANNOUNCEMENTS,
                    next: now,
                    rival: None,
                };
                log::info!(
                    "external address {address}: no other host has it; natbpf answers ARP for it"
                );
                true
            }
            Self::Ours {
                announcements,
                next,
                ..
            } if *announcements > 0 && *next <= now => {
                let _unheard = arp.announce(address);
                (*announcements, *next) = (*announcements - 1, now + ANNOUNCE_PAUSE);
                false
            }
            Self::Taken { by, again } if *again <= now => {
                *self = Self::Probing {
                    left: PROBES,
                    next: now,
                    former: Some(*by),
                };
                self.step(arp, address, now)
            }
            _ => false,
        }
    }
}

/// The external addresses of an uplink that no interface of the host holds, the first of them.
fn addresses(config: &Config, id: UplinkId, held: &BTreeSet<Ipv4Addr>) -> BTreeSet<Ipv4Addr> {
    let named = config.named_addresses().filter(|named| named.uplink == id);
    let named = named.filter(|named| named.guest.is_none_or(|guest| guest.now().is_some()));
    let all = named.flat_map(|named| named.addresses());
    all.filter(|address| !held.contains(address))
        .take(MOST)
        .collect()
}

fn in_words(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
