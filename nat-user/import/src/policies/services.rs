//! What a rule says about protocols and ports.

use std::collections::BTreeMap;

use super::chain::{Chain, Living};
use crate::{
    condition::Condition,
    family::Family,
    plan::{PortRange, Services},
    ranges::{Ports, Protocols},
    rule::{ICMP, TCP, UDP, protocol_name},
};

/// More single ports than this are not services of the host.
const MOST_SERVICES: u64 = 32;

/// Protocols and ports, both empty for all.
pub(super) fn service(
    condition: &Condition,
) -> Result<(Vec<&'static str>, Vec<PortRange>), String> {
    let protocols = protocols(&condition.protocols)?;
    if condition.ports.is_full() {
        return Ok((protocols, Vec::new()));
    }
    if protocols.is_empty() || protocols.contains(&"icmp") {
        return Err("only tcp and udp have ports in policies".to_owned());
    }
    // Port 0 is never used.
    let ports = condition.ports.and(&Ports::range(1, 65535));
    let ranges = ports.ranges().iter();
    let ranges = ranges.map(|(first, last)| (*first as u16, *last as u16));
    match ports.is_empty() {
        true => Err("port 0 cannot be reached".to_owned()),
        false => Ok((protocols, ranges.collect())),
    }
}

fn protocols(protocols: &Protocols) -> Result<Vec<&'static str>, String> {
    if protocols.is_full() {
        return Ok(Vec::new());
    }
    let known = BTreeMap::from([(TCP, "tcp"), (UDP, "udp"), (ICMP, "icmp")]);
    if protocols.count() > known.len() as u128 {
        return Err("policies cannot exclude a single protocol".to_owned());
    }
    let name = |number: u128| {
        let unknown = || {
            format!(
                "policies match tcp, udp and icmp, not {}",
                protocol_name(number)
            )
        };
        known.get(&number).copied().ok_or_else(unknown)
    };
    protocols.numbers().map(name).collect()
}

/// The services of the host for guests behind an interface; nothing if that is everything, or if
/// `host` cannot express it.
pub(super) fn services(family: Family, input: &Chain, interface: &str) -> Option<Services> {
    let mut services = Services::default();
    for Living { step, accepts } in &input.living {
        let condition = &step.condition;
        let Some(accepts) = accepts else { continue };
        if !condition.input.matches(interface)
            || (condition.is_about_answers() || condition.is_about_neighbours()) && *accepts
        {
            continue;
        }
        let is_plain = condition.foreign.is_empty()
            && condition.sources.is_full()
            && condition.destinations.is_full()
            && condition.source_ports.is_full()
            && condition.is_translated.is_none();
        if !is_plain {
            return None;
        }
        let is_all = condition.protocols.is_full() && condition.ports.is_full();
        match (accepts, is_all) {
            (false, true) => return Some(with_dns(services)),
            (true, false) => services.words.extend(words(family, condition)?),
            // (All are accepted here, or something is dropped that `host` cannot say.)
            _ => return None,
        }
        services.origin.add(step.rule);
    }
    (!input.end.accepts).then(|| with_dns(services))
}

/// The words of `host` for protocols and ports.
fn words(family: Family, condition: &Condition) -> Option<Vec<String>> {
    let server = match family {
        Family::V4 => 67,
        Family::V6 => 547,
    };
    let (protocols, ports) = service(condition).ok()?;
    if protocols == ["icmp"] {
        return Some(vec!["ping".to_owned()]);
    }
    let count: u64 = ports
        .iter()
        .map(|(first, last)| u64::from(last - first) + 1)
        .sum();
    if ports.is_empty() || count > MOST_SERVICES {
        return None;
    }
    let ports = ports.iter().flat_map(|(first, last)| *first..=*last);
    let ports: Vec<u16> = ports.collect();
    let word = |protocol: &&str| {
        let protocol = (*protocol).to_owned();
        let ports = ports.clone().into_iter();
        ports.map(move |port| match (protocol.as_str(), port) {
            ("udp", port) if port == server => "dhcp".to_owned(),
            (protocol, port) => format!("{protocol}/{port}"),
        })
    };
    Some(protocols.iter().flat_map(word).collect())
}

/// `dns` is the port 53 of both protocols.
fn with_dns(mut services: Services) -> Services {
    let dns = ["udp/53", "tcp/53"];
    let has = |word: &&str| services.words.iter().any(|known| known == word);
    if dns.iter().all(has) {
        services.words.retain(|word| !dns.contains(&word.as_str()));
        services.words.push("dns".to_owned());
    }
    services.words.sort();
    services.words.dedup();
    services
}
