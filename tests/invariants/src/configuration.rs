//! Configurations: any text is refused with a reason, or means what it says.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt::Debug,
    hash::Hash,
    mem::offset_of,
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
};

use nat_common::{
    tables::{
        forwards::{FORWARD_FIXED_BITS, Forward4, ForwardFlags, ForwardKey, OTHER_PROTOCOLS},
        snats::mapping,
    },
    wire::{
        address::Addr4,
        protocol::{ICMP, TCP, UDP},
    },
};
use nat_config::{
    Diagnostic,
    compile::{Environment, InOrder, Numbering, Ruleset, compile, compile_ipv6, wire},
    model::{Config, ForwardProtocol, ForwardRule, PortForward, UplinkAddresses, UplinkId},
};

/// The host's addresses on each uplink.
const HOST: [Ipv4Addr; 2] = [Ipv4Addr::new(19, 19, 8, 10), Ipv4Addr::new(19, 19, 8, 11)];

/// Reads and compiles any text.
///
/// # Panics
///
/// If a refusal is not explained, or if a packet would not get the first rule that applies to it.
pub(crate) fn configuration(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    of_both_families(text);
    let loaded = match nat_config::parse(text, Path::new("natbpf.toml")) {
        Ok(loaded) => loaded,
        Err(error) => return error.all().for_each(|error| assert_explained(error, text)),
    };
    let warnings = loaded.warnings.iter();
    warnings.for_each(|warning| assert_explained(warning, text));
    let config = &loaded.config;
    let environment = Environment {
        uplink_addresses: vec![HOST.to_vec(); config.uplinks.len()],
        silent: Default::default(),
        host_addresses: HOST.into(),
        ..Environment::default()
    };
    let mut numbers = InOrder::default();
    let ruleset = compile(config, &environment, &mut numbers);
    assert_eq!(
        ruleset,
        compile(config, &environment, &mut numbers),
        "compiling twice gives the same"
    );
    assert_consistent(&ruleset);
    for (_, snat) in &ruleset.snats {
        assert!(snat.first.0 <= snat.last.0, "{snat:?}");
    }
    assert_forwards(config, &ruleset, &mut numbers);
}

/// The same text where IPv6 is carried.
fn of_both_families(text: &str) {
    let loaded = match nat_config::parse(text, Path::new("natbpf.toml")) {
        Ok(loaded) => loaded,
        Err(error) => return error.all().for_each(|error| assert_explained(error, text)),
    };
    let warnings = loaded.warnings.iter();
    warnings.for_each(|warning| assert_explained(warning, text));
    let config = &loaded.config;
    let own = Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 2);
    let environment = Environment {
        uplink_addresses: vec![vec![own]; config.uplinks.len()],
        host_addresses: [own].into(),
        ..Environment::default()
    };
    let mut numbers = InOrder::default();
    let ruleset = compile_ipv6(config, &environment, &mut numbers);
    let again = compile_ipv6(config, &environment, &mut numbers);
    assert_eq!(ruleset, again, "compiling twice gives the same");
    assert_consistent(&ruleset);
    for (_, snat) in &ruleset.snats {
        assert!({ snat.first }.bytes() <= { snat.last }.bytes(), "{snat:?}");
    }
    if config.ipv6.is_none() {
        assert!(ruleset.snats.is_empty() && ruleset.forwards.is_empty());
    }
    for prefixes in &ruleset.prefixes {
        assert!((1..=64).contains(&prefixes.bits), "{prefixes:?}");
    }
}

#[track_caller]
fn assert_explained(diagnostic: &Diagnostic, text: &str) {
    let line = diagnostic.to_string();
    assert!(!line.contains(char::is_control), "{line:?}");
    assert!(!diagnostic.problem.is_empty() && !diagnostic.remedy.is_empty());
    let Some(position) = diagnostic.position else {
        return;
    };
    // One more than there are: the end of the file is a place too.
    let lines = text.split('\n').count();
    assert!((1..=lines).contains(&position.line), "{line}");
    let longest = text.split('\n').map(str::len).max().unwrap_or(0);
    assert!((1..=longest + 1).contains(&position.column), "{line}");
}

/// Chains are one behind the other, without a gap, and each is in the order of the rules.
fn assert_chains<A: Copy + Debug>(ruleset: &Ruleset<A>) {
    let mut next = 0;
    for (sides, chain) in &ruleset.chains {
        assert_eq!(chain.first, next, "{sides:?}");
        next += chain.count;
        let entries = &ruleset.policies[chain.first as usize..next as usize];
        assert!(entries.is_sorted_by_key(|policy| policy.order), "{sides:?}");
        for policy in entries {
            assert!(policy.first_port <= policy.last_port, "{policy:?}");
        }
    }
    assert_eq!(next as usize, ruleset.policies.len());
}

