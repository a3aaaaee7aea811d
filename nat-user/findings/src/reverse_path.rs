//! Whether packets from outside are dropped because the host would answer by another interface.
//!
//! The filter looks up where the kernel would send an answer. The answer's source is the guest's
//! address, because natbpf has already translated the destination. With one uplink, that is the
//! interface by which the packet came. With two, routing rules for the host's own addresses do not
//! match.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use anyhow::Result;
use nat_sys::{
    netlink::{Link, Netlink},
    sysctl::Key,
};

use crate::{
    Finding, Kind,
    fits::Flow,
    flows::{Direction, REMOTE, Way},
    listed, place_name,
    rules::{Hook, Ruleset},
    walk::{Budget, Fate, Place, filter},
};

/// Two addresses in the internet: a route for only one of them says nothing about the rest.
const REMOTES: [Ipv4Addr; 2] = [REMOTE, Ipv4Addr::new(150, 0, 0, 1)];

/// How many pairs of guest and uplink are looked up.
const PAIRS_MAX: usize = 256;

/// Guests whose connections from the internet arrive by one uplink and whose answers would leave by
/// another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Detour {
    /// The uplink's interface.
    pub(super) uplink: String,
    pub(super) guests: BTreeSet<Ipv4Addr>,
    /// Whether `rp_filter` of the uplink is strict.
    pub(super) is_filtered: bool,
}

/// The affected uplinks.
///
/// # Errors
/// When the kernel does not answer.
pub(super) async fn detours(
    netlink: &Netlink,
    links: &[Link],
    ways: &[Way<'_>],
) -> Result<Vec<Detour>> {
    let index = |name: &str| {
        let link = links.iter().find(|link| link.name == name);
        link.map(|link| link.index)
    };
    let incoming = ways.iter().filter(|way| way.direction == Direction::In);
    let pairs: BTreeSet<(&str, &str, Ipv4Addr)> = incoming
        .filter_map(|way| {
            let (uplink, network) = (&way.uplink.interface, &way.network.interface);
            Some((uplink.as_str(), network.as_str(), guest_of(way)?))
        })
        .collect();
    let mut detours: BTreeMap<&str, BTreeSet<Ipv4Addr>> = BTreeMap::new();
    for (uplink, network, guest) in pairs.into_iter().take(PAIRS_MAX) {
        let (Some(out), Some(inside)) = (index(uplink), index(network)) else {
            continue;
        };
        if is_detour(netlink, guest, inside, out).await {
            detours.entry(uplink).or_default().insert(guest);
        }
    }
    let detour = |(uplink, guests): (&str, _)| {
        Ok(Detour {
            uplink: uplink.to_owned(),
            guests,
            is_filtered: is_strict(uplink)?,
        })
    };
    detours.into_iter().map(detour).collect()
}

/// Whether packets from a guest behind `inside` to the internet leave by another interface than
/// `out`.
async fn is_detour(netlink: &Netlink, guest: Ipv4Addr, inside: u32, out: u32) -> bool {
    for remote in REMOTES {
        let devices = netlink.devices_to(remote, guest, inside).await;
        // Without any route, no remote received an answer before either.
        let devices = devices.unwrap_or_default();
        if devices.is_empty() || devices.contains(&out) {
            return false;
        }
    }
    true
}

/// The larger of the two values counts (`IN_DEV_MAXCONF` in `include/linux/inetdevice.h`).
fn is_strict(interface: &str) -> Result<bool> {
    let mut value = 0;
    for scope in ["all", interface] {
        let text = Key::ipv4_conf(scope, "rp_filter")?.read()?;
        let own: u32 = text.and_then(|text| text.parse().ok()).unwrap_or(0);
        value = value.max(own);
    }
    Ok(value == 1)
}

/// The first guest of a way of IPv4: `rp_filter` is about no other.
fn guest_of(way: &Way) -> Option<Ipv4Addr> {
    match way.guests.addr() {
        IpAddr::V4(guest) => Some(guest),
        IpAddr::V6(_) => None,
    }
}

/// What drops packets on these detours.
pub(super) fn find_reverse_path(
    rules: &Ruleset,
    ways: &[Way],
    detours: &[Detour],
    budget: &mut Budget,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for detour in detours {
        let concerned: Vec<&Way> = (ways.iter())
            .filter(|way| way.direction == Direction::In && detour.is_of(way))
            .collect();
        let names: Vec<String> = concerned.iter().map(|way| way.rule.clone()).collect();
        if detour.is_filtered {
            let uplink = &detour.uplink;
            let place = format!("sysctl net.ipv4.conf.{uplink}.rp_filter (or that of all) = 1");
            let command = format!("sysctl net.ipv4.conf.{uplink}.rp_filter=2");
            findings.push(detour.finding(place, &names, vec![command]));
        }
        let place = concerned
            .first()
            .and_then(|way| dropped(rules, way, budget));
        findings.extend(place.map(|at| detour.finding(place_name(rules, at), &names, Vec::new())));
    }
    findings
}

/// The rule that drops packets only because the route back is missing.
fn dropped(rules: &Ruleset, way: &Way, budget: &mut Budget) -> Option<Place> {
    let chains: Vec<usize> = rules.at(Hook::Prerouting, false).collect();
    let flow = way.openings().into_iter().next()?;
    let usual = Flow { output: "", ..flow };
    let detour = Flow {
        has_no_way_back: true,
        ..usual.clone()
    };
    chains.into_iter().find_map(|chain| {
        let fate = filter(rules, chain, &detour, budget);
        match (fate, filter(rules, chain, &usual, budget)) {
            (Fate::Dropped(_), Fate::Dropped(_)) => None,
            (Fate::Dropped(place), _) => Some(place),
            _ => None,
        }
    })
}

impl Detour {
    fn is_of(&self, way: &Way) -> bool {
        way.uplink.interface == self.uplink
            && guest_of(way).is_some_and(|guest| self.guests.contains(&guest))
    }

    fn finding(&self, place: String, rules: &[String], commands: Vec<String>) -> Finding {
        let uplink = &self.uplink;
        let remedy = if commands.is_empty() {
            "add a route by that uplink for the guests' answers, or remove the rule"
        } else {
            "add a route by that uplink for the guests' answers, or loosen the filter"
        };
        Finding {
            kind: Kind::ReversePath,
            place,
            what: format!(
                "drops connections of {} that come by {uplink}",
                listed(rules)
            ),
            why:
                "the host's routes send the guest's answers to the internet by another interface; \
                  routing rules for the host's own addresses do not apply, because these packets \
                  have the guest's address"
                    .to_owned(),
            remedy: remedy.to_owned(),
            commands,
        }
    }
}
