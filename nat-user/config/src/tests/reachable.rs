//! Shadowed forwards, compared with every packet of a small world.

use std::path::Path;

use proptest::{collection::vec, prelude::*};

use super::super::{
    model::{Config, ForwardProtocol, ForwardRule},
    parse,
};

/// The protocols of packets: the three that rules name, and one that only `all` takes.
const PROTOCOLS: [Option<ForwardProtocol>; 4] = [
    Some(ForwardProtocol::Tcp),
    Some(ForwardProtocol::Udp),
    Some(ForwardProtocol::Icmp),
    None,
];

/// Ports of packets: those of the rules, with the kept one among them, and some beyond.
const PORTS: [u16; 10] = [1, 19, 20, 21, 22, 23, 24, 25, 26, 65535];

/// The uplink's addresses.
const ADDRESSES: [&str; 2] = ["19.19.8.10", "19.19.8.11"];

fn protocol() -> impl Strategy<Value = &'static str> {
    let choices = [
        "\"tcp\"",
        "\"udp\"",
        "\"icmp\"",
        "\"all\"",
        "[\"tcp\", \"udp\"]",
        "[\"udp\", \"icmp\"]",
    ];
    prop::sample::select(choices.to_vec())
}

fn rule() -> impl Strategy<Value = String> {
    let port = (20_u16..25, 0_u16..3).prop_map(|(first, more)| match more {
        0 => format!("{first}"),
        _ => format!("\"{first}-{}\"", first + more),
    });
    let ports = prop::option::weighted(0.8, port);
    let address = prop::option::of(prop::sample::select(ADDRESSES.to_vec()));
    (protocol(), ports, address).prop_map(|(protocol, ports, address)| {
        let has_ports = protocol.contains("tcp") || protocol.contains("udp");
        let ports = ports
            .filter(|_| has_ports)
            .map(|ports| format!("ports = {ports}\n"));
        let address = address.map(|address| format!("address = \"{address}\"\n"));
        let (ports, address) = (ports.unwrap_or_default(), address.unwrap_or_default());
        format!(
            "[[forward]]\nuplink = \"wan\"\nto = \"10.0.0.2\"\nprotocol = {protocol}\n\
            {ports}{address}"
        )
    })
}

/// Whether a rule takes a packet. `own` says whether the address is the host's, because only there
/// ports are kept; the check of the file does not know it.
fn takes(
    rule: &ForwardRule,
    address: &str,
    protocol: Option<ForwardProtocol>,
    port: u16,
    own: bool,
) -> bool {
    let of_address = rule.address.is_none_or(|one| one.to_string() == address);
    let kept = own && protocol == Some(ForwardProtocol::Tcp) && port == 22;
    let protocols = &rule.matches.protocols;
    if !of_address {
        return false;
    }
    if protocols.contains(&ForwardProtocol::All) {
        return !kept;
    }
    let Some(protocol) = protocol.filter(|one| protocols.contains(one)) else {
        return false;
    };
    if protocol == ForwardProtocol::Icmp {
        return true;
    }
    let ports = &rule.matches.ports;
    let mut ranges = ports.iter().map(|ports| ports.external);
    (ports.is_empty() && !kept)
        || ranges.any(|range| {
            (range.first..=range.last).contains(&port) && (!kept || range.count() == 1)
        })
}

/// The rules that some packet reaches.
fn reached(config: &Config) -> Vec<bool> {
    let mut reached = vec![false; config.forwards.len()];
    for own in [false, true] {
        for address in ADDRESSES {
            for (protocol, port) in PROTOCOLS
                .iter()
                .flat_map(|one| PORTS.map(|port| (*one, port)))
            {
                let mut rules = config.forwards.iter();
                let first = rules.position(|rule| takes(rule, address, protocol, port, own));
                first.into_iter().for_each(|first| reached[first] = true);
            }
        }
    }
    reached
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn exactly_the_forwards_that_no_packet_reaches_are_named(rules in vec(rule(), 1..7)) {
        let addresses = format!("addresses = {ADDRESSES:?}");
        let uplink = format!("[uplink.wan]\ninterface = \"a\"\n{addresses}\n");
        let text = uplink + &rules.concat();
        match parse(&text, Path::new("n.toml")) {
            Ok(loaded) => {
                let reached = reached(&loaded.config);
                let unreached: Vec<_> = reached.into_iter().map(|reached| !reached).collect();
                let is_named = |index| {
                    let key = format!("forward.forward-{}", index + 1);
                    loaded.warnings.iter().any(|one| one.key == key)
                };
                let named: Vec<_> = (0..unreached.len()).map(is_named).collect();
                prop_assert_eq!(named, unreached, "{}", text);
            }
            Err(error) => {
                // A rule that is written twice is refused; bad_input.rs has those.
                let line = error.to_string();
                prop_assert!(line.contains("already forwards"), "{}", line);
            }
        }
    }
}
