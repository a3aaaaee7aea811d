//! `[[route]]`.

use std::net::Ipv4Addr;

use super::{
    super::model::{NetworkId, Route, UplinkId},
    BASE, config, forward, nat, refusal, refusal_of, snat, warnings,
};

/// A `[[route]]` to the network of [`BASE`], in five lines.
fn route(name: &str, addresses: &str) -> String {
    format!("[[route]]\nname = \"{name}\"\nnetwork = \"lan\"\naddresses = {addresses}\n\n")
}

fn refusal_of_route(addresses: &str) -> String {
    refusal_of(&route("web", addresses))
}

fn warnings_of(lines: &str) -> Vec<String> {
    warnings(&format!("{BASE}{lines}"))
}

#[test]
fn a_route_needs_a_network_and_addresses_alone() {
    let text = "[[route]]\nnetwork = \"lan\"\naddresses = \"192.0.2.112\"\n";
    let expected = Route {
        name: "route-1".to_owned(),
        network: NetworkId(0),
        addresses: vec!["192.0.2.112/32".parse().unwrap()],
        addresses6: Vec::new(),
        uplink: UplinkId(0),
        gateway: None,
        proxy_arp: false,
        arp: false,
    };
    assert_eq!(config(&format!("{BASE}{text}")).routes, [expected]);
    assert!(warnings_of(text).is_empty());
}

#[test]
fn every_key_of_a_route_counts() {
    let more = "[uplink.other]\ninterface = \"eth1\"\n";
    let text = route("web", "[\"192.0.2.112/29\", \"192.0.2.7\"]")
        + "uplink = \"other\"\ngateway = \"19.19.8.10\"\nproxy_arp = true\narp = true\n";
    let config = config(&format!("{BASE}{more}{text}"));
    let expected = Route {
        name: "web".to_owned(),
        network: NetworkId(0),
        addresses: ["192.0.2.112/29", "192.0.2.7/32"]
            .map(|prefix| prefix.parse().unwrap())
            .to_vec(),
        addresses6: Vec::new(),
        uplink: UplinkId(1),
        gateway: Some(Ipv4Addr::new(19, 19, 8, 10)),
        proxy_arp: true,
        arp: true,
    };
    assert_eq!(config.routes, [expected]);
}

#[test]
fn a_route_without_a_required_key() {
    assert_eq!(
        refusal_of("[[route]]\naddresses = \"192.0.2.112\"\n"),
        "n.toml:8:1: route.route-1.network: is missing; write network = \"br112\""
    );
    assert_eq!(
        refusal_of("[[route]]\nnetwork = \"lan\"\n"),
        "n.toml:8:1: route.route-1.addresses: is missing; write addresses = [\"192.0.2.112/29\"]"
    );
    assert_eq!(
        refusal_of("[[route]]\nnetwork = \"lna\"\naddresses = \"192.0.2.112\"\n"),
        "n.toml:9:11: route.route-1.network: there is no network `lna`; did you mean `lan`?"
    );
}

#[test]
fn addresses_that_cannot_be_routed() {
    assert_eq!(
        refusal_of_route("\"192.0.2.113/29\""),
        "n.toml:11:13: route.web.addresses: `192.0.2.113/29` has bits set beyond its prefix \
         length; \
         write \"192.0.2.112/29\""
    );
    assert_eq!(
        refusal_of_route("\"224.0.0.0/8\""),
        "n.toml:11:13: route.web.addresses: 224.0.0.0 is a multicast address; \
         write an address that one host can have"
    );
    assert_eq!(
        refusal_of_route("\"64.0.0.0/2\""),
        "n.toml:11:13: route.web.addresses: `64.0.0.0/2` is too large for a route; \
         write a length from 8 to 32"
    );
    assert_eq!(
        refusal_of_route("[]"),
        "n.toml:11:13: route.web.addresses: is an empty list; \
         write addresses = [\"192.0.2.112/29\"]"
    );
}

