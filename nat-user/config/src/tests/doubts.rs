//! Valid but probably unintended settings.

use super::{BASE, forward, load, nat, snat, warnings};

fn warnings_of(lines: &str) -> Vec<String> {
    warnings(&format!("{BASE}{lines}"))
}

#[test]
fn a_forward_behind_a_wider_range() {
    let wide = forward(
        "wide",
        "protocol = [\"tcp\", \"udp\"]\nports = \"8000-8999\"",
    );
    let narrow = forward(
        "narrow",
        "protocol = \"udp\"\nports = 8080\naddress = \"19.19.8.10\"",
    );
    assert_eq!(
        warnings_of(&format!("{wide}{narrow}")),
        [
            "n.toml:14:1: forward.narrow: can never match: shadowed by earlier rules, beginning \
          with `wide` (line 8); put it before them, or remove it"
        ]
    );
    assert!(warnings_of(&format!("{narrow}{wide}")).is_empty());
}

#[test]
fn a_forward_behind_several_that_take_it_together() {
    let lines = [
        forward("a", "protocol = \"tcp\"\nports = \"100-199\""),
        forward(
            "b",
            "protocol = \"tcp\"\nports = [\"200-249\", \"251-300\"]",
        ),
        forward(
            "c",
            "protocol = \"tcp\"\nports = 250\naddress = \"19.19.8.10\"",
        ),
        forward("d", "protocol = \"tcp\"\nports = \"150-260\""),
    ];
    // The uplink has only one address, so a port that is taken there is taken everywhere.
    assert_eq!(warnings_of(&lines.concat()).len(), 1);
    // With the interface's own addresses, only the overlap with the first rule is known.
    let unknown = BASE.replace("addresses", "#");
    let lines = warnings(&format!("{unknown}{}", lines.concat()));
    assert!(
        lines.len() == 1 && lines[0].contains("shares ports 150-199 with `a`"),
        "{lines:?}"
    );
}

#[test]
fn a_forward_that_overlaps_only_in_part() {
    let lines = [
        forward("a", "protocol = \"tcp\"\nports = \"100-199\""),
        forward("b", "protocol = \"tcp\"\nports = \"150-250\""),
        forward("c", "protocol = [\"tcp\", \"udp\"]\nports = \"100-199\""),
        forward("d", "protocol = \"icmp\""),
    ];
    let lines = warnings_of(&lines.concat());
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].contains(
            "forward.b.ports: shares ports 150-199 with `a`, which comes first and takes them; \
             neither range contains the other (line 8)"
        ),
        "{lines:?}"
    );
    // From the other side, and by a list; an exception that comes first is intended.
    let around = forward("around", "protocol = \"udp\"\nports = \"300-400\"");
    for (ports, count) in [
        ("\"250-300\"", 1),
        ("[80, \"390-500\"]", 1),
        ("\"250-500\"", 0),
    ] {
        let later = forward("later", &format!("protocol = \"udp\"\nports = {ports}"));
        assert_eq!(
            warnings_of(&format!("{around}{later}")).len(),
            count,
            "{ports}"
        );
    }
}

#[test]
fn a_forward_behind_all() {
    let all = forward("all", "protocol = \"all\"");
    let web = forward("web", "protocol = \"tcp\"\nports = 80");
    let ping = forward("ping", "protocol = \"icmp\"");
    let lines = warnings_of(&format!("{all}{web}{ping}"));
    assert!(
        lines[0].contains("forward.all.protocol: tcp port 22 stays"),
        "{lines:?}"
    );
    assert!(
        lines[1].contains("forward.web: can never match"),
        "{lines:?}"
    );
    assert!(
        lines[2].contains("forward.ping: can never match"),
        "{lines:?}"
    );
    assert!(warnings_of(&format!("{web}{ping}")).is_empty());
}

