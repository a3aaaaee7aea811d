//! Rules about IPv6, and the findings for them.

use std::net::Ipv6Addr;

use super::config;
use crate::{
    Finding, Kind, flows, in_rules, iptables, nft,
    rules::{Family, Ruleset, Source},
    walk::Budget,
};

const UPLINK: &str = "[uplink.wan]\ninterface = \"eth0\"\n";

const CONFIG: &str = r#"
[network.apps]
interface = "apps0"
address = ["172.18.0.1/16", "fd00:18::1/64"]
[[snat]]
name = "out"
network = "apps"
uplink = "wan"
to = "masquerade"
[[forward]]
name = "web"
uplink = "wan"
protocol = "tcp"
ports = 8080
to = "fd00:18::10"
to_ports = 80
"#;

fn found_for(lines: &str, rules: &Ruleset) -> Vec<Finding> {
    let config = config(&format!("{UPLINK}{lines}"));
    let own = |_: &str| vec![Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2)];
    let ways = flows::ways6(&config, &own);
    in_rules(&[(rules, &ways)], &mut Budget::new())
}

fn saved(text: &str) -> Ruleset {
    iptables::parse(text, Source::IptablesNft, Family::Ipv6)
}

fn forward(lines: &str, policy: &str, rules: &str) -> Vec<String> {
    let text = format!("*filter\n:FORWARD {policy} [0:0]\n{rules}\nCOMMIT\n");
    let found = found_for(lines, &saved(&text));
    found.into_iter().map(|finding| finding.what).collect()
}

#[test]
fn a_policy_of_ip6tables_drops_ipv6_connections() {
    let text = "*filter\n:FORWARD DROP [0:0]\n:DOCKER-USER - [0:0]\nCOMMIT\n";
    let [finding] = &found_for(CONFIG, &saved(text))[..] else {
        panic!("one");
    };
    assert_eq!(finding.kind, Kind::ForwardDrop);
    assert_eq!(
        finding.place,
        "ip6tables-nft table filter, chain FORWARD, its policy (Docker)"
    );
    assert_eq!(
        finding.what,
        "drops new connections of [[snat]] \"out\", [[forward]] \"web\""
    );
    assert_eq!(
        finding.commands,
        [
            "ip6tables-nft -I DOCKER-USER -i apps0 -o eth0 -j ACCEPT",
            "ip6tables-nft -I DOCKER-USER -i eth0 -o apps0 -j ACCEPT"
        ]
    );
}

#[test]
fn addresses_and_protocols_of_ip6tables_are_understood() {
    let answers = "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT";
    let out = "-A FORWARD -s fd00:18::/64 -i apps0 -j ACCEPT";
    let said = |rule: &str| forward(CONFIG, "DROP", &format!("{answers}\n{out}\n{rule}"));
    let web = ["drops new connections of [[forward]] \"web\""];
    assert_eq!(said(""), web);
    for passes in [
        "-A FORWARD -d fd00:18::10/128 -p tcp -m tcp --dport 80 -j ACCEPT",
        "-A FORWARD -d fd00:18::/ffff:ffff:: -j ACCEPT",
        "-A FORWARD -m iprange --dst-range fd00:18::1-fd00:18::ff -j ACCEPT",
        "-A FORWARD -d fd00:18::10 -j ACCEPT",
    ] {
        assert_eq!(said(passes), [""; 0], "{passes}");
    }
    for other in [
        "-A FORWARD -d fd00:18::10/128 -p tcp -m tcp --dport 8080 -j ACCEPT",
        "-A FORWARD -d fd00:19::/64 -j ACCEPT",
        "-A FORWARD -p ipv6-icmp -m icmp6 --icmpv6-type 128 -j ACCEPT",
    ] {
        assert_eq!(said(other), web, "{other}");
    }
}