#[test]
fn addresses_that_belong_to_another_table() {
    let two = |first: &str, second: &str| route("one", first) + &route("two", second);
    assert_eq!(
        refusal_of(&two("\"192.0.2.112/29\"", "\"192.0.2.119\"")),
        "n.toml:16:13: route.two.addresses: 192.0.2.119/32 overlaps 192.0.2.112/29 of route `one` \
         (line 8); route each address once, to one network"
    );
    // The narrower one stands first.
    assert_eq!(
        refusal_of(&two("\"192.0.2.119\"", "\"192.0.2.112/29\"")),
        "n.toml:16:13: route.two.addresses: 192.0.2.112/29 overlaps 192.0.2.119/32 of route `one` \
         (line 8); route each address once, to one network"
    );
    assert!(
        config(&format!(
            "{BASE}{}",
            two("\"192.0.2.112/29\"", "\"192.0.2.120\"")
        ))
        .routes
        .len()
            == 2
    );
    assert_eq!(
        refusal_of_route("[\"192.0.2.112/29\", \"192.0.2.116/30\"]"),
        "n.toml:11:13: route.web.addresses: 192.0.2.116/30 overlaps 192.0.2.112/29 of route `web` \
         (line 8); route each address once, to one network"
    );
    assert_eq!(
        refusal_of_route("\"172.22.161.128/25\""),
        "n.toml:11:13: route.web.addresses: 172.22.161.128/25 overlaps 172.22.161.0/24 of network \
         `lan` (line 4); guests use the network's own addresses without a route; write other \
         addresses"
    );
    assert_eq!(
        refusal_of_route("\"19.19.8.8/30\""),
        "n.toml:3:13: uplink.wan.addresses: 19.19.8.10 belongs to the guests of route `web` (line \
         8); write an address that is not routed to guests, or remove it from that route"
    );
}

#[test]
fn external_addresses_that_are_routed() {
    let with = |rule: String| refusal_of(&(route("web", "\"192.0.2.112/29\"") + &rule));
    let remedy = "write an address that is not routed to guests, or remove it from that route";
    assert_eq!(
        with(nat("mail", "192.0.2.119", "172.22.161.171")),
        format!(
            "n.toml:16:11: nat.mail.address: 192.0.2.119 belongs to the guests of route `web` \
             (line 8); {remedy}"
        )
    );
    assert_eq!(
        with(forward(
            "mail",
            "protocol = \"tcp\"\nports = 25\naddress = \"192.0.2.112\""
        )),
        format!(
            "n.toml:19:11: forward.mail.address: 192.0.2.112 belongs to the guests of route `web` \
             (line 8); {remedy}"
        )
    );
    assert_eq!(
        with(snat(
            "out",
            "network = \"lan\"\nto = \"192.0.2.100-192.0.2.112\""
        )),
        format!(
            "n.toml:17:6: snat.out.to: 192.0.2.112 belongs to the guests of route `web` (line 8); \
             {remedy}"
        )
    );
    let beside = route("web", "\"192.0.2.112/29\"")
        + &snat("out", "network = \"lan\"\nto = \"192.0.2.100-192.0.2.111\"")
        + &snat("more", "network = \"lan\"\nto = \"192.0.2.120\"");
    config(&format!("{BASE}{beside}"));
}

#[test]
fn a_gateway_is_the_hosts() {
    assert_eq!(
        refusal_of(&(route("web", "\"192.0.2.112/29\"") + "gateway = \"192.0.2.113\"\n")),
        "n.toml:13:11: route.web.gateway: 192.0.2.113 is itself routed to guests; write an address \
         of the host, such as the uplink's"
    );
}

#[test]
fn arp_for_too_many_routed_addresses_is_a_warning() {
    let arp = |addresses: &str| route("web", addresses) + "arp = true\n";
    assert_eq!(
        refusal_of(&arp("\"198.51.100.0/23\"")),
        "n.toml:13:7: route.web.arp: answers for at most 256 addresses of a route, not 512; have \
         the provider route the prefix to the host, or split it into several [[route]]"
    );
    config(&format!("{BASE}{}", arp("\"198.51.100.0/24\"")));
}

#[test]
fn a_routed_guest_is_no_stranger() {
    let to =
        forward("web", "protocol = \"tcp\"\nports = 80").replace("172.22.161.170", "192.0.2.119");
    assert_eq!(warnings_of(&to).len(), 1);
    assert!(warnings_of(&(route("web", "\"192.0.2.112/29\"") + &to)).is_empty());
}

#[test]
fn a_rule_about_routed_addresses_alone_never_matches() {
    let with = |source: &str| {
        let rule = snat(
            "out",
            &format!("source = \"{source}\"\nto = \"masquerade\""),
        );
        warnings_of(&(route("web", "\"192.0.2.112/29\"") + &rule))
    };
    assert_eq!(
        with("192.0.2.116/30"),
        [
            "n.toml:16:10: snat.out.source: can never match: route `web` leaves all its packets \
             untranslated (line 8); remove the rule, or remove its source from that route"
        ]
    );
    assert!(with("192.0.2.0/24").is_empty());
}

#[test]
fn a_missing_uplink_or_network_is_reported_once() {
    let text = "[uplink.wan]\ninterface = \"a\"\n[[route]]\nnetwork = \"lan\"\naddresses = \
        \"192.0.2.1\"\n";
    assert_eq!(
        refusal(text),
        "n.toml:4:11: route.route-1.network: there is no network `lan`; \
         there is none at all, so add [network.NAME]"
    );
}