#[test]
fn ssh_that_a_range_does_not_take() {
    let expected = "stays with the host, although 1-1023 includes it; name port 22 by itself to \
                    forward it, or set uplink.wan.keep to the host's ports";
    let range = forward("low", "protocol = \"tcp\"\nports = \"1-1023\"");
    assert_eq!(
        warnings_of(&range),
        [format!(
            "n.toml:13:9: forward.low.ports: tcp port 22 {expected}"
        )]
    );
    // A rule that names it does take it, before or after: the range leaves it out.
    let named = forward("ssh", "protocol = \"tcp\"\nports = 22");
    assert!(warnings_of(&format!("{range}{named}")).is_empty());
    assert!(warnings_of(&format!("{named}{range}")).is_empty());
    // No warning if `keep` is set.
    let keep = BASE.replace("[network", "keep = []\n[network");
    assert!(warnings(&format!("{keep}{range}")).is_empty());
    // udp has no ssh.
    assert!(warnings_of(&range.replace("tcp", "udp")).is_empty());
}

#[test]
fn an_address_keeps_ssh_only_if_the_host_holds_it() {
    let rule = "protocol = \"tcp\"\nports = \"1-1023\"\naddress = \"19.19.8.10\"";
    let lines = warnings_of(&forward("low", rule));
    assert_eq!(lines.len(), 1, "{lines:?}");
    let expected = "tcp port 22 stays with the host where that holds 19.19.8.10, although";
    assert!(lines[0].contains(expected), "{lines:?}");
}

#[test]
fn ssh_that_all_does_not_take() {
    assert_eq!(
        warnings_of(&forward("all", "protocol = \"all\"")),
        [
            "n.toml:12:12: forward.all.protocol: tcp port 22 stays with the host, although `all` \
          includes it; name port 22 by itself to forward it, or set uplink.wan.keep to the host's \
          ports"
        ]
    );
}

#[test]
fn a_port_that_is_not_kept_is_shadowed_by_a_range() {
    let keep = BASE.replace("[network", "keep = [\"udp/53\"]\n[network");
    let range = forward("low", "protocol = [\"tcp\", \"udp\"]\nports = \"1-1023\"");
    let ssh = forward("ssh", "protocol = \"tcp\"\nports = 22");
    let dns = forward("dns", "protocol = \"udp\"\nports = 53");
    let lines = warnings(&format!("{keep}{range}{ssh}{dns}"));
    assert_eq!(lines.len(), 1);
    assert!(
        lines[0].contains("forward.ssh: can never match"),
        "{lines:?}"
    );
}

#[test]
fn a_target_outside_every_network() {
    let routed = forward("web", "protocol = \"tcp\"\nports = 80").replace("172.22", "172.23");
    assert_eq!(
        warnings_of(&routed),
        [
            "n.toml:11:6: forward.web.to: 172.23.161.170 is in no [network]; \
          write a guest's address, add a [[route]] for it, or ignore this if others route it"
        ]
    );
    // A rule about its prefix shows that it is a guest.
    let source = snat("routed", "source = \"172.23.0.0/16\"\nto = \"masquerade\"");
    assert!(warnings_of(&format!("{routed}{source}")).is_empty());
}

#[test]
fn a_target_that_is_the_host() {
    let lines = forward("web", "protocol = \"tcp\"\nports = 80").replace(".170", ".254");
    assert_eq!(
        warnings_of(&lines),
        [
            "n.toml:11:6: forward.web.to: 172.22.161.254 is the host's own address in network \
          `lan`; \
          write a guest's address"
        ]
    );
}

#[test]
fn an_external_address_that_the_uplink_does_not_have() {
    let web = forward(
        "web",
        "protocol = \"tcp\"\nports = 80\naddress = \"19.19.8.11\"",
    );
    assert_eq!(
        warnings_of(&web),
        [
            "n.toml:14:11: forward.web.address: 19.19.8.11 is not an address of uplink `wan`; \
          add it to the uplink's addresses, unless it is routed to the host"
        ]
    );
    let pool = snat("out", "network = \"lan\"\nto = \"19.19.8.11-19.19.8.14\"");
    assert!(warnings_of(&format!("{web}{pool}")).is_empty());
}

