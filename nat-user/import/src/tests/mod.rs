//! Rules in, configuration and remarks out.

use super::*;

mod alike;
mod dump;
mod files;
mod ipv6;
mod policies;

/// The import of rules of the nat table, which begin on line 2.
fn nat(rules: &str, options: &Options) -> Import {
    let mut text = String::from("*nat\n");
    for rule in rules.lines() {
        text += rule.trim();
        text.push('\n');
    }
    let import = iptables(&text, "rules", options).unwrap();
    assert_eq!(import.problem, None, "{}", import.toml);
    import
}

fn known() -> Options {
    let address = |interface: &str, net: &str| (interface.to_owned(), net.parse().unwrap());
    Options {
        addresses: vec![
            address("eth0", "192.0.2.10/24"),
            address("br0", "10.0.0.1/24"),
        ],
        default_route: Some("eth0".to_owned()),
        ..Options::default()
    }
}

const MASQUERADE: &str = "-A POSTROUTING -s 10.0.0.0/24 -o eth0 -j MASQUERADE\n";

/// The import of rules together with the usual masquerade, on a known host.
fn usual(rules: &str) -> Import {
    nat(&format!("{MASQUERADE}{rules}"), &known())
}

/// A table of the configuration as key and value, `forward.0.ports` for example.
fn value(import: &Import, path: &str) -> String {
    let mut value: toml::Value = import.toml.parse::<toml::Table>().unwrap().into();
    for key in path.split('.') {
        let next = match key.parse::<usize>() {
            Ok(number) => value.get(number),
            Err(_) => value.get(key),
        };
        value = match next {
            Some(next) => next.clone(),
            None => return String::new(),
        };
    }
    match value {
        toml::Value::String(text) => text,
        other => other.to_string(),
    }
}

/// Lines and reasons of one kind.
fn said(import: &Import, kind: Kind) -> Vec<String> {
    let of_kind = import
        .findings
        .iter()
        .filter(|finding| finding.kind == kind);
    of_kind
        .map(|finding| format!("{}: {}", finding.line, finding.reason))
        .collect()
}

#[track_caller]
fn assert_values(import: &Import, expected: &[(&str, &str)]) {
    for (path, expected) in expected {
        assert_eq!(value(import, path), *expected, "{path} of\n{}", import.toml);
    }
}

#[track_caller]
fn assert_says(import: &Import, kind: Kind, line: usize, what: &str) {
    let said = said(import, kind);
    let is_it = |text: &String| text.starts_with(&format!("{line}: ")) && text.contains(what);
    assert!(
        said.iter().any(is_it),
        "{line}: {what} is not in {said:#?}\n{}",
        import.toml
    );
}

#[test]
fn a_forward_has_address_ports_and_guest() {
    let import = usual(
        "-A PREROUTING -d 192.0.2.10 -i eth0 -p tcp --dport 8080 -j DNAT --to 10.0.0.2:80\n\
         -A PREROUTING -d 192.0.2.10 -i eth0 -p tcp --dport 8081 -j DNAT --to-destination \
         10.0.0.2:80",
    );
    // `--to` is short for `--to-destination`.
    assert_eq!(said(&import, Kind::Untranslated).len(), 0);
    assert_values(
        &import,
        &[
            ("uplink.wan.interface", "eth0"),
            ("network.lan.interface", "br0"),
            ("network.lan.address", "10.0.0.1/24"),
            ("snat.0.network", "lan"),
            ("snat.0.to", "masquerade"),
            ("forward.0.name", "tcp-8080"),
            ("forward.0.address", "192.0.2.10"),
            ("forward.0.ports", "8080"),
            ("forward.1.name", "tcp-8081"),
            ("forward.1.to_ports", "80"),
            ("forward.0.to_ports", "80"),
            ("forward.0.hairpin", "false"),
        ],
    );
}

