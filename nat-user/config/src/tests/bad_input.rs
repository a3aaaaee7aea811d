//! One mistake each, with the complete message.

use super::{BASE, forward, guest, nat, refusal, refusal_of, snat, warnings};

/// The refusal of a forward of tcp with these lines; the first of them is line 13.
fn forward_with(lines: &str) -> String {
    refusal_of(&forward("web", &format!("protocol = \"tcp\"\n{lines}")))
}

/// The refusal of an uplink with this line, which is line 3.
fn uplink_with(line: &str) -> String {
    refusal(&format!("[uplink.wan]\ninterface = \"vmbr0\"\n{line}\n"))
}

/// The refusal of a second network with these lines; the first of them is line 9.
fn network_with(lines: &str) -> String {
    refusal_of(&format!("[network.dmz]\n{lines}\n"))
}

/// The refusal of a rule out of the network with this line, which is line 13.
fn snat_with(line: &str) -> String {
    refusal_of(&snat(
        "out",
        &format!("network = \"lan\"\nto = \"masquerade\"\n{line}"),
    ))
}

#[test]
fn unknown_key() {
    assert_eq!(
        network_with("interface = \"a\"\nadress = \"10.0.0.1/8\""),
        "n.toml:10:1: network.dmz.adress: unknown key `adress`; did you mean `address`?"
    );
    assert_eq!(
        uplink_with("gateway = \"19.19.8.1\""),
        "n.toml:3:1: uplink.wan.gateway: unknown key `gateway`; \
         the keys here are `interface`, `addresses`, `mode`, `keep`, `mss_clamp`, `claim`"
    );
    assert_eq!(
        snat_with("netwrok = \"lan\""),
        "n.toml:13:1: snat.out.netwrok: unknown key `netwrok`; did you mean `network`?"
    );
}

#[test]
fn unknown_table() {
    assert_eq!(
        refusal("[uplinks.wan]\ninterface = \"a\"\n"),
        "n.toml:1:2: uplinks: unknown key `uplinks`; did you mean `uplink`?"
    );
    assert_eq!(
        refusal_of("[[dnat]]\n"),
        "n.toml:8:3: dnat: unknown key `dnat`; did you mean `snat`?"
    );
    assert_eq!(
        refusal_of("[dhcp]\n"),
        "n.toml:8:2: dhcp: unknown key `dhcp`; \
         the keys here are `forwarding`, `template`, `uplink`, `network`, `guest`, `route`, \
         `snat`, \
         `forward`, `nat`, `nat64`, `policy`, `limits`, `timeouts`"
    );
}

#[test]
fn access_of_the_host_without_ports() {
    assert_eq!(
        refusal_of(&forward("web", "protocol = \"icmp\"\nlocal = true")),
        "n.toml:13:9: forward.web.local: local access works only for tcp and udp; leave local out, \
         or write protocol = \"tcp\" or \"udp\""
    );
}

#[test]
fn wrong_type() {
    assert_eq!(
        refusal("[uplink.wan]\ninterface = 5\n"),
        "n.toml:2:13: uplink.wan.interface: must be a string, not an integer; write interface = \
         \"vmbr0\""
    );
    assert_eq!(
        uplink_with("addresses = [\"19.19.8.10\", 5]"),
        "n.toml:3:28: uplink.wan.addresses: must be a string, not an integer; write addresses = \
         [\"192.0.2.10\"]"
    );
    assert_eq!(
        forward_with("hairpin = \"yes\""),
        "n.toml:13:11: forward.web.hairpin: must be true or false, not a string; write hairpin = \
         true"
    );
    assert_eq!(
        forward_with("ports = 80.5"),
        "n.toml:13:9: forward.web.ports: must be a port or a range of ports, not a float; write \
         ports = \"10000-10999\""
    );
    assert_eq!(
        refusal_of("[timeouts]\nudp = \"5 min\"\n"),
        "n.toml:9:7: timeouts.udp: must be an integer, not a string; write udp = 300"
    );
}

#[test]
fn wrong_kind_of_table() {
    assert_eq!(
        refusal_of("[forward]\nname = \"web\"\n"),
        "n.toml:8:1: forward: must be [[forward]], not a table; begin it with a line [[forward]]"
    );
    assert_eq!(
        refusal("[[uplink]]\ninterface = \"a\"\n"),
        "n.toml:1:1: uplink: must be [uplink.NAME], not a list; begin it with a line [uplink.NAME]"
    );
    assert_eq!(
        refusal("[uplink]\ninterface = \"a\"\n"),
        "n.toml:2:13: uplink.interface: must be [uplink.NAME], not a string; begin it with a line \
         [uplink.NAME]"
    );
    assert_eq!(
        refusal(&format!("limits = 5\n{BASE}")),
        "n.toml:1:10: limits: must be [limits], not an integer; begin it with a line [limits]"
    );
}

