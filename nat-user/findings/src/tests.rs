//! Rules as text, and the findings for the configuration of one host.

mod ipv6;

use std::{net::Ipv4Addr, path::Path};

use nat_config::model::Config;

use crate::{
    Finding, Kind, flows, forwarding, iptables, nft, reverse_path,
    reverse_path::Detour,
    rules::{Family, Ruleset, Source},
    translation,
    walk::Budget,
};

const CONFIG: &str = r#"
[uplink.wan]
interface = "vmbr0"
[network.lan]
interface = "vmbr1"
address = "172.22.161.254/24"
[[snat]]
name = "lan-out"
network = "lan"
uplink = "wan"
to = "masquerade"
[[forward]]
name = "web"
uplink = "wan"
protocol = "tcp"
ports = "10000-10999"
to = "172.22.161.170"
[[forward]]
name = "dns"
uplink = "wan"
protocol = ["tcp", "udp"]
ports = 53
to = "172.22.161.171"
to_ports = 5353
"#;

fn config(text: &str) -> Config {
    let loaded = nat_config::parse(text, Path::new("n.toml"));
    loaded.unwrap_or_else(|error| panic!("{error}")).config
}

fn found(rules: &Ruleset) -> Vec<Finding> {
    found_for(&config(CONFIG), rules)
}

fn found_for(config: &Config, rules: &Ruleset) -> Vec<Finding> {
    let own = |_: &str| vec![Ipv4Addr::new(19, 19, 8, 10)];
    let ways = flows::ways(config, &own);
    let mut budget = Budget::new();
    let mut findings = forwarding::find_drops(rules, &ways, &mut budget);
    findings.extend(translation::find_translations(rules, &ways, &mut budget));
    findings
}

/// A filter table with these rules of FORWARD, and its policy.
fn forward(policy: &str, rules: &str) -> Ruleset {
    let text = format!(
        "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD {policy} [7:99]\n:mine - [0:0]\n:other - [0:0]\n\
         {rules}\nCOMMIT\n"
    );
    iptables::parse(&text, Source::IptablesNft, Family::Ipv4)
}

fn dropped(policy: &str, rules: &str) -> Vec<String> {
    let found = found(&forward(policy, rules));
    found.into_iter().map(|finding| finding.what).collect()
}

fn nat(rules: &str) -> Vec<Finding> {
    let text = format!(
        "*nat\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n:mine - [0:0]\n{rules}\n\
         COMMIT\n"
    );
    found(&iptables::parse(
        &text,
        Source::IptablesLegacy,
        Family::Ipv4,
    ))
}

const ALL: &str = "drops new connections of [[snat]] \"lan-out\", [[forward]] \"web\", \
                   [[forward]] \"dns\"";

#[test]
fn a_policy_drops_all_that_no_rule_accepts() {
    assert_eq!(dropped("DROP", ""), [ALL]);
    assert!(dropped("ACCEPT", "").is_empty());
    assert!(dropped("DROP", "-A FORWARD -j ACCEPT").is_empty());
    assert_eq!(dropped("ACCEPT", "-A FORWARD -j DROP"), [ALL]);
    assert_eq!(
        dropped(
            "ACCEPT",
            "-A FORWARD -j REJECT --reject-with icmp-port-unreachable"
        ),
        [ALL]
    );
}

#[test]
fn conditions_are_understood() {
    let passes = |condition: &str| {
        let rules = format!("-A FORWARD {condition} -j ACCEPT");
        !dropped("DROP", &rules).contains(&ALL.to_owned())
    };
    for condition in [
        "-i vmbr1",
        "-i vmbr+",
        "! -i eth0",
        "-s 172.22.161.0/24",
        "-s 172.16.0.0/255.240.0.0",
        "-d 172.22.161.170/32 -p tcp -m tcp --dport 10000:10999",
        "-p tcp -m multiport --dports 22,10000:10999",
        "-m comment --comment \"-i is \\\"not\\\" here\"",
        "-m conntrack --ctstate NEW,RELATED",
        "-m conntrack ! --ctstate INVALID",
        "-m mark --mark 0x0/0x80000000",
        "-m physdev ! --physdev-is-bridged",
        "-m iprange --src-range 172.22.161.1-172.22.161.254",
        // Unknown: no certain outcome.
        "-m set --match-set friends src",
        "-m hashlimit --hashlimit-upto 5/sec --hashlimit-name x",
        "-m mark --mark 0x1",
        "-m owner --uid-owner 0",
    ] {
        assert!(passes(condition), "{condition}");
    }
    for condition in [
        "-i eth0",
        "! -i vmbr+",
        "-s 10.0.0.0/8 -i vmbr1",
        "-p icmp -m icmp --icmp-type 8",
        "-p esp",
        "-m conntrack --ctstate RELATED,ESTABLISHED",
        "-m state --state INVALID",
        "-m conntrack --ctstate DNAT",
        "-m addrtype --dst-type LOCAL",
        "-m physdev --physdev-is-bridged",
        "-d 172.22.161.172/32",
    ] {
        assert!(!passes(condition), "{condition}");
    }
}

