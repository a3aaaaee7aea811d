//! Whether netfilter translates what natbpf translates.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use crate::{
    Finding, Kind,
    fits::Flow,
    flows::{Direction, REMOTE, REMOTE6, Way},
    listed, place_name,
    rules::{Family, Hook, Ruleset, Source, Verdict},
    walk::{Budget, Place, translation},
};

/// Rules of netfilter that translate the same packets: one finding for each.
pub(super) fn find_translations(
    rules: &Ruleset,
    ways: &[Way],
    budget: &mut Budget,
) -> Vec<Finding> {
    let mut found: BTreeMap<(Place, Effect), Vec<String>> = BTreeMap::new();
    for way in ways.iter().take(WAYS_MAX) {
        for (place, effect) in of_way(rules, way, budget) {
            let concerned = found.entry((place, effect)).or_default();
            if concerned.last() != Some(&way.rule) {
                concerned.push(way.rule.clone());
            }
        }
    }
    let finding = |((place, effect), concerned): ((Place, Effect), Vec<String>)| {
        let (remedy, commands) = remedy(rules, place);
        Finding {
            kind: Kind::OtherNat,
            place: place_name(rules, place),
            what: format!("{} {}", effect.what(), listed(&concerned)),
            why: effect.why().to_owned(),
            remedy,
            commands,
        }
    };
    found.into_iter().map(finding).collect()
}

/// How many rules of the configuration are checked.
const WAYS_MAX: usize = 500;

/// What a rule of netfilter does to connections of a rule of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Effect {
    /// Gives guests' packets another source before natbpf does.
    TakesSources,
    /// Gives packets to guests another source: guests do not see the client.
    HidesClients,
    /// Redirects packets after natbpf has translated their destination.
    Redirects,
    /// Never sees its packets.
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
                "netfilter translates first, and natbpf does not touch packets that already have \
                 an outside address: natbpf's mappings, limits, counters and fast path do not \
                 apply to these connections"
            }
            Self::HidesClients => "the guest sees an address of this host instead of the client's",
            Self::Redirects => "they do not reach the guest that the configuration names",
            Self::IsIdle => {
                "it has no effect while natbpf runs, and takes over when natbpf does not run"
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
    // A rule for any destination redirects the packets in any case, so it is not reported.
    let redirects: Vec<Place> = (found.iter())
        .filter(|(_, effect)| *effect == Effect::Redirects)
        .map(|(place, _)| *place)
        .collect();
    found.retain(|(place, effect)| *effect != Effect::IsIdle || !redirects.contains(place));
    found
}

/// A flow to or from the whole internet. Rules for some prefixes, such as a tunnel's, are intended.
fn at_large(flow: Flow) -> Flow {
    let narrowed = |prefix: IpNet| match prefix {
        IpNet::V4(prefix) if prefix.prefix_len() == 0 => IpAddr::from(REMOTE).into(),
        IpNet::V6(prefix) if prefix.prefix_len() == 0 => IpAddr::from(REMOTE6).into(),
        prefix => prefix,
    };
    Flow {
        source: narrowed(flow.source),
        destination: narrowed(flow.destination),
        ..flow
    }
}

/// The remedy for a translating rule. Software recreates its rules, so the remedy there is its own
/// setting.
fn remedy(rules: &Ruleset, place: Place) -> (String, Vec<String>) {
    let own = |text: &str| (text.to_owned(), Vec::new());
    let chain = &rules.chains[place.chain];
    let text = place.rule.map_or("", |at| chain.rules[at].text.as_str());
    let (table, name) = (chain.table.as_str(), chain.name.as_str());
    if name.starts_with("LIBVIRT_") || table.ends_with(" libvirt_network") {
        return own(
            "have libvirt leave the network's packets alone: <forward mode=\"open\"/> in virsh \
             net-edit, \
             then virsh net-destroy and net-start",
        );
    }
    for (program, tool) in [("LXD", "lxc"), ("Incus", "incus")] {
        if let Some(network) = network_of_manager(table, name, text, program) {
            let key = match rules.family {
                Family::Ipv4 => "ipv4.nat",
                Family::Ipv6 => "ipv6.nat",
            };
            let command = format!("{tool} network set {network} {key}=false");
            let remedy = format!("{program} recreates it: turn its translation off");
            return (remedy, vec![command]);
        }
    }
    if name.starts_with("DOCKER") {
        return own(
            "leave the port out of the forward, or do not publish it (docker run without -p): \
             Docker recreates the rule",
        );
    }
    let command = removal(rules, place).into_iter().collect();
    let remedy = "remove it if natbpf should translate these packets";
    (remedy.to_owned(), command)
}

/// The network for which LXD or Incus has created a rule, from the chain's name in their own table,
/// or from a comment in those of iptables.
fn network_of_manager(table: &str, chain: &str, text: &str, program: &str) -> Option<String> {
    if table.rsplit(' ').next() == Some(program.to_lowercase().as_str()) {
        let (_, network) = chain.split_once('.')?;
        return Some(network.to_owned());
    }
    let (_, after) = text.split_once(&format!("generated for {program} network "))?;
    let is_name = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let network: String = after.chars().take_while(is_name).collect();
    (!network.is_empty()).then_some(network)
}

/// The command that removes a rule.
fn removal(rules: &Ruleset, place: Place) -> Option<String> {
    let chain = &rules.chains[place.chain];
    let rule = &chain.rules[place.rule?];
    let arguments = rule.text.strip_prefix("-A ");
    Some(match chain.source {
        Source::Nft => format!("nft delete rule {}", rule.text),
        source => {
            let tool = source.tool(rules.family);
            format!("{tool} -t {} -D {}", chain.table, arguments?)
        }
    })
}