#[test]
fn missing_key() {
    assert_eq!(
        refusal("\n[uplink.wan]\n"),
        "n.toml:2:1: uplink.wan.interface: is missing; write interface = \"vmbr0\""
    );
    assert_eq!(
        refusal_of("[[forward]]\nuplink = \"wan\"\nto = \"172.22.161.170\"\n"),
        "n.toml:8:1: forward.forward-1.protocol: is missing; write protocol = \"tcp\""
    );
    assert_eq!(
        refusal_of(&snat("out", "network = \"lan\"")),
        "n.toml:8:1: snat.out.to: is missing; write to = \"masquerade\""
    );
}

#[test]
fn network_without_address() {
    assert_eq!(
        network_with("interface = \"vmbr2\""),
        "n.toml:8:1: network.dmz.address: is missing; write address = \"172.22.161.254/24\""
    );
}

#[test]
fn no_uplink() {
    assert_eq!(
        refusal("[network.lan]\ninterface = \"vmbr1\"\naddress = \"10.0.0.1/8\"\n"),
        "n.toml:4:1: uplink: there is no uplink; \
         add [uplink.NAME] with interface = \"vmbr0\", for example"
    );
}

#[test]
fn bad_interface_name() {
    let with = |name: &str| refusal(&format!("[uplink.wan]\ninterface = \"{name}\"\n"));
    let expected = |problem: &str| {
        format!("n.toml:2:13: uplink.wan.interface: {problem}; write a name as `ip link` shows it")
    };
    assert_eq!(with(""), expected("\"\" is not the name of an interface"));
    assert_eq!(with(".."), expected("`..` is not the name of an interface"));
    assert_eq!(
        with("a b"),
        expected("`a b` holds ' ', which the name of an interface cannot contain")
    );
    assert_eq!(
        with("a/b"),
        expected("`a/b` holds '/', which the name of an interface cannot contain")
    );
    assert_eq!(
        with("eth0:1"),
        expected("`eth0:1` holds ':', which the name of an interface cannot contain")
    );
    assert_eq!(
        with("vmbr0123456789ab"),
        expected("`vmbr0123456789ab` has 16 bytes, but the name of an interface has at most 15")
    );
}

#[test]
fn bad_address() {
    let expected = |problem: &str, remedy: &str| {
        format!("n.toml:3:13: uplink.wan.addresses: {problem}; {remedy}")
    };
    assert_eq!(
        uplink_with("addresses = \"19.19.8.300\""),
        expected(
            "`19.19.8.300` is not an IPv4 address",
            "write four numbers from 0 to 255, as in \"192.0.2.10\""
        )
    );
    assert_eq!(
        refusal_of(
            "[network.lan.dhcp]\nrange = \"172.22.161.10-172.22.161.99\"\n\
             gateway = \"2001:db8::1\"\n"
        ),
        "n.toml:10:11: network.lan.dhcp.gateway: `2001:db8::1` is an IPv6 address; write an IPv4 \
         address here"
    );
    assert_eq!(
        uplink_with("addresses = \"19.19.8.10/24\""),
        expected(
            "`19.19.8.10/24` has a prefix length",
            "write the address alone: \"19.19.8.10\""
        )
    );
}

#[test]
fn address_that_no_host_can_have() {
    for (address, what) in [
        ("0.0.0.0", "is not the address of a host"),
        ("127.0.0.1", "is a loopback address"),
        ("224.0.0.1", "is a multicast address"),
        ("255.255.255.255", "is the broadcast address"),
    ] {
        let lines = forward("web", "protocol = \"icmp\"").replace("172.22.161.170", address);
        let problem = format!("n.toml:11:6: forward.web.to: {address} {what}; ");
        assert_eq!(
            refusal_of(&lines),
            problem + "write an address that one host can have"
        );
    }
}

#[test]
fn bad_prefix() {
    let with = |address: &str| network_with(&format!("interface = \"a\"\naddress = \"{address}\""));
    let expected = |problem: &str| format!("n.toml:10:11: network.dmz.address: {problem}");
    assert_eq!(
        with("10.0.0.1"),
        expected("`10.0.0.1` has no prefix length; write, for example, \"10.0.0.1/24\"")
    );
    assert_eq!(
        with("10.0.0.1/33"),
        expected("`33` is not a prefix length; write a length from 0 to 32, as in \"10.0.0.1/24\"")
    );
    assert_eq!(
        with("10.0.0.1/+8"),
        expected("`+8` is not a prefix length; write a length from 0 to 32, as in \"10.0.0.1/24\"")
    );
    assert_eq!(
        with("10.0.0.1/0"),
        expected("`10.0.0.1/0` makes every address an inside one; write a length from 1 to 32")
    );
    assert_eq!(
        snat_with("exclude = [\"10.0.0.0/8\", \"192.168.0.1/16\"]"),
        "n.toml:13:26: snat.out.exclude: `192.168.0.1/16` has bits set beyond its prefix length; \
         write \"192.168.0.0/16\""
    );
}

