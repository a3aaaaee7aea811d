mod ipv6;
mod ipv6_translation;
mod routes;

use std::{
    collections::{BTreeMap, HashSet},
    net::Ipv4Addr,
    path::Path,
};

use ipnet::Ipv4Net;
use nat_common::{
    tables::{
        addresses::ExternalAddress,
        forward_sources::{FORWARD_SOURCE_FIXED_BITS, ForwardSourceKey4},
        forwards::{FORWARD_FIXED_BITS, Forward4, ForwardFlags, ForwardKey4, OTHER_PROTOCOLS},
        inside::{INSIDE_FIXED_BITS, Inside4, InsideFlags},
        policies::{Chain, DEFAULTS, Policy4, action, side},
        snats::{SNAT_FIXED_BITS, Snat4, SnatKey4, mapping},
    },
    wire::{
        address::{Addr4, Port},
        protocol::{ICMP, TCP, UDP},
    },
};

use super::{
    Environment, InOrder, Prefix, Ruleset, compile,
    taken::{Taken, prefixes},
    wire,
};
use crate::model::PortRange;

const HEAD: &str = r#"
[uplink.wan]
interface = "vmbr0"
[network.lan]
interface = "vmbr1"
address = "172.22.161.254/24"
"#;

fn environment() -> Environment {
    let own: Ipv4Addr = "19.19.8.10".parse().unwrap();
    Environment {
        uplink_addresses: vec![vec![own]],
        silent: Default::default(),
        host_addresses: HashSet::from([own]),
        ..Environment::default()
    }
}

fn ruleset(rules: &str) -> Ruleset {
    ruleset_on(&environment(), rules)
}

fn ruleset_on(environment: &Environment, rules: &str) -> Ruleset {
    let loaded = crate::parse(&format!("{HEAD}{rules}"), Path::new("test.toml")).unwrap();
    compile(&loaded.config, environment, &mut InOrder::default())
}

/// A host with these addresses at its uplink.
fn host_with(addresses: &[&str]) -> Environment {
    let own: Vec<Ipv4Addr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
    Environment {
        silent: Default::default(),
        host_addresses: own.iter().copied().collect(),
        uplink_addresses: vec![own],
        ..Environment::default()
    }
}

/// The entry of an inside prefix.
fn inside(ruleset: &Ruleset, prefix: &str) -> Option<Inside4> {
    let prefix: Ipv4Net = prefix.parse().unwrap();
    let bits = INSIDE_FIXED_BITS + u32::from(prefix.prefix_len());
    let mut found = ruleset
        .inside
        .iter()
        .filter(|(key, _)| key.bits == bits && key.key.address == wire(prefix.addr()));
    found.next().map(|(_, inside)| *inside)
}

/// The entry that a packet to this port would find, by the longest prefix.
fn lookup(ruleset: &Ruleset, protocol: u8, address: &str, port: u16) -> Option<Forward4> {
    let address = wire(address.parse().unwrap());
    let matches = |prefix: &Prefix<ForwardKey4>| {
        let free_bits = FORWARD_FIXED_BITS + 16 - prefix.bits;
        prefix.key.protocol == protocol
            && prefix.key.address == address
            && u32::from(prefix.key.port.number()) >> free_bits == u32::from(port) >> free_bits
    };
    let found: Vec<_> = ruleset
        .forwards
        .iter()
        .filter(|(prefix, _)| matches(prefix))
        .collect();
    assert!(found.len() <= 1, "port {port} has {} entries", found.len());
    found.first().map(|(_, forward)| *forward)
}

fn internal(ruleset: &Ruleset, port: u16) -> Option<(Addr4, u16)> {
    let forward = lookup(ruleset, TCP, "19.19.8.10", port)?;
    Some((forward.to, forward.internal_port(Port::new(port)).number()))
}

fn guest(last: u8) -> Addr4 {
    Addr4([172, 22, 161, last])
}

