//! Whether netfilter translates what natbpf translates.

use std::collections::BTreeMap;

use ipnet::Ipv4Net;

use super::flows::{Direction, REMOTE, Way};
use super::rules::{Budget, Flow, Hook, Place, Ruleset, Source, Verdict, translation};
use super::{Finding, Kind, listed, place_name};

/// Rules of netfilter's that translate the same packets: one finding for each.
pub(super) fn find(rules: &Ruleset, ways: &[Way], budget: &mut Budget) -> Vec<Finding> {
    let mut found: BTreeMap<(Place, Effect), Vec<String>> = BTreeMap::new();
    for way in ways.iter().take(WAYS_MAX) {
        for (place, effect) in of_way(rules, way, budget) {
            let concerned = found.entry((place, effect)).or_default();
            if concerned.last() != Some(&way.rule) {
                concerned.push(way.rule.clone());
            }
        }
    }
    let finding = |((place, effect), concerned): ((Place, Effect), Vec<String>)| Finding {
        kind: Kind::OtherNat,
        place: place_name(rules, place),
        what: format!("{} {}", effect.what(), listed(&concerned)),
        why: effect.why().to_owned(),
        remedy: "remove it if natbpf is to translate these packets".to_owned(),
        commands: removal(rules, place).into_iter().collect(),
    };
    found.into_iter().map(finding).collect()
}

/// So many rules of the configuration are looked at.
const WAYS_MAX: usize = 500;

/// What a rule of netfilter's does to connections of a rule of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Effect {
    /// Gives guests' packets another source before natbpf does.
    TakesSources,
    /// Gives packets to guests another source: guests do not see who connects.
    HidesClients,
    /// Sends packets elsewhere that natbpf has given their destination.
    Redirects,
    /// Never sees the packets that it is for.
    IsIdle,
}

impl Effect {
    fn what(self) -> &'static str {
        match self {
            Self::TakesSources => "translates the source of connections of",
            Self::HidesClients => "changes the source of connections that come by",
            Self::Redirects => "changes once more the destination of connections of",
            Self::IsIdle => "is for connections that natbpf translates first, by",
        }
    }

    fn why(self) -> &'static str {
        match self {
            Self::TakesSources => {
                "netfilter comes first, and natbpf leaves alone what has an outside address: these \
                 connections are not natbpf's, with its mappings, limits, counters and fast path"
            }
            Self::HidesClients => "the guest sees an address of this host instead of who connects",
            Self::Redirects => "they do not come to the guest that the configuration names",
            Self::IsIdle => {
                "it does nothing as long as natbpf runs, and takes over when it does not"
            }
        }
    }
}

fn of_way(rules: &Ruleset, way: &Way, budget: &mut Budget) -> Vec<(Place, Effect)> {
    let at_large = |flows: Vec<_>| flows.into_iter().map(at_large).collect::<Vec<Flow>>();
    let (opened, untranslated) = (at_large(way.openings()), at_large(way.untranslated()));
    let routed: Vec<Flow> = (opened.iter())
        .map(|flow| Flow {
            output: "",
            ..flow.clone()
        })
        .collect();
    let mut found = Vec::new();
    let mut look = |hook, verdict: &Verdict, flows: &[Flow], effect| {
        for chain in rules.at(hook, true) {
            let place = |flow| translation(rules, chain, flow, verdict, budget);
            found.extend(flows.iter().filter_map(place).map(|place| (place, effect)));
        }
    };
    let (source, destination) = (Verdict::SourceNat, Verdict::DestinationNat);
    match way.direction {
        Direction::Out => look(Hook::Postrouting, &source, &opened, Effect::TakesSources),
        Direction::In => {
            look(Hook::Postrouting, &source, &opened, Effect::HidesClients);
            look(Hook::Prerouting, &destination, &routed, Effect::Redirects);
            look(
                Hook::Prerouting,
                &destination,
                &untranslated,
                Effect::IsIdle,
            );
        }
    }
    // A rule for any destination redirects; that it would do so untranslated as well is no news.
    let redirects: Vec<Place> = (found.iter())
        .filter(|(_, effect)| *effect == Effect::Redirects)
        .map(|(place, _)| *place)
        .collect();
    found.retain(|(place, effect)| *effect != Effect::IsIdle || !redirects.contains(place));
    found
}

/// A flow to or from the internet at large. Rules about some prefixes of it, such as a tunnel's, are
/// meant.
fn at_large(flow: Flow) -> Flow {
    let narrowed = |prefix: Ipv4Net| match prefix.prefix_len() {
        0 => REMOTE.into(),
        _ => prefix,
    };
    Flow {
        source: narrowed(flow.source),
        destination: narrowed(flow.destination),
        ..flow
    }
}

/// The command that removes a rule.
fn removal(rules: &Ruleset, place: Place) -> Option<String> {
    let chain = &rules.chains[place.chain];
    let rule = &chain.rules[place.rule?];
    let arguments = rule.text.strip_prefix("-A ");
    Some(match chain.source {
        Source::Nft => format!("nft delete rule {}", rule.text),
        Source::IptablesLegacy => format!("iptables-legacy -t {} -D {}", chain.table, arguments?),
        Source::IptablesNft => format!("iptables-nft -t {} -D {}", chain.table, arguments?),
    })
}