#[test]
fn address_of_the_network_or_its_broadcast_address() {
    let with = |address: &str| network_with(&format!("interface = \"a\"\naddress = \"{address}\""));
    let remedy = "write an address from 10.0.0.1 to 10.0.0.2";
    assert_eq!(
        with("10.0.0.0/30"),
        format!(
            "n.toml:10:11: network.dmz.address: \
             10.0.0.0 is the network's own address in 10.0.0.0/30; {remedy}"
        )
    );
    assert_eq!(
        with("10.0.0.3/30"),
        format!(
            "n.toml:10:11: network.dmz.address: \
             10.0.0.3 is the broadcast address in 10.0.0.0/30; {remedy}"
        )
    );
}

#[test]
fn forward_to_no_host_of_its_network() {
    let lines = forward("web", "protocol = \"icmp\"").replace("161.170", "161.255");
    assert_eq!(
        refusal_of(&lines),
        "n.toml:11:6: forward.web.to: 172.22.161.255 is the broadcast address in network `lan`; \
         write an address from 172.22.161.1 to 172.22.161.254"
    );
}

#[test]
fn overlapping_networks() {
    assert_eq!(
        network_with("interface = \"vmbr2\"\naddress = \"172.22.0.1/16\""),
        "n.toml:10:11: network.dmz.address: 172.22.0.0/16 overlaps 172.22.161.0/24 of network \
         `lan` (line 4); give each network its own prefix"
    );
}

#[test]
fn interface_with_two_roles() {
    let remedy = "an interface has only one role; name another interface here";
    assert_eq!(
        network_with("interface = \"vmbr0\"\naddress = \"10.0.0.1/8\""),
        format!(
            "n.toml:9:13: network.dmz.interface: \
             `vmbr0` is the interface of uplink `wan` already (line 2); {remedy}"
        )
    );
    assert_eq!(
        network_with("interface = \"vmbr1\"\naddress = \"10.0.0.1/8\""),
        format!(
            "n.toml:9:13: network.dmz.interface: \
             `vmbr1` is the interface of network `lan` already (line 5); {remedy}"
        )
    );
    assert_eq!(
        network_with("interface = \"a\"\naddress = \"10.0.0.1/8\"\nports = [\"b\", \"b\"]"),
        format!(
            "n.toml:11:15: network.dmz.ports: \
             `b` is a port of network `dmz` already (line 11); {remedy}"
        )
    );
    assert_eq!(
        refusal_of("[uplink.lte]\ninterface = \"vmbr0\"\n"),
        format!(
            "n.toml:9:13: uplink.lte.interface: \
             `vmbr0` is the interface of uplink `wan` already (line 2); {remedy}"
        )
    );
}

#[test]
fn name_used_twice() {
    let remedy = "give each rule its own name (a rule without one is named by its position)";
    let lines = "protocol = \"tcp\"\nports = 80";
    let twice = forward("web", lines) + &forward("web", &lines.replace("80", "81"));
    assert_eq!(
        refusal_of(&twice),
        format!(
            "n.toml:15:8: forward.web.name: another rule has the name `web` (line 8); {remedy}"
        )
    );
    let taken = forward("forward-2", lines) + "[[forward]]\n";
    assert_eq!(
        refusal_of(&taken),
        format!(
            "n.toml:9:8: forward.forward-2.name: another rule has the name `forward-2` (line 14); \
             {remedy}"
        )
    );
}

#[test]
fn name_that_cannot_be_shown() {
    let remedy = "write 1 to 64 visible characters";
    assert_eq!(
        refusal_of(&forward("", "protocol = \"tcp\"")),
        format!("n.toml:9:8: forward.forward-1.name: the name \"\" is empty; {remedy}")
    );
    assert_eq!(
        refusal("[uplink.\"a\\nb\"]\ninterface = \"a\"\n"),
        format!(
            "n.toml:1:9: uplink.\"a\\nb\": the name `a\\nb` contains a control character; {remedy}"
        )
    );
    let long = "x".repeat(65);
    let shown = "x".repeat(64);
    assert_eq!(
        refusal_of(&forward(&long, "protocol = \"tcp\"")),
        format!(
            "n.toml:9:8: forward.forward-1.name: \
             the name `{shown}…` is longer than 64 characters; {remedy}"
        )
    );
}