/// Every port of every address belongs to at most one entry, and every entry has a rule.
fn assert_consistent<A: Copy + Eq + Hash + Debug>(ruleset: &Ruleset<A>) {
    let fixed_bits = 8 * offset_of!(ForwardKey<A>, port) as u32;
    let mut addresses = HashSet::new();
    for (address, external) in &ruleset.addresses {
        assert!(addresses.insert(*address), "{address:?} twice");
        assert_ne!(external.uplink, 0);
    }
    let mut ends = HashMap::new();
    let mut forwards: Vec<_> = ruleset.forwards.iter().collect();
    forwards.sort_by_key(|(prefix, _)| (prefix.key.port.number(), prefix.bits));
    for (prefix, forward) in forwards {
        let (key, bits) = (prefix.key, prefix.bits - fixed_bits);
        let first = u32::from(key.port.number());
        let last = first + (1 << (16 - bits)) - 1;
        let end = ends.entry((key.protocol, { key.address })).or_insert(0);
        assert!(*end <= first, "{key:?} is in two entries");
        *end = last + 1;
        assert!(
            u32::from(forward.first_external) <= first,
            "{key:?}: {forward:?}"
        );
    }
    assert_chains(ruleset);
    for (_, snat) in &ruleset.snats {
        assert!(snat.first_port <= snat.last_port, "{snat:?}");
        assert!(snat.mapping <= mapping::ONE_TO_ONE, "{snat:?}");
    }
}

/// Compares the compiled forwards with the rules themselves, at the edges of every range.
fn assert_forwards(config: &Config, ruleset: &Ruleset, numbers: &mut InOrder) {
    let ranges = config.forwards.iter().flat_map(|rule| &rule.matches.ports);
    let edges = ranges.flat_map(|ports| [ports.external.first, ports.external.last]);
    let around = |port: u16| [port.saturating_sub(1), port, port.saturating_add(1)];
    // More than a few are only slow.
    let edges: BTreeSet<u16> = edges.take(64).flat_map(around).chain([1, 65535]).collect();
    for address in HOST {
        // Ports that stay the host's depend on the order in which they are named.
        let own = config.nats.iter().any(|nat| nat.address == address);
        for protocol in [TCP, UDP, ICMP, OTHER_PROTOCOLS]
            .into_iter()
            .filter(|_| !own)
        {
            let has_ports = matches!(protocol, TCP | UDP);
            for port in edges.iter().filter(|_| has_ports).copied().chain([0]) {
                if config.uplinks.iter().any(|uplink| {
                    let keeps = |(_, kept): &(ForwardProtocol, u16)| *kept == port;
                    has_ports && uplink.reserved_ports.iter().any(keeps)
                }) {
                    continue;
                }
                let expected = by_rules(config, address, protocol, port, numbers);
                let entry = by_entries(ruleset, address, protocol, port);
                assert_eq!(entry, expected, "{address} {protocol} {port}");
            }
        }
    }
}

/// Rule, guest and port.
type Forwarded = (u32, Addr4, u16);

fn by_rules(
    config: &Config,
    address: Ipv4Addr,
    protocol: u8,
    port: u16,
    numbers: &mut InOrder,
) -> Option<Forwarded> {
    let (rule, to, ports) = config.forwards.iter().find_map(|rule| {
        // One whose guest has no lease takes nothing.
        let to = rule.to.now()?;
        let of_uplink = addresses(config, rule.uplink);
        let is_address = match rule.address {
            Some(own) => own == address,
            None => of_uplink.contains(&address),
        };
        let matches = is_address && has_protocol(rule, protocol);
        let ports = matching_ports(rule, port)?;
        matches.then_some((rule, to, ports))
    })?;
    let internal = match ports {
        Some(ports) if ports.internal.first == ports.internal.last => ports.internal.first,
        Some(ports) => port - ports.external.first + ports.internal.first,
        None => port,
    };
    Some((numbers.forward(&rule.name), wire(to), internal))
}

fn addresses(config: &Config, uplink: UplinkId) -> &[Ipv4Addr] {
    match &config.uplinks[uplink.0].addresses {
        UplinkAddresses::Fixed(addresses) => addresses,
        UplinkAddresses::Interface => &HOST,
    }
}

fn has_protocol(rule: &ForwardRule, protocol: u8) -> bool {
    rule.matches.protocols.iter().any(|named| match named {
        ForwardProtocol::Tcp => protocol == TCP,
        ForwardProtocol::Udp => protocol == UDP,
        ForwardProtocol::Icmp => protocol == ICMP,
        ForwardProtocol::All => true,
    })
}

/// The range that a port is in; `Some(None)` if the rule has all ports.
fn matching_ports(rule: &ForwardRule, port: u16) -> Option<Option<&PortForward>> {
    let ports = &rule.matches.ports;
    if ports.is_empty() {
        return Some(None);
    }
    let holds = |ports: &&PortForward| (ports.external.first..=ports.external.last).contains(&port);
    ports.iter().find(holds).map(Some)
}

fn by_entries(ruleset: &Ruleset, address: Ipv4Addr, protocol: u8, port: u16) -> Option<Forwarded> {
    let matching = ruleset.forwards.iter().filter(|(prefix, _)| {
        let (key, bits) = (&prefix.key, prefix.bits - FORWARD_FIXED_BITS);
        let differing = u32::from(key.port.number() ^ port) >> (16 - bits);
        (key.protocol, key.address) == (protocol, wire(address)) && differing == 0
    });
    let (_, entry) = matching.max_by_key(|(prefix, _)| prefix.bits)?;
    Some((entry.rule, entry.to, target_port(entry, port)))
}

fn target_port(entry: &Forward4, port: u16) -> u16 {
    if entry.flags.contains(ForwardFlags::MANY_TO_ONE) {
        entry.first_internal
    } else {
        port - entry.first_external + entry.first_internal
    }
}