#[test]
fn a_range_is_forwarded_port_by_port_and_no_further() {
    let rules = ruleset(
        r#"
[[forward]]
name = "range"
uplink = "wan"
protocol = "tcp"
ports = "10000-10999"
to = "172.22.161.170"
"#,
    );
    assert_eq!(internal(&rules, 9999), None);
    assert_eq!(internal(&rules, 10000), Some((guest(170), 10000)));
    assert_eq!(internal(&rules, 10999), Some((guest(170), 10999)));
    assert_eq!(internal(&rules, 11000), None);
    assert!(
        rules.forwards.len() < 20,
        "{} prefixes",
        rules.forwards.len()
    );
}

#[test]
fn shifted_ranges_and_many_to_one_land_where_they_should() {
    let rules = ruleset(
        r#"
[[forward]]
name = "shifted"
uplink = "wan"
protocol = "tcp"
ports = "8000-8010"
to = "172.22.161.170"
to_ports = "80-90"
[[forward]]
name = "many"
uplink = "wan"
protocol = "tcp"
ports = "9000-9099"
to = "172.22.161.171"
to_ports = 443
"#,
    );
    assert_eq!(internal(&rules, 8000), Some((guest(170), 80)));
    assert_eq!(internal(&rules, 8010), Some((guest(170), 90)));
    assert_eq!(internal(&rules, 9000), Some((guest(171), 443)));
    assert_eq!(internal(&rules, 9099), Some((guest(171), 443)));
}

#[test]
fn the_first_rule_wins_where_two_overlap() {
    let rules = ruleset(
        r#"
[[forward]]
name = "first"
uplink = "wan"
protocol = "tcp"
ports = "1000-1999"
to = "172.22.161.1"
[[forward]]
name = "second"
uplink = "wan"
protocol = "tcp"
ports = "500-3000"
to = "172.22.161.2"
"#,
    );
    for (port, to) in [
        (500, 2),
        (999, 2),
        (1000, 1),
        (1999, 1),
        (2000, 2),
        (3000, 2),
    ] {
        assert_eq!(internal(&rules, port), Some((guest(to), port)));
    }
}

#[test]
fn all_protocols_leave_ssh_to_the_host_and_everything_else_to_the_guest() {
    let rules = ruleset(
        r#"
[[forward]]
name = "everything"
uplink = "wan"
protocol = "all"
to = "172.22.161.170"
"#,
    );
    assert_eq!(internal(&rules, 22), None);
    for port in [0, 21, 23, 65535] {
        assert_eq!(internal(&rules, port), Some((guest(170), port)));
    }
    for protocol in [UDP, ICMP, OTHER_PROTOCOLS] {
        assert!(lookup(&rules, protocol, "19.19.8.10", 0).is_some());
    }
}

#[test]
fn a_rule_that_names_the_kept_port_takes_it() {
    let rules = ruleset(
        r#"
[[forward]]
name = "ssh"
uplink = "wan"
protocol = "tcp"
ports = 22
to = "172.22.161.170"
"#,
    );
    assert_eq!(internal(&rules, 22), Some((guest(170), 22)));
}

#[test]
fn a_forward_without_address_uses_the_uplinks_addresses() {
    let rules = ruleset(
        r#"
[[forward]]
name = "web"
uplink = "wan"
protocol = "tcp"
ports = 80
to = "172.22.161.170"
"#,
    );
    assert!(lookup(&rules, TCP, "19.19.8.10", 80).is_some());
    assert!(lookup(&rules, TCP, "19.19.8.11", 80).is_none());
}

/// Where a guest's packet from this port leaves from, as its forward has it.
fn source(ruleset: &Ruleset, protocol: u8, guest: Addr4, port: u16) -> Option<(Addr4, u16)> {
    let matches = |prefix: &Prefix<ForwardSourceKey4>| {
        let free_bits = FORWARD_SOURCE_FIXED_BITS + 16 - prefix.bits;
        prefix.key.protocol == protocol
            && prefix.key.address == guest
            && (prefix.key.uplink, prefix.key.network) == (1, 1)
            && u32::from(prefix.key.port.number()) >> free_bits == u32::from(port) >> free_bits
    };
    let sources = ruleset.forward_sources.iter();
    let found: Vec<_> = sources.filter(|(prefix, _)| matches(prefix)).collect();
    assert!(found.len() <= 1, "port {port} has {} entries", found.len());
    let (_, source) = found.first()?;
    Some((
        source.address,
        source.external_port(Port::new(port)).number(),
    ))
}