#[test]
fn uplink_or_network_that_does_not_exist() {
    let lines = snat("out", "network = \"lam\"\nto = \"masquerade\"");
    assert_eq!(
        refusal_of(&lines),
        "n.toml:11:11: snat.out.network: there is no network `lam`; did you mean `lan`?"
    );
    let other = lines
        .replace("\"lam\"", "\"lan\"")
        .replace("\"wan\"", "\"dsl\"");
    assert_eq!(
        refusal_of(&other),
        "n.toml:10:10: snat.out.uplink: there is no uplink `dsl`; the only uplink is `wan`"
    );
    let more = "[uplink.lte]\ninterface = \"wwan0\"\n";
    assert_eq!(
        refusal_of(&format!("{other}{more}")),
        "n.toml:10:10: snat.out.uplink: there is no uplink `dsl`; the uplinks are `wan`, `lte`"
    );
    let near = other.replace("\"dsl\"", "\"ltw\"");
    assert_eq!(
        refusal_of(&format!("{near}{more}")),
        "n.toml:10:10: snat.out.uplink: there is no uplink `ltw`; \
         did you mean `lte`? there are `wan`, `lte`"
    );
    assert_eq!(
        refusal(&format!("[uplink.wan]\ninterface = \"a\"\n{lines}")),
        "n.toml:6:11: snat.out.network: there is no network `lam`; \
         there is none at all, so add [network.NAME]"
    );
}

#[test]
fn neither_network_nor_source() {
    assert_eq!(
        refusal_of(&snat("out", "to = \"masquerade\"")),
        "n.toml:8:1: snat.out.network: is missing, and so is source; \
         write network = \"NAME\" or source = \"PREFIX\""
    );
    assert_eq!(
        refusal_of(&snat("out", "to = \"masquerade\"\nsuorce = \"10.0.0.0/8\"")),
        "n.toml:12:1: snat.out.suorce: unknown key `suorce`; did you mean `source`?"
    );
}

#[test]
fn both_network_and_source() {
    assert_eq!(
        snat_with("source = \"172.22.161.0/24\""),
        "n.toml:13:10: snat.out.source: cannot be combined with network; keep one of the two"
    );
}

#[test]
fn inverted_pool() {
    assert_eq!(
        refusal_of(&snat(
            "out",
            "network = \"lan\"\nto = \"19.19.8.13-19.19.8.10\""
        )),
        "n.toml:12:6: snat.out.to: the pool 19.19.8.13-19.19.8.10 is inverted; \
         write \"19.19.8.10-19.19.8.13\""
    );
}

#[test]
fn pool_that_is_too_large() {
    assert_eq!(
        refusal_of(&snat(
            "out",
            "network = \"lan\"\nto = \"10.0.0.0-10.1.0.0\""
        )),
        "n.toml:12:6: snat.out.to: the pool 10.0.0.0-10.1.0.0 holds 65537 addresses; \
         a pool holds at most 65536"
    );
}

#[test]
fn snat_target_that_is_no_address() {
    assert_eq!(
        refusal_of(&snat("out", "network = \"lan\"\nto = \"wan\"")),
        "n.toml:12:6: snat.out.to: `wan` is not an address; \
         write \"masquerade\", an address or a pool such as \"192.0.2.10-192.0.2.13\""
    );
}

#[test]
fn unknown_word() {
    assert_eq!(
        uplink_with("mode = \"xpd\""),
        "n.toml:3:8: uplink.wan.mode: unknown value `xpd`; did you mean \"xdp\"?"
    );
    assert_eq!(
        snat_with("filtering = \"none\""),
        "n.toml:13:13: snat.out.filtering: unknown value `none`; write one of \
         \"endpoint-independent\", \"address-dependent\", \"address-and-port-dependent\""
    );
    assert_eq!(
        refusal_of(&forward("web", "protocol = \"sctp\"")),
        "n.toml:12:12: forward.web.protocol: unknown value `sctp`; write one of \"tcp\", \"udp\", \
         \"icmp\", \"all\""
    );
}

#[test]
fn port_out_of_range() {
    for port in ["0", "65536", "-1", "99999999999999999999"] {
        let expected = format!("`{port}` is not a port; a port is a number from 1 to 65535");
        assert_eq!(
            forward_with(&format!("ports = {port}")),
            format!("n.toml:13:9: forward.web.ports: {expected}")
        );
    }
    assert_eq!(
        forward_with("ports = [80, \"0-10\"]"),
        "n.toml:13:14: forward.web.ports: `0` is not a port; a port is a number from 1 to 65535"
    );
    assert_eq!(
        forward_with("ports = 80\nto_ports = 70000"),
        "n.toml:14:12: forward.web.to_ports: `70000` is not a port; a port is a number from 1 to \
         65535"
    );
}

#[test]
fn port_that_is_no_number() {
    for port in ["http", "80:90", "80,90", "80-", "", "１２"] {
        let shown = match port {
            "80-" | "" => "\"\"".to_owned(),
            _ => format!("`{port}`"),
        };
        assert_eq!(
            forward_with(&format!("ports = \"{port}\"")),
            format!(
                "n.toml:13:9: forward.web.ports: {shown} is not a port; \
                 write a port such as 80 or a range such as \"10000-10999\""
            )
        );
    }
}

