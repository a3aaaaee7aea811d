//! Complete files of kinds other than iptables-save's output.

use super::*;

fn file(text: &str) -> Import {
    let import = iptables(text, "rules", &Options::default()).unwrap();
    assert_eq!(import.problem, None, "{}", import.toml);
    import
}

#[track_caller]
fn assert_complete(import: &Import) {
    let said = said(import, Kind::Untranslated);
    assert!(import.is_complete(), "{said:#?}\n{}", import.toml);
}

const BRIDGE: &str = "auto vmbr1\niface vmbr1 inet static\n address 10.1.0.1/24\n";

#[test]
fn several_commands_in_a_line_of_interfaces_are_rules_each() {
    let import = file(&format!(
        "{BRIDGE} post-up iptables -A FORWARD -i vmbr1 -j ACCEPT; \
         iptables -t nat -A POSTROUTING -s 10.1.0.0/24 -o vmbr0 -j MASQUERADE || true\n \
         post-up iptables -t nat -A PREROUTING -i vmbr0 -p tcp --dport 80 -j DNAT \
         --to 10.1.0.2 && iptables -t nat -A PREROUTING -i vmbr0 -p tcp --dport 443 \
         -j DNAT --to=10.1.0.3 2>/dev/null # web\n"
    ));
    assert_complete(&import);
    assert_values(
        &import,
        &[
            ("uplink.wan.interface", "vmbr0"),
            ("network.lan.interface", "vmbr1"),
            ("snat.0.to", "masquerade"),
            ("forward.0.to", "10.1.0.2"),
            ("forward.1.to", "10.1.0.3"),
        ],
    );
}

#[test]
fn the_interface_with_the_gateway_is_the_uplink() {
    let import = file(
        "source /etc/network/interfaces.d/*\n\nauto eth0\niface eth0 inet static\n \
         address 192.0.2.10\n netmask 25\n gateway 192.0.2.1\niface vmbr0 inet static\n \
         address 192.168.1.1/24\n post-up iptables -t nat -A POSTROUTING -s 192.168.1.0/24 \
         -j MASQUERADE\n",
    );
    assert_complete(&import);
    assert_values(
        &import,
        &[
            ("uplink.wan.interface", "eth0"),
            ("network.lan.interface", "vmbr0"),
            ("network.lan.address", "192.168.1.1/24"),
        ],
    );
}

#[test]
fn a_file_of_wg_quick_is_read_and_names_the_network() {
    let text = "[Interface]\nAddress = 10.99.99.1/24\nListenPort = 51820\n\
                PostUp = iptables -A FORWARD -i %i -j ACCEPT; iptables -t nat -A POSTROUTING -o \
                eth0 -j MASQUERADE\n\
                PostUp = iptables -t nat -A PREROUTING -i eth0 -p udp --dport 3074 -j DNAT \
                --to-destination 10.99.99.43:3074\n\
                PostDown = iptables -t nat -F\n";
    let import = iptables(text, "/etc/wireguard/wg1.conf", &Options::default()).unwrap();
    assert_complete(&import);
    assert_values(
        &import,
        &[
            ("network.lan.interface", "wg1"),
            ("network.lan.address", "10.99.99.1/24"),
            ("forward.0.ports", "3074"),
        ],
    );
}

#[test]
fn a_script_is_read_for_its_calls_of_iptables() {
    let import = file(
        "#!/bin/sh\nset -e\nWAN=eth0\nIPT=/usr/sbin/iptables\nsysctl -w net.ipv4.ip_forward=1\n\
         $IPT -t nat -F\n$IPT -w 5 -t nat -A POSTROUTING -s 10.1.0.0/24 \\\n   -o $WAN -j \
         MASQUERADE\n",
    );
    assert_complete(&import);
    assert_values(
        &import,
        &[("uplink.wan.interface", "eth0"), ("snat.0.network", "lan")],
    );
}

#[test]
fn a_rule_with_a_variable_that_is_not_set_is_left_and_named() {
    let import = file("iptables -t nat -A POSTROUTING -o $WAN -j MASQUERADE\n");
    assert_says(&import, Kind::Untranslated, 1, "$WAN");
    assert!(
        !import.toml.contains("interface = \"$WAN\""),
        "{}",
        import.toml
    );
}