#[test]
fn a_nat_to_nowhere() {
    let routed = nat("mail", "19.19.8.11", "172.23.161.171");
    assert_eq!(
        warnings_of(&routed),
        [
            "n.toml:12:6: nat.mail.to: 172.23.161.171 is in no [network]; \
          write a guest's address, add a [[route]] for it, or ignore this if others route it"
        ]
    );
    let host = warnings_of(&nat("mail", "19.19.8.11", "172.22.161.254"));
    assert!(host[0].contains("is the host's own address"), "{host:?}");
}

#[test]
fn a_nat_of_an_address_that_others_leave_with() {
    let mail = nat("mail", "19.19.8.11", "172.22.161.171");
    let remedy = "write an address that only this guest uses";
    let pool = snat("out", "network = \"lan\"\nto = \"19.19.8.11-19.19.8.14\"");
    assert_eq!(
        warnings_of(&format!("{mail}{pool}")),
        [format!(
            "n.toml:11:11: nat.mail.address: snat `out` also uses 19.19.8.11, but has no port \
             there (line 13); {remedy}"
        )]
    );
    let masquerade = snat("out", "network = \"lan\"\nto = \"masquerade\"");
    let own = mail.replace("8.11", "8.10");
    let line = warnings_of(&format!("{own}{masquerade}"));
    assert!(
        line[0].contains("snat `out` also uses 19.19.8.10"),
        "{line:?}"
    );
    assert!(warnings_of(&format!("{mail}{masquerade}")).is_empty());
    let beside = pool.replace("8.11", "8.12");
    assert!(warnings_of(&format!("{mail}{beside}")).is_empty());
}

#[test]
fn a_forward_that_is_an_exception_from_a_nat() {
    let web = forward(
        "web",
        "protocol = \"tcp\"\nports = 80\naddress = \"19.19.8.11\"",
    );
    let mail = nat("mail", "19.19.8.11", "172.22.161.171");
    assert_eq!(warnings_of(&web).len(), 1);
    assert!(warnings_of(&format!("{web}{mail}")).is_empty());
}

#[test]
fn a_snat_rule_behind_one_that_takes_everything() {
    let network = snat("net", "network = \"lan\"\nto = \"masquerade\"");
    let prefix = snat("prefix", "source = \"172.22.0.0/16\"\nto = \"19.19.8.10\"");
    assert_eq!(
        warnings_of(&format!("{prefix}{network}")),
        [
            "n.toml:13:1: snat.net: can never match: shadowed by `prefix` (line 8); put it before \
          that rule, or remove it"
        ]
    );
    assert!(warnings_of(&format!("{network}{prefix}")).is_empty());
    let twice = format!("{network}{}", network.replace("net\"", "again\""));
    assert_eq!(warnings_of(&twice).len(), 1);
}

#[test]
fn a_snat_rule_behind_one_with_exclusions_may_match() {
    let first = snat(
        "a",
        "network = \"lan\"\nto = \"masquerade\"\nexclude = \"10.1.0.0/16\"",
    );
    let all = snat("b", "network = \"lan\"\nto = \"19.19.8.10\"");
    let less = snat(
        "b",
        "network = \"lan\"\nto = \"19.19.8.10\"\nexclude = \"10.0.0.0/8\"",
    );
    assert!(warnings_of(&format!("{first}{all}")).is_empty());
    assert_eq!(warnings_of(&format!("{first}{less}")).len(), 1);
}

#[test]
fn bridge_ports_without_create() {
    assert_eq!(
        warnings(&format!(
            "{}ports = \"tap1\"\n",
            BASE.trim_end().to_owned() + "\n"
        )),
        [
            "n.toml:7:9: network.lan.ports: has no effect, because natbpf attaches ports only to a \
          bridge that it creates; add create = true, or leave ports out"
        ]
    );
}