#[test]
fn a_target_leaves_from_the_first_port_that_leads_to_it() {
    let own = Addr4([19, 19, 8, 10]);
    let named = Addr4([19, 19, 8, 11]);
    let rules = ruleset_on(
        &host_with(&["19.19.8.10", "19.19.8.12"]),
        r#"
[[forward]]
uplink = "wan"
protocol = ["tcp", "udp"]
ports = ["10000-10999", "5060"]
to = "172.22.161.170"
to_ports = ["20000-20999", "5070"]
[[forward]]
uplink = "wan"
protocol = "tcp"
ports = "8000-8009"
to = "172.22.161.171"
to_ports = 80
[[forward]]
uplink = "wan"
protocol = "udp"
address = "19.19.8.11"
ports = "1-30000"
to = "172.22.161.170"
[[nat]]
uplink = "wan"
address = "19.19.8.13"
to = "172.22.161.172"
"#,
    );
    for port in [20_000, 20_500, 20_999] {
        assert_eq!(
            source(&rules, TCP, guest(170), port),
            Some((own, port - 10_000))
        );
        assert_eq!(
            source(&rules, UDP, guest(170), port),
            Some((own, port - 10_000))
        );
    }
    assert_eq!(source(&rules, UDP, guest(170), 5070), Some((own, 5060)));
    assert_eq!(source(&rules, TCP, guest(170), 5060), None);
    assert_eq!(source(&rules, TCP, guest(171), 80), Some((own, 8000)));
    assert_eq!(source(&rules, UDP, guest(171), 80), None);
    // The rule for all ports has what no earlier rule has.
    for port in [1, 5060, 19_999, 21_000, 30_000] {
        assert_eq!(source(&rules, UDP, guest(170), port), Some((named, port)));
    }
    assert_eq!(source(&rules, UDP, guest(170), 30_001), None);
    assert_eq!(source(&rules, UDP, guest(172), 53), None);
}

#[test]
fn a_target_of_everything_leaves_by_every_port_but_the_hosts() {
    let own = Addr4([19, 19, 8, 10]);
    let rules = ruleset(&forward("").replace("\"tcp\"", "\"all\""));
    for protocol in [TCP, UDP] {
        for port in [0, 21, 23, 65_535] {
            let leaves = source(&rules, protocol, guest(170), port);
            assert_eq!(leaves, Some((own, port)));
        }
    }
    assert_eq!(source(&rules, TCP, guest(170), 22), None);
    // A later rule that names ports comes first.
    let all = forward("").replace("\"tcp\"", "\"all\"");
    let rules =
        ruleset(&(all + "\naddress = \"19.19.8.11\"\n" + &forward("ports = 80\nto_ports = 81")));
    assert_eq!(source(&rules, TCP, guest(170), 81), Some((own, 80)));
}

#[test]
fn the_first_source_rule_wins_at_every_prefix() {
    let rules = ruleset(
        r#"
[[snat]]
name = "narrow"
source = "172.22.161.128/25"
uplink = "wan"
to = "19.19.8.11"
[[snat]]
name = "wide"
network = "lan"
uplink = "wan"
to = "masquerade"
[[snat]]
name = "never"
source = "172.22.161.200/32"
uplink = "wan"
to = "19.19.8.12"
"#,
    );
    let of = |network: u16, source: [u8; 4], length: u32| {
        let is_it = |prefix: &Prefix<SnatKey4>| {
            prefix.key.network == network
                && prefix.key.source == Addr4(source)
                && prefix.bits == SNAT_FIXED_BITS + length
        };
        rules
            .snats
            .iter()
            .find(|(prefix, _)| is_it(prefix))
            .map(|(_, snat)| snat.first)
    };
    for network in [0, 1] {
        assert_eq!(
            of(network, [172, 22, 161, 128], 25),
            Some(Addr4([19, 19, 8, 11]))
        );
        assert_eq!(
            of(network, [172, 22, 161, 0], 24),
            Some(Addr4([19, 19, 8, 10]))
        );
        assert_eq!(
            of(network, [172, 22, 161, 200], 32),
            Some(Addr4([19, 19, 8, 11]))
        );
    }
}