#[test]
fn chains_are_followed_and_left() {
    for (rules, is_dropped) in [
        ("-A FORWARD -j mine\n-A mine -j ACCEPT", false),
        (
            "-A FORWARD -j mine\n-A mine -j RETURN\n-A mine -j ACCEPT",
            true,
        ),
        ("-A FORWARD -g mine\n-A FORWARD -j ACCEPT", true),
        ("-A FORWARD -j mine\n-A FORWARD -j ACCEPT", false),
        (
            "-A FORWARD -j mine\n-A mine -g other\n-A mine -j DROP\n-A FORWARD -j ACCEPT",
            false,
        ),
        (
            "-A FORWARD -j mine\n-A mine -j other\n-A other -j ACCEPT",
            false,
        ),
        // Some return before they would be dropped, and are accepted then.
        (
            "-A FORWARD -j mine\n-A mine -p tcp --dport 1:60000 -j RETURN\n-A mine -j DROP\n\
             -A FORWARD -j ACCEPT",
            false,
        ),
        // A circle, which the kernel would refuse.
        (
            "-A FORWARD -j mine\n-A mine -j other\n-A other -j mine",
            false,
        ),
        ("-A FORWARD -j gone", true),
        ("-A FORWARD -j LOG --log-prefix \"all \"", true),
        ("-A FORWARD -j NFQUEUE --queue-num 1", false),
    ] {
        assert_eq!(
            dropped("DROP", rules).contains(&ALL.to_owned()),
            is_dropped,
            "{rules}"
        );
    }
}

#[test]
fn each_rule_of_the_configuration_is_asked_for_where_they_differ() {
    let rules = "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -i vmbr1 -j ACCEPT
-A FORWARD -d 172.22.161.171/32 -j ACCEPT";
    assert_eq!(
        dropped("DROP", rules),
        ["drops new connections of [[forward]] \"web\""]
    );
    // The port is already the guest's there.
    let rules = "-A FORWARD -i vmbr1 -j ACCEPT\n-A FORWARD -d 172.22.161.170/32 -j ACCEPT
-A FORWARD -o vmbr1 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -d 172.22.161.171/32 -p tcp --dport 53 -j ACCEPT
-A FORWARD -d 172.22.161.171/32 -p udp --dport 53 -j ACCEPT";
    assert_eq!(
        dropped("DROP", rules),
        ["drops new connections of [[forward]] \"dns\""]
    );
    let rules = rules.replace("--dport 53", "--dport 5353");
    assert!(dropped("DROP", &rules).is_empty());
}

#[test]
fn only_missing_tools_are_needed() {
    let commands = |rules: &str| {
        let found = found(&forward("DROP", rules));
        found.into_iter().next().map(|finding| finding.commands)
    };
    let [out, back] = [("vmbr1", "vmbr0"), ("vmbr0", "vmbr1")]
        .map(|(from, to)| format!("iptables-nft -I FORWARD -i {from} -o {to} -j ACCEPT"));
    assert_eq!(commands("").unwrap(), [out.clone(), back.clone()]);
    assert_eq!(commands("-A FORWARD -i vmbr1 -j ACCEPT").unwrap(), [back]);
    let answers = out.replace(
        " -j ACCEPT",
        " -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    );
    let only_in = "-A FORWARD -i vmbr0 -j ACCEPT\n-A FORWARD -i vmbr1 -m conntrack --ctstate NEW \
                   -j \
                   ACCEPT";
    assert_eq!(commands(only_in).unwrap(), [answers]);
}

#[test]
fn chains_of_nft_and_iptables_differ_by_their_table() {
    let text = r#"{"nftables": [
        {"metainfo": {"version": "1.0.6"}},
        {"table": {"family": "ip", "name": "filter"}},
        {"table": {"family": "inet", "name": "off", "flags": "dormant"}},
        {"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "type": "filter",
                   "hook": "forward", "prio": 0, "policy": "drop"}},
        {"chain": {"family": "inet", "table": "off", "name": "f", "type": "filter",
                   "hook": "forward", "prio": 0, "policy": "drop"}},
        {"chain": {"family": "ip6", "table": "six", "name": "f", "type": "filter",
                   "hook": "forward", "prio": 0, "policy": "drop"}},
        {"chain": {"family": "bridge", "table": "b", "name": "f", "type": "filter",
                   "hook": "forward", "prio": 0, "policy": "drop"}}
    ]}"#;
    assert_eq!(
        found(&nft::parse(text, Family::Ipv4, |_| false).unwrap()).len(),
        1
    );
    assert!(
        found(&nft::parse(text, Family::Ipv4, |table| table == "ip filter").unwrap()).is_empty()
    );
    assert!(
        nft::parse("{}", Family::Ipv4, |_| false).is_err()
            && nft::parse("", Family::Ipv4, |_| false).is_err()
    );
}