#[test]
fn a_forwarded_echo_is_of_icmpv6() {
    let ping = "[network.apps]\ninterface = \"apps0\"\naddress = \"fd00:18::1/64\"\n[[forward]]\n\
                name = \"ping\"\nuplink = \"wan\"\nprotocol = \"icmp\"\nto = \"fd00:18::10\"\n";
    let said = |kind: u8| {
        let rule = |kind: u8| format!("-A FORWARD -p ipv6-icmp --icmpv6-type {kind} -j ACCEPT");
        forward(ping, "DROP", &format!("{}\n{}", rule(kind), rule(129)))
    };
    assert_eq!(said(128), [""; 0]);
    assert_eq!(said(8), ["drops new connections of [[forward]] \"ping\""]);
}

/// Public addresses need no rule, but every FORWARD chain must let them through.
#[test]
fn connections_of_public_addresses_count_too() {
    let public = |more: &str| {
        format!("[network.lan]\ninterface = \"br0\"\naddress = \"2001:db8:7::1/64\"\n{more}")
    };
    let lan = "drops new connections of [network.lan]";
    assert_eq!(forward(&public(""), "DROP", ""), [lan]);
    let out = "-A FORWARD -i br0 -o eth0 -j ACCEPT\n\
               -A FORWARD -m state --state RELATED,ESTABLISHED -j ACCEPT";
    assert_eq!(forward(&public(""), "DROP", out), [""; 0]);
    let open = public("inbound = \"accept\"\n");
    assert_eq!(forward(&open, "DROP", out), [lan]);
    // It is not wanted that they open any.
    assert_eq!(forward(&public("policy = \"drop\"\n"), "DROP", ""), [""; 0]);
    // It is unknown by which uplink.
    let two = public("[uplink.other]\ninterface = \"eth1\"\n");
    assert_eq!(forward(&two, "DROP", ""), [""; 0]);
}

#[test]
fn translated_prefixes_need_both_ways() {
    let prefix = "[network.lan]\ninterface = \"br0\"\naddress = \"fd12:3456:789a:1::1/64\"\n\
                  [[nat]]\nname = \"lan6\"\nuplink = \"wan\"\naddress = \"2001:db8:5::/48\"\n\
                  to = \"fd12:3456:789a::/48\"\n";
    let answers = "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT";
    let said = |rules: &str| forward(prefix, "DROP", &format!("{answers}\n{rules}"));
    let refused = ["drops new connections of [[nat]] \"lan6\""];
    let out = "-A FORWARD -s fd12:3456:789a:1::/64 -j ACCEPT\n";
    let into = "-A FORWARD -d fd12:3456:789a:1::/64 -j ACCEPT\n";
    assert_eq!(said(out), refused);
    assert_eq!(said(&format!("{out}{into}")), [""; 0]);
}

#[test]
fn a_masquerade_of_ip6tables_is_another_nat() {
    let nat = |rule: &str| {
        let text =
            format!("*nat\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n{rule}\nCOMMIT\n");
        found_for(CONFIG, &saved(&text))
    };
    let [finding] = &nat("-A POSTROUTING -s fd00:18::/64 -o eth0 -j MASQUERADE")[..] else {
        panic!("one");
    };
    assert_eq!(finding.kind, Kind::OtherNat);
    assert_eq!(
        finding.what,
        "translates the source of connections of [[snat]] \"out\""
    );
    assert_eq!(
        finding.commands,
        ["ip6tables-nft -t nat -D POSTROUTING -s fd00:18::/64 -o eth0 -j MASQUERADE"]
    );
    let [finding] = &nat(
        "-A PREROUTING -d 2001:db8::2/128 -p tcp -m tcp --dport 8080 -j DNAT \
                          --to-destination [fd00:18::11]:80",
    )[..] else {
        panic!("one");
    };
    assert_eq!(
        finding.what,
        "is for connections that natbpf translates first, by [[forward]] \"web\""
    );
    let lxd = nat(
        "-A POSTROUTING -s fd00:18::/64 ! -d fd00:18::/64 -m comment --comment \
                   \"generated for LXD network br-1\" -j MASQUERADE",
    );
    assert_eq!(lxd[0].commands, ["lxc network set br-1 ipv6.nat=false"]);
    assert_eq!(nat("-A POSTROUTING -s fd00:19::/64 -j MASQUERADE"), []);
}

