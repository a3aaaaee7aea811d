//! What IPv6 translates.

use std::{collections::HashSet, net::Ipv6Addr, path::Path};

use ipnet::Ipv6Net;
use nat_common::{
    tables::{
        forwards::{Forward, ForwardFlags, OTHER_PROTOCOLS},
        inside::InsideFlags,
        snats::{SNAT_FIXED_BITS, Snat, mapping},
    },
    wire::{
        address::Addr6,
        protocol::{ICMPV6, TCP, UDP},
    },
};

use crate::{
    compile::{Environment, InOrder, Numbering, Ruleset, Sources, compile, compile_ipv6},
    model::Config,
};

/// The beginning of each configuration here.
const HEAD: &str = r#"
[uplink.wan]
interface = "eth0"
[network.apps]
interface = "apps0"
address = ["172.18.0.1/16", "fd00:18::1/64", "2001:db8:0:1::1/64"]
[[guest]]
name = "web1"
network = "apps"
mac = "52:54:00:12:34:56"
address = ["172.18.0.10", "::10"]
"#;
const MASQUERADE: &str =
    "[[snat]]\nname = \"out\"\nnetwork = \"apps\"\nuplink = \"wan\"\nto = \"masquerade\"\n";

fn ip(address: &str) -> Ipv6Addr {
    address.parse().unwrap()
}

fn wire(address: &str) -> Addr6 {
    Addr6::new(ip(address).octets())
}

fn config(rules: &str) -> Config {
    let loaded = crate::parse(&format!("{HEAD}{rules}"), Path::new("n.toml"));
    loaded.unwrap_or_else(|error| panic!("{error}")).config
}

fn environment(own: &[&str]) -> Environment<Ipv6Addr> {
    let own: Vec<Ipv6Addr> = own.iter().map(|own| ip(own)).collect();
    Environment {
        host_addresses: own.iter().copied().collect::<HashSet<_>>(),
        uplink_addresses: vec![own],
        ..Environment::default()
    }
}

fn compiled(rules: &str) -> Ruleset<Addr6> {
    let environment = environment(&["2001:db8:f::2"]);
    compile_ipv6(&config(rules), &environment, &mut InOrder::default())
}

/// The entry for packets of a source in a network (0 is none) that leave by the uplink.
fn snat(ruleset: &Ruleset<Addr6>, network: u16, source: &str) -> Option<Snat<Addr6>> {
    let covers = |bits: u32, prefix: Addr6| {
        let length = (bits - SNAT_FIXED_BITS) as u8;
        let prefix = Ipv6Net::new(prefix.bytes().into(), length).unwrap();
        prefix.contains(&ip(source))
    };
    let fitting = ruleset.snats.iter();
    let fitting = fitting
        .filter(|(prefix, _)| prefix.key.network == network)
        .filter(|(prefix, _)| covers(prefix.bits, prefix.key.source));
    let longest = fitting.max_by_key(|(prefix, _)| prefix.bits);
    longest.map(|(_, snat)| *snat)
}

fn forward(
    ruleset: &Ruleset<Addr6>,
    protocol: u8,
    address: &str,
    port: u16,
) -> Option<Forward<Addr6>> {
    let fixed = 8 * (4 + 16);
    let found = ruleset.forwards.iter().find(|(prefix, _)| {
        let (key, bits) = (prefix.key, prefix.bits - fixed);
        let mask = u16::MAX.checked_shl(16 - bits).unwrap_or(0);
        key.protocol == protocol
            && { key.address } == wire(address)
            && key.port.number() & mask == port & mask
    });
    found.map(|(_, forward)| *forward)
}

#[test]
fn a_network_translates_unique_local_addresses_alone() {
    let ruleset = compiled(MASQUERADE);
    for network in [0, 1] {
        let local = snat(&ruleset, network, "fd00:18::77").expect("an entry");
        assert_eq!(
            (local.first, local.last),
            (wire("2001:db8:f::2"), wire("2001:db8:f::2"))
        );
        assert_eq!(local.mapping, mapping::ENDPOINT_INDEPENDENT);
        assert_eq!(snat(&ruleset, network, "2001:db8:0:1::77"), None);
    }
    // Guests behind guests.
    assert!(snat(&ruleset, 1, "fd99::1").is_some());
    assert!(snat(&ruleset, 0, "fd99::1").is_none());
}