#[test]
fn a_place_that_is_not_known_costs_that_rule_alone() {
    let import = file(&format!(
        "{BRIDGE} post-up iptables -I FORWARD 9 -i vmbr1 -j ACCEPT\n \
         post-up iptables -t nat -A POSTROUTING -s 10.1.0.0/24 -o vmbr0 -j MASQUERADE\n"
    ));
    assert_complete(&import);
    let import = file(&format!(
        "{BRIDGE} post-up iptables -t nat -A POSTROUTING -s 10.1.0.0/24 -o vmbr0 -j MASQUERADE\n \
         post-up iptables -t nat -I PREROUTING 7 -i vmbr0 -p tcp --dport 80 -j DNAT --to 10.1.0.2\n"
    ));
    assert_says(&import, Kind::Untranslated, 5, "at a position");
    assert_values(&import, &[("snat.0.to", "masquerade"), ("forward", "")]);
}

#[test]
fn prefixes_accepted_by_input_are_not_behind_its_interface() {
    let import = file(
        "*nat\n-A POSTROUTING -s 10.8.0.0/24 -o wan1 -j SNAT --to-source 172.16.200.1\n\
         -A PREROUTING -i wan0 -p udp --dport 5060 -j DNAT --to-destination 172.16.199.126\n\
         -A POSTROUTING -s 172.16.199.0/24 -o wan0 -j SNAT --to-source 203.0.113.234\nCOMMIT\n\
         *filter\n:INPUT DROP [0:0]\n-A INPUT -s 10.8.0.0/24 -i wan0 -p tcp --dport 22 -j ACCEPT\n\
         -A INPUT -s 172.16.199.0/24 -i wan0 -j ACCEPT\nCOMMIT\n",
    );
    assert_complete(&import);
    assert_values(
        &import,
        &[
            ("uplink.wan0.interface", "wan0"),
            ("uplink.wan1.interface", "wan1"),
            ("forward.0.uplink", "wan0"),
        ],
    );
}

#[test]
fn a_rule_without_output_interface_is_for_every_uplink_that_is_known() {
    let text = "*nat\n:DOCKER - [0:0]\n-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n\
                -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE\n\
                -A DOCKER ! -i docker0 -p tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80\n\
                COMMIT\n";
    let address = |interface: &str, net: &str| (interface.to_owned(), net.parse().unwrap());
    let mut options = Options {
        addresses: vec![
            address("docker0", "172.17.0.1/16"),
            address("eth0", "192.0.2.2/24"),
            address("wg0", "10.9.0.2/24"),
        ],
        ..Options::default()
    };
    let import = iptables(text, "rules", &options).unwrap();
    assert_complete(&import);
    assert_values(
        &import,
        &[
            ("snat.0.uplink", "eth0"),
            ("snat.1.uplink", "wg0"),
            ("forward.0.uplink", "eth0"),
            ("forward.1.uplink", "wg0"),
        ],
    );
    options.default_route = Some("eth0".to_owned());
    let import = iptables(text, "rules", &options).unwrap();
    assert_says(&import, Kind::Warning, 4, "wg0");
}

#[test]
fn a_service_in_turns_is_no_forward() {
    let import = usual(
        "-A PREROUTING -i eth0 -p tcp --dport 80 -j SVC\n\
         -A SVC -p tcp -m statistic --mode random --probability 0.5 -j DNAT --to-destination \
         10.0.0.2\n\
         -A SVC -p tcp -j DNAT --to-destination 10.0.0.3\n",
    );
    assert_says(&import, Kind::Untranslated, 4, "count");
    assert_says(&import, Kind::Untranslated, 5, "in turn");
    assert_values(&import, &[("forward", "")]);
}

