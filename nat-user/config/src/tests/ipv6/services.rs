//! `[network.NAME.ra]` and DHCPv6.

use super::{BOTH, config, ip, load, refused};
use crate::model::{Dhcp6, Forwarders, Network, Preference, Ra, RaMode};

fn network(lines: &str) -> Network {
    config(lines).networks.remove(0)
}

fn ra(lines: &str) -> Ra {
    network(&format!("[network.lan.ra]\n{lines}\n"))
        .ra
        .expect("a table")
}

const RANGE6: &str = "[network.lan.dhcp]\nrange6 = \"::100-::1ff\"\n";

#[test]
fn a_table_alone_advertises_the_prefixes_and_serves_names() {
    let network = network("[network.lan.ra]\n");
    let expected = Ra {
        mode: RaMode::Slaac,
        dns: None,
        domain: None,
        mtu: None,
        lifetime_s: 1800,
        preference: Preference::Medium,
    };
    assert_eq!(network.ra, Some(expected));
    assert_eq!(
        network.dns.map(|dns| dns.forwarders),
        Some(Forwarders::Host)
    );
    assert!(config("").networks[0].ra.is_none());
}

#[test]
fn every_key_of_an_advertisement() {
    let all = ra(
        "mode = \"stateless\"\ndns = [\"2001:db8::53\"]\ndomain = \"Lan\"\nmtu = 1400\n\
         lifetime_s = 900\npreference = \"low\"",
    );
    let expected = Ra {
        mode: RaMode::Stateless,
        dns: Some(vec![ip("2001:db8::53")]),
        domain: Some("lan".to_owned()),
        mtu: Some(1400),
        lifetime_s: 900,
        preference: Preference::Low,
    };
    assert_eq!(all, expected);
    assert_eq!(ra("default_route = false").lifetime_s, 0);
    // Another server answers.
    assert!(
        network("[network.lan.ra]\ndns = [\"2001:db8::53\"]\n")
            .dns
            .is_none()
    );
    assert!(
        network("[network.lan.ra]\ndns = [\"2001:db8:0:1::1\"]\n")
            .dns
            .is_some()
    );
}

#[test]
fn a_range_makes_the_host_a_router_that_manages_addresses() {
    let network = network(&format!("{RANGE6}lease_time_s = 600\ndomain = \"lan\"\n"));
    let expected = Dhcp6 {
        first: ip("::100"),
        last: ip("::1ff"),
        lease_time_s: 600,
        domain: Some("lan".to_owned()),
    };
    assert_eq!(network.dhcp6, Some(expected));
    assert_eq!(network.dhcp, None);
    let ra = network.ra.expect("a router");
    assert_eq!(
        (ra.mode, ra.domain.as_deref()),
        (RaMode::Managed, Some("lan"))
    );
    let both = "[network.lan.dhcp]\nrange = \"172.22.161.10-172.22.161.20\"\n\
                range6 = \"2001:db8:0:1::100-2001:db8:0:1::1ff\"\n\
                dns = [\"192.0.2.53\", \"2001:db8::53\"]\n";
    let both = self::network(both);
    assert_eq!(
        both.dhcp.unwrap().dns,
        ["192.0.2.53".parse::<std::net::Ipv4Addr>().unwrap()]
    );
    assert_eq!(both.ra.unwrap().dns, Some(vec![ip("2001:db8::53")]));
    let silent = self::network(&format!("{RANGE6}[network.lan.ra]\nmode = \"off\"\n"));
    assert_eq!(silent.ra.unwrap().mode, RaMode::Off);
}