#[test]
fn ports_go_where_netfilter_sends_them() {
    let import = usual(
        "-A PREROUTING -i eth0 -p tcp -m multiport --dports 80,443,8000:8010 -j DNAT \
         --to-destination 10.0.0.2\n\
         -A PREROUTING -i eth0 -p udp --dport 5000:5009 -j DNAT --to-destination \
         10.0.0.2:6000-6009/5000\n\
         -A PREROUTING -i eth0 -p udp --dport 7000:7009 -j DNAT --to-destination \
         10.0.0.2:8000-8009\n\
         -A PREROUTING -i eth0 -p udp --dport 9000:9009 -j DNAT --to-destination \
         10.0.0.2:9000-9009\n\
         -A PREROUTING -i eth0 -p icmp --icmp-type echo-request -j DNAT --to-destination 10.0.0.2",
    );
    assert!(import.is_complete(), "{:?}", import.findings);
    assert_values(
        &import,
        &[
            ("forward.0.ports", "[80, 443, \"8000-8010\"]"),
            ("forward.0.to_ports", ""),
            ("forward.1.ports", "5000-5009"),
            ("forward.1.to_ports", "6000-6009"),
            ("forward.2.to_ports", "8000"),
            ("forward.3.to_ports", ""),
            ("forward.4.protocol", "icmp"),
            ("forward.4.ports", ""),
        ],
    );
    assert_says(&import, Kind::Warning, 5, "does not shift");
}

#[test]
fn every_port_may_go_to_one() {
    let import = usual("-A PREROUTING -i eth0 -p tcp -j DNAT --to-destination 10.0.0.2:80");
    assert_values(
        &import,
        &[
            ("forward.0.ports", "1-65535"),
            ("forward.0.to_ports", "80"),
            ("uplink.wan.keep", "[]"),
        ],
    );
}

#[test]
fn the_inside_half_of_a_forward_makes_it_a_hairpin() {
    let both = "-A PREROUTING -d 192.0.2.10 -i eth0 -p tcp --dport 80 -j DNAT --to-destination \
                10.0.0.2\n\
                -A PREROUTING -d 192.0.2.10 -i br0 -p tcp --dport 80 -j DNAT --to-destination \
                10.0.0.2\n";
    let half = usual(both);
    assert_values(&half, &[("forward.0.hairpin", "true"), ("forward.1", "")]);
    assert_says(&half, Kind::Warning, 4, "half a hairpin");
    let back = "-A POSTROUTING -s 10.0.0.0/24 -d 10.0.0.2 -p tcp --dport 80 -j MASQUERADE";
    let whole = usual(&format!("{both}{back}"));
    assert!(whole.is_complete(), "{:?}", whole.findings);
    assert!(
        !said(&whole, Kind::Warning)
            .iter()
            .any(|text| text.contains("half"))
    );
    assert_says(&whole, Kind::Warning, 5, "hides guests from each other");
    assert!(
        whole.toml.contains("# line 5: -A POSTROUTING"),
        "{}",
        whole.toml
    );
}

#[test]
fn a_rule_for_everybody_is_a_hairpin_by_itself() {
    let import =
        usual("-A PREROUTING -d 192.0.2.10 -p tcp --dport 80 -j DNAT --to-destination 10.0.0.2");
    assert_values(&import, &[("forward.0.hairpin", "true")]);
    assert_says(&import, Kind::Warning, 3, "half a hairpin");
}

#[test]
fn a_rule_without_address_and_interface_catches_passing_traffic() {
    let import = usual("-A PREROUTING -p tcp --dport 80 -j DNAT --to-destination 10.0.0.2");
    assert_values(
        &import,
        &[("forward.0.address", ""), ("forward.0.ports", "80")],
    );
    assert_says(&import, Kind::Warning, 3, "forwarded traffic");
    assert!(
        import
            .toml
            .contains("# warning: names no destination address"),
        "{}",
        import.toml
    );
    let own = usual(
        "-A PREROUTING -p tcp --dport 80 -m addrtype --dst-type LOCAL -j DNAT --to-destination \
         10.0.0.2",
    );
    assert!(
        !said(&own, Kind::Warning)
            .iter()
            .any(|text| text.contains("forwarded traffic"))
    );
}

#[test]
fn rules_that_leave_packets_alone_take_ports_out_of_those_behind_them() {
    let import = usual(
        "-A PREROUTING -i eth0 -p tcp --dport 10022 -j ACCEPT\n\
         -A PREROUTING -i eth0 -p tcp --dport 10000:10999 -j DNAT --to-destination 10.0.0.2",
    );
    assert!(import.is_complete(), "{:?}", import.findings);
    assert_values(
        &import,
        &[("forward.0.ports", "[\"10000-10021\", \"10023-10999\"]")],
    );
}