#[test]
fn a_rule_for_every_source_spares_the_host_and_makes_nothing_inside() {
    let rules = ruleset(
        r#"
[[snat]]
name = "all"
source = "0.0.0.0/0"
uplink = "wan"
to = "masquerade"
"#,
    );
    let host = rules
        .snats
        .iter()
        .find(|(prefix, _)| prefix.key.source == Addr4([19, 19, 8, 10]));
    assert_eq!(host.map(|(_, snat)| snat.mapping), Some(mapping::NONE));
    assert!(
        rules
            .inside
            .iter()
            .all(|(prefix, _)| prefix.bits > INSIDE_FIXED_BITS)
    );
}

#[test]
fn pool_addresses_are_external_and_not_the_hosts() {
    let rules = ruleset(
        r#"
[[snat]]
name = "pool"
network = "lan"
uplink = "wan"
to = "19.19.8.20-19.19.8.23"
"#,
    );
    let hosts: Vec<(u8, u8)> = rules
        .addresses
        .iter()
        .map(|(address, ext)| (address.0[3], ext.is_host))
        .collect();
    assert_eq!(hosts, [(10, 1), (20, 0), (21, 0), (22, 0), (23, 0)]);
}

#[test]
fn the_address_of_a_forward_is_external_whoever_holds_it() {
    let forward = |address: &str| {
        format!(
            "[[forward]]\nuplink = \"wan\"\nprotocol = \"icmp\"\naddress = \"{address}\"\n\
             to = \"172.22.161.170\"\n"
        )
    };
    let rules = ruleset(&(forward("19.19.8.10") + &forward("19.19.8.77")));
    let hosts: Vec<(u8, u8)> = rules
        .addresses
        .iter()
        .map(|(address, ext)| (address.0[3], ext.is_host))
        .collect();
    assert_eq!(hosts, [(10, 1), (77, 0)]);
}

const NAT: &str = r#"
[[nat]]
name = "mail"
uplink = "wan"
address = "19.19.8.11"
to = "172.22.161.171"
"#;

#[test]
fn an_address_of_a_guests_own_brings_it_every_packet() {
    let rules = ruleset(NAT);
    for protocol in [TCP, UDP, ICMP, OTHER_PROTOCOLS] {
        for port in [0, 22, 65535] {
            let forward = lookup(&rules, protocol, "19.19.8.11", port).unwrap();
            let internal = forward.internal_port(Port::new(port)).number();
            assert_eq!((forward.to, internal), (guest(171), port));
            assert_eq!((forward.flags, forward.network), (ForwardFlags::HAIRPIN, 1));
        }
    }
    let is_external = |(address, external): &(Addr4, ExternalAddress)| {
        *address == Addr4([19, 19, 8, 11]) && (external.uplink, external.is_host) == (1, 0)
    };
    assert!(rules.addresses.iter().any(is_external));
    let inner = ruleset(&format!("{NAT}hairpin = false\n"));
    assert_eq!(
        lookup(&inner, UDP, "19.19.8.11", 53).unwrap().flags.bits(),
        0
    );
}

