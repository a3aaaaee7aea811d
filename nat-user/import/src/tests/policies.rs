//! The filter table's rules as policies.

use super::*;

/// The import, with policies, of a filter table whose rules begin on line 4, of the usual
/// masquerade and of more of the nat table.
fn both(chains: [&str; 2], rules: &str, nat: &str) -> Import {
    let [input, forward] = chains;
    let text = format!(
        "*filter\n:INPUT {input} [0:0]\n:FORWARD {forward} [0:0]\n{rules}\nCOMMIT\n\
         *nat\n:PREROUTING ACCEPT [0:0]\n{MASQUERADE}{nat}\nCOMMIT\n"
    );
    let options = Options {
        policies: true,
        ..known()
    };
    let import = iptables(&text, "rules", &options).unwrap();
    assert_eq!(import.problem, None, "{}", import.toml);
    import
}

fn dropping(rules: &str) -> Import {
    both(["ACCEPT", "DROP"], rules, "")
}

fn accepting(rules: &str) -> Import {
    both(["ACCEPT", "ACCEPT"], rules, "")
}

#[test]
fn every_form_of_rule_becomes_a_policy() {
    let rows: [(&str, [&str; 5]); 16] = [
        ("-i br0 -o eth0 -j ACCEPT", ["lan", "wan", "", "", "accept"]),
        (
            "-d 10.0.0.2/32 -i eth0 -p tcp -m tcp --dport 22 -j ACCEPT",
            ["wan", "10.0.0.2", "tcp", "22", "accept"],
        ),
        (
            "-d 10.0.0.0/28 -p udp -m multiport --dports 53,5000:5009 -j DROP",
            ["", "10.0.0.0/28", "udp", "[53, \"5000-5009\"]", "drop"],
        ),
        (
            "-p icmp -m icmp --icmp-type 8 -j ACCEPT",
            ["", "", "icmp", "", "accept"],
        ),
        (
            "-m iprange --dst-range 10.0.0.4-10.0.0.9 -j ACCEPT",
            ["", "[\"10.0.0.4/30\", \"10.0.0.8/31\"]", "", "", "accept"],
        ),
        (
            "! -s 10.0.0.0/25 -i br0 -j DROP",
            ["10.0.0.128/25", "", "", "", "drop"],
        ),
        (
            "-o br0 -p tcp ! --dport 25 -j ACCEPT",
            ["", "lan", "tcp", "[\"1-24\", \"26-65535\"]", "accept"],
        ),
        (
            "-i br0 -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT",
            ["lan", "", "", "", "accept"],
        ),
        ("-i br+ -o br+ -j ACCEPT", ["lan", "lan", "", "", "accept"]),
        ("-i br0 -p all -j REJECT", ["lan", "", "", "", "drop"]),
        (
            "-i br0 -p tcp --syn -j DROP",
            ["lan", "", "tcp", "", "drop"],
        ),
        (
            "-s 10.0.0.0/8 -i br0 -j ACCEPT",
            ["10.0.0.0/24", "", "", "", "accept"],
        ),
        (
            "-s 198.51.100.7/32 -d 10.0.0.2/32 -j ACCEPT",
            ["198.51.100.7", "10.0.0.2", "", "", "accept"],
        ),
        (
            "-i br0 -m addrtype ! --dst-type LOCAL -j ACCEPT",
            ["lan", "", "", "", "accept"],
        ),
        (
            "-p udp --dport :1023 -j DROP",
            ["", "", "udp", "1-1023", "drop"],
        ),
        (
            "-i br0 -m comment --comment \"all of them\" -j ACCEPT",
            ["lan", "", "", "", "accept"],
        ),
    ];
    for (rule, expected) in rows {
        let import = dropping(&format!("-A FORWARD {rule}"));
        assert!(import.is_complete(), "{rule}: {:?}", import.findings);
        let keys = ["from", "to", "protocol", "ports", "action"];
        for (key, expected) in keys.iter().zip(expected) {
            let path = format!("policy.0.{key}");
            assert_eq!(value(&import, &path), expected, "{rule}\n{}", import.toml);
        }
        let quote = format!("# line 4: -A FORWARD {rule}\n");
        assert!(import.toml.contains(&quote), "{rule}\n{}", import.toml);
        assert_values(&import, &[("policy.1", ""), ("network.lan.policy", "drop")]);
    }
}

