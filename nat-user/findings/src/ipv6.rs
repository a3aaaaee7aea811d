//! IPv6: networks with rules that only IPv4 obeys, interfaces without IPv6 that need it, and
//! bridges that keep solicitations from the programs.

use std::fs;

use nat_config::model::{Action, Config, Network, NetworkId, PolicyEnd};
use nat_sys::sysctl::Key;

use crate::{Finding, Kind, listed};

/// The addresses of all interfaces of this network namespace, a line each (`if6_seq_show` in
/// `net/ipv6/addrconf.c`): address, index, length of the prefix, scope, flags, interface.
const ADDRESSES: &str = "/proc/thread-self/net/if_inet6";
/// The scope of link-local addresses there (`IFA_LINK`).
const LINK_SCOPE: &str = "20";

/// Reports networks with rules that only IPv4 obeys: natbpf leaves IPv6 to the kernel.
pub(super) fn find_unfiltered_ipv6(config: &Config) -> Vec<Finding> {
    if config.ipv6.is_some() {
        return Vec::new(); // (Its rules are about both families.)
    }
    let used = fs::read_to_string(ADDRESSES).unwrap_or_default();
    let networks = (0..config.networks.len()).map(NetworkId);
    networks
        .filter(|id| is_on(&config.networks[id.0].interface))
        .filter_map(|id| finding(config, id, &used))
        .collect()
}

/// Reports interfaces of the configuration on which IPv6 is turned off although their network has
/// IPv6 addresses.
pub(super) fn find_disabled(config: &Config) -> Vec<Finding> {
    disabled(config, &is_off)
}

fn disabled(config: &Config, is_off: &dyn Fn(&str) -> bool) -> Vec<Finding> {
    let has_ipv6 = |network: &&Network| !network.written6().is_empty() || network.follow;
    let networks = config.networks.iter().filter(has_ipv6);
    let off = networks.filter(|network| is_off(&network.interface));
    let finding = |network: &Network| {
        let interface = &network.interface;
        Finding {
            kind: Kind::DisabledIpv6,
            place: interface.clone(),
            what: format!("IPv6 is turned off, and network {} has IPv6", network.name),
            why: "the kernel takes no IPv6 address there, so its guests have no gateway".to_owned(),
            remedy: "turn it on".to_owned(),
            commands: vec![format!("sysctl net/ipv6/conf/{interface}/disable_ipv6=0")],
        }
    };
    off.map(finding).collect()
}

/// Reports uplinks that are bridges and show solicitations for guests' addresses only to ports that
/// have joined their groups: natbpf has joined only those of guests that it knows.
pub(super) fn find_snooping(config: &Config) -> Vec<Finding> {
    snooping(config, &|bridge| {
        let file = format!("/sys/class/net/{bridge}/bridge/multicast_snooping");
        fs::read_to_string(file).is_ok_and(|text| text.trim() == "1")
    })
}

fn snooping(config: &Config, snoops: &dyn Fn(&str) -> bool) -> Vec<Finding> {
    let answering = config.networks.iter().filter_map(|network| network.ndp);
    let mut answering: Vec<_> = answering.collect();
    answering.sort_unstable();
    answering.dedup();
    let uplinks = answering
        .into_iter()
        .filter_map(|id| config.uplinks.get(id.0));
    let found = uplinks.filter(|uplink| snoops(&uplink.interface));
    let finding = |interface: &str| Finding {
        kind: Kind::MulticastSnooping,
        place: interface.to_owned(),
        what: "the bridge shows multicast only to ports that asked for it".to_owned(),
        why: "routers find only guests whose addresses are in the configuration, and only while a \
              querier on the link keeps the bridge's memory fresh"
            .to_owned(),
        remedy: "turn it off if guests with other addresses are not reached".to_owned(),
        commands: vec![format!(
            "ip link set dev {interface} type bridge mcast_snooping 0"
        )],
    };
    found.map(|uplink| finding(&uplink.interface)).collect()
}

