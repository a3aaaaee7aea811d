//! IPv6 in rules.

use super::{BOTH, config, guest, ip, load, refused};
use crate::model::{GuestAddress, NetworkId, PolicyEnd, PrefixRule, UplinkId};

#[test]
fn a_policy_is_about_the_families_of_its_ends() {
    let guest = guest("[\"172.22.161.10\", \"::10\"]");
    let config = config(&format!(
        "{guest}[[policy]]\nfrom = [\"2001:db8:9::/48\", \"198.51.100.0/24\"]\n\
         to = [\"lan\", \"web1\", \"2001:db8:8::7\"]\naction = \"accept\"\n\
         [[policy]]\nfrom = \"::/0\"\nto = \"host\"\naction = \"drop\"\n"
    ));
    let (ipv4, ipv6) = (&config.policies, &config.ipv6.unwrap().policies);
    let own = PolicyEnd::Guest(GuestAddress::Fixed("172.22.161.10".parse().unwrap()));
    assert_eq!(
        ipv4[0].from,
        [PolicyEnd::Prefix("198.51.100.0/24".parse().unwrap())]
    );
    assert_eq!(ipv4[0].to, [PolicyEnd::Network(NetworkId(0)), own]);
    let guests = ["2001:db8:0:1::10", "fd12:3456:789a:1::10", "2001:db8:8::7"];
    let guests = guests.map(|guest| PolicyEnd::Guest(GuestAddress::Fixed(ip(guest))));
    assert_eq!(
        ipv6[0].from,
        [PolicyEnd::Prefix("2001:db8:9::/48".parse().unwrap())]
    );
    assert_eq!(ipv6[0].to[0], PolicyEnd::Network(NetworkId(0)));
    assert_eq!(ipv6[0].to[1..], guests);
    assert_eq!(
        (ipv4[1].from.len(), &ipv6[1].to),
        (0, &vec![PolicyEnd::Host])
    );
    assert_eq!((&*ipv4[1].name, &*ipv6[1].name), ("policy-2", "policy-2"));
}

#[test]
fn a_policy_between_two_families_is_refused() {
    let policy = |from: &str, to: &str| {
        format!("[[policy]]\nfrom = \"{from}\"\nto = \"{to}\"\naction = \"accept\"\n")
    };
    assert_eq!(
        refused(&policy("2001:db8:9::/48", "10.0.0.0/8")),
        "n.toml:10:6: policy.policy-1.to: is of IPv4, but from is of IPv6, so no flow matches; \
         write ends of one family"
    );
    assert_eq!(
        refused(&policy("10.0.0.1", "2001:db8:0:1::7")),
        "n.toml:10:6: policy.policy-1.to: is of IPv6, but from is of IPv4, so no flow matches; \
         write ends of one family"
    );
    assert_eq!(
        refused(&policy("fe80::/10", "lan")),
        "n.toml:9:8: policy.policy-1.from: fe80:: is a link-local address, which is not routed; \
         write a global or a unique local address"
    );
}

#[test]
fn a_policy_is_shadowed_only_in_all_its_families() {
    let policy = |from: &str| format!("[[policy]]\nfrom = {from}\naction = \"accept\"\n");
    let warnings = |one: &str, two: &str| {
        let text = format!("{BOTH}{}{}", policy(one), policy(two));
        load(&text).warnings.len()
    };
    assert_eq!(
        warnings("\"0.0.0.0/0\"", "[\"10.0.0.0/8\", \"2001:db8:9::/48\"]"),
        0
    );
    assert_eq!(warnings("\"2001:db8::/32\"", "\"2001:db8:9::/48\""), 1);
    assert_eq!(warnings("\"wan\"", "\"wan\""), 1);
}