#[test]
fn a_source_translates_public_addresses_too() {
    let rule = "[[snat]]\nsource = \"2001:db8:0:1::/64\"\nuplink = \"wan\"\n\
                to = \"2001:db8:f::10-2001:db8:f::1f\"\nexclude = \"2001:db8:9::/48\"\n";
    let ruleset = compiled(rule);
    let entry = snat(&ruleset, 1, "2001:db8:0:1::77").expect("an entry");
    assert_eq!(
        (entry.first, entry.last),
        (wire("2001:db8:f::10"), wire("2001:db8:f::1f"))
    );
    assert_eq!(entry.has_excludes, 1);
    let [exclude] = ruleset.excludes[..] else {
        panic!("{:?}", ruleset.excludes);
    };
    assert_eq!(exclude.key.destination, wire("2001:db8:9::"));
    assert_eq!(exclude.bits, SNAT_FIXED_BITS + 48);
    // All addresses of the pool are external.
    let external = |address: &str| {
        let mut addresses = ruleset.addresses.iter();
        addresses.any(|(own, _)| *own == wire(address))
    };
    assert!(external("2001:db8:f::10") && external("2001:db8:f::1f"));
    assert!(!external("2001:db8:f::20"));
}

#[test]
fn masquerade_uses_a_public_address_if_there_is_one() {
    let config = config(MASQUERADE);
    let used = |environment: &Environment<Ipv6Addr>| {
        let ruleset = compile_ipv6(&config, environment, &mut InOrder::default());
        snat(&ruleset, 1, "fd00:18::77").expect("an entry").first
    };
    let own = environment(&["fd00:1::2", "2001:db8:f::3", "2001:db8:f::2"]);
    assert_eq!(used(&own), wire("2001:db8:f::3"));
    assert_eq!(
        used(&environment(&["fe80::1", "fd00:1::2"])),
        wire("fd00:1::2")
    );
    // Without an address, no packet leaves.
    assert_eq!(used(&environment(&["fe80::1"])), wire("::"));
    let by_routes = Environment {
        sources: vec![Sources {
            first: Some(ip("2001:db8:f::2")),
            others: Vec::new(),
        }],
        ..own
    };
    assert_eq!(used(&by_routes), wire("2001:db8:f::2"));
}

#[test]
fn a_forward_is_for_every_address_of_the_uplink() {
    let ruleset = compiled(
        "[[forward]]\nuplink = \"wan\"\nprotocol = \"tcp\"\nports = [\"8000-8099\", 443]\n\
         to = \"fd00:18::10\"\nto_ports = [\"9000-9099\", 4443]\n",
    );
    let web = forward(&ruleset, TCP, "2001:db8:f::2", 8042).expect("an entry");
    assert_eq!(({ web.to }, { web.network }), (wire("fd00:18::10"), 1));
    assert_eq!(
        ({ web.first_external }, { web.first_internal }),
        (8000, 9000)
    );
    let flags = ForwardFlags::HAIRPIN | ForwardFlags::LOCAL | ForwardFlags::ACCEPTED;
    assert_eq!(web.flags, flags);
    assert_eq!(forward(&ruleset, TCP, "2001:db8:f::2", 8100), None);
    assert_eq!(forward(&ruleset, UDP, "2001:db8:f::2", 8042), None);
    // The host reaches it by its own address.
    assert_eq!(ruleset.own, Some(vec![wire("2001:db8:f::2")]));
    // The guest leaves from the forwarded port.
    let mut sources = ruleset.forward_sources.iter();
    let https = sources.find(|(prefix, _)| prefix.key.port.number() == 4443);
    let (prefix, source) = https.expect("an entry");
    assert_eq!(prefix.bits, 8 * (8 + 16) + 16);
    assert_eq!(
        ({ source.address }, { source.first_external }),
        (wire("2001:db8:f::2"), 443)
    );
}

#[test]
fn a_forward_of_everything_leaves_ssh_to_the_host() {
    let ruleset =
        compiled("[[forward]]\nuplink = \"wan\"\nprotocol = \"all\"\nto = \"fd00:18::10\"\n");
    let of = |protocol, port| forward(&ruleset, protocol, "2001:db8:f::2", port);
    assert!(of(TCP, 23).is_some() && of(TCP, 22).is_none() && of(UDP, 22).is_some());
    assert!(of(ICMPV6, 0).is_some() && of(OTHER_PROTOCOLS, 0).is_some());
    assert_eq!(of(1, 0), None);
}