#[test]
fn ssh_goes_where_the_original_sends_it() {
    let all = "-A PREROUTING -d 192.0.2.10 -i eth0 -j DNAT --to-destination 10.0.0.2\n";
    let import = usual;
    assert_values(
        &import(all),
        &[("forward.0.protocol", "all"), ("uplink.wan.keep", "[]")],
    );
    let ssh = "-A PREROUTING -d 192.0.2.10 -i eth0 -p tcp --dport 22 -j ACCEPT\n";
    assert_values(&import(&format!("{ssh}{all}")), &[("uplink.wan.keep", "")]);
    let other = ssh.replace("22", "2200");
    let other = usual(&format!("{other}{all}"));
    assert!(other.is_complete(), "{:?}", other.findings);
    assert_values(&other, &[("uplink.wan.keep", "[\"tcp/2200\"]")]);
}

#[test]
fn rules_that_cannot_match_are_left_out_with_a_warning() {
    let import = usual(
        "-A PREROUTING -i eth0 -p tcp --dport 80 -j DNAT --to-destination 10.0.0.2\n\
         -A PREROUTING -i eth0 -p tcp --dport 80 -j DNAT --to-destination 10.0.0.3\n\
         -A unused -p tcp --dport 81 -j DNAT --to-destination 10.0.0.3\n\
         -A POSTROUTING -s 10.0.0.0/25 -o eth0 -j SNAT --to-source 192.0.2.11",
    );
    assert!(import.is_complete(), "{:?}", import.findings);
    assert_says(&import, Kind::Warning, 4, "line 3 takes all its packets");
    assert_says(&import, Kind::Warning, 5, "to which no rule jumps");
    assert_says(&import, Kind::Warning, 6, "line 2 takes all its packets");
    assert_values(&import, &[("forward.1", ""), ("snat.1", "")]);
}

#[test]
fn rules_that_ask_for_an_interface_too_early_or_too_late_cannot_match() {
    let import = usual(
        "-A PREROUTING -o eth0 -p tcp --dport 80 -j DNAT --to-destination 10.0.0.2\n\
         -A POSTROUTING -i br0 -s 10.0.0.0/25 -o eth1 -j SNAT --to-source 192.0.2.11\n\
         -A PREROUTING -i eth0 ! -o eth0 -p tcp --dport 81 -j DNAT --to-destination 10.0.0.2",
    );
    assert_says(&import, Kind::Warning, 3, "no interface that it leaves by");
    assert_says(&import, Kind::Warning, 4, "no interface that it came in by");
    assert_values(
        &import,
        &[("forward.0.ports", "81"), ("forward.1", ""), ("snat.1", "")],
    );
}

#[test]
fn fully_shadowed_forwards_are_omitted() {
    let import = usual(
        "-A PREROUTING -i eth0 -p tcp --dport 80:90 -j DNAT --to-destination 10.0.0.2\n\
         -A PREROUTING -i eth0 -p tcp --dport 85:95 -j DNAT --to-destination 10.0.0.3\n\
         -A PREROUTING -p tcp --dport 82:92 -j DNAT --to-destination 10.0.0.4\n\
         -A PREROUTING -i eth0 -j DNAT --to-destination 10.0.0.5\n\
         -A PREROUTING -d 192.0.2.8 -j DNAT --to-destination 10.0.0.6",
    );
    assert_values(
        &import,
        &[
            ("forward.0.ports", "80-90"),
            // The first one comes first in natbpf as well.
            ("forward.1.ports", "85-95"),
            ("forward.2.protocol", "all"),
            ("forward.3", ""),
        ],
    );
    for line in [5, 7] {
        assert_says(&import, Kind::Untranslated, line, "connections of guests");
    }
}

#[test]
fn port_0_is_refused() {
    let import = usual(
        "-A PREROUTING -i eth0 -p tcp --dport 0 -j DNAT --to-destination 10.0.0.2\n\
         -A PREROUTING -i eth0 -p udp --dport 1:65535 -j ACCEPT\n\
         -A PREROUTING -i eth0 -p udp -j DNAT --to-destination 10.0.0.2\n\
         -A PREROUTING -i eth0 -p tcp -j DNAT --to-destination 10.0.0.2:1-65535",
    );
    assert_says(&import, Kind::Untranslated, 3, "port 0");
    assert_values(
        &import,
        &[
            ("forward.0.protocol", "tcp"),
            ("forward.0.ports", "1-65535"),
            ("forward.1", ""),
        ],
    );
}