#[test]
fn a_guest_with_an_address_of_its_own_leaves_with_it_whatever_snat_says() {
    let all = "[[snat]]\nsource = \"172.22.161.171\"\nuplink = \"wan\"\nto = \"masquerade\"\n\
               [[snat]]\nnetwork = \"lan\"\nuplink = \"wan\"\nto = \"masquerade\"\n";
    let rules = ruleset(&format!("{all}{NAT}"));
    let of_guest = |network| {
        let is_it = |prefix: &Prefix<SnatKey4>| {
            prefix.key.network == network
                && prefix.key.source == guest(171)
                && prefix.bits == SNAT_FIXED_BITS + 32
        };
        let found: Vec<Snat4> = rules
            .snats
            .iter()
            .filter(|(prefix, _)| is_it(prefix))
            .map(|(_, snat)| *snat)
            .collect();
        assert_eq!(found.len(), 1);
        found[0]
    };
    let rule = lookup(&rules, TCP, "19.19.8.11", 80).unwrap().rule;
    let expected = Snat4 {
        first: Addr4([19, 19, 8, 11]),
        last: Addr4([19, 19, 8, 11]),
        rule,
        first_port: 1,
        last_port: 65535,
        mapping: mapping::ONE_TO_ONE,
        filtering: nat_common::tables::snats::filtering::ENDPOINT_INDEPENDENT,
        has_excludes: 0,
        by_destination: 0,
    };
    assert_eq!((of_guest(0), of_guest(1)), (expected, expected));
}

#[test]
fn a_forward_is_an_exception_from_a_guests_own_address() {
    let web = r#"
[[forward]]
uplink = "wan"
protocol = "tcp"
address = "19.19.8.11"
ports = 80
to = "172.22.161.170"
"#;
    let rules = ruleset(&format!("{NAT}{web}"));
    let to = |port| lookup(&rules, TCP, "19.19.8.11", port).unwrap().to;
    assert_eq!(
        (to(79), to(80), to(81)),
        (guest(171), guest(170), guest(171))
    );
}

#[test]
fn ssh_stays_only_where_the_host_could_not_be_reached_otherwise() {
    let ssh = |addresses: &[&str], rules: &str| {
        let rules = ruleset_on(&host_with(addresses), rules);
        let is_guests = |address| lookup(&rules, TCP, address, 22).is_some();
        (is_guests("19.19.8.10"), is_guests("19.19.8.11"))
    };
    assert_eq!(ssh(&["19.19.8.10", "19.19.8.11"], NAT), (false, true));
    assert_eq!(ssh(&["19.19.8.11"], NAT), (false, false));
    // Both belong to guests: neither counts as the host's.
    let second = NAT.replace("mail", "web").replace(".8.11", ".8.10");
    let both = format!("{NAT}{}", second.replace(".171", ".170"));
    assert_eq!(ssh(&["19.19.8.10", "19.19.8.11"], &both), (false, false));
    // An address that the host does not hold is not its own.
    assert_eq!(ssh(&["19.19.8.10"], &both), (false, true));
    let rules = ruleset_on(&host_with(&["19.19.8.11"]), NAT);
    assert!(lookup(&rules, TCP, "19.19.8.11", 23).is_some());
    assert!(lookup(&rules, UDP, "19.19.8.11", 22).is_some());
}

#[test]
fn a_routed_guest_with_an_address_of_its_own_is_inside() {
    let routed = ruleset(&NAT.replace("172.22.161.171", "10.1.2.3"));
    let place = inside(&routed, "10.1.2.3/32").unwrap();
    assert_eq!((place.network, place.gateway), (0, Addr4([0; 4])));
    let place = inside(&ruleset(NAT), "172.22.161.171/32").unwrap();
    assert_eq!((place.network, place.gateway), (1, guest(254)));
}

#[test]
fn a_guest_is_inside_with_its_link_layer_address() {
    let guest_171 = r#"
[[guest]]
name = "mail"
network = "lan"
address = "172.22.161.171"
mac = "52:54:00:AB:cd:01"
"#;
    // Also where a rule names it as well.
    for rules in ["", NAT] {
        let rules = ruleset(&format!("{rules}{guest_171}"));
        let places = rules.inside.iter();
        assert_eq!(
            places
                .filter(|(key, _)| key.key.address == guest(171))
                .count(),
            1
        );
        let expected = Inside4 {
            network: 1,
            flags: InsideFlags::HAS_MAC,
            gateway: guest(254),
            mac: [0x52, 0x54, 0, 0xab, 0xcd, 1],
            reserved: [0; 2],
        };
        assert_eq!(inside(&rules, "172.22.161.171/32"), Some(expected));
    }
}

