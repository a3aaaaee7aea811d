//! `[[route]]`: the addresses are inside addresses of their network, and leave untranslated.

use std::{collections::HashSet, net::Ipv4Addr, path::Path};

use ipnet::Ipv4Net;
use nat_common::tables::{
    inside::{INSIDE_FIXED_BITS, Inside4},
    snats::{self, SNAT_FIXED_BITS},
};

use crate::compile::{Environment, InOrder, Ruleset, compile};

const CONFIG: &str = r#"
[uplink.wan]
interface = "eth0"
[uplink.other]
interface = "eth1"
[network.one]
interface = "br1"
address = "172.30.1.1/24"
[network.two]
interface = "br2"
address = "172.30.2.1/24"
[[route]]
network = "two"
addresses = ["192.0.2.112/29"]
[[snat]]
source = "0.0.0.0/0"
uplink = "wan"
to = "masquerade"
[[snat]]
source = "192.0.2.0/24"
uplink = "other"
to = "masquerade"
[[forward]]
uplink = "wan"
protocol = "tcp"
ports = 80
to = "192.0.2.119"
"#;

fn ruleset(more: &str) -> Ruleset {
    let loaded = crate::parse(&format!("{CONFIG}{more}"), Path::new("n.toml"));
    let config = loaded.unwrap_or_else(|error| panic!("{error}")).config;
    let own: Ipv4Addr = "198.51.100.1".parse().unwrap();
    let environment = Environment {
        uplink_addresses: vec![vec![own], Vec::new()],
        silent: Default::default(),
        host_addresses: HashSet::from([own]),
        ..Environment::default()
    };
    compile(&config, &environment, &mut InOrder::default())
}

fn covers(bits: u32, address: nat_common::wire::address::Addr4, wanted: &str) -> bool {
    let prefix = Ipv4Net::new(Ipv4Addr::from(address.0), bits as u8).unwrap();
    prefix.contains(&wanted.parse::<Ipv4Addr>().unwrap())
}

/// The rule for a packet from `source` of a network that leaves by an uplink.
fn mapping(ruleset: &Ruleset, uplink: u16, network: u16, source: &str) -> Option<u8> {
    let fitting = ruleset.snats.iter().filter(|(prefix, _)| {
        (prefix.key.uplink, prefix.key.network) == (uplink, network)
            && covers(prefix.bits - SNAT_FIXED_BITS, prefix.key.source, source)
    });
    let longest = fitting.max_by_key(|(prefix, _)| prefix.bits);
    longest.map(|(_, snat)| snat.mapping)
}

fn inside(ruleset: &Ruleset, address: &str) -> Option<Inside4> {
    let fitting = ruleset
        .inside
        .iter()
        .filter(|(prefix, _)| covers(prefix.bits - INSIDE_FIXED_BITS, prefix.key.address, address));
    let longest = fitting.max_by_key(|(prefix, _)| prefix.bits);
    longest.map(|(_, inside)| *inside)
}

#[test]
fn routed_addresses_leave_untranslated_whatever_rule_covers_them() {
    let ruleset = ruleset("");
    let none = Some(snats::mapping::NONE);
    for uplink in [1, 2] {
        for last in [112, 115, 119] {
            let source = format!("192.0.2.{last}");
            // From their network, and if the interface is unknown.
            for network in [2, 0] {
                assert_eq!(
                    mapping(&ruleset, uplink, network, &source),
                    none,
                    "{source}"
                );
            }
            // Packets with these addresses from another network do not belong to the route.
            assert_ne!(mapping(&ruleset, uplink, 1, &source), none, "{source}");
        }
    }
    for beside in ["192.0.2.111", "192.0.2.120", "172.30.2.5"] {
        let translated = Some(snats::mapping::ENDPOINT_INDEPENDENT);
        assert_eq!(mapping(&ruleset, 1, 2, beside), translated, "{beside}");
    }
}

#[test]
fn routed_addresses_are_inside_ones_of_their_network() {
    let ruleset = ruleset("");
    for last in [112, 119] {
        let inside = inside(&ruleset, &format!("192.0.2.{last}")).unwrap();
        assert_eq!((inside.network, inside.flags.bits()), (2, 0));
        assert_eq!(inside.gateway.0, [172, 30, 2, 1]);
    }
    // (The prefix of a rule, without a network.)
    assert_eq!(inside(&ruleset, "192.0.2.120").unwrap().network, 0);
    // Packets to them are not translated.
    let is_external = |address: [u8; 4]| {
        let mut external = ruleset.addresses.iter();
        external.any(|(known, _)| known.0 == address)
    };
    assert!(is_external([198, 51, 100, 1]) && !is_external([192, 0, 2, 112]));
}

#[test]
fn a_forward_knows_the_network_of_a_routed_guest() {
    assert_eq!(ruleset("").forwards[0].1.network, 2);
}

#[test]
fn an_external_address_of_its_own_comes_first() {
    let nat = "[[nat]]\nuplink = \"wan\"\naddress = \"198.51.100.9\"\nto = \"192.0.2.114\"\n";
    let ruleset = ruleset(nat);
    let one_to_one = Some(snats::mapping::ONE_TO_ONE);
    assert_eq!(mapping(&ruleset, 1, 2, "192.0.2.114"), one_to_one);
    assert_eq!(
        mapping(&ruleset, 2, 2, "192.0.2.114"),
        Some(snats::mapping::NONE)
    );
    assert_eq!(inside(&ruleset, "192.0.2.114").unwrap().network, 2);
}