/// Rules with large conditions that exclude one port each all overlap.
#[test]
fn too_many_overlapping_rules_are_refused() {
    let marks = "-m mark --mark 1 ".repeat(60);
    let rules: String = (1..1500)
        .map(|port| format!("-A PREROUTING -p tcp ! --dport {port} {marks}-j ACCEPT\n"))
        .collect();
    let text = format!("*nat\n:PREROUTING ACCEPT [0:0]\n{rules}COMMIT\n");
    let refused = iptables(&text, "rules", &Options::default()).unwrap_err();
    assert!(refused.to_string().contains("overlap"), "{refused:#}");
}

#[test]
fn sources_that_are_left_alone_are_excluded() {
    let import = nat(
        "-A POSTROUTING -s 10.0.0.0/24 -d 10.8.0.0/16 -j ACCEPT\n\
         -A POSTROUTING -s 10.0.0.7/32 -j RETURN\n\
         -A POSTROUTING -s 10.0.0.0/24 ! -d 172.16.0.0/12 -o eth0 -j MASQUERADE --to-ports \
         2000-2999",
        &known(),
    );
    assert!(import.is_complete(), "{:?}", import.findings);
    assert_values(
        &import,
        &[
            ("snat.0.source", "10.0.0.7/32"),
            ("snat.0.exclude", "[\"0.0.0.0/0\"]"),
            ("snat.1.network", "lan"),
            ("snat.1.exclude", "[\"10.8.0.0/16\", \"172.16.0.0/12\"]"),
            ("snat.1.ports", "2000-2999"),
        ],
    );
}

#[test]
fn a_source_rule_without_interface_translates_between_guests() {
    let import = nat(
        "-A POSTROUTING -s 10.0.0.0/24 -j SNAT --to-source 192.0.2.10",
        &known(),
    );
    assert_values(
        &import,
        &[("snat.0.to", "192.0.2.10"), ("snat.0.uplink", "wan")],
    );
    assert_says(&import, Kind::Warning, 2, "names no output interface");
    let away = nat(
        "-A POSTROUTING -s 10.0.0.0/24 ! -d 10.0.0.0/24 -j MASQUERADE",
        &known(),
    );
    assert_eq!(said(&away, Kind::Warning), [""; 0]);
}

#[test]
fn a_rule_without_source_is_one_for_every_source() {
    let import = nat("-A POSTROUTING -o eth0 -j MASQUERADE", &known());
    assert!(import.is_complete(), "{:?}", import.findings);
    assert_values(&import, &[("snat.0.source", "0.0.0.0/0")]);
}

#[test]
fn an_address_for_one_guest_both_ways_is_one_rule() {
    let import = nat(
        "-A PREROUTING -d 192.0.2.11 -i eth0 -j DNAT --to-destination 10.0.0.5\n\
         -A POSTROUTING -s 10.0.0.5/32 -o eth0 -j SNAT --to-source 192.0.2.11\n\
         -A POSTROUTING -s 10.0.0.0/24 -o eth0 -j MASQUERADE\n\
         -A PREROUTING -d 192.0.2.16/30 -i eth0 -j NETMAP --to 10.0.0.16/30\n",
        &known(),
    );
    assert!(import.is_complete(), "{:?}", import.findings);
    assert_values(
        &import,
        &[
            ("nat.0.address", "192.0.2.11"),
            ("nat.0.to", "10.0.0.5"),
            ("nat.1", ""),
            ("snat.0.network", "lan"),
            ("snat.1", ""),
            ("forward.3.address", "192.0.2.19"),
            ("forward.3.to", "10.0.0.19"),
        ],
    );
}

#[test]
fn source_rules_for_packets_to_guests_are_not_converted() {
    let import = usual(
        "-A PREROUTING -i eth0 -p tcp --dport 80 -j DNAT --to-destination 10.0.0.2\n\
         -A POSTROUTING -d 10.0.0.2 -p tcp --dport 80 -j MASQUERADE\n\
         -A POSTROUTING -s 10.0.0.0/24 -d 10.0.0.9 -j MASQUERADE",
    );
    assert_says(&import, Kind::Untranslated, 4, "default route");
    assert_says(
        &import,
        Kind::Warning,
        4,
        "including those of outside clients",
    );
    assert_says(&import, Kind::Untranslated, 5, "between guests");
    assert_says(&import, Kind::Warning, 5, "no forward needs it");
}