#[test]
fn inverted_range() {
    assert_eq!(
        forward_with("ports = \"10999-10000\""),
        "n.toml:13:9: forward.web.ports: the range 10999-10000 is inverted; \
         write \"10000-10999\""
    );
    assert_eq!(
        snat_with("ports = \"65535-1024\""),
        "n.toml:13:9: snat.out.ports: the range 65535-1024 is inverted; write \"1024-65535\""
    );
}

#[test]
fn ranges_of_unequal_size() {
    assert_eq!(
        forward_with("ports = \"10000-10999\"\nto_ports = \"20000-20998\""),
        "n.toml:14:12: forward.web.to_ports: 20000-20998 holds 999 ports, but 10000-10999 of \
         ports holds 1000; write \"20000-20999\", or one port"
    );
    assert_eq!(
        forward_with("ports = [80, \"90-99\"]\nto_ports = [80, \"65530-65535\"]"),
        "n.toml:14:17: forward.web.to_ports: 65530-65535 holds 6 ports, but 90-99 of ports holds \
         10; write a range of 10 ports, or one port"
    );
}

#[test]
fn lists_of_unequal_length() {
    assert_eq!(
        forward_with("ports = [80, 90]\nto_ports = [1, 2, 3]"),
        "n.toml:14:12: forward.web.to_ports: has 3 items, but ports has 2; write one item for each \
         item of ports, or one port for all"
    );
}

#[test]
fn ranges_of_one_list_that_overlap() {
    assert_eq!(
        forward_with("ports = [\"443\", \"70-90\", 80]"),
        "n.toml:13:26: forward.web.ports: 80 overlaps 70-90 in the same list; write each port once"
    );
}

#[test]
fn empty_list() {
    assert_eq!(
        forward_with("ports = []"),
        "n.toml:13:9: forward.web.ports: is an empty list; \
         write ports = \"10000-10999\", or leave it out"
    );
    assert_eq!(
        uplink_with("addresses = []"),
        "n.toml:3:13: uplink.wan.addresses: is an empty list; \
         write addresses = [\"192.0.2.10\"], or leave it out"
    );
}

#[test]
fn item_that_is_there_twice() {
    assert_eq!(
        uplink_with("addresses = [\"19.19.8.10\", \"19.19.8.10\"]"),
        "n.toml:3:28: uplink.wan.addresses: `19.19.8.10` is in the list twice; write it once"
    );
    assert_eq!(
        refusal_of(&forward("web", "protocol = [\"tcp\", \"tcp\"]")),
        "n.toml:12:20: forward.web.protocol: `tcp` is in the list twice; write it once"
    );
}

#[test]
fn list_of_ranges_for_snat() {
    assert_eq!(
        snat_with("ports = [\"1024-2047\", \"4096-8191\"]"),
        "n.toml:13:9: snat.out.ports: is a list; write one range, as in ports = \"1024-65535\""
    );
}

#[test]
fn ports_of_a_protocol_without_ports() {
    for protocol in ["\"icmp\"", "\"all\""] {
        assert_eq!(
            refusal_of(&forward(
                "web",
                &format!("protocol = {protocol}\nports = 80")
            )),
            "n.toml:13:9: forward.web.ports: protocols without tcp and udp have no ports; \
             leave ports out, or write protocol = \"tcp\" or \"udp\""
        );
    }
}

#[test]
fn target_ports_without_ports() {
    assert_eq!(
        forward_with("to_ports = 80"),
        "n.toml:13:12: forward.web.to_ports: needs ports beside it; add ports = 80, for example"
    );
    assert_eq!(
        forward_with("prots = 80\nto_ports = 80"),
        "n.toml:13:1: forward.web.prots: unknown key `prots`; did you mean `ports`?"
    );
}

#[test]
fn all_beside_other_protocols() {
    assert_eq!(
        refusal_of(&forward("web", "protocol = [\"tcp\", \"all\"]")),
        "n.toml:12:12: forward.web.protocol: `all` already includes the other protocols; write \
         \"all\" alone"
    );
}

#[test]
fn two_forwards_of_one_port() {
    let two =
        |first: &str, second: &str| refusal_of(&(forward("a", first) + &forward("b", second)));
    let remedy = "remove one of the two, or make them different";
    assert_eq!(
        two(
            "protocol = \"tcp\"\nports = 80",
            "protocol = \"tcp\"\nports = 80"
        ),
        format!(
            "n.toml:19:9: forward.b.ports: `a` already forwards tcp port 80 of uplink `wan` (line \
             8); {remedy}"
        )
    );
    // Of two protocols one, and of all addresses one.
    let one = "protocol = \"udp\"\nports = \"80-90\"\naddress = \"19.19.8.10\"";
    assert_eq!(
        two("protocol = [\"tcp\", \"udp\"]\nports = \"80-90\"", one),
        format!(
            "n.toml:19:9: forward.b.ports: `a` already forwards udp ports 80-90 of 19.19.8.10 \
             (line 8); {remedy}"
        )
    );
    assert_eq!(
        two(
            "protocol = \"tcp\"\nports = [80, 443]",
            "protocol = \"tcp\"\nports = [443, \"80\"]"
        ),
        format!(
            "n.toml:19:9: forward.b.ports: `a` already forwards each of these tcp ports of uplink \
             `wan` (line 8); {remedy}"
        )
    );
    assert_eq!(
        two("protocol = \"icmp\"", "protocol = \"icmp\""),
        format!(
            "n.toml:17:12: forward.b.protocol: `a` already forwards icmp of uplink `wan` (line 8); \
             {remedy}"
        )
    );
}

