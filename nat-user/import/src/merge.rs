//! Two files, one of each family, as one configuration: interfaces are the same, and keys that are
//! about both families say what both files say.

use super::{
    family::{Family, is_unique_local},
    findings::printable,
    part::Part,
    plan::{Snat, Source},
    ranges::Addresses,
    topology::Topology,
};

/// Uplinks and networks of one interface get one name. What one file only guesses, the other one
/// may say.
///
/// # Errors
/// When an interface leads outside by one file and to guests by the other.
pub(super) fn topologies(
    [first, second]: [&mut Topology; 2],
    files: [&str; 2],
) -> Result<(), String> {
    adopt(first, second, files[1]);
    adopt(second, first, files[0]);
    for (here, there, [file, other]) in [
        (&*first, &*second, files),
        (&*second, &*first, [files[1], files[0]]),
    ] {
        let mut networks = there.networks.iter();
        let is_both = |interface: &str| {
            let mut uplinks = here.uplinks.iter();
            uplinks.any(|uplink| uplink.interface == interface)
        };
        if let Some(network) = networks.find(|network| is_both(&network.interface)) {
            return Err(format!(
                "{} leads outside by the rules of {file}, and to guests by those of {other}: give \
                 --host, or --address, or import each file alone",
                network.interface
            ));
        }
    }
    name(first, second);
    Ok(())
}

/// If both have one uplink, or one network, a guessed interface is the one that the other knows.
fn adopt(guessed: &mut Topology, known: &Topology, file: &str) {
    if let ([uplink], [other]) = (&mut guessed.uplinks[..], &known.uplinks[..])
        && uplink.check.is_some()
        && other.check.is_none()
    {
        uplink.interface.clone_from(&other.interface);
        uplink.check = Some(format!("only the rules of {} say it", printable(file)));
    }
    if let ([network], [other]) = (&mut guessed.networks[..], &known.networks[..])
        && network.check_interface.is_some()
        && other.check_interface.is_none()
    {
        network.interface.clone_from(&other.interface);
        network.check_interface = Some("only the rules of the other family say it");
    }
}

/// A single uplink of both is `wan` and a single network `lan`.
fn name(first: &mut Topology, second: &mut Topology) {
    let all = |one: &Topology| {
        let uplinks = one.uplinks.iter().map(|uplink| uplink.interface.clone());
        let networks = one.networks.iter().map(|network| network.interface.clone());
        [uplinks.collect::<Vec<_>>(), networks.collect()]
    };
    let [mut uplinks, mut networks] = all(first);
    let [more_uplinks, more_networks] = all(second);
    for (all, more) in [(&mut uplinks, more_uplinks), (&mut networks, more_networks)] {
        all.extend(more);
        all.sort();
        all.dedup();
    }
    for topology in [first, second] {
        for uplink in &mut topology.uplinks {
            uplink.name = match uplinks.len() {
                1 => "wan".to_owned(),
                _ => uplink.interface.clone(),
            };
        }
        for network in &mut topology.networks {
            network.name = match networks.len() {
                1 => "lan".to_owned(),
                _ => network.interface.clone(),
            };
        }
    }
}

/// Rules and keys that are about both families.
///
/// # Errors
/// When a key would have to have two values.
pub(super) fn plans<'d>(first: &mut Part<'d>, second: &mut Part<'d>) -> Result<(), String> {
    keep(first, second)?;
    mss_clamp(first, second)?;
    let (ipv4, ipv6) = match first.topology.family {
        Family::V4 => (first, second),
        Family::V6 => (second, first),
    };
    sources(ipv4, ipv6);
    Ok(())
}

/// `keep` matters where there are forwards.
fn keep(first: &Part<'_>, second: &Part<'_>) -> Result<(), String> {
    let ports = |part: &Part<'_>| part.plan.keep.as_ref().map(|(keep, _)| keep.clone());
    let both = [first, second].map(|part| !part.plan.forwards.is_empty());
    if both == [true; 2] && ports(first) != ports(second) {
        return Err(format!(
            "the rules of {} leave other ports to the host than those of {}, and an uplink's \
             `keep` is about both families: import each file alone, and choose",
            first.file, second.file
        ));
    }
    Ok(())
}

