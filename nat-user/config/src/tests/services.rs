//! `[network.NAME.dhcp]`, `[network.NAME.dns]`, and guests with leases.

use std::net::Ipv4Addr;

use super::{
    super::model::{Forwarders, GuestAddress, Identity, NetworkId, Tenant},
    BASE, config, forward, guest, nat, refusal_of, warnings,
};

const RANGE: &str = "[network.lan.dhcp]\nrange = \"172.22.161.10-172.22.161.200\"\n";
const MAC: &str = "52:54:00:12:34:56";
const MAC_BYTES: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

/// [`BASE`] with DHCP, and these lines after it.
fn leasing(lines: &str) -> String {
    format!("{BASE}{RANGE}{lines}")
}

/// A refusal of DHCP with these lines, the first of which is line 9.
fn dhcp_with(lines: &str) -> String {
    refusal_of(&format!("[network.lan.dhcp]\n{lines}\n"))
}

fn leased(network: Option<usize>, identity: Identity) -> GuestAddress {
    let network = network.map(NetworkId);
    let tenant = Tenant { network, identity };
    GuestAddress::Leased { tenant, now: None }
}

/// A guest without an address, in four lines.
fn dynamic(name: &str) -> String {
    guest(name, "", MAC).replace("address = \"\"\n", "")
}

#[test]
fn dhcp_needs_a_range_alone() {
    let config = config(&leasing(""));
    let network = &config.networks[0];
    let dhcp = network.dhcp.as_ref().expect("DHCP");
    assert_eq!(
        (dhcp.first, dhcp.last),
        (
            Ipv4Addr::new(172, 22, 161, 10),
            Ipv4Addr::new(172, 22, 161, 200)
        )
    );
    assert_eq!(dhcp.lease_time_s, 3600);
    assert_eq!(dhcp.gateway, network.address.unwrap().addr());
    assert_eq!(dhcp.dns, [network.address.unwrap().addr()]);
    assert_eq!(dhcp.domain, None);
    let dns = network.dns.as_ref().expect("it answers who is sent to it");
    assert_eq!(dns.forwarders, Forwarders::Host);
}

#[test]
fn dns_is_served_where_guests_are_sent_to_it_or_where_it_is_written() {
    let with = |lines: &str| config(&leasing(lines)).networks.remove(0).dns;
    assert_eq!(with("dns = [\"192.0.2.53\"]\n"), None);
    assert_eq!(with("dns = []\n"), None);
    let written = with("dns = [\"192.0.2.53\"]\n[network.lan.dns]\n").expect("written");
    assert_eq!(written.forwarders, Forwarders::Host);
    let fixed = with("[network.lan.dns]\nforwarders = \"192.0.2.53\"\n").expect("written");
    let servers = vec![Ipv4Addr::new(192, 0, 2, 53).into()];
    assert_eq!(fixed.forwarders, Forwarders::Fixed(servers));
    let alone = config(&format!("{BASE}[network.lan.dns]\nforwarders = []\n"));
    let dns = alone.networks[0].dns.as_ref().expect("written");
    assert_eq!(dns.forwarders, Forwarders::Fixed(Vec::new()));
    assert!(!dns.private_answers);
    let private = with("[network.lan.dns]\nprivate_answers = true\n").expect("written");
    assert!(private.private_answers);
    assert_eq!(alone.networks[0].dhcp, None);
}

#[test]
fn range_that_is_none() {
    let with = |range: &str| dhcp_with(&format!("range = \"{range}\""));
    let place = "n.toml:9:9: network.lan.dhcp.range:";
    assert_eq!(
        dhcp_with("lease_time_s = 600"),
        "n.toml:8:1: network.lan.dhcp.range: is missing; \
         write range = \"172.22.161.10-172.22.161.200\""
    );
    assert_eq!(
        with("172.22.161.10"),
        format!(
            "{place} `172.22.161.10` is not a range; \
             write two addresses, as in \"172.22.161.10-172.22.161.200\""
        )
    );
    assert_eq!(
        with("172.22.161.20-172.22.161.10"),
        format!(
            "{place} the range 172.22.161.20-172.22.161.10 is inverted; \
             write \"172.22.161.10-172.22.161.20\""
        )
    );
}