/// Whether IPv6 is turned off on an interface that exists.
fn is_off(interface: &str) -> bool {
    let key = Key::new(&["net", "ipv6", "conf", interface, "disable_ipv6"]);
    let value = key.and_then(|key| key.read());
    matches!(value, Ok(Some(value)) if value == "1")
}

/// Whether the interface takes part in IPv6. One that does not exist, or a kernel without IPv6, has
/// no such setting.
fn is_on(interface: &str) -> bool {
    let key = Key::new(&["net", "ipv6", "conf", interface, "disable_ipv6"]);
    let value = key.and_then(|key| key.read());
    matches!(value, Ok(Some(value)) if value == "0")
}

fn finding(config: &Config, id: NetworkId, used: &str) -> Option<Finding> {
    let rules = restrictions(config, id);
    if rules.is_empty() {
        return None;
    }
    let network = &config.networks[id.0];
    let interface = &network.interface;
    let (remedy, commands) = match is_used(used, interface) {
        true => (
            "this interface has IPv6 addresses: give the network its IPv6 prefix (docs/ipv6.md), \
             or filter IPv6 there with ip6tables or nftables"
                .to_owned(),
            Vec::new(),
        ),
        false => (
            "give the network its IPv6 prefix (docs/ipv6.md), filter IPv6 there with ip6tables or \
             nftables, or turn it off if no guest needs it"
                .to_owned(),
            vec![format!("sysctl net/ipv6/conf/{interface}/disable_ipv6=1")],
        ),
    };
    Some(Finding {
        kind: Kind::UnfilteredIpv6,
        place: interface.clone(),
        what: format!(
            "IPv6 is enabled, and natbpf filters only IPv4 in network {}",
            network.name
        ),
        why: format!("IPv6 packets pass whatever {} says", listed(&rules)),
        remedy,
        commands,
    })
}

/// What the configuration forbids to guests of a network, or to others towards them.
fn restrictions(config: &Config, id: NetworkId) -> Vec<String> {
    let network = &config.networks[id.0];
    let is_closed = network.policy == Action::Drop;
    let own = [
        (is_closed, "policy = \"drop\""),
        (network.anti_spoof, "anti_spoof"),
        // A closed network has a list for the host even where the file has none.
        (network.host.is_some() && !is_closed, "host"),
    ];
    let own = own.into_iter().filter(|(is_set, _)| *is_set);
    let is_about = |end: &PolicyEnd| [PolicyEnd::Any, PolicyEnd::Network(id)].contains(end);
    let policies = config.policies.iter().filter(|policy| {
        policy.action == Action::Drop && policy.from.iter().chain(&policy.to).any(is_about)
    });
    own.map(|(_, name)| name.to_owned())
        .chain(policies.map(|policy| format!("[[policy]] {:?}", policy.name)))
        .collect()
}

