//! For any rules of FORWARD: policies that express all of them decide as they do.

use std::{cell::Cell, net::Ipv4Addr};

use ipnet::Ipv4Net;
use nat_config::model::{self, Config, ForwardProtocol, PolicyEnd};
use proptest::{collection::vec, prelude::*, sample::select, test_runner::TestRunner};

use super::*;
use crate::{
    condition::Condition,
    dump::Dump,
    family::Family,
    ranges::Addresses,
    rule::{ICMP, TCP, UDP},
};

/// Interfaces, and addresses that are behind them.
const PLACES: [(&str, [u8; 4]); 6] = [
    ("eth0", [198, 51, 100, 7]),
    ("eth0", [203, 0, 113, 5]),
    ("br0", [10, 0, 0, 2]),
    ("br0", [10, 0, 0, 9]),
    ("br1", [10, 0, 1, 2]),
    ("br1", [10, 0, 1, 200]),
];

const SERVICES: [(u128, u16); 5] = [(TCP, 22), (TCP, 80), (UDP, 53), (UDP, 70), (ICMP, 0)];

/// What opens a flow.
struct Opening {
    from: (&'static str, Ipv4Addr),
    to: (&'static str, Ipv4Addr),
    protocol: u128,
    port: u16,
}

impl Opening {
    fn all() -> Vec<Self> {
        let places = PLACES.map(|(interface, address)| (interface, Ipv4Addr::from(address)));
        let mut all = Vec::new();
        for from in places {
            for to in places.into_iter().filter(|to| *to != from) {
                // Packets from outside to outside do not matter.
                if (from.0, to.0) == ("eth0", "eth0") {
                    continue;
                }
                all.extend(SERVICES.map(|(protocol, port)| Self {
                    from,
                    to,
                    protocol,
                    port,
                }));
            }
        }
        all
    }

    fn matches(&self, condition: &Condition) -> bool {
        condition.foreign.is_empty()
            && condition
                .sources
                .covers(&Addresses::address(self.from.1.into()))
            && condition
                .destinations
                .covers(&Addresses::address(self.to.1.into()))
            && condition.protocols.contains(self.protocol)
            && (self.protocol == ICMP && condition.ports.is_full()
                || condition.ports.contains(self.port.into()))
            && condition.input.matches(self.from.0)
            && condition.output.matches(self.to.0)
    }
}

/// The outcome in netfilter: whether the packet is accepted, or nothing if it returns from a chain.
fn walk(dump: &Dump, chain: &str, packet: &Opening) -> Option<bool> {
    for rule in &dump.tables["filter"].chains[chain] {
        let rule = &dump.rules[*rule];
        if !packet.matches(&rule.condition) {
            continue;
        }
        match &rule.action {
            Action::Accept => return Some(true),
            Action::Drop { .. } => return Some(false),
            Action::Return => return None,
            Action::Run { chain, is_goto } => {
                let fate = walk(dump, chain, packet);
                if fate.is_some() || *is_goto {
                    return fate;
                }
            }
            _ => {}
        }
    }
    None
}

fn is_end(config: &Config, end: &PolicyEnd, (interface, address): (&str, Ipv4Addr)) -> bool {
    let here = |prefix: &Ipv4Net| {
        // A prefix of a network's is behind its interface.
        let mut networks = config.networks.iter();
        let network =
            networks.find(|network| network.address.is_some_and(|own| own.contains(prefix)));
        prefix.contains(&address) && network.is_none_or(|network| network.interface == interface)
    };
    match end {
        PolicyEnd::Any => true,
        PolicyEnd::Host => false,
        PolicyEnd::Uplink(id) => config.uplinks[id.0].interface == interface,
        PolicyEnd::Network(id) => config.networks[id.0].interface == interface,
        PolicyEnd::Prefix(prefix) => here(prefix),
        PolicyEnd::Guest(guest) => guest.now().is_some_and(|guest| here(&guest.into())),
    }
}

/// The outcome in natbpf, according to its reference.
fn judge(config: &Config, packet: &Opening, is_forwarded: bool) -> bool {
    let decides = config.policies.iter().find(|policy| {
        let protocol = |one: &ForwardProtocol| match one {
            ForwardProtocol::All => true,
            ForwardProtocol::Tcp => packet.protocol == TCP,
            ForwardProtocol::Udp => packet.protocol == UDP,
            ForwardProtocol::Icmp => packet.protocol == ICMP,
        };
        let mut ports = policy.ports.iter();
        policy
            .from
            .iter()
            .any(|end| is_end(config, end, packet.from))
            && policy.to.iter().any(|end| is_end(config, end, packet.to))
            && policy.protocols.iter().any(protocol)
            && (policy.ports.is_empty()
                || ports.any(|range| (range.first..=range.last).contains(&packet.port)))
    });
    match decides {
        Some(policy) => policy.action == model::Action::Accept,
        None if is_forwarded => true,
        None => !config.networks.iter().any(|network| {
            let interface = network.interface.as_str();
            let concerns = [packet.from.0, packet.to.0].contains(&interface);
            concerns && network.policy == model::Action::Drop
        }),
    }
}

/// The words of a rule, behind `-A CHAIN`.
fn rule() -> impl Strategy<Value = String> {
    let interface = |option: &'static str| {
        let names = [
            "", "", "br0", "br1", "eth0", "br+", "! br0", "! eth0", "! br+",
        ];
        select(names.to_vec()).prop_map(move |name| match name.strip_prefix("! ") {
            _ if name.is_empty() => String::new(),
            Some(name) => format!("! {option} {name} "),
            None => format!("{option} {name} "),
        })
    };
    let prefix = |option: &'static str| {
        let prefixes = [
            "",
            "",
            "",
            "10.0.0.0/24",
            "10.0.0.2",
            "10.0.0.0/23",
            "10.0.1.0/25",
            "198.51.100.0/24",
            "! 10.0.0.2",
            "! 10.0.1.0/24",
            "! 198.51.100.0/24",
        ];
        select(prefixes.to_vec()).prop_map(move |prefix| match prefix.strip_prefix("! ") {
            _ if prefix.is_empty() => String::new(),
            Some(prefix) => format!("! {option} {prefix} "),
            None => format!("{option} {prefix} "),
        })
    };
    let services = [
        "",
        "",
        "",
        "-p tcp ",
        "-p tcp --dport 80 ",
        "-p udp --dport 53:69 ",
        "-p icmp ",
        "-p tcp ! --dport 22 ",
        "-p tcp -m multiport --dports 22,80 ",
    ];
    let states = [
        "",
        "",
        "",
        "",
        "-m state --state NEW ",
        "-m state --state RELATED,ESTABLISHED ",
    ];
    let targets = ["ACCEPT", "ACCEPT", "DROP", "REJECT", "RETURN", "LOG"];
    let ends = (interface("-i"), interface("-o"), prefix("-s"), prefix("-d"));
    let rest = (
        select(services.to_vec()),
        select(states.to_vec()),
        select(targets.to_vec()),
    );
    (ends, rest).prop_map(
        |((input, output, source, destination), (service, state, target))| {
            format!("{input}{output}{source}{destination}{service}{state}-j {target}")
        },
    )
}

