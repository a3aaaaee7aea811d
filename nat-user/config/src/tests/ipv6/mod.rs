//! IPv6 in a file.

mod nat64;
mod rules;
mod services;

use std::{net::Ipv6Addr, path::Path};

use super::{
    super::{
        Loaded,
        model::{
            Action, Config, GuestAddress, Identity, Inbound, NetworkId, UplinkAddresses, UplinkId,
        },
        parse,
    },
    BASE,
};

/// Both families on both sides. Seven lines, like [`BASE`].
const BOTH: &str = r#"[uplink.wan]
interface = "vmbr0"
addresses = ["19.19.8.10", "2001:db8:f::2"]
[network.lan]
interface = "vmbr1"
address = ["172.22.161.254/24", "2001:db8:0:1::1/64", "fd12:3456:789a:1::1/64"]

"#;

fn load(text: &str) -> Loaded {
    let loaded = parse(text, Path::new("n.toml"));
    loaded.unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn config(lines: &str) -> Config {
    load(&format!("{BOTH}{lines}")).config
}

/// The message with which [`BOTH`] and further lines are refused.
fn refused(lines: &str) -> String {
    let error = parse(&format!("{BOTH}{lines}"), Path::new("n.toml"));
    error.expect_err(lines).to_string()
}

/// The same for an address of a second network, at 10:11.
fn refused_address(address: &str) -> String {
    let lines = "[network.dmz]\ninterface = \"br2\"\n";
    refused(&format!(
        "{lines}address = [\"10.0.0.1/24\", \"{address}\"]\n"
    ))
}

fn ip(address: &str) -> Ipv6Addr {
    address.parse().unwrap()
}

fn ipv4(address: &str) -> GuestAddress {
    GuestAddress::Fixed(address.parse().unwrap())
}

fn fixed(address: &str) -> GuestAddress<Ipv6Addr> {
    GuestAddress::Fixed(ip(address))
}

fn guest(address: &str) -> String {
    format!(
        "[[guest]]\nname = \"web1\"\nnetwork = \"lan\"\nmac = \"52:54:00:12:34:56\"\n\
         address = {address}\n"
    )
}

#[test]
fn networks_and_uplinks_have_addresses_of_both_families() {
    let config = config("");
    let network = &config.networks[0];
    assert_eq!(network.address, Some("172.22.161.254/24".parse().unwrap()));
    let own = ["2001:db8:0:1::1/64", "fd12:3456:789a:1::1/64"];
    assert_eq!(network.addresses6, own.map(|net| net.parse().unwrap()));
    assert_eq!(network.inbound, Inbound::default());
    let outside = vec![ip("2001:db8:f::2")];
    let uplink = &config.uplinks[0];
    assert_eq!(uplink.addresses6, UplinkAddresses::Fixed(outside));
    assert!(matches!(&uplink.addresses, UplinkAddresses::Fixed(own) if own.len() == 1));
}

#[test]
fn each_family_of_an_uplink_has_its_own_default() {
    let text = BOTH.replace("[\"19.19.8.10\", \"2001:db8:f::2\"]", "[\"2001:db8:f::2\"]");
    let uplink = &load(&text).config.uplinks[0];
    assert_eq!(uplink.addresses, UplinkAddresses::Interface);
    assert_ne!(uplink.addresses6, UplinkAddresses::Interface);
}

#[test]
fn inbound_is_about_both_families_and_dropped_for_ipv6_by_default() {
    let inbound = |value: &str| {
        let text = BOTH.trim_end().to_owned() + &format!("\ninbound = \"{value}\"\n");
        load(&text).config.networks[0].inbound
    };
    let all = |action| Inbound {
        ipv4: action,
        ipv6: action,
    };
    assert_eq!(inbound("accept"), all(Action::Accept));
    assert_eq!(inbound("drop"), all(Action::Drop));
    let default = Inbound::default();
    assert_eq!((default.ipv4, default.ipv6), (Action::Accept, Action::Drop));
}

#[test]
fn a_public_network_that_is_open_and_has_no_policy_is_doubtful() {
    let text = BOTH.trim_end().to_owned() + "\ninbound = \"accept\"\n";
    let warnings = |text: &str| load(text).warnings;
    assert_eq!(
        warnings(&text)[0].to_string(),
        "n.toml:7:11: network.lan.inbound: publishes every port of every guest in \
         2001:db8:0:1::/64; leave inbound out, and accept what is needed with [[policy]]"
    );
    let policy = "[[policy]]\nfrom = \"wan\"\naction = \"drop\"\n";
    assert_eq!(warnings(&format!("{text}{policy}")), []);
    let private = text.replace("\"2001:db8:0:1::1/64\", ", "");
    assert_eq!(warnings(&private), []);
}

#[test]
fn a_suffix_is_an_address_in_every_prefix() {
    let config = config(&guest("[\"172.22.161.10\", \"::10\"]"));
    let guest = &config.guests[0];
    assert_eq!(guest.address, Some(ipv4("172.22.161.10")));
    let own = [fixed("2001:db8:0:1::10"), fixed("fd12:3456:789a:1::10")];
    assert_eq!(guest.addresses6, own);
}

#[test]
fn a_guest_has_at_most_one_address_of_each_family() {
    let whole = config(&guest("[\"172.22.161.10\", \"2001:db8:0:1::7\"]"));
    assert_eq!(whole.guests[0].addresses6, [fixed("2001:db8:0:1::7")]);
    assert_eq!(
        refused(&guest("[\"172.22.161.10\", \"::10\", \"::11\"]")),
        "n.toml:12:11: guest.web1.address: has two addresses of one family; write one of each \
         family; an IPv6 suffix such as \"::10\" stands for an address in every prefix of the \
         network"
    );
    let six = config(&guest("\"2001:db8:0:1::7\""));
    assert_eq!(six.guests[0].address, None);
    assert_eq!(six.guests[0].addresses6, [fixed("2001:db8:0:1::7")]);
}

#[test]
fn a_guest_outside_of_its_network_is_refused() {
    let at = |address: &str| refused(&guest(&format!("[\"172.22.161.10\", \"{address}\"]")));
    let expected = |problem: &str| {
        format!(
            "n.toml:12:11: guest.web1.address: {problem} network `lan`; write a guest's address \
             in 2001:db8:0:1::/64"
        )
    };
    let outside = expected("2001:db8:0:2::7 is not in");
    assert_eq!(at("2001:db8:0:2::7"), outside);
    let own = expected("2001:db8:0:1::1 is the host's own address in");
    assert_eq!(at("::1"), own);
    let anycast = expected("2001:db8:0:1:: is the routers' anycast address in");
    assert_eq!(at("2001:db8:0:1::"), anycast);
}

#[test]
fn a_suffix_needs_a_prefix_with_room_for_it() {
    let guest = guest("[\"172.22.161.10\", \"::1:0\"]");
    let alone = format!("{BOTH}{guest}");
    let without = ", \"2001:db8:0:1::1/64\", \"fd12:3456:789a:1::1/64\"";
    let error = |text: &str| {
        let error = parse(text, Path::new("n.toml"));
        error.expect_err(text).to_string()
    };
    assert_eq!(
        error(&alone.replace(without, "")),
        "n.toml:12:11: guest.web1.address: ::1:0 is a suffix, but the network has no IPv6 prefix; \
         write the whole address, or add an IPv6 address to the network"
    );
    assert_eq!(
        error(&alone.replace("2001:db8:0:1::1/64", "2001:db8:0:1::1/112")),
        "n.toml:12:11: guest.web1.address: ::1:0 is longer than the rest of 2001:db8:0:1::/112; \
         write a shorter suffix, or the whole address"
    );
}

#[test]
fn two_guests_with_one_ipv6_address_are_refused() {
    let first = guest("[\"172.22.161.10\", \"::10\"]");
    let second = guest("[\"172.22.161.11\", \"2001:db8:0:1::10\"]")
        .replace("web1", "web2")
        .replace("34:56", "34:57");
    assert_eq!(
        refused(&format!("{first}{second}")),
        "n.toml:17:11: guest.web2.address: guest `web1` already has 2001:db8:0:1::10 (line 8); \
         give each guest its own"
    );
}

#[test]
fn bad_ipv6_addresses() {
    let expected = |problem: &str| format!("n.toml:10:27: network.dmz.address: {problem}");
    for (address, problem) in [
        (
            "2001:db8::1",
            "`2001:db8::1` has no prefix length; write, for example, \"2001:db8::1/64\"",
        ),
        (
            "2001:db8::g/64",
            "`2001:db8::g` is not an IPv6 address; write groups of hexadecimal digits, as in \
             \"2001:db8::10\"",
        ),
        (
            "fe80::1%eth0/64",
            "`fe80::1%eth0` names an interface; write the address alone: \"fe80::1\"",
        ),
        (
            "fe80::1/64",
            "fe80::1 is a link-local address, which is not routed; write a global or a unique \
             local address",
        ),
        (
            "ff02::1/64",
            "ff02::1 is a multicast address; write an address that one host can have",
        ),
        (
            "::1/64",
            "::1 is a loopback address; write an address that one host can have",
        ),
        (
            "::/64",
            ":: is not the address of a host; write an address that one host can have",
        ),
        (
            "::ffff:192.0.2.1/120",
            "::ffff:192.0.2.1 is an IPv4 address in the form of IPv6; write \"192.0.2.1\"",
        ),
        (
            "2001:db8::1/129",
            "`129` is not a prefix length; write a length from 0 to 128, as in \
             \"2001:db8::1/64\"",
        ),
        (
            "2001:db8::1/0",
            "`2001:db8::1/0` makes every address an inside one; write a length from 1 to 128",
        ),
        (
            "2001:db8:7::/64",
            "2001:db8:7:: is the routers' anycast address in 2001:db8:7::/64; write another one, \
             such as \"2001:db8:7::1\"",
        ),
    ] {
        assert_eq!(refused_address(address), expected(problem), "{address}");
    }
}

#[test]
fn both_addresses_of_a_127_are_hosts() {
    let lines = "[network.dmz]\ninterface = \"br2\"\n";
    let text = format!("{lines}address = [\"10.0.0.1/24\", \"2001:db8:7::/127\"]\n");
    let network = config(&text).networks.remove(1);
    assert_eq!(network.addresses6, ["2001:db8:7::/127".parse().unwrap()]);
}

#[test]
fn a_network_has_at_most_one_ipv4_address() {
    let lines = "[network.dmz]\ninterface = \"br2\"\n";
    let with = |addresses: &str| refused(&format!("{lines}address = {addresses}\n"));
    assert_eq!(
        with("[\"10.0.0.1/24\", \"2001:db8:7::1/64\", \"10.0.1.1/24\"]"),
        "n.toml:10:47: network.dmz.address: is the second IPv4 address of the network; write one, \
         and any number of IPv6 addresses"
    );
}

#[test]
fn a_network_may_have_ipv6_alone() {
    let lines = "[network.six]\ninterface = \"br6\"\n";
    let network = config(&format!("{lines}address = \"2001:db8:7::1/64\"\n"))
        .networks
        .remove(1);
    assert_eq!(network.address, None);
    assert_eq!(network.addresses6, ["2001:db8:7::1/64".parse().unwrap()]);
    assert_eq!((network.ndp, network.follow), (None, false));
    let guest = guest("\"10.0.0.7\"").replace("\"lan\"", "\"six\"");
    assert_eq!(
        refused(&format!("{lines}address = \"2001:db8:7::1/64\"\n{guest}")),
        "n.toml:15:11: guest.web1.address: 10.0.0.7 is not in network `six`, which has only IPv6; \
         write an IPv6 address, or add an IPv4 address to the network"
    );
}

#[test]
fn a_network_that_follows_its_interface_needs_no_address() {
    let lines = "[network.six]\ninterface = \"br6\"\n";
    let guest = guest("\"::10\"").replace("\"lan\"", "\"six\"");
    let config = config(&format!("{lines}follow = true\n{guest}"));
    let network = &config.networks[1];
    assert!(network.follow && network.address.is_none() && network.addresses6.is_empty());
    let suffix = GuestAddress::leased(Some(NetworkId(1)), Identity::Suffix(ip("::10")));
    assert_eq!(config.guests[0].addresses6, [suffix]);
    for line in ["", "follow = false\n"] {
        let message = refused(&format!("{lines}{line}"));
        let expected = "n.toml:8:1: network.six.address: is missing; write address = \
                        \"172.22.161.254/24\"";
        assert_eq!(message, expected);
    }
}

#[test]
fn a_prefix_of_an_uplinks_link_needs_ndp() {
    let lines = "[network.six]\ninterface = \"br6\"\naddress = \"2001:db8:f::1:1/64\"\n";
    assert_eq!(
        refused(lines),
        "n.toml:3:13: uplink.wan.addresses: 2001:db8:f::2 is in 2001:db8:f::/64 of network `six`; \
         write ndp = \"wan\" in the network if the provider has the prefix on this link; otherwise \
         give the network another prefix"
    );
    let network = &config(&format!("{lines}ndp = \"wan\"\n")).networks[1];
    assert_eq!(network.ndp, Some(UplinkId(0)));
    assert_eq!(
        refused(&format!("{lines}ndp = \"wam\"\n")),
        "n.toml:11:7: network.six.ndp: there is no uplink `wam`; did you mean `wan`?"
    );
    let again = "[network.seven]\ninterface = \"br7\"\naddress = \"2001:db8:f::2:1/64\"\n\
                 ndp = \"wan\"\n";
    assert_eq!(
        refused(&format!("{lines}ndp = \"wan\"\n{again}")),
        "n.toml:14:11: network.seven.address: 2001:db8:f::/64 overlaps 2001:db8:f::/64 of network \
         `six` (line 8); give each network its own prefix"
    );
    let useless = "[network.four]\ninterface = \"br4\"\naddress = \"10.0.0.1/24\"\nndp = \"wan\"\n";
    assert_eq!(
        load(&format!("{BOTH}{useless}")).warnings[0].to_string(),
        "n.toml:11:7: network.four.ndp: has no effect, because the network has no public IPv6 \
         prefix; add the host's IPv6 address in the provider's prefix, or leave ndp out"
    );
}

#[test]
fn inbound_and_ipv6_count_as_policies() {
    let has = |lines: &str| config(lines).has_policies();
    assert!(has(""), "IPv6 is dropped by default");
    let open = BOTH.trim_end().to_owned() + "\ninbound = \"accept\"\n";
    assert!(!load(&open).config.has_policies());
    let closed = BASE.trim_end().to_owned() + "\ninbound = \"drop\"\n";
    assert!(load(&closed).config.has_policies());
    assert!(!load(BASE).config.has_policies());
}

#[test]
fn prefixes_of_networks_and_routes_do_not_overlap() {
    assert_eq!(
        refused_address("2001:db8::5/48"),
        "n.toml:10:11: network.dmz.address: 2001:db8::/48 overlaps 2001:db8:0:1::/64 of network \
         `lan` (line 4); give each network its own prefix"
    );
    let route = |name: &str, prefix: &str| {
        format!("[[route]]\nname = \"{name}\"\nnetwork = \"lan\"\naddresses = \"{prefix}\"\n")
    };
    assert_eq!(
        refused(&route("one", "2001:db8:0:1::7")),
        "n.toml:11:13: route.one.addresses: 2001:db8:0:1::7/128 overlaps 2001:db8:0:1::/64 of \
         network `lan` (line 4); guests use the network's own addresses without a route; write \
         other addresses"
    );
    assert_eq!(
        refused(&(route("one", "2001:db8:8::/56") + &route("two", "2001:db8:8:7::1"))),
        "n.toml:15:13: route.two.addresses: 2001:db8:8:7::1/128 overlaps 2001:db8:8::/56 of route \
         `one` (line 8); route each address once, to one network"
    );
    assert_eq!(
        refused(&route("one", "2001:db8:f::/64")),
        "n.toml:3:13: uplink.wan.addresses: 2001:db8:f::2 belongs to the guests of route `one` \
         (line 8); write an address that is not routed to guests, or remove it from that route"
    );
    assert_eq!(
        refused(&route("one", "2000::/3")),
        "n.toml:11:13: route.one.addresses: `2000::/3` is too large for a route; write a length \
         from 16 to 128"
    );
}

#[test]
fn a_route_has_addresses_of_both_families() {
    let both = "[[route]]\nnetwork = \"lan\"\naddresses = [\"192.0.2.8/29\", \"2001:db8:8::7\"]\n";
    let config = config(both);
    let route = &config.routes[0];
    assert_eq!(route.addresses, ["192.0.2.8/29".parse().unwrap()]);
    assert_eq!(route.addresses6, ["2001:db8:8::7/128".parse().unwrap()]);
}

#[test]
fn a_file_without_ipv6_has_no_rules_for_it() {
    let policy = "[[policy]]\nfrom = \"wan\"\naction = \"drop\"\n";
    assert_eq!(load(&format!("{BASE}{policy}")).config.ipv6, None);
    assert!(config(policy).ipv6.is_some());
    let named = "[[policy]]\nfrom = \"2001:db8::/32\"\naction = \"drop\"\n";
    assert!(load(&format!("{BASE}{named}")).config.ipv6.is_some());
}

#[test]
fn the_number_of_ipv6_sessions() {
    assert_eq!(config("").limits.sessions_ipv6, 65_536);
    assert_eq!(
        config("[limits]\nsessions_ipv6 = 1000\n")
            .limits
            .sessions_ipv6,
        1000
    );
    assert_eq!(
        refused("[limits]\nsessions_ipv6 = 0\n"),
        "n.toml:9:17: limits.sessions_ipv6: 0 is out of range; write a number from 1 to 4194304"
    );
}