#[test]
fn a_rule_for_guests_that_names_the_address_is_the_hairpin() {
    let rules = "-A PREROUTING -i eth0 -p tcp --dport 80 -j DNAT --to-destination 10.0.0.2\n\
                 -A PREROUTING -s 10.0.0.0/24 -d 192.0.2.10/32 -i br0 -p tcp --dport 80 -j DNAT \
                 --to-destination 10.0.0.2\n\
                 -A POSTROUTING -s 10.0.0.0/24 -d 10.0.0.2/32 -p tcp --dport 80 -j SNAT \
                 --to-source 10.0.0.1\n";
    assert_values(&usual(rules), &[("forward.0.hairpin", "true")]);
    let other = rules.replace("192.0.2.10/32", "192.0.2.11/32");
    assert_values(&usual(&other), &[("forward.0.hairpin", "false")]);
}

#[test]
fn a_table_that_could_not_be_printed_makes_the_import_incomplete() {
    let import = file("# Table `nat' is incompatible, use 'nft' tool.\n*nat\nCOMMIT\n");
    assert!(!import.is_complete());
    assert_says(&import, Kind::Untranslated, 1, "nft");
}

const OUT: &str = "iptables -t nat -A POSTROUTING -s 10.1.0.0/24 -o eth0 -j MASQUERADE";

fn to_guest(port: &str) -> String {
    format!("iptables -t nat -A PREROUTING -i eth0 -p tcp --dport {port} -j DNAT --to 10.1.0.2")
}

#[test]
fn functions_that_stop_are_left_out_however_they_are_written() {
    let stop = format!("iptables -t nat -F\n{}\nexit 0", OUT.replace("-A", "-D"));
    for [open, close] in [
        ["NAME() {", "}"],
        ["NAME(){", "}"],
        ["NAME () {", "}"],
        ["NAME()\n{", "}"],
        ["NAME ()\n{", "}"],
        ["function NAME {", "}"],
        ["function NAME() {", "}"],
        ["function NAME\n{", "}"],
    ] {
        let function = |name: &str, body: &str| {
            let open = open.replace("NAME", name);
            format!("{open}\n{body}\n{close}\n")
        };
        let import = file(&format!(
            "#!/bin/sh\n{}{}{}{}\ncase \"$1\" in\nstart) start ;;\nstop) stop ;;\n*) usage ;;\n\
             esac\nexit 0\n",
            function("flush_rules", "iptables -t nat -F\nexit 1"),
            function("start", OUT),
            function("stop", &stop),
            to_guest("80"),
        ));
        assert_complete(&import);
        assert_values(
            &import,
            &[("snat.0.to", "masquerade"), ("forward.0.ports", "80")],
        );
    }
}

#[test]
fn rules_are_not_taken_away_under_a_condition() {
    let import = file(&format!(
        "{OUT}\ncase \"$1\" in\nstop|restart)\niptables -t nat -F\n;;\nesac\n\
         [ -n \"$2\" ] && {}\n",
        OUT.replace("-A", "-D")
    ));
    assert_complete(&import);
    assert_values(&import, &[("snat.0.to", "masquerade")]);
    assert_says(&import, Kind::Note, 4, "under a condition");
}

#[test]
fn a_script_that_ends_only_where_a_tool_is_missing_goes_on() {
    for test in ["[ -x /sbin/iptables ]", "test -x /sbin/iptables"] {
        let import = file(&format!("{test} || exit 0\n{OUT}\n"));
        assert_complete(&import);
        assert_values(&import, &[("snat.0.to", "masquerade")]);
    }
}

#[test]
fn a_variable_with_values_that_are_not_known_is_named() {
    for script in [
        format!("p=22\nfor p in 80 443; do\n{}\ndone", to_guest("$p")),
        format!("p=22\nwhile read -r p; do\n{}\ndone < list", to_guest("$p")),
        format!("p=22\np+=3\n{}", to_guest("$p")),
        format!("p=(80 443)\n{}", to_guest("$p")),
        format!("p=22\nunset p\n{}", to_guest("$p")),
        format!("p=$(cat port)\n{}", to_guest("${p:-80}")),
        format!("p=80\n[ -f x ] && p=81\n{}", to_guest("$p")),
        format!("if [ -f x ]; then p=80; else p=81; fi\n{}", to_guest("$p")),
        format!(
            "case $1 in\na) p=1;;\nb) p=2;;\nc) p=3;;\nesac\n{}",
            to_guest("$p")
        ),
    ] {
        let import = file(&format!("{OUT}\n{script}\n"));
        assert_values(&import, &[("forward", "")]);
        let said = said(&import, Kind::Untranslated);
        assert!(
            said.iter()
                .any(|line| line.contains("{p") || line.contains("$p")),
            "{script}"
        );
    }
    let import = file(&format!(
        "stop() {{\np=81\n}}\np=80\n{OUT}\n{}\n",
        to_guest("$p")
    ));
    assert_complete(&import);
    assert_values(&import, &[("forward.0.ports", "80")]);
}