/// Whether the interface has more IPv6 addresses than the link-local one that the kernel gives it.
fn is_used(addresses: &str, interface: &str) -> bool {
    addresses.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        matches!(words[..], [_, _, _, scope, _, name] if name == interface && scope != LINK_SCOPE)
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const USED: &str = "\
fe80000000000000505400fffe000001 03 40 20 80      br0
20010db8000000000000000000000001 04 40 00 80      br1
";

    fn found(network: &str, rest: &str) -> Option<Finding> {
        found_on("br0", network, rest)
    }

    fn found_on(interface: &str, network: &str, rest: &str) -> Option<Finding> {
        let text = format!(
            "[uplink.wan]\ninterface = \"eth0\"\n[network.lan]\ninterface = {interface:?}\n\
             address = \"10.0.0.254/24\"\n{network}\n{rest}"
        );
        let config = nat_config::parse(&text, Path::new("n.toml"));
        let config = config.unwrap_or_else(|error| panic!("{error}")).config;
        finding(&config, NetworkId(0), USED)
    }

    #[test]
    fn a_network_without_restrictions_has_no_finding() {
        assert_eq!(found("", ""), None);
    }

    #[test]
    fn a_restricted_network_is_named_with_the_rules_that_ipv6_passes() {
        let policy =
            "[[policy]]\nname = \"no-web\"\nfrom = \"lan\"\nto = \"wan\"\naction = \"drop\"\n";
        for (network, rest, names) in [
            ("policy = \"drop\"", "", "policy = \"drop\""),
            ("anti_spoof = true", "", "anti_spoof"),
            ("host = [\"dns\"]", "", "host"),
            ("", policy, "[[policy]] \"no-web\""),
            (
                "policy = \"drop\"\nanti_spoof = true",
                "",
                "policy = \"drop\", anti_spoof",
            ),
        ] {
            let finding = found(network, rest).expect(names);
            assert_eq!(finding.kind, Kind::UnfilteredIpv6);
            assert_eq!(finding.place, "br0");
            assert_eq!(
                finding.why,
                format!("IPv6 packets pass whatever {names} says")
            );
            assert_eq!(
                finding.commands,
                ["sysctl net/ipv6/conf/br0/disable_ipv6=1"]
            );
        }
    }

    #[test]
    fn the_first_remedy_is_the_prefix_in_the_configuration() {
        let remedy = |interface: &str| {
            let finding = found_on(interface, "anti_spoof = true", "").expect(interface);
            (finding.remedy, finding.commands.len())
        };
        let unused = "give the network its IPv6 prefix (docs/ipv6.md), filter IPv6 there with \
                      ip6tables or nftables, or turn it off if no guest needs it";
        assert_eq!(remedy("br0"), (unused.to_owned(), 1));
        // Whoever uses IPv6 there would lose it.
        let used = "this interface has IPv6 addresses: give the network its IPv6 prefix \
                    (docs/ipv6.md), or filter IPv6 there with ip6tables or nftables";
        assert_eq!(remedy("br1"), (used.to_owned(), 0));
    }

    #[test]
    fn an_address_beside_the_link_local_one_counts_as_use() {
        assert!(!is_used(USED, "br0"));
        assert!(is_used(USED, "br1"));
        assert!(!is_used(USED, "br"));
        assert!(!is_used("", "br0"));
        assert!(!is_used("cut off br0", "br0"));
    }

    fn six(text: &str) -> Config {
        let head = "[uplink.wan]\ninterface = \"vmbr0\"\n[network.lan]\ninterface = \"br0\"\n";
        let loaded = nat_config::parse(&format!("{head}{text}"), Path::new("n.toml"));
        loaded.unwrap_or_else(|error| panic!("{error}")).config
    }

    #[test]
    fn policies_of_a_file_with_ipv6_are_about_it() {
        let config = six("address = [\"10.0.0.254/24\", \"fd12::1/64\"]\npolicy = \"drop\"\n");
        assert_eq!(find_unfiltered_ipv6(&config), []);
    }

    #[test]
    fn ipv6_that_is_off_where_a_network_needs_it() {
        let found = |text: &str| disabled(&six(text), &|interface| interface == "br0");
        let [finding] = &found("address = [\"10.0.0.254/24\", \"fd12::1/64\"]\n")[..] else {
            panic!("one");
        };
        assert_eq!(
            finding.to_string(),
            "br0: IPv6 is turned off, and network lan has IPv6; the kernel takes no IPv6 address \
             there, so its guests have no gateway; turn it on: sysctl \
             net/ipv6/conf/br0/disable_ipv6=0"
        );
        assert_eq!(found("follow = true\n").len(), 1);
        assert_eq!(found("address = \"10.0.0.254/24\"\n"), []);
    }

    #[test]
    fn a_bridge_that_keeps_solicitations_back() {
        let found = |ndp: &str| {
            let config = six(&format!("address = \"2001:db8::1:1/64\"\n{ndp}"));
            snooping(&config, &|bridge| bridge == "vmbr0")
        };
        assert_eq!(found(""), []);
        assert_eq!(
            found("ndp = \"wan\"\n")[0].to_string(),
            "vmbr0: the bridge shows multicast only to ports that asked for it; routers find only \
             guests whose addresses are in the configuration, and only while a querier on the link \
             keeps the bridge's memory fresh; turn it off if guests with other addresses are not \
             reached: ip link set dev vmbr0 type bridge mcast_snooping 0"
        );
    }
}