#[test]
fn a_source_prefix_has_the_gateway_of_the_network_that_holds_all_of_it() {
    let of = |prefix: &str| {
        let rule =
            format!("[[snat]]\nsource = \"{prefix}\"\nuplink = \"wan\"\nto = \"masquerade\"");
        let place = inside(&ruleset(&rule), prefix).unwrap();
        (place.network, place.gateway)
    };
    assert_eq!(of("172.22.161.128/25"), (1, guest(254)));
    assert_eq!(of("172.22.160.0/20"), (0, Addr4([0; 4])));
    assert_eq!(of("10.0.0.0/8"), (0, Addr4([0; 4])));
}

#[test]
fn prefixes_cover_a_range_exactly() {
    for (first, last) in [
        (0, 65535),
        (1, 65535),
        (0, 65534),
        (10000, 10999),
        (7, 7),
        (3, 4),
    ] {
        let mut next = u32::from(first);
        for (start, bits) in prefixes(PortRange { first, last }) {
            assert_eq!(u32::from(start), next);
            next += 1 << (16 - bits);
        }
        assert_eq!(next, u32::from(last) + 1);
    }
}

#[test]
fn taking_a_range_returns_its_free_parts() {
    let range = |first, last| PortRange { first, last };
    let mut taken = Taken::default();
    assert_eq!(taken.take(range(10, 20)), [range(10, 20)]);
    assert_eq!(taken.take(range(15, 15)), []);
    assert_eq!(taken.take(range(0, 65535)), [range(0, 9), range(21, 65535)]);
    assert_eq!(taken.take(range(65535, 65535)), []);
}

/// A forward of tcp to the guest 170 with these lines.
fn forward(lines: &str) -> String {
    format!("[[forward]]\nuplink = \"wan\"\nprotocol = \"tcp\"\nto = \"172.22.161.170\"\n{lines}")
}

#[test]
fn the_host_reaches_forwards_with_ports_or_local() {
    let is_local = |lines: &str| {
        let rules = ruleset(&forward(lines));
        let found = lookup(&rules, TCP, "19.19.8.10", 80).expect("it is forwarded");
        let is_local = found.flags.contains(ForwardFlags::LOCAL);
        let own = is_local.then(|| vec![wire("19.19.8.10".parse().unwrap())]);
        assert_eq!(rules.own, own, "{lines}");
        is_local
    };
    assert!(is_local("ports = 80\n"));
    assert!(is_local("ports = \"1-1000\"\naddress = \"19.19.8.10\"\n"));
    assert!(!is_local("ports = 80\nlocal = false\n"));
    assert!(!is_local(""));
    assert!(is_local("local = true\n"));
}

#[test]
fn loopback_uses_the_uplinks_addresses_in_order() {
    let host = host_with(&["19.19.8.11", "19.19.8.10"]);
    let rules = ruleset_on(&host, &forward("ports = 80\n"));
    let own = ["19.19.8.11", "19.19.8.10"].map(|text| wire(text.parse().unwrap()));
    assert_eq!(rules.own.as_deref(), Some(&own[..]));
    // A guest's own address is not the host's.
    let nat = "[[nat]]\nuplink = \"wan\"\naddress = \"19.19.8.20\"\nto = \"172.22.161.171\"\n";
    assert_eq!(ruleset(nat).own, None);
}

/// Order, action, protocol and ports of a policy.
type Entry = (u32, u8, u8, u16, u16);

/// The entries of each chain.
fn chains(rules: &str) -> BTreeMap<(u16, u16), Vec<Entry>> {
    let ruleset = ruleset(rules);
    let entries = |chain: &Chain| {
        let policies = &ruleset.policies[chain.first as usize..][..chain.count as usize];
        let entry = |policy: &Policy4| {
            let Policy4 {
                order,
                action,
                protocol,
                first_port,
                last_port,
                ..
            } = *policy;
            (order, action, protocol, first_port, last_port)
        };
        policies.iter().map(entry).collect()
    };
    let chains = ruleset.chains.iter();
    chains
        .map(|(sides, chain)| (*sides, entries(chain)))
        .collect()
}