#[test]
fn the_hosts_own_connections_to_forwards_become_local() {
    let import = usual(
        "-A PREROUTING -p tcp --dport 80 -m addrtype --dst-type LOCAL -j DNAT --to-destination \
         10.0.0.2\n\
         -A PREROUTING -i eth0 -p tcp --dport 81:82 -j DNAT --to-destination 10.0.0.2\n\
         -A OUTPUT ! -d 127.0.0.0/8 -p tcp --dport 80 -m addrtype --dst-type LOCAL -j DNAT \
         --to-destination 10.0.0.2",
    );
    let local = [("forward.0.local", "true"), ("forward.1.local", "false")];
    assert_values(&import, &local);
    assert!(import.is_complete(), "{:#?}", import.findings);
    assert!(
        import.toml.contains("# line 5: -A OUTPUT"),
        "{}",
        import.toml
    );
}

#[test]
fn the_hosts_own_connections_to_others_stay_with_netfilter() {
    let import = usual(
        "-A PREROUTING -i eth0 -p tcp --dport 80:81 -j DNAT --to-destination 10.0.0.2\n\
         -A PREROUTING -i eth0 -p tcp --dport 82 -j DNAT --to-destination 10.0.0.2\n\
         -A PREROUTING -i eth0 -p tcp --dport 83 -j DNAT --to-destination 10.0.0.2\n\
         -A OUTPUT -p tcp --dport 80 -j DNAT --to-destination 10.0.0.2\n\
         -A OUTPUT -p tcp --dport 82 -m owner --uid-owner 0 -j DNAT --to-destination 10.0.0.2\n\
         -A OUTPUT -p tcp --dport 83 -j DNAT --to-destination 10.0.0.3\n\
         -A OUTPUT -p tcp --dport 84 -j DNAT --to-destination 10.0.0.2",
    );
    let local = ["forward.0.local", "forward.1.local", "forward.2.local"];
    assert_values(&import, &local.map(|key| (key, "false")));
    assert_says(
        &import,
        Kind::Untranslated,
        6,
        "sends only some of the host's own",
    );
    assert_says(
        &import,
        Kind::Untranslated,
        7,
        "sends only some of the host's own",
    );
    assert_says(&import, Kind::Untranslated, 8, "applies to the host's own");
    assert_says(&import, Kind::Untranslated, 9, "applies to the host's own");
}

#[test]
fn a_rule_for_the_host_that_names_no_address_is_warned_of() {
    let import = usual(
        "-A PREROUTING -i eth0 -p tcp --dport 80 -j DNAT --to-destination 10.0.0.2\n\
         -A OUTPUT -p tcp --dport 80 -j DNAT --to-destination 10.0.0.2",
    );
    assert_values(&import, &[("forward.0.local", "true")]);
    assert_says(
        &import,
        Kind::Warning,
        4,
        "also takes the host's own connections",
    );
}

#[test]
fn a_forward_without_ports_is_local_where_a_rule_says_so() {
    let all = "-A PREROUTING -d 19.19.8.11 -i eth0 -j DNAT --to-destination 10.0.0.2";
    let with = usual(&format!(
        "{all}\n-A OUTPUT -d 19.19.8.11 -j DNAT --to-destination 10.0.0.2"
    ));
    assert_values(&with, &[("forward.0.local", "true")]);
    assert_values(&usual(all), &[("forward.0.local", "")]);
}

#[test]
fn senders_and_destinations_are_no_choice_of_natbpfs() {
    let import = usual(
        "-A PREROUTING -s 198.51.100.0/24 -i eth0 -p tcp --dport 80 -j DNAT --to-destination \
         10.0.0.2\n\
         -A PREROUTING -i br0 -p tcp --dport 80 -j DNAT --to-destination 10.0.0.3\n\
         -A PREROUTING -i eth0 -p tcp --dport 81 -j REDIRECT --to-ports 80\n\
         -A PREROUTING -d 198.51.0.0/16 -i eth0 -p tcp --dport 82 -j DNAT --to-destination \
         10.0.0.3",
    );
    assert_says(&import, Kind::Untranslated, 3, "certain senders");
    assert_says(&import, Kind::Untranslated, 4, "only connections of guests");
    assert_says(&import, Kind::Untranslated, 5, "to the host itself");
    assert_says(&import, Kind::Untranslated, 6, "single external addresses");
    assert_values(&import, &[("forward", "")]);
}