#[test]
fn range_outside_the_network() {
    let with = |range: &str| dhcp_with(&format!("range = \"{range}\""));
    for (range, problem) in [
        (
            "172.22.162.10-172.22.162.20",
            "172.22.162.10 is not in network `lan`",
        ),
        (
            "172.22.161.10-172.22.162.20",
            "172.22.162.20 is not in network `lan`",
        ),
        (
            "172.22.161.10-172.22.161.255",
            "172.22.161.255 is the broadcast address in network `lan`",
        ),
        (
            "172.22.161.0-172.22.161.20",
            "172.22.161.0 is the network's own address in network `lan`",
        ),
    ] {
        assert_eq!(
            with(range),
            format!(
                "n.toml:9:9: network.lan.dhcp.range: {problem}; \
                 write a range of guests' addresses in 172.22.161.0/24"
            )
        );
    }
}

#[test]
fn range_with_a_used_address() {
    assert_eq!(
        dhcp_with("range = \"172.22.161.200-172.22.161.254\""),
        "n.toml:9:9: network.lan.dhcp.range: the range 172.22.161.200-172.22.161.254 contains \
         172.22.161.254, the host's own address; write a range without it"
    );
    assert_eq!(
        dhcp_with("range = \"172.22.161.10-172.22.161.20\"\ngateway = \"172.22.161.15\""),
        "n.toml:9:9: network.lan.dhcp.range: the range 172.22.161.10-172.22.161.20 contains \
         172.22.161.15, the gateway's address; write a range without it"
    );
}

#[test]
fn other_mistakes_in_dhcp_and_dns() {
    let with = |line: &str| refusal_of(&format!("{RANGE}{line}\n"));
    assert_eq!(
        with("gateway = \"172.22.162.1\""),
        "n.toml:10:11: network.lan.dhcp.gateway: 172.22.162.1 is not in network `lan`; \
         write an address in 172.22.161.0/24"
    );
    assert_eq!(
        with("lease_time_s = 60"),
        "n.toml:10:16: network.lan.dhcp.lease_time_s: 60 is out of range; \
         write a number from 120 to 2147483647"
    );
    assert_eq!(
        with("domain = \"a b\""),
        "n.toml:10:10: network.lan.dhcp.domain: `a b` is not a domain; \
         write names between dots, as in \"lan\" or \"guests.example.org\""
    );
    assert_eq!(
        with("lease_time = 600"),
        "n.toml:10:1: network.lan.dhcp.lease_time: unknown key `lease_time`; \
         did you mean `lease_time_s`?"
    );
    assert_eq!(
        with("[network.lan.dns]\nforwarders = \"dns.example\""),
        "n.toml:11:14: network.lan.dns.forwarders: `dns.example` is not an IPv4 address; \
         write four numbers from 0 to 255, as in \"192.0.2.10\""
    );
    let inline = BASE.replace("/24\"", "/24\"\ndhcp = 5");
    assert_eq!(
        super::refusal(&inline),
        "n.toml:7:8: network.lan.dhcp: must be [network.lan.dhcp], not an integer; begin it with a \
         line [network.lan.dhcp]"
    );
    let odd = format!("{BASE}{RANGE}").replace("vmbr1", "vm,br1");
    let line = super::refusal(&odd);
    assert!(
        line.starts_with("n.toml:5:13: network.lan.interface: `vm,br1` holds ','"),
        "{line}"
    );
}