/// The side of the only uplink. (The only network has number 1.)
const WAN: u16 = side::UPLINKS | 1;

#[test]
fn without_policies_every_flow_passes() {
    assert!(chains("").is_empty());
}

#[test]
fn policies_stand_in_the_chains_of_their_sides() {
    let chains = chains(
        "[[policy]]\nfrom = \"wan\"\nto = \"172.22.161.170\"\nprotocol = \"tcp\"\nports = [80, \
         443]\n\
         action = \"accept\"\n\
         [[policy]]\nfrom = \"lan\"\nto = [\"10.0.0.0/8\", \"wan\"]\naction = \"drop\"\n",
    );
    let (accept, drop) = (action::ACCEPT, action::DROP);
    let all = (0, u16::MAX);
    assert_eq!(chains[&(WAN, 1)][0], (0, accept, TCP, 80, 80));
    assert_eq!(chains[&(WAN, 1)][1], (0, accept, TCP, 443, 443));
    assert_eq!(chains[&(1, side::ANY)], [(1, drop, 0, all.0, all.1)]);
    assert_eq!(chains[&(1, WAN)], [(1, drop, 0, all.0, all.1)]);
    // If one direction is forbidden, flows of the other direction are recorded, so that their
    // answers pass.
    let tracked = (u32::MAX - 1, accept, 0, all.0, all.1);
    assert_eq!(chains[&(WAN, 1)][2], tracked);
    assert_eq!(chains[&(side::ANY, 1)], [tracked]);
    // That there are any policies is known by this one.
    assert_eq!(chains[&(side::ANY, side::ANY)], []);
}

#[test]
fn a_closed_network_still_allows_dhcp_and_dns_of_the_host() {
    let ruleset =
        ruleset("[network.dmz]\ninterface = \"d\"\naddress = \"10.9.0.1/24\"\npolicy = \"drop\"\n");
    let chain = |from, to| {
        let (_, chain) = ruleset
            .chains
            .iter()
            .find(|(sides, _)| *sides == (from, to))?;
        Some(&ruleset.policies[chain.first as usize..][..chain.count as usize])
    };
    // The first network is the one of every test.
    let dmz = 2;
    let asked: Vec<_> = chain(dmz, side::HOST)
        .unwrap()
        .iter()
        .map(|policy| (policy.protocol, policy.first_port, policy.action))
        .collect();
    assert_eq!(
        asked,
        [
            (UDP, 67, action::ACCEPT),
            (UDP, 53, action::ACCEPT),
            (TCP, 53, action::ACCEPT),
            (ICMP, 0, action::ACCEPT),
            (0, 0, action::DROP),
        ]
    );
    for sides in [(dmz, side::ANY), (side::ANY, dmz)] {
        let drops = chain(sides.0, sides.1).unwrap();
        assert_eq!(drops[0].action, action::DROP);
        assert!(drops[0].order >= DEFAULTS);
    }
    assert!(chain(side::HOST, dmz).is_some());
}

#[test]
fn the_host_is_no_part_of_any() {
    let chains = chains(
        "[[policy]]\nto = \"host\"\nprotocol = \"tcp\"\nports = 22\naction = \"drop\"\n\
         [[policy]]\nfrom = \"any\"\nto = \"any\"\naction = \"accept\"\n",
    );
    assert_eq!(chains[&(side::ANY, side::HOST)].len(), 1);
    assert_eq!(chains[&(side::ANY, side::ANY)].len(), 1);
    assert_eq!(chains[&(side::HOST, side::ANY)].len(), 1);
}

#[test]
fn echo_beside_ports_is_forwarded_whatever_they_are() {
    let ruleset = ruleset(
        r#"
[[forward]]
uplink = "wan"
protocol = ["tcp", "icmp"]
ports = 80
to = "172.22.161.170"
"#,
    );
    let find = |protocol, port| lookup(&ruleset, protocol, "19.19.8.10", port);
    assert!(find(TCP, 80).is_some() && find(TCP, 81).is_none());
    assert!(find(ICMP, 80).is_some() && find(ICMP, 4242).is_some());
}