#[test]
fn nat_without_its_addresses() {
    assert_eq!(
        refusal_of("[[nat]]\nuplink = \"wan\"\nto = \"172.22.161.171\"\n"),
        "n.toml:8:1: nat.nat-1.address: is missing; write address = \"192.0.2.11\""
    );
    assert_eq!(
        refusal_of("[[nat]]\nuplink = \"wan\"\naddress = \"19.19.8.11\"\n"),
        "n.toml:8:1: nat.nat-1.to: is missing; write to = \"172.22.161.171\""
    );
    assert_eq!(
        refusal_of(&nat("mail", "19.19.8.11", "172.22.161.171").replace("address =", "adress =")),
        "n.toml:11:1: nat.mail.adress: unknown key `adress`; did you mean `address`?"
    );
}

#[test]
fn nat_that_is_not_one_to_one() {
    let first = nat("a", "19.19.8.11", "172.22.161.171");
    assert_eq!(
        refusal_of(&(first.clone() + &nat("b", "19.19.8.11", "172.22.161.172"))),
        "n.toml:16:11: nat.b.address: 19.19.8.11 already belongs to the guest of `a` (line 8); \
         give each guest its own address"
    );
    let second = nat("b", "19.19.8.12", "172.22.161.171");
    assert_eq!(
        refusal_of(&format!("{first}{second}")),
        "n.toml:17:6: nat.b.to: 172.22.161.171 already has an address of this uplink, from `a` \
         (line 8); remove one of the two; a [[forward]] with protocol = \"all\" adds an address"
    );
    let third = second.replace("b\"", "c\"").replace("8.12", "8.13");
    let line = refusal_of(&format!("{first}{second}{third}"));
    assert!(line.starts_with("n.toml:17:6: nat.b.to"), "{line}");
    // Another uplink is another matter.
    let lte = second.replace("\"wan\"", "\"lte\"") + "[uplink.lte]\ninterface = \"wwan0\"\n";
    super::config(&format!("{BASE}{first}{lte}"));
}

#[test]
fn nat_of_an_inside_address() {
    assert_eq!(
        refusal_of(&nat("mail", "172.22.161.11", "172.22.161.171")),
        "n.toml:11:11: nat.mail.address: 172.22.161.11 is an inside address, in network `lan`; \
         write the guest's external address"
    );
}

#[test]
fn nat_to_no_host_of_its_network() {
    assert_eq!(
        refusal_of(&nat("mail", "19.19.8.11", "172.22.161.0")),
        "n.toml:12:6: nat.mail.to: 172.22.161.0 is the network's own address in network `lan`; \
         write an address from 172.22.161.1 to 172.22.161.254"
    );
}

const MAC: &str = "52:54:00:12:34:56";

#[test]
fn guest_without_its_addresses() {
    assert_eq!(
        refusal_of("[[guest]]\nnetwork = \"lan\"\naddress = \"172.22.161.170\"\n"),
        "n.toml:8:1: guest.guest-1.mac: is missing; write mac = \"52:54:00:12:34:56\""
    );
    assert_eq!(
        refusal_of(&guest("web1", "172.22.161.170", MAC).replace("\"lan\"", "\"lam\"")),
        "n.toml:10:11: guest.web1.network: there is no network `lam`; did you mean `lan`?"
    );
}

#[test]
fn guest_that_is_not_in_its_network() {
    let with = |address: &str| refusal_of(&guest("web1", address, MAC));
    let expected = |problem: &str| {
        format!(
            "n.toml:11:11: guest.web1.address: {problem} in network `lan`; \
             write a guest's address in 172.22.161.0/24"
        )
    };
    assert_eq!(with("172.22.162.1"), expected("172.22.162.1 is not"));
    assert_eq!(
        with("172.22.161.254"),
        expected("172.22.161.254 is the host's own address")
    );
    assert_eq!(
        with("172.22.161.0"),
        expected("172.22.161.0 is the network's own address")
    );
    assert_eq!(
        with("172.22.161.255"),
        expected("172.22.161.255 is the broadcast address")
    );
}

