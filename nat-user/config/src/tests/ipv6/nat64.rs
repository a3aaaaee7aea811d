//! `[nat64]`, and rules that need it.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{super::load, config, refused};
use crate::model::{Family as _, GuestAddress, Nat64, NetworkId, PolicyEnd, UplinkId};

const NAT64: &str = "[nat64]\n";

fn forward(to: &str, more: &str) -> String {
    format!("[[forward]]\nuplink = \"wan\"\nprotocol = \"tcp\"\nto = \"{to}\"\n{more}\n")
}

fn nat64(lines: &str) -> Nat64 {
    let ipv6 = config(lines).ipv6.expect("IPv6");
    ipv6.nat64.expect("a table")
}

#[test]
fn a_forward_to_a_guest_of_ipv6_alone_leads_to_its_address_in_the_pool() {
    let guest = "2001:db8:0:1::77";
    let lines = format!("{NAT64}{}", forward(guest, "ports = 80"));
    let config = config(&lines);
    let holders = nat64(&lines).holders;
    let [(address, holder)] = holders.into_iter().collect::<Vec<_>>()[..] else {
        panic!("one guest");
    };
    assert_eq!(holder.to_string(), guest);
    assert!(Nat64::POOL.contains(&address) && address != Nat64::host_address(Nat64::POOL));
    assert_eq!(config.forwards[0].to, GuestAddress::Fixed(address));
    // It is a rule of both families.
    assert_eq!(config.ipv6.expect("IPv6").forwards.len(), 1);
}

#[test]
fn a_guest_keeps_its_address_whatever_other_rules_come() {
    let guest = "2001:db8:0:1::77";
    let one = forward(guest, "ports = 80\naddress = \"19.19.8.10\"");
    let alone = nat64(&format!("{NAT64}{one}")).holders;
    let other = forward("2001:db8:0:1::78", "ports = 81");
    let again = forward(guest, "ports = 82");
    let together = nat64(&format!("{NAT64}{other}{one}{again}")).holders;
    assert_eq!(together.len(), 2);
    assert!(
        alone
            .iter()
            .all(|one| together.iter().any(|own| own == one))
    );
}

#[test]
fn a_guest_with_both_families_needs_no_translation() {
    let guest = "[[guest]]\nname = \"both\"\nnetwork = \"lan\"\nmac = \"52:54:00:00:00:77\"\n\
                 address = [\"172.22.161.77\", \"::77\"]\n";
    let lines = format!("{NAT64}{guest}{}", forward("both", "ports = 80"));
    assert!(nat64(&lines).holders.is_empty());
    let own = GuestAddress::Fixed(Ipv4Addr::new(172, 22, 161, 77));
    assert_eq!(config(&lines).forwards[0].to, own);
}

#[test]
fn a_pool_for_too_few_guests_is_refused() {
    let rules: String = (1..=6)
        .map(|guest| {
            forward(
                &format!("2001:db8:0:1::7{guest}"),
                &format!("ports = {guest}"),
            )
        })
        .collect();
    let message = refused(&format!("[nat64]\npool = \"100.64.0.0/29\"\n{rules}"));
    assert!(
        message.ends_with(
            "forward.forward-6.to: NAT64's pool has no address left for this guest; write a \
             larger pool in [nat64]"
        ),
        "{message}"
    );
}

#[test]
fn dns64_needs_nat64_and_somebody_to_ask() {
    let dns = |lines: &str| format!("[network.lan.dns]\ndns64 = true\n{lines}\n");
    let network = config(&format!("{NAT64}{}", dns(""))).networks.remove(0);
    assert!(network.dns.expect("a table").dns64);
    assert_eq!(
        refused(&dns("")),
        "n.toml:8:1: network.lan.dns: dns64 needs NAT64, which is not configured; add a table \
         [nat64], or leave dns64 out"
    );
    let message = refused(&format!("{NAT64}{}", dns("forwarders = []")));
    assert!(
        message.ends_with(
            "network.lan.dns.forwarders: is empty, but dns64 asks forwarders; name one, or leave \
             forwarders out"
        ),
        "{message}"
    );
}

/// NAT64 would not see the guest's answers.
#[test]
fn the_host_reaches_a_guest_of_ipv6_alone_by_ipv6() {
    let rule = |lines: &str| {
        let lines = format!("ports = 80\n{lines}");
        format!("{NAT64}{}", forward("2001:db8:0:1::77", &lines))
    };
    for lines in ["", "local = true"] {
        let config = config(&rule(lines));
        let ipv6 = config.ipv6.expect("IPv6");
        let local = (config.forwards[0].local, ipv6.forwards[0].local);
        assert_eq!(local, (false, true), "{lines}");
    }
    let message = refused(&rule("address = \"19.19.8.10\"\nlocal = true"));
    assert!(
        message.contains("local: the host does not reach a guest with IPv6 alone"),
        "{message}"
    );
}

/// Two uplinks, and two networks with IPv6.
const WIDE: &str = "[uplink.wan]\ninterface = \"vmbr0\"\naddresses = [\"19.19.8.10\"]\n\
                    [uplink.other]\ninterface = \"vmbr2\"\naddresses = [\"19.19.9.10\"]\n\
                    [network.six]\ninterface = \"vmbr1\"\naddress = \"2001:db8:0:1::1/64\"\n\
                    [network.both]\ninterface = \"vmbr3\"\n\
                    address = [\"10.2.0.1/24\", \"2001:db8:0:2::1/64\"]\n";

fn wide(keys: &str) -> String {
    format!("{WIDE}[nat64]\n{keys}\n")
}

#[test]
fn it_is_for_the_networks_and_the_uplink_that_it_names() {
    let both = load(&wide("networks = [\"six\"]\nuplink = \"other\"")).config;
    let device = both.nat64().expect("a table").network;
    let of_ipv4 = [PolicyEnd::Network(device), PolicyEnd::Uplink(UplinkId(0))];
    assert_eq!(Ipv4Addr::closed_by_nat64(&both), [of_ipv4]);
    let of_ipv6 = [PolicyEnd::Network(NetworkId(1)), PolicyEnd::Network(device)];
    assert_eq!(Ipv6Addr::closed_by_nat64(&both), [of_ipv6]);
    assert!(both.has_policies());
    let all = load(&wide("")).config;
    assert!(Ipv4Addr::closed_by_nat64(&all).is_empty());
    assert!(Ipv6Addr::closed_by_nat64(&all).is_empty());
}

#[test]
fn names_that_it_cannot_use_are_refused() {
    let refused = |keys: &str, problem: &str| {
        let message = super::super::refusal(&wide(keys));
        assert!(message.ends_with(problem), "{message}");
    };
    refused(
        "networks = [\"seven\"]",
        "nat64.networks: there is no network `seven`; the networks are `six`, `both`, `nat64`",
    );
    refused(
        "networks = [\"nat64\"]",
        "nat64.networks: is NAT64's own network; write the networks of guests",
    );
    refused(
        "networks = [\"six\", \"six\"]",
        "nat64.networks: `six` is in the list twice; write it once",
    );
    refused(
        "networks = []",
        "nat64.networks: is an empty list; write networks = [\"lan\"], or leave it out",
    );
    refused(
        "uplink = \"wam\"",
        "nat64.uplink: there is no uplink `wam`; did you mean `wan`? there are `wan`, `other`",
    );
    refused(
        "networks = [\"six\"]\n[network.both.dns]\ndns64 = true",
        "network.both.dns: dns64 needs NAT64, which is not for this network; add the network to \
         networks in [nat64], or leave dns64 out",
    );
}