#[test]
fn a_nat_translates_prefixes_of_one_length() {
    let nat = |name: &str, address: &str, to: &str| {
        format!(
            "[[nat]]\nname = \"{name}\"\nuplink = \"wan\"\naddress = \"{address}\"\nto = \"{to}\"\n"
        )
    };
    let (outside, inside) = ("2001:db8:5:1::/64", "fd12:3456:789a:1::/64");
    let ipv6 = config(&nat("lan6", outside, inside)).ipv6.unwrap();
    let expected = PrefixRule {
        name: "lan6".to_owned(),
        uplink: UplinkId(0),
        external: outside.parse().unwrap(),
        internal: inside.parse().unwrap(),
        hairpin: true,
    };
    assert_eq!(ipv6.prefixes, [expected]);
    let remedy = "write a prefix of 1 to 64 bits, as in \"2001:db8:5::/64\"";
    for (address, to, problem) in [
        (
            "2001:db8:5::/48",
            inside,
            "n.toml:12:6: nat.six.to: has 64 bits, but the prefix of address has 48; write two \
             prefixes of the same length"
                .to_owned(),
        ),
        (
            outside,
            "172.22.161.7",
            format!(
                "n.toml:12:6: nat.six.to: `172.22.161.7` is not an IPv6 prefix, but address is \
                 one; {remedy}"
            ),
        ),
        (
            "2001:db8:5::1",
            inside,
            format!(
                "n.toml:11:11: nat.six.address: `2001:db8:5::1/128` cannot be translated as a \
                 prefix; {remedy}"
            ),
        ),
    ] {
        assert_eq!(refused(&nat("six", address, to)), problem);
    }
    let second = nat("two", "2001:db8:5::/48", "fd12:3456::/48");
    assert_eq!(
        refused(&(nat("one", outside, inside) + &second)),
        "n.toml:16:11: nat.two.address: 2001:db8:5::/48 overlaps 2001:db8:5:1::/64 of `one` (line \
         8); translate each prefix once"
    );
}

#[test]
fn a_rule_translates_one_family_or_both() {
    let snat = |lines: &str| format!("[[snat]]\nuplink = \"wan\"\n{lines}\n");
    let both = config(&snat("network = \"lan\"\nto = \"masquerade\""));
    let ipv6 = both.ipv6.unwrap().snat;
    assert_eq!((both.snat.len(), ipv6.len()), (1, 1));
    assert_eq!(both.snat[0].name, ipv6[0].name);
    let pool = config(&snat("network = \"lan\"\nto = \"2001:db8:f::7\""));
    assert_eq!((pool.snat.len(), pool.ipv6.unwrap().snat.len()), (0, 1));
    let excluded = "network = \"lan\"\nto = \"masquerade\"\n\
                    exclude = [\"10.0.0.0/8\", \"2001:db8:9::/48\"]";
    let excluded = config(&snat(excluded));
    assert_eq!(excluded.snat[0].exclude, ["10.0.0.0/8".parse().unwrap()]);
    let ipv6 = excluded.ipv6.unwrap().snat;
    assert_eq!(ipv6[0].exclude, ["2001:db8:9::/48".parse().unwrap()]);
}

#[test]
fn a_network_without_anything_to_translate() {
    let network = "[network.six]\ninterface = \"br6\"\naddress = \"2001:db8:7::1/64\"\n";
    let snat = |to: &str| {
        format!("{network}[[snat]]\nnetwork = \"six\"\nuplink = \"wan\"\nto = \"{to}\"\n")
    };
    assert_eq!(
        refused(&snat("masquerade")),
        "n.toml:12:11: snat.snat-1.network: translates nothing: the network has only public IPv6 \
         addresses, which leave as they are; remove the rule, or write source = \"PREFIX\" to \
         translate them nevertheless"
    );
    let local = snat("19.19.8.10").replace("2001:db8:7::1", "fd07::1");
    assert_eq!(
        refused(&local),
        "n.toml:14:6: snat.snat-1.to: is of IPv4, but the network has no IPv4 address; write an \
         IPv6 address or \"masquerade\""
    );
    let ipv4 = snat("2001:db8:f::7").replace("2001:db8:7::1/64", "10.0.0.1/24");
    assert_eq!(
        refused(&ipv4),
        "n.toml:14:6: snat.snat-1.to: is of IPv6, but the network has no unique local prefix, and \
         public addresses are translated only by source; write source = \"PREFIX\" instead of \
         network, or leave IPv6 alone"
    );
}