#[test]
fn a_forward_to_a_guests_name_is_of_both_families_and_has_one_number() {
    let rule = "[[forward]]\nname = \"web\"\nuplink = \"wan\"\nprotocol = \"tcp\"\nports = 80\n\
                to = \"web1\"\n";
    let config = config(rule);
    let mut numbers = InOrder::default();
    let own = Environment {
        uplink_addresses: vec![vec!["19.19.8.10".parse().unwrap()]],
        ..Environment::default()
    };
    let ipv4 = compile(&config, &own, &mut numbers);
    let ipv6 = compile_ipv6(&config, &environment(&["2001:db8:f::2"]), &mut numbers);
    let web = forward(&ipv6, TCP, "2001:db8:f::2", 80).expect("an entry");
    assert_eq!({ web.to }, wire("fd00:18::10"), "the address that stays");
    let [(_, of_ipv4)] = ipv4.forwards[..] else {
        panic!("{:?}", ipv4.forwards);
    };
    assert_eq!(of_ipv4.rule, { web.rule });
    assert_eq!(
        config.rule_count(),
        2,
        "the rule, and the network's default"
    );
    let only = format!("{rule}address = \"2001:db8:f::2\"\n");
    let only = self::config(&only);
    assert_eq!(
        (only.forwards.len(), only.ipv6.unwrap().forwards.len()),
        (0, 1)
    );
}

#[test]
fn earlier_forwards_have_their_ports() {
    let ruleset = compiled(
        "[[forward]]\nuplink = \"wan\"\nprotocol = \"udp\"\nports = 53\nto = \"fd00:18::11\"\n\
         [[forward]]\nuplink = \"wan\"\nprotocol = \"udp\"\nports = \"50-59\"\n\
         to = \"fd00:18::10\"\n",
    );
    let to = |port| forward(&ruleset, UDP, "2001:db8:f::2", port).map(|forward| forward.to);
    assert_eq!(to(53), Some(wire("fd00:18::11")));
    assert_eq!(
        (to(52), to(54)),
        (Some(wire("fd00:18::10")), Some(wire("fd00:18::10")))
    );
}

#[test]
fn prefixes_become_others_and_are_not_masqueraded() {
    let rules = format!(
        "{MASQUERADE}[[nat]]\nname = \"six\"\nuplink = \"wan\"\naddress = \"2001:db8:5:1::/64\"\n\
         to = \"fd00:18::/64\"\nhairpin = false\n"
    );
    let config = config(&rules);
    let mut numbers = InOrder::default();
    let ruleset = compile_ipv6(&config, &environment(&["2001:db8:f::2"]), &mut numbers);
    let [prefixes] = ruleset.prefixes[..] else {
        panic!("{:?}", ruleset.prefixes);
    };
    assert_eq!(prefixes.rule, numbers.nat("six"));
    assert_eq!(
        (prefixes.uplink, prefixes.network, prefixes.bits),
        (1, 1, 64)
    );
    assert!(!prefixes.hairpin);
    let outside = prefixes
        .outbound
        .apply(wire("fd00:18::10"))
        .expect("an address");
    assert_eq!(outside.bytes()[..8], ip("2001:db8:5:1::").octets()[..8]);
    assert_eq!(
        prefixes.outbound.reversed().apply(outside),
        Some(wire("fd00:18::10"))
    );
    let entry = snat(&ruleset, 1, "fd00:18::10").expect("an entry");
    assert_eq!(entry.mapping, mapping::NONE);
    assert!(compiled(MASQUERADE).prefixes.is_empty());
}

#[test]
fn the_guest_of_a_forward_is_bound_to_its_mac() {
    let ruleset = compiled("");
    let of_guest = |prefix: &str| {
        let mut inside = ruleset.inside.iter();
        let found = inside.find(|(key, _)| { key.key.address } == wire(prefix));
        found.map(|(_, inside)| inside.flags)
    };
    for own in ["fd00:18::10", "2001:db8:0:1::10"] {
        assert_eq!(of_guest(own), Some(InsideFlags::HAS_MAC));
    }
}