#[test]
fn bad_mac() {
    let with = |mac: &str| refusal_of(&guest("web1", "172.22.161.170", mac));
    let remedy = "write six bytes as the guest's interface has them, as in \"52:54:00:12:34:56\"";
    for (mac, problem) in [
        ("52:54:00:12:34", "is not an Ethernet address"),
        ("52:54:00:12:34:56:78", "is not an Ethernet address"),
        ("52:54:00:12:34:56:x", "is not an Ethernet address"),
        ("525400123456", "is not an Ethernet address"),
        ("52-54-00-12-34-56", "is not an Ethernet address"),
        ("52:54:00:12:34:+6", "is not an Ethernet address"),
        ("01:00:5e:00:00:01", "is a multicast address"),
        ("FF:FF:FF:FF:FF:FF", "is a multicast address"),
        ("00:00:00:00:00:00", "is not the address of an interface"),
    ] {
        let expected = format!("n.toml:12:7: guest.web1.mac: `{mac}` {problem}; {remedy}");
        assert_eq!(with(mac), expected);
    }
}

#[test]
fn two_guests_with_one_address() {
    let first = guest("a", "172.22.161.170", MAC);
    assert_eq!(
        refusal_of(&format!(
            "{first}{}",
            guest("b", "172.22.161.170", "52:54:00:12:34:57")
        )),
        "n.toml:16:11: guest.b.address: guest `a` already has 172.22.161.170 (line 8); give each \
         guest its own"
    );
    let same_mac = guest("b", "172.22.161.171", "52:54:00:12:34:5A");
    let first = first.replace("56", "5a");
    assert_eq!(
        refusal_of(&format!("{first}{same_mac}")),
        "n.toml:17:7: guest.b.mac: guest `a` already has 52:54:00:12:34:5a (line 8); give each \
         guest its own"
    );
}

#[test]
fn target_that_is_no_guest() {
    let web = forward("web", "protocol = \"tcp\"").replace("172.22.161.170", "wbe1");
    assert_eq!(
        refusal_of(&web),
        "n.toml:11:6: forward.web.to: `wbe1` is not an address; \
         write one such as \"172.22.161.170\", or add a [[guest]] of that name"
    );
    let guests = guest("web1", "172.22.161.170", MAC);
    assert_eq!(
        refusal_of(&format!("{web}{guests}")),
        "n.toml:11:6: forward.web.to: there is no guest `wbe1`; did you mean `web1`?"
    );
    let mail = nat("mail", "19.19.8.11", "mial");
    let two = guests.clone() + &guest("mail", "172.22.161.171", "52:54:00:12:34:57");
    assert_eq!(
        refusal_of(&format!("{mail}{two}")),
        "n.toml:12:6: nat.mail.to: there is no guest `mial`; \
         did you mean `mail`? there are `web1`, `mail`"
    );
    let number = web.replace("wbe1", "172.22.161.370");
    let line = refusal_of(&format!("{number}{guests}"));
    assert!(
        line.contains("`172.22.161.370` is not an IPv4 address"),
        "{line}"
    );
}

#[test]
fn mistake_in_a_guest_of_a_rule_is_reported_once() {
    let text = format!(
        "{BASE}{}{}",
        guest("web1", "172.22.161.370", MAC),
        forward("web", "protocol = \"tcp\"").replace("172.22.161.170", "web1")
    );
    let error = super::parse(&text, std::path::Path::new("n.toml")).unwrap_err();
    assert_eq!(error.all().count(), 1, "{error}");
    assert!(
        error
            .to_string()
            .starts_with("n.toml:11:11: guest.web1.address: ")
    );
}

#[test]
fn bad_keep() {
    assert_eq!(
        uplink_with("keep = [22]"),
        "n.toml:3:9: uplink.wan.keep: must be a string, not an integer; write keep = [\"tcp/22\"]"
    );
    assert_eq!(
        uplink_with("keep = \"ssh\""),
        "n.toml:3:8: uplink.wan.keep: `ssh` is not a protocol and a port; \
         write \"tcp/PORT\" or \"udp/PORT\", as in \"tcp/22\""
    );
    assert_eq!(
        uplink_with("keep = \"tcp/0\""),
        "n.toml:3:8: uplink.wan.keep: `0` is not a port; a port is a number from 1 to 65535"
    );
}

#[test]
fn bad_mss_clamp() {
    let expected = |rest: &str| format!("n.toml:3:13: uplink.wan.mss_clamp: {rest}");
    for bytes in ["0", "87", "65496", "-1"] {
        assert_eq!(
            uplink_with(&format!("mss_clamp = {bytes}")),
            expected(&format!(
                "{bytes} is out of range; write a number from 88 to 65495"
            ))
        );
    }
    assert_eq!(
        uplink_with("mss_clamp = \"of\""),
        expected("unknown value `of`; did you mean \"off\"?")
    );
    assert_eq!(
        uplink_with("mss_clamp = \"none\""),
        expected("unknown value `none`; write one of \"auto\", \"off\"")
    );
    assert_eq!(
        uplink_with("mss_clamp = \"1452\""),
        expected("`1452` is a number in quotes; write mss_clamp = 1452")
    );
    assert_eq!(
        uplink_with("mss_clamp = true"),
        expected("must be an integer, not a boolean; write mss_clamp = 1452")
    );
}

