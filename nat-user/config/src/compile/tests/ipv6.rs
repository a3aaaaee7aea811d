//! The rules of IPv6.

use std::{
    collections::{BTreeSet, HashSet},
    net::Ipv6Addr,
    path::Path,
};

use ipnet::Ipv6Net;
use nat_common::{
    tables::{
        inside::{INSIDE_FIXED_BITS, Inside, InsideFlags},
        policies::{Policy, action, side},
        snats::{Snat, mapping},
    },
    wire::{
        address::Addr6,
        protocol::{ICMPV6, UDP},
    },
};

use crate::compile::{Environment, InOrder, Ruleset, compile, compile_ipv6};

const CONFIG: &str = r#"
[uplink.wan]
interface = "eth0"
[network.one]
interface = "br1"
address = ["172.30.1.1/24", "2001:db8:0:1::1/64"]
anti_spoof = true
[network.two]
interface = "br2"
address = ["172.30.2.1/24", "2001:db8:0:2::1/64", "fd12::1/64"]
inbound = "accept"
host = ["dhcp", "ping"]
[network.four]
interface = "br4"
address = "172.30.4.1/24"
[[guest]]
name = "web1"
network = "one"
mac = "52:54:00:12:34:56"
address = ["172.30.1.10", "::10"]
[[route]]
network = "two"
addresses = ["2001:db8:8::/56"]
[[policy]]
name = "web"
from = ["wan"]
to = "web1"
protocol = ["icmp"]
action = "accept"
"#;

fn ip(address: &str) -> Ipv6Addr {
    address.parse().unwrap()
}

fn ruleset() -> Ruleset<Addr6> {
    let loaded = crate::parse(CONFIG, Path::new("n.toml"));
    let config = loaded.unwrap_or_else(|error| panic!("{error}")).config;
    let own = ip("2001:db8:f::2");
    let environment = Environment {
        uplink_addresses: vec![vec![own]],
        host_addresses: HashSet::from([own]),
        silent: BTreeSet::new(),
        ..Environment::default()
    };
    compile_ipv6(&config, &environment, &mut InOrder::default())
}

fn inside(ruleset: &Ruleset<Addr6>, address: &str) -> Option<Inside<Addr6>> {
    let covers = |bits: u32, key: Addr6| {
        let length = (bits - INSIDE_FIXED_BITS) as u8;
        let prefix = Ipv6Net::new(key.bytes().into(), length).unwrap();
        prefix.contains(&ip(address))
    };
    let fitting = ruleset.inside.iter();
    let fitting = fitting.filter(|(prefix, _)| covers(prefix.bits, prefix.key.address));
    let longest = fitting.max_by_key(|(prefix, _)| prefix.bits);
    longest.map(|(_, inside)| *inside)
}

fn chain(ruleset: &Ruleset<Addr6>, from: u16, to: u16) -> Vec<Policy<Addr6>> {
    let mut chains = ruleset.chains.iter();
    let found = chains.find(|(sides, _)| *sides == (from, to));
    found.map_or_else(Vec::new, |(_, chain)| {
        let first = chain.first as usize;
        ruleset.policies[first..first + chain.count as usize].to_vec()
    })
}

#[test]
fn prefixes_routes_and_guests_are_inside_addresses() {
    let ruleset = ruleset();
    let of = |address: &str| inside(&ruleset, address).map(|inside| inside.network);
    assert_eq!(of("2001:db8:0:1::77"), Some(1));
    assert_eq!(of("2001:db8:0:2::77"), Some(2));
    assert_eq!(of("fd12::77"), Some(2));
    assert_eq!(of("2001:db8:8:f::1"), Some(2));
    assert_eq!(of("2001:db8:9::1"), None);
    let guest = inside(&ruleset, "2001:db8:0:1::10").unwrap();
    assert_eq!(guest.flags, InsideFlags::HAS_MAC);
    assert_eq!(guest.mac, [0x52, 0x54, 0, 0x12, 0x34, 0x56]);
    assert_eq!(guest.gateway.bytes(), ip("2001:db8:0:1::1").octets());
    let beside = inside(&ruleset, "2001:db8:0:1::11").unwrap();
    assert_eq!(beside.flags, InsideFlags::ON_LINK);
}

#[test]
fn the_uplinks_addresses_are_external_and_a_public_network_is_not_translated() {
    let ruleset = ruleset();
    let [(address, external)] = ruleset.addresses[..] else {
        panic!("{:?}", ruleset.addresses);
    };
    assert_eq!(address.bytes(), ip("2001:db8:f::2").octets());
    assert_eq!((external.uplink, external.is_host), (1, 1));
    let is_routed = |(_, snat): &(_, Snat<Addr6>)| snat.mapping == mapping::NONE;
    assert!(ruleset.snats.iter().all(is_routed));
    assert!(ruleset.forwards.is_empty() && ruleset.own.is_none());
}

#[test]
fn uplinks_open_nothing_unless_a_policy_or_inbound_accepts_it() {
    let ruleset = ruleset();
    let said = |from, to| -> Vec<(u8, u8)> {
        let chain = chain(&ruleset, from, to);
        chain
            .iter()
            .map(|policy| (policy.protocol, policy.action))
            .collect()
    };
    let wan = side::UPLINKS | 1;
    // The policy about a guest comes before the default of its network.
    assert_eq!(said(wan, 1), [(ICMPV6, action::ACCEPT), (0, action::DROP)]);
    assert_eq!(said(wan, 2), []);
    // A network without IPv6 has nothing to protect.
    assert_eq!(said(wan, 3), []);
    // The answers of what guests open pass.
    assert_eq!(said(1, wan), [(0, action::ACCEPT)]);
}

#[test]
fn services_of_the_host_have_the_ports_of_ipv6() {
    let chain = chain(&ruleset(), 2, side::HOST);
    let services = chain
        .iter()
        .map(|policy| (policy.protocol, policy.first_port, policy.action));
    assert_eq!(
        services.collect::<Vec<_>>(),
        [
            (UDP, 547, action::ACCEPT),
            (ICMPV6, 0, action::ACCEPT),
            (0, 0, action::DROP)
        ]
    );
}

#[test]
fn rules_have_the_same_numbers_in_both_families() {
    let loaded = crate::parse(CONFIG, Path::new("n.toml"));
    let config = loaded.unwrap().config;
    let mut numbers = InOrder::default();
    let ipv4 = compile(&config, &Environment::default(), &mut numbers);
    let ipv6 = compile_ipv6(&config, &Environment::default(), &mut numbers);
    let of_policy = |rule: Option<u32>| rule.expect("a policy");
    let first = ipv4.policies.iter().find(|policy| policy.order == 0);
    let second = ipv6.policies.iter().find(|policy| policy.order == 0);
    assert_eq!(
        of_policy(first.map(|policy| policy.rule)),
        of_policy(second.map(|policy| policy.rule))
    );
}