#[test]
fn a_guest_without_an_address_is_where_its_lease_says() {
    let text = leasing(&format!("{}{}", dynamic("web1"), forward_to("web1")));
    assert!(warnings(&text).is_empty(), "{:?}", warnings(&text));
    let config = config(&text);
    let expected = leased(Some(0), Identity::Mac(MAC_BYTES));
    assert_eq!(config.guests[0].address.as_ref(), Some(&expected));
    assert_eq!(config.forwards[0].to, expected);
    // Without DHCP it is nowhere.
    assert_eq!(
        refusal_of(&dynamic("web1")),
        "n.toml:8:1: guest.web1.address: is missing; write address = \"172.22.161.170\""
    );
}

fn forward_to(to: &str) -> String {
    let rule = forward("web", "protocol = \"tcp\"\nports = 80");
    rule.replace("\"172.22.161.170\"", &format!("\"{to}\""))
}

#[test]
fn a_rule_names_a_guest_by_its_name_its_mac_or_the_name_of_its_lease() {
    let fixed = guest("web1", "172.22.161.170", MAC);
    let to = |guests: &str, to: &str| {
        let text = leasing(&format!("{guests}{}", forward_to(to)));
        config(&text).forwards.remove(0).to
    };
    let address = GuestAddress::Fixed(Ipv4Addr::new(172, 22, 161, 170));
    assert_eq!(to(&fixed, "web1"), address);
    assert_eq!(to(&fixed, "52:54:00:12:34:56"), address);
    assert_eq!(to("", MAC), leased(None, Identity::Mac(MAC_BYTES)));
    assert_eq!(
        to("", "Web1"),
        leased(None, Identity::Name("web1".to_owned()))
    );
    assert_eq!(
        to("", "3com"),
        leased(None, Identity::Name("3com".to_owned()))
    );
    assert_eq!(
        to(&fixed, "web2"),
        leased(None, Identity::Name("web2".to_owned()))
    );
    let nat = nat("mail", "19.19.8.11", "mail");
    let nat = config(&leasing(&nat)).nats.remove(0);
    assert_eq!(nat.to, leased(None, Identity::Name("mail".to_owned())));
}

#[test]
fn a_name_that_can_never_have_a_lease() {
    assert_eq!(
        refusal_of(&forward_to("web1")),
        "n.toml:11:6: forward.web.to: `web1` is not an address; \
         write one such as \"172.22.161.170\", or add a [[guest]] of that name"
    );
    assert_eq!(
        refusal_of(&forward_to(MAC)),
        "n.toml:11:6: forward.web.to: there is no guest with 52:54:00:12:34:56; add a [[guest]] \
         with this mac, or add [network.NAME.dhcp] to a network"
    );
    let line = refusal_of(&format!("{RANGE}{}", forward_to("not a name")));
    assert!(
        line.contains("forward.web.to: `not a name` is not an address"),
        "{line}"
    );
}

#[test]
fn guest_with_an_invalid_host_name() {
    let odd = guest("my web", "172.22.161.170", MAC);
    assert_eq!(
        refusal_of(&format!("{RANGE}{odd}")),
        "n.toml:11:8: guest.\"my web\".name: `my web` is not a valid host name, which a network \
         with DHCP or DNS requires; write up to 63 letters, digits, hyphens and underscores, such \
         as \"web1\""
    );
    // Elsewhere any name will do.
    assert!(warnings(&format!("{BASE}{odd}")).is_empty());
}

#[test]
fn two_guests_of_one_lease() {
    let two = format!("{}{}", dynamic("a"), dynamic("b"));
    let line = refusal_of(&format!("{RANGE}{two}"));
    assert!(
        line.ends_with(
            "guest.b.mac: guest `a` already has 52:54:00:12:34:56 (line 10); give each guest its \
                        own"
        ),
        "{line}"
    );
    let nats = nat("a", "19.19.8.11", "web1") + &nat("b", "19.19.8.12", "web1");
    let line = refusal_of(&format!("{RANGE}{nats}"));
    assert!(
        line.contains("nat.b.to: web1 already has an address of this uplink, from `a`"),
        "{line}"
    );
}