/// Whether a chain that drops, with a rule of these expressions in it, may let packets through.
fn may_accept(expression: &str) -> bool {
    let text = format!(
        r#"{{"nftables": [
        {{"chain": {{"family": "inet", "table": "t", "name": "f", "type": "filter",
                   "hook": "forward", "prio": 0, "policy": "drop"}}}},
        {{"rule": {{"family": "inet", "table": "t", "chain": "f", "handle": 4,
                  "expr": [{expression}]}}}}]}}"#
    );
    let found = found(&nft::parse(&text, Family::Ipv4, |_| false).unwrap());
    !found.iter().any(|finding| finding.what == ALL)
}

/// Expressions that accept what matches.
fn is(left: &str, operator: &str, right: &str) -> String {
    format!(
        r#"{{"match": {{"op": "{operator}", "left": {left}, "right": {right}}}}},
           {{"counter": {{"packets": 0, "bytes": 0}}}}, {{"accept": null}}"#
    )
}

fn meta(key: &str) -> String {
    format!(r#"{{"meta": {{"key": "{key}"}}}}"#)
}

fn field(header: &str, field: &str) -> String {
    format!(r#"{{"payload": {{"protocol": "{header}", "field": "{field}"}}}}"#)
}

const STATE: &str = r#"{"ct": {"key": "state"}}"#;

#[test]
fn conditions_of_nft_that_guests_may_meet_are_understood() {
    for one in [
        is(&meta("iifname"), "==", r#""vmbr*""#),
        is(&meta("iifname"), "!=", r#"{"set": ["eth0", "wg0"]}"#),
        is(&meta("l4proto"), "==", r#"{"set": ["tcp", 17]}"#),
        is(&meta("nfproto"), "==", r#""ipv4""#),
        is(&meta("mark"), "==", "0"),
        is(
            &field("ip", "saddr"),
            "==",
            r#"{"prefix": {"addr": "172.22.0.0", "len": 16}}"#,
        ),
        is(
            &field("ip", "daddr"),
            "!=",
            r#"{"range": ["10.0.0.0", "10.9.9.9"]}"#,
        ),
        is(&field("tcp", "dport"), "==", r#"{"range": [1, 20000]}"#),
        is(
            &field("th", "dport"),
            "==",
            r#"{"set": [53, {"elem": {"val": 80}}]}"#,
        ),
        is(STATE, "in", r#"["new", "established"]"#),
        is(STATE, "==", r#"{"set": ["new"]}"#),
        // Unknown: no certain outcome.
        is(&field("ip", "saddr"), "==", r#""@friends""#),
        is(&meta("skuid"), "==", "0"),
        is(&meta("mark"), "==", "7"),
        r#"{"xt": {"type": "match", "name": "conntrack"}}, {"accept": null}"#.to_owned(),
        r#"{"limit": {"rate": 3, "per": "second"}}, {"accept": null}"#.to_owned(),
        r#"{"vmap": {"key": {"meta": {"key": "iifname"}}, "data": "@ways"}}"#.to_owned(),
        r#"{"vmap": {"key": {"meta": {"key": "iifname"}},
            "data": {"set": [["vmbr1", {"accept": null}]]}}}"#
            .to_owned(),
    ] {
        assert!(may_accept(&one), "{one}");
    }
}

#[test]
fn conditions_of_nft_that_no_guest_meets_are_understood() {
    for one in [
        is(&meta("iifname"), "==", r#""lo""#),
        is(&meta("nfproto"), "==", r#""ipv6""#),
        is(&field("ip6", "saddr"), "==", r#""::1""#),
        is(&field("icmp", "type"), "==", r#""echo-request""#),
        is(&field("sctp", "dport"), "==", "80"),
        is(STATE, "in", r#""invalid""#),
        is(r#"{"ct": {"key": "status"}}"#, "in", r#""dnat""#),
        is(r#"{"ct": {"key": "direction"}}"#, "==", r#""reply""#),
        is(
            r#"{"fib": {"result": "type", "flags": ["daddr"]}}"#,
            "==",
            r#""local""#,
        ),
        r#"{"log": null}"#.to_owned(),
        r#"{"vmap": {"key": {"meta": {"key": "iifname"}},
            "data": {"set": [["eth0", {"accept": null}]]}}}"#
            .to_owned(),
    ] {
        assert!(!may_accept(&one), "{one}");
    }
}

#[test]
fn nat_of_the_same_packets_is_found() {
    let what = |rules: &str| {
        let found = nat(rules);
        found.into_iter().map(|one| one.what).collect::<Vec<_>>()
    };
    let takes = ["translates the source of connections of [[snat]] \"lan-out\""];
    for rule in [
        "-s 172.22.161.0/24 -j MASQUERADE",
        "-s 172.22.161.170/32 -o vmbr0 -j SNAT --to-source 19.19.8.10",
        "-s 172.16.0.0/12 ! -d 172.16.0.0/12 -p tcp -j MASQUERADE --to-ports 1024-65535",
        "-o vmbr0 -j MASQUERADE",
        "-s 172.22.161.0/24 -o vmbr0 -m mark --mark 0x0/0x80000000 -j SNAT --to-source 1.2.3.4",
    ] {
        assert_eq!(what(&format!("-A POSTROUTING {rule}")), takes, "{rule}");
    }
    for rule in [
        "-s 10.0.0.0/8 -j MASQUERADE",
        "-s 172.22.161.0/24 -o wg0 -j MASQUERADE",
        "-s 172.22.161.0/24 -d 10.8.0.0/16 -j SNAT --to-source 10.8.0.1",
        "-m mark --mark 0x4000/0x4000 -j MASQUERADE",
        "-m set --match-set guests src -j MASQUERADE",
        "-s 172.22.161.0/24 -p icmp -j MASQUERADE",
    ] {
        assert!(what(&format!("-A POSTROUTING {rule}")).is_empty(), "{rule}");
    }
    let excepted = "-A POSTROUTING -s 172.22.161.0/24 -j RETURN\n-A POSTROUTING -j MASQUERADE";
    assert_eq!(what(excepted).len(), 1, "{:?}", what(excepted));
    let unsure = "-A POSTROUTING -m set --match-set x src -j ACCEPT\n-A POSTROUTING -j MASQUERADE";
    assert!(what(unsure).is_empty());
    assert!(what("-A PREROUTING -i vmbr1 -p udp --dport 53 -j REDIRECT").is_empty());
}

#[test]
fn the_command_removes_the_very_rule() {
    let found = nat(
        "-A POSTROUTING -j mine\n-A mine -s 172.22.161.0/24 -m comment --comment \"a b\" -j \
         MASQUERADE",
    );
    assert_eq!(
        found[0].commands,
        [
            "iptables-legacy -t nat -D mine -s 172.22.161.0/24 -m comment --comment \"a b\" -j \
          MASQUERADE"
        ]
    );
    assert_eq!(
        found[0].place,
        "iptables-legacy table nat, chain mine, rule -s 172.22.161.0/24 -m comment --comment \
         \"a b\" -j MASQUERADE"
    );
}

#[test]
fn tables_that_iptables_cannot_show_are_left_to_nft() {
    let text = "# Table `nat' contains incompatible base-chains, use 'nft' tool to list them.\n\
                *nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -j MASQUERADE\nCOMMIT\n\
                *filter\n:FORWARD DROP [0:0]\nCOMMIT\n\
                # Table `filter' is incompatible, use 'nft' tool.\n";
    let rules = iptables::parse(text, Source::IptablesNft, Family::Ipv4);
    assert!(rules.chains.is_empty(), "{rules:?}");
}

#[test]
fn a_filter_that_looks_for_the_way_back_concerns_guests_on_a_detour_alone() {
    let text =
        "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -m rpfilter --invert -j DROP\nCOMMIT\n";
    let loose = text.replace("--invert", "--loose --invert");
    let config = config(CONFIG);
    let ways = flows::ways(&config, &|_| Vec::new());
    let detour = Detour {
        uplink: "vmbr0".to_owned(),
        guests: [Ipv4Addr::new(172, 22, 161, 171)].into(),
        is_filtered: false,
    };
    let found = |text: &str, detours: &[Detour]| {
        let rules = iptables::parse(text, Source::IptablesNft, Family::Ipv4);
        reverse_path::find_reverse_path(&rules, &ways, detours, &mut Budget::new())
    };
    assert!(found(text, &[]).is_empty() && found(&loose, std::slice::from_ref(&detour)).is_empty());
    let found = found(text, &[detour]);
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].kind, found[0].what.as_str()),
        (
            Kind::ReversePath,
            "drops connections of [[forward]] \"dns\" that come by vmbr0"
        )
    );
}

#[test]
fn a_hundred_thousand_rules_are_looked_at_within_bounds() {
    let rule = |number: u32| {
        let source = Ipv4Addr::from(0x0a00_0000 + number);
        format!("-A FORWARD -s {source}/32 -i wg0 -j ACCEPT\n")
    };
    let many: String = (0..100_000).map(rule).collect();
    let rules = forward("DROP", &many);
    assert_eq!(found(&rules)[0].what, ALL);
    // A rule set that takes too long is not judged.
    let forwards = (0..400).map(|number| {
        let port = 20_000 + number;
        format!(
            "[[forward]]\nname = \"f{number}\"\nuplink = \"wan\"\nprotocol = \"tcp\"\nports = \
             {port}\n\
             to = \"172.22.161.{}\"\n",
            1 + number % 250
        )
    });
    let large = config(&(CONFIG.to_owned() + &forwards.collect::<String>()));
    let ways = flows::ways(&large, &|_| Vec::new());
    let rules = forward(
        "DROP",
        &format!("{many}-A FORWARD -d 172.22.161.9/32 -j ACCEPT"),
    );
    let mut budget = Budget::new();
    forwarding::find_drops(&rules, &ways, &mut budget);
    assert!(budget.is_spent());
}

#[test]
fn routed_guests_need_both_ways_through_the_forward_chain() {
    let text = "[uplink.wan]\ninterface = \"eth0\"\n[network.br112]\ninterface = \"br112\"\n\
                address = \"172.30.112.1/24\"\n[[route]]\nname = \"public\"\nnetwork = \"br112\"\n\
                addresses = \"123.45.90.112/29\"\n";
    let config = config(text);
    let said = |rules: &str| -> Vec<String> {
        let found = found_for(&config, &forward("DROP", rules));
        found.into_iter().map(|finding| finding.what).collect()
    };
    let refused = ["drops new connections of [[route]] \"public\""];
    let out = "-A FORWARD -s 123.45.90.112/29 -i br+ -o eth0 -j ACCEPT\n";
    let back = "-A FORWARD -m state --state RELATED,ESTABLISHED -j ACCEPT\n";
    let into = "-A FORWARD -d 123.45.90.112/29 -i eth0 -o br+ -j ACCEPT\n";
    assert_eq!(said(""), refused);
    assert_eq!(said(&format!("{out}{back}")), refused);
    assert_eq!(said(&format!("{back}{into}")), refused);
    assert!(said(&format!("{out}{back}{into}")).is_empty());
}

/// LXD, Incus, libvirt and Docker recreate their rules after a manual removal.
#[test]
fn software_that_recreates_rules_has_a_setting_as_remedy() {
    let made = |rules: &str| {
        let text = format!(
            "*nat\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n:LIBVIRT_PRT - [0:0]\n\
             :DOCKER - [0:0]\n{rules}\nCOMMIT\n"
        );
        let mut found = found(&iptables::parse(&text, Source::IptablesNft, Family::Ipv4));
        assert!(!found.is_empty(), "{rules}");
        found.remove(0)
    };
    let masquerade = "-s 172.22.161.0/24 ! -d 172.22.161.0/24";
    for (program, tool) in [("LXD", "lxc"), ("Incus", "incus")] {
        let comment = format!("-m comment --comment \"generated for {program} network br-1\"");
        let finding = made(&format!(
            "-A POSTROUTING {masquerade} {comment} -j MASQUERADE"
        ));
        assert_eq!(
            finding.commands,
            [format!("{tool} network set br-1 ipv4.nat=false")]
        );
    }
    let libvirt = made(&format!(
        "-A POSTROUTING -j LIBVIRT_PRT\n-A LIBVIRT_PRT {masquerade} -j MASQUERADE"
    ));
    assert!(libvirt.remedy.contains("mode=\"open\"") && libvirt.commands.is_empty());
    let docker = made(
        "-A PREROUTING -j DOCKER\n-A DOCKER ! -i docker0 -p tcp -m tcp --dport 53 -j DNAT \
         --to-destination 172.17.0.2:53",
    );
    assert!(docker.remedy.contains("out of the forward") && docker.commands.is_empty());
}