#[test]
fn a_range_outside_of_the_network_is_refused() {
    let range = |range: &str| refused(&format!("[network.lan.dhcp]\nrange6 = \"{range}\"\n"));
    for (written, problem) in [
        (
            "::100",
            "`::100` is not a range; write two addresses, or the part behind the prefix, as in \
             \"::100-::1ff\"",
        ),
        (
            "::1ff-::100",
            "the range ::1ff-::100 is inverted; write \"::100-::1ff\"",
        ),
        (
            "::100-2001:db8:0:1::1ff",
            "::100 and 2001:db8:0:1::1ff are a part of an address and a whole one; write two of \
             the same kind",
        ),
        (
            "2001:db8:0:2::100-2001:db8:0:2::1ff",
            "2001:db8:0:2::100-2001:db8:0:2::1ff is not in a prefix of network `lan`; write \
             addresses of one prefix of the network, or only the part behind the prefix, as in \
             \"::100-::1ff\"",
        ),
        (
            "::1-::ff",
            "the range 2001:db8:0:1::1-2001:db8:0:1::ff contains 2001:db8:0:1::1, the host's own \
             address; write a range without it",
        ),
    ] {
        let expected = format!("n.toml:9:10: network.lan.dhcp.range6: {problem}");
        assert_eq!(range(written), expected);
    }
}

#[test]
fn guests_choose_addresses_only_in_a_64() {
    let text = |mode: &str, address: &str| {
        BOTH.replace("2001:db8:0:1::1/64", address)
            + &format!("[network.lan.ra]\nmode = \"{mode}\"\n")
    };
    let refused = |text: &str| {
        crate::parse(text, std::path::Path::new("n.toml"))
            .expect_err(text)
            .to_string()
    };
    assert_eq!(
        refused(&text("slaac", "2001:db8:0:1::1/80")),
        "n.toml:9:8: network.lan.ra.mode: guests choose addresses only in a /64, not in \
         2001:db8:0:1::/80; give the network a /64, or write mode = \"managed\""
    );
    assert_eq!(
        refused(&text("managed", "2001:db8:0:1::1/56")),
        "n.toml:9:8: network.lan.ra.mode: dnsmasq serves no prefix as short as 2001:db8::/56; give \
         the network a /64"
    );
    load(&text("managed", "2001:db8:0:1::1/80"));
    let without = text("slaac", "X").replace(", \"X\", \"fd12:3456:789a:1::1/64\"", "");
    assert_eq!(
        refused(&without),
        "n.toml:9:8: network.lan.ra.mode: the network has no IPv6 prefix; add an IPv6 address to \
         the network, as in \"2001:db8:0:1::1/64\""
    );
}

#[test]
fn other_mistakes_in_what_guests_learn() {
    let ra = |lines: &str| refused(&format!("[network.lan.ra]\n{lines}\n"));
    assert_eq!(
        ra("mode = \"auto\""),
        "n.toml:9:8: network.lan.ra.mode: unknown value `auto`; write one of \"slaac\", \
         \"stateless\", \"managed\", \"off\""
    );
    assert_eq!(
        ra("mtu = 1000"),
        "n.toml:9:7: network.lan.ra.mtu: 1000 is out of range; write a number from 1280 to 65575"
    );
    assert_eq!(
        refused(&format!("{RANGE6}[network.lan.ra]\nmode = \"stateless\"\n")),
        "n.toml:11:8: network.lan.ra.mode: has guests choose their addresses, so none is leased \
         from range6; write mode = \"managed\" or \"slaac\", or leave range6 out"
    );
    let six = "[network.six]\ninterface = \"br6\"\naddress = \"2001:db8:7::1/64\"\n\
               dhcp.range = \"10.0.0.2-10.0.0.9\"\n";
    assert_eq!(
        refused(six),
        "n.toml:11:14: network.six.dhcp.range: the network has no IPv4 address; add an IPv4 \
         address to the network, or write range6"
    );
    let guest = super::guest("\"::10\"") + "duid = \"00:03:00:zz\"\n";
    assert_eq!(
        refused(&guest),
        "n.toml:13:8: guest.web1.duid: `00:03:00:zz` is not a DHCP unique identifier; write its \
         bytes, as in \"00:03:00:01:52:54:00:12:34:56\""
    );
}