#[test]
fn bad_claim() {
    assert_eq!(
        uplink_with("claim = \"ad\""),
        "n.toml:3:9: uplink.wan.claim: unknown value `ad`; did you mean \"add\"?"
    );
    let pool = |to: &str| {
        format!(
            "[uplink.wan]\ninterface = \"vmbr0\"\nclaim = \"add\"\n\
             [[snat]]\nsource = \"10.0.0.0/8\"\nuplink = \"wan\"\nto = \"{to}\"\n"
        )
    };
    assert_eq!(
        refusal(&pool("19.19.8.0-19.19.9.0")),
        "n.toml:7:6: snat.snat-1.to: uplink `wan` cannot add 257 addresses to vmbr0; write a pool \
         of at most 256, or claim = \"arp\" in the uplink"
    );
    assert!(warnings(&pool("19.19.8.1-19.19.9.0")).is_empty());
}

#[test]
fn sessions_out_of_range() {
    for sessions in ["0", "-1", "4194305", "99999999999999999999"] {
        assert_eq!(
            refusal_of(&format!("[limits]\nsessions = {sessions}\n")),
            format!(
                "n.toml:9:12: limits.sessions: {sessions} is out of range; \
                 write a number from 1 to 4194304"
            )
        );
    }
}

#[test]
fn limit_per_guest_out_of_range() {
    for key in ["sessions_per_guest", "ports_per_guest"] {
        let with = |value: &str| refusal_of(&format!("[limits]\n{key} = {value}\n"));
        let place = format!("n.toml:9:{}: limits.{key}", key.len() + 4);
        assert_eq!(
            with("0"),
            format!(
                "{place}: 0 would block every guest; write a number from 1 to 4194304, or leave it \
                 out"
            )
        );
        for value in ["-1", "4194305"] {
            let line = with(value);
            let expected = format!("{place}: {value} is out of range; ");
            assert!(line.starts_with(&expected), "{line}");
        }
    }
    assert_eq!(
        refusal_of("[limits]\nsession_per_guest = 5\n"),
        "n.toml:9:1: limits.session_per_guest: unknown key `session_per_guest`; \
         did you mean `sessions_per_guest`?"
    );
}

#[test]
fn timeout_out_of_range() {
    for seconds in ["0", "2147483649"] {
        assert_eq!(
            refusal_of(&format!("[timeouts]\ntcp_established = {seconds}\n")),
            format!(
                "n.toml:9:19: timeouts.tcp_established: {seconds} is out of range; \
                 write a number from 1 to 2147483648"
            )
        );
    }
}

#[test]
fn several_mistakes_display_the_first_and_keep_all() {
    let text = format!(
        "{BASE}[limits]\nsessions = 0\n{}",
        forward("web", "ports = 0")
    )
    .replace("\"vmbr0\"", "7");
    let error = super::parse(&text, std::path::Path::new("n.toml")).unwrap_err();
    let lines: Vec<_> = error.all().map(|one| one.position.unwrap().line).collect();
    assert_eq!(lines, [2, 9, 10, 14]);
    assert_eq!(&error.to_string(), &error.first().to_string());
}

#[test]
fn an_empty_list_for_a_required_key() {
    assert_eq!(
        refusal_of(&forward("web", "protocol = []")),
        "n.toml:12:12: forward.web.protocol: is an empty list; write protocol = \"tcp\""
    );
}

#[test]
fn limits_per_guest_begin_at_one() {
    for (value, said) in [
        (
            "0",
            "0 would block every guest; write a number from 1 to 4194304, or leave it out",
        ),
        ("-1", "-1 is out of range; write a number from 1 to 4194304"),
    ] {
        let refusal = refusal_of(&format!("[limits]\nports_per_guest = {value}\n"));
        assert!(refusal.ends_with(said), "{refusal}");
    }
}

#[test]
fn names_that_cannot_be_seen() {
    for invisible in [
        "\u{200b}", "\u{ad}", "\u{202e}", "\u{feff}", "\u{3164}", "\u{a0}",
    ] {
        let refusal = refusal_of(&forward(&format!("web{invisible}"), "protocol = \"tcp\""));
        assert!(
            refusal.contains("contains an invisible character"),
            "{refusal}"
        );
    }
    let refusal = refusal_of(&forward(" ", "protocol = \"tcp\""));
    assert!(
        refusal.contains("contains an invisible character"),
        "{refusal}"
    );
}