#[test]
fn rules_that_no_policy_expresses_are_listed_with_the_reason() {
    for (rule, reason) in [
        ("-i br0 -m mark --mark 0x1 -j ACCEPT", "marks"),
        ("-i br0 -m limit --limit 5/sec -j ACCEPT", "count"),
        (
            "-i br0 -m mac --mac-source 52:54:00:00:00:01 -j ACCEPT",
            "--mac-source",
        ),
        ("-i br0 -m physdev --physdev-in tap0 -j DROP", "bridge"),
        (
            "-i br0 -m conntrack --ctstate INVALID -j DROP",
            "first packet",
        ),
        (
            "-i br0 -m conntrack --ctstate ESTABLISHED -j DROP",
            "first packet",
        ),
        (
            "-o br0 -m conntrack --ctstate DNAT -j ACCEPT",
            "translates nothing",
        ),
        (
            "-i br0 -p tcp ! --syn -m state --state NEW -j DROP",
            "TCP flags",
        ),
        (
            "-i br0 -p tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -j DROP",
            "TCP flags",
        ),
        ("-i br0 -p tcp --sport 22 -j ACCEPT", "source ports"),
        ("-i br0 ! -p tcp -j DROP", "exclude a single protocol"),
        ("-i br0 -p gre -j ACCEPT", "not gre"),
        (
            "-i br0 -p icmp --icmp-type 13 -j DROP",
            "types of addresses or messages",
        ),
        ("-i wg0 -o br0 -j ACCEPT", "wg0 is not the interface"),
        ("-i wg+ -o br0 -j ACCEPT", "wg+ is not the interface"),
        ("-s 10.0.0.0/24 -i eth0 -j DROP", "behind another interface"),
        ("-s 10.0.0.0/8 -i eth0 -j DROP", "behind another interface"),
        ("! -s 10.0.0.0/24 -i br0 -j DROP", "anti_spoof"),
        ("! -s 10.0.0.0/24 -i br0 -j ACCEPT", "anti_spoof"),
        ("-i br0 -j NFQUEUE", "no chain NFQUEUE"),
    ] {
        let import = dropping(&format!("-A FORWARD {rule}"));
        assert_says(&import, Kind::Untranslated, 4, reason);
        assert_values(&import, &[("policy", "")]);
        assert!(!import.is_complete(), "{rule}");
        let quote = format!("# line 4: -A FORWARD {rule}\n");
        assert!(import.toml.contains(&quote), "{rule}\n{}", import.toml);
    }
}