const NAT: &str = "*nat\n-A PREROUTING -d 192.0.2.10 -i eth0 -p tcp --dport 80 -j DNAT \
    --to-destination 10.0.0.2\n\
    -A POSTROUTING -s 10.0.0.0/24 -o eth0 -j MASQUERADE\n\
    -A POSTROUTING -s 10.0.1.0/24 -o eth0 -j MASQUERADE\nCOMMIT\n";

fn filter(drops: bool, forward: &[String], user: &[String], jump: (usize, &str)) -> String {
    let policy = if drops { "DROP" } else { "ACCEPT" };
    let mut text = format!("*filter\n:INPUT ACCEPT\n:FORWARD {policy}\n:user -\n");
    for (place, rule) in forward.iter().enumerate() {
        if place == jump.0 {
            text += &format!("-A FORWARD {}user\n", jump.1);
        }
        text += &format!("-A FORWARD {rule}\n");
    }
    for rule in user {
        text += &format!("-A user {rule}\n");
    }
    text + "COMMIT\n" + NAT
}

/// Whether all rules were converted and could be compared.
fn decide_alike(text: &str, drops: bool) -> Result<bool, TestCaseError> {
    let mut options = known();
    let second = ("br1".to_owned(), "10.0.1.1/24".parse().unwrap());
    options.addresses.push(second);
    options.policies = true;
    let import = iptables(text, "rules", &options).unwrap();
    prop_assert_eq!(&import.problem, &None, "{}", import.toml);
    // Unconverted rules are listed, and policies that apply at every interface have a warning.
    let is_wider = |text: &String| text.contains("at every interface; write a [[route]]");
    if !import.is_complete() || said(&import, Kind::Warning).iter().any(is_wider) {
        return Ok(false);
    }
    let loaded = nat_config::parse(&import.toml, Path::new("imported")).unwrap();
    let dump = script::read(Family::V4, text, "rules").unwrap();
    for packet in Opening::all() {
        let original = walk(&dump, "FORWARD", &packet).unwrap_or(!drops);
        let (to, service) = (packet.to.1, (packet.protocol, packet.port));
        // A packet to the guest of the published port may be a forwarded one.
        let is_published =
            packet.from.0 == "eth0" && (to, service) == (Ipv4Addr::new(10, 0, 0, 2), (TCP, 80));
        for is_forwarded in [false, is_published] {
            let ours = judge(&loaded.config, &packet, is_forwarded);
            let from = packet.from;
            prop_assert_eq!(
                original,
                ours,
                "{:?} to {:?}, {:?}, forwarded: {}\n{}\n{}",
                from,
                packet.to,
                service,
                is_forwarded,
                text,
                import.toml
            );
        }
    }
    Ok(true)
}

#[test]
fn policies_decide_as_the_rules_do() {
    const CASES: u32 = 1000;
    let mut runner = TestRunner::new(ProptestConfig {
        failure_persistence: None,
        cases: CASES,
        ..ProptestConfig::default()
    });
    let jumps = ["-j ", "-i br0 -j ", "! -o br1 -j ", "-i eth0 -g "];
    let rules = (
        any::<bool>(),
        vec(rule(), 1..6),
        vec(rule(), 0..4),
        (0..5usize, select(jumps.to_vec())),
    );
    let compared = Cell::new(0);
    let outcome = runner.run(&rules, |(drops, forward, user, jump)| {
        let text = filter(drops, &forward, &user, jump);
        compared.set(compared.get() + u32::from(decide_alike(&text, drops)?));
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    assert!(
        compared.get() > CASES / 4,
        "only {} compared",
        compared.get()
    );
}