#[test]
fn several_uplinks_have_separate_rules() {
    let import = nat(
        "-A PREROUTING -d 203.0.113.9 -p tcp --dport 80 -j DNAT --to-destination 10.0.0.2\n\
         -A POSTROUTING -s 10.0.0.0/24 -o eth0 -j MASQUERADE\n\
         -A POSTROUTING -s 10.0.0.0/24 -o eth1 -j SNAT --to-source 203.0.113.9",
        &Options {
            addresses: vec![
                ("eth1".to_owned(), "203.0.113.9/24".parse().unwrap()),
                ("br0".to_owned(), "10.0.0.1/24".parse().unwrap()),
            ],
            default_route: None,
            default_route6: None,
            policies: false,
        },
    );
    assert_values(
        &import,
        &[
            ("uplink.eth0.interface", "eth0"),
            ("snat.0.uplink", "eth0"),
            ("snat.1.uplink", "eth1"),
            ("forward.0.uplink", "eth1"),
            ("forward.1", ""),
        ],
    );
}

#[test]
fn an_address_that_the_interface_lacks_is_listed() {
    let rule = "-A PREROUTING -d 198.51.100.9 -p tcp --dport 80 -j DNAT --to-destination 10.0.0.2";
    let listed = usual(rule);
    assert_values(
        &listed,
        &[("uplink.wan.addresses", "[\"192.0.2.10\", \"198.51.100.9\"]")],
    );
    let unknown = nat(rule, &Options::default());
    assert_values(
        &unknown,
        &[
            ("uplink.wan.addresses", ""),
            ("uplink.wan.interface", "eth0"),
        ],
    );
    assert!(
        unknown
            .toml
            .contains("# check: forwards name \"198.51.100.9\""),
        "{}",
        unknown.toml
    );
}

#[test]
fn comments_become_names_and_do_no_harm() {
    let import = usual(
        "-A PREROUTING -i eth0 -p tcp --dport 80 -m comment --comment \"my \\\"web\\\" \
         server\u{1b}[2J\" -j DNAT --to-destination 10.0.0.2\n\
         -A PREROUTING -i eth0 -p tcp --dport 81 -m comment --comment \"my \\\"web\\\" \
         server\u{1b}[2J\" -j DNAT --to-destination 10.0.0.2",
    );
    assert_values(
        &import,
        &[
            ("forward.0.name", "my-web-server-2J"),
            ("forward.1.name", "my-web-server-2J-2"),
        ],
    );
    assert!(!import.toml.contains('\u{1b}'));
}

#[test]
fn other_tables_stay_in_force_and_are_listed() {
    let text = format!(
        "*nat\n{MASQUERADE}-A PREROUTING -i eth0 -p tcp --dport 80 -j DNAT --to-destination \
         10.0.0.2\nCOMMIT\n\
         *filter\n:FORWARD DROP [0:0]\n-A FORWARD -d 10.0.0.2 -p tcp --dport 80 -j ACCEPT\n\
         -A FORWARD -m conntrack --ctstate DNAT -j ACCEPT\nCOMMIT\n\
         *mangle\n-A FORWARD -o eth0 -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1452\n\
         -A PREROUTING -p tcp --dport 80 -j MARK --set-xmark 0x1/0xffffffff\nCOMMIT\n"
    );
    let import = iptables(&text, "rules", &known()).unwrap();
    assert!(import.is_complete(), "{:?}", import.findings);
    assert_values(&import, &[("uplink.wan.mss_clamp", "1452")]);
    assert_says(&import, Kind::Note, 6, "policy of the filter table");
    assert_says(
        &import,
        Kind::Note,
        7,
        "natbpf leaves netfilter's filter rules in force: keep it",
    );
    assert_says(
        &import,
        Kind::Warning,
        8,
        "netfilter does not know natbpf's connections",
    );
    assert_says(&import, Kind::Note, 12, "forwarding = \"kernel\"");
    assert_says(&import, Kind::Warning, 12, "after natbpf's");
    assert!(
        !import.findings.iter().any(|finding| finding.line == 11),
        "mss_clamp says it"
    );
}