#[test]
fn rules_keep_their_order_through_chains() {
    let import = dropping(
        ":user - [0:0]\n:guests - [0:0]\n\
         -A FORWARD -j user\n\
         -A FORWARD -o br0 -j guests\n\
         -A FORWARD -i br0 -j ACCEPT\n\
         -A user -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN\n\
         -A user -s 10.0.0.66/32 -j DROP\n\
         -A user -j RETURN\n\
         -A guests -d 10.0.0.2/32 -p tcp --dport 80 -j ACCEPT\n\
         -A guests -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    );
    assert!(import.is_complete(), "{:?}", import.findings);
    assert_values(
        &import,
        &[
            ("policy.0.from", "10.0.0.66"),
            ("policy.0.action", "drop"),
            ("policy.1.to", "10.0.0.2"),
            ("policy.1.ports", "80"),
            ("policy.2.from", "lan"),
            ("policy.2.action", "accept"),
            ("policy.3", ""),
        ],
    );
    assert!(import.toml.contains("# line 13: "), "{}", import.toml);
    assert!(import.toml.contains("lets answers pass without a rule"));
}

#[test]
fn a_rule_for_all_becomes_the_default_policy() {
    let reject = "-A FORWARD -i br0 -j ACCEPT\n-A FORWARD -j REJECT\n-A FORWARD -o br0 -j ACCEPT";
    let import = accepting(reject);
    assert!(import.is_complete(), "{:?}", import.findings);
    assert_values(
        &import,
        &[
            ("network.lan.policy", "drop"),
            ("network.lan.host", "all"),
            ("policy.0.from", "lan"),
            ("policy.1", ""),
        ],
    );
    assert!(
        import
            .toml
            .contains("# line 5: -A FORWARD -j REJECT\npolicy")
    );
    assert_says(&import, Kind::Note, 6, "line 5 takes all its packets");
    let accept = dropping("-A FORWARD -i br0 -j DROP\n-A FORWARD -j ACCEPT");
    assert_values(
        &accept,
        &[
            ("network.lan.policy", ""),
            ("network.lan.host", ""),
            ("policy.0.action", "drop"),
            ("policy.1", ""),
        ],
    );
    // RETURN leaves it to the chain's policy.
    let returns = dropping("-A FORWARD -i br0 -j RETURN\n-A FORWARD -j ACCEPT");
    assert_values(&returns, &[("policy.0.action", "drop"), ("policy.1", "")]);
}

#[test]
fn without_the_flag_rules_stay_and_the_flag_is_named() {
    let text =
        "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -i br0 -j ACCEPT\n-A INPUT -i br0 -j ACCEPT\n";
    let import = iptables(text, "rules", &known()).unwrap();
    assert_says(
        &import,
        Kind::Note,
        3,
        "keep it, or import it with --policies",
    );
    assert_says(&import, Kind::Note, 4, "keep it");
    assert!(!import.toml.contains("policy"), "{}", import.toml);
    assert!(import.is_complete());
}

#[test]
fn where_nothing_is_dropped_nothing_is_accepted() {
    let import = accepting("-A FORWARD -i br0 -j ACCEPT\n-A FORWARD -o br0 -j LOG");
    assert_says(&import, Kind::Note, 4, "no policy is needed");
    assert_says(&import, Kind::Note, 5, "LOG decides nothing");
    assert_values(&import, &[("policy", ""), ("network.lan.policy", "")]);
}

#[test]
fn exceptions_are_left_out_only_where_they_have_the_same_fate() {
    let except = "-A FORWARD ! -i br0 -o br0 -p tcp --dport 80 -j ACCEPT";
    let alone = dropping(except);
    assert_values(&alone, &[("policy.0.from", "wan"), ("policy.0.to", "lan")]);
    assert!(
        alone.toml.contains("# check: ! br0 also matches"),
        "{}",
        alone.toml
    );
    for rest in [
        "-A FORWARD -i br0 -j DROP\n",
        "-A FORWARD -i br0 -o br0 -j ACCEPT\n",
    ] {
        let decided = dropping(&format!("{rest}{except}"));
        assert_values(&decided, &[("policy.1.from", ""), ("policy.1.to", "lan")]);
    }
    let later = dropping(&format!("{except}\n-A FORWARD -i br0 -j ACCEPT"));
    assert_values(&later, &[("policy.0.from", "")]);
    let other = dropping(&format!("{except}\n-A FORWARD -i br0 -j DROP"));
    assert_values(&other, &[("policy.0.from", "wan")]);
    // Packets that are dropped in the end are also dropped by their exception.
    let dropped = dropping("-A FORWARD ! -i br0 -o br0 -p tcp --dport 80 -j DROP");
    assert_values(&dropped, &[("policy.0.from", "")]);
}

#[test]
fn addresses_in_no_network_hold_by_whatever_interface() {
    let outside = dropping("-A FORWARD -s 198.51.100.0/24 -i eth0 -o br0 -j ACCEPT");
    assert_values(&outside, &[("policy.0.from", "198.51.100.0/24")]);
    assert_says(&outside, Kind::Warning, 4, "at every interface");
    let public = dropping("-A FORWARD -s 203.0.113.9/32 -i br+ -o eth0 -j ACCEPT");
    assert_values(&public, &[("policy.0.from", "203.0.113.9")]);
    assert_says(&public, Kind::Warning, 4, "[[route]]");
    // Addresses that cannot arrive this way are excluded from an accepting rule.
    let wide = dropping("-A FORWARD -s 10.0.0.0/23 -i eth0 -j ACCEPT");
    assert_values(&wide, &[("policy.0.from", "10.0.1.0/24")]);
}

#[test]
fn rules_without_a_network_stay_with_netfilter() {
    for rule in ["-i eth0 -o eth0", "-i wg0 -o eth0", "-i wg0 -o tun0"] {
        let import = dropping(&format!("-A FORWARD {rule} -j ACCEPT"));
        assert_says(&import, Kind::Note, 4, "policies do not apply");
        assert_values(&import, &[("policy", "")]);
        assert!(import.is_complete(), "{:?}", import.findings);
    }
}

#[test]
fn without_a_network_policies_are_not_converted() {
    let text = "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -i br0 -j ACCEPT\n";
    let options = Options {
        policies: true,
        ..Options::default()
    };
    let import = iptables(text, "rules", &options).unwrap();
    assert_says(&import, Kind::Untranslated, 2, "policies need a [network]");
    assert_says(&import, Kind::Untranslated, 3, "policies need a [network]");
}

#[test]
fn a_forward_that_no_rule_accepts_is_dropped() {
    let nat = "-A PREROUTING -d 192.0.2.10/32 -i eth0 -p tcp --dport 8080 -j DNAT --to-destination \
               10.0.0.2:80\n\
               -A PREROUTING -d 192.0.2.10/32 -i eth0 -p tcp --dport 8081 -j DNAT --to-destination \
               10.0.0.3:80";
    let accept = "-A FORWARD -d 10.0.0.2/32 -i eth0 -o br0 -p tcp --dport 80 -j ACCEPT";
    let import = both(["ACCEPT", "DROP"], accept, nat);
    assert_values(
        &import,
        &[
            ("policy.0.to", "10.0.0.2"),
            ("policy.0.action", "accept"),
            ("policy.1.to", "10.0.0.3"),
            ("policy.1.from", ""),
            ("policy.1.protocol", "tcp"),
            ("policy.1.ports", "80"),
            ("policy.1.action", "drop"),
            ("policy.2", ""),
        ],
    );
    // The port outside is not the guest's.
    let outer = accept.replace("--dport 80", "--dport 8080");
    let import = both(["ACCEPT", "DROP"], &outer, nat);
    assert_values(
        &import,
        &[("policy.1.to", "10.0.0.2"), ("policy.2.to", "10.0.0.3")],
    );
    let all = "-A FORWARD -o br0 -j ACCEPT";
    let import = both(["ACCEPT", "DROP"], all, nat);
    assert_values(&import, &[("policy.0.to", "lan"), ("policy.1", "")]);
}

#[test]
fn answers_that_the_rules_drop_are_warned_of() {
    let opens = "-A FORWARD -i br0 -o eth0 -j ACCEPT";
    let answers = "-A FORWARD -m state --state RELATED,ESTABLISHED -j ACCEPT";
    assert_says(&dropping(opens), Kind::Warning, 4, "line 3 drops answers");
    let late = format!("-A FORWARD -o br0 -j DROP\n{answers}\n{opens}");
    assert_says(&dropping(&late), Kind::Warning, 6, "line 4 drops answers");
    for rules in [
        format!("{answers}\n{opens}"),
        format!("{opens}\n{answers}"),
        format!("{opens}\n-A FORWARD -i eth0 -o br0 -j ACCEPT"),
    ] {
        assert_eq!(said(&dropping(&rules), Kind::Warning), [""; 0], "{rules}");
    }
}

#[test]
fn input_rules_become_host_only_if_exact() {
    let input = "-A INPUT -i lo -j ACCEPT\n\
                 -A INPUT -m state --state RELATED,ESTABLISHED -j ACCEPT\n\
                 -A INPUT -i br+ -p udp --dport 67 -j ACCEPT\n\
                 -A INPUT -i br0 -p udp --dport 53 -j ACCEPT\n\
                 -A INPUT -i br0 -p tcp --dport 53 -j ACCEPT\n\
                 -A INPUT -p icmp -j ACCEPT\n\
                 -A INPUT -p tcp -m multiport --dports 22,8006 -j ACCEPT\n\
                 -A INPUT -i eth0 -s 198.51.100.0/24 -j ACCEPT\n";
    let expected = "[\"dhcp\", \"dns\", \"ping\", \"tcp/22\", \"tcp/8006\"]";
    let import = both(["DROP", "ACCEPT"], input, "");
    assert!(import.is_complete(), "{:?}", import.findings);
    assert_values(
        &import,
        &[("network.lan.host", expected), ("network.lan.policy", "")],
    );
    assert_says(&import, Kind::Note, 6, "is also in `host`");
    assert_says(&import, Kind::Note, 2, "keep it");
    assert_says(
        &import,
        Kind::Note,
        11,
        "leaves netfilter's filter rules in force",
    );
    let last = format!("{input}-A INPUT -i br0 -j REJECT");
    assert_values(
        &both(["ACCEPT", "DROP"], &last, ""),
        &[
            ("network.lan.host", expected),
            ("network.lan.policy", "drop"),
        ],
    );
    for more in [
        "-A INPUT -s 10.0.0.7/32 -p tcp --dport 3128 -j ACCEPT",
        "-A INPUT -i br0 -p tcp --dport 25 -j DROP",
        "-A INPUT -i br0 -m limit --limit 5/sec -j ACCEPT",
        "-A INPUT -i br0 -p tcp -j ACCEPT",
        "-A INPUT -i br0 -j ACCEPT",
    ] {
        let import = both(["DROP", "DROP"], &format!("{input}{more}"), "");
        assert_values(&import, &[("network.lan.host", "all")]);
    }
    assert_values(
        &both(["ACCEPT", "DROP"], input, ""),
        &[("network.lan.host", "all")],
    );
}