#[test]
fn a_rule_that_mixes_families_is_refused() {
    let snat = |lines: &str| refused(&format!("[[snat]]\nuplink = \"wan\"\n{lines}\n"));
    assert_eq!(
        snat("source = \"fd12::/64\"\nto = \"19.19.8.10\""),
        "n.toml:11:6: snat.snat-1.to: is of IPv4, but source is of IPv6; write both of one family"
    );
    assert_eq!(
        snat("source = \"10.0.0.0/8\"\nto = \"2001:db8:f::7\""),
        "n.toml:11:6: snat.snat-1.to: is of IPv6, but source is of IPv4; write both of one family"
    );
    assert_eq!(
        snat("source = \"fd12::/64\"\nto = \"masquerade\"\nexclude = \"10.0.0.0/8\""),
        "n.toml:12:11: snat.snat-1.exclude: excludes IPv4 destinations, but the rule translates \
         only IPv6; write prefixes of the family that it translates"
    );
    assert_eq!(
        snat("source = \"fd12::/64\"\nto = \"2001:db8::9-2001:db8::1\""),
        "n.toml:11:6: snat.snat-1.to: the pool 2001:db8::9-2001:db8::1 is inverted; write \
         \"2001:db8::1-2001:db8::9\""
    );
    assert_eq!(
        snat("source = \"fd12::/64\"\nto = \"2001:db8::-2001:db8::1:0\""),
        "n.toml:11:6: snat.snat-1.to: the pool 2001:db8::-2001:db8::1:0 holds 65537 addresses; a \
         pool holds at most 65536"
    );
    let forward = |lines: &str| {
        let rule = "[[forward]]\nuplink = \"wan\"\nprotocol = \"tcp\"\nports = 80\n";
        refused(&format!("{rule}{lines}\n"))
    };
    assert_eq!(
        forward("address = \"19.19.8.10\"\nto = \"fd12:3456:789a:1::10\""),
        "n.toml:13:6: forward.forward-1.to: has only IPv6, but address is an IPv4 address; write a \
         guest and an address of one family"
    );
    assert_eq!(
        forward("address = \"2001:db8:f::2\"\nto = \"172.22.161.170\""),
        "n.toml:13:6: forward.forward-1.to: has only IPv4, but address is an IPv6 address; write a \
         guest and an address of one family"
    );
    assert_eq!(
        forward("to = \"fe80::10\""),
        "n.toml:12:6: forward.forward-1.to: fe80::10 is a link-local address, which is not routed; \
         write a global or a unique local address"
    );
    assert_eq!(
        forward("to = \"2001:db8:0:1::\""),
        "n.toml:12:6: forward.forward-1.to: 2001:db8:0:1:: is the routers' anycast address in \
         network `lan`; write a guest's address in 2001:db8:0:1::/64"
    );
    let nat = "[[nat]]\nuplink = \"wan\"\naddress = \"19.19.8.11\"\nto = \"2001:db8:0:1::7\"\n";
    assert_eq!(
        refused(nat),
        "n.toml:11:6: nat.nat-1.to: has only IPv6, but address is an IPv4 address; write a guest \
         with an IPv4 address"
    );
}

#[test]
fn public_addresses_behind_another_are_doubtful() {
    let rule = |source: &str| {
        let text = format!(
            "{BOTH}[[snat]]\nsource = \"{source}\"\nuplink = \"wan\"\nto = \"masquerade\"\n"
        );
        load(&text).warnings
    };
    assert_eq!(rule("fd12:3456:789a:1::/64"), []);
    assert_eq!(
        rule("2001:db8:0:1::/64")[0].to_string(),
        "n.toml:9:10: snat.snat-1.source: translates public IPv6 addresses, by which their owners \
         could be reached; write network instead of source to translate only unique local \
         addresses, or ignore this if the provider does not route the prefix"
    );
}

#[test]
fn a_rule_that_is_shadowed_in_one_family() {
    let guest = guest("[\"172.22.161.10\", \"::10\"]");
    let forward = |name: &str, to: &str| {
        format!(
            "[[forward]]\nname = \"{name}\"\nuplink = \"wan\"\nprotocol = \"tcp\"\n\
             ports = 80\nto = \"{to}\"\n"
        )
    };
    let (first, second) = (forward("six", "2001:db8:0:1::7"), forward("web", "web1"));
    let warnings = load(&format!(
        "{BOTH}{guest}{}{second}",
        first.replace("= 80", "= \"1-99\"")
    ))
    .warnings;
    assert_eq!(
        warnings.last().unwrap().to_string(),
        "n.toml:19:1: forward.web: can never match IPv6: shadowed by earlier rules, beginning with \
         `six` (line 13); put it before them, or remove it"
    );
    assert_eq!(
        refused(&format!("{guest}{second}{}", forward("again", "web1"))),
        "n.toml:23:9: forward.again.ports: `web` already forwards tcp port 80 of uplink `wan` \
         (line 13); remove one of the two, or make them different"
    );
}

#[test]
fn prefixes_that_are_translated_have_their_places() {
    let nat = |address: &str, to: &str| {
        format!("[[nat]]\nuplink = \"wan\"\naddress = \"{address}\"\nto = \"{to}\"\n")
    };
    assert_eq!(
        refused(&nat("2001:db8:0:1::/64", "fd12:3456:789a:1::/64")),
        "n.toml:10:11: nat.nat-1.address: 2001:db8:0:1::/64 is an inside prefix, in network `lan`; \
         write the prefix that the provider routes to the host"
    );
    let text = format!("{BOTH}{}", nat("2001:db8:5::/64", "fd99::/64"));
    assert_eq!(
        load(&text).warnings[0].to_string(),
        "n.toml:11:6: nat.nat-1.to: fd99::/64 is in no [network]; write the prefix of a network, \
         or add a [[route]] for it"
    );
}