/// A table of nft with a chain of this kind and one rule.
fn table(family: &str, chain: &str, expression: &str) -> String {
    format!(
        r#"{{"nftables": [
        {{"chain": {{"family": "{family}", "table": "t", "name": "c", {chain}, "prio": 0}}}},
        {{"rule": {{"family": "{family}", "table": "t", "chain": "c", "handle": 4,
                  "expr": [{expression}]}}}}]}}"#
    )
}

const FORWARD: &str = r#""type": "filter", "hook": "forward", "policy": "drop""#;
const SOURCES: &str = r#""type": "nat", "hook": "postrouting", "policy": "accept""#;

fn of_nft(text: &str) -> Vec<Finding> {
    found_for(CONFIG, &nft::parse(text, Family::Ipv6, |_| false).unwrap())
}

#[test]
fn conditions_of_nft_are_read_for_the_family_of_the_packets() {
    let accept = |left: &str, right: &str| {
        let is = format!(
            r#"{{"match": {{"op": "==", "left": {left}, "right": {right}}}}}, {{"accept": null}}"#
        );
        of_nft(&table("inet", FORWARD, &is)).is_empty()
    };
    let field = |header: &str, field: &str| {
        format!(r#"{{"payload": {{"protocol": "{header}", "field": "{field}"}}}}"#)
    };
    let nfproto = r#"{"meta": {"key": "nfproto"}}"#;
    assert!(accept(nfproto, r#""ipv6""#));
    assert!(!accept(nfproto, r#""ipv4""#));
    assert!(accept(
        &field("ip6", "nexthdr"),
        r#"{"set": ["tcp", "udp"]}"#
    ));
    assert!(!accept(&field("ip", "saddr"), r#""10.0.0.1""#));
    assert!(!accept(&field("icmpv6", "type"), r#""echo-request""#));
    let prefix = r#"{"prefix": {"addr": "fd00:19::", "len": 64}}"#;
    assert!(!accept(&field("ip6", "saddr"), prefix));
}

#[test]
fn tables_of_nft_for_ipv6_are_read() {
    for family in ["ip6", "inet"] {
        let found = of_nft(&table(family, SOURCES, r#"{"masquerade": null}"#));
        // (The forward's clients, and the guests' own connections.)
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(
            found[0].commands,
            [format!("nft delete rule {family} t c handle 4")]
        );
    }
    assert_eq!(of_nft(&table("ip", SOURCES, r#"{"masquerade": null}"#)), []);
    // `dnat ip to` in a table for both families.
    let ipv4 = r#"{"snat": {"family": "ip", "addr": "10.0.0.1"}}"#;
    assert_eq!(of_nft(&table("inet", SOURCES, ipv4)), []);
}

#[test]
fn a_rule_about_both_families_is_reported_once() {
    let lines = CONFIG.split("[[forward]]").next().unwrap();
    let config = config(&format!("{UPLINK}{lines}"));
    let text = table(
        "inet",
        FORWARD,
        r#"{"counter": {"packets": 0, "bytes": 0}}"#,
    );
    let read = |family| nft::parse(&text, family, |_| false).unwrap();
    let (rules, rules6) = (read(Family::Ipv4), read(Family::Ipv6));
    let (ways, ways6) = (
        flows::ways(&config, &|_| Vec::new()),
        flows::ways6(&config, &|_| Vec::new()),
    );
    let both = [(&rules, &ways[..]), (&rules6, &ways6[..])];
    assert_eq!(in_rules(&both, &mut Budget::new()).len(), 1);
}