/// One size of segments for an uplink.
fn mss_clamp(first: &Part<'_>, second: &Part<'_>) -> Result<(), String> {
    let sizes = |part: &Part<'_>| {
        let clamps = part.plan.mss_clamp.iter();
        let named =
            clamps.map(|(up, size, _)| (part.topology.uplinks[*up].interface.clone(), *size));
        named.collect::<Vec<_>>()
    };
    for (interface, size) in sizes(first) {
        let differs = |(other, other_size): &(String, Option<u16>)| {
            *other == interface && *other_size != size
        };
        if sizes(second).iter().any(differs) {
            return Err(format!(
                "the rules of {} and {} set another MSS at {interface}, and an uplink has one \
                 `mss_clamp`: import each file alone, and choose",
                first.file, second.file
            ));
        }
    }
    Ok(())
}

/// A `[[snat]]` by network is about its IPv4 and its unique local IPv6 addresses: it stays if both
/// files say the same, or if there are no such addresses. Else each is about its own prefix.
fn sources(ipv4: &mut Part<'_>, ipv6: &mut Part<'_>) {
    for number in 0..ipv4.plan.snats.len() {
        let snat = &ipv4.plan.snats[number];
        let Source::Network(network) = snat.source else {
            continue;
        };
        let interface = &ipv4.topology.networks[network].interface;
        let Some((_, other)) = ipv6.network(interface) else {
            continue;
        };
        if !is_unique_local(&other.address) {
            continue;
        }
        let prefix = other.address.trunc();
        let is_same = |other: &Snat| {
            other.prefix == prefix
                && matches!(other.source, Source::Network(_))
                && alike(snat, ipv4, other, ipv6)
        };
        let same = ipv6.plan.snats.iter().position(is_same);
        let same = same
            .filter(|same| is_alone(number, &ipv4.plan.snats) && is_alone(*same, &ipv6.plan.snats));
        let snat = &mut ipv4.plan.snats[number];
        let Some(same) = same else {
            snat.source = Source::Prefix(snat.prefix);
            continue;
        };
        let removed = ipv6.plan.snats.remove(same);
        for rule in removed.origin.rules {
            let rule = &ipv6.dump.rules[rule];
            let (file, text) = (printable(&ipv6.file), printable(&rule.text));
            let line = format!("# {file} line {}: {text}", rule.line);
            snat.origin.elsewhere.push(line);
        }
    }
    // What is left is about IPv6 alone.
    for snat in &mut ipv6.plan.snats {
        if let Source::Network(network) = snat.source {
            let interface = &ipv6.topology.networks[network].interface;
            if ipv4.network(interface).is_some() {
                snat.source = Source::Prefix(snat.prefix);
            }
        }
    }
}

/// Whether two rules do the same, so that one rule for both families does.
fn alike(snat: &Snat, part: &Part<'_>, other: &Snat, other_part: &Part<'_>) -> bool {
    let uplink =
        |part: &Part<'_>, snat: &Snat| part.topology.uplinks[snat.uplink].interface.clone();
    uplink(part, snat) == uplink(other_part, other)
        && snat.to.is_none()
        && other.to.is_none()
        && snat.ports == other.ports
        && snat.exclude.is_empty()
        && other.exclude.is_empty()
}

/// Whether no other rule is about the same addresses, so that the order does not matter.
fn is_alone(number: usize, snats: &[Snat]) -> bool {
    let own = Addresses::prefix(snats[number].prefix);
    let mut others = snats
        .iter()
        .enumerate()
        .filter(|(other, _)| *other != number);
    !others.any(|(_, other)| Addresses::prefix(other.prefix).meets(&own))
}