#[test]
fn timeouts_below_the_standards() {
    assert_eq!(
        warnings_of("[timeouts]\nudp = 119\nicmp = 59\nother = 1\nfragment = 1\n"),
        [
            "n.toml:9:7: timeouts.udp: 119 s is less than the 120 s of RFC 4787 REQ-5; \
             write 120 or more",
            "n.toml:10:8: timeouts.icmp: 59 s is less than the 60 s of RFC 5508 REQ-2; \
             write 60 or more",
        ]
    );
    assert!(warnings_of("[timeouts]\nudp = 120\n").is_empty());
}

#[test]
fn remarks_of_the_host_point_at_the_key() {
    let text = format!("{BASE}{}", forward("web", "protocol = \"tcp\"\nports = 80"));
    let source = load(&text).source;
    let line = |path: &[&str]| source.diagnostic(path, "no", "yes").to_string();
    assert_eq!(
        line(&["uplink", "wan", "interface"]),
        "n.toml:2:13: uplink.wan.interface: no; yes"
    );
    assert_eq!(
        line(&["network", "lan", "create"]),
        "n.toml:4:1: network.lan.create: no; yes"
    );
    assert_eq!(
        line(&["forward", "web", "to"]),
        "n.toml:11:6: forward.web.to: no; yes"
    );
    assert_eq!(
        line(&["forward", "gone", "to"]),
        "n.toml:8:1: forward.gone.to: no; yes"
    );
    let unnamed = load(&text.replace("name =", "#")).source;
    let line = unnamed.diagnostic(&["forward", "forward-1", "ports"], "no", "yes");
    assert_eq!(
        line.to_string(),
        "n.toml:13:9: forward.forward-1.ports: no; yes"
    );
}

#[test]
fn a_forward_that_names_all_ports_that_guests_leave_by() {
    let out = snat("out", "network = \"lan\"\nto = \"masquerade\"");
    let wide = forward("rest", "protocol = \"tcp\"\nports = \"1024-65535\"");
    assert_eq!(
        warnings_of(&format!("{out}{wide}")),
        [
            "n.toml:18:9: forward.rest.ports: takes every port that snat `out` could use on the \
          same address (line 8); leave ports out, so that guests share the remaining ports; or use \
          two different addresses"
        ]
    );
    for ports in ["ports = \"1024-65534\"", ""] {
        let some = forward("rest", &format!("protocol = \"udp\"\n{ports}"));
        assert!(warnings_of(&format!("{out}{some}")).is_empty(), "{ports}");
    }
    let other = snat("out", "network = \"lan\"\nto = \"19.19.8.11\"");
    let wide = forward(
        "rest",
        "protocol = \"tcp\"\nports = \"1-65535\"\naddress = \"19.19.8.10\"\nto_ports = \"1-65535\"",
    );
    let said = warnings_of(&format!("{other}{wide}")).join("\n");
    assert!(!said.contains("names every port"), "{said}");
}

#[test]
fn ssh_at_an_address_that_the_host_need_not_have() {
    let unknown = BASE.replace("addresses", "#");
    let all = |more: &str| {
        let rule = forward("all", &format!("protocol = \"all\"\n{more}"));
        warnings(&format!("{unknown}{rule}"))
    };
    let is_about_ssh = |warnings: &[String]| warnings.iter().any(|one| one.contains("port 22"));
    assert!(is_about_ssh(&all("")));
    assert!(!is_about_ssh(&all("address = \"19.19.8.77\"")));
}

#[test]
fn a_target_that_is_the_host_itself() {
    let lines =
        forward("web", "protocol = \"tcp\"\nports = 80").replace("172.22.161.170", "19.19.8.10");
    let said = warnings_of(&lines).concat();
    assert!(
        said.contains("19.19.8.10 is the host's own address, of uplink `wan`"),
        "{said}"
    );
    assert!(!said.contains("[[route]]"), "{said}");
}

#[test]
fn a_source_inside_of_a_network_that_has_a_rule() {
    let lines = snat("all", "network = \"lan\"\nto = \"masquerade\"")
        + &snat("one", "source = \"172.22.161.7\"\nto = \"19.19.8.10\"");
    let said = warnings_of(&lines).concat();
    assert!(
        said.contains("can never match: shadowed by `all`"),
        "{said}"
    );
}
