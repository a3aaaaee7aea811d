//! IPv6 in networks with rules that only IPv4 obeys.

use std::fs;

use nat_config::model::{Action, Config, NetworkId, PolicyEnd};
use nat_sys::sysctl::Key;

use crate::{Finding, Kind, listed};

/// The addresses of all interfaces of this network namespace, a line each (`if6_seq_show` in
/// `net/ipv6/addrconf.c`): address, index, length of the prefix, scope, flags, interface.
const ADDRESSES: &str = "/proc/thread-self/net/if_inet6";
/// The scope of link-local addresses there (`IFA_LINK`).
const LINK_SCOPE: &str = "20";

/// Reports networks with rules that only IPv4 obeys: natbpf leaves IPv6 to the kernel.
pub(super) fn find_unfiltered_ipv6(config: &Config) -> Vec<Finding> {
    let used = fs::read_to_string(ADDRESSES).unwrap_or_default();
    let networks = (0..config.networks.len()).map(NetworkId);
    networks
        .filter(|id| is_on(&config.networks[id.0].interface))
        .filter_map(|id| finding(config, id, &used))
        .collect()
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
            "this interface has IPv6 addresses: filter IPv6 there with ip6tables or nftables"
                .to_owned(),
            Vec::new(),
        ),
        false => (
            "turn IPv6 off there if no guest needs it, or filter it with ip6tables or nftables"
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
        let text = format!(
            "[uplink.wan]\ninterface = \"eth0\"\n[network.lan]\ninterface = \"br0\"\n\
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
    fn an_address_beside_the_link_local_one_counts_as_use() {
        assert!(!is_used(USED, "br0"));
        assert!(is_used(USED, "br1"));
        assert!(!is_used(USED, "br"));
        assert!(!is_used("", "br0"));
        assert!(!is_used("cut off br0", "br0"));
    }
}
