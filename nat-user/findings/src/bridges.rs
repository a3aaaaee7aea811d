//! Bridges of containers and guests that the configuration does not name.

use ipnet::Ipv4Net;
use nat_config::model::Config;
use nat_sys::netlink::{Address, Kind as LinkKind, Link};

use crate::{Finding, Kind, listed};

/// Reports that guests of other bridges do not reach forwards by the external addresses: their
/// packets go to the host itself, at an interface without natbpf's programs.
pub(super) fn find_bridges(config: &Config, links: &[Link], addresses: &[Address]) -> Vec<Finding> {
    if !config.forwards.iter().any(|forward| forward.hairpin) {
        return Vec::new();
    }
    let is_named = |link: &Link| {
        let of_network = config
            .networks
            .iter()
            .any(|network| network.interface == link.name);
        of_network
            || config
                .uplinks
                .iter()
                .any(|uplink| uplink.interface == link.name)
    };
    let mut others: Vec<(&Link, Ipv4Net)> = links
        .iter()
        .filter(|link| link.kind == LinkKind::Bridge && !is_named(link))
        .filter_map(|link| {
            let mut own = addresses.iter().filter(|held| held.ifindex == link.index);
            Some((link, own.find(|held| held.net.prefix_len() < 31)?.net))
        })
        .collect();
    others.sort_by(|(one, _), (other, _)| one.name.cmp(&other.name));
    let Some((first, net)) = others.first() else {
        return Vec::new();
    };
    let names: Vec<String> = others.iter().map(|(link, _)| link.name.clone()).collect();
    let example = format!(
        "[network.{}] with interface = \"{}\" and address = \"{net}\"",
        table_name(&first.name),
        first.name
    );
    vec![Finding {
        kind: Kind::UnnamedBridge,
        place: listed(&names),
        what: "is not a network of this configuration".to_owned(),
        why: "guests and containers there do not reach forwards by the external addresses"
            .to_owned(),
        remedy: format!("if they should reach them, add {example}"),
        commands: Vec::new(),
    }]
}

/// A name that is valid in the header of a table.
fn table_name(interface: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    match interface.chars().all(is_bare) {
        true => interface.to_owned(),
        false => format!("{interface:?}"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use nat_sys::{netlink::AddressScope, testing};

    use super::*;

    #[test]
    fn a_bridge_of_containers_is_named_where_forwards_would_be_asked_for() {
        let base = "[uplink.wan]\ninterface = \"eth0\"\n[network.lan]\ninterface = \"br0\"\n\
                    address = \"10.0.0.254/24\"\n";
        let forward =
            "[[forward]]\nuplink = \"wan\"\nprotocol = \"tcp\"\nports = 80\nto = \"10.0.0.1\"\n";
        let bridge = |index, name| Link {
            kind: LinkKind::Bridge,
            ..testing::link(index, name)
        };
        let links = [
            testing::link(1, "eth0"),
            bridge(2, "br0"),
            bridge(3, "docker0"),
            bridge(4, "empty"),
        ];
        let addresses: Vec<Address> = [(2, "10.0.0.254/24"), (3, "172.17.0.1/16")]
            .into_iter()
            .map(|(ifindex, net)| Address {
                ifindex,
                net: net.parse().unwrap(),
                peer: None,
                scope: AddressScope::Universe,
                secondary: false,
                is_stable: true,
            })
            .collect();
        let found = |text: &str| {
            let loaded = nat_config::parse(text, Path::new("n.toml"));
            let config = loaded.unwrap_or_else(|error| panic!("{error}")).config;
            let findings = find_bridges(&config, &links, &addresses);
            findings.iter().map(Finding::to_string).collect::<Vec<_>>()
        };
        let lines = found(&format!("{base}{forward}"));
        assert_eq!(lines.len(), 1, "{lines:?}");
        let expected =
            "add [network.docker0] with interface = \"docker0\" and address = \"172.17.0.1/16\"";
        assert!(
            lines[0].starts_with("docker0: ") && lines[0].contains(expected),
            "{lines:?}"
        );
        assert!(found(base).is_empty());
        assert!(found(&format!("{base}{forward}hairpin = false\n")).is_empty());
    }
}