#[test]
fn calls_in_interfaces_files_bring_their_addresses() {
    let text = "auto vmbr0\niface vmbr0 inet static\n\taddress 19.19.8.10\n\tnetmask \
                255.255.255.0\n\
                iface vmbr1 inet static\n\taddress 172.22.161.254/24\n\
                \tpost-up iptables -t nat -A POSTROUTING -s '172.22.161.0/24' -o vmbr0 -j \
                MASQUERADE\n\
                \tpost-down iptables -t nat -D POSTROUTING -s '172.22.161.0/24' -o vmbr0 -j \
                MASQUERADE\n";
    let import = iptables(text, "interfaces", &Options::default()).unwrap();
    assert!(import.is_complete(), "{:?}", import.findings);
    assert_values(
        &import,
        &[
            ("network.lan.address", "172.22.161.254/24"),
            ("network.lan.interface", "vmbr1"),
        ],
    );
    assert!(!import.toml.contains("check:") || !import.toml.contains("own address in it"));
}

#[test]
fn a_line_is_shown_with_its_file() {
    let import = usual("-A PREROUTING -i eth0 -p tcp --dport 81 -j REDIRECT --to-ports 80");
    let shown: Vec<String> = import
        .findings
        .iter()
        .map(|finding| finding.show("rules"))
        .collect();
    let rule = "-A PREROUTING -i eth0 -p tcp --dport 81 -j REDIRECT --to-ports 80";
    assert!(
        shown[0].starts_with(&format!("rules:3: {rule}: sends to the host itself")),
        "{shown:?}"
    );
}

#[test]
fn several_ways_out_are_doubted_where_nothing_is_known_of_the_host() {
    let rules = "-A POSTROUTING -s 10.0.0.0/24 -o vmbr0 -j MASQUERADE\n\
                 -A POSTROUTING -s 10.0.0.0/24 -o vmbr1 -j MASQUERADE";
    let guessed = nat(rules, &Options::default());
    assert_eq!(
        guessed
            .toml
            .matches("# check: that guests are not behind it")
            .count(),
        2
    );
    let addresses = vec![("vmbr1".to_owned(), "10.0.0.1/24".parse().unwrap())];
    let options = Options {
        addresses,
        default_route: None,
        default_route6: None,
        policies: false,
    };
    let known = nat(rules, &options);
    assert_values(&known, &[("uplink.wan.interface", "vmbr0"), ("snat.1", "")]);
    assert_says(&known, Kind::Warning, 3, "no forward needs it");
}

#[test]
fn the_hosts_own_loopback_addresses_are_no_network_of_guests() {
    let text = "*nat\n-A POSTROUTING -s 127.0.0.0/8 ! -o br0 -j MASQUERADE\n\
                -A POSTROUTING -s 10.1.0.0/16 -o eth0 -j MASQUERADE\nCOMMIT\n";
    let import = iptables(text, "any", &Options::default()).unwrap();
    assert_eq!(import.problem, None, "{}", import.toml);
    assert!(!import.toml.contains("address = \"127."), "{}", import.toml);
}

#[test]
fn loopback_is_no_uplink() {
    let rules = "-A POSTROUTING -s 10.1.0.0/16 -o lo -j MASQUERADE";
    let import = nat(rules, &Options::default());
    assert_says(&import, Kind::Untranslated, 2, "none of the uplinks");
    assert_values(&import, &[("uplink.wan.interface", "eth0")]);
}

#[test]
fn a_rule_that_takes_too_many_words_is_refused_as_a_whole() {
    let import = nat(
        "-A POSTROUTING -s 172.22.161.0/24 -d 172.22.161.254 -j ACCEPT\n\
         -A POSTROUTING -d 172.22.161.0/24 -o vmbr0 -j MASQUERADE\n\
         -A POSTROUTING -s 192.168.122.0/24 -p tcp -j MASQUERADE --to-ports 1024-65535",
        &Options::default(),
    );
    assert_says(&import, Kind::Note, 2, "exempts packets");
    assert_says(&import, Kind::Untranslated, 3, "64 prefixes");
    assert_values(&import, &[("snat.0", "")]);
}