#[test]
fn a_line_that_holds_nat_for_other_programs_makes_the_import_incomplete() {
    for line in [
        "$IPT -t nat -A PREROUTING -i eth0 -p tcp --dport 80 -j DNAT --to 10.1.0.2",
        "$IPT -A prerouting_rule -p tcp --dport 80 -j DNAT --to 10.1.0.2",
        "firewall-cmd --permanent --zone=public --add-masquerade",
        "firewall-cmd --zone=public --add-forward-port=port=80:proto=tcp:toaddr=10.1.0.2",
        "firewall-cmd --direct --add-rule ipv4 nat POSTROUTING 0 -o eth0 -j MASQUERADE",
        "nft -f /etc/nftables.conf",
        "nft -f - <<EOF\ntable ip nat { }\nEOF",
        "netfilter-persistent reload",
        "cat >> /etc/ufw/before.rules <<EOF\n*nat\n-A POSTROUTING -o eth0 -j MASQUERADE\nEOF",
        "echo \"-A POSTROUTING -o eth0 -j MASQUERADE\" >> /etc/iptables/rules.v4",
        "sh -c 'iptables -t nat -A POSTROUTING -o eth1 -j MASQUERADE'",
        "(iptables -t nat -A POSTROUTING -o eth1 -j MASQUERADE)",
        "- [ iptables, -t, nat, -A, POSTROUTING, -j, MASQUERADE ]",
        "if [ -f x ]; then true; else iptables -t nat -A POSTROUTING -o eth1 -j MASQUERADE; fi",
        "stop_scans() {\niptables -t nat -A PREROUTING -i eth0 -p tcp -j DNAT --to 10.1.0.9\n}",
    ] {
        let import = file(&format!("{OUT}\n{line}\n"));
        assert!(!import.is_complete(), "{line}");
        assert!(!said(&import, Kind::Untranslated).is_empty(), "{line}");
    }
    for line in [
        "echo \"Setting up NAT with iptables\"",
        "cat <<EOF\nThis sets up NAT with iptables.\nEOF",
        "ip netns exec guest iptables-restore <<EOF\n*nat\n-A POSTROUTING -j MASQUERADE\nEOF",
        "netfilter-persistent save",
        ": \"${WAN:=eth0}\"",
    ] {
        assert_complete(&file(&format!("{OUT}\n{line}\n")));
    }
}

#[test]
fn a_chain_that_another_program_makes_is_named() {
    for chain in ["prerouting_wan_rule", "DOCKER"] {
        let rule = to_guest("80").replace("PREROUTING", chain);
        let import = file(&format!("{OUT}\n{rule}\n"));
        assert_says(&import, Kind::Untranslated, 2, chain);
        assert_values(&import, &[("forward", "")]);
        let made = file(&format!("{OUT}\niptables -t nat -N {chain}\n{rule}\n"));
        assert_complete(&made);
        assert_says(&made, Kind::Warning, 3, "to which no rule jumps");
    }
}

#[test]
fn a_file_that_an_editor_of_windows_has_saved_is_read() {
    let import = file(&format!("\u{feff}*nat\r\n{}\r\nCOMMIT\r\n", &OUT[16..]));
    assert_complete(&import);
    assert_values(&import, &[("snat.0.to", "masquerade")]);
}

#[test]
fn files_that_a_script_takes_in_are_named() {
    for line in [
        "source /etc/network/interfaces.d/*",
        ". /etc/default/nat",
        "/usr/local/sbin/nat.sh start",
    ] {
        let import = file(&format!("{line}\n{OUT}\n"));
        assert_complete(&import);
        assert_says(&import, Kind::Note, 1, "import it as well");
    }
}
