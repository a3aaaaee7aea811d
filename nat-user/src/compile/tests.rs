use std::path::Path;

use nat_common::rule::mapping;

use super::*;
use crate::config;

const HEAD: &str = r#"
[uplink.wan]
interface = "vmbr0"
[network.lan]
interface = "vmbr1"
address = "172.22.161.254/24"
"#;

/// Numbers in the order of asking.
#[derive(Default)]
struct InOrder(Vec<String>);

impl InOrder {
    fn number(&mut self, name: String) -> usize {
        match self.0.iter().position(|known| *known == name) {
            Some(index) => index + 1,
            None => {
                self.0.push(name);
                self.0.len()
            }
        }
    }
}

impl Numbering for InOrder {
    fn uplink(&mut self, _name: &str) -> u16 {
        1
    }

    fn network(&mut self, _name: &str) -> u16 {
        1
    }

    fn snat(&mut self, name: &str) -> u32 {
        self.number(format!("snat {name}")) as u32
    }

    fn forward(&mut self, name: &str) -> u32 {
        self.number(format!("forward {name}")) as u32
    }
}

fn environment() -> Environment {
    let own: Ipv4Addr = "19.19.8.10".parse().unwrap();
    Environment {
        uplink_addresses: vec![vec![own]],
        host_addresses: HashSet::from([own]),
    }
}

fn ruleset(rules: &str) -> Ruleset {
    let loaded = config::parse(&format!("{HEAD}{rules}"), Path::new("test.toml")).unwrap();
    compile(&loaded.config, &environment(), &mut InOrder::default())
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
fn a_forward_without_address_means_the_uplinks_own() {
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
fn taking_gives_what_is_free() {
    let range = |first, last| PortRange { first, last };
    let mut taken = Taken::default();
    assert_eq!(taken.take(range(10, 20)), [range(10, 20)]);
    assert_eq!(taken.take(range(15, 15)), []);
    assert_eq!(taken.take(range(0, 65535)), [range(0, 9), range(21, 65535)]);
    assert_eq!(taken.take(range(65535, 65535)), []);
}
